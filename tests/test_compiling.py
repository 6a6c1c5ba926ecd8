"""Verification as one compiled graph: the same texts, in threads too, and the target as it was found."""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

import vispec
from families import TABLE
from lossless import assert_same_text
from models import Pair, family_of, make_batch, make_pair, make_prompt
from refusal import refused
from split_target import load_target, save_pairs
from vispec import TreeConfig
from vispec.attention import VERIFICATION

TREES: tuple[Any, ...] = (TreeConfig(2, 3, 8), TreeConfig(), "auto")
LENGTH = 24
IN_CI = ("llava", "gemma3", "qwen2_5_vl")  # plain; two kinds of layers; M-RoPE
GRAPHS = 2  # of a tree of any size, and of a token alone
COMPILE = torch.compile
TIMEOUT = 300.0  # seconds; reached only where something hangs


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


@pytest.mark.parametrize("family", TABLE)
def test_every_family_is_one_graph(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced, and run as it is."""
    monkeypatch.setattr(torch, "compile", partial(COMPILE, backend="eager"))
    model, draft = make_pair(family)
    layout = "one image" if family_of(model).images is not None else "text"
    inputs = make_prompt(model, layout, random.Random(6))
    assert_same_text(model, draft, inputs, TreeConfig(), compile=True, max_new_tokens=LENGTH)


def test_more_than_one_graph_is_refused() -> None:
    class Breaking(LlamaForCausalLM):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            torch._dynamo.graph_break()
            return super().forward(*args, **kwargs)

    model, draft = make_pair("llama")
    model.__class__ = Breaking
    ids = torch.tensor([[5, 9, 14]])
    plain = model.generate(ids, max_new_tokens=LENGTH)
    words = r"compile: expected a model that torch.compile can trace as one graph, got Breaking \(.*\); leave it out"
    with pytest.raises(NotImplementedError, match=words):
        vispec.generate(model, draft, ids, compile=True, max_new_tokens=LENGTH)
    assert torch.equal(vispec.generate(model, draft, ids, max_new_tokens=LENGTH), plain)


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
    """Once compiled: while torch compiles, transformers' own passes in other threads are not safe, as it says."""
    model, draft = llava
    inputs = make_prompt(model, "one image", random.Random(2))
    options = {"max_new_tokens": LENGTH, "do_sample": False}
    own_generate, before = model.generate, {**vars(model)}
    plain = own_generate(**inputs, **options)
    vispec.generate(model, draft, inputs, compile=True, **options)
    with ThreadPoolExecutor() as pool, vispec.accelerate(model, draft, compile=True):
        meanwhile = [pool.submit(own_generate, **inputs, **options) for _ in range(8)]
        texts = [model.generate(**inputs, **options) for _ in range(8)]
        texts += [future.result() for future in meanwhile]
    assert all(torch.equal(text, plain) for text in texts)
    assert vars(model) == before
    assert VERIFICATION.traced is None


def test_other_threads_meanwhile(llava: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a thread compiles, others decode this model and another; while it runs that, they compile too."""
    model, draft = make_pair("llama")
    texts = [make_prompt(model, "text", random.Random(seed))["input_ids"] for seed in range(2)]
    image = make_prompt(llava[0], "one image", random.Random(0))
    options = {"max_new_tokens": LENGTH, "do_sample": False}
    plain = [model.generate(ids, **options) for ids in texts]
    plain_of_image, logits = llava[0].generate(**image, **options), model(texts[1]).logits
    done = []

    @torch.no_grad()
    def compile_and_run() -> Tensor:
        return COMPILE(lambda: model(texts[1], use_cache=False).logits, backend="eager")()

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        if not done:
            assert torch.equal(pool.submit(model.generate, texts[1], **options).result(TIMEOUT), plain[1])
            text = pool.submit(vispec.generate, *llava, image, **options).result(TIMEOUT)
            assert torch.equal(text, plain_of_image)
            done.append("while compiling")

        def run(*arguments: Any) -> Any:
            if len(done) == 1:
                torch.testing.assert_close(pool.submit(compile_and_run).result(TIMEOUT), logits)
                done.append("while running")
            return graph.forward(*arguments)

        return run

    monkeypatch.setattr(torch, "compile", partial(COMPILE, backend=backend))
    with ThreadPoolExecutor() as pool:
        assert torch.equal(vispec.generate(model, draft, texts[0], compile=True, **options), plain[0])
    assert done == ["while compiling", "while running"]


def test_a_model_that_its_user_compiled() -> None:
    model, draft = make_pair("llama")
    inputs = make_prompt(model, "text", random.Random(4))
    plain = model.generate(**inputs, max_new_tokens=LENGTH)
    model.compile(backend="eager")
    for compile in (False, True):
        assert torch.equal(vispec.generate(model, draft, inputs, compile=compile, max_new_tokens=LENGTH), plain)


@torch._dynamo.config.patch(recompile_limit=4)  # its own is 8
def test_more_graphs_than_torch_keeps_of_itself(
    set_threads: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One for each number of threads, among others."""
    model, draft = make_pair("llama")
    inputs = make_prompt(model, "text", random.Random(5))
    plain = model.generate(**inputs, max_new_tokens=LENGTH)
    monkeypatch.setattr(torch, "compile", partial(COMPILE, backend="eager"))
    torch._dynamo.utils.counters.clear()
    for threads in range(1, 8):
        set_threads(threads)
        assert torch.equal(vispec.generate(model, draft, inputs, compile=True, max_new_tokens=LENGTH), plain)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > torch._dynamo.config.recompile_limit


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
    hook = model.lm_head.register_forward_hook(lambda *args: None)
    words = "compile: lm_head has a forward hook, which would not be called; leave it out"
    with pytest.raises(NotImplementedError, match=words):
        vispec.generate(model, draft, ids, compile=True)
    hook.remove()
    save_pairs(tmp_path, ("llama",))
    offloaded = load_target(tmp_path, "llama", device_map={"model": "disk", "lm_head": "cpu"}, offload_folder=tmp_path)
    draft = vispec.load_draft(tmp_path / "llama" / "draft", offloaded)
    with refused(offloaded, NotImplementedError, "compile: the target is offloaded or dispatched by accelerate"):
        vispec.generate(offloaded, draft, ids, compile=True)
