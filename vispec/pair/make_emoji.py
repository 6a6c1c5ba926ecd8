"""Draws emoji.png from a font: `python -m vispec.pair.make_emoji NotoEmoji.ttf`.

The sheet that ships was drawn from Noto Emoji (Copyright 2013 Google LLC, SIL Open Font License 1.1), the variable font
`NotoEmoji[wght].ttf` of the PyPI package manimgx-fonts 2026.9.26.post1. Only drawing it anew needs the font.
"""

from __future__ import annotations

import sys
import unicodedata
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from vispec.pair.drawing import EMOJI_SHEET, EMOJI_SIDE
from vispec.pair.words import EMOJI

CHARACTERS = "☀☁☂🏠🔑🔔🍄🐦⚓✈👑🐌🎸✉⛵🌷"  # in the order of EMOJI
WEIGHT = 700  # bold: thin strokes are lost at this size


def draw_sheet(font_path: Path) -> Image.Image:
    """White glyphs side by side on black, each in a square of EMOJI_SIDE pixels."""
    font = ImageFont.truetype(str(font_path), EMOJI_SIDE - 2)
    font.set_variation_by_axes([WEIGHT])
    sheet = Image.new("L", (EMOJI_SIDE * len(EMOJI), EMOJI_SIDE))
    for i, (name, character) in enumerate(zip(EMOJI, CHARACTERS, strict=True)):
        print(name, unicodedata.name(character))
        glyph = Image.new("L", (2 * EMOJI_SIDE, 2 * EMOJI_SIDE))
        ImageDraw.Draw(glyph).text((EMOJI_SIDE, EMOJI_SIDE), character, font=font, fill=255, anchor="mm")
        box = glyph.getbbox()
        if box is None:
            raise ValueError(f"font_path: expected a font with {name} {character}, {font_path} has none")
        glyph = glyph.crop(box)
        glyph.thumbnail((EMOJI_SIDE, EMOJI_SIDE))
        left, top = EMOJI_SIDE * i + (EMOJI_SIDE - glyph.width) // 2, (EMOJI_SIDE - glyph.height) // 2
        sheet.paste(glyph, (left, top))
    return sheet


if __name__ == "__main__":
    draw_sheet(Path(sys.argv[1])).save(EMOJI_SHEET, optimize=True)
