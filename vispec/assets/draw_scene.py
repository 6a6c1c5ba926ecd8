"""Draws scene.png, the demo's image: `python draw_scene.py`. Needs pillow."""

from __future__ import annotations

import random
from pathlib import Path

from PIL import Image, ImageDraw

SIZE = (336, 252)
SCALE = 4  # drawn larger, then reduced: smooth edges
SEED = 7


def draw_scene() -> Image.Image:
    """A house and a tree by a lake with a red boat, under a morning sun."""
    rng = random.Random(SEED)
    width, height = (SCALE * side for side in SIZE)
    image = Image.new("RGB", (width, height))
    draw = ImageDraw.Draw(image)

    def box(x: float, y: float, w: float, h: float) -> tuple[float, float, float, float]:
        """Percent of the picture to pixels."""
        return x * width / 100, y * height / 100, (x + w) * width / 100, (y + h) * height / 100

    def polygon(points: list[tuple[float, float]], fill: tuple[int, int, int]) -> None:
        draw.polygon([(x * width / 100, y * height / 100) for x, y in points], fill=fill)

    for row in range(height):  # sky
        t = row / height
        draw.line((0, row, width, row), fill=(int(92 + 150 * t), int(160 + 60 * t), int(235 - 40 * t)))
    draw.ellipse(box(74, 8, 15, 20), fill=(255, 214, 74))  # sun
    for x, y, size in ((14, 12, 9), (20, 8, 12), (28, 13, 9), (52, 20, 7), (57, 17, 9)):  # clouds
        draw.ellipse(box(x, y, size, 0.75 * size), fill=(250, 250, 252))
    polygon([(30, 62), (55, 28), (84, 62)], (96, 112, 148))  # mountains
    polygon([(49, 36), (55, 28), (62, 36.5), (58, 39), (55, 36), (52, 39)], (244, 246, 250))
    polygon([(58, 62), (82, 36), (108, 62)], (118, 134, 168))

    draw.rectangle(box(0, 58, 100, 42), fill=(44, 112, 176))  # lake
    for _ in range(70):
        draw.rectangle(box(rng.uniform(40, 100), rng.uniform(61, 99), rng.uniform(2, 7), 0.7), fill=(96, 158, 212))
    polygon([(0, 56), (30, 54), (47, 62), (52, 78), (46, 100), (0, 100)], (92, 158, 72))  # shore
    for _ in range(60):
        petal = box(rng.uniform(0, 42), rng.uniform(68, 98), 0.9, 1.2)
        draw.ellipse(petal, fill=rng.choice(((250, 232, 90), (240, 240, 240), (222, 92, 120))))

    draw.rectangle(box(9, 48, 18, 22), fill=(236, 222, 190))  # house
    polygon([(6, 48), (18, 33), (30, 48)], (176, 66, 52))
    draw.rectangle(box(16, 58, 5, 12), fill=(112, 72, 44))
    draw.rectangle(box(11, 52, 4, 5), fill=(130, 196, 232))
    draw.rectangle(box(22, 52, 4, 5), fill=(130, 196, 232))
    draw.rectangle(box(36.5, 58, 2.5, 15), fill=(104, 70, 40))  # tree
    for x, y, size in ((31, 42, 10), (36, 36, 11), (39, 45, 9), (34, 48, 9)):
        draw.ellipse(box(x, y, size, 1.3 * size), fill=(46, 122 + rng.randrange(-12, 12), 58))

    polygon([(66, 78), (92, 78), (87, 87), (71, 87)], (206, 48, 44))  # boat
    draw.rectangle(box(78, 54, 1, 24), fill=(84, 62, 44))
    polygon([(79.6, 55), (79.6, 75), (90, 75)], (248, 248, 244))
    polygon([(77.5, 58), (77.5, 75), (70, 75)], (232, 232, 226))
    return image.resize(SIZE, Image.Resampling.LANCZOS)


if __name__ == "__main__":
    draw_scene().save(Path(__file__).with_name("scene.png"), optimize=True)
