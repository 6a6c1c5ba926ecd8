"""Budgets, ends of sequence, criteria and streamers: nothing past a stop is returned or streamed."""

from __future__ import annotations

import random
from threading import Thread
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

import vispec
from lossless import assert_same_text, plain_text
from models import make_draft, make_prompt, make_target
from vispec import TreeConfig


@pytest.fixture(scope="module")
def model() -> Any:
    return make_target("llava")


@pytest.fixture(scope="module")
def draft(model: Any) -> vispec.Draft:
    return make_draft(model)


@pytest.fixture(scope="module")
def inputs(model: Any) -> dict[str, Tensor]:
    return make_prompt(model, "one image", random.Random(0))


class Recorder(BaseStreamer):
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.chunks: list[list[int]] = []
        self.ended = 0

    def put(self, value: Tensor) -> None:
        self.chunks.append(value.flatten().tolist())

    def end(self) -> None:
        self.ended += 1


@pytest.mark.parametrize("length", range(1, 12))
def test_max_new_tokens(model: Any, draft: vispec.Draft, inputs: dict[str, Tensor], length: int) -> None:
    output = assert_same_text(model, draft, inputs, TreeConfig(), max_new_tokens=length)
    assert output.sequences.shape[1] == inputs["input_ids"].shape[1] + length


def test_max_length_and_generation_config(model: Any, draft: vispec.Draft, inputs: dict[str, Tensor]) -> None:
    prompt_length = inputs["input_ids"].shape[1]
    output = assert_same_text(model, draft, inputs, TreeConfig(), max_length=prompt_length + 7)
    assert output.sequences.shape[1] == prompt_length + 7
    config = GenerationConfig(max_new_tokens=9, eos_token_id=None, pad_token_id=0)
    output = assert_same_text(model, draft, inputs, TreeConfig(), generation_config=config)
    assert output.sequences.shape[1] == prompt_length + 9


def test_ends_of_sequence_at_every_place_of_a_path(model: Any, draft: vispec.Draft, inputs: dict[str, Tensor]) -> None:
    """Each token of the text in turn ends it: prefill's token, tokens inside accepted paths, bonus tokens."""
    start = inputs["input_ids"].shape[1]
    text = plain_text(model, inputs, max_new_tokens=48)[0, start:].tolist()
    never = next(token for token in range(150) if token not in text)
    for token in dict.fromkeys(text):
        output = assert_same_text(model, draft, inputs, TreeConfig(), max_new_tokens=48, eos_token_id=[never, token])
        assert output.sequences[0, start:].tolist() == text[: text.index(token) + 1]


class StopAfter(StoppingCriteria):
    """Stops at the third time that a token comes up; records what it was shown."""

    def __init__(self, token: int) -> None:
        self.token = token
        self.shown: list[list[int]] = []

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        self.shown.append(input_ids[0].tolist())
        return torch.full((1,), self.shown[-1].count(self.token) >= 3)


def test_criteria_are_called_as_plain_decoding_calls_them(
    model: Any, draft: vispec.Draft, inputs: dict[str, Tensor]
) -> None:
    text = plain_text(model, inputs, max_new_tokens=48)[0, inputs["input_ids"].shape[1] :].tolist()
    token = max(text, key=text.count)
    plain, ours = StopAfter(token), StopAfter(token)
    expected = plain_text(model, inputs, max_new_tokens=48, stopping_criteria=StoppingCriteriaList([plain]))
    output = vispec.generate(model, draft, inputs, max_new_tokens=48, stopping_criteria=StoppingCriteriaList([ours]))
    assert torch.equal(output, expected)
    assert len(output[0]) < len(inputs["input_ids"][0]) + 48
    assert ours.shown == plain.shown


def test_streamer_hears_what_plain_decoding_would_say(
    model: Any, draft: vispec.Draft, inputs: dict[str, Tensor]
) -> None:
    text = plain_text(model, inputs, max_new_tokens=48)[0, inputs["input_ids"].shape[1] :].tolist()
    plain, ours = Recorder(), Recorder()
    plain_text(model, inputs, max_new_tokens=48, streamer=plain, eos_token_id=text[20])
    vispec.generate(model, draft, inputs, max_new_tokens=48, streamer=ours, eos_token_id=text[20])
    assert ours.chunks == plain.chunks
    assert ours.ended == plain.ended == 1


def test_accelerated_model(model: Any, draft: vispec.Draft, inputs: dict[str, Tensor]) -> None:
    expected = plain_text(model, inputs, max_new_tokens=24)
    with vispec.accelerate(model, draft):
        output = model.generate(**inputs, max_new_tokens=24, return_dict_in_generate=True)
        results: list[Tensor] = []
        thread = Thread(
            target=lambda: results.append(
                model.generate(inputs["input_ids"], max_new_tokens=4, pixel_values=inputs["pixel_values"])
            )
        )
        thread.start()
        thread.join()
    assert torch.equal(output.sequences, expected)
    assert output.speculation.num_cycles > 0
    assert torch.equal(results[0], expected[:, : results[0].shape[1]])
    assert not hasattr(model.generate(**inputs, max_new_tokens=4, return_dict_in_generate=True), "speculation")
