"""expand_frontier's kernels on the host: tokens and frontier exact, scores within torch's own error, odd rows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cuda_host import Schedule, run_kernel, same_in_every_schedule, sweep
from numerics import assert_error_ratio
from vispec.ops import expand_frontier_reference

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
CHUNK, SHORT_LIST = 8192, 32
VOCAB_SIZES = [1, 7, 33, 511, 512, 513, 4096, 8191, 8192, 8193, 8200, 16384, 20003]  # around threads' and chunks' ends


def random_case(
    batch_size: int, num_nodes: int, vocab_size: int, dtype: torch.dtype, wide: bool = False, spread: float = 3
) -> tuple[Tensor, Tensor]:
    """Scores and logits; `wide`: cut out of a wider, transposed buffer whose other entries are NaN."""
    generator = torch.Generator().manual_seed(1000 * vocab_size + 10 * num_nodes + batch_size)
    values = torch.randn(batch_size, num_nodes, vocab_size, generator=generator) * spread
    scores = -5 * torch.rand(batch_size, num_nodes, generator=generator)
    if not wide:
        return values.to(dtype), scores
    buffer = torch.full((num_nodes, batch_size + 1, vocab_size + 3), torch.nan, dtype=dtype)
    return buffer[:, :batch_size, 1 : vocab_size + 1].transpose(0, 1).copy_(values), scores


def workspace_bytes(logits: Tensor, top_k: int) -> int:
    rows, vocab_size = logits.shape[0] * logits.shape[1], logits.shape[2]
    if top_k > SHORT_LIST:
        return rows * 8 * 2 ** (top_k - 1).bit_length()
    return rows * -(-vocab_size // CHUNK) * (8 * top_k + 8)


def expand(logits: Tensor, scores: Tensor, top_k: int, schedules: list[Schedule]) -> list[Tensor]:
    batch_size, num_nodes, vocab_size = logits.shape
    element = logits.element_size()

    def run(schedule: Schedule) -> list[Tensor]:
        tokens = torch.full((batch_size, num_nodes, top_k), -99)
        candidates = torch.full((batch_size, num_nodes, top_k), torch.nan)
        frontier = torch.full((batch_size, top_k), -99, dtype=torch.int32)
        frontier_tokens = torch.full((batch_size, top_k), -99)
        frontier_scores = torch.full((batch_size, top_k), torch.nan)
        workspace = torch.full((workspace_bytes(logits, top_k),), 0xFF, dtype=torch.uint8)
        run_kernel(
            "expand_frontier",
            schedule,
            workspace,
            logits=logits,
            logits_seq=logits.stride(0) * element,
            logits_node=logits.stride(1) * element,
            scores=scores,
            tokens=tokens,
            candidate_scores=candidates,
            frontier=frontier,
            frontier_tokens=frontier_tokens,
            frontier_scores=frontier_scores,
            batch=batch_size,
            num_nodes=num_nodes,
            vocab_size=vocab_size,
            top_k=top_k,
            dtype=logits.dtype,
        )
        return [tokens, candidates, frontier, frontier_tokens, frontier_scores]

    return same_in_every_schedule(run, schedules)


def check(logits: Tensor, scores: Tensor, top_k: int, schedules: list[Schedule]) -> list[Tensor]:
    """Against the reference: what does not depend on rounding, exactly; scores by the error ratio."""
    outputs = expand(logits, scores, top_k, schedules)
    reference_tokens, reference_candidates, *_ = expand_frontier_reference(logits, scores, top_k)
    tokens, candidates, frontier, frontier_tokens, frontier_scores = outputs
    torch.testing.assert_close(tokens, reference_tokens, rtol=0, atol=0)
    if candidates.numel() > 0:
        exact = scores.double().unsqueeze(-1) + logits.double().log_softmax(-1).gather(-1, tokens)
        assert_error_ratio(candidates, reference_candidates, exact)
    ranked = candidates.flatten(1).sort(dim=-1, descending=True, stable=True)  # rounding may order near-equal scores
    torch.testing.assert_close(frontier, ranked.indices[:, :top_k].int(), rtol=0, atol=0)
    torch.testing.assert_close(frontier_scores, ranked.values[:, :top_k], rtol=0, atol=0)
    torch.testing.assert_close(frontier_tokens, tokens.flatten(1).gather(1, frontier.long()), rtol=0, atol=0)
    return outputs


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("vocab_size", sweep(VOCAB_SIZES, sanitized=[7, 513, 8200]))
@pytest.mark.parametrize(("batch_size", "num_nodes"), sweep([(0, 3), (1, 1), (2, 3)], sanitized=[(0, 3), (1, 2)]))
def test_expand_frontier(
    schedules: list[Schedule], batch_size: int, num_nodes: int, vocab_size: int, dtype: torch.dtype
) -> None:
    for top_k in sorted({1, min(10, vocab_size), min(32, vocab_size)}):
        logits, scores = random_case(batch_size, num_nodes, vocab_size, dtype, wide=top_k == 10)
        check(logits, scores, top_k, schedules)


@pytest.mark.parametrize("num_nodes", sweep([8, 15, 16, 17, 40], sanitized=[17]))
def test_more_nodes_than_warps(schedules: list[Schedule], num_nodes: int) -> None:
    check(*random_case(1, num_nodes, 300, torch.float32), 8, schedules)


@pytest.mark.parametrize("vocab_size", sweep([33 * 8192, 151936], sanitized=[33 * 8192]))
def test_many_chunks(schedules: list[Schedule], vocab_size: int) -> None:
    """More chunks than a warp has lanes, and a real vocabulary."""
    check(*random_case(1, 1, vocab_size, torch.bfloat16), 10, schedules[:1])


@pytest.mark.parametrize("top_k", [33, 64, 65, 300, 1000])
@pytest.mark.parametrize("dtype", sweep(DTYPES, sanitized=[torch.float16]), ids=str)
def test_long_lists(schedules: list[Schedule], dtype: torch.dtype, top_k: int) -> None:
    """Selected by digits and sorted in memory, the whole vocabulary in the extreme."""
    check(*random_case(1, 2, 1000, dtype, wide=True), top_k, schedules)


@pytest.mark.parametrize("top_k", [1, 2, 32, 33, 1000])
def test_equal_logits_come_in_token_order(schedules: list[Schedule], top_k: int) -> None:
    """Many ties: logits of a few values only."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randint(0, 5, (1, 3, 1000), generator=generator).float()
    check(logits, torch.zeros(1, 3), top_k, schedules)


@pytest.mark.parametrize("top_k", [6, 32])
def test_all_equal(schedules: list[Schedule], top_k: int) -> None:
    """Every value of the best threads is a candidate."""
    logits = torch.ones(1, 4, 10000, dtype=torch.float16)
    tokens, scores, frontier, *_ = check(logits, torch.zeros(1, 4), top_k, schedules)
    assert (tokens == torch.arange(top_k)).all()
    assert (scores == scores[0, 0, 0]).all()
    assert frontier[0].tolist() == list(range(top_k))


@pytest.mark.parametrize("descending", [True, False])
def test_sorted_logits(schedules: list[Schedule], descending: bool) -> None:
    """The best all lie in one thread's loads, or in the last chunk."""
    logits = torch.linspace(-8, 8, 9000).sort(descending=descending).values.view(1, 1, -1)
    check(logits, torch.zeros(1, 1), 32, schedules)


@pytest.mark.parametrize("top_k", [32, 120])
def test_minus_infinity_and_nan_logits_come_last(schedules: list[Schedule], top_k: int) -> None:
    logits = torch.randn(1, 2, 700, generator=torch.Generator().manual_seed(0))
    masked = logits.clone()
    masked[:, :, 5:690] = -torch.inf
    poisoned = masked.clone()
    poisoned[:, :, 100:400] = torch.nan
    scores = -torch.rand(1, 2, generator=torch.Generator().manual_seed(1))
    outputs = expand(poisoned, scores, top_k, schedules)
    for ours, reference in zip(outputs, expand_frontier_reference(masked, scores, top_k), strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-5)
    assert outputs[0][0, 0, 15:].tolist() == list(range(5, top_k - 10))


def test_a_chunk_of_minus_infinity(schedules: list[Schedule]) -> None:
    logits, scores = random_case(1, 1, 3 * CHUNK, torch.float32)
    logits[:, :, CHUNK : 2 * CHUNK] = -torch.inf
    check(logits, scores, 8, schedules)


@pytest.mark.parametrize("top_k", [4, 40])
@pytest.mark.parametrize("broken", [-torch.inf, torch.nan, torch.inf])
def test_row_without_finite_log_sum_exp(schedules: list[Schedule], broken: float, top_k: int) -> None:
    """Such a row gives the lowest ids with minus infinity; the other rows are as ever."""
    logits = torch.randn(1, 3, 300, generator=torch.Generator().manual_seed(0))
    logits[0, 1] = broken
    scores = torch.tensor([[-1.0, -0.5, -2.0]])
    tokens, candidates, frontier, _, frontier_scores = expand(logits, scores, top_k, schedules)
    assert tokens[0, 1].tolist() == list(range(top_k))
    assert (candidates[0, 1] == -torch.inf).all()
    assert candidates[0, [0, 2]].isfinite().all()
    assert not ((frontier >= top_k) & (frontier < 2 * top_k)).any()
    assert frontier_scores.isfinite().all()


def test_one_infinite_logit(schedules: list[Schedule]) -> None:
    logits = torch.zeros(1, 1, 9000)
    logits[0, 0, 8999] = torch.inf
    tokens, candidates, *_ = expand(logits, torch.zeros(1, 1), 3, schedules)
    assert tokens.tolist() == [[[0, 1, 2]]]
    assert (candidates == -torch.inf).all()


def test_nan_score_counts_as_minus_infinity(schedules: list[Schedule]) -> None:
    logits = torch.randn(1, 2, 50, generator=torch.Generator().manual_seed(0))
    _, candidates, frontier, _, _ = expand(logits, torch.tensor([[torch.nan, -1.0]]), 5, schedules)
    assert (candidates[0, 0] == -torch.inf).all()
    assert frontier.tolist() == [[5, 6, 7, 8, 9]]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_child_never_outscores_its_parent(schedules: list[Schedule], dtype: torch.dtype) -> None:
    """Log-probabilities that round to 0, at scores where rounding would show."""
    logits = torch.zeros(1, 16, 300, dtype=dtype)
    logits[:, torch.arange(16), torch.arange(16) * 7] = torch.linspace(5, 60, 16).to(dtype)
    scores = -torch.logspace(-8, 3, 16).unsqueeze(0)
    tokens, candidates, *_ = expand(logits, scores, 2, schedules)
    assert (candidates <= scores.unsqueeze(-1)).all()
    assert (candidates[0, -1, 0] == scores[0, -1]).all()
    assert (tokens[0, :, 0] == torch.arange(16) * 7).all()


def test_large_logits_do_not_overflow(schedules: list[Schedule]) -> None:
    logits = torch.linspace(-1.5e38, 1.5e38, 1000).view(1, 1, 1000)
    tokens, candidates, *_ = expand(logits, torch.zeros(1, 1), 2, schedules)
    assert tokens.tolist() == [[[999, 998]]]
    assert candidates[0, 0, 0] == 0
