"""select_tokens against transformers' processors: what is kept, what is drawn how often, and the lossless walk."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.generation.logits_process import (
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from golden_data import golden
from vispec.ops import accept_path, select_tokens

PROCESSORS = {  # in the order of transformers' generate
    "repetition_penalty": RepetitionPenaltyLogitsProcessor,
    "temperature": TemperatureLogitsWarper,
    "top_k": TopKLogitsWarper,
    "top_p": TopPLogitsWarper,
    "min_p": MinPLogitsWarper,
}
SMALLEST_P_VALUE = 1e-4  # seeds are fixed: a case fails always or never, by chance once in 10,000 new cases
SMALLEST_COUNT = 5.0  # expected draws of a cell; rarer cells are pooled


def assert_drawn_from(counts: Tensor, probs: Tensor) -> None:
    """Chi-square of `counts` against `probs` (both 1-D); what has no probability must not occur."""
    assert (counts[probs == 0] == 0).all(), "a token was drawn that has no probability"
    expected = probs.double() / probs.double().sum() * counts.sum()
    rare = expected < SMALLEST_COUNT
    cells = torch.stack((counts.double(), expected))
    cells = torch.cat((cells[:, ~rare], cells[:, rare].sum(1, keepdim=True)), 1)
    observed, expected = cells[:, cells[1] >= SMALLEST_COUNT]
    assert expected.numel() > 1, "the case itself has one outcome"
    statistic = ((observed - expected) ** 2 / expected).sum()
    degrees = torch.tensor(expected.numel() - 1, dtype=torch.float64)
    p_value = torch.special.gammaincc(degrees / 2, statistic / 2)
    assert p_value > SMALLEST_P_VALUE, f"chi-square {statistic:.1f} on {degrees:.0f} degrees of freedom"


def processed(logits: Tensor, history: list[int], options: dict[str, Any]) -> Tensor:
    """`[V]` logits after transformers' own processors."""
    processors: list[LogitsProcessor] = [make(options[name]) for name, make in PROCESSORS.items() if name in options]
    return LogitsProcessorList(processors)(torch.tensor([history]), logits[None].clone())[0]


def bits_of(history: list[int], vocab_size: int) -> Tensor:
    seen = torch.zeros((vocab_size + 31) // 32, dtype=torch.int64)
    for token in set(history):
        seen[token // 32] += 1 << token % 32
    return seen.int()


def draws(logits: Tensor, options: dict[str, Any], count: int, history: list[int], seed: int = 0) -> Tensor:
    """`count` tokens after the last token of `history`, under as many seeds."""
    case = {name: torch.full((count,), float(value)) for name, value in options.items()}
    if "top_k" in case:
        case["top_k"] = case["top_k"].int()
    *earlier, last = history
    return select_tokens(
        logits.expand(count, 1, -1),
        torch.full((count, 1), last),
        torch.full((count, 1), -1, dtype=torch.int32),
        torch.full((count, 1), len(history), dtype=torch.int32),
        bits_of(earlier, logits.numel()).expand(count, -1).contiguous(),
        seed=torch.arange(count) + seed * count,
        row=torch.zeros(count, dtype=torch.int32),
        **case,
    )[:, 0]


KEPT_CASES = [
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": 60},
    {"top_k": 500},
    {"top_p": 0.15},
    {"top_p": 0.5},
    {"top_p": 0.95},
    {"top_p": 1.0},
    {"min_p": 0.0},
    {"min_p": 0.6},
    {"min_p": 0.95},
    {"top_k": 40, "top_p": 0.7},
    {"top_k": 40, "min_p": 0.7},
    {"top_p": 0.8, "min_p": 0.65},
    {"top_k": 50, "top_p": 0.9, "min_p": 0.6},
    {"top_k": 50, "top_p": 0.9, "min_p": 0.6, "repetition_penalty": 1.2},
]


@pytest.mark.parametrize("options", KEPT_CASES, ids=str)
def test_kept_tokens_are_those_of_transformers(options: dict[str, Any]) -> None:
    """Nearly flat logits and many draws: every kept token is drawn, no other is."""
    logits = torch.linspace(-0.5, 0.5, 80)[torch.randperm(80, generator=torch.Generator().manual_seed(1))]
    kept = processed(logits, [3, 50, 7, 11], options | {"temperature": 1.0}).isfinite()
    drawn = draws(logits, options | {"temperature": 1.0}, 8000, [3, 50, 7, 11])
    assert torch.equal(drawn.unique(), kept.nonzero()[:, 0])


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("repetition_penalty", [0.8, 1.1, 2.0])
def test_penalised_argmax_is_that_of_transformers(repetition_penalty: float, seed: int) -> None:
    """Temperature 0 on a tree: the history and each node's own path, nothing of its siblings."""
    draw = torch.Generator().manual_seed(seed)
    history = torch.randint(0, 40, (30,), generator=draw).tolist()
    tokens = torch.randint(0, 40, (1, 9), generator=draw)
    parents = torch.tensor([[-1, 0, 0, 1, 1, 2, 3, 5, 6]], dtype=torch.int32)
    logits = torch.randn(1, 9, 100, generator=draw)
    logits[:, :, :40] += 1
    selected = select_tokens(
        logits,
        tokens,
        parents,
        torch.zeros(1, 9, dtype=torch.int32),
        bits_of(history, 100)[None],
        temperature=torch.zeros(1),
        repetition_penalty=torch.tensor([repetition_penalty]),
        seed=torch.zeros(1, dtype=torch.int64),
    )
    for node in range(9):
        path, above = [], node
        while above >= 0:
            path.append(int(tokens[0, above]))
            above = int(parents[0, above])
        options = {"repetition_penalty": repetition_penalty}
        assert selected[0, node] == processed(logits[0, node], history + path[::-1], options).argmax()


DRAW_CASES = [
    {"temperature": 1.0},
    {"temperature": 0.6},
    {"temperature": 2.5},
    {"temperature": 1.0, "top_k": 12},
    {"temperature": 1.3, "top_p": 0.9},
    {"temperature": 1.0, "min_p": 0.05},
    {"temperature": 1.0, "repetition_penalty": 1.5},
    {"temperature": 0.8, "top_k": 60, "top_p": 0.95, "min_p": 0.02, "repetition_penalty": 1.2},
]


@pytest.mark.parametrize("options", DRAW_CASES, ids=str)
@pytest.mark.parametrize("vocab_size", [9, 200])
def test_draws_are_softmax_of_processed_logits(vocab_size: int, options: dict[str, Any]) -> None:
    logits = torch.randn(vocab_size, generator=torch.Generator().manual_seed(vocab_size)) * 1.5
    history = [2, 5, 5, vocab_size - 1, 3]
    drawn = draws(logits, options, 40000, history)
    probs = processed(logits, history, options).double().softmax(0)
    assert_drawn_from(drawn.bincount(minlength=vocab_size), probs)


@pytest.mark.parametrize("part", ["positions", "row"])
def test_draws_along_a_text_and_across_a_batch(part: str) -> None:
    """One seed: the streams of successive positions, and of successive rows, are as good as those of many seeds."""
    logits = torch.randn(50, generator=torch.Generator().manual_seed(0))
    count = 40000
    numbers = torch.arange(count, dtype=torch.int32)
    zeros = torch.zeros_like(numbers)
    drawn = select_tokens(
        logits.expand(count, 1, -1),
        positions=(numbers if part == "positions" else zeros)[:, None],
        temperature=torch.ones(count),
        seed=torch.full((count,), 12345),
        row=numbers if part == "row" else zeros,
    )[:, 0]
    probs = logits.double().softmax(0)
    assert_drawn_from(drawn.bincount(minlength=50), probs)
    pairs = drawn[0::2] * 50 + drawn[1::2]  # neighbours are independent
    assert_drawn_from(pairs.bincount(minlength=2500), torch.outer(probs, probs).flatten())


def walk_ends(logits: Tensor, temperature: float, count: int) -> Tensor:
    """How many of `count` seeds end the recorded tree's walk at each node with each bonus token, `[N * V]`."""
    recorded = golden("llava_like", "tree_one_image_d3k8n30")
    num_nodes, vocab_size = logits.shape
    tokens, parents = recorded["tree_tokens"].long(), recorded["tree_parents"]
    selected = select_tokens(
        logits.expand(count, -1, -1),
        positions=(24 + recorded["tree_depths"]).expand(count, -1).contiguous(),
        temperature=torch.full((count,), temperature),
        seed=torch.arange(count),
        row=torch.zeros(count, dtype=torch.int32),
    )
    nodes, num_accepted, bonus = accept_path(
        tokens.expand(count, -1).contiguous(), parents.expand(count, -1).contiguous(), selected, 4
    )
    ends = nodes.gather(1, num_accepted[:, None].long())[:, 0]
    return (ends * vocab_size + bonus).bincount(minlength=num_nodes * vocab_size)


@pytest.mark.parametrize("temperature", ["T1.0", "T0.6"])
def test_published_sampling(temperature: str) -> None:
    """End node and bonus token of the walk, against the published acceptance's exact probabilities."""
    recorded = golden("llava_like", "sampling")
    probs = recorded[f"probability_{temperature}"].flatten()
    counts = walk_ends(recorded["target_logits"], float(temperature[1:]), 20000)
    assert_drawn_from(counts, probs)


def test_recorded_counts_pass_the_same_test() -> None:
    """The statistic is the right one: the published code's own counts pass, counts of another temperature do not."""
    recorded = golden("llava_like", "sampling")
    for temperature in ("T1.0", "T0.6"):
        assert_drawn_from(recorded[f"counts_{temperature}"].flatten(), recorded[f"probability_{temperature}"].flatten())
    with pytest.raises(AssertionError, match="chi-square"):
        assert_drawn_from(recorded["counts_T1.0"].flatten(), recorded["probability_T0.6"].flatten())


@pytest.mark.release
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("options", DRAW_CASES, ids=str)
def test_a_million_draws(options: dict[str, Any], seed: int) -> None:
    logits = torch.randn(500, generator=torch.Generator().manual_seed(seed)) * 2
    history = [2, 5, 5, 499, 3]
    counts = torch.zeros(500, dtype=torch.int64)
    for part in range(10):
        counts += draws(logits, options, 100000, history, seed=10 * seed + part).bincount(minlength=500)
    assert_drawn_from(counts, processed(logits, history, options).double().softmax(0))
