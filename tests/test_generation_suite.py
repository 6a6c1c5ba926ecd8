"""The same calls on a model and on the accelerated model: the same types, shapes and values, warnings and errors.

The ideas are those of transformers' own tests of `generate`. What differs on purpose is tested elsewhere: another draw
for a seed (test_sampling.py), wrong prompts that are refused before they crash or are misread (test_wrong_inputs.py),
options that are refused (test_options.py); and of a sequence that has finished before others, scores, logits and hidden
states are those of no token (below).
"""

from __future__ import annotations

import copy
import pickle
import random
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList, TextStreamer, pipeline
from transformers.generation import GenerateDecoderOnlyOutput

import vispec
from alike import Outcome, assert_alike, outcome_of
from generation_calls import ALL, ENDS, OPTIONS, OUTPUTS, SAMPLED, SHORT, WARNED, WRONG, EveryFifth, Swings
from models import Pair, make_batch, make_draft, make_pair, make_prompt, make_target
from vispec.cache import CACHE_NAME
from word_tokenizer import make_tokenizer

Prompts = dict[str, dict[str, Tensor]]


@pytest.fixture(scope="module", params=["llama", "llava", "qwen2_5_vl"])
def case(request: pytest.FixtureRequest) -> tuple[Pair, Prompts]:
    pair, rng = make_pair(request.param), random.Random(0)
    layouts = ("text",) * 3 if request.param == "llama" else ("one image", "text", "two separate images")
    several = [make_prompt(pair[0], layout, rng) for layout in layouts]
    prompts = {
        "one": several[0],
        "a ragged batch": make_batch(several),
        "no mask": {"input_ids": torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])},
        "padding to be found": {"input_ids": torch.tensor([[0, 6, 7, 8], [9, 10, 11, 12]])},
        "a token": {"input_ids": torch.tensor([[5]])},
        "nothing": {},
    }
    return pair, prompts


def both(pair: Pair, prompt: dict[str, Tensor], options: dict[str, Any]) -> tuple[Outcome, Outcome]:
    """Of one call on the accelerated model, and on the model."""
    model, draft = pair
    with vispec.accelerate(model, draft):
        ours = outcome_of(lambda: model.generate(**prompt, **copy.deepcopy(options)))
    return ours, outcome_of(lambda: model.generate(**prompt, **copy.deepcopy(options)))


def assert_same(pair: Pair, prompt: dict[str, Tensor], options: dict[str, Any], values: bool = True) -> Outcome:
    ours, plain = both(pair, prompt, options)
    assert_alike(ours.result, plain.result, values)
    assert ours.said == plain.said
    return plain


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs(case: Any, name: str) -> None:
    pair, prompts = case
    for prompt in prompts.values():
        result = assert_same(pair, prompt, OUTPUTS[name]).result
        assert isinstance(result, GenerateDecoderOnlyOutput if "return_dict_in_generate" in OUTPUTS[name] else Tensor)


@pytest.mark.parametrize("name", OPTIONS)
def test_options(case: Any, name: str) -> None:
    pair, prompts = case
    for prompt in ("one", "a ragged batch"):
        result = assert_same(pair, prompts[prompt], OPTIONS[name]).result
        assert not isinstance(result, Exception)


@pytest.mark.parametrize("name", WARNED)
def test_warnings(case: Any, name: str) -> None:
    pair, prompts = case
    assert assert_same(pair, prompts["one"], WARNED[name]).said
    for prompt in ("no mask", "padding to be found"):  # of which it has something to say, too
        assert_same(pair, prompts[prompt], {**WARNED[name], "eos_token_id": ENDS, "pad_token_id": None})


@pytest.mark.parametrize("name", WRONG)
def test_errors(case: Any, name: str) -> None:
    pair, prompts = case
    assert isinstance(assert_same(pair, prompts["one"], WRONG[name]).result, Exception)


@pytest.mark.parametrize("name", SAMPLED)
def test_sampled(case: Any, name: str) -> None:
    pair, prompts = case
    for prompt in prompts.values():
        assert_same(pair, prompt, SAMPLED[name], values=False)


def test_finished_sequences(case: Any) -> None:
    """Their scores, logits and hidden states have the same shapes; those of the others have the same values."""
    pair, prompts = case
    prompt = prompts["a ragged batch"]
    ours, plain = (
        outcome.result for outcome in both(pair, prompt, {**ALL, "max_new_tokens": 30, "eos_token_id": ENDS[:9]})
    )
    assert_alike(ours, plain, values=False)
    assert torch.equal(ours.sequences, plain.sequences)
    new = plain.sequences[:, prompt["input_ids"].shape[1] :]
    has_ended = torch.isin(new, torch.tensor(ENDS[:9])).cumsum(1).bool()
    assert has_ended[:, :-1].any()
    assert not has_ended[:, :-1].all(0).any()
    for step in range(1, new.shape[1]):
        rows = ~has_ended[:, step - 1]
        for name in ("scores", "logits"):
            assert_alike(getattr(ours, name)[step][rows], getattr(plain, name)[step][rows])
        for layer, plain_layer in zip(ours.hidden_states[step], plain.hidden_states[step], strict=True):
            assert_alike(layer[rows], plain_layer[rows])


def test_padding_changes_nothing(case: Any) -> None:
    (model, draft), prompts = case
    prompt = {**prompts["one"], "attention_mask": torch.ones_like(prompts["one"]["input_ids"])}
    length = prompt["input_ids"].shape[1]
    padded = {
        name: torch.nn.functional.pad(value, (5, 0)) if value.shape == (1, length) else value
        for name, value in prompt.items()
    }
    with vispec.accelerate(model, draft):
        alone, moved = (model.generate(**inputs, **ALL) for inputs in (prompt, padded))
    assert torch.equal(moved.sequences[:, 5:], alone.sequences)
    assert_alike((moved.scores, moved.hidden_states[1:]), (alone.scores, alone.hidden_states[1:]))


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_grad_modes(case: Any, mode: Any) -> None:
    pair, prompts = case
    with mode():
        assert_same(pair, prompts["one"], ALL)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision(case: Any, dtype: torch.dtype) -> None:
    """A near tie may fall the other way, so values are left to test_lossless.py."""
    (tested, _), prompts = case
    model = make_target(tested.config.model_type, dtype=dtype)
    for prompt in ("one", "a ragged batch"):
        assert_same((model, make_draft(model)), prompts[prompt], ALL, values=False)


def test_defaults_of_the_model(case: Any) -> None:
    (tested, _), prompts = case
    model, draft = make_pair(tested.config.model_type)
    model.generation_config = GenerationConfig(**ALL, no_repeat_ngram_size=2, eos_token_id=2, pad_token_id=0)
    assert_same((model, draft), prompts["one"], {})
    assert_same((model, draft), prompts["one"], {"max_new_tokens": 3, "no_repeat_ngram_size": None})


def test_arguments_stay_as_they_are(case: Any) -> None:
    (model, draft), prompts = case
    prompt = prompts["a ragged batch"]
    options: dict[str, Any] = {
        "generation_config": GenerationConfig(**ALL, eos_token_id=ENDS),
        "logits_processor": LogitsProcessorList([Swings()]),
        "stopping_criteria": StoppingCriteriaList([EveryFifth()]),
    }
    before = copy.deepcopy((prompt, options["generation_config"].to_dict()))
    with vispec.accelerate(model, draft):
        first, second = (model.generate(**prompt, **options) for _ in range(2))
    assert_alike(second, first)
    assert len(options["logits_processor"]) == len(options["stopping_criteria"]) == 1
    assert options["generation_config"].to_dict() == before[1]
    assert all(torch.equal(prompt[name], before[0][name]) for name in prompt)


def test_an_output_is_transformers_own(case: Any) -> None:
    """What speculation did is beside the fields, and comes along with a copy."""
    pair, prompts = case
    ours, plain = (outcome.result for outcome in both(pair, prompts["one"], ALL))
    assert [field.name for field in fields(ours)] == [field.name for field in fields(plain)]
    assert len(ours) == len(ours.to_tuple()) == len(plain.to_tuple())
    assert_alike(ours.to_tuple(), plain.to_tuple())
    assert_alike(ours[:2], plain[:2])
    assert_alike((ours[0], ours["scores"], ours[-1]), (plain[0], plain["scores"], plain[-1]))
    assert len(pytree.tree_leaves(ours)) == len(pytree.tree_leaves(plain))
    assert_alike(pytree.tree_map(lambda leaf: leaf, ours), plain)
    for copied in (copy.copy(ours), copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert type(copied) is vispec.SpeculativeOutput
        assert_alike(copied, plain)
        assert copied.speculation.num_cycles == ours.speculation.num_cycles > 0


def test_what_is_computed_from_an_output(case: Any) -> None:
    pair, prompts = case
    for prompt in ("one", "a ragged batch"):
        ours, plain = (outcome.result for outcome in both(pair, prompts[prompt], ALL))
        for normalized in (False, True):
            found, expected = (
                pair[0].compute_transition_scores(output.sequences, output.scores, normalize_logits=normalized)
                for output in (ours, plain)
            )
            assert_alike(found, expected)
        for output in (ours, plain):
            output[CACHE_NAME].crop(-3)
            output[CACHE_NAME].batch_repeat_interleave(2)
        assert_alike(ours[CACHE_NAME], plain[CACHE_NAME])


def test_stop_strings_and_streamers(case: Any, capsys: pytest.CaptureFixture[str]) -> None:
    pair, prompts = case
    tokenizer = make_tokenizer()
    strings = [f"w{token}" for token in ENDS[::3]]
    for prompt in ("one", "a ragged batch"):
        stopped = {"max_new_tokens": 30, "stop_strings": strings, "tokenizer": tokenizer}
        assert not isinstance(assert_same(pair, prompts[prompt], stopped).result, Exception)
        capsys.readouterr()
        result = assert_same(pair, prompts[prompt], {**SHORT, "streamer": TextStreamer(tokenizer)}).result
        assert isinstance(result, ValueError) == (prompt == "a ragged batch")  # as transformers' streamers have it
        said = capsys.readouterr().out
        assert said[: len(said) // 2] == said[len(said) // 2 :]
        assert bool(said) == (prompt == "one")


def test_pipeline(case: Any) -> None:
    (model, draft), _ = case
    writes = pipeline("text-generation", model=model, tokenizer=make_tokenizer())
    texts = ["w5 w6 w7", "w9", "w20 w21"]
    for options in (SHORT, {**SHORT, "batch_size": 3, "return_full_text": False}, {"max_length": 12}):
        with vispec.accelerate(model, draft):
            ours = outcome_of(lambda options=options: writes(texts, do_sample=False, **options))
        plain = outcome_of(lambda options=options: writes(texts, do_sample=False, **options))
        assert ours == plain
        assert isinstance(plain.result, list)
