"""Random prompts of every kind, decoded both ways."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from families import TABLE
from lossless import assert_same_text
from models import (
    HEADS,
    MIXED_LAYOUTS,
    VIDEO_LAYOUTS,
    layouts_of,
    make_batch,
    make_draft,
    make_prompt,
    make_target,
)
from vispec import TreeConfig

TREES = (
    TreeConfig(),
    TreeConfig(depth=1, top_k=2, num_nodes=5),
    TreeConfig(depth=5, top_k=10, num_nodes=60),
    TreeConfig(depth=7, top_k=12, num_nodes=130),  # three words of ancestor bits
)
PER_MODEL = 10  # prompts of one model and draft
BATCH_EVERY = 5  # calls, that one is of three prompts


def check_prompts(name: str, dtype: torch.dtype, count: int, seed: int, longest: int = 64) -> None:
    """Compare at least `count` texts of one family, over heads, layouts, trees, attention kinds, lengths and batches.

    `longest`: new tokens of the first text of each model; others have up to 64.

    Raises:
        AssertionError: one is not the model's own, and not for a near tie.
    """
    family, rng = TABLE[name], random.Random(f"{name} {dtype} {seed}")
    layouts = layouts_of(family)
    done = calls = 0
    while done < count:
        if calls % PER_MODEL == 0:
            model = make_target(name, rng.choice(HEADS), dtype, seed=rng.randrange(2**31))
            model.set_attn_implementation(rng.choice(("eager", "sdpa") if family.has_sdpa else ("eager",)))
            draft = make_draft(model, num_queries=rng.choice((1, 2, 4)), seed=rng.randrange(2**31))
        rows = 3 if calls % BATCH_EVERY == BATCH_EVERY - 1 else 1
        most_text = rng.choice((1, 12, 60))
        prompts = [make_prompt(model, layout, rng, most_text) for layout in _layouts(layouts, rows, rng)]
        inputs = make_batch(prompts, family.of_rows) if rows > 1 else prompts[0]
        length = longest if calls % PER_MODEL == 0 else rng.randint(1, 64)
        assert_same_text(model, draft, _in_dtype(inputs, dtype), rng.choice(TREES), max_new_tokens=length)
        done, calls = done + rows, calls + 1


def _layouts(layouts: Sequence[str], rows: int, rng: random.Random) -> list[str]:
    """Of a batch; where no prompt may hold both images and videos, no batch may."""
    first = rng.choice(layouts)
    if not MIXED_LAYOUTS.keys() <= set(layouts):
        layouts = [layout for layout in layouts if (layout in VIDEO_LAYOUTS) == (first in VIDEO_LAYOUTS)]
    return [first, *(rng.choice(layouts) for _ in range(rows - 1))]


def _in_dtype(inputs: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: x.to(dtype) if x.is_floating_point() else x for name, x in inputs.items()}
