"""What a text can say about a scene, and the text made ready for reading: names of places and relations as marks."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from vispec.pair.style import COLUMN_NAMES, PLACE_SCHEMES, ROW_NAMES
from vispec.pair.words import NOUN_WORDS, NUMBERS, SIZE_WORDS, SIZES, plural

Place = tuple[int, int]
SIZE_OF = {word: size for words in SIZE_WORDS for word, size in zip(words, SIZES, strict=True)}
NOUN_OF = {word: noun for noun, words in NOUN_WORDS.items() for word in words}
NOUNS_OF = {plural(word): noun for word, noun in NOUN_OF.items()}
_CELLS = {name.lower(): divmod(i, 3) for scheme in PLACE_SCHEMES for i, name in enumerate(scheme)}
PLACE_OF = {**{name.removeprefix("the "): cell for name, cell in _CELLS.items()}, **_CELLS}
ROW_OF = {f"the {name} row": i for names in ROW_NAMES for i, name in enumerate(names)}
COLUMN_OF = {f"the {name} column": i for names in COLUMN_NAMES for i, name in enumerate(names)}
TERM_OF = {
    "on the left": "@tc0",
    "on the right": "@tc2",
    "at the top": "@tr0",
    "at the bottom": "@tr2",
    "in the middle": "@tm1",
    "in the center": "@tm1",
}
SIGN_OF = {
    "above": -1,
    "over": -1,
    "higher": -1,
    "left": -1,
    "below": 1,
    "under": 1,
    "beneath": 1,
    "lower": 1,
    "right": 1,
}

_NAMES = "|".join(sorted(map(re.escape, (*PLACE_OF, *ROW_OF, *COLUMN_OF)), key=len, reverse=True))
_PLACES = re.compile(rf"\b({_NAMES})\b")
_TERMS = re.compile("|".join(TERM_OF))
_VERTICAL, _SIDE = r"(above|over|higher|below|under|beneath|lower)", r"(?:to the )?(left|right) of"
_RELATIONS = re.compile(
    rf"(?:\b(?:directly|right|just) )?\b(?:{_VERTICAL} and {_SIDE}|{_VERTICAL}(?: than)?|{_SIDE})\b"
)
_PRONOUNS = re.compile(r"\bthis one\b|(?<=\d )that\b")  # a mark of a relation ends in a digit
_BULLETS = re.compile(r"\n(?:-|\d\.) ([^\n:]*)(:?)")  # an item of a list reads as if it had an article
_SENTENCES = re.compile(r"(?<=[.?!;])\s+|\n+")
_CLAUSES = re.compile(r"(?<=:)\s+")
_TOKENS = re.compile(r"@\S+?(?=[,.;:?!]*(?:\s|$))|\d+|[a-z]+(?:-[a-z]+)*|[,;:.?!]")


@dataclass(eq=False)
class Mention:
    """A thing as the text names it. `introduced`: as new (`a square`), not referred to (`the square`)."""

    introduced: bool
    size: str | None = None
    colour: str | None = None
    noun: str | None = None
    place: Place | None = None

    def add(self, **attributes: str) -> None:
        """Set attributes that the text has not named before."""
        for name, value in attributes.items():
            if getattr(self, name) is None:
                setattr(self, name, value)


@dataclass
class Count:
    """`number` things have these attributes. None: not a number, but those that there are."""

    number: int | None
    size: str | None = None
    colour: str | None = None
    noun: str | None = None

    def add(self, **attributes: str) -> None:
        """Set attributes."""
        for name, value in attributes.items():
            setattr(self, name, value)

    def attributes(self) -> dict[str, str]:
        """Those that are named."""
        named = {"size": self.size, "colour": self.colour, "noun": self.noun}
        return {name: value for name, value in named.items() if value is not None}


@dataclass
class Claims:
    """What a text says. Lists hold one entry a claim."""

    mentions: list[Mention] = field(default_factory=list)
    counts: list[Count] = field(default_factory=list)
    absent: list[Count] = field(default_factory=list)  # number 0: there is nothing like it
    shared: list[str] = field(default_factory=list)  # a colour that all things have
    palette: list[str] = field(default_factory=list)  # colours that there are
    empty: list[str] = field(default_factory=list)  # marks of cells, rows and columns
    filled: list[Place] = field(default_factory=list)  # cells that hold something
    relations: list[tuple[Mention, tuple[int, int], Mention]] = field(default_factory=list)  # first, where, from second
    sized: list[tuple[str, Mention, list[Mention]]] = field(default_factory=list)  # larger or so, what, among which
    alike: list[tuple[str, list[Mention]]] = field(default_factory=list)  # things that share an attribute
    concluded: list[int] = field(default_factory=list)  # numbers after `so`
    background: str | None = None
    verdict: bool | None = None
    texts: list[str] = field(default_factory=list)  # quoted
    values: list[tuple[str, ...]] = field(default_factory=list)  # labels, then the number that belongs to them
    best: str | None = None  # the label said to be highest, cheapest and so on
    board: str | None = None
    ink: str | None = None
    parts: list[tuple[str, int]] = field(default_factory=list)  # numbers of bars, items, rows, columns, lines


def number_of(word: str) -> int | None:
    """A whole number in digits or as a word."""
    if word.isdigit():
        return int(word)
    return NUMBERS.index(word) if word in NUMBERS else None


def _mark_place(match: re.Match[str]) -> str:
    name = match[0]
    if name in PLACE_OF:
        return "@p{}{}".format(*PLACE_OF[name])
    if name in ROW_OF:
        return f"@r{ROW_OF[name]}"
    return f"@c{COLUMN_OF[name]}"


def _mark_relation(match: re.Match[str]) -> str:
    vertical, side = match[1] or match[3], match[2] or match[4]
    return f"@x{SIGN_OF[vertical] if vertical else 0:+d}{SIGN_OF[side] if side else 0:+d}"


def marked_sentences(text: str) -> list[list[list[str]]]:
    """Sentences of clauses of tokens. Cells are marked `@p01`, rows `@r0`, columns `@c1`, relations `@x-1+0`."""
    marked = _BULLETS.sub(r"\na \1,", text.lower().replace("@", " "))
    marked = _TERMS.sub(lambda term: TERM_OF[term[0]], _PLACES.sub(_mark_place, marked))
    marked = _PRONOUNS.sub("it", _RELATIONS.sub(_mark_relation, marked))
    return [[_TOKENS.findall(clause) for clause in _CLAUSES.split(s)] for s in _SENTENCES.split(marked)]
