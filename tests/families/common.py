"""What the tiny models of all families share."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

VOCAB_SIZE = 160
IMAGE_TOKEN, VIDEO_TOKEN, START_TOKEN, END_TOKEN, BREAK_TOKEN = 151, 152, 153, 154, 155
VIDEO_START, VIDEO_END = 156, 157
TIMES = (20, 21, 22, 23, 24, 25, 26, 27)  # text before a video's frames
FIRST_SPECIAL, LAST_SPECIAL = IMAGE_TOKEN, VIDEO_END  # never drawn for a text, never written
HEAD_DIM = 16
VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
UNTIED = {"tie_word_embeddings": False}  # tied and random, a model would repeat its last token
WINDOW = 24  # of sliding layers: prompts and answers pass it

Heads = tuple[int, int]  # query heads, key/value heads


@dataclass(frozen=True)
class Visuals:
    """What a processor would make of some images or videos.

    Attributes:
        inputs: Of the vision tower.
        pieces: Of each image or video: ids that stand for it, cut so that a piece is one run for the draft, as
            `vispec.media` says: from its first placeholder to its last.
    """

    inputs: dict[str, Tensor]
    pieces: list[list[list[int]]]


MakeVisuals = Callable[[PreTrainedModel, int, random.Random], Visuals]  # for a model, so many
OfRows = Callable[[Sequence[dict[str, Tensor]]], dict[str, Tensor]]


def concatenated(rows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The vision tower's inputs of a batch: of one sequence after the other."""
    names = [name for row in rows for name in row]
    return {name: torch.cat([row[name] for row in rows if name in row]) for name in dict.fromkeys(names)}


@dataclass(frozen=True)
class Family:
    """How to make a tiny model of a family, and prompts for it.

    Attributes:
        build: A model with so many heads.
        images, videos: Random ones for such a model; None where the family reads none.
        of_ids: Further inputs that follow from the prompts' ids `[B, L]`.
        of_rows: The vision tower's inputs of a batch, from those of its sequences.
        model_type: As its config says.
        special: What its language model brings beside plain attention.
        has_sdpa: Whether all its parts, the tower included, run torch's scaled_dot_product_attention.
    """

    build: Callable[[Heads], PreTrainedModel]
    model_type: str
    images: MakeVisuals | None = None
    of_ids: Callable[[Tensor], dict[str, Tensor]] = lambda ids: {}
    videos: MakeVisuals | None = None
    of_rows: OfRows = concatenated
    special: str = ""
    has_sdpa: bool = True


def text_fields(heads: Heads, **more: Any) -> dict[str, Any]:
    """Fields of every text config; three layers."""
    return {
        "hidden_size": heads[0] * HEAD_DIM,
        "intermediate_size": 72,
        "num_hidden_layers": 3,
        "num_attention_heads": heads[0],
        "num_key_value_heads": heads[1],
        "vocab_size": VOCAB_SIZE,
        "max_position_embeddings": 4096,
        "bos_token_id": 1,
        "eos_token_id": None,
        "pad_token_id": 0,
        **UNTIED,
        **more,
    }


def noise(rng: random.Random, *shape: int) -> Tensor:
    """Random pixels."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(rng.randrange(2**31)))


def images_of(inputs: dict[str, Tensor], ids: Sequence[list[int]]) -> Visuals:
    """Images of one run each, for which these ids stand."""
    return Visuals(inputs, [[of_image] for of_image in ids])


def squares(side: int, length: int, *, start: int | None = None, end: int | None = None) -> MakeVisuals:
    """Images of `side` pixels a side; each takes `length` positions, between two tokens."""

    def images(model: PreTrainedModel, count: int, rng: random.Random) -> Visuals:
        ids = [token for token in (start, *[IMAGE_TOKEN] * length, end) if token is not None]
        return images_of({"pixel_values": noise(rng, count, 3, side, side)}, [ids] * count)

    return images


def is_image(name: str) -> Callable[[Tensor], dict[str, Tensor]]:
    """An `of_ids` function: input `name` is 1 at positions of images."""
    return lambda ids: {name: (ids == IMAGE_TOKEN).int()}
