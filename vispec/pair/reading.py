"""Reads an answer back: which things with which attributes, places, counts and relations it names.

It reads the language of this package, whoever wrote the text, and knows nothing of the picture. Words that it does not
know are passed over.
"""

from __future__ import annotations

from vispec.pair.claims import NOUN_OF, NOUNS_OF, SIZE_OF, Claims, Count, Mention, marked_sentences, number_of
from vispec.pair.words import (
    COLOURS,
    GENERIC_EMOJI,
    GENERIC_SHAPES,
    LARGER,
    LARGEST,
    SMALLER,
    SMALLEST,
    plural,
)

GENERIC = frozenset(word for name in (*GENERIC_SHAPES, *GENERIC_EMOJI) for word in (name, plural(name)))
COUNTABLE = frozenset((*COLOURS, *SIZE_OF, *NOUN_OF, *NOUNS_OF, *GENERIC, "of"))
COMPARISONS = frozenset((*LARGER, SMALLER, *LARGEST, SMALLEST))
SAMENESS = (
    "the same size",
    "the same colo",
    " agree",
    "are alike",
    "do not differ",
    "matches",
    "equals",
    "no difference",
)
SUMMARIES = ("in all", "in total", "in sum", "altogether")
ALL_ALIKE = ("every one of them is", "every single one of them is", "all of them are", "is the only colo")
PALETTES = ("palette", "s used", "s seen here", "s that appear", "s in use")
MARKS = (",", ";", ":", ".", "?", "!", "")


class SceneReader:
    """Reads a text about a scene into `claims`, one token after the other."""

    def __init__(self, text: str) -> None:
        self.claims = Claims()
        self.current: Mention | None = None  # what `it` and attributes after a verb speak of
        self.previous: Mention | None = None  # the one before
        for clauses in marked_sentences(text):
            words = " ".join(token for clause in clauses for token in clause)
            colours = [token for clause in clauses for token in clause if token in COLOURS]
            if any(phrase in words for phrase in PALETTES):
                self.claims.palette += colours
            elif any(phrase in words for phrase in ALL_ALIKE):
                self.claims.shared += colours
            else:
                self._sentence(clauses, any(phrase in words for phrase in SUMMARIES))
                if any(phrase in words for phrase in SAMENESS) and len(self.named) == 2:
                    self.claims.alike.append(("size" if "size" in words.split() else "colour", self.named))

    def _sentence(self, clauses: list[list[str]], is_summary: bool) -> None:
        self.silent = is_summary  # things are counted here, but were introduced before
        self.header: Count | None = None  # `the red shapes are ...`: what the things that follow have in common
        self.queue: list[Mention] = []  # `two squares: ...`, those still without a place of their own
        self.targets: list[Mention | Count] = []  # what attributes without an article belong to
        self.place: tuple[int, int] | None = None  # `in the centre ...`, waiting for its thing
        self.line: tuple[int | None, int | None] = (None, None)  # the row or the column that the sentence is about
        self.relation: tuple[Mention | None, tuple[int, int]] | None = None  # waiting for what it is seen from
        self.unplaced: tuple[tuple[int, int], Mention] | None = None  # `above the star ...`, waiting for its thing
        self.superlative: str | None = None  # `the largest of them is ...`, waiting for its thing
        self.named: list[Mention] = []  # what the sentence is about
        self.listing_filled = False
        for tokens in clauses:
            self.has_subject = False  # the clause has named a thing, or said `it`
            self.is_empty = not {"empty", "free", "bare", "nothing"}.isdisjoint(tokens)
            self._start_phrase(None)
            for token, following in zip(tokens, [*tokens[1:], ""], strict=False):
                self._token(token, following)
            self._end_denial()
        if self.header is not None and self.header.number is not None:
            self.claims.counts.append(self.header)

    def _token(self, token: str, following: str) -> None:
        number = number_of(token)
        if token[0] == "@":
            self._mark(token)
        elif token in COLOURS:
            self._attribute("colour", token)
        elif token in SIZE_OF:
            self._attribute("size", SIZE_OF[token])
        elif token in NOUN_OF or token in NOUNS_OF:
            self._noun(NOUN_OF.get(token) or NOUNS_OF[token], token not in NOUN_OF)
        elif token in GENERIC:
            self._generic()
        elif token in ("a", "an", "the"):
            self._start_phrase(token)
        elif token in ("another", "other"):
            self._start_phrase("another")
            if following in ("in", "on", "at") or following[:1] == "@":
                self._one()
        elif token == "one" and (self.article is not None or following == "in" or following[:1] == "@"):
            self._one()
        elif number is not None:
            self._number(number, following)
        elif token in COMPARISONS:
            self._comparison(token)
        elif token == "it":
            self._it()
        else:
            self._other(token, following)

    def _other(self, token: str, following: str) -> None:
        if token in ("no", "nothing") and following not in MARKS:
            self._end_denial()
            self._start_phrase("no")
        elif token in MARKS or token == "but":
            self._end_denial()
        elif token in ("is", "are") and self.article != "no":
            self._start_phrase(None)
        elif token == "so":
            self.silent = True
        elif token == "something":
            self.listing_filled = True

    def _start_phrase(self, article: str | int | None) -> None:
        """A noun phrase begins: words from here on belong to its noun."""
        self.article = article
        self.words: dict[str, str] = {}

    def _end_denial(self) -> None:
        """`nothing red` ends."""
        if self.article == "no":
            if self.words:
                self.claims.absent.append(Count(0, **self.words))
            self._start_phrase(None)

    def _attribute(self, name: str, value: str) -> None:
        if self.article is not None:
            self.words[name] = value
        else:
            for target in self.targets:
                target.add(**{name: value})

    def _noun(self, noun: str, is_plural: bool) -> None:
        article, self.words["noun"] = self.article, noun
        if article == "no":
            self._end_denial()
        elif isinstance(article, int):
            self._group(article)
        elif article == "the" and is_plural:
            self._head(None)
        elif article in ("a", "another", "an"):
            self._thing(self._new(True))
        elif article == "the":
            self._thing(self._new(False))
        self._start_phrase(None)

    def _generic(self) -> None:
        if self.article == "no":
            self._end_denial()
        elif isinstance(self.article, int):
            self._head(self.article)
        elif self.article == "the" and (self.header is None or self.words):
            self._head(None)
        self._start_phrase(None)

    def _head(self, number: int | None) -> None:
        self.header = Count(number, **self.words)
        self.targets = [self.header]

    def _number(self, number: int, following: str) -> None:
        if self.silent:
            self.claims.concluded.append(number)
        if following == "of":
            self._start_phrase(None)
            self._head(number)
        elif following in COUNTABLE:
            self._start_phrase(number)

    def _group(self, number: int) -> None:
        self.claims.counts.append(Count(number, **self.words))
        if not self.silent:
            self.queue = [self._new(True) for _ in range(number)]
            self.claims.mentions += self.queue
            self.targets = [*self.queue]

    def _one(self) -> None:
        """`a red one`, `another`, `the other`: the next of a group, one of those that a header names, or a second."""
        if self.queue:
            thing = self.queue.pop(0)
            thing.add(**self.words)
            self._name(thing)
        elif self.header is not None:
            self._thing(self._new(True))
        elif self.current is not None and self.article == "another":
            self._thing(Mention(True, self.current.size, self.current.colour, self.current.noun))
        self._start_phrase(None)

    def _new(self, introduced: bool) -> Mention:
        """A thing with the attributes of the noun phrase that ends here."""
        thing = Mention(introduced)
        thing.add(**self.words)
        return thing

    def _thing(self, thing: Mention) -> None:
        if self.header is not None and thing.introduced:
            thing.add(**self.header.attributes())
        if not (self.silent and thing.introduced):
            self.claims.mentions.append(thing)
        self.named.append(thing)
        self._name(thing)

    def _name(self, thing: Mention) -> None:
        """A thing is named: what waited for it is settled."""
        if self.place is not None:
            thing.place, self.place = self.place, None
        if self.relation is not None:
            self._relate(thing)
        elif self.unplaced is not None:
            self.claims.relations.append((thing, *self.unplaced))
            self.unplaced = None
        if self.superlative is not None and not thing.introduced:
            self.claims.sized.append((self.superlative, thing, self.named))
            self.superlative = None
        self.previous, self.current = self.current, thing
        self.targets, self.has_subject = [thing], True

    def _relate(self, seen_from: Mention) -> None:
        if self.relation is None:
            return
        subject, axes = self.relation
        self.relation = None
        if subject is None:
            self.unplaced = (axes, seen_from)
        else:
            self.claims.relations.append((subject, axes, seen_from))

    def _it(self) -> None:
        if self.relation is not None:
            seen_from = self.current if self.relation[0] is None else self.previous
            if seen_from is None:
                self.relation = None
            else:
                self._relate(seen_from)
        else:
            self.has_subject = True
            self.targets = [self.current] if self.current is not None else []

    def _comparison(self, word: str) -> None:
        if self.has_subject and self.current is not None:
            self.claims.sized.append((word, self.current, self.named))
        else:
            self.superlative = word

    def _mark(self, token: str) -> None:
        kind, rest = token[1], token[2:]
        if kind == "x":
            if self.current is not None or not self.has_subject:
                subject = self.current if self.has_subject else None
                self.relation = subject, (int(rest[:2]), int(rest[2:]))
        elif kind == "t":
            row, col = self.line
            if row is not None and rest[0] in "cm":
                self._put((row, int(rest[1])))
            elif col is not None and rest[0] in "rm":
                self._put((int(rest[1]), col))
        elif self.listing_filled and kind == "p":
            self.claims.filled.append((int(rest[0]), int(rest[1])))
        elif self.is_empty:
            self.claims.empty.append(token)
        elif kind == "p":
            self._put((int(rest[0]), int(rest[1])))
        else:
            self.line = (int(rest), None) if kind == "r" else (None, int(rest))

    def _put(self, place: tuple[int, int]) -> None:
        """A place belongs to the thing before it if that has none yet, else to the next one."""
        thing = self.current if self.has_subject else None
        if self.queue and (thing is None or thing.place is not None or len(self.targets) > 1):
            thing = self.queue.pop(0)
            self._name(thing)
        if thing is not None and thing.place is None:
            thing.place = place
        else:
            self.place = place
