"""Small real targets with their processors, pictures and questions, for tests of training data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
)
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from vispec.pair.tokenizer import SPECIAL, load_tokenizer, make_processor
from vispec.training.requests import Request

FAMILIES = ("llama", "llava", "llava_next", "qwen2_5_vl")
HIDDEN_SIZE = 32
VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
PINPOINTS = [[16, 32], [32, 16], [32, 32]]
WORDS = ("Which circle", "is left of", "the red house", "and how many", "are there?")
VIDEO = "<video>"
FRAME = (SPECIAL["user"], SPECIAL["assistant"])  # around Qwen2.5-VL's images, so that adjacent ones stay two
ENDS_EVERY = 29  # one token in so many ends an answer, so that answers have all lengths


class ImageQwenProcessor(Qwen2_5_VLProcessor):
    """Qwen2.5-VL's processor without videos: their part needs torchvision."""

    def __init__(self, image_processor: Any, tokenizer: PreTrainedTokenizerFast) -> None:
        self.image_processor, self.tokenizer, self.video_processor = image_processor, tokenizer, None
        self.image_token, self.video_token = SPECIAL["image"], VIDEO
        self.image_token_id, self.video_token_id = tokenizer.convert_tokens_to_ids([self.image_token, self.video_token])
        frame = self.image_token.join(FRAME)
        self.chat_template = tokenizer.chat_template.replace(f"'{self.image_token}'", f"'{frame}'")


def make_parts(family: str, seed: int = 1) -> tuple[PreTrainedModel, Any]:
    """A random target in eval mode, and what makes its inputs; both read the pair's vocabulary."""
    tokenizer = load_tokenizer()
    tokenizer.add_tokens([VIDEO], special_tokens=True)
    fields: dict[str, Any] = {
        "hidden_size": HIDDEN_SIZE,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 2048,
        "pad_token_id": tokenizer.pad_token_id,
    }
    image_token = tokenizer.convert_tokens_to_ids(SPECIAL["image"])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model, processor = _BUILDERS[family](fields, image_token, tokenizer)
        for parameter in model.get_decoder().parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
        nn.init.normal_(model.get_input_embeddings().weight)
        head = nn.init.normal_(model.get_output_embeddings().weight)
        head.data[[*range(len(SPECIAL)), -1]] = 0.0  # special tokens are never written
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.eos_token_id = list(range(len(SPECIAL), len(tokenizer), ENDS_EVERY))
    return model.eval(), processor


def _llama(fields: dict[str, Any], image_token: int, tokenizer: PreTrainedTokenizerFast) -> tuple[Any, Any]:
    return LlamaForCausalLM(LlamaConfig(**fields)), tokenizer


def _llava(fields: dict[str, Any], image_token: int, tokenizer: PreTrainedTokenizerFast) -> tuple[Any, Any]:
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**VISION, image_size=96, patch_size=8),
        text_config=LlamaConfig(**fields),
        image_token_index=image_token,
    )
    return LlavaForConditionalGeneration(config), make_processor(tokenizer)


def _llava_next(fields: dict[str, Any], image_token: int, tokenizer: PreTrainedTokenizerFast) -> tuple[Any, Any]:
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(**VISION, image_size=16, patch_size=4),
        text_config=LlamaConfig(**fields),
        image_token_index=image_token,
        image_grid_pinpoints=PINPOINTS,
    )
    square = {"height": 16, "width": 16}
    processor = LlavaNextProcessor(
        LlavaNextImageProcessorPil(size=square, crop_size=square, image_grid_pinpoints=PINPOINTS),
        tokenizer,
        patch_size=4,
        num_additional_image_tokens=1,
        vision_feature_select_strategy="default",
        image_token=SPECIAL["image"],
        chat_template=tokenizer.chat_template,
    )
    return LlavaNextForConditionalGeneration(config), processor


def _qwen2_5_vl(fields: dict[str, Any], image_token: int, tokenizer: PreTrainedTokenizerFast) -> tuple[Any, Any]:
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "out_hidden_size": HIDDEN_SIZE,
        "patch_size": 4,
        "window_size": 16,
        "fullatt_block_indexes": [1],
    }
    config = Qwen2_5_VLConfig(
        text_config={**fields, "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}},
        vision_config=vision,
        image_token_id=image_token,
        video_token_id=tokenizer.convert_tokens_to_ids(VIDEO),
        vision_start_token_id=tokenizer.convert_tokens_to_ids(FRAME[0]),
        vision_end_token_id=tokenizer.convert_tokens_to_ids(FRAME[1]),
    )
    pixels = Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, min_pixels=256, max_pixels=4096)
    return Qwen2_5_VLForConditionalGeneration(config), ImageQwenProcessor(pixels, tokenizer)


_BUILDERS = {"llama": _llama, "llava": _llava, "llava_next": _llava_next, "qwen2_5_vl": _qwen2_5_vl}


def save_picture(path: Path, width: int, height: int, seed: int = 0, **options: Any) -> Path:
    """Noise, in `path`'s format."""
    pixels = torch.randint(256, (height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    Image.fromarray(pixels.numpy()).save(path, **options)
    return path


def ask(key: int, words: str, images: tuple[str, ...] = ()) -> Request:
    content = [*[{"type": "image"}] * len(images), {"type": "text", "text": words}]
    return Request(str(key), ({"role": "user", "content": content},), images)


def make_requests(folder: Path, count: int, with_images: bool) -> list[Request]:
    """Questions of all lengths, every third without an image, some with two."""
    requests = []
    for index in range(count):
        shown = index % 3 if with_images else 0
        images = [
            save_picture(folder / f"{index}-{i}.png", 16 + 7 * (index % 5), 40 - 5 * i, index) for i in range(shown)
        ]
        requests.append(ask(index, " ".join(WORDS[: 1 + index % 5]), tuple(map(str, images))))
    return requests


def with_answers(requests: list[Request]) -> list[Request]:
    """An answer to each."""
    answers = ({"role": "assistant", "content": [{"type": "text", "text": f"{r.key} apples."}]} for r in requests)
    return [replace(r, messages=(*r.messages, answer)) for r, answer in zip(requests, answers, strict=True)]
