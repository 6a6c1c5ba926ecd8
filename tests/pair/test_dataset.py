"""Samples: the same everywhere, of disjoint splits, in the shares stated, drawn as their facts say."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest

from vispec.pair import SHARES, SPLITS, draw, make_sample, make_turns, split_of
from vispec.pair.dataset import FAMILIES
from vispec.pair.documents import Chart, Receipt
from vispec.pair.regions import GRID, PATCH, THIRDS, cell_words, patch_words
from vispec.pair.scenes import IMAGE_SIZE, Scene, adjacent, direction
from vispec.pair.words import COLOURS
from vispec.pair.writing import layout, text_width

DIGEST = """
import hashlib
from vispec.pair import make_sample
digest = hashlib.sha256()
for index in range(60):
    sample = make_sample(5, "train", index)
    digest.update((sample.question + sample.answer + repr(sample.facts)).encode() + sample.image.tobytes())
print(digest.hexdigest())
"""


def digest() -> str:
    """The same sum as DIGEST, in this process and in another order."""
    samples = {index: make_sample(5, "train", index) for index in reversed(range(60))}
    total = hashlib.sha256()
    for index in range(60):
        sample = samples[index]
        total.update((sample.question + sample.answer + repr(sample.facts)).encode() + sample.image.tobytes())
    return total.hexdigest()


def test_samples_are_the_same_in_every_process():
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    other = subprocess.run([sys.executable, "-c", DIGEST], env=environment, capture_output=True, text=True, check=True)
    assert other.stdout.strip() == digest()


def test_seed_split_and_index_each_give_other_samples():
    keys = [(0, "train", 0), (1, "train", 0), (0, "test", 0), (0, "train", 1)]
    assert len({make_sample(*key).answer for key in keys}) == len(keys)


def test_samples_are_distinct():
    turns = [
        (picture.key(), turns[0].question) for picture, turns, _ in (make_turns(0, "train", i) for i in range(3000))
    ]
    assert len(set(turns)) > 0.999 * len(turns)


def test_splits_share_no_picture():
    pictures = {split: [make_turns(s, split, i)[0] for s in (0, 1) for i in range(120)] for split in SPLITS}
    for split, found in pictures.items():
        assert {split_of(picture) for picture in found} == {split}
    keys = [{picture.key() for picture in found} for found in pictures.values()]
    assert not keys[0] & keys[1] | keys[0] & keys[2] | keys[1] & keys[2]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_held_out_pictures(family):
    rng = random.Random(0)
    splits = Counter(split_of(FAMILIES[family].sample(rng)) for _ in range(2000))
    for split, share in SPLITS.items():
        expected = 2000 * share / sum(SPLITS.values())
        assert abs(splits[split] - expected) < 4.5 * expected**0.5


def test_jitter_and_background_do_not_move_a_scene_to_another_split():
    scene = FAMILIES["scene"].sample(random.Random(3))
    moved = tuple(replace(thing, x=thing.x + 1) for thing in scene.things)
    assert split_of(replace(scene, background="navy", things=moved)) == split_of(scene)
    assert replace(scene, things=scene.things[1:]).key() != scene.key()


def test_unknown_split():
    with pytest.raises(ValueError, match="split: expected one of train, validation, test, got 'held-out'"):
        make_sample(0, "held-out", 0)


def test_kinds_come_in_their_shares():
    count = 4000
    kinds = Counter(make_turns(2, "train", i)[1][0].kind for i in range(count))
    assert abs(sum(SHARES.values()) - 1) < 1e-9
    assert set(kinds) == set(SHARES)
    for kind, share in SHARES.items():
        assert abs(kinds[kind] - count * share) < 4.5 * (count * share) ** 0.5


def test_own_shares():
    shares = {"scene/where": 0.5, "sign/read": 0.5}
    assert {make_sample(0, "train", i, shares).kind for i in range(20)} == set(shares)


def test_turns_are_different_questions_about_one_picture():
    for index in range(60):
        picture, turns, _ = make_turns(0, "train", index, count=3)
        assert len({turn.question for turn in turns}) == 3
        assert turns[0] == make_turns(0, "train", index)[1][0]
        assert picture == make_sample(0, "train", index).facts.picture
        assert all(turn.kind.split("/")[1] != "describe" for turn in turns[1:])


def test_images_show_their_scene():
    """The colour at a thing's centre, the background in empty cells."""
    checked = 0
    for index in range(400):
        picture, _, rng = make_turns(0, "train", index)
        if not isinstance(picture, Scene):
            continue
        image = draw(picture, rng)
        assert (image.size, image.mode) == ((IMAGE_SIZE, IMAGE_SIZE), "RGB")
        for thing in () if picture.has_emoji else picture.things:
            pixel = image.getpixel((round(thing.x), round(thing.y)))
            nearest = min(
                COLOURS, key=lambda name: sum((a - b) ** 2 for a, b in zip(COLOURS[name], pixel, strict=True))
            )
            assert nearest == thing.colour
            checked += 1
    assert checked > 500


def test_things_keep_apart_and_inside():
    for index in range(300):
        picture = make_turns(0, "train", index)[0]
        if isinstance(picture, Scene):
            assert 2 <= len(picture.things) <= 5
            for thing in picture.things:
                assert (int(thing.y // 32), int(thing.x // 32)) == thing.place
            for a in picture.things:
                for b in picture.things:
                    if adjacent(a, b):
                        assert (abs(a.x - b.x), abs(a.y - b.y)) != (0, 0)
                        assert direction(a, b) == tuple(-axis for axis in direction(b, a))


def test_writing_fits_its_picture():
    for index in range(1200):
        picture = make_turns(0, "train", index)[0]
        if isinstance(picture, Scene):
            continue
        spans = []
        for line in layout(picture).lines:
            width = text_width(line.text, line.size)
            left = line.x - {"l": 0.0, "m": 0.5, "r": 1.0}[line.align] * width
            assert left >= -0.5
            assert left + width <= IMAGE_SIZE + 0.5
            assert line.size / 2 - 1 <= line.y <= IMAGE_SIZE - line.size / 2 + 1.5
            spans.append((round(line.y), left, left + width))
        for y, left, right in spans:
            others = [(a, b) for z, a, b in spans if z == y and (a, b) != (left, right)]
            assert all(right <= a + 0.5 or b <= left + 0.5 for a, b in others), picture


def test_receipts_add_up_and_bars_are_as_long_as_their_values():
    for index in range(400):
        picture = make_turns(0, "train", index)[0]
        if isinstance(picture, Receipt):
            assert picture.total == sum(price for _, price in picture.items)
        if isinstance(picture, Chart):
            edges = [box.edges for box in layout(picture).boxes[: len(picture.values)]]
            lengths = [right - left if picture.lying else bottom - top for left, top, right, bottom in edges]
            ratios = [length / value for length, value in zip(lengths, picture.values, strict=True)]
            assert max(ratios) - min(ratios) < 1e-9


def spelt(text: str) -> str:
    return text.replace(" ", "")


def batched(patches: list[dict[str, str]]) -> list[list[dict[str, str]]]:
    """Rows of the grid."""
    return [patches[start : start + GRID] for start in range(0, len(patches), GRID)]


def test_patches_tell_what_they_show():
    seen = Counter()
    for index in range(200):
        picture = make_turns(0, "train", index)[0]
        patches = patch_words(picture)
        assert len(patches) == GRID * GRID
        if isinstance(picture, Scene):
            for thing in picture.things:
                patch = patches[GRID * int(thing.y // PATCH) + int(thing.x // PATCH)]
                assert (patch["colour"], patch["noun"]) == (thing.colour, thing.noun)
                seen["thing"] += 1
            cells = cell_words(picture)
            assert sum(words["noun"] == "nothing" for words in cells) == 16 * (9 - len(picture.things))
        else:
            lines = layout(picture).lines
            read = ["".join(patch.get(third, "") for patch in row for third in THIRDS) for row in batched(patches)]
            seen["line"] += len(lines)
            seen["spelt"] += sum(any(spelt(line.text) in spelt(text) for text in read) for line in lines)
            seen["writing"] += 1
    assert min(seen["thing"], seen["writing"]) > 30
    assert seen["spelt"] > 0.9 * seen["line"]  # narrow letters of the smallest writing share a third at times
