"""Arguments that `model.generate` takes in odd forms: vispec returns the very same tensor."""

from __future__ import annotations

import random
import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BatchFeature, GenerationConfig
from transformers.generation.stopping_criteria import (
    MaxLengthCriteria,
    StoppingCriteria,
    StoppingCriteriaList,
)

import models
import vispec
from models import Pair, make_pair

IDS = torch.arange(3, 12)[None]


@pytest.fixture(scope="module")
def llama() -> Pair:
    return make_pair("llama")


@pytest.fixture(scope="module")
def qwen() -> Pair:
    return make_pair("qwen2_5_vl")


def assert_same(pair: Pair, inputs: dict[str, Any], **options: Any) -> Tensor:
    """Both calls agree in values, shape and dtype; what they return."""
    model, draft = pair
    plain = model.generate(**inputs, **options)
    ours = vispec.generate(model, draft, inputs, **options)
    assert ours.dtype == plain.dtype
    assert torch.equal(ours, plain)
    return ours


class StopAt(StoppingCriteria):
    """Ends texts of a length, and says so in one of the forms that transformers takes."""

    def __init__(self, length: int, form: str) -> None:
        self.length, self.form, self.calls = length, form, 0

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        self.calls += 1
        at_end = input_ids.shape[1] >= self.length
        return {"bool": at_end, "scalar": torch.tensor(at_end), "vector": torch.tensor([at_end])}[self.form]


OPTIONS: dict[str, dict[str, Any]] = {
    "max_length alone": {"max_length": 20},
    "max_new_tokens of one": {"max_new_tokens": 1},
    "max_new_tokens wins": {"max_new_tokens": 5, "max_length": 40},
    "no length at all": {},
    "float budget": {"max_new_tokens": 6.0},
    "generation_config": {"generation_config": GenerationConfig(max_new_tokens=7, do_sample=False)},
    "generation_config and keyword": {"generation_config": GenerationConfig(max_new_tokens=7), "max_new_tokens": 4},
    "eos list": {"max_new_tokens": 40, "eos_token_id": list(range(0, 140, 9))},
    "eos tensor": {"max_new_tokens": 40, "eos_token_id": torch.arange(0, 140, 9)},
    "no time": {"max_new_tokens": 40, "max_time": 0.0},
    "sampling options without sampling": {"max_new_tokens": 9, "temperature": 0.3, "top_k": 3, "top_p": 0.2},
    "beam options without beams": {"max_new_tokens": 9, "early_stopping": True, "length_penalty": 2.0},
    "options spelt as off": {"max_new_tokens": 9, "num_beams": 1, "repetition_penalty": 1.0, "min_new_tokens": 0},
    "None where nothing is meant": {
        "max_new_tokens": 9,
        "attention_mask": None,
        "streamer": None,
        "logits_processor": None,
        "stopping_criteria": None,
        "assistant_model": None,
        "custom_generate": None,
        "generation_config": None,
        "stop_strings": None,
    },
    "empty lists": {"max_new_tokens": 9, "logits_processor": [], "stopping_criteria": []},
    "disable_compile": {"max_new_tokens": 9, "disable_compile": True},
    "cache_implementation": {"max_new_tokens": 9, "cache_implementation": "dynamic"},
    "logits_to_keep": {"max_new_tokens": 9, "logits_to_keep": 0},
    "mask of ones": {"max_new_tokens": 9, "attention_mask": torch.ones_like(IDS)},
    "mask of bools": {"max_new_tokens": 9, "attention_mask": torch.ones_like(IDS, dtype=torch.bool)},
    "positions with an offset": {"max_new_tokens": 30, "position_ids": torch.arange(9)[None] + 1000},
    "positions with gaps": {"max_new_tokens": 30, "position_ids": torch.arange(9)[None] * 5},
    "positions that end low": {"max_new_tokens": 30, "position_ids": torch.arange(9).flip(0)[None]},
    "criterion of a length": {"max_new_tokens": 40, "stopping_criteria": [MaxLengthCriteria(17)]},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", OPTIONS.values(), ids=list(OPTIONS))
def test_options(llama: Pair, options: dict[str, Any]) -> None:
    output = assert_same(llama, {"input_ids": IDS}, **options)
    assert output.shape[1] > IDS.shape[1]


@pytest.mark.parametrize("form", ["bool", "scalar", "vector"])
@pytest.mark.parametrize("length", [10, 11, 16])
def test_criterion_of_the_user(llama: Pair, length: int, form: str) -> None:
    model, draft = llama
    counts = []
    for speculates in (False, True):
        criterion = StopAt(length, form)
        options = {"max_new_tokens": 30, "stopping_criteria": StoppingCriteriaList([criterion])}
        output = vispec.generate(model, draft, IDS, **options) if speculates else model.generate(IDS, **options)
        assert output.shape == (1, length)
        counts.append(criterion.calls)
    assert counts[0] == counts[1] == length - IDS.shape[1]


@pytest.mark.parametrize(
    "ids",
    [IDS.int(), torch.arange(60).view(6, 10).T[4:5], IDS[:, :1], torch.tensor([[7, 7, 7, 7]])],
    ids=["int32", "strided", "one token", "the same token"],
)
def test_ids(llama: Pair, ids: Tensor) -> None:
    before = ids.clone()
    output = assert_same(llama, {"input_ids": ids}, max_new_tokens=20)
    assert output.dtype == torch.int64
    assert torch.equal(ids, before)


def test_prompt_in_any_wrapping(llama: Pair) -> None:
    model, draft = llama
    plain = model.generate(IDS, max_new_tokens=9)
    wrappings: list[Any] = [
        IDS,
        {"input_ids": IDS},
        {"inputs": IDS},
        {"inputs": IDS, "input_ids": None},
        BatchFeature({"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}),
    ]
    for wrapping in wrappings:
        assert torch.equal(vispec.generate(model, draft, wrapping, max_new_tokens=9), plain)
    with vispec.accelerate(model, draft):
        assert torch.equal(model.generate(IDS, max_new_tokens=9), plain)
        assert torch.equal(model.generate(IDS, GenerationConfig(max_new_tokens=9)), plain)
        assert torch.equal(model.generate(inputs=IDS, max_new_tokens=9), plain)
        assert torch.equal(model.generate(input_ids=IDS, max_new_tokens=9), plain)


def test_budget_beyond_the_first_rows(llama: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["vispec.generate"], "MAX_FIRST_ROWS", 3)
    output = assert_same(llama, {"input_ids": IDS}, max_new_tokens=120, eos_token_id=None)
    assert output.shape == (1, 129)


def test_options_of_the_model_itself() -> None:
    pair = make_pair("llama")
    pair[0].generation_config.max_new_tokens = 11
    pair[0].generation_config.eos_token_id = [2, 140]
    assert_same(pair, {"input_ids": IDS})
    ended = assert_same(pair, {"input_ids": IDS}, eos_token_id=list(range(3, 140)))
    assert ended.shape[1] < assert_same(pair, {"input_ids": IDS}, eos_token_id=None).shape[1]
    pair[0].generation_config.return_dict_in_generate = True
    plain, ours = pair[0].generate(IDS), vispec.generate(*pair, IDS)
    assert isinstance(ours, vispec.SpeculativeOutput)
    assert isinstance(ours, type(plain))
    assert torch.equal(ours.sequences, plain.sequences)
    assert ours.past_key_values.get_seq_length() == plain.past_key_values.get_seq_length()
    assert (ours.scores, ours.logits, ours.attentions, ours.hidden_states) == (None, None, None, None)


def test_cache_can_be_continued(llama: Pair) -> None:
    """What comes back as `past_key_values` is an ordinary cache for the model's own generate."""
    model, draft = llama
    first = vispec.generate(model, draft, IDS, max_new_tokens=17, return_dict_in_generate=True)
    again = torch.cat((first.sequences, torch.tensor([[5, 9]])), dim=1)
    expected = model.generate(again, max_new_tokens=20)
    continued = model.generate(again, past_key_values=first.past_key_values, max_new_tokens=20)
    assert torch.equal(continued, expected)


def until_the_image_ends(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    end = int((inputs["input_ids"] == models.IMAGE_TOKEN).nonzero()[-1, 1]) + 1
    sliced = ("input_ids", "mm_token_type_ids")
    return {name: value[:, :end] if name in sliced else value for name, value in inputs.items()}


@pytest.mark.parametrize("seed", range(4))
def test_rotary_axes_that_end_apart(qwen: Pair, seed: int) -> None:
    """A prompt whose last token belongs to an image: the three axes go on from three positions."""
    inputs = until_the_image_ends(models.make_prompt(qwen[0], "one image", random.Random(seed)))
    assert_same(qwen, inputs, max_new_tokens=30)


def test_positions_of_the_user_for_three_axes(qwen: Pair) -> None:
    inputs = models.make_prompt(qwen[0], "one image", random.Random(1))
    length = inputs["input_ids"].shape[1]
    axes = torch.stack([torch.arange(length) * step for step in (1, 2, 3)])[:, None]
    assert_same(qwen, inputs, max_new_tokens=30, position_ids=axes)
    assert_same(qwen, inputs, max_new_tokens=30, position_ids=torch.arange(length)[None] * 3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.uint8], ids=str)
def test_pixels_of_another_dtype(dtype: torch.dtype) -> None:
    pair = make_pair("llava")
    inputs = models.make_prompt(pair[0], "two separate images", random.Random(0))
    inputs["pixel_values"] = (inputs["pixel_values"].abs() * 2).to(dtype)
    assert_same(pair, inputs, max_new_tokens=20)


def test_vision_options_reach_the_tower() -> None:
    pair = make_pair("llava")
    inputs = models.make_prompt(pair[0], "one image", random.Random(0))
    default = assert_same(pair, inputs, max_new_tokens=20)
    other = assert_same(pair, inputs, max_new_tokens=20, vision_feature_layer=-1)
    assert not torch.equal(default, other)
