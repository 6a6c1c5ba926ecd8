"""expand_frontier: tokens and frontier exact, scores within torch's own error, odd rows, strides, errors."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from numerics import assert_error_ratio
from vispec.ops import expand_frontier, expand_frontier_reference

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
VOCAB_SIZES = [1, 7, 255, 256, 257, 1000, 16383, 16384, 16385, 32064]  # around blocks of 256 and chunks of 16384


def random_case(
    batch_size: int, num_nodes: int, vocab_size: int, dtype: torch.dtype, device: torch.device, spread: float = 3
) -> tuple[Tensor, Tensor]:
    """Logits cut out of a wider, transposed buffer whose other entries are NaN, and scores."""
    generator = torch.Generator().manual_seed(1000 * vocab_size + 10 * num_nodes + batch_size)
    buffer = torch.full((num_nodes, batch_size + 1, vocab_size + 3), torch.nan, dtype=dtype, device=device)
    logits = buffer[:, :batch_size, 1 : vocab_size + 1].transpose(0, 1)
    logits.copy_(torch.randn(batch_size, num_nodes, vocab_size, generator=generator) * spread)
    return logits, -5 * torch.rand(batch_size, num_nodes, generator=generator).to(device)


def check(logits: Tensor, scores: Tensor, top_k: int) -> None:
    """Against the reference: what does not depend on rounding, exactly; scores by the error ratio."""
    outputs = expand_frontier(logits, scores, top_k)
    references = expand_frontier_reference(logits, scores, top_k)
    for ours, reference in zip(outputs, references, strict=True):
        assert (ours.shape, ours.dtype, ours.device) == (reference.shape, reference.dtype, reference.device)
        assert ours.is_contiguous()
    tokens, candidates, frontier, frontier_tokens, frontier_scores = outputs
    torch.testing.assert_close(tokens, references[0], rtol=0, atol=0)
    if candidates.numel() > 0:
        exact = scores.double().unsqueeze(-1) + logits.double().log_softmax(-1).gather(-1, tokens)
        assert_error_ratio(candidates, references[1], exact)
    ranked = candidates.flatten(1).sort(dim=-1, descending=True, stable=True)  # rounding may order near-equal scores
    torch.testing.assert_close(frontier, ranked.indices[:, :top_k].int(), rtol=0, atol=0)
    torch.testing.assert_close(frontier_scores, ranked.values[:, :top_k], rtol=0, atol=0)
    torch.testing.assert_close(frontier_tokens, tokens.flatten(1).gather(1, frontier.long()), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("vocab_size", VOCAB_SIZES)
@pytest.mark.parametrize("num_nodes", [1, 8])
@pytest.mark.parametrize("batch_size", [0, 1, 3])
def test_expand_frontier(
    device: torch.device, batch_size: int, num_nodes: int, vocab_size: int, dtype: torch.dtype
) -> None:
    logits, scores = random_case(batch_size, num_nodes, vocab_size, dtype, device)
    for top_k in {1, min(8, vocab_size), min(100, vocab_size)}:
        check(logits, scores, top_k)


@pytest.mark.parametrize("top_k", [1, 2, 255, 300, 1000])
def test_equal_logits_come_in_token_order(device: torch.device, top_k: int) -> None:
    """Many ties: logits of a few values only, the whole vocabulary ranked in the extreme."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randint(0, 5, (2, 3, 1000), generator=generator).float().to(device)
    check(logits, torch.zeros(2, 3, device=device), top_k)


def test_all_equal_logits_and_scores(device: torch.device) -> None:
    equal = torch.ones(1, 4, 500, device=device)
    tokens, scores, frontier, *_ = expand_frontier(equal, torch.zeros(1, 4, device=device), 6)
    assert (tokens == torch.arange(6, device=device)).all()
    assert (scores == scores[0, 0, 0]).all()
    assert frontier.tolist() == [[0, 1, 2, 3, 4, 5]]


def test_minus_infinity_and_nan_logits_come_last(device: torch.device) -> None:
    logits = torch.randn(2, 3, 700, generator=torch.Generator().manual_seed(0)).to(device)
    masked = logits.clone()
    masked[:, :, 5:600] = -torch.inf
    poisoned = masked.clone()
    poisoned[:, :, 100:400] = torch.nan
    scores = torch.rand(2, 3).neg().to(device)
    for ours, reference in zip(
        expand_frontier(poisoned, scores, 120), expand_frontier_reference(masked, scores, 120), strict=True
    ):
        torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-5)
    assert expand_frontier(poisoned, scores, 120)[0][0, 0, 105:].tolist() == list(range(5, 20))


@pytest.mark.parametrize("broken", [-torch.inf, torch.nan, torch.inf])
def test_row_without_finite_log_sum_exp(device: torch.device, broken: float) -> None:
    """Such a row gives the lowest ids with minus infinity; the other rows are as ever."""
    logits = torch.randn(1, 3, 300, generator=torch.Generator().manual_seed(0)).to(device)
    logits[0, 1] = broken
    scores = torch.tensor([[-1.0, -0.5, -2.0]], device=device)
    tokens, candidates, frontier, _, frontier_scores = expand_frontier(logits, scores, 4)
    assert tokens[0, 1].tolist() == [0, 1, 2, 3]
    assert (candidates[0, 1] == -torch.inf).all()
    assert candidates[0, [0, 2]].isfinite().all()
    assert not ((frontier >= 4) & (frontier < 8)).any()
    assert frontier_scores.isfinite().all()


def test_nan_score_counts_as_minus_infinity(device: torch.device) -> None:
    logits = torch.randn(1, 2, 50, generator=torch.Generator().manual_seed(0)).to(device)
    scores = torch.tensor([[torch.nan, -1.0]], device=device)
    _, candidates, frontier, _, _ = expand_frontier(logits, scores, 5)
    assert (candidates[0, 0] == -torch.inf).all()
    assert frontier.tolist() == [[5, 6, 7, 8, 9]]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_child_never_outscores_its_parent(device: torch.device, dtype: torch.dtype) -> None:
    """Log-probabilities that round to 0, at scores where rounding would show."""
    logits = torch.zeros(1, 64, 3000, dtype=dtype, device=device)
    nodes = torch.arange(64, device=device)
    logits[:, nodes, nodes * 7] = torch.linspace(5, 60, 64, device=device).to(dtype)
    scores = -torch.logspace(-8, 3, 64, device=device).unsqueeze(0)
    tokens, candidates, *_ = expand_frontier(logits, scores, 2)
    assert (candidates <= scores.unsqueeze(-1)).all()
    assert (candidates[0, -1, 0] == scores[0, -1]).all()
    assert (tokens[0, :, 0] == nodes * 7).all()


def test_large_logits_do_not_overflow(device: torch.device) -> None:
    logits = torch.linspace(-1.5e38, 1.5e38, 1000).view(1, 1, 1000).to(device)
    tokens, candidates, *_ = expand_frontier(logits, torch.zeros(1, 1, device=device), 2)
    assert tokens.tolist() == [[[999, 998]]]
    assert candidates[0, 0, 0] == 0


def test_equal_bits_at_any_number_of_threads(device: torch.device, set_threads) -> None:
    logits, scores = random_case(2, 3, 40000, torch.float32, device)
    runs = []
    for threads in (1, 2, 3, 1):
        set_threads(threads)
        runs.append(expand_frontier(logits, scores, 8))
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(run, runs[0], strict=True))


def test_opcheck_and_compile(device: torch.device) -> None:
    logits, scores = random_case(2, 3, 300, torch.float16, device)
    torch.library.opcheck(torch.ops.vispec.expand_frontier.default, (logits, scores, 4))
    compiled = torch.compile(expand_frontier, fullgraph=True, backend="aot_eager")
    for ours, eager in zip(compiled(logits, scores, 4), expand_frontier(logits, scores, 4), strict=True):
        assert torch.equal(ours, eager)
        assert ours.stride() == eager.stride()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"logits": torch.zeros(2, 9)},
            "logits: expected float32, float16 or bfloat16 [B, F, V], got float32 [2, 9] on",
        ),
        (
            {"logits": torch.zeros(2, 3, 9).double()},
            "logits: expected float32, float16 or bfloat16 [B, F, V], got Double",
        ),
        ({"logits": torch.zeros(2, 0, 9)}, "logits: expected at least one node and one token, got float32 [2, 0, 9]"),
        ({"logits": torch.zeros(2, 9, 3).mT}, "logits: expected the last dimension contiguous, got strides [27, 1, 3]"),
        ({"scores": torch.zeros(2, 4)}, "scores: expected float32 [2, 3] on cpu, got float32 [2, 4] on cpu"),
        ({"scores": torch.zeros(2, 3).half()}, "scores: expected float32 [2, 3] on cpu, got float16 [2, 3] on cpu"),
        ({"scores": torch.zeros(3, 2).mT}, "scores: expected a contiguous tensor, got strides [1, 2]"),
        ({"top_k": 0}, "top_k: expected from 1 to the vocabulary's 9, got 0"),
        ({"top_k": 10}, "top_k: expected from 1 to the vocabulary's 9, got 10"),
        (
            {"logits": torch.zeros(1, 300, 300), "scores": torch.zeros(1, 300), "top_k": 219},
            "top_k: expected at most 218 for 300 frontier nodes, got 219",
        ),
    ],
)
def test_errors(change: dict, message: str) -> None:
    arguments = {"logits": torch.zeros(2, 3, 9), "scores": torch.zeros(2, 3), "top_k": 2} | change
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        expand_frontier(**arguments)


@pytest.mark.release
@pytest.mark.parametrize("seed", range(300))
def test_sweep(device: torch.device, seed: int) -> None:
    """Random sizes, dtypes, spreads and ties."""
    draw = torch.Generator().manual_seed(seed)
    batch_size, num_nodes, vocab_size, index, top_k = (
        int(torch.randint(1, limit, (), generator=draw)) for limit in (5, 12, 60000, 10**6, 40)
    )
    dtype = DTYPES[index % 3]
    logits, scores = random_case(batch_size, num_nodes, vocab_size, dtype, device, spread=0.1 * 4 ** (index % 5))
    if index % 2:
        logits.copy_(logits.round())
    check(logits, scores, min(top_k, vocab_size))
