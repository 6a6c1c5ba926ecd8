"""The target after a call, however it ended, is the target before it."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LogitsProcessor, PreTrainedModel
from transformers.generation.stopping_criteria import StoppingCriteria
from transformers.generation.streamers import BaseStreamer

import models
import vispec


def shown(value: Any) -> Any:
    """An attribute, so that another object or another content in its place is seen."""
    if isinstance(value, Tensor):
        return value.tolist() if value.numel() < 10 else (id(value), value._version)
    if isinstance(value, dict):
        return id(value), {key: id(item) for key, item in value.items()}
    return id(value)


def state_of(model: PreTrainedModel) -> dict[str, Any]:
    """Everything about a model that a call could leave changed."""
    state: dict[str, Any] = {
        "config": model.config.to_dict(),
        "json": model.config.to_json_string(),
        "generation_config": model.generation_config.to_dict(),
        "class": vars(type(model)).keys(),
    }
    for name, module in model.named_modules():
        state[name] = {key: shown(value) for key, value in vars(module).items()}
        if hasattr(module, "config"):
            state[f"{name} attention"] = module.config._attn_implementation
    for name, parameter in model.named_parameters():
        state[name] = id(parameter), parameter._version, parameter.requires_grad, parameter.grad
    return state


class Interrupting:
    """Raises at its n-th call, whatever it is called with."""

    def __init__(self, error: type[BaseException], at_call: int) -> None:
        self.error, self.remaining = error, at_call

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        self.remaining -= 1
        if self.remaining == 0:
            raise self.error("on purpose")


class InterruptingStreamer(BaseStreamer):
    def __init__(self, interrupt: Interrupting) -> None:
        self.interrupt = interrupt

    def put(self, value: Tensor) -> None:
        self.interrupt()

    def end(self) -> None:
        pass


class InterruptingCriterion(StoppingCriteria):
    def __init__(self, interrupt: Interrupting) -> None:
        self.interrupt = interrupt

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> bool:
        self.interrupt()
        return False


class InterruptingProcessor(LogitsProcessor):
    def __init__(self, interrupt: Interrupting) -> None:
        self.interrupt = interrupt

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.interrupt()
        return scores


def hook_on(module: nn.Module, interrupt: Interrupting) -> AbstractContextManager[dict[str, Any]]:
    @contextmanager
    def hooked() -> Iterator[dict[str, Any]]:
        handle = module.register_forward_pre_hook(interrupt)
        try:
            yield {}
        finally:
            handle.remove()

    return hooked()


Setup = Callable[[PreTrainedModel, vispec.Draft, Interrupting], AbstractContextManager[dict[str, Any]]]
# where the call is interrupted; the first pass over a layer is prefill
PLACES: dict[str, tuple[int, Setup]] = {
    "streamer": (5, lambda model, draft, cut: nullcontext({"streamer": InterruptingStreamer(cut)})),
    "criterion": (4, lambda model, draft, cut: nullcontext({"stopping_criteria": [InterruptingCriterion(cut)]})),
    "prefill": (1, lambda model, draft, cut: hook_on(model.get_decoder().layers[1], cut)),
    "first verification": (2, lambda model, draft, cut: hook_on(model.get_decoder().layers[1], cut)),
    "later verification": (4, lambda model, draft, cut: hook_on(model.get_decoder().layers[1], cut)),
    "LM head": (6, lambda model, draft, cut: hook_on(model.get_output_embeddings(), cut)),
    "drafter's prefill": (1, lambda model, draft, cut: hook_on(draft.model.layers[0].mlp, cut)),
    "draft": (7, lambda model, draft, cut: hook_on(draft.model.layers[0].mlp, cut)),
}


CASES = list(itertools.product(("llama", "llava", "qwen2_5_vl"), ("eager", "sdpa")))


@pytest.fixture(scope="module", params=CASES, ids=str)
def case(request: pytest.FixtureRequest) -> tuple[PreTrainedModel, vispec.Draft, dict[str, Tensor], Tensor]:
    """A model that has generated once, its draft, a prompt, and the text that the model wrote."""
    family, attention = request.param
    model = models.make_target(family)
    model.set_attn_implementation(attention)
    layout = "text" if family == "llama" else "two adjacent images"
    inputs = models.make_prompt(model, layout, random.Random(0))
    return model, models.make_draft(model), inputs, model.generate(**inputs, max_new_tokens=24)


def test_after_success(case: Any) -> None:
    model, draft, inputs, plain = case
    before = state_of(model)
    assert torch.equal(vispec.generate(model, draft, inputs, max_new_tokens=24), plain)
    assert state_of(model) == before
    assert torch.equal(model.generate(**inputs, max_new_tokens=24), plain)
    assert state_of(model) == before


@pytest.mark.parametrize("place", PLACES)
def test_after_an_error(case: Any, place: str) -> None:
    model, draft, inputs, plain = case
    at_call, setup = PLACES[place]
    before = state_of(model)
    for error in (KeyboardInterrupt, ZeroDivisionError):
        with setup(model, draft, Interrupting(error, at_call)) as options, pytest.raises(error, match="on purpose"):
            vispec.generate(model, draft, inputs, max_new_tokens=24, **options)
        assert state_of(model) == before
    assert torch.equal(model.generate(**inputs, max_new_tokens=24), plain)


BATCH = {"max_new_tokens": 24, "do_sample": False, "eos_token_id": list(range(3, 20)), "pad_token_id": 1}
# whose tokens the device chooses, and whose tokens the host does
WAYS: dict[str, dict[str, Any]] = {
    "fast": {},
    "by path": {"return_dict_in_generate": True, "output_hidden_states": True, "output_scores": True},
}
BATCH_PLACES: dict[str, tuple[int, Setup]] = {
    **PLACES,
    "processor": (5, lambda model, draft, cut: nullcontext({"logits_processor": [InterruptingProcessor(cut)]})),
}


@pytest.fixture(scope="module", params=["llava", "qwen2_5_vl"])
def batch(request: pytest.FixtureRequest) -> tuple[PreTrainedModel, vispec.Draft, dict[str, Tensor], Tensor]:
    """As `case`, for prompts of different lengths, of which one ends before the others."""
    model, draft = models.make_pair(request.param)
    rng = random.Random(0)
    inputs = models.make_batch([models.make_prompt(model, layout, rng) for layout in models.LAYOUTS])
    plain = model.generate(**inputs, **BATCH, **WAYS["by path"])  # a first call leaves transformers' hooks for good
    return model, draft, inputs, plain.sequences


@pytest.mark.parametrize("way", WAYS)
def test_after_a_batch(batch: Any, way: str) -> None:
    model, draft, inputs, plain = batch
    before = state_of(model)
    output = vispec.generate(model, draft, inputs, **BATCH, **WAYS[way])
    assert torch.equal(output if isinstance(output, Tensor) else output.sequences, plain)
    assert state_of(model) == before
    del output
    assert torch.equal(model.generate(**inputs, **BATCH), plain)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("place", BATCH_PLACES)
def test_after_an_error_in_a_batch(batch: Any, place: str, way: str) -> None:
    model, draft, inputs, plain = batch
    at_call, setup = BATCH_PLACES[place]
    before = state_of(model)
    for error in (KeyboardInterrupt, ZeroDivisionError):
        with setup(model, draft, Interrupting(error, at_call)) as options, pytest.raises(error, match="on purpose"):
            vispec.generate(model, draft, inputs, **BATCH, **WAYS[way], **options)
        assert state_of(model) == before
    assert torch.equal(vispec.generate(model, draft, inputs, **BATCH), plain)


def test_after_an_error_in_the_vision_tower(case: Any) -> None:
    model, draft, inputs, plain = case
    before = state_of(model)
    cut = Interrupting(KeyboardInterrupt, 1)
    with ExitStack() as stack:
        for name, module in model.named_modules():
            if "vision" in name or "visual" in name:
                stack.enter_context(hook_on(module, cut))
        is_blind = cut.remaining == 1 and "pixel_values" not in inputs
        with nullcontext() if is_blind else pytest.raises(KeyboardInterrupt, match="on purpose"):
            vispec.generate(model, draft, inputs, max_new_tokens=24)
    assert state_of(model) == before
    assert torch.equal(model.generate(**inputs, max_new_tokens=24), plain)


def test_second_interrupt_while_switching_back(case: Any) -> None:
    """The one thing that it can leave behind harms nothing, and goes with the next call."""
    model, draft, inputs, plain = case
    config = model.config.get_text_config()
    own = config._attn_implementation
    vispec.generate(model, draft, inputs, max_new_tokens=5)
    config._attn_implementation = "vispec"
    assert torch.equal(model.generate(**inputs, max_new_tokens=24), plain)
    assert torch.equal(vispec.generate(model, draft, inputs, max_new_tokens=24), plain)
    assert config._attn_implementation == own


def test_after_refused_arguments(case: Any) -> None:
    model, draft, inputs, _ = case
    before = state_of(model)
    for wrong in ({"num_beams": 2}, {"no_such_option": 1}, {"penalty_alpha": 0.6}, {"max_new_tokens": 0}):
        with pytest.raises((ValueError, NotImplementedError)):
            vispec.generate(model, draft, inputs, **{"max_new_tokens": 5, **wrong})
        assert state_of(model) == before


MODES = {"grad": torch.enable_grad, "no_grad": torch.no_grad, "inference_mode": torch.inference_mode}


@pytest.mark.parametrize("order", list(itertools.permutations(MODES)), ids=",".join)
def test_grad_modes_in_any_order(order: tuple[str, ...]) -> None:
    model = models.make_target("llava")
    draft = models.make_draft(model)
    inputs = models.make_prompt(model, "one image", random.Random(0))
    plain = model.generate(**inputs, max_new_tokens=16)
    for mode in (*order, order[0]):
        with MODES[mode]():
            output = vispec.generate(model, draft, inputs, max_new_tokens=16)
        assert torch.equal(output, plain)
        assert not output.requires_grad
        assert output.is_inference() == (mode == "inference_mode")
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    hidden = model(**inputs).logits  # still trainable
    hidden.sum().backward()
    assert model.get_output_embeddings().weight.grad is not None


@pytest.mark.parametrize("order", list(itertools.product(MODES, repeat=2)), ids=",".join)
def test_loaded_in_one_mode_and_used_in_another(order: tuple[str, str]) -> None:
    with MODES[order[0]]():
        model = models.make_target("llama")
        draft = models.make_draft(model)
        first = vispec.generate(model, draft, torch.tensor([[5, 6, 7]]), max_new_tokens=9, return_dict_in_generate=True)
    with MODES[order[1]]():
        ids = torch.cat((first.sequences, torch.tensor([[8]])), dim=1)
        plain = model.generate(ids, max_new_tokens=9)
        assert torch.equal(vispec.generate(model, draft, ids, max_new_tokens=9), plain)
        assert torch.equal(model.generate(ids, past_key_values=first.past_key_values, max_new_tokens=9), plain)
