"""build_tree's kernel on the host: every output as the reference's, ties and odd scores, malformed candidates."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cuda_host import Schedule, run_kernel, same_in_every_schedule, sweep
from operator_cases import Candidates, random_candidates
from vispec.ops import build_tree_reference


def build(case: Candidates, num_nodes: int, schedules: list[Schedule]) -> list[Tensor]:
    root_tokens, candidate_tokens, candidate_scores, candidate_parents = case
    batch_size, num_candidates = candidate_tokens.shape
    num_words = (num_nodes + 63) // 64

    def run(schedule: Schedule) -> list[Tensor]:
        tokens = torch.full((batch_size, num_nodes), -99)
        parents, depths = (torch.full((batch_size, num_nodes), -99, dtype=torch.int32) for _ in range(2))
        ancestors = torch.full((batch_size, num_nodes, num_words), -99)
        run_kernel(
            "build_tree",
            schedule,
            root_tokens=root_tokens,
            candidate_tokens=candidate_tokens,
            candidate_scores=candidate_scores,
            candidate_parents=candidate_parents,
            tokens=tokens,
            parents=parents,
            depths=depths,
            ancestors=ancestors,
            batch=batch_size,
            num_candidates=num_candidates,
            num_nodes=num_nodes,
            num_words=num_words,
        )
        return [tokens, parents, depths, ancestors]

    return same_in_every_schedule(run, schedules)


def check(case: Candidates, num_nodes: int, schedules: list[Schedule]) -> list[Tensor]:
    outputs = build(case, num_nodes, schedules)
    for ours, reference in zip(outputs, build_tree_reference(*case, num_nodes), strict=True):
        torch.testing.assert_close(ours, reference, rtol=0, atol=0)
    return outputs


SIZES = [(0, 1), (1, 1), (1, 2), (200, 30), (62, 63), (255, 256), (256, 200), (257, 256), (300, 63), (1000, 64)]


@pytest.mark.parametrize("levels", [None, 4, 1], ids=["distinct", "ties", "integers"])
@pytest.mark.parametrize(("num_candidates", "num_nodes"), sweep(SIZES, sanitized=[(0, 1), (1, 2), (257, 256)]))
@pytest.mark.parametrize("batch_size", sweep([0, 1, 3], sanitized=[0, 2]))
def test_build_tree(
    schedules: list[Schedule], batch_size: int, num_candidates: int, num_nodes: int, levels: float | None
) -> None:
    check(random_candidates(batch_size, num_candidates, levels=levels), num_nodes, schedules)


@pytest.mark.parametrize("num_nodes", [2, 32, 33, 64, 65, 128, 129, 256])
def test_mask_words(schedules: list[Schedule], num_nodes: int) -> None:
    check(random_candidates(1, 520, seed=num_nodes), num_nodes, schedules)


@pytest.mark.parametrize("num_candidates", sweep([65536, 65535, 30000], sanitized=[5000]))
def test_many_candidates(schedules: list[Schedule], num_candidates: int) -> None:
    """As many as the draft may score; all children of the root, half of them tied."""
    draw = torch.Generator().manual_seed(num_candidates)
    scores = -torch.rand(1, num_candidates, generator=draw)
    scores[:, ::2] = -1e-4
    parents = torch.full((1, num_candidates), -1, dtype=torch.int32)
    case = (torch.tensor([7]), torch.arange(num_candidates)[None], scores, parents)
    check(case, 60, schedules[:1])


def test_chain_of_256_nodes(schedules: list[Schedule]) -> None:
    chain = torch.arange(-1, 254, dtype=torch.int32)[None]
    _, parents, depths, ancestors = check(
        (torch.tensor([5]), torch.arange(255)[None], -torch.arange(255.0)[None], chain), 256, schedules
    )
    assert depths[0].tolist() == list(range(256))
    assert parents[0].tolist() == list(range(-1, 255))
    assert (ancestors[0, 255] == -1).all()


@pytest.mark.parametrize("score", [0.0, -0.0, -1.5, -torch.inf, torch.nan])
def test_equal_scores_keep_the_first_candidates(schedules: list[Schedule], score: float) -> None:
    _, tokens, scores, parents = random_candidates(1, 100)
    kept, *_ = check((torch.tensor([7]), tokens, torch.full_like(scores, score), parents), 40, schedules)
    assert kept[0].tolist() == [7, *tokens[0, :39].tolist()]


def test_odd_scores(schedules: list[Schedule]) -> None:
    """Zeros of either sign are equal; NaN is minus infinity, and both come last; plus infinity is a number."""
    scores = torch.tensor([[-0.0, torch.nan, 0.0, -torch.inf, -0.0, torch.nan, torch.inf, -3e-45, 1e-45]])
    case = (torch.tensor([7]), torch.arange(9)[None], scores, torch.full((1, 9), -1, dtype=torch.int32))
    for num_nodes in range(1, 11):
        check(case, num_nodes, schedules[:1])


@pytest.mark.parametrize(
    "parent",
    [3, 4, 9, 10, -2, 2**31 - 1, -(2**31)],
    ids=["itself", "later", "not kept", "out of range", "negative", "largest int", "smallest int"],
)
def test_malformed_candidates_are_out_of_reach(schedules: list[Schedule], parent: int) -> None:
    """What the CPU refuses: here a node without parent, which no walk from the root finds; its children hang below."""
    scores = -torch.arange(10.0).expand(2, 10).contiguous()
    parents = torch.full((2, 10), -1, dtype=torch.int32)
    parents[1, 3], parents[1, 4] = parent, 3
    tokens, node_parents, depths, ancestors = build(
        (torch.tensor([7, 8]), torch.arange(20).view(2, 10), scores, parents), 6, schedules
    )
    assert tokens.tolist() == [[7, 0, 1, 2, 3, 4], [8, 10, 11, 12, 13, 14]]
    assert node_parents.tolist() == [[-1, 0, 0, 0, 0, 0], [-1, 0, 0, 0, -1, 4]]
    assert depths.tolist() == [[0, 1, 1, 1, 1, 1], [0, 1, 1, 1, 0, 1]]
    assert ancestors[1, :, 0].tolist() == [1, 3, 5, 9, 16, 48]
