"""Dialogues on one cache: each turn as the target writes it after reading everything anew, and as soon as it can be."""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, StaticCache, StoppingCriteria

import vispec
from families import TABLE
from models import BUILDERS, IMAGE_TOKEN, Pair, family_of, layouts_of, make_batch, make_draft, make_pair, make_prompt
from refusal import refused
from vispec import TreeConfig
from vispec.cache import CACHE_NAME
from vispec.continuing import NOTE
from vispec.training.prompts import append_inputs, append_tokens
from vispec.tree import SameTree

GENERATE = import_module("vispec.generate")  # the package has a function of that name
LENGTH = 16
LAYOUTS = ("one image", "text", "two adjacent images", "image first")
FAMILIES = (*sorted(BUILDERS), "gemma3", "granite4_vision", "idefics3", "qwen2_vl", "qwen3_vl")
# paligemma reads a prompt in both directions, so turns are no prompt; perception_lm's tiles of several images cannot
# be told apart once they are in one tensor
OTHERS = sorted(set(TABLE) - {*FAMILIES, "paligemma", "paligemma2", "perception_lm"})
OPTIONS: dict[str, Any] = {"max_new_tokens": LENGTH, "do_sample": False}
IDS = torch.tensor([[5, 9, 14, 20, 33, 8]])
Inputs = dict[str, Tensor]


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    """The draft knows all turns, unless a test says otherwise."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="vispec:")
        yield


@pytest.fixture(scope="module")
def llava() -> Pair:
    return make_pair("llava")


def turns_of(model: PreTrainedModel, seed: int = 0, layouts: Sequence[str] = LAYOUTS) -> list[Inputs]:
    """What comes in at each turn, images and all; text alone where the model reads no more."""
    rng = random.Random(seed)
    has_images = family_of(model).images is not None
    return [make_prompt(model, layout if has_images else "text", rng) for layout in layouts]


def after(inputs: Inputs | None, answer: list[int], turn: Inputs) -> Inputs:
    """A dialogue with one more answer and one more turn."""
    turn = {**turn, "attention_mask": torch.ones_like(turn["input_ids"])}
    return turn if inputs is None else append_inputs(append_tokens(inputs, answer), turn)


def with_images_of(inputs: Inputs, turn: Inputs) -> Inputs:
    """The dialogue with the images of its last turn alone, as plain generate takes it beside a cache."""
    per_token = {name: value for name, value in inputs.items() if value.shape == inputs["input_ids"].shape}
    return {**per_token, **{name: value for name, value in turn.items() if name not in per_token}}


def answer_of(output: Any, inputs: Inputs) -> list[int]:
    sequences = output if isinstance(output, Tensor) else output.sequences
    return sequences[0, inputs["input_ids"].shape[1] :].tolist()


@contextmanager
def passes_of(model: PreTrainedModel) -> Iterator[list[int]]:
    """Tokens of each pass of the decoder."""
    passes: list[int] = []

    def note(module: Any, args: Any, keywords: dict[str, Any]) -> None:
        first = keywords.get("inputs_embeds") if keywords.get("input_ids") is None else keywords["input_ids"]
        passes.append((args[0] if args else first).shape[1])

    hook = model.get_decoder().register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield passes
    finally:
        hook.remove()


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


@contextmanager
def warns(words: str | None) -> Iterator[None]:
    """The block warns so; None: it does not."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    heard = [str(warning.message) for warning in caught if str(warning.message).startswith("vispec:")]
    assert any(words in text for text in heard) if words else not heard


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
