"""Families whose images are squares of one size, each encoded on its own (larger pictures come as several)."""

from __future__ import annotations

import random

from transformers import (
    AriaConfig,
    AriaForConditionalGeneration,
    AyaVisionConfig,
    AyaVisionForConditionalGeneration,
    CLIPVisionConfig,
    Cohere2Config,
    Cohere2VisionConfig,
    Cohere2VisionForConditionalGeneration,
    DeepseekVLConfig,
    DeepseekVLForConditionalGeneration,
    FastVlmConfig,
    FastVlmForConditionalGeneration,
    GotOcr2Config,
    GotOcr2ForConditionalGeneration,
    Idefics3VisionConfig,
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlamaConfig,
    Ovis2Config,
    Ovis2ForConditionalGeneration,
    PerceptionLMConfig,
    PerceptionLMForConditionalGeneration,
    PreTrainedModel,
    Qwen2Config,
    ResNetConfig,
    SiglipVisionConfig,
)

from families.common import (
    END_TOKEN,
    HEAD_DIM,
    IMAGE_TOKEN,
    START_TOKEN,
    TIMES,
    UNTIED,
    VIDEO_TOKEN,
    VISION,
    WINDOW,
    Family,
    Heads,
    Visuals,
    noise,
    squares,
    text_fields,
)


def _internvl(heads: Heads) -> PreTrainedModel:
    vision = {**VISION, "image_size": [32, 32], "patch_size": [8, 8]}
    text = Qwen2Config(**text_fields(heads))
    config = InternVLConfig(
        **UNTIED, vision_config=vision, text_config=text, image_token_id=IMAGE_TOKEN, image_seq_length=4
    )
    return InternVLForConditionalGeneration(config)


def _got_ocr2(heads: Heads) -> PreTrainedModel:
    vision = {
        "hidden_size": 32,
        "output_channels": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 64,
        "patch_size": 4,
        "window_size": 4,
        "global_attn_indexes": [1],
        "mlp_dim": 48,
    }
    text = Qwen2Config(**text_fields(heads))
    config = GotOcr2Config(
        **UNTIED, vision_config=vision, text_config=text, image_token_index=IMAGE_TOKEN, image_seq_length=16
    )
    return GotOcr2ForConditionalGeneration(config)


def _cohere2(heads: Heads) -> Cohere2Config:
    """Two of three layers slide, the third has no positions."""
    layers = ["sliding_attention", "sliding_attention", "full_attention"]
    return Cohere2Config(**text_fields(heads), sliding_window=WINDOW, layer_types=layers, logit_scale=0.5)


def _aya_vision(heads: Heads) -> PreTrainedModel:
    vision = SiglipVisionConfig(**VISION, image_size=32, patch_size=8, vision_use_head=False)
    config = AyaVisionConfig(**UNTIED, vision_config=vision, text_config=_cohere2(heads), image_token_index=IMAGE_TOKEN)
    return AyaVisionForConditionalGeneration(config)


def _cohere2_vision(heads: Heads) -> PreTrainedModel:
    vision = SiglipVisionConfig(**VISION, image_size=32, patch_size=8, vision_use_head=False)
    config = Cohere2VisionConfig(
        **UNTIED,
        vision_config=vision,
        text_config=_cohere2(heads),
        image_token_id=IMAGE_TOKEN,
        alignment_intermediate_size=48,
    )
    return Cohere2VisionForConditionalGeneration(config)


def _deepseek_vl(heads: Heads) -> PreTrainedModel:
    vision = SiglipVisionConfig(**VISION, image_size=32, patch_size=8, vision_use_head=False)
    text = LlamaConfig(**text_fields(heads))
    return DeepseekVLForConditionalGeneration(
        DeepseekVLConfig(**UNTIED, vision_config=vision, text_config=text, image_token_id=IMAGE_TOKEN)
    )


def _fast_vlm(heads: Heads) -> PreTrainedModel:
    """Its own tower comes from timm; any that gives a map of features takes its place."""
    vision = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 32], depths=[1, 1, 1], hidden_size=32)
    text = Qwen2Config(**text_fields(heads))
    return FastVlmForConditionalGeneration(
        FastVlmConfig(vision_config=vision, text_config=text, image_token_index=IMAGE_TOKEN)
    )


def _perception_lm(heads: Heads) -> PreTrainedModel:
    """Its own tower comes from timm; any that gives a row of features takes its place."""
    vision = CLIPVisionConfig(**VISION, image_size=32, patch_size=8, model_args={"embed_dim": 32})
    config = PerceptionLMConfig(
        vision_config=vision,
        text_config=LlamaConfig(**text_fields(heads)),
        projector_pooling_ratio=2,
        image_token_id=IMAGE_TOKEN,
        video_token_id=VIDEO_TOKEN,
    )
    return PerceptionLMForConditionalGeneration(config)


def _ovis2(heads: Heads) -> PreTrainedModel:
    """Images are words of a visual vocabulary; what frames them is its last words."""
    vision = {**VISION, "image_size": 32, "patch_size": 8, "vocab_size": 40, "num_visual_indicator_tokens": 2}
    config = Ovis2Config(
        **UNTIED,
        vision_config={**vision, "hidden_stride": 2},
        text_config=Qwen2Config(**text_fields(heads)),
        image_token_id=IMAGE_TOKEN,
        visual_indicator_token_ids=[START_TOKEN, END_TOKEN],
        vocab_size=160,
        hidden_size=heads[0] * HEAD_DIM,
    )
    return Ovis2ForConditionalGeneration(config)


def _aria(heads: Heads) -> PreTrainedModel:
    vision = Idefics3VisionConfig(**VISION, image_size=32, patch_size=8)
    experts = {"moe_num_experts": 4, "moe_topk": 2, "moe_num_shared_experts": 1}
    config = AriaConfig(
        vision_config=vision,
        text_config=text_fields(heads, model_type="aria_text", **experts),
        projector_patch_to_query_dict={16: 5},
        image_token_index=IMAGE_TOKEN,
    )
    return AriaForConditionalGeneration(config)


def _tiles(model: PreTrainedModel, count: int, rng: random.Random) -> Visuals:
    """Images of one tile each."""
    images = squares(32, 4)(model, count, rng)
    return Visuals({"pixel_values": images.inputs["pixel_values"][:, None]}, images.pieces)


def _adjacent_frames(model: PreTrainedModel, count: int, rng: random.Random) -> Visuals:
    """Videos of two frames, encoded as images, with nothing between them."""
    frames = [[VIDEO_TOKEN] * 4] * 2
    return Visuals({"pixel_values_videos": noise(rng, count, 2, 3, 32, 32)}, [frames] * count)


def _numbered_frames(model: PreTrainedModel, count: int, rng: random.Random) -> Visuals:
    """Videos whose frames are images to the model, each after its number."""
    frames = [rng.randint(1, 3) for _ in range(count)]
    image = [START_TOKEN, *[IMAGE_TOKEN] * 4, END_TOKEN]
    pieces = [[[time, *image] for time in TIMES[:of_video]] for of_video in frames]
    return Visuals({"pixel_values": noise(rng, sum(frames), 3, 32, 32)}, pieces)


FRAME = {"start": START_TOKEN, "end": END_TOKEN}
FAMILIES = {
    "internvl": Family(_internvl, "internvl", squares(32, 4, **FRAME), videos=_numbered_frames),
    "got_ocr2": Family(_got_ocr2, "got_ocr2", squares(64, 16, **FRAME)),
    "aya_vision": Family(
        _aya_vision, "aya_vision", squares(32, 4), special="sliding windows, layers without positions"
    ),
    "cohere2_vision": Family(
        _cohere2_vision, "cohere2_vision", squares(32, 4), special="sliding windows, layers without positions"
    ),
    "deepseek_vl": Family(_deepseek_vl, "deepseek_vl", squares(32, 16)),
    "fast_vlm": Family(
        _fast_vlm, "fast_vlm", squares(64, 16), special="convolutional tower (not timm's own)", has_sdpa=False
    ),
    "perception_lm": Family(
        _perception_lm, "perception_lm", _tiles, videos=_adjacent_frames, special="tower not timm's own"
    ),
    "ovis2": Family(_ovis2, "ovis2", squares(32, 4, **FRAME), special="visual vocabulary"),
    "aria": Family(_aria, "aria", squares(32, 5), special="experts"),
}
