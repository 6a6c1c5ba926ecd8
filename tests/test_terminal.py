"""What is drawn on a terminal: pictures, words in columns, bars."""

from __future__ import annotations

import io
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyte
import pytest
from PIL import Image

from vispec.terminal import BLOCKS, TRUE_COLOUR, Column, SideBySide, bars, can_show, num_colours, printable, render

COLUMNS, ROWS = 40, 12
WIDTH = (COLUMNS - 4) // 2


@pytest.fixture
def terminal() -> Iterator[Any]:
    """A stream that is a terminal."""
    controller, follower = os.openpty()
    with os.fdopen(follower, "w", encoding="utf-8") as stream:
        yield stream
    os.close(controller)


def test_colours(terminal: Any, tmp_path: Path) -> None:
    many = {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
    assert num_colours(terminal, many) == TRUE_COLOUR
    assert num_colours(terminal, {"TERM": "xterm-direct"}) == TRUE_COLOUR
    assert num_colours(terminal, {"TERM": "screen-256color"}) == 256
    assert num_colours(terminal, many | {"NO_COLOR": ""}) == TRUE_COLOUR, "no-color.org: an empty one is none"
    for environ in ({}, many | {"NO_COLOR": "1"}, many | {"TERM": "dumb"}, {"TERM": "vt100"}):
        assert num_colours(terminal, environ) == 0
    assert can_show(BLOCKS, terminal)
    terminal.reconfigure(encoding="latin-1")
    assert not can_show(BLOCKS, terminal)
    assert num_colours(terminal, many) == 0
    with (tmp_path / "file").open("w", encoding="utf-8") as file:
        assert num_colours(file, many) == 0


def test_render() -> None:
    image = Image.new("RGB", (1, 2), (255, 0, 0))
    image.putpixel((0, 1), (0, 135, 95))
    assert render(image, 1, 5, TRUE_COLOUR) == "\x1b[38;2;255;0;0;48;2;0;135;95m▀\x1b[0m"
    assert render(image, 9, 1, 256) == "\x1b[38;5;196;48;5;29m▀\x1b[0m"
    lines = render(Image.new("L", (300, 200)), 60, 10, 256).split("\n")
    assert len(lines) == 10
    assert {line.count("▀") for line in lines} == {30}
    assert render(Image.new("RGB", (1, 5000)), 60, 22, 256).count("▀") == 22
    assert render(Image.new("RGB", (5000, 1)), 60, 22, 256).count("▀") == 60


def test_words_cannot_steer_the_terminal() -> None:
    assert printable("a\x1b[2Jb\rc\n\u202ed\ufffd é 図") == "a·[2Jb·c\n·d· é 図"


def test_bars() -> None:
    assert bars([0, 4, 2, 1, 3], 4, True) == ("▁█▄▂▆", "▁ 0   ▂ 1   ▄ 2   ▆ 3   █ 4")
    assert bars([0, 7, 3], 7, True)[0] == "▁█▄"
    assert bars([0, 4, 2], 4, False) == ("042", "0 to 4")
    assert bars([0, 9, 11, 36], 40, True) == ("09b+", "0 to 40; letters go on from 9; + is more than 35")
    assert bars([], 4, True)[0] == ""


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", [""]),
        ("one two three four", ["one two ", "three ", "four"]),
        ("12345678 9", ["12345678", "9"]),
        ("123 5678  9", ["123 5678", "9"]),
        ("abc 123456789abcdef0 x", ["abc ", "12345678", "9abcdef0", "x"]),
        ("a\n\nb", ["a", "", "b"]),
        ("図図 図図図図図 e", ["図図 ", "図図図図", "図 e"]),
    ],
)
def test_column(text: str, lines: list[str]) -> None:
    column = Column(8)
    assert "".join(column.add(text)) == "\n".join(lines)
    assert column.lines == lines


def show(left: str, right: str, rows: int, start: int = 0) -> list[str]:
    """What stands on a screen of `rows` lines, and above it, after both texts came in pieces."""
    screen = pyte.HistoryScreen(COLUMNS, rows, history=200)
    screen.set_mode(pyte.modes.LNM)  # as a terminal's driver does: a newline is also a return
    stream = io.StringIO("\n" * start)
    stream.seek(0, io.SEEK_END)
    rng = random.Random(0)
    with SideBySide(stream, ("LEFT", "RIGHT"), COLUMNS, rows) as columns:
        for text, write in ((left, columns.write_left), (right, columns.write_right)):
            while text:
                cut = rng.randint(1, 9)
                # whole words, as they come from transformers
                cut = text.find(" ", cut) + 1 or len(text)
                write(text[:cut])
                text = text[cut:]
            if write == columns.write_left:
                columns.end_left()
    stream.write("after")
    pyte.Stream(screen).feed(stream.getvalue())
    above = ["".join(line[x].data for x in range(COLUMNS)) for line in screen.history.top]
    return [line.rstrip() for line in (*above, *screen.display)]


def rows_of(left: str, right: str) -> list[str]:
    """The rows in which both texts should stand."""
    texts = []
    for text in (left, right):
        column = Column(WIDTH)
        for _ in column.add(text):
            pass
        texts.append([line.rstrip() for line in column.lines])
    height = max(map(len, texts))
    cells = [[*lines, *[""] * (height - len(lines))] for lines in texts]
    return [f"{one:<{WIDTH}} │ {other}".rstrip() for one, other in zip(*cells, strict=True)]


@pytest.mark.parametrize("start", [0, 8])
@pytest.mark.parametrize("words", [(20, 20), (20, 3), (3, 20), (1, 0)])
def test_columns_stand_beside_each_other(words: tuple[int, int], start: int) -> None:
    """Also where the screen scrolls meanwhile."""
    left, right = (" ".join(["word", "a", "longer"][i % 3] for i in range(count)) for count in words)
    lines = show(left, right, ROWS, start)[start:]
    expected = [f"{'LEFT':<{WIDTH}} │ RIGHT", *rows_of(left, right), "after"]
    assert lines[: len(expected)] == expected
    assert not any(lines[len(expected) :])


def test_columns_higher_than_the_screen() -> None:
    text = " ".join(f"word{i}" for i in range(60))
    lines = [line for line in show(text, text, ROWS) if line]
    title = f"{'LEFT':<{WIDTH}} │ RIGHT"
    expected = [title, *rows_of(text, ""), title, *rows_of(text, text), "after"]
    assert len(rows_of(text, "")) > ROWS
    assert lines == expected


def test_columns_left_unfinished() -> None:
    """An interruption leaves the cursor below all that is there."""
    screen = pyte.Screen(COLUMNS, ROWS)
    screen.set_mode(pyte.modes.LNM)
    stream = io.StringIO()
    with SideBySide(stream, ("L", "R"), COLUMNS, ROWS) as columns:
        columns.write_left("word " * 12)
        columns.end_left()
        columns.write_right("word ")
    pyte.Stream(screen).feed(stream.getvalue())
    assert screen.cursor.y == 1 + len(columns.left.lines)
    assert [line.rstrip() for line in screen.display[1 : screen.cursor.y]] == rows_of("word " * 12, "word")


def test_columns_without_line_drawing() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with SideBySide(stream, ("L", "R"), COLUMNS, ROWS) as columns:
        columns.write_left("word")
        columns.end_left()
    stream.seek(0)
    assert stream.read().startswith(f"{'L':<{WIDTH}} | R\n")
