"""Batches of ragged prompts: each sequence as it would be alone, and calls as plain decoding makes them."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from torch import Tensor
from transformers import LogitsProcessor, StoppingCriteria
from transformers.generation.streamers import BaseStreamer

import vispec
from models import BUILDERS, VISION_FAMILIES, Pair, make_batch, make_pair, make_prompt
from refusal import refused
from vispec import TreeConfig
from vispec.cache import CACHE_NAME

LENGTH = 24
TREES = (TreeConfig(), TreeConfig(0, 1, 2), TreeConfig(5, 4, 60), "auto")
ENDS = list(range(3, 60))  # end-of-sequence tokens, so that sequences finish one after the other

Batch = tuple[Pair, list[dict[str, Tensor]], dict[str, Tensor]]


@pytest.fixture(scope="module", params=sorted(BUILDERS))
def batch(request: pytest.FixtureRequest) -> Batch:
    """Prompts of no, one and two images, or of text alone, and a pair for them."""
    return make_ragged(request.param)


@pytest.fixture(scope="module")
def llava() -> Batch:
    return make_ragged("llava")


def make_ragged(family: str) -> Batch:
    pair, rng = make_pair(family), random.Random(family)
    has_images = family in VISION_FAMILIES
    layouts = ("text", "one image", "two separate images", "two adjacent images") if has_images else ("text",) * 4
    prompts = [make_prompt(pair[0], layout, rng) for layout in layouts]
    return pair, prompts, make_batch(prompts)


@pytest.mark.parametrize("tree", TREES, ids=str)
def test_like_the_model_and_like_one_by_one(batch: Batch, tree: Any) -> None:
    (model, draft), prompts, inputs = batch
    options = {"max_new_tokens": LENGTH, "do_sample": False}
    plain = model.generate(**inputs, **options)
    output = vispec.generate(model, draft, inputs, tree=tree, return_dict_in_generate=True, **options)
    assert torch.equal(output.sequences, plain)
    start = inputs["input_ids"].shape[1]
    for row, prompt in enumerate(prompts):
        alone = vispec.generate(model, draft, prompt, tree=tree, return_dict_in_generate=True, **options)
        assert torch.equal(alone.sequences[0, prompt["input_ids"].shape[1] :], output.sequences[row, start:])
        if tree != "auto":  # the draft, too, sees no padding
            accepted = output.speculation.num_accepted[:, row]
            assert torch.equal(accepted[accepted >= 0], alone.speculation.num_accepted[:, 0])
    assert output.speculation.num_emitted.tolist() == [LENGTH] * len(prompts)


@pytest.mark.parametrize("tree", TREES, ids=str)
def test_sequences_finish_by_themselves(batch: Batch, tree: Any) -> None:
    """Padded as plain decoding pads them; what was emitted and accepted says when each one ended."""
    (model, draft), _, inputs = batch
    options = {"max_new_tokens": 3 * LENGTH, "do_sample": False, "eos_token_id": ENDS[:20], "pad_token_id": 1}
    plain = model.generate(**inputs, **options)
    output = vispec.generate(model, draft, inputs, tree=tree, return_dict_in_generate=True, **options)
    assert torch.equal(output.sequences, plain)
    emitted = output.speculation.num_emitted.tolist()
    assert len(set(emitted)) > 1
    start, accepted = inputs["input_ids"].shape[1], output.speculation.num_accepted
    for row, count in enumerate(emitted):
        written = plain[row, start : start + count]
        assert bool((plain[row, start + count :] == 1).all())
        assert bool(torch.isin(written[:-1], torch.tensor(ENDS[:20])).logical_not().all())
        cycles = accepted[:, row]
        active = int((cycles >= 0).sum())
        assert bool((cycles[:active] >= 0).all())  # and none after it finished
        assert int((cycles[:active] + 1).sum()) + 1 >= count


def test_cache_that_comes_back(batch: Batch) -> None:
    """Rows of all but the last step, padding behind finished sequences included, as plain decoding leaves them."""
    (model, draft), _, inputs = batch
    options = {
        "max_new_tokens": 3 * LENGTH,
        "do_sample": False,
        "eos_token_id": ENDS[:20],
        "pad_token_id": 1,
        "return_dict_in_generate": True,
    }
    plain = getattr(model.generate(**inputs, **options), CACHE_NAME)
    ours = getattr(vispec.generate(model, draft, inputs, **options), CACHE_NAME)
    assert ours.get_seq_length() == plain.get_seq_length()
    for layer, expected in zip(ours.layers, plain.layers, strict=True):
        new = plain.get_seq_length() - inputs["input_ids"].shape[1]
        rows = torch.nn.functional.pad(inputs["attention_mask"], (0, new), value=1).bool()
        for found, rows_of in ((layer.keys, expected.keys), (layer.values, expected.values)):
            assert found.shape == rows_of.shape
            last = rows[:, -found.shape[2] :]  # all, or with a sliding window as many as are seen
            kept, expected_rows = found.transpose(1, 2)[last], rows_of.transpose(1, 2)[last]
            torch.testing.assert_close(kept, expected_rows, rtol=0, atol=2e-5)


class Watches(StoppingCriteria):
    """Ends each sequence at a step of its own; keeps what it was shown."""

    def __init__(self, ends: list[int], prompt_length: int) -> None:
        self.ends, self.prompt_length = torch.tensor(ends), prompt_length
        self.shown: list[list[list[int]]] = []

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        self.shown.append(input_ids.tolist())
        return input_ids.shape[1] - self.prompt_length >= self.ends


class Hears(BaseStreamer):
    def __init__(self) -> None:
        self.heard: list[list[int]] = []

    def put(self, value: Tensor) -> None:
        self.heard.append(value.flatten().tolist())

    def end(self) -> None:
        self.heard.append([])


@pytest.mark.parametrize("ends_by_token", [True, False], ids=["padded", "no end-of-sequence token"])
@pytest.mark.parametrize("tree", TREES, ids=str)
def test_criteria_and_streamers_see_all_rows_at_one_step(llava: Batch, tree: Any, ends_by_token: bool) -> None:
    (model, draft), _, inputs = llava
    start = inputs["input_ids"].shape[1]
    options: dict[str, Any] = {"max_new_tokens": 40, "do_sample": False}
    if ends_by_token:
        options.update(eos_token_id=[2], pad_token_id=1)
    seen = []
    for generate in (model.generate, lambda **given: vispec.generate(model, draft, {}, tree=tree, **given)):
        watches, hears = Watches([5, 17, 1, 11], start), Hears()
        text = generate(**inputs, stopping_criteria=[watches], streamer=hears, **options)
        seen.append((text.tolist(), watches.shown, hears.heard))
    assert seen[0] == seen[1]


class Adds(LogitsProcessor):
    """Its state is the number of calls; unfinished rows' ids and scores are kept."""

    def __init__(self, ends: list[int]) -> None:
        self.ends = torch.tensor(ends)
        self.shown: list[tuple[list[list[int]], Tensor]] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        new = input_ids[:, -len(self.shown) :] if self.shown else input_ids[:, :0]
        unfinished = ~torch.isin(new, self.ends).any(1)
        self.shown.append((input_ids[unfinished].tolist(), scores[unfinished]))
        return scores + 3 * torch.sin(torch.arange(scores.shape[1]) * len(self.shown))


@pytest.mark.parametrize("tree", TREES, ids=str)
def test_processors_see_all_rows_at_one_step(llava: Batch, tree: Any) -> None:
    (model, draft), _, inputs = llava
    options: dict[str, Any] = {"max_new_tokens": LENGTH, "do_sample": False, "eos_token_id": ENDS[:4]}
    plain, ours = Adds(ENDS[:4]), Adds(ENDS[:4])
    expected = model.generate(**inputs, logits_processor=[plain], pad_token_id=1, **options)
    output = vispec.generate(
        model,
        draft,
        inputs,
        tree=tree,
        logits_processor=[ours],
        pad_token_id=1,
        return_dict_in_generate=True,
        **options,
    )
    assert torch.equal(output.sequences, expected)
    assert len(ours.shown) == len(plain.shown)
    for (ids, scores), (plain_ids, plain_scores) in zip(ours.shown, plain.shown, strict=True):
        assert ids == plain_ids
        torch.testing.assert_close(scores, plain_scores, rtol=0, atol=2e-5)
    assert output.speculation.num_emitted.tolist()[0] <= LENGTH


def test_prefix_function_gets_the_row(llava: Batch) -> None:
    (model, draft), _, inputs = llava

    def allowed(row: int, ids: Tensor) -> list[int]:
        return [token for token in range(3, 150) if token % 4 == row]

    options = {"max_new_tokens": LENGTH, "do_sample": False, "prefix_allowed_tokens_fn": allowed}
    ours = vispec.generate(model, draft, inputs, **options)
    assert torch.equal(ours, model.generate(**inputs, **options))
    new = ours[:, inputs["input_ids"].shape[1] :]
    assert bool((new % 4 == torch.arange(4)[:, None]).all())


@pytest.mark.parametrize("options", [{}, {"no_repeat_ngram_size": 2}, {"repetition_penalty": 1.3}], ids=str)
def test_scores_of_all_rows(llava: Batch, options: dict[str, Any]) -> None:
    (model, draft), _, inputs = llava
    options = {
        "max_new_tokens": LENGTH,
        "do_sample": False,
        "output_scores": True,
        "output_logits": True,
        "return_dict_in_generate": True,
        **options,
    }
    plain, ours = model.generate(**inputs, **options), vispec.generate(model, draft, inputs, **options)
    assert torch.equal(ours.sequences, plain.sequences)
    for name in ("scores", "logits"):
        found, expected = torch.stack(getattr(ours, name)), torch.stack(getattr(plain, name))
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("drafted", [True, False], ids=["drafted", "plain"])
def test_hidden_states(batch: Batch, drafted: bool) -> None:
    """Of every layer and step, the prompt's positions in the first one, where there is no padding."""
    (model, draft), _, inputs = batch
    options: dict[str, Any] = {"max_new_tokens": LENGTH, "do_sample": False, "return_dict_in_generate": True}
    plain = model.generate(**inputs, output_hidden_states=True, **options)
    ours = vispec.generate(model, draft if drafted else None, inputs, output_hidden_states=True, **options)
    assert torch.equal(ours.sequences, plain.sequences)
    assert isinstance(ours.hidden_states, tuple)
    assert len(ours.hidden_states) == len(plain.hidden_states) == LENGTH
    is_token = inputs["attention_mask"].bool()
    for step, (found, expected) in enumerate(zip(ours.hidden_states, plain.hidden_states, strict=True)):
        assert isinstance(found, tuple)
        assert len(found) == len(expected) == model.config.get_text_config().num_hidden_layers + 1
        for layer, expected_layer in zip(found, expected, strict=True):
            assert layer.shape == expected_layer.shape
            kept = is_token if step == 0 else torch.ones(layer.shape[:2], dtype=torch.bool)
            torch.testing.assert_close(layer[kept], expected_layer[kept], rtol=0, atol=1e-4)
    assert vispec.generate(model, draft, inputs, **options).hidden_states is None


SAMPLING = ({"temperature": 0.8}, {"top_p": 0.8, "repetition_penalty": 1.2}, {"typical_p": 0.7})


@pytest.mark.parametrize("options", SAMPLING, ids=str)
@pytest.mark.parametrize("tree", TREES, ids=str)
def test_same_draws_with_and_without_a_draft(batch: Batch, tree: Any, options: dict[str, Any]) -> None:
    (model, draft), prompts, inputs = batch
    options = {"max_new_tokens": LENGTH, "do_sample": True, "top_k": 0, **options}
    texts = []
    for drafted in (None, draft):
        torch.manual_seed(3)
        texts.append(vispec.generate(model, drafted, inputs, tree=tree, **options))
    assert torch.equal(*texts)
    if "repetition_penalty" in options:  # which counts padding as a token that was seen, like transformers' own
        return
    torch.manual_seed(3)
    first = vispec.generate(model, draft, prompts[0], tree=tree, **options)  # the draws do not hang on the padding
    assert torch.equal(first[0, prompts[0]["input_ids"].shape[1] :], texts[0][0, inputs["input_ids"].shape[1] :])


def test_several_sequences_of_one_prompt(batch: Batch) -> None:
    """Each one has draws of its own, the same with and without a draft."""
    (model, draft), prompts, inputs = batch
    options = {"max_new_tokens": LENGTH, "do_sample": True, "num_return_sequences": 3, "temperature": 2.0, "top_k": 0}
    # older releases give the sequences of a prompt with several images those of another order
    many = inputs if Version(transformers.__version__) >= Version("5.18") else make_batch(prompts[:2])
    for given in (prompts[1], many):
        texts = []
        for drafted in (None, draft):
            torch.manual_seed(5)
            texts.append(vispec.generate(model, drafted, given, **options))
        assert torch.equal(*texts)
        count = given["input_ids"].shape[0]
        assert texts[0].shape == (3 * count, given["input_ids"].shape[1] + LENGTH)
        assert len({tuple(text) for text in texts[0].tolist()}) == 3 * count
    with refused(model, ValueError, "num_return_sequences"):
        vispec.generate(model, draft, prompts[0], num_return_sequences=2, do_sample=False)


@pytest.mark.parametrize("mask", [[1, 1, 1, 0], [1, 0, 1, 1], [0, 0, 0, 0]], ids=str)
def test_other_padding_is_refused(llava: Batch, mask: list[int]) -> None:
    (model, draft), _, _ = llava
    inputs = {"input_ids": torch.tensor([[5, 6, 7, 8], [5, 6, 7, 8]])}
    with refused(model, ValueError, "attention_mask", "padding on the left"):
        vispec.generate(model, draft, {**inputs, "attention_mask": torch.tensor([[0, 1, 1, 1], mask])})
