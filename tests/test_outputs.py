"""What comes back beside the text: scores and logits in transformers' shapes; stop strings; streamers of every kind."""

from __future__ import annotations

import asyncio
import copy
import random
from threading import Thread
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AsyncTextIteratorStreamer,
    GenerationConfig,
    PreTrainedTokenizerFast,
    StoppingCriteria,
    TextIteratorStreamer,
    TextStreamer,
)
from transformers.generation.streamers import BaseStreamer

import vispec
from models import VOCAB_SIZE, Pair, make_draft, make_pair, make_prompt
from refusal import refused
from vispec import TreeConfig
from vispec.cache import CACHE_NAME
from word_tokenizer import make_tokenizer

LENGTH = 30


@pytest.fixture(scope="module")
def llava() -> Pair:
    return make_pair("llava")


@pytest.fixture(scope="module")
def inputs(llava: Pair) -> dict[str, Tensor]:
    return make_prompt(llava[0], "one image", random.Random(0))


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


KINDS = ({"output_scores": True}, {"output_logits": True}, {"output_scores": True, "output_logits": True})


@pytest.mark.parametrize("kinds", KINDS, ids=lambda kinds: "+".join(kinds))
@pytest.mark.parametrize("processing", [{}, {"repetition_penalty": 1.3}, {"no_repeat_ngram_size": 2}], ids=str)
def test_scores_and_logits(llava: Pair, inputs: Any, kinds: dict[str, bool], processing: dict[str, Any]) -> None:
    model, draft = llava
    options = {"max_new_tokens": LENGTH, "return_dict_in_generate": True, **kinds, **processing}
    plain = model.generate(**inputs, **options)
    for drafted in (None, draft):
        ours = vispec.generate(model, drafted, inputs, **options)
        assert torch.equal(ours.sequences, plain.sequences)
        for name in ("scores", "logits"):
            found, expected = getattr(ours, name), getattr(plain, name)
            assert (found is None) == (expected is None) == (f"output_{name}" not in kinds)
            if found is not None:
                assert isinstance(found, tuple)
                assert len(found) == len(expected) == LENGTH
                torch.testing.assert_close(torch.stack(found), torch.stack(expected), rtol=0, atol=2e-5)


def test_nothing_changes_when_scores_are_asked_for(llava: Pair, inputs: Any) -> None:
    """The same draws, the same tokens, and scores in which each token is possible."""
    model, draft = llava
    options = {"do_sample": True, "top_p": 0.7, "temperature": 1.3, "repetition_penalty": 1.2, "max_new_tokens": LENGTH}
    generator = torch.Generator()
    text = vispec.generate(model, draft, inputs, generator=generator.manual_seed(1), **options)
    kept = vispec.generate(
        model,
        draft,
        inputs,
        generator=generator.manual_seed(1),
        output_scores=True,
        output_logits=True,
        return_dict_in_generate=True,
        **options,
    )
    assert torch.equal(kept.sequences, text)
    new = text[0, inputs["input_ids"].shape[1] :].tolist()
    for token, scores, logits in zip(new, kept.scores, kept.logits, strict=True):
        assert scores.shape == logits.shape == (1, VOCAB_SIZE)
        assert scores.dtype == logits.dtype == torch.float32
        assert scores[0, token].isfinite()
        assert scores.isinf().any()
        assert logits.isfinite().all()


class Watches(StoppingCriteria):
    """How many scores there are at each call."""

    def __init__(self) -> None:
        self.counts: list[int | None] = []

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> bool:
        self.counts.append(None if scores is None else len(scores))
        return len(self.counts) == 11


@pytest.mark.parametrize("keeps", [False, True])
def test_criteria_get_the_scores(llava: Pair, inputs: Any, keeps: bool) -> None:
    model, draft = llava
    plain, ours = Watches(), Watches()
    options = {"max_new_tokens": LENGTH, "output_scores": keeps, "return_dict_in_generate": True}
    expected = model.generate(**inputs, stopping_criteria=[plain], **options)
    output = vispec.generate(model, draft, inputs, stopping_criteria=[ours], **options)
    assert torch.equal(output.sequences, expected.sequences)
    assert ours.counts == plain.counts == ([*range(1, 12)] if keeps else [None] * 11)


@pytest.mark.parametrize("source", ["keyword", "generation_config", "model", "accelerated"])
def test_stop_strings(source: str, inputs: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    model, draft = make_pair("llava")
    text = model.generate(**inputs, max_new_tokens=LENGTH)[0, inputs["input_ids"].shape[1] :].tolist()
    for place in (0, 3, 7, 12, 20):
        strings = ["nowhere", f"w{text[place]} w{text[place + 1]}"]
        options: dict[str, Any] = {"max_new_tokens": LENGTH, "tokenizer": tokenizer}
        plain = model.generate(**inputs, stop_strings=strings, **options)
        assert plain.shape[1] < inputs["input_ids"].shape[1] + LENGTH
        if source == "generation_config":
            del options["max_new_tokens"]
            options["generation_config"] = GenerationConfig(max_new_tokens=LENGTH, stop_strings=strings)
        elif source == "model":
            model.generation_config.stop_strings = strings
        else:
            options["stop_strings"] = strings
        before = copy.deepcopy(model.generation_config.to_dict())
        if source == "accelerated":
            with vispec.accelerate(model, draft):
                assert torch.equal(model.generate(**inputs, **options), plain)
        else:
            assert torch.equal(vispec.generate(model, draft, inputs, **options), plain)
        assert model.generation_config.to_dict() == before
        model.generation_config.stop_strings = None


def test_stop_strings_in_the_call_win_over_the_model(inputs: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    model, draft = make_pair("llava")
    text = model.generate(**inputs, max_new_tokens=LENGTH)
    model.generation_config.stop_strings = [f"w{text[0, -3]}"]
    ours = vispec.generate(model, draft, inputs, max_new_tokens=LENGTH, stop_strings=None, tokenizer=tokenizer)
    assert torch.equal(ours, text)


@pytest.mark.parametrize("strings", ["word", ["word"]], ids=str)
def test_stop_strings_without_a_tokenizer(llava: Pair, inputs: Any, strings: Any) -> None:
    words = (ValueError, "stop_strings: expected the model's tokenizer, too: pass tokenizer=")
    with refused(llava[0].get_decoder(), *words):
        vispec.generate(*llava, inputs, stop_strings=strings)
    with refused(llava[0].get_decoder(), *words):
        vispec.generate(*llava, inputs, generation_config=GenerationConfig(stop_strings=strings))


def test_max_time(llava: Pair, inputs: Any) -> None:
    output = vispec.generate(*llava, inputs, max_time=1e-9, max_new_tokens=LENGTH)
    assert output.shape[1] == inputs["input_ids"].shape[1] + 1
    output = vispec.generate(*llava, inputs, max_time=1e9, max_new_tokens=LENGTH)
    assert output.shape[1] == inputs["input_ids"].shape[1] + LENGTH


SLOW = {"no_repeat_ngram_size": 2}  # whose tokens the host chooses


@pytest.mark.parametrize("options", [{}, SLOW], ids=["fast", "by path"])
def test_text_streamers(
    llava: Pair, inputs: Any, tokenizer: Any, options: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    model, draft = llava
    options = {"max_new_tokens": LENGTH, **options}

    def printed(generate: Any) -> str:
        generate(streamer=TextStreamer(tokenizer, skip_prompt=True), **options)
        return capsys.readouterr().out

    def iterated(generate: Any) -> list[str]:
        streamer = TextIteratorStreamer(tokenizer, timeout=60)
        thread = Thread(target=lambda: generate(streamer=streamer, **options))
        thread.start()
        words = list(streamer)
        thread.join()
        return words

    async def awaited(generate: Any) -> list[str]:
        streamer = AsyncTextIteratorStreamer(tokenizer, timeout=60)
        thread = Thread(target=lambda: generate(streamer=streamer, **options))
        thread.start()
        words = [word async for word in streamer]
        thread.join()
        return words

    def plain(**keywords: Any) -> Any:
        return model.generate(**inputs, **keywords)

    def ours(**keywords: Any) -> Any:
        return vispec.generate(model, draft, inputs, **keywords)

    assert printed(ours) == printed(plain) != ""
    assert iterated(ours) == iterated(plain) != []
    assert asyncio.run(awaited(ours)) == asyncio.run(awaited(plain)) != []


class Counter(BaseStreamer):
    """Counts tokens, and the target's passes before each."""

    def __init__(self) -> None:
        self.passes, self.heard = 0, []

    def put(self, value: Tensor) -> None:
        self.heard.append(self.passes)

    def end(self) -> None: ...


@pytest.mark.parametrize("options", [{}, SLOW], ids=["fast", "by path"])
def test_tokens_are_streamed_as_cycles_accept_them(inputs: Any, options: dict[str, Any]) -> None:
    model, _ = make_pair("llava")
    draft, streamer = make_draft(model), Counter()

    def count(*_: Any) -> None:
        streamer.passes += 1

    model.get_decoder().register_forward_pre_hook(count)
    output = vispec.generate(
        model,
        draft,
        inputs,
        tree=TreeConfig(),
        max_new_tokens=LENGTH,
        streamer=streamer,
        return_dict_in_generate=True,
        **options,
    )
    accepted = output.speculation.num_accepted[:, 0].tolist()
    expected = [1] + [index + 2 for index, count in enumerate(accepted) for _ in range(count + 1)]
    assert streamer.heard[1:] == expected[:LENGTH]  # the first is the prompt, heard before any pass


@pytest.mark.parametrize("options", [{}, SLOW, {"do_sample": True}], ids=["fast", "by path", "drawn"])
def test_plain_generate_goes_on_from_the_cache(options: dict[str, Any]) -> None:
    """A next turn reads the new tokens alone, also where a stop cut an accepted path."""
    model, draft = make_pair("llama")
    prompt = make_prompt(model, "text", random.Random(0))
    torch.manual_seed(0)
    text = vispec.generate(model, draft, prompt, max_new_tokens=LENGTH, **options)[0].tolist()
    passes: list[int] = []
    model.model.register_forward_pre_hook(
        lambda _, args, keywords: passes.append(keywords["input_ids"].shape[1]), with_kwargs=True
    )
    for end in text[-8:]:
        torch.manual_seed(0)
        first = vispec.generate(
            model, draft, prompt, max_new_tokens=LENGTH, eos_token_id=end, return_dict_in_generate=True, **options
        )
        cache = first[CACHE_NAME]
        assert cache.get_seq_length() == first.sequences.shape[1] - 1
        turn = torch.cat((first.sequences, torch.tensor([[5, 9, 11]])), dim=1)
        expected = model.generate(turn, max_new_tokens=12)
        passes.clear()
        assert torch.equal(model.generate(turn, max_new_tokens=12, **{CACHE_NAME: cache}), expected)
        assert passes == [4] + [1] * 11
