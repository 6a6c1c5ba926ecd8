"""Verification as one compiled graph: the same texts, in threads too, and the target as it was found."""

from __future__ import annotations

import gc
import random
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

import vispec
from families import TABLE
from lossless import assert_same_text
from models import Pair, family_of, make_batch, make_pair, make_prompt
from refusal import refused
from split_target import load_target, save_pairs
from vispec import TreeConfig
from vispec.attention import VERIFICATION
from vispec.context import Local, traceable

TREES: tuple[Any, ...] = (TreeConfig(2, 3, 8), TreeConfig(), "auto")
LENGTH = 24
IN_CI = ("llava", "gemma3", "qwen2_5_vl")  # plain; two kinds of layers; M-RoPE
GRAPHS = 2  # of a tree of any size, and of a token alone


@pytest.fixture(scope="module")
def llava() -> Pair:
    return make_pair("llava")


@pytest.mark.parametrize(
    "family", [name if name in IN_CI else pytest.param(name, marks=pytest.mark.release) for name in TABLE]
)
def test_same_text(family: str) -> None:
    """Prompts of several lengths and trees of several sizes share a graph."""
    model, draft = make_pair(family)
    rng = random.Random(0)
    torch._dynamo.utils.counters.clear()
    for tree in TREES:
        for layout in ("one image", "text") if family_of(model).images is not None else ("text",):
            inputs = make_prompt(model, layout, rng)
            assert_same_text(model, draft, inputs, tree, compile=True, max_new_tokens=LENGTH)
    if family in IN_CI:
        assert 1 <= torch._dynamo.utils.counters["stats"]["unique_graphs"] <= GRAPHS
        assert not torch._dynamo.utils.counters["graph_break"]


def test_batches_draws_and_hidden_states(llava: Pair) -> None:
    model, draft = llava
    rng = random.Random(1)
    inputs = make_batch([make_prompt(model, layout, rng) for layout in ("text", "one image", "image first")])
    options = {"max_new_tokens": LENGTH, "do_sample": True, "top_k": 20}
    torch.manual_seed(5)
    plain = vispec.generate(model, None, inputs, **options)
    torch.manual_seed(5)
    assert torch.equal(vispec.generate(model, draft, inputs, compile=True, **options), plain)

    options = {"max_new_tokens": LENGTH, "do_sample": False, "output_hidden_states": True}
    options["return_dict_in_generate"] = True
    eager = vispec.generate(model, draft, inputs, **options)
    compiled = vispec.generate(model, draft, inputs, compile=True, **options)
    assert torch.equal(compiled.sequences, eager.sequences)
    for ours, own in zip(compiled.hidden_states[-1], eager.hidden_states[-1], strict=True):
        torch.testing.assert_close(ours, own, rtol=1e-4, atol=1e-4)


def test_accelerated_while_another_thread_decodes_plainly(llava: Pair) -> None:
    model, draft = llava
    inputs = make_prompt(model, "one image", random.Random(2))
    options = {"max_new_tokens": LENGTH, "do_sample": False}
    own_generate, before = model.generate, {**vars(model)}
    plain = own_generate(**inputs, **options)
    with ThreadPoolExecutor() as pool, vispec.accelerate(model, draft, compile=True):
        meanwhile = [pool.submit(own_generate, **inputs, **options) for _ in range(8)]
        texts = [model.generate(**inputs, **options) for _ in range(8)]
        texts += [future.result() for future in meanwhile]
    assert all(torch.equal(text, plain) for text in texts)
    assert vars(model) == before
    assert VERIFICATION.traced is None


def test_compiled_code_reads_its_own_pass() -> None:
    """Of two contexts in turn, and none outside."""
    value: Local[torch.Tensor] = Local("value")

    @torch.compile(backend="eager")
    def double() -> torch.Tensor | None:
        held = value.get()
        return None if held is None else 2 * held

    for number in (3.0, 4.0):
        with value.holding(torch.tensor(number)):
            with traceable(value):
                assert double() == 2 * number
            assert double() is None
            assert value.get() == number
    assert value.get() is None
    with pytest.raises(KeyboardInterrupt), value.holding(torch.ones(())), traceable(value):
        raise KeyboardInterrupt
    assert value.traced is None


def test_compiled_code_does_not_keep_the_model() -> None:
    model, draft = make_pair("llama")
    inputs = make_prompt(model, "text", random.Random(3))
    vispec.generate(model, draft, inputs, compile=True, max_new_tokens=8)
    gone = weakref.ref(model)
    del model, draft
    gc.collect()
    assert gone() is None


def test_refused(llava: Pair, tmp_path: Path) -> None:
    model, draft = llava
    ids = torch.tensor([[5, 9, 14]])
    with refused(model, TypeError, "compile: expected True or False, got str"):
        vispec.generate(model, draft, ids, compile="max-autotune")
    save_pairs(tmp_path, ("llama",))
    offloaded = load_target(tmp_path, "llama", device_map={"model": "disk", "lm_head": "cpu"}, offload_folder=tmp_path)
    draft = vispec.load_draft(tmp_path / "llama" / "draft", offloaded)
    with refused(offloaded, NotImplementedError, "compile: the target is offloaded or dispatched by accelerate"):
        vispec.generate(offloaded, draft, ids, compile=True)
