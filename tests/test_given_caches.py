"""Caches that are given: cut, of another text, of another draft, after an error; and those that are refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, StaticCache, StoppingCriteria

import vispec
from dialogues import IDS, OPTIONS, after, answer_of, turns_of, warns, with_images_of
from models import IMAGE_TOKEN, Pair, make_draft, make_pair
from refusal import refused
from vispec.cache import CACHE_NAME

pytestmark = pytest.mark.usefixtures("no_warnings")


@pytest.fixture(scope="module")
def llava() -> Pair:
    return make_pair("llava")


def test_nothing_is_lost_without_a_draft(llava: Pair) -> None:
    """A turn of plain decoding, or with another draft, leaves what the first draft knew of the turns before."""
    model, draft = llava
    inputs, answer, cache = None, [], DynamicCache()
    other = make_draft(model, num_queries=4, seed=1)
    heard = (None, None, "has read 0", "the draft has read ")
    for turn, drafted, words in zip(turns_of(model), (draft, None, other, draft), heard, strict=True):
        inputs = after(inputs, answer, turn)
        with warns(words):
            ours = vispec.generate(model, drafted, inputs, past_key_values=cache, **OPTIONS)
        assert torch.equal(ours, model.generate(**inputs, **OPTIONS))
        answer = answer_of(ours, inputs)


def test_a_text_that_is_not_the_caches(llava: Pair) -> None:
    """Plain generate believes the cache; so do we, and say it."""
    model, draft = llava
    output = vispec.generate(model, draft, IDS, return_dict_in_generate=True, **OPTIONS)
    other = torch.cat((output.sequences, IDS), dim=1)
    other[0, 2] += 1
    plain = model.generate(other, past_key_values=copy.deepcopy(output[CACHE_NAME]), **OPTIONS)
    with warns(f"with token {other[0, 2] - 1} in place 2, where they have {other[0, 2]}"):
        ours = vispec.generate(model, draft, other, past_key_values=output[CACHE_NAME], **OPTIONS)
    assert torch.equal(ours, plain)


class Fails(StoppingCriteria):
    """At the third token."""

    calls = 0

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> bool:
        self.calls += 1
        if self.calls == 3:
            raise KeyboardInterrupt
        return False


def test_an_error_leaves_the_cache_as_it_was(llava: Pair) -> None:
    model, draft = llava
    output = vispec.generate(model, draft, IDS, return_dict_in_generate=True, **OPTIONS)
    cache = output[CACHE_NAME]
    ids = torch.cat((output.sequences, IDS), dim=1)
    with pytest.raises(KeyboardInterrupt):
        vispec.generate(model, draft, ids, past_key_values=cache, stopping_criteria=[Fails()], **OPTIONS)
    assert cache.get_seq_length() == output.sequences.shape[1] - 1
    assert torch.equal(
        vispec.generate(model, draft, ids, past_key_values=cache, **OPTIONS), model.generate(ids, **OPTIONS)
    )


def test_crop(llava: Pair) -> None:
    """A cache can be cut, and the draft's memory is with it, up to its last image."""
    model, draft = llava
    inputs = after(None, [], turns_of(model)[0])
    output = vispec.generate(model, draft, inputs, return_dict_in_generate=True, **OPTIONS)
    image = int((inputs["input_ids"][0] == IMAGE_TOKEN).nonzero().max()) + 1
    cuts = ((inputs["input_ids"].shape[1] + 5, None), (image + 1, None), (image - 1, "has read 0"))
    for left, words in cuts:
        ids = torch.cat((output.sequences[:, :left], IDS), dim=1)
        ids[0, left - 1] = 7  # which was not in the cache
        cache = copy.deepcopy(output[CACHE_NAME])
        cache.crop(left - 1 - cache.get_seq_length())
        assert cache.get_seq_length() == left - 1
        mask = {"attention_mask": torch.ones_like(ids)}
        plain = model.generate(ids, past_key_values=copy.deepcopy(cache), **mask, **OPTIONS)
        with warns(words):
            ours = vispec.generate(model, draft, ids, past_key_values=cache, **mask, **OPTIONS)
        assert torch.equal(ours, plain)


def test_accelerated_and_in_inference_mode(llava: Pair) -> None:
    model, draft = llava
    with torch.inference_mode(), vispec.accelerate(model, draft):
        output = model.generate(IDS, return_dict_in_generate=True, **OPTIONS)
    assert isinstance(output, vispec.SpeculativeOutput)
    ids = torch.cat((output.sequences, IDS), dim=1)
    with vispec.accelerate(model, draft):
        ours = model.generate(ids, **{CACHE_NAME: output[CACHE_NAME]}, **OPTIONS)
    assert torch.equal(ours, model.generate(ids, **OPTIONS))


def test_what_cannot_be_gone_on_from(llava: Pair) -> None:
    model, draft = llava
    output = vispec.generate(model, draft, IDS, return_dict_in_generate=True, **OPTIONS)
    cache, ids = output[CACHE_NAME], output.sequences
    cached = {"past_key_values": cache, "bos_token_id": 1}
    fewer = DynamicCache()
    fewer.update(torch.zeros(1, 2, 3, 8), torch.zeros(1, 2, 3, 8), 0)
    mask = torch.ones(1, ids.shape[1] + 3, dtype=torch.int64)
    cases: tuple[tuple[type[Exception], str, dict[str, Any]], ...] = (
        (TypeError, "past_key_values: expected a transformers Cache, got tuple", {"past_key_values": ((1, 2),)}),
        (
            NotImplementedError,
            "past_key_values: expected a DynamicCache that is not offloaded, as generate returns it, got a StaticCache",
            {"past_key_values": StaticCache(model.config.get_text_config(), max_cache_len=64)},
        ),
        (
            NotImplementedError,
            "got a DynamicCache, offloaded",
            {"past_key_values": DynamicCache(offloading=True)},
        ),
        (ValueError, "input_ids: expected the text that past_key_values holds", {**cached, "input_ids": None}),
        (ValueError, "past_key_values: expected the model's 3 layers, got 1", {"past_key_values": fewer}),
        (
            ValueError,
            f"input_ids: expected the {ids.shape[1] - 1} tokens that past_key_values holds and at least one more, got",
            {"past_key_values": cache, "input_ids": ids[:, :-1]},
        ),
        (
            ValueError,
            "past_key_values: expected 2 sequences, one for each that is to be written, got 1",
            {"past_key_values": cache, "input_ids": ids.repeat(2, 1)},
        ),
        (
            ValueError,
            "past_key_values: expected 3 sequences",
            {"past_key_values": cache, "num_return_sequences": 3, "do_sample": True},
        ),
        (
            ValueError,
            f"attention_mask: expected the shape of input_ids [1, {2 * ids.shape[1] - 1}], got [1, {mask.shape[1]}]",
            {"past_key_values": cache, "attention_mask": mask},
        ),
    )
    for error, words, keywords in cases:
        with refused(model, error, words):
            vispec.generate(model, draft, {"input_ids": ids, **keywords})


def test_a_turn_that_fails_takes_no_positions_with_it() -> None:
    """With M-RoPE: one with an image, refused; then one of text alone."""
    model, draft = make_pair("qwen2_5_vl")
    first = after(None, [], turns_of(model)[0])
    texts = []
    for fails in (False, True):
        output = vispec.generate(model, draft, first, return_dict_in_generate=True, **OPTIONS)
        given = {"past_key_values": output[CACHE_NAME], **OPTIONS}
        if fails:
            with pytest.raises(ValueError, match="nonsense"):
                vispec.generate(
                    model, draft, after(first, answer_of(output, first), turns_of(model)[0]), nonsense=1, **given
                )
            assert model.base_model.rope_deltas is None
        texts.append(vispec.generate(model, draft, torch.cat((output.sequences, IDS), dim=1), **given))
        assert model.base_model.rope_deltas is not None
    assert torch.equal(*texts)


def test_positions_of_new_images_hang_on_the_old_ones() -> None:
    """With M-RoPE; plain generate falls over it."""
    model, draft = make_pair("qwen2_5_vl")
    turns = turns_of(model)
    first = after(None, [], turns[0])
    output = vispec.generate(model, draft, first, return_dict_in_generate=True, **OPTIONS)
    inputs = after(first, answer_of(output, first), turns[0])
    cache = output[CACHE_NAME]
    words = "pixel_values: positions of new images hang on all images of the text; expected the 2 that input_ids hold"
    with refused(model, ValueError, words):
        vispec.generate(model, draft, with_images_of(inputs, turns[0]), past_key_values=cache)
    new = {name: value[:, cache.get_seq_length() :] for name, value in inputs.items() if value.ndim == 2}
    given = {**with_images_of(inputs, turns[0]), **new, "attention_mask": inputs["attention_mask"]}
    given["image_grid_thw"] = turns[0]["image_grid_thw"]
    given["pixel_values"] = turns[0]["pixel_values"]
    with refused(model, ValueError, "input_ids: expected the whole text, on which positions of new images hang"):
        vispec.generate(model, draft, given, past_key_values=cache)
