"""Pictures and a model's words on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TextIO

import numpy as np
from PIL import Image
from transformers import PreTrainedTokenizerBase, TextStreamer

TRUE_COLOUR = 1 << 24
RESET = "\x1b[0m"


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
    """`text` with a dot for each character that a terminal would not show or would obey."""
    return "".join(char if char.isprintable() and char != "\ufffd" else "·" for char in text)


class Printer(TextStreamer):
    """Prints the answer as it comes, on one line; nothing in it can steer the terminal."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stream: TextIO) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.stream = stream

    def on_finalized_text(self, text: str, stream_end: bool = False) -> Any:
        """Called by transformers with whole words."""
        self.stream.write(printable(text) + ("\n" if stream_end else ""))
        self.stream.flush()
