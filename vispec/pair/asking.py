"""A question with its answer (`Turn`), what a right answer must say (`Asked`), and the wording of questions."""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from vispec.pair.style import VOICES, Style

Place = tuple[int, int]


@dataclass(frozen=True)
class Asked:
    """The point of a question; what was not asked is None.

    Args:
        verdict: yes or no.
        count: how many.
        look: of the thing that the answer must name: size, colour, noun, each None where it is free.
        place: of the thing that the answer must name.
        text: what must be read.
        value: the number that must be told, as written in the picture.
        label: the row, bar or item that must be named.
    """

    verdict: bool | None = None
    count: int | None = None
    look: tuple[str | None, str | None, str | None] | None = None
    place: Place | None = None
    text: str | None = None
    value: str | None = None
    label: str | None = None


NOTHING = Asked()


@dataclass(frozen=True)
class Turn:
    """One question about a picture, and its answer."""

    kind: str
    question: str
    answer: str
    style: Style = field(repr=False, compare=False)
    asked: Asked = NOTHING


def choose_form(rng: random.Random, forms: Sequence[str]) -> tuple[str, Style]:
    """A form of question, and the style that goes with it: the form sets the voice."""
    form = forms[int(rng.random() * len(forms))]
    return form, Style(rng, zlib.crc32(form.encode()) % VOICES)
