"""Models with a Pixtral tower: images of any shape."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LightOnOcrConfig,
    LightOnOcrForConditionalGeneration,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    MistralConfig,
    PixtralVisionConfig,
    PreTrainedModel,
    Qwen3Config,
)

from families.common import (
    BREAK_TOKEN,
    END_TOKEN,
    HEAD_DIM,
    IMAGE_TOKEN,
    UNTIED,
    VISION,
    WINDOW,
    Family,
    Heads,
    Visuals,
    images_of,
    noise,
    text_fields,
)


def _tower() -> Any:
    return PixtralVisionConfig(**VISION, image_size=32, patch_size=4, head_dim=16)


def _mistral3(heads: Heads) -> PreTrainedModel:
    """Its text model's layers all slide."""
    text = MistralConfig(**text_fields(heads), head_dim=HEAD_DIM, sliding_window=WINDOW)
    return Mistral3ForConditionalGeneration(
        Mistral3Config(**UNTIED, vision_config=_tower(), text_config=text, image_token_index=IMAGE_TOKEN)
    )


def _lighton_ocr(heads: Heads) -> PreTrainedModel:
    text = Qwen3Config(**text_fields(heads), head_dim=HEAD_DIM)
    return LightOnOcrForConditionalGeneration(
        LightOnOcrConfig(**UNTIED, vision_config=_tower(), text_config=text, image_token_id=IMAGE_TOKEN)
    )


def _rows(model: PreTrainedModel, count: int, rng: random.Random) -> Visuals:
    """Each row ends in a token of its own, the last one in another."""
    sides = [(rng.randint(1, 4), rng.randint(2, 4)) for _ in range(count)]
    ids: list[list[int]] = []
    for rows, columns in sides:
        row = [*[IMAGE_TOKEN] * columns, BREAK_TOKEN]
        ids.append([*(row * rows)[:-1], END_TOKEN])
    sizes: Tensor = torch.tensor([[8 * rows, 8 * columns] for rows, columns in sides])
    return images_of({"pixel_values": noise(rng, count, 3, 32, 32), "image_sizes": sizes}, ids)


def _without_breaks(model: PreTrainedModel, count: int, rng: random.Random) -> Visuals:
    """Row follows row."""
    images = _rows(model, count, rng)
    ids = [[token for token in image if token == IMAGE_TOKEN] for (image,) in images.pieces]
    return images_of(images.inputs, ids)


FAMILIES = {
    "mistral3": Family(_mistral3, "mistral3", _rows, special="row breaks inside images; sliding windows"),
    "lighton_ocr": Family(_lighton_ocr, "lighton_ocr", _without_breaks),
}
