"""Draws scenes. Shapes are drawn four times larger, then reduced: smooth edges."""

from __future__ import annotations

import math
import random
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageDraw

from vispec.pair.scenes import IMAGE_SIZE, RADII, Scene, Thing
from vispec.pair.words import BACKGROUNDS, COLOURS, EMOJI, Rgb

SCALE = 4
EMOJI_SHEET = Path(__file__).with_name("emoji.png")
EMOJI_SIDE = 28
TILT = 9.0  # degrees; a square turned by more would pass for a diamond
Points = list[tuple[float, float]]


def _regular(corners: int, start: float) -> Points:
    """Corners on the unit circle, the first at `start` degrees."""
    angles = (math.radians(start + 360 * i / corners) for i in range(corners))
    return [(math.cos(a), math.sin(a)) for a in angles]


def _star() -> Points:
    outer, inner = _regular(5, -90), _regular(5, -54)
    return [point for o, (x, y) in zip(outer, inner, strict=True) for point in (o, (0.42 * x, 0.42 * y))]


OUTLINES: dict[str, Points] = {  # a unit circle around each; scaled so that all look equally large
    "square": [(0.84 * s * 1.02, 0.84 * t * 1.02) for s, t in ((-1, -1), (1, -1), (1, 1), (-1, 1))],
    "triangle": [(1.12 * x, 1.12 * y + 0.2) for x, y in _regular(3, -90)],
    "star": [(1.16 * x, 1.16 * y + 0.06) for x, y in _star()],
    "diamond": [(0.0, -1.14), (0.8, 0.0), (0.0, 1.14), (-0.8, 0.0)],
    "cross": [
        (-0.3, -1.0), (0.3, -1.0), (0.3, -0.3), (1.0, -0.3), (1.0, 0.3), (0.3, 0.3),
        (0.3, 1.0), (-0.3, 1.0), (-0.3, 0.3), (-1.0, 0.3), (-1.0, -0.3), (-0.3, -0.3),
    ],
}  # fmt: skip


def vary(colour: Rgb, rng: random.Random, spread: int = 12) -> Rgb:
    """A shade of `colour`: lighter or darker by up to `spread`, the hue nearly the same."""
    light = rng.randint(-spread, spread)
    r, g, b = (min(255, max(0, c + light + rng.randint(-2, 2))) for c in colour)
    return r, g, b


def backdrop(colour: Rgb, size: tuple[int, int], rng: random.Random) -> Image.Image:
    """A plain surface, or one that grows lighter or darker downwards."""
    colour = vary(colour, rng, 8)
    if rng.random() < 0.5:
        return Image.new("RGB", size, colour)
    end = vary(colour, rng, 18)
    column = Image.new("RGB", (1, 2))
    column.putdata([colour, end])
    return column.resize(size, Image.Resampling.BILINEAR)


@lru_cache(maxsize=1)
def _emoji_masks() -> dict[str, Image.Image]:
    with Image.open(EMOJI_SHEET) as sheet:
        sheet.load()
        boxes = ((EMOJI_SIDE * i, 0, EMOJI_SIDE * (i + 1), EMOJI_SIDE) for i in range(len(EMOJI)))
        return {name: sheet.crop(box) for name, box in zip(EMOJI, boxes, strict=True)}


def _draw_shape(draw: ImageDraw.ImageDraw, thing: Thing, rng: random.Random) -> None:
    fill = vary(COLOURS[thing.colour], rng)
    x, y, radius = thing.x * SCALE, thing.y * SCALE, RADII[thing.size] * SCALE * rng.uniform(0.96, 1.04)
    if thing.noun == "circle":
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
        return
    turn = math.radians(rng.uniform(-TILT, TILT))
    cos, sin = radius * math.cos(turn), radius * math.sin(turn)
    draw.polygon([(x + u * cos - v * sin, y + u * sin + v * cos) for u, v in OUTLINES[thing.noun]], fill=fill)


def draw_scene(scene: Scene, rng: random.Random) -> Image.Image:
    """The picture of a scene; `rng` gives shades and tilts, which no text speaks of."""
    if scene.has_emoji:
        image = backdrop(BACKGROUNDS[scene.background], (IMAGE_SIZE, IMAGE_SIZE), rng)
        for thing in scene.things:
            corner = round(thing.x - EMOJI_SIDE / 2), round(thing.y - EMOJI_SIDE / 2)
            image.paste(vary(COLOURS[thing.colour], rng), corner, _emoji_masks()[thing.noun])
        return image
    image = backdrop(BACKGROUNDS[scene.background], (IMAGE_SIZE * SCALE, IMAGE_SIZE * SCALE), rng)
    draw = ImageDraw.Draw(image)
    for thing in scene.things:
        _draw_shape(draw, thing, rng)
    return image.reduce(SCALE)
