"""Idefics and SmolVLM: the images of a prompt come together, those of a batch padded with black ones."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Idefics2Config,
    Idefics2ForConditionalGeneration,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

from families.common import (
    END_TOKEN,
    HEAD_DIM,
    IMAGE_TOKEN,
    START_TOKEN,
    TIMES,
    VISION,
    WINDOW,
    Family,
    Heads,
    MakeVisuals,
    Visuals,
    noise,
    squares,
    text_fields,
)


def _idefics2(heads: Heads) -> PreTrainedModel:
    """Its text model's layers all slide."""
    perceiver = {
        "hidden_size": heads[0] * HEAD_DIM,
        "resampler_n_latents": 3,
        "resampler_depth": 1,
        "resampler_n_heads": 2,
        "resampler_head_dim": 16,
        "num_key_value_heads": 1,
    }
    config = Idefics2Config(
        text_config=MistralConfig(**text_fields(heads), sliding_window=WINDOW),
        vision_config={**VISION, "image_size": 32, "patch_size": 8},
        perceiver_config=perceiver,
        image_token_id=IMAGE_TOKEN,
    )
    return Idefics2ForConditionalGeneration(config)


def _fields(heads: Heads) -> dict[str, Any]:
    return {
        "text_config": LlamaConfig(**text_fields(heads)),
        "vision_config": {**VISION, "image_size": 32, "patch_size": 8},
        "image_token_id": IMAGE_TOKEN,
        "scale_factor": 2,
    }


def _idefics3(heads: Heads) -> PreTrainedModel:
    return Idefics3ForConditionalGeneration(Idefics3Config(**_fields(heads)))


def _smolvlm(heads: Heads) -> PreTrainedModel:
    return SmolVLMForConditionalGeneration(SmolVLMConfig(**_fields(heads)))


def _framed(length: int) -> MakeVisuals:
    def images(model: PreTrainedModel, count: int, rng: random.Random) -> Visuals:
        images = squares(32, length, start=START_TOKEN, end=END_TOKEN)(model, count, rng)
        return Visuals({"pixel_values": images.inputs["pixel_values"][None]}, images.pieces)

    return images


def _frames(model: PreTrainedModel, count: int, rng: random.Random) -> Visuals:
    """Of videos: images, each after its time."""
    frames = [rng.randint(1, 3) for _ in range(count)]
    images = iter(_framed(4)(model, sum(frames), rng).pieces)
    pieces = [[[time, *next(images)[0]] for time in TIMES[:of_video]] for of_video in frames]
    return Visuals({"pixel_values": noise(rng, 1, sum(frames), 3, 32, 32)}, pieces)


def _padded(rows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """A sequence with fewer images gets black ones behind its own."""
    if not any(rows):
        return {}
    images = [row.get("pixel_values", torch.zeros(1, 0, 3, 32, 32))[0] for row in rows]
    return {"pixel_values": torch.nn.utils.rnn.pad_sequence(images, batch_first=True)}


FAMILIES = {
    "idefics2": Family(_idefics2, "idefics2", _framed(3), of_rows=_padded, special="sliding windows"),
    "idefics3": Family(_idefics3, "idefics3", _framed(4), of_rows=_padded),
    "smolvlm": Family(_smolvlm, "smolvlm", _framed(4), videos=_frames, of_rows=_padded),
}
