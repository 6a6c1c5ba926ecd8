"""Pictures, a model's words and small bars on a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TextIO

import numpy as np
from PIL import Image
from rich.cells import cell_len

TRUE_COLOUR = 1 << 24
RESET = "\x1b[0m"
BLOCKS = "▁▂▃▄▅▆▇█"
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def num_colours(stream: TextIO, environ: Mapping[str, str]) -> int:
    """Colours that `stream` shows: 2**24, 256, or 0 (no terminal, not UTF-8, TERM=dumb, or NO_COLOR is set)."""
    term = environ.get("TERM", "dumb")
    is_utf8 = stream.encoding is not None and stream.encoding.lower().replace("-", "") == "utf8"
    if not stream.isatty() or not is_utf8 or environ.get("NO_COLOR") or term == "dumb":
        return 0
    if environ.get("COLORTERM") in ("truecolor", "24bit") or term.endswith("-direct"):
        return TRUE_COLOUR
    return 256 if "256color" in term else 0


def render(image: Image.Image, columns: int, rows: int, colours: int) -> str:
    """`image` as lines of half blocks, two pixels a cell, as large as fits into `columns` times `rows` cells.

    Args:
        colours: 2**24, or 256 for terminals that have a table of them.
    """
    scale = min(columns / image.width, 2 * rows / image.height)
    width, height = max(1, round(image.width * scale)), max(1, round(image.height * scale / 2))
    pixels = image.convert("RGB").resize((width, 2 * height), Image.Resampling.BOX)
    codes = [[_colour(pixel, colours) for pixel in row] for row in np.asarray(pixels).tolist()]
    lines = []
    for upper, lower in zip(codes[::2], codes[1::2], strict=True):
        cells = (f"\x1b[38;{above};48;{below}m▀" for above, below in zip(upper, lower, strict=True))
        lines.append("".join(cells) + RESET)
    return "\n".join(lines)


def _colour(rgb: list[int], colours: int) -> str:
    """The part of an escape sequence that names a colour."""
    if colours == TRUE_COLOUR:
        return "2;{};{};{}".format(*rgb)
    # xterm's cube: 16 + 36 r + 6 g + b, levels 0, 95, 135, 175, 215, 255
    red, green, blue = (0 if value < 48 else max(1, (value - 35) // 40) for value in rgb)
    return f"5;{16 + 36 * red + 6 * green + blue}"


def printable(text: str) -> str:
    """`text` with a dot for each character that a terminal would not show or would obey; lines stay lines."""
    return "".join(char if char == "\n" or (char.isprintable() and char != "\ufffd") else "·" for char in text)


def can_show(text: str, stream: TextIO) -> bool:
    """Whether the encoding of `stream` has all characters of `text`."""
    try:
        text.encode(stream.encoding or "utf-8")  # none: it keeps text as text
    except UnicodeEncodeError:
        return False
    return True


def bars(values: Sequence[int], most: int, blocks: bool) -> tuple[str, str]:
    """One character for each of `values` (0 to `most`), and the legend.

    Args:
        blocks: bars of rising height where there are enough of them; else digits, then letters, "+" for more.
    """
    if blocks and most < len(BLOCKS):
        signs = [BLOCKS[value * (len(BLOCKS) - 1) // max(most, 1)] for value in range(most + 1)]
        legend = "   ".join(f"{sign} {value}" for value, sign in enumerate(signs))
    else:
        signs = [DIGITS[value] if value < len(DIGITS) else "+" for value in range(most + 1)]
        more = "; letters go on from 9; + is more than 35" if most >= len(DIGITS) else "; letters go on from 9"
        legend = f"0 to {most}{more if most > 9 else ''}"
    return "".join(signs[value] for value in values), legend


class Column:
    """Words set into lines of `width` cells as they come."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.lines = [""]
        self.used = 0  # cells of the last line

    def add(self, text: str) -> Iterator[str]:
        """What appears: pieces of lines, and "\\n" where a line ends."""
        for word in re.findall(r"\n|[^\S\n]+|\S+", text):
            size = cell_len(word)
            if word == "\n" or (self.used and self.used + size > self.width):
                yield self._end_line()
            if word.isspace():
                if word != "\n" and self.used:  # a line that was broken does not start with the space
                    yield self._put(word, size)
            elif size <= self.width:
                yield self._put(word, size)
            else:
                yield from self._cut(word)

    def _cut(self, word: str) -> Iterator[str]:
        for char in word:
            size = cell_len(char)
            if self.used and self.used + size > self.width:
                yield self._end_line()
            yield self._put(char, size)

    def _put(self, text: str, size: int) -> str:
        self.lines[-1] += text
        self.used += size
        return text

    def _end_line(self) -> str:
        self.lines.append("")
        self.used = 0
        return "\n"


class SideBySide:
    """Two texts beside each other, each on the screen as it is written: first `left`, then `right`.

    The right one starts in the first line of the left one, or, where that has left the screen, below all of it, with
    the left one's lines written again.

    Args:
        titles: above the two.
        columns, rows: of the terminal.
    """

    def __init__(self, stream: TextIO, titles: tuple[str, str], columns: int, rows: int) -> None:
        self.stream, self.titles, self.rows = stream, titles, rows
        self.left, self.right = (Column((columns - 4) // 2) for _ in titles)
        self.rule = "│" if can_show("│", stream) else "|"
        self.on_right = False
        self._write(f"{self._row(*titles)}\n{self._row()}\r")

    def write_left(self, text: str) -> None:
        """More of the left text."""
        for piece in self.left.add(printable(text)):
            self.stream.write(f"\n{self._row()}\r" if piece == "\n" else piece)
        self.stream.flush()

    def end_left(self) -> None:
        """The left text is whole: on to the right one."""
        self.on_right = True
        height = len(self.left.lines)
        self._write("\n" + (f"\x1b[{height}A" if height < self.rows else f"\n{self._row(*self.titles)}\n"))
        self._write(self._row(self.left.lines[0]))

    def write_right(self, text: str) -> None:
        """More of the right text."""
        for piece in self.right.add(printable(text)):
            self.stream.write(f"\n{self._left_of(len(self.right.lines) - 1)}" if piece == "\n" else piece)
        self.stream.flush()

    def __enter__(self) -> SideBySide:
        return self

    def __exit__(self, *error: object) -> None:
        """Go below both texts, whole or not."""
        rest = range(len(self.right.lines), len(self.left.lines)) if self.on_right else ()
        self._write("\n".join(["", *map(self._left_of, rest), ""]))

    def _left_of(self, row: int) -> str:
        return self._row(self.left.lines[row] if row < len(self.left.lines) else "")

    def _row(self, left: str = "", right: str = "") -> str:
        return f"{left}{' ' * (self.left.width - cell_len(left))} {self.rule} {right}"

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()
