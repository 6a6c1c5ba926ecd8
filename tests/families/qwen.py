"""Qwen-VL and models that encode images of any shape like it: pixels come as patches, sizes as grids."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Glm4vConfig,
    Glm4vForConditionalGeneration,
    GlmOcrConfig,
    GlmOcrForConditionalGeneration,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
    VideoLlama3Config,
    VideoLlama3ForConditionalGeneration,
)

from families.common import (
    END_TOKEN,
    HEAD_DIM,
    IMAGE_TOKEN,
    START_TOKEN,
    TIMES,
    VIDEO_END,
    VIDEO_START,
    VIDEO_TOKEN,
    VISION,
    Family,
    Heads,
    Visuals,
    images_of,
    noise,
    text_fields,
)

IDS = {"image_token_id": IMAGE_TOKEN, "video_token_id": VIDEO_TOKEN}
FRAME = {**IDS, "vision_start_token_id": START_TOKEN, "vision_end_token_id": END_TOKEN}
GLM_FRAME = {
    **IDS,
    "image_start_token_id": START_TOKEN,
    "image_end_token_id": END_TOKEN,
    "video_start_token_id": VIDEO_START,
    "video_end_token_id": VIDEO_END,
}
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
TOWER = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": 4}


def _qwen2_vl(heads: Heads) -> PreTrainedModel:
    vision = {"depth": 2, "embed_dim": 32, "num_heads": 2, "patch_size": 4, "hidden_size": heads[0] * HEAD_DIM}
    config = Qwen2VLConfig(text_config=text_fields(heads, rope_parameters=MROPE), vision_config=vision, **FRAME)
    return Qwen2VLForConditionalGeneration(config)


def _qwen2_5_vl(heads: Heads) -> PreTrainedModel:
    vision = {**TOWER, "out_hidden_size": heads[0] * HEAD_DIM, "window_size": 16, "fullatt_block_indexes": [1]}
    config = Qwen2_5_VLConfig(text_config=text_fields(heads, rope_parameters=MROPE), vision_config=vision, **FRAME)
    return Qwen2_5_VLForConditionalGeneration(config)


def _qwen3_fields(heads: Heads, **more: Any) -> dict[str, Any]:
    """With features of two vision layers that are added to the first two text layers (DeepStack)."""
    vision = {
        **TOWER,
        "out_hidden_size": heads[0] * HEAD_DIM,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1],
    }
    text = text_fields(heads, head_dim=HEAD_DIM, rope_parameters={**MROPE, "mrope_interleaved": True}, **more)
    return {"text_config": text, "vision_config": vision, **FRAME}


def _qwen3_vl(heads: Heads) -> PreTrainedModel:
    return Qwen3VLForConditionalGeneration(Qwen3VLConfig(**_qwen3_fields(heads)))


def _qwen3_vl_moe(heads: Heads) -> PreTrainedModel:
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "decoder_sparse_step": 1}
    return Qwen3VLMoeForConditionalGeneration(Qwen3VLMoeConfig(**_qwen3_fields(heads, **experts)))


def _glm_fields(heads: Heads) -> dict[str, Any]:
    vision = {**TOWER, "out_hidden_size": heads[0] * HEAD_DIM, "image_size": 32}
    text = text_fields(heads, head_dim=HEAD_DIM, rope_parameters={**MROPE, "partial_rotary_factor": 1.0})
    return {"text_config": text, "vision_config": vision, **GLM_FRAME}


def _glm4v(heads: Heads) -> PreTrainedModel:
    return Glm4vForConditionalGeneration(Glm4vConfig(**_glm_fields(heads)))


def _glm_ocr(heads: Heads) -> PreTrainedModel:
    return GlmOcrForConditionalGeneration(GlmOcrConfig(**_glm_fields(heads)))


def _video_llama_3(heads: Heads) -> PreTrainedModel:
    config = VideoLlama3Config(
        text_config=Qwen2Config(**text_fields(heads)), vision_config={**VISION, "patch_size": 4}, **IDS
    )
    return VideoLlama3ForConditionalGeneration(config)


def _patches(model: PreTrainedModel, count: int, rng: random.Random) -> Visuals:
    """Images of 2 to 6 patches a side, of which four are merged into one position."""
    grids = [[1, 2 * rng.randint(1, 3), 2 * rng.randint(1, 3)] for _ in range(count)]
    patches = [height * width for _, height, width in grids]
    inputs = {"pixel_values": noise(rng, sum(patches), 3 * 2 * 4 * 4), "image_grid_thw": torch.tensor(grids)}
    return images_of(inputs, [[START_TOKEN, *[IMAGE_TOKEN] * (patch // 4), END_TOKEN] for patch in patches])


def _patches_of_any_merge(model: PreTrainedModel, count: int, rng: random.Random) -> Visuals:
    """As above, merged as each image says, and only one frame."""
    images = _patches(model, count, rng)
    merges = [rng.choice((1, 2)) for _ in range(count)]
    patches = images.inputs["image_grid_thw"].prod(dim=1).tolist()
    inputs = {
        "pixel_values": images.inputs["pixel_values"][:, : 3 * 4 * 4],
        "image_grid_thw": images.inputs["image_grid_thw"],
        "image_merge_sizes": torch.tensor(merges),
    }
    lengths = [patch // merge**2 for patch, merge in zip(patches, merges, strict=True)]
    return images_of(inputs, [[IMAGE_TOKEN] * length for length in lengths])


def _patches_of_videos(count: int, rng: random.Random) -> tuple[dict[str, Tensor], list[tuple[int, int]]]:
    """Videos of 1 to 3 frames (each made of two), and of each the frames and their lengths."""
    grids = [[rng.randint(1, 3), 2 * rng.randint(1, 3), 2 * rng.randint(1, 3)] for _ in range(count)]
    pixels = noise(rng, sum(frames * height * width for frames, height, width in grids), 3 * 2 * 4 * 4)
    inputs = {"pixel_values_videos": pixels, "video_grid_thw": torch.tensor(grids)}
    return inputs, [(frames, height * width // 4) for frames, height, width in grids]


def _whole(model: PreTrainedModel, count: int, rng: random.Random) -> Visuals:
    """Frame follows frame."""
    inputs, lengths = _patches_of_videos(count, rng)
    ids = [[START_TOKEN, *[VIDEO_TOKEN] * (frames * length), END_TOKEN] for frames, length in lengths]
    return Visuals(inputs, [[of_video] for of_video in ids])


def _whole_and_timed(model: PreTrainedModel, count: int, rng: random.Random) -> Visuals:
    videos = _whole(model, count, rng)
    seconds = torch.tensor([rng.choice((0.5, 1.0, 2.0)) for _ in range(count)])
    return Visuals({**videos.inputs, "second_per_grid_ts": seconds}, videos.pieces)


def _timed_frames(model: PreTrainedModel, count: int, rng: random.Random) -> Visuals:
    """Each frame stands alone, after its time."""
    inputs, lengths = _patches_of_videos(count, rng)
    pieces = [
        [[time, START_TOKEN, *[VIDEO_TOKEN] * length, END_TOKEN] for time in TIMES[:frames]]
        for frames, length in lengths
    ]
    return Visuals(inputs, pieces)


def _frames_as_images(model: PreTrainedModel, count: int, rng: random.Random) -> Visuals:
    """Each frame stands alone, as an image would, before its time; what frames the whole tells a video from images."""
    inputs, lengths = _patches_of_videos(count, rng)
    pieces = []
    for frames, length in lengths:
        of_frames = [[START_TOKEN, *[IMAGE_TOKEN] * length, END_TOKEN, time] for time in TIMES[:frames]]
        of_frames[0].insert(0, VIDEO_START)
        of_frames[-1].append(VIDEO_END)
        pieces.append(of_frames)
    return Visuals(inputs, pieces)


def _kept_patches(model: PreTrainedModel, count: int, rng: random.Random) -> Visuals:
    """Each frame stands alone, after its time; what has not changed since the last one is left out."""
    videos, lengths = _patches_of_videos(count, rng)
    kept = [[[rng.random() < 0.6 for _ in range(length)] for _ in range(frames)] for frames, length in lengths]
    for video in kept:
        video[0] = [True] * len(video[0])
    inputs = {
        "pixel_values_videos": videos["pixel_values_videos"][:, : 3 * 4 * 4],
        "video_grid_thw": videos["video_grid_thw"],
        "video_merge_sizes": torch.full((count,), 2),
        "video_compression_mask": torch.tensor([is_kept for video in kept for frame in video for is_kept in frame]),
    }
    pieces = [
        [[time, *[VIDEO_TOKEN] * sum(frame)] for time, frame in zip(TIMES, video, strict=False)] for video in kept
    ]
    return Visuals(inputs, pieces)


def _types(ids: Tensor) -> dict[str, Tensor]:
    """1 at images, 2 at videos."""
    return {"mm_token_type_ids": (ids == IMAGE_TOKEN).int() + 2 * (ids == VIDEO_TOKEN).int()}


def _types_by_frame(ids: Tensor) -> dict[str, Tensor]:
    """As above, where videos look like images."""
    is_video = ((ids == VIDEO_START).int() - (ids == VIDEO_END).int()).cumsum(1)
    return {"mm_token_type_ids": (ids == IMAGE_TOKEN).int() * (1 + is_video)}


FAMILIES = {
    "qwen2_vl": Family(_qwen2_vl, "qwen2_vl", _patches, _types, _whole, special="M-RoPE"),
    "qwen2_5_vl": Family(_qwen2_5_vl, "qwen2_5_vl", _patches, _types, _whole_and_timed, special="M-RoPE"),
    "qwen3_vl": Family(_qwen3_vl, "qwen3_vl", _patches, _types, _timed_frames, special="interleaved M-RoPE, DeepStack"),
    "qwen3_vl_moe": Family(
        _qwen3_vl_moe, "qwen3_vl_moe", _patches, _types, _timed_frames, special="interleaved M-RoPE, DeepStack, experts"
    ),
    "glm4v": Family(_glm4v, "glm4v", _patches, _types_by_frame, _frames_as_images, special="M-RoPE"),
    "glm_ocr": Family(_glm_ocr, "glm_ocr", _patches, _types_by_frame, _frames_as_images, special="M-RoPE"),
    "video_llama_3": Family(
        _video_llama_3,
        "video_llama_3",
        _patches_of_any_merge,
        videos=_kept_patches,
        special="images merged as each one says; unchanged parts of videos left out",
    ),
}
