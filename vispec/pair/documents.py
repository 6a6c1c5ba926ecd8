"""Pictures with writing: signs, receipts, bar charts and tables. What they say, and how it is sampled."""

from __future__ import annotations

import random
from dataclasses import dataclass

from vispec.pair.words import (
    BACKGROUNDS,
    CHART_LABELS,
    CHART_TITLES,
    CLASHES,
    CODAS,
    COLOURS,
    ITEMS,
    NUCLEI,
    ONSETS,
    SIGN_PREFIXES,
    SIGN_WORDS,
    TABLE_COLUMNS,
    TABLE_ROWS,
    TRADES,
)

INKS_ON: dict[str, tuple[str, ...]] = {  # letters that can be read on a board of that colour
    "red": ("white", "yellow"),
    "green": ("white", "yellow"),
    "blue": ("white", "yellow"),
    "purple": ("white", "yellow"),
    "black": ("white", "yellow", "orange", "pink"),
    "white": ("black", "red", "blue", "green", "purple"),
    "yellow": ("black", "blue", "purple"),
    "orange": ("black", "white"),
    "pink": ("black", "blue"),
}
BOARD_FORMS = ("rectangular", "rounded", "oval")
MAX_SHIFT = 2  # pixels that writing may leave its usual place by: small, so that letters keep to few positions


@dataclass(frozen=True)
class Sign:
    """One to three lines of writing on a coloured board."""

    lines: tuple[str, ...]
    board: str
    ink: str
    form: str
    background: str
    shift: tuple[int, int]

    def key(self) -> str:
        """The canonical facts."""
        return f"sign {'/'.join(self.lines)} {self.board} {self.ink} {self.form}"


@dataclass(frozen=True)
class Receipt:
    """A shop's name, two to four items with their prices, and the total. Prices in cents."""

    shop: str
    items: tuple[tuple[str, int], ...]
    background: str
    shift: tuple[int, int]

    @property
    def total(self) -> int:
        """The sum of the prices."""
        return sum(price for _, price in self.items)

    def key(self) -> str:
        """The canonical facts."""
        return "receipt " + " ".join(f"{name}:{price}" for name, price in sorted(self.items))


@dataclass(frozen=True)
class Chart:
    """Three to five bars, upright or lying, each with its label and its value."""

    title: str
    labels: tuple[str, ...]
    values: tuple[int, ...]
    colours: tuple[str, ...]
    lying: bool
    background: str
    shift: tuple[int, int]

    def key(self) -> str:
        """The canonical facts."""
        return "chart " + " ".join(f"{label}:{value}" for label, value in zip(self.labels, self.values, strict=True))


@dataclass(frozen=True)
class Table:
    """Two or three named rows, two or three named columns, a number in each cell."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[tuple[int, ...], ...]
    head: str
    background: str
    shift: tuple[int, int]

    def key(self) -> str:
        """The canonical facts."""
        return f"table {self.rows} {self.columns} {self.cells}"


def price_text(cents: int) -> str:
    """`3.50`, as on the receipt."""
    return f"{cents // 100}.{cents % 100:02d}"


def _shift(rng: random.Random) -> tuple[int, int]:
    return rng.randint(-MAX_SHIFT, MAX_SHIFT), rng.randint(-MAX_SHIFT, MAX_SHIFT)


def made_up_name(rng: random.Random, longest: int = 6) -> str:
    """`MILO`, `TRUNA`: a name that no list holds."""
    name = ""
    for _ in range(2):
        name += rng.choice(ONSETS) + rng.choice(NUCLEI)
    return (name + rng.choice(CODAS))[:longest]


def _sign_lines(rng: random.Random) -> tuple[str, ...]:
    word, number = rng.choice(SIGN_WORDS), str(rng.randint(1, 99))
    name, trade = made_up_name(rng), rng.choice(TRADES)
    kind = rng.randrange(10)
    if kind <= 1:
        return (word,)
    if kind == 2:
        return word, number
    if kind == 3:
        return rng.choice(SIGN_PREFIXES), word
    if kind == 4:
        return name, trade
    if kind == 5:
        return word, rng.choice(SIGN_WORDS)
    if kind == 6:
        return (str(rng.randint(10, 9999)),)
    if kind == 7:
        return (rng.choice("ABCDEFGHKLMNPRTX") + number, word) if rng.random() < 0.5 else (name,)
    if kind == 8:
        return word, price_text(10 * rng.randint(5, 99))
    return (name, trade, number) if rng.random() < 0.5 else (rng.choice(SIGN_PREFIXES), word, number)


def sample_sign(rng: random.Random) -> Sign:
    """Words, made-up names and numbers, in capitals or capitalised."""
    lines = _sign_lines(rng)
    if rng.random() < 0.3:
        lines = tuple(line.capitalize() for line in lines)
    board = rng.choice(tuple(INKS_ON))
    grounds = [b for b in BACKGROUNDS if board not in CLASHES[b] and (board != "black" or b not in ("black", "navy"))]
    form = rng.choice(BOARD_FORMS)
    return Sign(lines, board, rng.choice(INKS_ON[board]), form, rng.choice(grounds), _shift(rng))


def sample_receipt(rng: random.Random) -> Receipt:
    """Prices from 0.50 to 9.95, some of them equal."""
    prices = [5 * rng.randint(10, 199) for _ in range(rng.choice((2, 3, 3, 4)))]
    if rng.random() < 0.2:
        prices[-1] = prices[0]
    shop = made_up_name(rng) + rng.choice(("", " " + rng.choice(("CAFE", "SHOP", "BAR"))))
    items = tuple(zip(rng.sample(ITEMS, len(prices)), prices, strict=True))
    background = rng.choice([b for b in BACKGROUNDS if b != "beige"])
    return Receipt(shop, items, background, _shift(rng))


def sample_chart(rng: random.Random) -> Chart:
    """Values from 1 to 20; bars of one colour or each of its own; labels in their order or, at times, shuffled."""
    count = rng.choice((3, 4, 4, 5))
    labels = rng.choice([group for group in CHART_LABELS if len(group) >= count])
    start = rng.randrange(len(labels) - count + 1)
    chosen = list(labels[start : start + count]) if rng.random() < 0.6 else rng.sample(labels, count)
    values = tuple(rng.randint(1, 20) for _ in range(count))
    background = rng.choice(("black", "navy", "beige", "gray"))
    palette = [c for c in COLOURS if c not in CLASHES[background]]
    colours = rng.sample(palette, count) if rng.random() < 0.5 else [rng.choice(palette)] * count
    title = rng.choice(CHART_TITLES) if rng.random() < 0.6 else ""
    fits = count * max(map(len, chosen)) <= 12  # upright bars stand close: long labels need lying ones
    lying = rng.random() < 0.35 or not fits
    return Chart(title, tuple(chosen), values, tuple(colours), lying, background, _shift(rng))


def sample_table(rng: random.Random) -> Table:
    """Numbers from 0 to 99."""
    rows = tuple(rng.sample(TABLE_ROWS, rng.choice((2, 3, 3))))
    group = rng.choice(TABLE_COLUMNS)
    columns = tuple(rng.sample(group, rng.choice((2, 2, 3))))
    cells = tuple(tuple(rng.randint(0, 99) for _ in columns) for _ in rows)
    head = rng.choice(("red", "green", "blue", "purple"))
    return Table(rows, columns, cells, head, rng.choice(tuple(BACKGROUNDS)), _shift(rng))
