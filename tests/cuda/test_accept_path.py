"""accept_path's kernel on the host: the reference's walk, and an end to it in any tree."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cuda_host import Schedule, run_kernel, same_in_every_schedule, sweep
from vispec.ops import accept_path_reference

Case = tuple[Tensor, Tensor, Tensor]


def random_case(batch_size: int, num_nodes: int, seed: int = 0, vocab_size: int = 3) -> Case:
    """Random trees over few tokens: siblings with equal tokens are common, and so are long paths."""
    draw = torch.Generator().manual_seed(seed)
    tokens, targets = (torch.randint(0, vocab_size, (batch_size, num_nodes), generator=draw) for _ in range(2))
    parents = torch.full((batch_size, num_nodes), -1, dtype=torch.int32)
    for node in range(1, num_nodes):
        parents[:, node] = torch.randint(max(0, node - 4), node, (batch_size,), generator=draw)
    return tokens, parents, targets


def check(case: Case, max_depth: int, schedules: list[Schedule]) -> list[Tensor]:
    tokens, parents, targets = case
    batch_size, num_nodes = tokens.shape

    def run(schedule: Schedule) -> list[Tensor]:
        nodes = torch.full((batch_size, max_depth + 1), -99, dtype=torch.int32)
        num_accepted = torch.full((batch_size,), -99, dtype=torch.int32)
        bonus = torch.full((batch_size,), -99)
        run_kernel(
            "accept_path",
            schedule,
            tokens=tokens,
            parents=parents,
            target_tokens=targets,
            nodes=nodes,
            num_accepted=num_accepted,
            bonus=bonus,
            batch=batch_size,
            num_nodes=num_nodes,
            max_depth=max_depth,
        )
        return [nodes, num_accepted, bonus]

    outputs = same_in_every_schedule(run, schedules)
    for ours, reference in zip(outputs, accept_path_reference(*case, max_depth), strict=True):
        torch.testing.assert_close(ours, reference, rtol=0, atol=0)
    return outputs


@pytest.mark.parametrize("max_depth", [0, 1, 4, 31, 32, 255])
@pytest.mark.parametrize("num_nodes", [1, 2, 30, 31, 32, 33, 63, 64, 65, 256])
@pytest.mark.parametrize("batch_size", sweep([0, 1, 20], sanitized=[0, 3]))
def test_accept_path(schedules: list[Schedule], batch_size: int, num_nodes: int, max_depth: int) -> None:
    _, num_accepted, _ = check(random_case(batch_size, num_nodes), max_depth, schedules)
    if batch_size == 20 and num_nodes > 30 and max_depth > 1:
        assert num_accepted.unique().numel() > 2, "the case itself is too simple"


@pytest.mark.parametrize("max_depth", [3, 254, 255])
def test_whole_chain(schedules: list[Schedule], max_depth: int) -> None:
    """Every node's child is the next one, across every group of 32."""
    tokens = torch.arange(256)[None]
    parents = torch.arange(-1, 255, dtype=torch.int32)[None]
    nodes, num_accepted, bonus = check((tokens, parents, tokens + 1), max_depth, schedules)
    assert nodes[0].tolist() == list(range(max_depth + 1))
    assert (num_accepted.item(), bonus.item()) == (max_depth, max_depth + 1)


def test_first_of_equal_siblings(schedules: list[Schedule]) -> None:
    """Also where it is the last of 32 nodes and the next one begins another 32."""
    tokens = torch.zeros(1, 70, dtype=torch.int64)
    parents = torch.full((1, 70), -1, dtype=torch.int32)
    tokens[0, [31, 32, 33, 64]], parents[0, [31, 32, 33, 64]] = 5, 0
    tokens[0, [40, 69]], parents[0, [40, 69]] = 6, 31
    targets = torch.full((1, 70), 5)
    targets[0, 31] = 6
    nodes, num_accepted, _ = check((tokens, parents, targets), 4, schedules)
    assert nodes.tolist() == [[0, 31, 40, 40, 40]]
    assert num_accepted.tolist() == [2]


@pytest.mark.parametrize(
    "parents",
    [[-1, 1, 2, 3], [0, 0, 0, 0], [3, 2, 1, 0], [-1, 2, 1, 2], [-1, 99, -7, 2**31 - 1], [1, 0, 3, 2], [-1, -1, -1, -1]],
    ids=["itself", "rooted in itself", "backwards", "cycle", "out of range", "two cycles", "no edge"],
)
def test_malformed_trees_end(schedules: list[Schedule], parents: list[int]) -> None:
    same = torch.full((1, 4), 5)
    _, num_accepted, bonus = check((same, torch.tensor([parents], dtype=torch.int32), same), 200, schedules)
    assert 0 <= num_accepted.item() <= 3
    assert bonus.item() == 5


@pytest.mark.parametrize("seed", sweep(range(40), sanitized=range(4)))
def test_any_ints_as_parents(schedules: list[Schedule], seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    parents = torch.randint(-3, 40, (5, 35), generator=draw, dtype=torch.int32)
    tokens, _, targets = random_case(5, 35, seed)
    check((tokens, parents, targets), 34, schedules)
