"""Wrong prompts, masks and images: a clear error, before the decoder runs and with nothing switched."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

import vispec
from models import Pair, make_pair, make_prompt
from refusal import refused

IDS = torch.tensor([[5, 9, 14, 20]])


@pytest.fixture(scope="module")
def llama() -> Pair:
    return make_pair("llama")


@pytest.fixture(scope="module")
def llava() -> Pair:
    return make_pair("llava")


@pytest.mark.parametrize("inputs", [None, [[5, 6]], "a prompt", 7, IDS.numpy()], ids=lambda value: type(value).__name__)
def test_inputs_of_another_type(llama: Pair, inputs: Any) -> None:
    kind = type(inputs).__name__
    with refused(llama[0], TypeError, f"inputs: expected a mapping or a tensor of token ids, got {kind}"):
        vispec.generate(*llama, inputs)
    if inputs is not None:
        with refused(llama[0], TypeError, f"input_ids: expected a tensor of token ids, got {kind}"):
            vispec.generate(*llama, {"input_ids": inputs})


def test_no_prompt_at_all() -> None:
    """Texts begin with the token that begins texts, if there is one."""
    model, draft = make_pair("llama")
    for inputs in ({}, {"input_ids": None}, {"attention_mask": torch.ones(3, 1)}):
        plain = model.generate(**inputs, max_new_tokens=5)
        assert torch.equal(vispec.generate(model, draft, inputs, max_new_tokens=5), plain)
    model.generation_config.bos_token_id = None
    for inputs in ({}, {"input_ids": None}, {"attention_mask": torch.ones(1, 4)}):
        with refused(model, TypeError, "input_ids: expected a tensor of token ids, got NoneType"):
            vispec.generate(model, draft, inputs)


def test_name_given_twice(llama: Pair) -> None:
    mask = torch.ones_like(IDS)
    with refused(llama[0], TypeError, "attention_mask: given in inputs and as a keyword"):
        vispec.generate(*llama, {"input_ids": IDS, "attention_mask": mask}, attention_mask=mask)
    with refused(llama[0], TypeError, "input_ids: given in inputs and as a keyword"):
        vispec.generate(*llama, IDS, input_ids=IDS)
    with refused(llama[0], ValueError, "inputs"):
        vispec.generate(*llama, {"input_ids": IDS, "inputs": IDS}, max_new_tokens=5)


IDS_WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    "float": (IDS.float(), ValueError, "input_ids: expected int64 token ids, got torch.float32"),
    "bool": (IDS > 7, ValueError, "input_ids: expected int64 token ids, got torch.bool"),
    "bytes": (IDS.to(torch.uint8), ValueError, "input_ids: expected int64 token ids, got torch.uint8"),
    "one row": (IDS[0], ValueError, "input_ids: expected prompts of at least one token, [B, L], got [4]"),
    "three axes": (IDS[None], ValueError, "[B, L], got [1, 1, 4]"),
    "scalar": (torch.tensor(5), ValueError, "[B, L], got []"),
    "empty": (IDS[:, :0], ValueError, "input_ids: expected prompts of at least one token, [B, L], got [1, 0]"),
    "no rows": (IDS[:0], ValueError, "got [0, 4]"),
    "too large": (torch.tensor([[5, 160]]), ValueError, "input_ids: expected ids from 0 to 159, got 160"),
    "negative": (torch.tensor([[5, -1, 7]]), ValueError, "input_ids: expected ids from 0 to 159, got -1"),
    "int32 too large": (torch.tensor([[2**31 - 1]]).int(), ValueError, "got 2147483647"),
    "another device": (IDS.to("meta"), ValueError, ": expected the model's device cpu, got meta"),
}


@pytest.mark.parametrize("case", IDS_WRONG)
def test_wrong_ids(llama: Pair, case: str) -> None:
    ids, error, words = IDS_WRONG[case]
    for inputs in (ids, {"input_ids": ids}, {"inputs": ids}):
        with refused(llama[0], error, words):
            vispec.generate(*llama, inputs, max_new_tokens=5)
    with vispec.accelerate(*llama), refused(llama[0], error, words):
        llama[0].generate(ids, max_new_tokens=5)


MASKS_WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    "right padding": (torch.tensor([[1, 1, 1, 0]]), ValueError, "attention_mask: expected padding on the left alone"),
    "hole": (torch.tensor([[1, 1, 0, 1]]), ValueError, "attention_mask: expected padding on the left alone"),
    "all zero": (torch.zeros_like(IDS), ValueError, "attention_mask: expected padding on the left alone"),
    "counts": (torch.tensor([[1, 1, 2, 1]]), ValueError, "attention_mask: expected padding on the left alone"),
    "shorter": (torch.ones(1, 3), ValueError, "attention_mask: expected the shape of input_ids [1, 4], got [1, 3]"),
    "four axes": (torch.ones(1, 1, 4, 4), ValueError, "attention_mask: expected the shape of input_ids [1, 4]"),
    "list": ([[1, 1, 1, 1]], TypeError, "attention_mask: expected a tensor, got list"),
    "another device": (torch.ones_like(IDS, device="meta"), ValueError, "attention_mask: expected the model's device"),
}


@pytest.mark.parametrize("case", MASKS_WRONG)
def test_wrong_mask(llama: Pair, case: str) -> None:
    mask, error, words = MASKS_WRONG[case]
    with refused(llama[0], error, words):
        vispec.generate(*llama, {"input_ids": IDS, "attention_mask": mask})


def test_padding_that_generate_infers(llama: Pair) -> None:
    """Without a mask, transformers masks every pad token of a prompt; with one it does not."""
    ids = torch.tensor([[5, 0, 6, 7]])  # 0 is pad_token_id
    with refused(llama[0], ValueError, "attention_mask: expected padding on the left", "pad_token_id"):
        vispec.generate(*llama, ids, max_new_tokens=5)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    plain = llama[0].generate(**inputs, max_new_tokens=5)
    assert torch.equal(vispec.generate(*llama, inputs, max_new_tokens=5), plain)


def test_image_tokens_without_images(llava: Pair) -> None:
    inputs = make_prompt(llava[0], "one image", random.Random(0))
    words = ("input_ids: holds image tokens (id 151)", "no pixel_values")
    for wrong in ({"input_ids": inputs["input_ids"]}, {**inputs, "pixel_values": None}):
        with refused(llava[0], ValueError, *words):
            vispec.generate(*llava, wrong)
    with vispec.accelerate(*llava), refused(llava[0], ValueError, *words):
        llava[0].generate(inputs["input_ids"])


def test_video_tokens_without_videos() -> None:
    model, draft = make_pair("qwen2_5_vl")
    inputs = make_prompt(model, "one video", random.Random(0))
    with refused(model, ValueError, "input_ids: holds video tokens (id 152)", "no pixel_values_videos"):
        vispec.generate(model, draft, {**inputs, "pixel_values_videos": None})
    with refused(model.get_decoder().layers, ValueError, "do not match"):
        vispec.generate(model, draft, {**inputs, "input_ids": inputs["input_ids"].clamp(max=20)})


def test_image_tokens_that_could_be_a_videos() -> None:
    model, draft = make_pair("glm4v")
    words = ("input_ids: holds image tokens (id 151)", "no pixel_values or pixel_values_videos")
    with refused(model, ValueError, *words):
        vispec.generate(model, draft, torch.tensor([[5, 151, 151, 6]]))


def test_pixels_that_do_not_fit(llava: Pair) -> None:
    model, draft = llava
    inputs = make_prompt(model, "one image", random.Random(0))
    layers = model.get_decoder().layers
    for pixels, words in (
        (torch.randn(2, 3, 32, 32), "do not match"),
        (torch.randn(1, 3, 31, 32), "doesn't match"),
        (inputs["pixel_values"].to("meta"), "pixel_values: expected the model's device cpu, got meta"),
    ):
        with refused(layers, ValueError, words):
            vispec.generate(model, draft, {**inputs, "pixel_values": pixels}, max_new_tokens=5)
    with refused(layers, ValueError, "do not match"):
        vispec.generate(model, draft, {**inputs, "input_ids": IDS}, max_new_tokens=5)
    assert model.config.text_config._attn_implementation == "sdpa"
