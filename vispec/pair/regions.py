"""What each patch of a picture shows, in words: labels for aligning the vision tower with the word embeddings.

The tower learns fastest when every image token is first taught to say what lies under it (dense, exact labels) before
it meets sentences. Words are given as the answers use them, in their plainest form.
"""

from __future__ import annotations

from dataclasses import dataclass

from vispec.pair.documents import Chart, Sign
from vispec.pair.scenes import CELL, IMAGE_SIZE, RADII, Scene
from vispec.pair.scoring import Picture
from vispec.pair.style import COLUMN_NAMES, ROW_NAMES
from vispec.pair.writing import layout, text_width

PATCH = 8
GRID = IMAGE_SIZE // PATCH
THIRDS = ("left", "character", "right")  # roles of the characters in a patch
THIRD = PATCH / len(THIRDS)


@dataclass(frozen=True)
class Region:
    """A part of the picture and its words.

    Args:
        box: left, top, right, bottom in pixels.
        words: by role: a thing's size, colour, noun, row and column; of writing the text, the character and its ink.
    """

    box: tuple[float, float, float, float]
    words: dict[str, str]


def _scene_regions(scene: Scene) -> list[Region]:
    found = []
    for thing in scene.things:
        radius = RADII[thing.size]
        words = {
            "colour": thing.colour,
            "noun": thing.noun,
            "row": ROW_NAMES[0][thing.row],
            "column": COLUMN_NAMES[0][thing.col],
        }
        if thing.size is not None:
            words["size"] = thing.size
        found.append(Region((thing.x - radius, thing.y - radius, thing.x + radius, thing.y + radius), words))
    return found


def _document_regions(picture: Picture) -> list[Region]:
    if isinstance(picture, Scene):
        return []
    found = []
    plan = layout(picture)
    if isinstance(picture, Sign):
        found.append(Region(plan.boxes[0].edges, {"colour": picture.board, "noun": "sign"}))
    if isinstance(picture, Chart):
        bars = zip(plan.boxes, picture.colours, picture.labels, picture.values, strict=False)
        found += [Region(box.edges, {"colour": c, "noun": "bar", "text": t, "value": str(v)}) for box, c, t, v in bars]
    for line in plan.lines:
        width = text_width(line.text, line.size)
        left = line.x - {"l": 0.0, "m": 0.5, "r": 1.0}[line.align] * width
        for i, character in enumerate(line.text):
            start, end = (left + text_width(line.text[:n], line.size) for n in (i, i + 1))
            box = (start, line.y - line.size / 2, end, line.y + line.size / 2)
            found.append(Region(box, {"text": line.text, "character": character}))
    return found


def regions(picture: Picture) -> list[Region]:
    """Things, boards, bars and characters, in the order in which they are drawn."""
    return _scene_regions(picture) if isinstance(picture, Scene) else _document_regions(picture)


def patch_words(picture: Picture) -> list[dict[str, str]]:
    """For each of the 12 x 12 patches, row by row: the background and the words of what was drawn at its centre.

    Writing is cut into thirds of a patch along each line: a third has the character whose middle lies in it, or a
    space, so that a line's thirds read one after the other spell it.
    """
    patches = [{"background": picture.background} for _ in range(GRID * GRID)]
    found = regions(picture)
    for region in found:
        left, top, right, bottom = region.box
        words = {role: word for role, word in region.words.items() if role != "character"}
        for row in range(GRID):
            for col in range(GRID):
                x, y = PATCH * (col + 0.5), PATCH * (row + 0.5)
                if left <= x < right and top <= y < bottom:
                    patches[GRID * row + col] = {"background": picture.background, **words}
    characters = [region for region in found if "character" in region.words]
    for region in characters:
        for third in range(int(region.box[0] / THIRD), int(region.box[2] / THIRD) + 1):
            _write(patches, region, third, " ")
    for region in characters:
        _write(patches, region, int((region.box[0] + region.box[2]) / (2 * THIRD)), region.words["character"])
    return patches


def _write(patches: list[dict[str, str]], region: Region, third: int, character: str) -> None:
    col, place = divmod(third, len(THIRDS))
    row = int((region.box[1] + region.box[3]) / (2 * PATCH))
    if 0 <= col < GRID:
        patches[GRID * row + col][THIRDS[place]] = character


def cell_words(scene: Scene) -> list[dict[str, str]]:
    """For each patch of a scene, the words of its whole cell: those of the thing in it, or `nothing`."""
    words = []
    for patch in range(GRID * GRID):
        row, col = (PATCH * i // CELL for i in divmod(patch, GRID))
        thing = scene.at(row, col)
        place = {"background": scene.background, "row": ROW_NAMES[0][row], "column": COLUMN_NAMES[0][col]}
        if thing is None:
            words.append({**place, "noun": "nothing"})
        else:
            size = {} if thing.size is None else {"size": thing.size}
            words.append({**place, **size, "colour": thing.colour, "noun": thing.noun})
    return words
