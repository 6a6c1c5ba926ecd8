"""`vispec.accelerate`: whose `generate` it replaces, and when that ends."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

import models
import vispec
from vispec import TreeConfig

IDS = torch.tensor([[5, 9, 14]])
Pair = tuple[PreTrainedModel, vispec.Draft]


@pytest.fixture
def pair() -> Pair:
    model = models.make_target("llama")
    return model, models.make_draft(model)


def is_speculative(model: PreTrainedModel) -> bool:
    return isinstance(model.generate(IDS, max_new_tokens=3, return_dict_in_generate=True), vispec.SpeculativeOutput)


def test_handle(pair: Pair) -> None:
    model, _ = pair
    plain = model.generate(IDS, max_new_tokens=9)
    attributes = list(vars(model))
    handle = vispec.accelerate(*pair)
    assert handle.model is model
    assert is_speculative(model)
    assert torch.equal(model.generate(IDS, max_new_tokens=9), plain)
    handle.remove()
    assert list(vars(model)) == attributes
    assert not is_speculative(model)
    handle.remove()
    assert not is_speculative(model)


def test_context_manager(pair: Pair) -> None:
    model, _ = pair
    with vispec.accelerate(*pair) as handle:
        assert isinstance(handle, vispec.accelerate)
        assert is_speculative(model)
    assert "generate" not in vars(model)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_error_in_the_block(pair: Pair, error: type[BaseException]) -> None:
    with pytest.raises(error, match="in the block"), vispec.accelerate(*pair):
        raise error("in the block")
    assert "generate" not in vars(pair[0])


def test_error_in_generate(pair: Pair) -> None:
    model, _ = pair
    with vispec.accelerate(*pair):
        with pytest.raises(NotImplementedError, match="num_beams"):
            model.generate(IDS, num_beams=2)
        assert is_speculative(model)


def test_second_one_is_refused(pair: Pair) -> None:
    model, draft = pair
    with vispec.accelerate(*pair):
        with pytest.raises(RuntimeError, match=r"^model: its generate is replaced already"):
            vispec.accelerate(model, draft)
        assert is_speculative(model)
    with vispec.accelerate(*pair):
        assert is_speculative(model)


def test_old_handle_leaves_a_newer_one_alone(pair: Pair) -> None:
    old = vispec.accelerate(*pair)
    old.remove()
    with vispec.accelerate(*pair):
        old.remove()
        assert is_speculative(pair[0])


def test_own_call_beside_it(pair: Pair) -> None:
    """`vispec.generate` on an accelerated model goes to the model's own generate, not to itself."""
    model, draft = pair
    plain = model.generate(IDS, max_new_tokens=9)
    with vispec.accelerate(*pair):
        assert torch.equal(vispec.generate(model, draft, IDS, max_new_tokens=9), plain)


def test_tree_is_taken(pair: Pair) -> None:
    model, draft = pair
    options: dict[str, Any] = {"max_new_tokens": 9, "return_dict_in_generate": True}
    with vispec.accelerate(model, draft, tree=TreeConfig(1, 2, 4)):
        speculation = model.generate(IDS, **options).speculation
    assert speculation.num_drafted.tolist() == [3 * speculation.num_cycles]


def test_arguments_by_position_and_name(pair: Pair) -> None:
    model, _ = pair
    config = GenerationConfig(max_new_tokens=7)
    plain = model.generate(IDS, config)
    seen: list[Any] = []
    model.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True)
    with vispec.accelerate(*pair):
        for args, kwargs in (
            ((IDS, config), {}),
            ((IDS,), {"generation_config": config}),
            ((), {"inputs": IDS, "generation_config": config}),
            ((), {"input_ids": IDS, "max_new_tokens": 7}),
        ):
            assert torch.equal(model.generate(*args, **kwargs), plain)
        with pytest.raises(TypeError, match="too many positional arguments"):
            model.generate(*([None] * 20))
        with pytest.raises(TypeError, match="multiple values for argument 'inputs'"):
            model.generate(IDS, inputs=IDS)
    assert all("kwargs" not in keywords for keywords in seen)


def test_wrong_arguments(pair: Pair) -> None:
    model, draft = pair
    other = models.make_target("llama")
    for args, error, words in (
        ((model, None), TypeError, "draft: expected a draft"),
        ((model, draft.model), TypeError, "draft: expected a draft"),
        ((other, draft), ValueError, "draft: it was loaded for another model"),
        ((torch.nn.Linear(2, 2), draft), TypeError, "model: expected a transformers PreTrainedModel"),
    ):
        with pytest.raises(error, match=words):
            vispec.accelerate(*args)
    with pytest.raises(TypeError, match=r"tree: expected a vispec\.TreeConfig"):
        vispec.accelerate(model, draft, tree=30)
    assert "generate" not in vars(model)
    assert "generate" not in vars(other)


def test_copies_of_the_model(pair: Pair, tmp_path: Path) -> None:
    """Made while it is accelerated or afterwards: they are models of their own, and generate with their own weights."""
    model, _ = pair

    def copies() -> list[PreTrainedModel]:
        model.save_pretrained(tmp_path)
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
        return [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), loaded]

    with vispec.accelerate(*pair):
        made = copies()
    made += copies()
    plain = model.generate(IDS, max_new_tokens=9)
    for other in made:
        assert not is_speculative(other)
        assert torch.equal(other.generate(IDS, max_new_tokens=9), plain)
        with torch.no_grad():
            other.get_output_embeddings().weight.copy_(other.get_output_embeddings().weight.roll(1, 0))
        assert torch.equal(other.generate(IDS, max_new_tokens=1)[0, -1], plain[0, 3] + 1)
        assert torch.equal(model.generate(IDS, max_new_tokens=9), plain)
