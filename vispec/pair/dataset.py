"""Samples as pure functions of (seed, split, index): nothing is stored, any sample can be made alone.

The splits share no picture: a picture's canonical facts are hashed, and the hash says which split may show it. Seeds
and indices only choose among a split's own pictures.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import ModuleType

from PIL import Image

from vispec.pair import chart_questions, comparisons, questions, receipt_questions, sign_questions, table_questions
from vispec.pair.asking import Turn
from vispec.pair.documents import sample_chart, sample_receipt, sample_sign, sample_table
from vispec.pair.drawing import draw_scene
from vispec.pair.remarks import remarks
from vispec.pair.scenes import Scene, sample_scene
from vispec.pair.scoring import Facts, Picture
from vispec.pair.writing import draw_document

SPLITS = {"train": 62, "validation": 1, "test": 1}  # shares of the hash's 64 values
SHARES = {  # family/kind: share of the samples
    "scene/describe": 0.295, "scene/where": 0.08, "scene/is_there": 0.065, "scene/relation": 0.065,
    "scene/what_at": 0.03, "scene/count": 0.02, "scene/compare": 0.025,
    "emoji/describe": 0.07, "emoji/where": 0.015, "emoji/is_there": 0.015, "emoji/relation": 0.015,
    "emoji/what_at": 0.01, "emoji/count": 0.005,
    "sign/describe": 0.06, "sign/read": 0.025, "sign/is_there": 0.01,
    "receipt/describe": 0.06, "receipt/value": 0.01, "receipt/compare": 0.01,
    "chart/describe": 0.05, "chart/value": 0.01, "chart/compare": 0.005, "chart/count": 0.005,
    "table/describe": 0.03, "table/value": 0.01, "table/compare": 0.005,
}  # fmt: skip
SHORTEST = 17  # words and marks; a shorter answer gets a remark


@dataclass(frozen=True)
class Family:
    """One kind of picture: how it is sampled, asked about, and remarked on."""

    sample: Callable[[random.Random], Picture]
    ask: Mapping[str, Callable[..., Turn | None]]
    remark: Callable[..., list[str]]


def _asks(*modules: ModuleType) -> dict[str, Callable[..., Turn | None]]:
    """All `ask_KIND` functions."""
    return {name[4:]: getattr(module, name) for module in modules for name in vars(module) if name.startswith("ask_")}


FAMILIES = {
    "scene": Family(sample_scene, _asks(questions, comparisons), partial(remarks, count=1)),
    "emoji": Family(partial(sample_scene, emoji=True), _asks(questions, comparisons), partial(remarks, count=1)),
    "sign": Family(sample_sign, _asks(sign_questions), sign_questions.remarks),
    "receipt": Family(sample_receipt, _asks(receipt_questions), receipt_questions.remarks),
    "chart": Family(sample_chart, _asks(chart_questions), chart_questions.remarks),
    "table": Family(sample_table, _asks(table_questions), table_questions.remarks),
}


@dataclass(frozen=True)
class Sample:
    """One picture with one question.

    Args:
        kind: family/kind, a key of SHARES.
        facts: what `score` measures an answer by.
    """

    image: Image.Image
    question: str
    answer: str
    kind: str
    facts: Facts


def split_of(picture: Picture) -> str:
    """The only split that may show a picture."""
    value = hashlib.blake2b(picture.key().encode(), digest_size=4).digest()[0] % sum(SPLITS.values())
    for split, share in SPLITS.items():
        if value < share:
            return split
        value -= share
    raise AssertionError("the shares of SPLITS add up to the range of the hash")


def _generator(seed: int, split: str, index: int) -> random.Random:
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
    return random.Random(f"{seed} {split} {index}")


def _sample_picture(family: Family, split: str, rng: random.Random) -> Picture:
    while True:
        picture = family.sample(rng)
        if split_of(picture) == split:
            return picture


def _ask(name: str, kind: str, picture: Picture, rng: random.Random) -> Turn | None:
    """A question of this kind with an answer that is not too short; None if the picture gives no such question."""
    turn = FAMILIES[name].ask[kind](picture, rng)
    if turn is None or len(re.findall(r"\w+|[^\w\s]", turn.answer)) >= SHORTEST:
        return turn
    more = FAMILIES[name].remark(picture, turn.style)
    return replace(turn, answer=f"{turn.answer} {more[0]}") if more else turn


def make_turns(
    seed: int, split: str, index: int, count: int = 1, shares: Mapping[str, float] = SHARES
) -> tuple[Picture, tuple[Turn, ...], random.Random]:
    """The picture of a sample and `count` questions about it, without drawing it.

    The first question is that of `make_sample`; the others are of other kinds, short ones, so that what one picture
    costs in training serves several answers. The generator returned is the one that `draw` continues.
    """
    rng = _generator(seed, split, index)
    key = rng.choices(tuple(shares), tuple(shares.values()))[0]
    name, kind = key.split("/")
    turn = None
    while turn is None:
        picture = _sample_picture(FAMILIES[name], split, rng)
        turn = _ask(name, kind, picture, rng)
    drawing = random.Random(rng.getrandbits(64))
    turns = [turn]
    kinds = [k.split("/")[1] for k in shares if k.startswith(name + "/")]
    while len(turns) < count:
        other = _ask(name, rng.choice([k for k in kinds if k != "describe"] or kinds), picture, rng)
        if other is not None and all(other.question != t.question for t in turns):
            turns.append(other)
    named = tuple(replace(t, kind=f"{name}/{t.kind}") for t in turns)
    return picture, named, drawing


def draw(picture: Picture, rng: random.Random) -> Image.Image:
    """The picture's 96x96 RGB image; `rng` gives shades and tilts."""
    return draw_scene(picture, rng) if isinstance(picture, Scene) else draw_document(picture, rng)


def make_sample(seed: int, split: str, index: int, shares: Mapping[str, float] = SHARES) -> Sample:
    """A sample, the same one for the same arguments.

    Args:
        seed: chooses the sequence of samples.
        split: "train", "validation" or "test".
        index: from 0, without end.
        shares: how often each kind comes, as SHARES.

    Raises:
        ValueError: an unknown split.
    """
    picture, (turn,), rng = make_turns(seed, split, index, shares=shares)
    return Sample(draw(picture, rng), turn.question, turn.answer, turn.kind, Facts(picture, turn.asked))
