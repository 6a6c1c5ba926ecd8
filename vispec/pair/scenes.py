"""Composed scenes: two to five shapes or emoji in a 3x3 grid of cells, and how they lie to each other."""

from __future__ import annotations

import random
from dataclasses import dataclass

from vispec.pair.words import BACKGROUNDS, CLASHES, COLOURS, EMOJI, SHAPES, SIZES

IMAGE_SIZE = 96
CELL = IMAGE_SIZE // 3
RADII = {"small": 7.0, "medium": 10.5, "large": 14.5, None: 13.5}  # pixels; None: emoji come in one size
ROOM = {"small": 7.0, "medium": 4.5, "large": 1.3, None: 1.5}  # how far a centre may leave its cell's: a gap stays
COUNT_WEIGHTS = {2: 20, 3: 30, 4: 30, 5: 20}
THEMED = 0.55  # scenes in which several things share a noun, a colour or all, so that there is something to count


@dataclass(frozen=True)
class Thing:
    """A shape or an emoji. `size` is None for emoji, `x` and `y` the centre in pixels."""

    size: str | None
    colour: str
    noun: str
    row: int
    col: int
    x: float
    y: float

    @property
    def look(self) -> tuple[str | None, str, str]:
        """All that can be seen of it but its place."""
        return self.size, self.colour, self.noun

    @property
    def place(self) -> tuple[int, int]:
        """Its cell, `(row, column)`."""
        return self.row, self.col


@dataclass(frozen=True)
class Scene:
    """Things in row-major order on a plain background."""

    background: str
    things: tuple[Thing, ...]

    @property
    def has_emoji(self) -> bool:
        """Whether the things are emoji; a scene never mixes them with shapes."""
        return self.things[0].size is None

    def key(self) -> str:
        """The canonical facts; neither the jitter nor the background makes another scene."""
        return "scene " + " ".join(f"{t.row}{t.col}:{t.size},{t.colour},{t.noun}" for t in self.things)

    def find(self, size: str | None = None, colour: str | None = None, noun: str | None = None) -> tuple[Thing, ...]:
        """The things that have the attributes given."""
        return tuple(
            t for t in self.things if size in (None, t.size) and colour in (None, t.colour) and noun in (None, t.noun)
        )

    def at(self, row: int, col: int) -> Thing | None:
        """What is in a cell."""
        return next((t for t in self.things if t.place == (row, col)), None)

    def empty_rows(self) -> tuple[int, ...]:
        """Rows without a thing."""
        return tuple(r for r in range(3) if all(t.row != r for t in self.things))

    def empty_columns(self) -> tuple[int, ...]:
        """Columns without a thing."""
        return tuple(c for c in range(3) if all(t.col != c for t in self.things))


def direction(of: Thing, to: Thing) -> tuple[int, int]:
    """Where `of` lies, seen from `to`: signs of rows (-1 is above) and columns (-1 is left)."""
    return (of.row > to.row) - (of.row < to.row), (of.col > to.col) - (of.col < to.col)


def adjacent(a: Thing, b: Thing) -> bool:
    """Whether two things are in cells that share an edge."""
    return abs(a.row - b.row) + abs(a.col - b.col) == 1


def sample_scene(rng: random.Random, emoji: bool = False) -> Scene:
    """Draw a scene of shapes, or of emoji."""
    background = rng.choice(tuple(BACKGROUNDS))
    colours = [c for c in COLOURS if c not in CLASHES[background]]
    nouns = EMOJI if emoji else SHAPES
    count = rng.choices(tuple(COUNT_WEIGHTS), tuple(COUNT_WEIGHTS.values()))[0]
    theme: tuple[str | None, str | None, str | None] = (None, None, None)
    if rng.random() < THEMED:
        shared = (rng.choice(SIZES), rng.choice(colours), rng.choice(nouns))
        theme = rng.choice(((None, None, shared[2]), (None, shared[1], None), (None, *shared[1:]), shared))
    things = []
    for cell in sorted(rng.sample(range(9), count)):
        size, colour, noun = theme if rng.random() < 0.65 else (None, None, None)
        drawn = None if emoji else size or rng.choice(SIZES)
        row, col = divmod(cell, 3)
        room = ROOM[drawn]
        x, y = (CELL * (i + 0.5) + rng.uniform(-room, room) for i in (col, row))
        things.append(Thing(drawn, colour or rng.choice(colours), noun or rng.choice(nouns), row, col, x, y))
    return Scene(background, tuple(things))
