"""From pictures, videos and words to text, through transformers' real processors and tokenizers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.utils import is_torchvision_available

import vispec
from families.common import END_TOKEN, START_TOKEN
from families.processors import PROCESSORS, Processing, tokenizer_of
from lossless import assert_same_text
from models import IMAGE_TOKEN, make_draft, make_target
from vispec import TreeConfig

if is_torchvision_available():
    from families import video_processors

    PROCESSORS = {**PROCESSORS, **video_processors.PROCESSORS}

IMAGE = Path(vispec.__file__).parent / "assets" / "scene.png"
WITHOUT = "what is in the picture?"
WITH_IMAGES = ("{image} and {image}: which is wider?", "{image}{image}", "look: {image}")
WITH_VIDEOS = ("{video}what happens?", "first {video}, then {video}")


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    """The packaged picture, and its upper left part: two shapes."""
    with Image.open(IMAGE) as picture:
        whole = picture.convert("RGB").resize((96, 64))
    return [whole, whole.crop((0, 0, 48, 21))]


@pytest.fixture(scope="module")
def video(images: list[Image.Image]) -> np.ndarray:
    """Four frames: the camera moves over the picture."""
    return np.stack([np.asarray(images[0])[:40, left : left + 48] for left in (0, 4, 4, 12)])


def check(family: str, inputs: Any) -> None:
    model = make_target(family)
    output = assert_same_text(model, make_draft(model), inputs, TreeConfig(), max_new_tokens=32)
    assert output.speculation.mean_accepted > 0


def processed(processing: Processing, questions: Sequence[str], images: list[Image.Image], video: np.ndarray) -> Any:
    """The processor's output for a batch; every question shows the pictures in their order."""
    texts = [q.format(image=processing.image, video=processing.video) for q in questions]
    shown = [images[: q.count("{image}")] for q in questions]
    films = [video] * sum(q.count("{video}") for q in questions)
    options = {"videos": films, "videos_kwargs": {"do_sample_frames": False}} if films else {}
    visuals = {"images": shown if any(shown) else None, **options}
    return processing.build()(text=texts, padding=True, return_tensors="pt", **visuals)


def questions_of(processing: Processing) -> list[str]:
    without = () if processing.needs_images else (WITHOUT,)
    return [*WITH_IMAGES, *without, *(WITH_VIDEOS if processing.video else ())]


@pytest.mark.parametrize("name", PROCESSORS)
def test_one_prompt(name: str, images: list[Image.Image], video: np.ndarray) -> None:
    for question in questions_of(PROCESSORS[name]):
        check(name, processed(PROCESSORS[name], [question], images, video))


@pytest.mark.parametrize("name", PROCESSORS)
def test_batches(name: str, images: list[Image.Image], video: np.ndarray) -> None:
    questions = questions_of(PROCESSORS[name])
    check(name, processed(PROCESSORS[name], [q for q in questions if "{video}" not in q], images, video))
    if PROCESSORS[name].video:
        check(name, processed(PROCESSORS[name], [WITHOUT, *WITH_VIDEOS], images, video))


@pytest.mark.parametrize("question", [WITHOUT, *WITH_IMAGES])
def test_qwen2_5_vl_image_processor(question: str, images: list[Image.Image]) -> None:
    """Image processor and tokenizer; the processor that joins them needs torchvision, so its expansion is here."""
    tokenizer = tokenizer_of({"<image>": IMAGE_TOKEN, "<start>": START_TOKEN, "<end>": END_TOKEN})
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
