"""Idefics and SmolVLM: the images of a prompt come together, those of a batch padded with black ones."""

from __future__ import annotations

import random
from typing import Any

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
    VISION,
    WINDOW,
    Family,
    Heads,
    Images,
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


def _framed(length: int) -> Any:
    def images(model: PreTrainedModel, count: int, rng: random.Random) -> Images:
        images = squares(32, length, start=START_TOKEN, end=END_TOKEN)(model, count, rng)
        return Images({"pixel_values": images.inputs["pixel_values"][None]}, images.ids)

    return images


FAMILIES = {
    "idefics2": Family(_idefics2, "idefics2", _framed(3), special="sliding windows"),
    "idefics3": Family(_idefics3, "idefics3", _framed(4)),
    "smolvlm": Family(_smolvlm, "smolvlm", _framed(4)),
}
