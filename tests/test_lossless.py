"""Greedy output equals the target's own, token for token, in every family."""

from __future__ import annotations

import random

import pytest
import torch

from families import TABLE
from lossless import assert_same_text
from models import BUILDERS, HEADS, layouts_of, make_draft, make_prompt, make_target
from vispec import TreeConfig

TREES = (
    TreeConfig(),
    TreeConfig(depth=1, top_k=2, num_nodes=5),
    TreeConfig(depth=5, top_k=10, num_nodes=60),
    TreeConfig(depth=7, top_k=12, num_nodes=130),  # three words of ancestor bits
)


def check_prompts(family: str, dtype: torch.dtype, count: int, seed: int, longest: int) -> None:
    """`count` random prompts of one family, over head counts, layouts, trees, attention kinds and lengths."""
    rng, layouts = random.Random(seed), layouts_of(TABLE[family])
    for index in range(count):
        if index % 10 == 0:
            model = make_target(family, HEADS[(index // 10) % len(HEADS)], dtype, seed=seed + index)
            model.set_attn_implementation(rng.choice(("eager", "sdpa") if TABLE[family].has_sdpa else ("eager",)))
            draft = make_draft(model, num_queries=rng.choice((1, 2, 4)), seed=seed + index)
        layout = layouts[index % len(layouts)]
        inputs = make_prompt(model, layout, rng, most_text=rng.choice((1, 12, 60)))
        inputs = {name: x.to(dtype) if x.is_floating_point() else x for name, x in inputs.items()}
        length = longest if index % 20 == 0 else rng.randint(1, 64)
        assert_same_text(model, draft, inputs, TREES[index % len(TREES)], max_new_tokens=length)


@pytest.mark.parametrize("family", BUILDERS)
def test_same_text(family: str) -> None:
    check_prompts(family, torch.float32, count=10, seed=0, longest=128)


@pytest.mark.release
@pytest.mark.parametrize("family", TABLE)
def test_same_text_of_200_prompts(family: str) -> None:
    check_prompts(family, torch.float32, count=200, seed=1000, longest=512)


@pytest.mark.parametrize("family", BUILDERS)
def test_same_text_in_bfloat16(family: str) -> None:
    check_prompts(family, torch.bfloat16, count=4, seed=0, longest=48)


@pytest.mark.release
@pytest.mark.parametrize("family", TABLE)
def test_same_text_of_100_prompts_in_bfloat16(family: str) -> None:
    check_prompts(family, torch.bfloat16, count=100, seed=2000, longest=512)


def test_nodes_that_look_like_image_placeholders_are_text() -> None:
    """A generated token may equal the placeholder's id; the pass that verifies it must not look for an image."""
    model = make_target("llava")
    head = model.get_output_embeddings().weight.data
    head[model.config.image_token_id] = 40 * head[7]  # now it comes up often
    inputs = make_prompt(model, "one image", random.Random(5))
    output = assert_same_text(model, make_draft(model), inputs, TreeConfig(), max_new_tokens=24)
    written = output.sequences[0, inputs["input_ids"].shape[1] :]
    assert (written == model.config.image_token_id).any()
