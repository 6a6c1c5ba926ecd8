"""What lies around a captured cycle: replays, cycles launched ahead, cycles kept from call to call, refusals.

The graphs themselves need a GPU (`test_gpu.py`). Here the same work is run again in their place, which shows that a
cycle is a function of tensors that persist: all that a graph knows.
"""

from __future__ import annotations

import gc
import random
import warnings
import weakref
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from transformers import Cache, LlamaForCausalLM, PreTrainedModel, Qwen3MoeConfig, Qwen3MoeForCausalLM

import vispec
from kept_cycles import GENERATE, kept_cycles
from lossless import assert_same_text
from models import BUILDERS, make_batch, make_draft, make_pair, make_prompt, make_target
from vispec import cycles
from vispec.graphs import Replayer, fingerprint, no_capture, why_not
from vispec.target import Target
from vispec.training.prompts import append_inputs, append_tokens
from vispec.tree import TreeConfig


class Again:
    """Runs the work again, and keeps its output in one place, as a graph does."""

    count = 0  # of all captures

    def __init__(self, work: Callable[[], Tensor]) -> None:
        self.work, self.output = work, torch.empty(0, dtype=torch.int64)
        Again.count += 1

    def replay(self) -> Tensor:
        output = self.work()
        if self.output.shape != output.shape:
            self.output = output.clone()
        return self.output.copy_(output)


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Calls keep and replay their cycles, as on a GPU."""
    monkeypatch.setattr(Again, "count", 0)
    with kept_cycles(monkeypatch, lambda: Again):
        yield


@pytest.mark.parametrize("family", BUILDERS)
def test_replayed_cycles_launched_ahead(family: str, kept: None) -> None:
    model, draft = make_pair(family)[:2]
    for index, layout in enumerate(("one image", "text") if family not in ("llama", "qwen2") else ("text", "text")):
        inputs = make_prompt(model, layout, random.Random(index))
        for count in (1, 2, 3, 40):
            output = assert_same_text(model, draft, inputs, TreeConfig(), max_new_tokens=count)
            assert output.speculation.num_emitted.tolist() == [count]
    assert 1 <= Again.count <= 2  # prompts with and without images have other rotary offsets


def test_a_kept_cycle_serves_the_next_call(kept: None) -> None:
    model = make_target("llava")
    draft = make_draft(model)
    for index in range(3):
        inputs = make_prompt(model, "one image", random.Random(index))
        assert_same_text(model, draft, inputs, TreeConfig(), max_new_tokens=30)
    _, first = cycles._kept[draft]
    assert Again.count == 1
    assert_same_text(model, draft, inputs, TreeConfig(5, 4, 16), max_new_tokens=30)
    assert cycles._kept[draft][1] is not first
    assert Again.count == 2


def test_calls_of_all_rules_share_a_kept_cycle(kept: None) -> None:
    """Temperatures, seeds and seen tokens change in place; a graph is captured for each kind of choice."""
    model = make_target("llama")
    draft = make_draft(model)
    samples = {"do_sample": True, "top_p": 0.9}
    calls = ({}, samples, {"repetition_penalty": 1.4}, {**samples, "temperature": 1.5, "repetition_penalty": 1.2})
    for index, options in enumerate((*calls, *calls[::-1], {**samples, "temperature": 0.5})):
        inputs = make_prompt(model, "text", random.Random(index))
        generator = torch.Generator()
        plain, ours = (
            vispec.generate(model, drafted, inputs, generator=generator.manual_seed(index), max_new_tokens=9, **options)
            for drafted in (None, draft)
        )
        assert torch.equal(ours, plain)
    assert Again.count == 4


@pytest.mark.parametrize("family", ["llama", "qwen2_5_vl"])
def test_batches_share_a_kept_cycle(family: str, kept: None) -> None:
    """Whatever their padding is, and although sequences finish while the next cycle is on its way."""
    model, draft = make_pair(family)
    layouts = ("text", "text", "text") if family == "llama" else ("text", "one image", "two separate images")
    options = {"max_new_tokens": 60, "do_sample": False, "pad_token_id": 1, "return_dict_in_generate": True}
    for seed in range(3):
        rng = random.Random(seed)
        inputs = make_batch([make_prompt(model, layout, rng) for layout in layouts])
        for ends in (None, list(range(3, 23))):
            plain = model.generate(**inputs, eos_token_id=ends, **options)
            ours = vispec.generate(model, draft, inputs, eos_token_id=ends, **options)
            assert torch.equal(ours.sequences, plain.sequences)
            length = plain.sequences.shape[1] - 1
            assert getattr(ours, vispec.cache.CACHE_NAME).get_seq_length() == length
    assert Again.count == 1


def test_rotary_offsets_void_graphs_only_where_their_tensor_is_another() -> None:
    model = make_target("llama")
    target, replayer = Target(model), Replayer(lambda: Again)
    trees = (TreeConfig(),)
    cycle = cycles.Cycle(target, make_draft(model).new_drafter(target, trees, 8), trees, 64, 1, replayer)
    voids = []
    for delta in (None, None, torch.zeros(1), torch.ones(1), torch.zeros(3, 1), None, None):
        replayer.graphs["a tree"] = Again(lambda: torch.zeros(1))
        cycle._set_rope_delta(delta)
        voids.append(not replayer.graphs)
    assert voids == [False, False, True, False, True, True, False]


def test_larger_caches_void_graphs(kept: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cycles, "ROWS_MULTIPLE", 1)
    monkeypatch.setattr(GENERATE, "MAX_FIRST_ROWS", 8)
    model = make_target("llama")
    draft = make_draft(model)
    inputs = make_prompt(model, "text", random.Random(0))
    output = assert_same_text(model, draft, inputs, TreeConfig(), max_new_tokens=150)
    assert output.speculation.num_cycles > 20
    assert 3 <= Again.count <= 8


def test_the_cache_that_is_returned_is_the_callers(kept: None) -> None:
    model = make_target("llama")
    draft = make_draft(model)
    inputs = make_prompt(model, "text", random.Random(0))
    first = vispec.generate(model, draft, inputs, max_new_tokens=20, return_dict_in_generate=True)
    cache = first[vispec.cache.CACHE_NAME]
    before = [layer.keys.clone() for layer in cache.layers]
    assert cache.get_seq_length() == first.sequences.shape[1] - 1 == before[0].shape[2]
    vispec.generate(model, draft, make_prompt(model, "text", random.Random(1)), max_new_tokens=20)
    assert all(torch.equal(layer.keys, keys) for layer, keys in zip(cache.layers, before, strict=True))


@pytest.mark.parametrize("family", ["llama", "qwen2_5_vl"])
def test_two_dialogues_share_a_kept_cycle(family: str, kept: None) -> None:
    """Each goes on from a cache of its own, with what the draft had read of it."""
    model, draft = make_pair(family)
    layout, rng = "text" if family == "llama" else "one image", random.Random(0)
    options = {"max_new_tokens": 20, "do_sample": False, "return_dict_in_generate": True}
    dialogues: list[dict[str, Tensor]] = [make_prompt(model, layout, rng) for _ in range(2)]
    caches: list[dict[str, Cache]] = [{}, {}]
    for _ in range(3):
        for index, inputs in enumerate(dialogues):
            inputs = {**inputs, "attention_mask": torch.ones_like(inputs["input_ids"])}
            fresh = vispec.generate(model, draft, inputs, **options)
            ours = vispec.generate(model, draft, inputs, **caches[index], **options)
            assert torch.equal(ours.sequences, model.generate(**inputs, **options).sequences)
            assert torch.equal(ours.speculation.num_accepted, fresh.speculation.num_accepted)
            cache = ours[vispec.cache.CACHE_NAME]
            assert caches[index].get(vispec.cache.CACHE_NAME, cache) is cache
            caches[index] = {vispec.cache.CACHE_NAME: cache}
            turn = {**make_prompt(model, "text", rng)}
            said = append_tokens(inputs, ours.sequences[0, inputs["input_ids"].shape[1] :].tolist())
            dialogues[index] = append_inputs(said, turn)
    assert Again.count <= 2  # rotary offsets come and go


def test_moved_weights_and_errors_end_a_kept_cycle(kept: None) -> None:
    model = make_target("llama")
    draft = make_draft(model)
    inputs = make_prompt(model, "text", random.Random(0))
    assert_same_text(model, draft, inputs, TreeConfig(), max_new_tokens=20)
    _, first = cycles._kept[draft]
    projection = model.model.layers[0].mlp.down_proj
    projection.weight = nn.Parameter(projection.weight.detach() * 2)
    assert_same_text(model, draft, inputs, TreeConfig(), max_new_tokens=20)
    _, second = cycles._kept[draft]
    assert second is not first

    def interrupt(ids: Tensor, scores: None) -> bool:
        if ids.shape[1] > inputs["input_ids"].shape[1] + 5:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        vispec.generate(model, draft, inputs, max_new_tokens=20, stopping_criteria=[interrupt])
    assert draft not in cycles._kept
    assert_same_text(model, draft, inputs, TreeConfig(), max_new_tokens=20)


def test_inference_mode_has_cycles_of_its_own(kept: None) -> None:
    model = make_target("llama")
    draft = make_draft(model)
    inputs = make_prompt(model, "text", random.Random(0))
    with torch.inference_mode():
        assert_same_text(model, draft, inputs, TreeConfig(), max_new_tokens=20)
    assert_same_text(model, draft, inputs, TreeConfig(), max_new_tokens=20)


def test_a_kept_cycle_keeps_no_target_alive(kept: None) -> None:
    model = make_target("llama")
    draft = make_draft(model)
    vispec.generate(model, draft, make_prompt(model, "text", random.Random(0)), max_new_tokens=20)
    assert draft in cycles._kept
    watched = weakref.ref(model)
    del model
    gc.collect()
    assert watched() is None
    watched_cycle = weakref.ref(cycles._kept[draft][1])
    del draft
    gc.collect()
    assert watched_cycle() is None


def test_a_failed_capture_is_said_once() -> None:
    calls = []

    def work() -> Tensor:
        calls.append(1)
        return torch.tensor([len(calls)])

    def capture(work: Callable[[], Tensor]) -> Again:
        raise RuntimeError("operation not permitted when stream is capturing")

    replayer = Replayer(lambda: capture)
    with pytest.warns(UserWarning, match="without CUDA graphs, capturing failed: operation not permitted") as caught:
        results = [replayer.run(key, 0, work).item() for key in "aaabbb"]
    assert results == [1, 2, 3, 4, 5, 6]
    assert len(caught) == 1


def test_each_key_is_captured_once() -> None:
    captured = []

    def capture(work: Callable[[], Tensor]) -> Again:
        captured.append(work)
        return Again(work)

    replayer = Replayer(lambda: partial(capture))
    for version, expected, is_new in ((0, 2, True), (0, 2, False), (1, 4, True)):
        before = replayer.capture
        for key in "abababab":
            replayer.run(key, version, lambda: torch.zeros(1))
        assert len(captured) == expected
        assert (replayer.capture is not before) == is_new, "a memory pool ends with its last graph"


def adapted(model: PreTrainedModel) -> PreTrainedModel:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["q_proj"])
    return peft.inject_adapter_in_model(config, model)


def hooked(model: PreTrainedModel) -> PreTrainedModel:
    model.model.layers[1].register_forward_hook(lambda *_: None)
    return model


def dispatched(model: PreTrainedModel) -> PreTrainedModel:
    accelerate = pytest.importorskip("accelerate")
    accelerate.hooks.add_hook_to_module(model.model.layers[0], accelerate.hooks.ModelHook())
    return model


def with_experts(model: PreTrainedModel) -> PreTrainedModel:
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 1}
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**sizes, num_experts=2, moe_intermediate_size=16, vocab_size=64))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (adapted, "has an adapter"),
        (hooked, "has a forward hook"),
        (dispatched, "is offloaded or dispatched by accelerate"),
        (with_experts, "has experts"),
    ],
)
def test_what_is_not_captured(change: Callable[[PreTrainedModel], PreTrainedModel], reason: str) -> None:
    model = make_target("llama")
    assert isinstance(model, LlamaForCausalLM)
    assert why_not(model) is None
    assert reason in (why_not(change(model)) or "")


@pytest.mark.parametrize("family", BUILDERS)
def test_hooks_of_transformers_do_not_count(family: str) -> None:
    """Once hidden states were asked for, by a vision tower's user or anyone, its hooks stay in all layers."""
    model = make_target(family)
    layout = "text" if family in ("llama", "qwen2") else "one image"
    model(**make_prompt(model, layout, random.Random(0)), output_hidden_states=True)
    assert any(module._forward_hooks for module in model.modules())
    assert why_not(model) is None


def test_no_capture() -> None:
    model = make_target("llama")
    with no_capture():
        assert "no_capture" in (why_not(model) or "")
    assert why_not(model) is None


def test_fingerprint() -> None:
    model = make_target("llama")
    before = fingerprint(model)
    assert fingerprint(model) == before
    model.half()
    assert fingerprint(model) != before


def test_cpu_calls_are_silent() -> None:
    model = make_target("llama")
    hooked(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vispec.generate(model, make_draft(model), make_prompt(model, "text", random.Random(0)), max_new_tokens=5)
