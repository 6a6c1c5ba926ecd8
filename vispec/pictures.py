"""The demo's pictures: held out from the pair's training, one of each family, each with a question."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).with_name("assets")
QUESTION = "Describe the picture as fully as you can."  # about a picture of the user's


class Picture(NamedTuple):
    """`number` is its index in `vispec.pair.make_sample(0, "test", ...)`, which drew it."""

    number: int
    question: str


PICTURES = {
    "scene": Picture(30, QUESTION),
    "emoji": Picture(117, "Please describe what is shown as fully as you can, by rows."),
    "sign": Picture(14, "What does the sign look like, and what does it say?"),
    "receipt": Picture(127, "Read the receipt line by line."),
    "chart": Picture(118, "Explain the chart bar by bar."),
    "table": Picture(12, "Put the table into words row by row."),
}


def picture_file(name: str) -> Path:
    """Where the picture `name` lies."""
    return FOLDER / f"{name}.png"
