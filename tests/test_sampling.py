"""Sampling: the target's distribution, whatever is drafted, and one text for each seed."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel
from transformers.generation.logits_process import (
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

import vispec
import vispec.decoding
from models import BUILDERS, VISION_FAMILIES, VOCAB_SIZE, make_draft, make_pair, make_prompt
from refusal import refused
from vispec import TreeConfig
from vispec.sampling import Choice, Rules, rules_of
from vispec.tree import Tree

TREES = (TreeConfig(), TreeConfig(0, 1, 2), TreeConfig(1, 2, 5), TreeConfig(6, 8, 100), "auto")
OPTIONS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "temperature": {"temperature": 0.7},
    "top_k": {"top_k": 3},
    "top_p": {"top_p": 0.8, "temperature": 1.5},
    "min_p": {"min_p": 0.1},
    "penalty": {"repetition_penalty": 1.4},
    "all": {"temperature": 1.2, "top_k": 20, "top_p": 0.9, "min_p": 0.02, "repetition_penalty": 1.2},
    "greedy with a penalty": {"do_sample": False, "repetition_penalty": 1.3},
    "greedy with a reward": {"do_sample": False, "repetition_penalty": 0.8},
}


def write(model: PreTrainedModel, draft: Any, inputs: Any, seed: int = 0, **options: Any) -> Tensor:
    """The text that follows from a seed."""
    generator = torch.Generator().manual_seed(seed)
    return vispec.generate(model, draft, inputs, **{"do_sample": True, "generator": generator, **options})


@pytest.mark.parametrize(
    ("family", "case"), [*((family, "all") for family in BUILDERS), *(("llama", case) for case in OPTIONS)]
)
def test_every_tree_writes_the_text_of_plain_decoding(family: str, case: str) -> None:
    model, draft = make_pair(family)
    inputs = make_prompt(model, "one image" if family in VISION_FAMILIES else "text", random.Random(7))
    options = {"max_new_tokens": 30, **OPTIONS[case]}
    plain = write(model, None, inputs, **options)
    assert plain.shape[1] == inputs["input_ids"].shape[1] + 30
    for tree in TREES:
        assert torch.equal(write(model, draft, inputs, tree=tree, **options), plain)


@pytest.mark.parametrize("penalty", [0.8, 1.0, 1.3])
@pytest.mark.parametrize("family", BUILDERS)
def test_greedy_is_what_the_model_writes(family: str, penalty: float) -> None:
    model, draft = make_pair(family)
    inputs = make_prompt(model, "one image" if family in VISION_FAMILIES else "text", random.Random(0))
    options = {"do_sample": False, "repetition_penalty": penalty, "max_new_tokens": 40}
    plain = model.generate(**inputs, **options)
    assert torch.equal(vispec.generate(model, None, inputs, **options), plain)
    assert torch.equal(vispec.generate(model, draft, inputs, **options), plain)


def test_a_distribution_of_one_token_is_greedy() -> None:
    model, draft = make_pair("llava")
    inputs = make_prompt(model, "one image", random.Random(0))
    plain = model.generate(**inputs, do_sample=False, max_new_tokens=30)
    for options in ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}, {"temperature": 1e-5}):
        for drafted in (None, draft):
            assert torch.equal(write(model, drafted, inputs, max_new_tokens=30, **options), plain)


def test_seeds() -> None:
    model, draft = make_pair("llama")
    inputs = make_prompt(model, "text", random.Random(0))
    options = {"do_sample": True, "max_new_tokens": 20}
    torch.manual_seed(3)
    first, second = (vispec.generate(model, draft, inputs, **options) for _ in range(2))
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    assert torch.equal(vispec.generate(model, None, inputs, **options), first)
    assert torch.equal(vispec.generate(model, draft, inputs, tree="auto", **options), second)
    torch.manual_seed(3)
    assert torch.equal(write(model, draft, inputs, 3, max_new_tokens=20), first)
    with vispec.accelerate(model, draft):
        assert torch.equal(model.generate(**inputs, **options), first)
    state = torch.get_rng_state()
    vispec.generate(model, draft, inputs, do_sample=False, max_new_tokens=20)
    write(model, draft, inputs, 3, max_new_tokens=20)
    assert torch.equal(torch.get_rng_state(), state), "greedy calls and other generators leave torch's alone"


def test_defaults_of_the_model_count() -> None:
    model, draft = make_pair("qwen2_5_vl")
    inputs = make_prompt(model, "one image", random.Random(0))
    own = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "repetition_penalty": 1.1}
    expected = write(model, None, inputs, 5, max_new_tokens=20, **own)
    for name, value in own.items():
        setattr(model.generation_config, name, value)
    generator = torch.Generator()
    for drafted in (None, draft):
        ours = vispec.generate(model, drafted, inputs, max_new_tokens=20, generator=generator.manual_seed(5))
        assert torch.equal(ours, expected)
    plain = model.generate(**inputs, max_new_tokens=20, do_sample=False)
    assert torch.equal(vispec.generate(model, draft, inputs, max_new_tokens=20, do_sample=False), plain)


def test_wrong_generator() -> None:
    model, draft = make_pair("llama")
    with refused(model, TypeError, "generator: expected a torch.Generator, got int"):
        vispec.generate(model, draft, torch.tensor([[5, 6]]), do_sample=True, generator=3)


# --- what is recognised


PENALTY, HOT = RepetitionPenaltyLogitsProcessor(1.3), TemperatureLogitsWarper(1.7)
RECOGNISED: dict[str, list[LogitsProcessor]] = {
    "nothing": [],
    "penalty": [PENALTY],
    "penalty behind some tokens": [RepetitionPenaltyLogitsProcessor(1.3, prompt_ignore_length=7)],
    "reward and temperature": [RepetitionPenaltyLogitsProcessor(0.7), HOT],
    "temperature": [HOT],
    "top_k": [TopKLogitsWarper(5)],
    "top_k of all": [TopKLogitsWarper(1000)],
    "top_p": [TopPLogitsWarper(0.6)],
    "min_p": [MinPLogitsWarper(0.2)],
    "all": [PENALTY, HOT, TopKLogitsWarper(30), TopPLogitsWarper(0.9), MinPLogitsWarper(0.01)],
}


@pytest.mark.parametrize("processors", RECOGNISED.values(), ids=list(RECOGNISED))
def test_rules_choose_as_the_processors(processors: list[LogitsProcessor], device: torch.device) -> None:
    """The same draw from what transformers' own processors leave, for a history of each node."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(VOCAB_SIZE, (1, 20), generator=generator)
    tokens = torch.randint(VOCAB_SIZE, (1, 256), generator=generator)  # a path: each node sees those before it
    logits = 3 * torch.randn(1, 256, VOCAB_SIZE, generator=generator)
    arange = torch.arange(256, dtype=torch.int32)[None]
    tree = Tree(*(x.to(device) for x in (tokens, arange - 1, arange, arange)))
    rules = rules_of(processors, samples=True)
    assert rules is not None
    choice = Choice(1, VOCAB_SIZE, device)
    choice.begin(rules, 11, ids.to(device))
    ours = choice.choose(logits.to(device), tree, tree.depths)
    choice.begin(Rules(samples=True), 11, ids.to(device))
    processed = LogitsProcessorList(processors)
    histories = [torch.cat((ids, tokens[:, : node + 1]), dim=1) for node in range(256)]
    scores = torch.stack([processed(histories[node], logits[:, node].clone()) for node in range(256)], dim=1)
    assert torch.equal(ours, choice.choose(scores.to(device), tree, tree.depths))


def test_seen_tokens_are_counted_once(device: torch.device) -> None:
    generator = torch.Generator().manual_seed(0)
    choice = Choice(3, 100, device)
    history = torch.randint(100, (3, 5), generator=generator)
    ignored = torch.tensor([0, 2, 5])  # transformers 5.23 hands one number a row, 5.17 one in all
    choice.begin(Rules(repetition_penalty=1.1, ignored=ignored), 0, history.to(device))
    seen = [set(row[first:].tolist()) for row, first in zip(history, ignored.tolist(), strict=True)]
    for _ in range(30):
        tokens = torch.randint(28, 36, (3, 6), generator=generator)  # many in one word, and repeated
        num_accepted = torch.randint(6, (3,), generator=generator)
        choice.note(tokens.to(device), num_accepted.int().to(device))
        for row, count in enumerate(num_accepted.tolist()):
            seen[row] |= set(tokens[row, : count + 1].tolist())
        words = choice.seen.tolist()
        assert [{t for t in range(128) if row[t // 32] >> (t % 32) & 1} for row in words] == seen


class HalfAsHot(TemperatureLogitsWarper):
    """Not the type that is known."""


@pytest.mark.parametrize(
    "processors",
    [
        [TopKLogitsWarper(5), HOT],
        [HOT, PENALTY],
        [HOT, HOT],
        [HalfAsHot(0.5)],
        [NoRepeatNGramLogitsProcessor(2)],
        [TopKLogitsWarper(5, min_tokens_to_keep=2)],
        [TopPLogitsWarper(0.5, filter_value=-1e4)],
    ],
)
def test_what_is_not_recognised(processors: list[LogitsProcessor]) -> None:
    assert rules_of(processors, samples=True) is None


def test_warpers_are_no_rules_of_an_argmax() -> None:
    assert rules_of([PENALTY], samples=False) == Rules(repetition_penalty=1.3)
    assert rules_of([HOT], samples=False) is None


# --- distributions


MARKOV_VOCAB = 6


def markov_model() -> PreTrainedModel:
    """Its next token hangs on the last one alone: layers that add nothing. So all frequencies are known exactly."""
    config = LlamaConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        vocab_size=MARKOV_VOCAB,
        eos_token_id=None,
        bos_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = LlamaForCausalLM(config).eval()
        torch.nn.init.normal_(model.model.embed_tokens.weight)
        torch.nn.init.normal_(model.lm_head.weight, std=0.4)
    for projection in (model.model.layers[0].self_attn.o_proj, model.model.layers[0].mlp.down_proj):
        torch.nn.init.zeros_(projection.weight)
    model.generation_config.eos_token_id = None
    return model


@torch.no_grad()
def transitions(model: PreTrainedModel, processors: list[LogitsProcessor]) -> Tensor:
    """fp64 `[V, V]`, from the last token to the next, where every token was seen."""
    ids = torch.arange(MARKOV_VOCAB)[:, None]
    logits = model(ids).logits[:, -1].float()
    everything = ids.T.expand(MARKOV_VOCAB, -1)
    return LogitsProcessorList(processors)(everything, logits).double().softmax(-1)


def chi_square(counts: Tensor, probs: Tensor) -> float:
    """p-value of counts `[groups, cells]` under probabilities `[groups, cells]`, each group given its total."""
    possible = probs > 0
    assert not counts[~possible].any()
    expected = counts.sum(1, keepdim=True) * probs
    statistic = ((counts - expected) ** 2 / expected)[possible & (expected > 0)].sum()
    groups = counts.sum(1) > 0
    freedom = (possible.sum(1) - 1)[groups].sum()
    return float(torch.special.gammaincc(freedom.double() / 2, statistic.double() / 2))


DISTRIBUTIONS: dict[str, tuple[dict[str, Any], list[LogitsProcessor]]] = {
    "T=0.7": ({"temperature": 0.7}, [TemperatureLogitsWarper(0.7)]),
    "T=1": ({}, []),
    "T=1.5": ({"temperature": 1.5}, [TemperatureLogitsWarper(1.5)]),
    "top_p": ({"top_p": 0.7}, [TopPLogitsWarper(0.7)]),
    "penalty": ({"repetition_penalty": 1.5}, [RepetitionPenaltyLogitsProcessor(1.5)]),
}


SEQUENCES, LONGEST = 1000, 51  # of a call, 51,000 draws


def count_texts(case: str, calls: int) -> tuple[float, float]:
    """p-values of next tokens and of three tokens in a row, in so many calls with a thousand sequences each."""
    options, processors = DISTRIBUTIONS[case]
    model = markov_model()
    draft = make_draft(model)
    probs = transitions(model, processors)
    prompt = torch.arange(MARKOV_VOCAB)[None]  # every token was seen
    pairs, triples = torch.zeros(MARKOV_VOCAB, MARKOV_VOCAB), torch.zeros(MARKOV_VOCAB, MARKOV_VOCAB**2)
    accepted = []
    for seed in range(calls):
        generator = torch.Generator().manual_seed(seed)
        output = vispec.generate(
            model,
            draft,
            prompt,
            tree=TreeConfig(2, 2, 6),
            do_sample=True,
            generator=generator,
            max_new_tokens=LONGEST,
            num_return_sequences=SEQUENCES,
            return_dict_in_generate=True,
            **options,
        )
        accepted.append(output.speculation.mean_accepted)
        texts = output.sequences[:, MARKOV_VOCAB - 1 :]
        last, following = texts[:, :-1].flatten(), texts[:, 1:].flatten()
        pairs.index_put_((last, following), torch.ones(len(last)), accumulate=True)
        # a token and its two next ones; the next triple begins with the last
        three = texts[:, :LONGEST].unfold(1, 3, 2).flatten(0, 1)
        triples.index_put_((three[:, 0], three[:, 1] * MARKOV_VOCAB + three[:, 2]), torch.ones(len(three)), True)
    mean = sum(accepted) / len(accepted)
    assert 0.3 < mean < 2.5, f"the tree covers a part of the mass: {mean} accepted"
    return chi_square(pairs, probs), chi_square(triples, (probs[:, :, None] * probs).flatten(1))


@pytest.mark.parametrize("case", DISTRIBUTIONS)
def test_frequencies(case: str) -> None:
    next_token, three_tokens = count_texts(case, 1)
    print(f"{case}: p = {next_token:.3f} for one token, {three_tokens:.3f} for three")
    assert min(next_token, three_tokens) > 1e-3


@pytest.mark.release
@pytest.mark.parametrize("case", DISTRIBUTIONS)
def test_frequencies_of_many(case: str) -> None:
    next_token, three_tokens = count_texts(case, 4)
    print(f"{case}: p = {next_token:.3f} for one token, {three_tokens:.3f} for three")
    assert min(next_token, three_tokens) > 1e-3


@pytest.mark.parametrize("case", DISTRIBUTIONS)
def test_frequencies_of_single_draws(case: str, device: torch.device) -> None:
    """50,000 draws from each row of the transitions, 200 nodes at a time."""
    _, processors = DISTRIBUTIONS[case]
    model = markov_model()
    with torch.no_grad():
        logits = model(torch.arange(MARKOV_VOCAB)[:, None]).logits.to(device)
    rules = rules_of(processors, samples=True)
    assert rules is not None
    choice = Choice(MARKOV_VOCAB, MARKOV_VOCAB, device)
    everything = torch.arange(MARKOV_VOCAB).expand(MARKOV_VOCAB, -1).to(device)
    tokens = everything[:, :1].expand(-1, 200).contiguous()
    nodes = torch.arange(200, dtype=torch.int32, device=device).expand(MARKOV_VOCAB, -1).contiguous()
    tree = Tree(tokens, nodes - 1, nodes, nodes)
    counts = torch.zeros(MARKOV_VOCAB, MARKOV_VOCAB)
    for seed in range(250):
        choice.begin(rules, seed, everything)
        drawn = choice.choose(logits.expand(-1, 200, -1), tree, nodes).cpu()
        counts.scatter_add_(1, drawn, torch.ones(drawn.shape))
    p_value = chi_square(counts, transitions(model, processors))
    print(f"{case}: p = {p_value:.3f}")
    assert p_value > 1e-3


def accepts_the_likeliest_child(
    tokens: Tensor, parents: Tensor, target_tokens: Tensor, max_depth: int
) -> tuple[Tensor, Tensor, Tensor]:
    """A wrong rule: the draft's best child of the root is taken, whatever the target drew."""
    return RIGHT_RULE(tokens, parents, target_tokens.index_copy(1, torch.tensor([0]), tokens[:, 1:2]), max_depth)


RIGHT_RULE: Callable[..., tuple[Tensor, Tensor, Tensor]] = vispec.decoding.accept_path


def test_a_wrong_acceptance_rule_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vispec.decoding, "accept_path", accepts_the_likeliest_child)
    next_token, three_tokens = count_texts("T=1", 1)
    assert max(next_token, three_tokens) < 1e-6
