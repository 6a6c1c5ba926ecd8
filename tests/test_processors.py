"""From pictures and words to text, through transformers' real processors, image processors and tokenizers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlavaNextProcessor, LlavaProcessor, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

import vispec
from lossless import assert_same_text
from models import IMAGE_TOKEN, VOCAB_SIZE, make_draft, make_target
from vispec import TreeConfig

IMAGE = Path(vispec.__file__).parent / "assets" / "scene.png"
QUESTIONS = ("what is in the picture?", "{image} and {image}: which is wider?", "{image}{image}", "look: {image}")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """Characters, and the special tokens at the ids that the tiny targets use."""
    words = [chr(32 + i) for i in range(95)] + [f"<{i}>" for i in range(95, VOCAB_SIZE)]
    words[IMAGE_TOKEN : IMAGE_TOKEN + 4] = ["<image>", "<video>", "<start>", "<end>"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<95>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    special = {"additional_special_tokens": words[IMAGE_TOKEN : IMAGE_TOKEN + 4]}
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<99>", **special)


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    """The packaged picture, and its upper left part: two shapes."""
    with Image.open(IMAGE) as picture:
        whole = picture.convert("RGB")
    return [whole, whole.crop((0, 0, whole.width // 2, whole.height // 3))]


def check(family: str, inputs: dict[str, Any]) -> None:
    model = make_target(family)
    output = assert_same_text(model, make_draft(model), inputs, TreeConfig(), max_new_tokens=32)
    assert output.speculation.mean_accepted > 0


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("family", ["llava", "llava_next"])
def test_llava_processors(
    family: str, question: str, tokenizer: PreTrainedTokenizerFast, images: list[Image.Image]
) -> None:
    layout = {"patch_size": 8 if family == "llava" else 4, "num_additional_image_tokens": 1}
    options = {**layout, "vision_feature_select_strategy": "default", "image_token": "<image>"}
    if family == "llava":
        square = {"height": 32, "width": 32}
        processor = LlavaProcessor(CLIPImageProcessorPil(size=square, crop_size=square), tokenizer, **options)
    else:
        square, pinpoints = {"height": 16, "width": 16}, [[16, 32], [32, 16], [32, 32]]
        image_processor = LlavaNextImageProcessorPil(size=square, crop_size=square, image_grid_pinpoints=pinpoints)
        processor = LlavaNextProcessor(image_processor, tokenizer, **options)
    shown = images[: question.count("{image}")] or None
    check(family, processor(images=shown, text=question.format(image="<image>"), return_tensors="pt"))


@pytest.mark.parametrize("question", QUESTIONS)
def test_qwen2_5_vl_image_processor(
    question: str, tokenizer: PreTrainedTokenizerFast, images: list[Image.Image]
) -> None:
    """Image processor and tokenizer; the processor that joins them needs torchvision, so its expansion is here."""
    count = question.count("{image}")
    inputs: dict[str, Any] = {}
    text = question
    if count:
        image_processor = Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, min_pixels=256, max_pixels=4096)
        inputs = dict(image_processor(images[:count], return_tensors="pt"))
        for grid in inputs["image_grid_thw"]:
            text = text.replace("{image}", "<start>" + "<image>" * int(grid.prod() // 4) + "<end>", 1)
    inputs["input_ids"] = tokenizer(text, return_tensors="pt").input_ids
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])  # else generate takes id 0, a space, for padding
    inputs["mm_token_type_ids"] = (inputs["input_ids"] == IMAGE_TOKEN).int()
    check("qwen2_5_vl", inputs)
