"""What needs a GPU: greedy texts there, and cycles that are captured."""

from __future__ import annotations

import random
from collections.abc import Iterable
from contextlib import nullcontext
from threading import Event, Thread
from typing import Any

import pytest
import torch
from accelerate import dispatch_model
from torch import Tensor
from transformers import PreTrainedModel

import vispec
from lossless import assert_same_text, plain_text
from models import BUILDERS, make_batch, make_draft, make_prompt, make_target
from vispec import cycles
from vispec.cache import CACHE_NAME
from vispec.graphs import CudaCapture, Replayer, no_capture
from vispec.training.prompts import append_inputs, append_tokens
from vispec.tree import TreeConfig

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
TREES = (TreeConfig(), TreeConfig(5, 4, 16), TreeConfig(2, 8, 80))


def on_gpu(family: str, dtype: torch.dtype = torch.float32) -> tuple[PreTrainedModel, vispec.Draft]:
    model = make_target(family).to("cuda", dtype)
    return model, make_draft(model)


def prompt_for(model: PreTrainedModel, seed: int) -> dict[str, Tensor]:
    """With an image where the family knows images."""
    return batch_for(model, [seed])


def batch_for(model: PreTrainedModel, seeds: Iterable[int]) -> dict[str, Tensor]:
    """A prompt for each seed."""
    layout = "text" if model.config.model_type in ("llama", "qwen2") else "one image"
    return on_device(model, make_batch([make_prompt(model, layout, random.Random(seed)) for seed in seeds]))


def on_device(model: PreTrainedModel, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: x.to("cuda", model.dtype) if x.is_floating_point() else x.to("cuda") for name, x in inputs.items()}


@pytest.mark.parametrize("captured", [True, False], ids=["captured", "uncaptured"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("family", BUILDERS)
def test_same_text(family: str, dtype: torch.dtype, captured: bool) -> None:
    model, draft = on_gpu(family, dtype)
    expected_warning = nullcontext() if captured else pytest.warns(UserWarning, match="no_capture")
    with nullcontext() if captured else no_capture(), expected_warning:
        for seed, tree in enumerate(TREES):
            for count in (1, 2, 40):
                output = assert_same_text(model, draft, prompt_for(model, seed), tree, max_new_tokens=count)
            assert (output.speculation.seconds["captured"] > 0) == captured  # of the longest text


@pytest.mark.parametrize("family", BUILDERS)
def test_captured_is_uncaptured(family: str) -> None:
    """In fp32: a kept cycle's cache is larger, so attention may be split, and rounded, another way."""
    model, draft = on_gpu(family)
    inputs = prompt_for(model, 0)
    options: dict[str, Any] = {"max_new_tokens": 60, "do_sample": False, "return_dict_in_generate": True}
    captured = vispec.generate(model, draft, inputs, **options)
    with no_capture(), pytest.warns(UserWarning, match="no_capture"):
        plain = vispec.generate(model, draft, inputs, **options)
    assert torch.equal(captured.sequences, plain.sequences)
    assert torch.equal(captured.speculation.num_accepted, plain.speculation.num_accepted)


COMPILED = [name if name == "llava" else pytest.param(name, marks=pytest.mark.release) for name in BUILDERS]


@pytest.mark.parametrize("family", COMPILED)
def test_compiled(family: str) -> None:
    """Captured, as one that is not compiled is."""
    model, draft = on_gpu(family)
    for compile in (False, True, False):
        output = assert_same_text(model, draft, prompt_for(model, 0), TREES[1], compile=compile, max_new_tokens=60)
        assert output.speculation.seconds["captured"] > 0


@pytest.mark.parametrize("family", BUILDERS)
def test_batches(family: str) -> None:
    """Ragged, finishing one after the other; captured, with processors on the host, and drawn."""
    model, draft = on_gpu(family)
    inputs = batch_for(model, range(4))
    options: dict[str, Any] = {"max_new_tokens": 60, "eos_token_id": list(range(3, 23)), "pad_token_id": 1}
    for processing in ({}, {"repetition_penalty": 1.2}):
        plain = model.generate(**inputs, do_sample=False, **options, **processing)
        assert torch.equal(vispec.generate(model, draft, inputs, do_sample=False, **options, **processing), plain)
    with pytest.warns(UserWarning, match="logits processors"):
        ours = vispec.generate(model, draft, inputs, do_sample=False, no_repeat_ngram_size=2, **options)
    assert torch.equal(ours, model.generate(**inputs, do_sample=False, no_repeat_ngram_size=2, **options))
    drawn = []
    for drafted in (None, draft):
        torch.manual_seed(0)
        drawn.append(vispec.generate(model, drafted, inputs, do_sample=True, num_return_sequences=2, **options))
    assert torch.equal(*drawn)


@pytest.mark.parametrize("family", BUILDERS)
def test_turns(family: str) -> None:
    """Two dialogues in turn, each on a cache of its own; the kept cycle is the same."""
    model, draft = on_gpu(family)
    options: dict[str, Any] = {"max_new_tokens": 40, "do_sample": False, "return_dict_in_generate": True}
    dialogues: list[Any] = [(prompt_for(model, seed), {}) for seed in range(2)]
    for turn in range(3):
        for index, (inputs, past) in enumerate(dialogues):
            inputs = {**inputs, "attention_mask": torch.ones_like(inputs["input_ids"])}
            fresh = vispec.generate(model, draft, inputs, **options)
            ours = vispec.generate(model, draft, inputs, **past, **options)
            assert torch.equal(ours.sequences, model.generate(**inputs, **options).sequences)
            assert torch.equal(ours.speculation.num_accepted, fresh.speculation.num_accepted)
            said = append_tokens(inputs, ours.sequences[0, inputs["input_ids"].shape[1] :].tolist())
            dialogues[index] = (append_inputs(said, prompt_for(model, turn + 2)), {CACHE_NAME: ours[CACHE_NAME]})


@pytest.mark.parametrize("elsewhere", ["cpu", *range(1, torch.cuda.device_count())])
def test_weights_elsewhere(elsewhere: str | int) -> None:
    """A layer and the LM head are offloaded to the host, or on another GPU."""
    layers = {f"model.language_model.layers.{index}": elsewhere if index == 1 else 0 for index in range(3)}
    others = ("model.vision_tower", "model.multi_modal_projector", "model.language_model.embed_tokens")
    rest = {**dict.fromkeys(others, 0), "model.language_model.norm": 0, "model.language_model.rotary_emb": 0}
    model = dispatch_model(make_target("llava"), {**rest, **layers, "lm_head": elsewhere})
    inputs = batch_for(model, range(3))
    for tree in TREES:
        with pytest.warns(UserWarning, match="dispatched by accelerate"):
            assert_same_text(model, make_draft(model), inputs, tree, max_new_tokens=40)


def test_kept_cycles_grow_and_return(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cycles, "ROWS_MULTIPLE", 1)
    model, draft = on_gpu("llava")
    for seed, count in enumerate((20, 20, 300, 20)):
        assert_same_text(model, draft, prompt_for(model, seed), TreeConfig(), max_new_tokens=count)


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_the_drafts_cache_grows(family: str) -> None:
    """A prompt whose image saves the draft fewer rows than the last one's: graphs are void, and captured anew."""
    model, draft = on_gpu(family)
    for layout in ("one image", "text", "one image", "text"):
        inputs = on_device(model, make_prompt(model, layout, random.Random(3)))
        output = assert_same_text(model, draft, inputs, TreeConfig(), max_new_tokens=40)
        assert output.speculation.seconds["captured"] > 0


def test_auto() -> None:
    model, draft = on_gpu("llama")
    assert_same_text(model, draft, prompt_for(model, 0), "auto", max_new_tokens=200)


def test_a_failed_capture_leaves_the_stream_usable() -> None:
    x = torch.ones(4, device="cuda")
    replayer = Replayer(CudaCapture)

    def reads_back() -> Tensor:
        return x * x.sum().item()

    with pytest.warns(UserWarning, match="capturing failed"):
        results = [replayer.run("key", 0, reads_back) for _ in range(3)]
    assert all(result.tolist() == [4.0] * 4 for result in results)
    assert not torch.cuda.is_current_stream_capturing()
    assert torch.rand(1, device="cuda").item() < 1  # torch's generator is not in a capture either
    good = Replayer(CudaCapture)
    for version in (0, 0, 0, 1, 1, 1):
        assert good.run("key", version, lambda: x + 1).tolist() == [2.0] * 4


def test_another_thread_may_allocate_meanwhile() -> None:
    stop = Event()

    def allocate() -> None:
        while not stop.is_set():
            torch.empty(random.randrange(1, 1 << 24), dtype=torch.uint8, device="cuda")

    thread = Thread(target=allocate)
    thread.start()
    try:
        model, draft = on_gpu("llama")
        for seed in range(3):
            assert_same_text(model, draft, prompt_for(model, seed), TREES[seed], max_new_tokens=30)
    finally:
        stop.set()
        thread.join()


def test_texts_agree_between_devices() -> None:
    """The CPU's greedy text in fp32, as a check that both devices run the same model."""
    model, _ = on_gpu("llama")
    inputs = prompt_for(model, 5)
    on_device = plain_text(model, inputs, max_new_tokens=20)
    on_cpu = plain_text(model.cpu(), {name: x.cpu() for name, x in inputs.items()}, max_new_tokens=20)
    assert torch.equal(on_device.cpu(), on_cpu)
