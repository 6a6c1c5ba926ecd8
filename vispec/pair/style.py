"""How one text is worded: synonyms, names of places, numbers. Drawn once a sample and kept through its text.

A table of n-grams cannot know the style of a text, a reader of its first sentence (or of its question) can: what a
writer does once, they do again. Every question form belongs to a voice, and most texts keep to their voice's
favourite words, so that the best answer to a question varies with its wording.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import TypeVar

from vispec.pair.words import (
    CHART_LABELS,
    GENERIC_EMOJI,
    GENERIC_SHAPES,
    NOUN_WORDS,
    NUMBERS,
    SIZE_WORDS,
    SIZES,
    TABLE_ROWS,
    plural,
)

T = TypeVar("T")
VOICES = 12
LOYAL = 0.5  # samples that follow their voice; the others draw their own favourites
FIRST, SECOND = 0.7, 0.9  # how often the favourite is taken; up to SECOND the runner-up, above it any

ROW_NAMES = (("top", "middle", "bottom"), ("upper", "middle", "lower"), ("first", "second", "third"))
COLUMN_NAMES = (("left", "middle", "right"), ("left", "center", "right"), ("first", "second", "third"))


def _corner_places(middle: str, suffix: str) -> tuple[str, ...]:
    return (
        f"the top left{suffix}", f"the top {middle}", f"the top right{suffix}",
        f"the {middle} left", f"the very {middle}", f"the {middle} right",
        f"the bottom left{suffix}", f"the bottom {middle}", f"the bottom right{suffix}",
    )  # fmt: skip


def _upper_places(middle: str, suffix: str) -> tuple[str, ...]:
    return tuple(
        f"the {row} {column}{suffix}" if (row, column) != (middle, middle) else f"the exact {middle}"
        for row in ("upper", middle, "lower")
        for column in ("left", middle, "right")
    )


def _grid_places(rows: Sequence[str], columns: Sequence[str], form: str) -> tuple[str, ...]:
    return tuple(form.format(row=row, column=column) for row in rows for column in columns)


COMPASS = ("northwest", "north", "northeast", "west", "heart", "east", "southwest", "south", "southeast")
PLACE_SCHEMES: tuple[tuple[str, ...], ...] = (  # names of the nine cells, row by row; all take the preposition `in`
    _corner_places("middle", " corner"),
    _corner_places("center", " corner"),
    _corner_places("center", ""),
    _corner_places("centre", ""),
    _upper_places("middle", " part"),
    _upper_places("centre", ""),
    _upper_places("center", " area"),
    _grid_places("123", "123", "row {row}, column {column}"),
    _grid_places(ROW_NAMES[2], COLUMN_NAMES[2], "the {row} row, {column} column"),
    _grid_places(ROW_NAMES[0], COLUMN_NAMES[0], "the {column} cell of the {row} row"),
    _grid_places("123", "ABC", "cell {column}{row}"),
    tuple(f"the {side}" for side in COMPASS),
)
SCHEME_SLOT = "places"


@cache
def _favourite(voice: int, slot: str) -> int:
    return zlib.crc32(f"{voice} {slot}".encode())


@cache
def _parse(template: str) -> tuple[tuple[str, ...] | str, ...]:
    """`[a|b] {x}` as a tuple of choices, texts and field names (the latter as `{x}`)."""
    parts = (part for part in re.split(r"(\[[^\]]*\]|\{\w+\})", template) if part)
    return tuple(tuple(part[1:-1].split("|")) if part[0] == "[" else part for part in parts)


class Style:
    """The wording of one text.

    Args:
        rng: Source of all choices; the same state gives the same text.
        voice: 0 to VOICES - 1, given by the question's form.
    """

    def __init__(self, rng: random.Random, voice: int) -> None:
        self.rng = rng
        self.voice = voice
        self._loyal = rng.random() < LOYAL
        self._favourites: dict[str, int] = {}
        self.british = self.keep("spelling", (True, False, False))
        self.digits = self.keep("digits", (True, False))
        self.size_words = dict(zip(SIZES, self.keep("sizes", SIZE_WORDS), strict=True))
        self.scheme = PLACE_SCHEMES[self.keep(SCHEME_SLOT, tuple(range(len(PLACE_SCHEMES))))]

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.rng.random() < probability

    def _first(self, slot: str) -> int:
        favourite = self._favourites.get(slot)
        if favourite is None:
            favourite = _favourite(self.voice, slot) if self._loyal else int(self.rng.random() * 65536)
            self._favourites[slot] = favourite
        return favourite

    def keep(self, slot: str, options: Sequence[T]) -> T:
        """One of the options, the same one throughout the text."""
        return options[self._first(slot) % len(options)]

    def pick(self, slot: str, options: Sequence[T]) -> T:
        """One of the options, mostly this text's favourites."""
        draw = self.rng.random()
        if draw < SECOND:
            first = self._first(slot)
            return options[(first if draw < FIRST else first // 64 + 1) % len(options)]
        return options[int(self.rng.random() * len(options))]

    def say(self, template: str, **fields: str) -> str:
        """Fill `{field}`s and choose from `[this|that]`, each list of alternatives with favourites of its own."""
        words = []
        for part in _parse(template):
            if isinstance(part, tuple):
                chosen = self.pick("|".join(part), part)
                words.append(chosen.format(**fields) if "{" in chosen else chosen)
            elif part[0] == "{":
                words.append(fields[part[1:-1]])
            else:
                words.append(part)
        return "".join(words)

    def tell(self, templates: Sequence[str], **fields: str) -> str:
        """`say` with one of the templates, the first of which names the slot."""
        return self.say(self.pick(templates[0], templates), **fields)

    def number(self, n: int) -> str:
        """`3` or `three`; above twenty always digits."""
        return str(n) if self.digits or n >= len(NUMBERS) else NUMBERS[n]

    def noun(self, noun: str, count: int = 1) -> str:
        """This text's word for a shape or an emoji."""
        word = self.keep(noun, NOUN_WORDS[noun])
        return word if count == 1 else plural(word)

    def generic(self, emoji: bool, count: int = 1) -> str:
        """`shape`, `object`, `symbols`."""
        word = self.pick("generic", GENERIC_EMOJI if emoji else GENERIC_SHAPES)
        return word if count == 1 else plural(word)

    def colour(self, name: str) -> str:
        """A colour in this text's spelling."""
        return "grey" if self.british and name == "gray" else name

    @property
    def colour_word(self) -> str:
        """`colour` or `color`."""
        return "colour" if self.british else "color"

    def place(self, row: int, col: int) -> str:
        """A cell by its name: `the top left corner`."""
        return self.scheme[3 * row + col]

    def at(self, row: int, col: int) -> str:
        """A cell after a preposition: `in the top left corner`."""
        return "in " + self.place(row, col)


def as_list(style: Style, items: Sequence[str]) -> str:
    """Items on lines of their own, with dashes or numbered."""
    numbered = style.keep("numbered", (False, False, True))
    return "\n".join(f"{i}. {item}" if numbered else f"- {item}" for i, item in enumerate(items, 1))


def flow(style: Style, parts: Sequence[str]) -> str:
    """Sentences and lists as one text; some styles draw neighbouring sentences together by a semicolon."""
    often = style.keep("semicolons", (0.0, 0.0, 0.25, 0.5))
    text = parts[0]
    for before, part in pairwise(parts):
        if "\n" in before or "\n" in part:
            text += f"\n{part}"
        elif style.chance(often) and not part.startswith(("I ", '"')):
            first = part.split(" ", 1)[0].rstrip(":,")
            text = f"{text[:-1]}; {part if first in NAMES else part[0].lower() + part[1:]}"
        else:
            text += f" {part}"
    return text


def bind(style: Style, clauses: Sequence[str], items: Sequence[str]) -> list[str]:
    """Clauses as sentences, one each, two each or all in one; or the items, which say the same, as a list."""
    form = style.keep("bind", ("each", "all", "pairs", "list"))
    if form == "list":
        return [as_list(style, items)]
    if form == "all":
        return [sentence(join(clauses))]
    step = 1 if form == "each" else 2
    return [
        sentence(style.pick("bound", (" and ", ", while ", ", and ")).join(clauses[i : i + step]))
        for i in range(0, len(clauses), step)
    ]


NAMES = frozenset((*TABLE_ROWS, *(label for group in CHART_LABELS for label in group if not label.islower())))
DOUBLE_MARK = re.compile(r",(?=[,.;:?])")
NEW_SENTENCE = re.compile(r"(?<=[.?!] )[a-z]")


def join(phrases: Sequence[str], word: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`."""
    if len(phrases) < 2:
        return "".join(phrases)
    return f"{', '.join(phrases[:-1])} {word} {phrases[-1]}"


def sentence(text: str, end: str = ".") -> str:
    """Capitalised, with its full stop, and without a comma before another mark."""
    text = DOUBLE_MARK.sub("", text[0].upper() + text[1:] + end)
    return NEW_SENTENCE.sub(lambda letter: letter[0].upper(), text)
