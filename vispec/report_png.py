"""The report as one picture, drawn with pillow and its own font."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache

from PIL import Image, ImageDraw, ImageFont

from vispec.comparison import speed_rows, stage_rows
from vispec.report import Report, Token
from vispec.terminal import printable

WIDTH, MARGIN, GAP = 1200, 40, 24
HALF = (WIDTH - 2 * MARGIN - GAP) // 2
PICTURE = 288  # pixels a side
SIZE, LINE = 18, 28  # of text and its lines
TEXT, MUTED, RULE = "#1c2127", "#5c6670", "#d9dde2"
BAR, OWN, DRAFTED = "#2f6fc4", "#b04a05", ("#cfe3fb", "#c9eedd")  # drafted tokens of even and odd cycles
STAGE_COLOURS = ("#c2478f", "#8a63b8", "#2a9d78", "#2f6fc4", "#d9a21b", "#8b949e")
CHART = 130  # pixels of the bars' height


def draw_report(report: Report) -> Image.Image:
    """What the page shows, as high as the answers need."""
    canvas = _Canvas()
    canvas.heading(report)
    columns = canvas.answer(MARGIN, "Without draft: one pass of the target a token", report.plain_tokens)
    beside = canvas.answer(MARGIN + HALF + GAP, "With draft: one pass of the target a cycle", report.speculative_tokens)
    canvas.y = max(columns, beside)
    canvas.key()
    canvas.chart(report)
    comparison = report.comparison
    speeds = canvas.table(MARGIN, speed_rows(comparison), ())
    stages = canvas.table(MARGIN + HALF + GAP, stage_rows(comparison), STAGE_COLOURS)
    canvas.y = max(speeds, stages) + GAP
    canvas.facts(report.facts, report.note)
    return canvas.image.crop((0, 0, WIDTH, canvas.y + MARGIN))


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


class _Canvas:
    """A picture that is drawn from the top down; `y` is where the next part starts."""

    def __init__(self) -> None:
        self.y = MARGIN
        self._set_image(Image.new("RGB", (WIDTH, 2000), "white"))

    def _set_image(self, image: Image.Image) -> None:
        self.image, self.draw = image, ImageDraw.Draw(image)

    def _reserve(self, height: int) -> None:
        """Make the picture higher where something ends at `height`."""
        if height + 2 * MARGIN > self.image.height:
            higher = Image.new("RGB", (WIDTH, 2 * height), "white")
            higher.paste(self.image)
            self._set_image(higher)

    def _text(self, x: float, y: float, text: str, fill: str = TEXT, size: int = SIZE, anchor: str = "la") -> None:
        self.draw.text((x, y), printable(text), fill=fill, font=_font(size), anchor=anchor)

    def _paragraph(self, x: int, text: str, width: int, fill: str = TEXT, size: int = SIZE) -> None:
        """Words set into lines from `y` on, which moves below them."""
        line = ""
        for word in printable(text).split():
            longer = f"{line} {word}".lstrip()
            if line and _font(size).getlength(longer) > width:
                self._text(x, self.y, line, fill, size)
                self.y, longer = self.y + size * 3 // 2, word
            line = longer
        self._text(x, self.y, line, fill, size)
        self.y += size * 3 // 2
        self._reserve(self.y)

    def heading(self, report: Report) -> None:
        """Picture, question, speed-up and whether both agree."""
        subject, comparison = report.subject, report.comparison
        scale = PICTURE / max(subject.image.size)
        size = [max(1, round(scale * side)) for side in subject.image.size]
        self.image.paste(subject.image.resize((size[0], size[1]), Image.Resampling.NEAREST), (MARGIN, MARGIN))
        x, width = MARGIN + PICTURE + GAP, WIDTH - 2 * MARGIN - PICTURE - GAP
        self._paragraph(x, subject.question, width, size=26)
        self._paragraph(x, f"Picture: {subject.source}, as the target sees it", width, MUTED)
        self._text(x, self.y + 10, speed_rows(comparison)[1][3], BAR, 60)
        self.y += 90
        self._paragraph(x, report.claim, width)
        self._paragraph(x, comparison.verdict, width, MUTED if comparison.identical else OWN)
        self.y = max(self.y, MARGIN + PICTURE) + GAP

    def answer(self, left: int, title: str, tokens: Sequence[Token]) -> int:
        """Words with their tokens' colours; returns where they end."""
        self._text(left, self.y, title, MUTED)
        x, y = float(left), self.y + LINE + 4
        for word in _words(tokens):
            widths = [_font(SIZE).getlength(printable(text)) for text, _ in word]
            needed = [sum(widths), *widths[1:]]  # a whole word goes to the next line; one that fills lines is cut
            for (text, token), width, room in zip(word, widths, needed, strict=True):
                if text == "\n" or (x > left and x + room > left + HALF):
                    x, y = float(left), y + LINE
                    self._reserve(y + LINE)
                if text != "\n":
                    self._piece(x, y, text, width, token)
                    x += width
        return y + LINE + GAP

    def _piece(self, x: float, y: int, text: str, width: float, token: Token) -> None:
        if token.origin.drafted:
            self.draw.rectangle((x, y - 2, x + width, y + LINE - 6), fill=DRAFTED[token.origin.cycle % 2])
        self._text(x, y, text, TEXT if token.origin.drafted else OWN)

    def key(self) -> None:
        """What the colours mean."""
        x = float(MARGIN)
        for text, fill, back in (
            ("draft tokens, accepted", TEXT, DRAFTED[0]),
            ("those of the next cycle", TEXT, DRAFTED[1]),
            ("the target's own token", OWN, "white"),
        ):
            end = x + _font(SIZE).getlength(text) + 16
            self.draw.rectangle((x, self.y - 2, end, self.y + LINE - 6), fill=back)
            self._text(x + 8, self.y, text, fill)
            x = end + GAP
        self.y += LINE + GAP
        self._reserve(self.y + 1000)

    def chart(self, report: Report) -> None:
        """A bar for each cycle, as high as it accepted."""
        most, values = report.comparison.most_accepted, report.comparison.num_accepted
        self._text(MARGIN, self.y, "Accepted draft tokens in each cycle", MUTED)
        bottom = self.y + LINE + 8 + CHART
        for value in range(0, most + 1, 1 if most <= 8 else 4):
            y = bottom - CHART * value / most
            self.draw.line((MARGIN + 24, y, WIDTH - MARGIN, y), fill=RULE)
            self._text(MARGIN + 16, y, str(value), MUTED, 14, "rm")
        step = (WIDTH - 2 * MARGIN - 32) / max(len(values), 1)
        for index, value in enumerate(values):
            x, width = MARGIN + 28 + step * index, min(0.8 * step, 24)
            if value:
                self.draw.rectangle((x, bottom - CHART * value / most, x + width, bottom), fill=BAR)
        self.y = bottom + 12
        self._paragraph(MARGIN, report.summary, WIDTH - 2 * MARGIN, MUTED, 16)
        self.y += GAP

    def table(self, left: int, rows: Sequence[tuple[str, ...]], colours: Sequence[str]) -> int:
        """Cells right-aligned but for the first column, with a square of its colour; returns where it ends."""
        y, indent = self.y, 20 if colours else 0
        for index, row in enumerate(rows):
            fill = TEXT if index else MUTED
            if index and colours:
                self.draw.rectangle((left, y + 4, left + 12, y + 16), fill=colours[index - 1])
            self._text(left + (indent if index else 0), y, row[0], fill)
            for column, cell in enumerate(row[1:], start=1):
                self._text(left + HALF * (0.25 + 0.25 * column), y, cell, fill, anchor="ra")
            y += LINE
            self.draw.line((left, y - 4, left + HALF, y - 4), fill=RULE)
        return y

    def facts(self, facts: Mapping[str, str], note: str | None) -> None:
        """Models, versions and machine, a line each."""
        for label, text in facts.items():
            self._paragraph(MARGIN, f"{label}: {text}", WIDTH - 2 * MARGIN, MUTED, 16)
        if note:
            self._paragraph(MARGIN, note, WIDTH - 2 * MARGIN, MUTED, 16)


def _words(tokens: Sequence[Token]) -> list[list[tuple[str, Token]]]:
    """Each word with the space behind it, as pieces of tokens; a newline is a word of its own."""
    pieces = [(piece, token) for token in tokens for piece in re.findall(r"\n|[^\S\n]+|\S+", token.text)]
    words: list[list[tuple[str, Token]]] = [[]]
    for piece, token in pieces:
        last = words[-1][-1][0] if words[-1] else ""
        if piece == "\n" or (last.isspace() and not piece.isspace()):
            words.append([])
        words[-1].append((piece, token))
    return words
