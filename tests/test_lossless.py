"""Greedy output equals the target's own, token for token, in every family."""

from __future__ import annotations

import random

import pytest
import torch

from families import TABLE
from lossless import assert_same_text
from models import make_draft, make_prompt, make_target
from random_prompts import check_prompts
from vispec import TreeConfig

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.mark.parametrize("family", TABLE)
def test_same_text(family: str) -> None:
    check_prompts(family, torch.float32, count=3, seed=0)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("family", TABLE)
def test_same_text_in_half_precision(family: str, dtype: torch.dtype) -> None:
    check_prompts(family, dtype, count=1, seed=0)


@pytest.mark.release
@pytest.mark.parametrize("family", TABLE)
def test_same_text_of_10000_prompts(family: str) -> None:
    """That many of all families together."""
    check_prompts(family, torch.float32, count=-(-10_000 // len(TABLE)), seed=1, longest=512)


@pytest.mark.release
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("family", TABLE)
def test_same_text_of_20_prompts_in_half_precision(family: str, dtype: torch.dtype) -> None:
    """With -v the run tells how many of them were near ties, by family: the README's figures."""
    check_prompts(family, dtype, count=20, seed=2, longest=256)


def test_nodes_that_look_like_image_placeholders_are_text() -> None:
    """A generated token may equal the placeholder's id; the pass that verifies it must not look for an image."""
    model = make_target("llava")
    head = model.get_output_embeddings().weight.data
    head[model.config.image_token_id] = 40 * head[7]  # now it comes up often
    inputs = make_prompt(model, "one image", random.Random(5))
    output = assert_same_text(model, make_draft(model), inputs, TreeConfig(), max_new_tokens=24)
    written = output.sequences[0, inputs["input_ids"].shape[1] :]
    assert (written == model.config.image_token_id).any()
