"""accept_path: all outputs exact, the published cycles, malformed trees, errors."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from golden_data import cases, golden
from numerics import assert_equal_on
from vispec.ops import accept_path, accept_path_reference

CASE_NAMES = cases("cycle_")
Case = tuple[Tensor, Tensor, Tensor]
Check = Callable[[Case, int], Case]


def random_case(batch_size: int, num_nodes: int, seed: int = 0, vocab_size: int = 2) -> Case:
    """Random trees over few tokens: siblings with equal tokens are common, and so are long paths."""
    draw = torch.Generator().manual_seed(seed)
    tokens, targets = (torch.randint(0, vocab_size, (batch_size, num_nodes), generator=draw) for _ in range(2))
    parents = torch.full((batch_size, num_nodes), -1, dtype=torch.int32)
    for node in range(1, num_nodes):
        parents[:, node] = torch.randint(max(0, node - 4), node, (batch_size,), generator=draw)
    return tokens, parents, targets


@pytest.fixture
def check(device: torch.device) -> Check:
    """The operator on the device against its reference on the CPU; returns what both say."""

    def run(case: Case, max_depth: int) -> Case:
        outputs = accept_path(*(tensor.to(device) for tensor in case), max_depth)
        references = accept_path_reference(*case, max_depth)
        assert_equal_on(device, outputs, references)
        return references

    return run


@pytest.mark.parametrize("max_depth", [0, 1, 4, 255])
@pytest.mark.parametrize("num_nodes", [1, 2, 30, 63, 64, 65, 256])
@pytest.mark.parametrize("batch_size", [0, 1, 3, 200])
def test_accept_path(check: Check, batch_size: int, num_nodes: int, max_depth: int) -> None:
    nodes, num_accepted, _ = check(random_case(batch_size, num_nodes), max_depth)
    assert ((nodes >= 0) & (nodes < num_nodes)).all(), "padding must be valid to gather by"
    if batch_size == 200 and num_nodes > 30 and max_depth > 1:
        assert num_accepted.unique().numel() > 3, "the case itself is too simple"


def test_first_of_equal_siblings(check: Check) -> None:
    tokens = torch.tensor([[9, 5, 5, 6, 7]])
    parents = torch.tensor([[-1, 0, 0, 1, 2]], dtype=torch.int32)
    nodes, num_accepted, bonus = check((tokens, parents, torch.tensor([[5, 6, 7, 8, 8]])), 4)
    assert nodes.tolist() == [[0, 1, 3, 3, 3]]
    assert num_accepted.tolist() == [2]
    assert bonus.tolist() == [8]


def test_whole_chain_and_max_depth(check: Check) -> None:
    tokens = torch.arange(256)[None]
    parents = torch.arange(-1, 255, dtype=torch.int32)[None]
    nodes, num_accepted, bonus = check((tokens, parents, tokens + 1), 255)
    assert nodes[0].tolist() == list(range(256))
    assert (num_accepted.item(), bonus.item()) == (255, 256)
    nodes, num_accepted, bonus = check((tokens, parents, tokens + 1), 3)
    assert nodes[0].tolist() == [0, 1, 2, 3]
    assert (num_accepted.item(), bonus.item()) == (3, 4)


@pytest.mark.parametrize(
    "parents",
    [[-1, 1, 2, 3], [0, 0, 0, 0], [3, 2, 1, 0], [-1, 2, 1, 2], [-1, 99, -7, 2**31 - 1], [1, 0, 3, 2], [-1, -1, -1, -1]],
    ids=["itself", "rooted in itself", "backwards", "cycle", "out of range", "two cycles", "no edge"],
)
def test_malformed_trees_end(check: Check, parents: list[int]) -> None:
    """All tokens agree, so only the walk's own rules end it: a child lies behind its parent."""
    same = torch.full((1, 4), 5)
    nodes, num_accepted, bonus = check((same, torch.tensor([parents], dtype=torch.int32), same), 200)
    assert 0 <= num_accepted.item() <= 3
    assert nodes.max() <= 3
    assert bonus.item() == 5


@pytest.mark.parametrize("seed", range(20))
def test_any_ints_as_parents(check: Check, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    parents = torch.randint(-3, 40, (20, 35), generator=draw, dtype=torch.int32)
    tokens, _, targets = random_case(20, 35, seed)
    check((tokens, parents, targets), 34)


@pytest.mark.parametrize(("draft", "name"), CASE_NAMES)
def test_published_cycles(draft: str, name: str) -> None:
    recorded = golden(draft, name)
    targets = recorded["target_logits"].argmax(-1)[None]
    nodes, num_accepted, bonus = accept_path(
        recorded["tree_tokens"][None].long(), recorded["tree_parents"][None], targets, 4
    )
    accepted = int(recorded["accept_length"])
    assert num_accepted.item() == accepted
    assert nodes[0].tolist() == recorded["accepted_nodes"].tolist() + [nodes[0, accepted]] * (4 - accepted)
    assert bonus.item() == recorded["bonus_token"]


def test_published_cycles_are_there() -> None:
    assert len(CASE_NAMES) == 9


def test_equal_bits_at_any_number_of_threads(set_threads) -> None:
    case = random_case(500, 64)
    set_threads(1)
    expected = accept_path(*case, 8)
    set_threads(3)
    assert all(torch.equal(a, b) for a, b in zip(accept_path(*case, 8), expected, strict=True))


def test_opcheck_and_compile(device: torch.device) -> None:
    case = [tensor.to(device) for tensor in random_case(3, 30)]
    torch.library.opcheck(torch.ops.vispec.accept_path.default, (*case, 4))
    compiled = torch.compile(accept_path, fullgraph=True, backend="aot_eager")
    for ours, eager in zip(compiled(*case, 4), accept_path(*case, 4), strict=True):
        assert torch.equal(ours, eager)
        assert ours.stride() == eager.stride()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": torch.zeros(9).long()}, "tokens: expected int64 [B, N] with N from 1 to 256, got int64 [9] on cpu"),
        (
            {"tokens": torch.zeros(2, 0).long()},
            "tokens: expected int64 [B, N] with N from 1 to 256, got int64 [2, 0] on cpu",
        ),
        (
            {"tokens": torch.zeros(2, 257).long()},
            "tokens: expected int64 [B, N] with N from 1 to 256, got int64 [2, 257] on cpu",
        ),
        ({"tokens": torch.zeros(2, 9)}, "tokens: expected int64 [2, 9] on cpu, got float32 [2, 9] on cpu"),
        ({"tokens": torch.zeros(9, 2).long().mT}, "tokens: expected a contiguous tensor, got strides [1, 2]"),
        ({"parents": torch.zeros(2, 9).long()}, "parents: expected int32 [2, 9] on cpu, got int64 [2, 9] on cpu"),
        ({"parents": torch.zeros(1, 9).int()}, "parents: expected int32 [2, 9] on cpu, got int32 [1, 9] on cpu"),
        (
            {"target_tokens": torch.zeros(2, 9).int()},
            "target_tokens: expected int64 [2, 9] on cpu, got int32 [2, 9] on cpu",
        ),
        ({"max_depth": -1}, "max_depth: expected from 0 to 255, got -1"),
        ({"max_depth": 256}, "max_depth: expected from 0 to 255, got 256"),
    ],
)
def test_errors(change: dict, message: str) -> None:
    tokens, parents, target_tokens = random_case(2, 9)
    arguments = {"tokens": tokens, "parents": parents, "target_tokens": target_tokens, "max_depth": 4}
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        accept_path(**arguments | change)


@pytest.mark.release
@pytest.mark.parametrize("seed", range(300))
def test_sweep(check: Check, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    batch_size, num_nodes, vocab_size, max_depth = (
        int(torch.randint(1, limit, (), generator=draw)) for limit in (6, 257, 6, 40)
    )
    check(random_case(batch_size, num_nodes, seed, vocab_size), max_depth)
