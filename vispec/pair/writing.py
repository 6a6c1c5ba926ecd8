"""Draws pictures with writing: first a layout of boxes and lines of text, then the layout as pixels.

The font is the one inside Pillow (Aileron), set without ligatures or kerning tables of the system, so that nothing
needs to be installed and all machines with one Pillow draw the same.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache

from PIL import Image, ImageDraw, ImageFont

from vispec.pair.documents import Chart, Receipt, Sign, Table, price_text
from vispec.pair.drawing import backdrop, vary
from vispec.pair.scenes import IMAGE_SIZE
from vispec.pair.words import BACKGROUNDS, COLOURS, INKS, Rgb

Document = Sign | Receipt | Chart | Table
PAPER: Rgb = (246, 244, 238)
DARK: Rgb = (24, 24, 30)
LIGHT: Rgb = (240, 240, 236)


@dataclass(frozen=True)
class Box:
    """A filled form; `left, top, right, bottom` in pixels."""

    edges: tuple[float, float, float, float]
    fill: Rgb
    form: str = "rectangular"


@dataclass(frozen=True)
class Line:
    """One line of text, its middle at `y`, starting (`l`), centred (`m`) or ending (`r`) at `x`."""

    text: str
    x: float
    y: float
    size: int
    ink: Rgb
    align: str = "m"
    bold: bool = False


@dataclass(frozen=True)
class Layout:
    """All that is drawn, in drawing order, boxes first."""

    boxes: tuple[Box, ...]
    lines: tuple[Line, ...]


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font."""
    loaded = ImageFont.load_default(size)
    if not isinstance(loaded, ImageFont.FreeTypeFont):
        raise RuntimeError("vispec.pair: expected a Pillow with FreeType, this one was built without")
    return loaded.font_variant(layout_engine=ImageFont.Layout.BASIC)


def text_width(text: str, size: int) -> float:
    """Pixels that a text takes."""
    return font(size).getlength(text)


def _sign_layout(sign: Sign) -> Layout:
    dx, dy = sign.shift
    pad = 14 if sign.form == "oval" else 8
    limit = IMAGE_SIZE - 2 * pad
    sizes = [
        next(s for s in range(28, 9, -1) if text_width(line, s) <= limit and s * 1.15 * len(sign.lines) <= limit)
        for line in sign.lines
    ]
    size = min(sizes)
    pitch = size * 1.15
    height = pitch * len(sign.lines) + (26 if sign.form == "oval" else 12)
    height = min(92, max(40, height))
    middle = IMAGE_SIZE / 2
    board = Box(
        (3 + dx / 2, middle - height / 2 + dy / 2, 93 + dx / 2, middle + height / 2 + dy / 2),
        INKS[sign.board],
        sign.form,
    )
    first = middle - pitch * (len(sign.lines) - 1) / 2
    lines = [
        Line(text, middle + dx, first + pitch * i + dy, size, INKS[sign.ink], bold=True)
        for i, text in enumerate(sign.lines)
    ]
    return Layout((board,), tuple(lines))


def _receipt_layout(receipt: Receipt) -> Layout:
    dx, dy = receipt.shift
    pitch, count = 15, len(receipt.items)
    height = pitch * (count + 2) + 4
    top = (IMAGE_SIZE - height) / 2 + dy / 2
    paper = Box((3, top, 93, top + height), PAPER)
    lines = [Line(receipt.shop, 48 + dx / 2, top + 9, 13, DARK)]
    for i, (name, price) in enumerate((*receipt.items, ("total", receipt.total))):
        y = top + 9 + pitch * (i + 1) + (2 if i == count else 0)
        lines.append(Line(name, 7 + dx / 2, y, 13, DARK, "l"))
        lines.append(Line(price_text(price), 89 + dx / 2, y, 13, DARK, "r"))
    rule = top + 9 + pitch * (count + 0.5) + 0.5
    return Layout((paper, Box((6, rule, 90, rule + 1), (130, 130, 130))), tuple(lines))


def _ink_on(background: str) -> Rgb:
    return DARK if background == "beige" else LIGHT


def _chart_layout(chart: Chart) -> Layout:
    ink, count = _ink_on(chart.background), len(chart.values)
    dx, dy = chart.shift
    boxes, lines = [], []
    top = 17 if chart.title else 3
    if chart.title:
        lines.append(Line(chart.title, 48 + dx, 8 + dy / 2, 13, ink))
    if chart.lying:
        pitch = (IMAGE_SIZE - top - 2) / count
        for i, (label, value, colour) in enumerate(zip(chart.labels, chart.values, chart.colours, strict=True)):
            y = top + pitch * (i + 0.5)
            end = 30 + 48 * value / 20
            boxes.append(Box((30, y - pitch * 0.32, end, y + pitch * 0.32), COLOURS[colour]))
            lines.append(Line(label, 3 + dx / 2, y, 11, ink, "l"))
            lines.append(Line(str(value), end + 2, y, 11, ink, "l"))
        return Layout(tuple(boxes), tuple(lines))
    pitch, floor = (IMAGE_SIZE - 4) / count, 82
    full = floor - top - 12
    for i, (label, value, colour) in enumerate(zip(chart.labels, chart.values, chart.colours, strict=True)):
        x, tip = 2 + pitch * (i + 0.5), floor - full * value / 20
        boxes.append(Box((x - pitch * 0.32, tip, x + pitch * 0.32, floor), COLOURS[colour]))
        lines.append(Line(label, x, 89, 11 if count < 4 else 10, ink))
        lines.append(Line(str(value), x, tip - 6, 11, ink))
    return Layout((*boxes, Box((2, floor, 94, floor + 1), ink)), tuple(lines))


def _table_layout(table: Table) -> Layout:
    dx, dy = table.shift
    pitch = 19
    top = (IMAGE_SIZE - pitch * (len(table.rows) + 1)) / 2 + dy
    first = 31 if len(table.columns) == 2 else 28
    width = (94 - first) / len(table.columns)
    bottom = top + pitch * (len(table.rows) + 1)
    boxes = [Box((2, top, 94, bottom), PAPER), Box((2, top, 94, top + pitch), COLOURS[table.head])]
    boxes += [
        Box((2, top + pitch * (i + 2) - 1, 94, top + pitch * (i + 2)), (190, 190, 186))
        for i in range(len(table.rows) - 1)
    ]
    lines = [
        Line(name, first + width * (j + 0.5) + dx / 2, top + pitch / 2, 11 if len(table.columns) == 2 else 10, LIGHT)
        for j, name in enumerate(table.columns)
    ]
    for i, (name, cells) in enumerate(zip(table.rows, table.cells, strict=True)):
        y = top + pitch * (i + 1.5)
        lines.append(Line(name, 4 + dx / 2, y, 11, DARK, "l"))
        lines += [Line(str(n), first + width * (j + 0.5) + dx / 2, y, 13, DARK) for j, n in enumerate(cells)]
    return Layout(tuple(boxes), tuple(lines))


def layout(document: Document) -> Layout:
    """Where a document's boxes and lines lie."""
    if isinstance(document, Sign):
        return _sign_layout(document)
    if isinstance(document, Receipt):
        return _receipt_layout(document)
    return _chart_layout(document) if isinstance(document, Chart) else _table_layout(document)


def draw_document(document: Document, rng: random.Random) -> Image.Image:
    """The picture of a document; `rng` gives the shades, which no text speaks of."""
    image = backdrop(BACKGROUNDS[document.background], (IMAGE_SIZE, IMAGE_SIZE), rng)
    draw = ImageDraw.Draw(image)
    plan = layout(document)
    for box in plan.boxes:
        fill, edges = vary(box.fill, rng), tuple(round(edge) for edge in box.edges)
        if box.form == "oval":
            draw.ellipse(edges, fill=fill)
        elif box.form == "rounded":
            draw.rounded_rectangle(edges, radius=12, fill=fill)
        else:
            draw.rectangle((edges[0], edges[1], edges[2] - 1, max(edges[1], edges[3] - 1)), fill=fill)
    for line in plan.lines:
        draw.text(
            (round(line.x), round(line.y)),
            line.text,
            line.ink,
            font(line.size),
            line.align + "m",
            stroke_width=0.4 if line.bold else 0,
        )
    return image
