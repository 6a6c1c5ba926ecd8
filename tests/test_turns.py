"""Dialogues on one cache: each turn as the target writes it after reading everything anew, and as soon as it can be."""

from __future__ import annotations

import copy
import random
from importlib import import_module
from typing import Any

import pytest
import torch
from transformers import DynamicCache

import vispec
from dialogues import OPTIONS, after, answer_of, passes_of, turns_of, warns, with_images_of
from families import TABLE
from models import BUILDERS, Pair, layouts_of, make_batch, make_pair, make_prompt
from vispec import TreeConfig
from vispec.cache import CACHE_NAME
from vispec.continuing import NOTE
from vispec.training.prompts import append_inputs
from vispec.tree import SameTree

GENERATE = import_module("vispec.generate")  # the package has a function of that name
FAMILIES = (*sorted(BUILDERS), "gemma3", "granite4_vision", "idefics3", "qwen2_vl", "qwen3_vl")
# paligemma reads a prompt in both directions, so turns are no prompt; perception_lm's tiles of several images cannot
# be told apart once they are in one tensor
OTHERS = sorted(set(TABLE) - {*FAMILIES, "paligemma", "paligemma2", "perception_lm"})


pytestmark = pytest.mark.usefixtures("no_warnings")


@pytest.fixture(scope="module")
def llava() -> Pair:
    return make_pair("llava")


@pytest.mark.parametrize("family", [*FAMILIES, *(pytest.param(name, marks=pytest.mark.release) for name in OTHERS)])
def test_each_turn_is_the_targets_own(family: str) -> None:
    """The whole dialogue is given each time; nothing old is read again, and the draft forgets nothing."""
    model, draft = make_pair(family)
    inputs, answer, cache = None, [], None
    for turn in turns_of(model):
        inputs = after(inputs, answer, turn)
        plain = model.generate(**inputs, **OPTIONS)
        fresh = vispec.generate(model, draft, inputs, return_dict_in_generate=True, **OPTIONS)
        held = 0 if cache is None else cache.get_seq_length()
        with passes_of(model) as passes:
            given = {} if cache is None else {CACHE_NAME: cache}
            output = vispec.generate(model, draft, inputs, return_dict_in_generate=True, **given, **OPTIONS)
        assert torch.equal(output.sequences, plain)
        assert torch.equal(output.speculation.num_accepted, fresh.speculation.num_accepted)
        assert passes[0] == inputs["input_ids"].shape[1] - held
        assert cache is None or output[CACHE_NAME] is cache
        cache, answer = output[CACHE_NAME], answer_of(output, inputs)
        assert cache.get_seq_length() == plain.shape[1] - 1


VIDEOS = ("llava_next_video", "qwen2_vl")
# Not among them: qwen2_5_vl, whose own offset after a video is another one than the positions that follow it in one
# reading; video_llama_3, see below.
OTHER_VIDEOS = (
    "glm4v",
    "glm_ocr",
    "internvl",
    "llava_onevision",
    "perception_lm",
    "qwen3_vl",
    "qwen3_vl_moe",
    "smolvlm",
)


@pytest.mark.parametrize("family", [*VIDEOS, *(pytest.param(name, marks=pytest.mark.release) for name in OTHER_VIDEOS)])
def test_videos(family: str) -> None:
    model, draft = make_pair(family)
    layouts = [["one video", "text", "two videos"], ["one image", "one video", "video and images"]]
    is_mixed = "video and images" in layouts_of(TABLE[family])
    for dialogue in layouts if is_mixed else layouts[:1]:
        inputs, answer, cache, rng = None, [], DynamicCache(), random.Random(0)
        for layout in dialogue:
            inputs = after(inputs, answer, make_prompt(model, layout, rng))
            plain = model.generate(**inputs, **OPTIONS)
            assert torch.equal(vispec.generate(model, draft, inputs, past_key_values=cache, **OPTIONS), plain)
            answer = answer_of(plain, inputs)


def test_compressed_videos() -> None:
    """Those of old turns are not given again."""
    model, draft = make_pair("video_llama_3")
    turns, cache = turns_of(model, layouts=("one video", "one video")), DynamicCache()
    first = after(None, [], turns[0])
    answer = answer_of(vispec.generate(model, draft, first, past_key_values=cache, **OPTIONS), first)
    inputs = after(first, answer, turns[1])
    with pytest.raises(NotImplementedError, match="pixel_values_videos: leaving out of a compressed video"):
        vispec.generate(model, draft, inputs, past_key_values=cache, **OPTIONS)
    ours = vispec.generate(model, draft, with_images_of(inputs, turns[1]), past_key_values=cache, **OPTIONS)
    assert torch.equal(ours, model.generate(**inputs, **OPTIONS))


def test_one_cache_through_both(llava: Pair) -> None:
    """As plain generate does it, a cache is extended in place; the two take turns. The draft knows what it read."""
    model, draft = llava
    inputs, answer, cache = None, [], DynamicCache()
    num_read = 0
    for index, turn in enumerate(turns_of(model) * 2):
        inputs = after(inputs, answer, turn)
        plain = model.generate(**inputs, **OPTIONS)
        given = with_images_of(inputs, turn)
        if index % 3 == 2:
            assert torch.equal(model.generate(**given, past_key_values=cache, **OPTIONS), plain)
        else:
            missing = index > 0 and index % 3 == 0
            with warns(f"of which the draft has read {num_read}" if missing else None):
                ours = vispec.generate(model, draft, given, past_key_values=cache, **OPTIONS)
            assert torch.equal(ours, plain)
            num_read = plain.shape[1] - 1
        assert type(cache) is DynamicCache
        assert cache.get_seq_length() == plain.shape[1] - 1
        answer = answer_of(plain, inputs)


@pytest.mark.parametrize("has_config", [True, False], ids=["sliding windows", "whole layers"])
def test_beyond_a_sliding_window(has_config: bool) -> None:
    """Rows that a window has left are gone from a DynamicCache, and no layer misses them."""
    model, draft = make_pair("gemma3")
    config = model.config.get_text_config()
    cache = DynamicCache(config=config) if has_config else DynamicCache()
    inputs, answer = None, []
    for turn in turns_of(model):
        inputs = after(inputs, answer, turn)
        plain = model.generate(**inputs, **OPTIONS)
        assert torch.equal(vispec.generate(model, draft, inputs, past_key_values=cache, **OPTIONS), plain)
        answer = answer_of(plain, inputs)
    assert cache.get_seq_length() == plain.shape[1] - 1 > 3 * config.sliding_window
    rows = {layer.keys.shape[2] for layer in cache.layers}
    assert (config.sliding_window - 1 in rows) is has_config


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_new_tokens_alone(family: str) -> None:
    """With a mask for all of them, as plain generate takes them too."""
    model, draft = make_pair(family)
    first = after(None, [], turns_of(model)[0])
    output = vispec.generate(model, draft, first, return_dict_in_generate=True, **OPTIONS)
    inputs = after(first, answer_of(output, first), turns_of(model)[1])
    fresh = vispec.generate(model, draft, inputs, return_dict_in_generate=True, **OPTIONS)
    held = output[CACHE_NAME].get_seq_length()
    given = {"input_ids": inputs["input_ids"][:, held:], "attention_mask": inputs["attention_mask"]}
    plain = model.generate(**given, past_key_values=copy.deepcopy(output[CACHE_NAME]), **OPTIONS)
    text = vispec.generate(
        model, draft, given, past_key_values=output[CACHE_NAME], return_dict_in_generate=True, **OPTIONS
    )
    assert torch.equal(text.sequences, plain)
    assert torch.equal(text.sequences, fresh.sequences[:, held:])
    assert torch.equal(text.speculation.num_accepted, fresh.speculation.num_accepted)
    third = after(inputs, answer_of(fresh, inputs), turns_of(model)[1])
    expected = model.generate(**third, **OPTIONS)
    assert torch.equal(vispec.generate(model, draft, third, past_key_values=text[CACHE_NAME], **OPTIONS), expected)


def test_one_beginning_and_several_ends(llava: Pair) -> None:
    """A prompt that is read once, for a token; copies of its cache go on, the draft's memory with them."""
    model, draft = llava
    beginning = after(None, [], turns_of(model)[0])
    one = vispec.generate(model, draft, beginning, max_new_tokens=1, past_key_values=DynamicCache())
    read = vispec.generate(model, draft, beginning, max_new_tokens=1, return_dict_in_generate=True)
    assert torch.equal(one, read.sequences)
    for turn in turns_of(model, seed=1):
        inputs = append_inputs(beginning, {**turn, "attention_mask": torch.ones_like(turn["input_ids"])})
        cache = copy.deepcopy(read[CACHE_NAME])
        assert torch.equal(
            vispec.generate(model, draft, inputs, past_key_values=cache, **OPTIONS), model.generate(**inputs, **OPTIONS)
        )


@pytest.mark.parametrize("tree", [TreeConfig(), "auto"], ids=str)
def test_stops_and_other_next_tokens(llava: Pair, tree: Any) -> None:
    """A stop may cut an accepted path, and the next turn may have another token in place of the last one."""
    model, draft = llava
    first = after(None, [], turns_of(model)[0])
    text = answer_of(model.generate(**first, **OPTIONS), first)
    for end in text[-4:]:
        output = vispec.generate(
            model, draft, first, tree=tree, eos_token_id=end, return_dict_in_generate=True, **OPTIONS
        )
        answer = answer_of(output, first)
        assert answer[-1] == end
        for kept in (answer, [*answer[:-1], (end + 1) % 100]):
            inputs = after(first, kept, turns_of(model)[1])
            cache = copy.deepcopy(output[CACHE_NAME])
            ours = vispec.generate(model, draft, inputs, tree=tree, past_key_values=cache, **OPTIONS)
            assert torch.equal(ours, model.generate(**inputs, **OPTIONS))


class Tires(SameTree):
    """Drafts in two cycles, then no more."""

    def __init__(self) -> None:
        super().__init__(TreeConfig())
        self.left = 2

    def next_tree(self, length: int) -> TreeConfig | None:
        self.left -= 1
        return super().next_tree(length) if self.left >= 0 else None


def test_the_draft_keeps_what_it_read_late(llava: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cycles without a draft leave it behind; what is kept is whole all the same."""
    model, draft = llava
    monkeypatch.setattr(GENERATE, "auto_plan", lambda *_: Tires())
    first = after(None, [], turns_of(model)[0])
    steady, tired = (
        vispec.generate(model, draft, first, tree=tree, return_dict_in_generate=True, **OPTIONS)
        for tree in (TreeConfig(), "auto")
    )
    assert tired.speculation.trees[2:] == [None] * (tired.speculation.num_cycles - 2) != []
    expected, found = (getattr(output[CACHE_NAME], NOTE).memory for output in (steady, tired))
    assert found.num_indices == expected.num_indices == steady[CACHE_NAME].get_seq_length()
    torch.testing.assert_close(found.k, expected.k, rtol=1e-4, atol=2e-4)
    torch.testing.assert_close(found.v, expected.v, rtol=1e-4, atol=2e-4)


def test_sampling_draws_the_same(llava: Pair) -> None:
    """Draws hang on seed and position, not on what was read in which call."""
    model, draft = llava
    options = {**OPTIONS, "do_sample": True, "temperature": 1.3, "repetition_penalty": 1.2}
    inputs, answer, cache = None, [], DynamicCache()
    for seed, turn in enumerate(turns_of(model)):
        inputs = after(inputs, answer, turn)
        texts = [
            vispec.generate(model, drafted, inputs, generator=torch.Generator().manual_seed(seed), **options, **past)
            for drafted, past in ((None, {}), (draft, {}), (draft, {"past_key_values": cache}))
        ]
        assert torch.equal(texts[0], texts[1])
        assert torch.equal(texts[0], texts[2])
        answer = answer_of(texts[0], inputs)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava"])
def test_two_dialogues_on_one_model(family: str) -> None:
    """Each has rotary offsets of its own, though the model itself remembers those of its last call."""
    model, draft = make_pair(family)
    dialogues: list[Any] = [(None, [], DynamicCache()), (None, [], DynamicCache())]
    for turns in zip(turns_of(model, 1), turns_of(model, 2)[::-1], strict=True):
        for index, turn in enumerate(turns):
            inputs, answer, cache = dialogues[index]
            inputs = after(inputs, answer, turn)
            given = inputs if "image_grid_thw" in turn else with_images_of(inputs, turn)
            ours = vispec.generate(model, draft, given, past_key_values=cache, **OPTIONS)
            assert torch.equal(ours, model.generate(**inputs, **OPTIONS))
            dialogues[index] = (inputs, answer_of(ours, inputs), cache)


def test_a_batch(llava: Pair) -> None:
    """Its draft reads the new turns alone, and says so."""
    model, draft = llava
    rng = random.Random(0)
    inputs = make_batch([make_prompt(model, layout, rng) for layout in ("text", "one image", "text")])
    options = {**OPTIONS, "past_key_values": DynamicCache()}
    text = vispec.generate(model, draft, inputs, **options)
    assert torch.equal(text, model.generate(**inputs, **OPTIONS))
    turn = torch.randint(3, 100, (3, 7), generator=torch.Generator().manual_seed(0))
    ids = torch.cat((text, turn), dim=1)
    mask = torch.nn.functional.pad(inputs["attention_mask"], (0, ids.shape[1] - inputs["input_ids"].shape[1]), value=1)
    with warns("of which the draft has read 0"):
        ours = vispec.generate(model, draft, {"input_ids": ids, "attention_mask": mask}, **options)
    whole = {**inputs, "input_ids": ids, "attention_mask": mask}
    assert torch.equal(ours, model.generate(**whole, **OPTIONS))
