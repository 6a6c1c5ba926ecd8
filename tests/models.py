"""Small real targets of every supported family, prompts for them, and drafts that agree with them now and then."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from vispec import Draft, DraftConfig
from vispec.draft.model import DraftModel

VOCAB_SIZE = 160
IMAGE_TOKEN = 151
HEAD_DIM = 16
# query heads, key/value heads: grouped, odd, all alike
HEADS = ((4, 2), (3, 1), (3, 3))
# what stands in a prompt: text of random length, or an image
LAYOUTS = {
    "text": "t",
    "one image": "tit",
    "image first": "it",
    "two adjacent images": "tiit",
    "two separate images": "titit",
}
VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}


def _text_fields(heads: tuple[int, int]) -> dict[str, Any]:
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
    }


def _llama(heads: tuple[int, int]) -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**_text_fields(heads)))


def _qwen2(heads: tuple[int, int]) -> PreTrainedModel:
    # the last layer slides: prompts and answers pass its window
    window = {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 2}
    return Qwen2ForCausalLM(Qwen2Config(**_text_fields(heads), **window))


def _llava(heads: tuple[int, int]) -> PreTrainedModel:
    vision = CLIPVisionConfig(**VISION, image_size=32, patch_size=8)
    text = LlamaConfig(**_text_fields(heads))
    return LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE_TOKEN)
    )


def _llava_next(heads: tuple[int, int]) -> PreTrainedModel:
    vision = CLIPVisionConfig(**VISION, image_size=16, patch_size=4)
    text = LlamaConfig(**_text_fields(heads))
    pinpoints = [[16, 32], [32, 16], [32, 32]]
    config = LlavaNextConfig(
        vision_config=vision, text_config=text, image_token_index=IMAGE_TOKEN, image_grid_pinpoints=pinpoints
    )
    return LlavaNextForConditionalGeneration(config)


def _qwen2_5_vl(heads: tuple[int, int]) -> PreTrainedModel:
    fields = _text_fields(heads)
    text = {**fields, "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}}
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "out_hidden_size": fields["hidden_size"],
        "patch_size": 4,
        "window_size": 16,
        "fullatt_block_indexes": [1],
    }
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=IMAGE_TOKEN,
        video_token_id=IMAGE_TOKEN + 1,
        vision_start_token_id=IMAGE_TOKEN + 2,
        vision_end_token_id=IMAGE_TOKEN + 3,
    )
    return Qwen2_5_VLForConditionalGeneration(config)


BUILDERS: dict[str, Callable[[tuple[int, int]], PreTrainedModel]] = {
    "llama": _llama,
    "llava": _llava,
    "llava_next": _llava_next,
    "qwen2": _qwen2,
    "qwen2_5_vl": _qwen2_5_vl,
}
VISION_FAMILIES = ("llava", "llava_next", "qwen2_5_vl")


def make_target(
    family: str, heads: tuple[int, int] = (4, 2), dtype: torch.dtype = torch.float32, seed: int = 0
) -> PreTrainedModel:
    """A random target whose next token hangs on the last one much, and on everything before it a little."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = BUILDERS[family](heads).eval()
        for name, parameter in model.get_decoder().named_parameters():
            if parameter.ndim == 2:
                std = 1.0 if "embed_tokens" in name else (0.35 if "o_proj" in name or "down_proj" in name else 1.0)
                torch.nn.init.normal_(parameter, std=std * parameter.shape[1] ** -0.5)
        torch.nn.init.normal_(model.get_input_embeddings().weight, std=1.0)
        head = torch.nn.init.normal_(model.get_output_embeddings().weight, std=1.0)
        head.data[IMAGE_TOKEN : IMAGE_TOKEN + 4] = 0.0  # never written: a text with placeholders cannot be read again
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model.to(dtype)


def make_draft(model: PreTrainedModel, num_queries: int = 2, seed: int = 0) -> Draft:
    """A random draft that guesses by the last token, as the target mostly does: some cycles accept, others do not."""
    text = model.config.get_text_config()
    config = DraftConfig(
        hidden_size=text.hidden_size,
        intermediate_size=64,
        num_attention_heads=text.num_attention_heads,
        num_key_value_heads=text.num_key_value_heads,
        vocab_size=text.vocab_size,
        num_queries=num_queries,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        draft = DraftModel(config)
        with torch.no_grad():
            draft.fc.weight.mul_(0.1)[:, : text.hidden_size].add_(torch.eye(text.hidden_size))
            draft.layers[0].self_attn.o_proj.weight.mul_(0.3)
    return Draft(draft, model)


Pair = tuple[PreTrainedModel, Draft]


def make_pair(family: str) -> Pair:
    """A new target and a draft for it."""
    model = make_target(family)
    return model, make_draft(model)


def make_prompt(model: PreTrainedModel, layout: str, rng: random.Random, most_text: int = 12) -> dict[str, Tensor]:
    """A random prompt of `LAYOUTS[layout]`: random ids, random pixels, everything `generate` needs."""
    images = LAYOUTS[layout].count("i")
    inputs, lengths = _random_images(model, images, rng) if images else ({}, [])
    remaining = iter(lengths)
    ids: list[int] = []
    for part in LAYOUTS[layout]:
        if part == "i" and model.config.model_type == "qwen2_5_vl":  # never without its frame
            ids += [IMAGE_TOKEN + 2, *[IMAGE_TOKEN] * next(remaining), IMAGE_TOKEN + 3]
        elif part == "i":
            ids += [IMAGE_TOKEN] * next(remaining)
        else:
            ids += [rng.randrange(3, IMAGE_TOKEN) for _ in range(rng.randint(1, most_text))]
    inputs["input_ids"] = torch.tensor([ids])
    if model.config.model_type == "qwen2_5_vl":
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == IMAGE_TOKEN).int()
    return inputs


def _random_images(model: PreTrainedModel, count: int, rng: random.Random) -> tuple[dict[str, Tensor], list[int]]:
    """Inputs of the vision tower for `count` images and how many positions each takes."""
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    if model.config.model_type == "qwen2_5_vl":
        grids = [[1, 2 * rng.randint(1, 3), 2 * rng.randint(1, 3)] for _ in range(count)]
        patches = [height * width for _, height, width in grids]
        pixels = torch.randn(sum(patches), 3 * 2 * 4 * 4, generator=generator)
        return {"pixel_values": pixels, "image_grid_thw": torch.tensor(grids)}, [patch // 4 for patch in patches]
    if model.config.model_type == "llava_next":
        sizes = torch.tensor([[rng.randint(8, 40), rng.randint(8, 40)] for _ in range(count)])
        pixels = torch.randn(count, 5, 3, 16, 16, generator=generator)
        inputs = {"pixel_values": pixels, "image_sizes": sizes}
        with torch.no_grad():
            features = model.get_image_features(**inputs, return_dict=True).pooler_output
        return inputs, [len(feature) for feature in features]
    return {"pixel_values": torch.randn(count, 3, 32, 32, generator=generator)}, [16] * count
