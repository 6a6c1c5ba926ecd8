"""LLaVA and its descendants: a vision tower, a projector, a language model."""

from __future__ import annotations

import random
from functools import partial
from typing import Any

import torch
from transformers import (
    CLIPVisionConfig,
    Granite4VisionConfig,
    Granite4VisionForConditionalGeneration,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedModel,
    Qwen2Config,
    SiglipVisionConfig,
    VipLlavaConfig,
    VipLlavaForConditionalGeneration,
)

from families.common import (
    IMAGE_TOKEN,
    VIDEO_TOKEN,
    VISION,
    Family,
    Heads,
    Visuals,
    images_of,
    noise,
    squares,
    text_fields,
)

PINPOINTS = [[16, 32], [32, 16], [32, 32]]


def _llava(heads: Heads) -> PreTrainedModel:
    vision = CLIPVisionConfig(**VISION, image_size=32, patch_size=8)
    text = LlamaConfig(**text_fields(heads))
    return LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE_TOKEN)
    )


def _vipllava(heads: Heads) -> PreTrainedModel:
    vision = CLIPVisionConfig(**VISION, image_size=32, patch_size=8)
    text = LlamaConfig(**text_fields(heads))
    layers = [-2, -1, 1]
    config = VipLlavaConfig(
        vision_config=vision, text_config=text, image_token_index=IMAGE_TOKEN, vision_feature_layers=layers
    )
    return VipLlavaForConditionalGeneration(config)


def _llava_next(heads: Heads) -> PreTrainedModel:
    vision = CLIPVisionConfig(**VISION, image_size=16, patch_size=4)
    text = LlamaConfig(**text_fields(heads))
    config = LlavaNextConfig(
        vision_config=vision, text_config=text, image_token_index=IMAGE_TOKEN, image_grid_pinpoints=PINPOINTS
    )
    return LlavaNextForConditionalGeneration(config)


def _llava_next_video(heads: Heads) -> PreTrainedModel:
    vision = CLIPVisionConfig(**VISION, image_size=16, patch_size=4)
    text = LlamaConfig(**text_fields(heads))
    config = LlavaNextVideoConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=IMAGE_TOKEN,
        video_token_index=VIDEO_TOKEN,
        image_grid_pinpoints=PINPOINTS,
    )
    return LlavaNextVideoForConditionalGeneration(config)


def _llava_onevision(heads: Heads) -> PreTrainedModel:
    vision = SiglipVisionConfig(**VISION, image_size=16, patch_size=4, vision_use_head=False)
    text = Qwen2Config(**text_fields(heads))
    config = LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=IMAGE_TOKEN,
        video_token_index=VIDEO_TOKEN,
        image_grid_pinpoints=PINPOINTS,
    )
    return LlavaOnevisionForConditionalGeneration(config)


def _granite4_vision(heads: Heads) -> PreTrainedModel:
    wide = {**VISION, "hidden_size": 64}  # its queries' heads are of size 64
    vision = SiglipVisionConfig(**wide, image_size=16, patch_size=4, vision_use_head=False)
    scales = {
        "embedding_multiplier": 3.0,
        "logits_scaling": 4.0,
        "residual_multiplier": 0.5,
        "attention_multiplier": 0.3,
    }
    text = text_fields(heads, model_type="granite4_vision_text", **scales)
    qformer = {**wide, "model_type": "blip_2_qformer", "num_attention_heads": 1, "encoder_hidden_size": 64}
    config = Granite4VisionConfig(
        vision_config=vision,
        text_config=text,
        qformer_config=qformer,
        image_token_index=IMAGE_TOKEN,
        image_grid_pinpoints=PINPOINTS,
        vision_feature_select_strategy="full",
        downsample_rate="1/2",
        deepstack_layer_map=[[-1, 0], [-2, 1]],
        spatial_target_layers=[2],
    )
    return Granite4VisionForConditionalGeneration(config)


def _tiled(per_tile: int, model: PreTrainedModel, count: int, rng: random.Random) -> Visuals:
    """Images of several tiles and of any shape; padding is cut off, so that no two are alike in length."""
    sizes = torch.tensor([[rng.randint(8, 40), rng.randint(8, 40)] for _ in range(count)])
    inputs: dict[str, Any] = {"pixel_values": noise(rng, count, 5, 3, 16, 16), "image_sizes": sizes}
    return images_of(inputs, [[IMAGE_TOKEN] * _tiled_length(size, per_tile) for size in sizes.tolist()])


def _tiled_if_alone(model: PreTrainedModel, count: int, rng: random.Random) -> Visuals:
    """As above, but where a prompt has several images, each is one tile and a newline."""
    images = _tiled(4, model, count, rng)
    pieces = images.pieces if count == 1 else [[[IMAGE_TOKEN] * 17]] * count
    return Visuals({**images.inputs, "batch_num_images": torch.tensor([count])}, pieces)


def _tiled_length(size: list[int], per_tile: int) -> int:
    """Positions of an image `[height, width]`: the whole of it in one tile, then its tiles without padding, and one
    more position a row."""
    height, width = size
    fit = {(h, w): min(h / height, w / width) for h, w in PINPOINTS}
    used = {(h, w): min(int(height * s) * int(width * s), height * width) for (h, w), s in fit.items()}
    rows, columns = max(used, key=lambda grid: (used[grid], used[grid] - grid[0] * grid[1]))
    rows, columns = rows * per_tile // 16, columns * per_tile // 16
    if width / height > columns / rows:
        padding = (rows - int(round(height * columns / width, 7))) // 2
        rows -= 2 * padding
    else:
        padding = (columns - int(round(width * rows / height, 7))) // 2
        columns -= 2 * padding
    return per_tile**2 + rows * (columns + 1)


def _whole(per_frame: int, spare: int, model: PreTrainedModel, count: int, rng: random.Random) -> Visuals:
    """Videos of three frames, one after the other."""
    ids = [VIDEO_TOKEN] * (3 * per_frame + spare)
    return Visuals({"pixel_values_videos": noise(rng, count, 3, 3, 16, 16)}, [[ids]] * count)


FAMILIES = {
    "llava": Family(_llava, "llava", squares(32, 16)),
    "vipllava": Family(_vipllava, "vipllava", squares(32, 16), special="features of several vision layers"),
    "llava_next": Family(_llava_next, "llava_next", partial(_tiled, 4), special="tiles of any shape"),
    "llava_next_video": Family(
        _llava_next_video,
        "llava_next_video",
        partial(_tiled, 4),
        videos=partial(_whole, 4, 0),
        special="tiles of any shape",
    ),
    "llava_onevision": Family(
        _llava_onevision,
        "llava_onevision",
        _tiled_if_alone,
        videos=partial(_whole, 4, 1),  # ends in a newline
        special="tiles of any shape where an image is alone",
    ),
    "granite4_vision": Family(
        _granite4_vision,
        "granite4_vision",
        partial(_tiled, 2),
        special="tiles; images enter between the layers (DeepStack); scaled embeddings, logits and residuals",
    ),
}
