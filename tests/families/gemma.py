"""Gemma 3 and PaliGemma: images, or the whole prompt, see themselves in both directions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import (
    Gemma2Config,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    GemmaConfig,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PreTrainedModel,
    SiglipVisionConfig,
)

from families.common import (
    END_TOKEN,
    HEAD_DIM,
    IMAGE_TOKEN,
    START_TOKEN,
    UNTIED,
    VISION,
    WINDOW,
    Family,
    Heads,
    is_image,
    squares,
    text_fields,
)

SLIDING = {
    "sliding_window": WINDOW,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    "query_pre_attn_scalar": HEAD_DIM,
}


def _tower() -> SiglipVisionConfig:
    return SiglipVisionConfig(**VISION, image_size=32, patch_size=8, vision_use_head=False, projection_dim=32)


def _gemma3(heads: Heads) -> PreTrainedModel:
    text = Gemma3TextConfig(**text_fields(heads), head_dim=HEAD_DIM, **SLIDING)
    config = Gemma3Config(
        **UNTIED,
        text_config=text,
        vision_config=_tower(),
        mm_tokens_per_image=4,
        boi_token_index=START_TOKEN,
        eoi_token_index=END_TOKEN,
        image_token_index=IMAGE_TOKEN,
    )
    return Gemma3ForConditionalGeneration(config)


def _paligemma(text: Any) -> PreTrainedModel:
    config = PaliGemmaConfig(
        **UNTIED,
        text_config=text,
        vision_config=_tower(),
        image_token_index=IMAGE_TOKEN,
        projection_dim=text.hidden_size,
        hidden_size=text.hidden_size,
        vocab_size=text.vocab_size,
    )
    return PaliGemmaForConditionalGeneration(config)


def _paligemma1(heads: Heads) -> PreTrainedModel:
    return _paligemma(GemmaConfig(**text_fields(heads), head_dim=HEAD_DIM))


def _paligemma2(heads: Heads) -> PreTrainedModel:
    """Layers that slide, soft-caps on attention and on logits."""
    caps = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}
    return _paligemma(Gemma2Config(**text_fields(heads), head_dim=HEAD_DIM, **SLIDING, **caps))


def _all_prefix(ids: Tensor) -> dict[str, Tensor]:
    return {"token_type_ids": torch.zeros_like(ids)}


FAMILIES = {
    "gemma3": Family(
        _gemma3,
        "gemma3",
        squares(32, 4, start=START_TOKEN, end=END_TOKEN),
        is_image("token_type_ids"),
        special="images see themselves both ways; sliding windows",
    ),
    "paligemma": Family(
        _paligemma1, "paligemma", squares(32, 16), _all_prefix, special="prompts see themselves both ways"
    ),
    "paligemma2": Family(
        _paligemma2,
        "paligemma",
        squares(32, 16),
        _all_prefix,
        has_sdpa=False,
        special="prompts see themselves both ways; sliding windows, soft-caps",
    ),
}
