"""Logits processors of any kind: called once for each token that is emitted, as plain decoding calls them."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LogitsProcessor
from transformers.generation.logits_process import ClassifierFreeGuidanceLogitsProcessor

import vispec
from models import VISION_FAMILIES, Pair, make_pair, make_prompt
from refusal import refused
from vispec import TreeConfig

LENGTH = 32
TREES = (TreeConfig(), TreeConfig(0, 1, 2), TreeConfig(6, 8, 100), "auto")


class Counts(LogitsProcessor):
    """Keeps a state: a token may come only so often as it may; and the ids that it was shown."""

    def __init__(self) -> None:
        self.shown: list[list[int]] = []
        self.left: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self.left is None:
            self.left = torch.full((scores.shape[1],), 2)
        else:
            self.left[input_ids[0, -1]] -= 1
        self.shown.append(input_ids[0].tolist())
        return scores.masked_fill(self.left[None] <= 0, -torch.inf)


def allowed_after(batch: int, ids: Tensor) -> list[int]:
    assert batch == 0
    assert ids.ndim == 1
    return [token for token in range(150) if (token + int(ids[-1])) % 3]


GREEDY: dict[str, dict[str, Any]] = {
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 2},
    "repetition_penalty before another": {"repetition_penalty": 1.2, "no_repeat_ngram_size": 2},
    "encoder_repetition_penalty": {"encoder_repetition_penalty": 1.3},
    "encoder_no_repeat_ngram_size": {"encoder_no_repeat_ngram_size": 1},
    "min_new_tokens": {"min_new_tokens": 20, "eos_token_id": list(range(3, 100))},
    "min_length": {"min_length": 25, "eos_token_id": list(range(3, 100))},
    "bad_words_ids": {"bad_words_ids": [[7], [8, 9], *([token] for token in range(20, 60))]},
    "sequence_bias": {"sequence_bias": [[[token], -3.0] for token in range(3, 80)]},
    "suppress_tokens": {"suppress_tokens": list(range(3, 60))},
    "begin_suppress_tokens": {"begin_suppress_tokens": list(range(3, 120))},
    "forced_bos_token_id": {"forced_bos_token_id": 7},
    "forced_eos_token_id": {"forced_eos_token_id": 7},
    "exponential_decay": {"exponential_decay_length_penalty": (2, 1.5), "eos_token_id": 2},
    "remove_invalid_values": {"remove_invalid_values": True},
    "renormalize_logits": {"renormalize_logits": True},
    "watermarking_config": {"watermarking_config": {"bias": 2.5}},
    "prefix_allowed_tokens_fn": {"prefix_allowed_tokens_fn": allowed_after},
}
SAMPLED: dict[str, dict[str, Any]] = {
    "typical_p": {"typical_p": 0.7},
    "epsilon_cutoff": {"epsilon_cutoff": 0.02},
    "eta_cutoff": {"eta_cutoff": 0.02},
    "top_h": {"top_h": 0.5},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 2, "temperature": 0.7, "top_p": 0.9},
    "prefix_allowed_tokens_fn": {"prefix_allowed_tokens_fn": allowed_after, "repetition_penalty": 1.2},
    "renormalize_logits": {"renormalize_logits": True, "top_k": 20},
}


@pytest.fixture(scope="module")
def llama() -> Pair:
    return make_pair("llama")


@pytest.mark.parametrize("options", GREEDY.values(), ids=list(GREEDY))
def test_greedy_is_what_the_model_writes(llama: Pair, options: dict[str, Any]) -> None:
    model, draft = llama
    inputs = make_prompt(model, "text", random.Random(1))
    if "forced_bos_token_id" in options:  # of a prompt of one token alone
        inputs = {"input_ids": inputs["input_ids"][:, :1]}
    if "encoder_no_repeat_ngram_size" in options:  # a prompt that the model would repeat
        text = model.generate(**inputs, max_new_tokens=LENGTH)
        inputs = {"input_ids": torch.cat((text, text[:, :12]), dim=1)}
    unchanged = model.generate(**inputs, max_new_tokens=LENGTH)
    plain = model.generate(**inputs, max_new_tokens=LENGTH, **options)
    if not options.keys() & {"remove_invalid_values", "renormalize_logits"}:
        assert not torch.equal(plain, unchanged), "the case itself shows nothing"
    for tree in TREES:
        assert torch.equal(vispec.generate(model, draft, inputs, tree=tree, max_new_tokens=LENGTH, **options), plain)
    assert torch.equal(vispec.generate(model, None, inputs, max_new_tokens=LENGTH, **options), plain)


@pytest.mark.parametrize("options", SAMPLED.values(), ids=list(SAMPLED))
def test_sampled_is_what_plain_decoding_draws(llama: Pair, options: dict[str, Any]) -> None:
    model, draft = llama
    inputs = make_prompt(model, "text", random.Random(1))
    generator = torch.Generator()
    options = {"do_sample": True, "generator": generator, "max_new_tokens": LENGTH, **options}
    generator.manual_seed(4)
    plain = vispec.generate(model, None, inputs, **options)
    for tree in TREES:
        generator.manual_seed(4)
        assert torch.equal(vispec.generate(model, draft, inputs, tree=tree, **options), plain)


@pytest.mark.parametrize("family", ["llama", "qwen2_5_vl"])
@pytest.mark.parametrize("ends", [False, True])
def test_calls_are_those_of_plain_decoding(family: str, ends: bool) -> None:
    """The same number, in the same order, with the same ids; and none past an end inside an accepted path."""
    model, draft = make_pair(family)
    inputs = make_prompt(model, "one image" if family in VISION_FAMILIES else "text", random.Random(2))
    start = inputs["input_ids"].shape[1]
    text = model.generate(**inputs, max_new_tokens=LENGTH, logits_processor=[Counts()])[0, start:].tolist()
    for end in dict.fromkeys(text) if ends else [None]:
        plain, ours, sampled = Counts(), Counts(), Counts()
        options = {"max_new_tokens": LENGTH, "eos_token_id": end}
        expected = model.generate(**inputs, logits_processor=[plain], **options)
        output = vispec.generate(model, draft, inputs, logits_processor=[ours], return_dict_in_generate=True, **options)
        assert torch.equal(output.sequences, expected)
        assert ours.shown == plain.shown
        assert output.past_key_values.get_seq_length() == expected.shape[1] - 1
        output = vispec.generate(model, draft, inputs, logits_processor=[sampled], do_sample=True, **options)
        assert sampled.shown == [output[0, :length].tolist() for length in range(start, output.shape[1])]


def test_some_are_accepted_on_the_way(llama: Pair) -> None:
    """The walk goes down the tree: fewer passes of the target than tokens."""
    inputs = make_prompt(llama[0], "text", random.Random(1))
    output = vispec.generate(
        *llama, inputs, max_new_tokens=LENGTH, logits_processor=[Counts()], return_dict_in_generate=True
    )
    report = output.speculation
    assert report.num_cycles < LENGTH - 1
    assert LENGTH - 1 <= int(report.num_accepted.sum()) + report.num_cycles <= LENGTH


def test_error_in_a_processor(llama: Pair) -> None:
    model, draft = llama
    inputs = make_prompt(model, "text", random.Random(1))
    plain = model.generate(**inputs, max_new_tokens=9)

    class Fails(Counts):
        def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
            if input_ids.shape[1] > inputs["input_ids"].shape[1] + 3:
                raise KeyboardInterrupt("on purpose")
            return scores

    with pytest.raises(KeyboardInterrupt, match="on purpose"):
        vispec.generate(model, draft, inputs, max_new_tokens=9, logits_processor=[Fails()])
    assert model.config._attn_implementation == "sdpa"
    assert torch.equal(model.generate(**inputs, max_new_tokens=9), plain)


def test_guidance_of_the_user(llama: Pair) -> None:
    guidance = ClassifierFreeGuidanceLogitsProcessor(1.5)
    with refused(llama[0], NotImplementedError, "ClassifierFreeGuidanceLogitsProcessor", "the model's own generate"):
        vispec.generate(*llama, torch.tensor([[5, 6]]), max_new_tokens=3, logits_processor=[guidance])
