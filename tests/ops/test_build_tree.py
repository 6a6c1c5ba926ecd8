"""build_tree: all outputs exact, the published trees, malformed candidates, errors."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from golden_data import cases, golden
from numerics import assert_equal_on
from operator_cases import Candidates, random_candidates
from vispec.ops import build_tree, build_tree_reference

CASE_NAMES = cases("tree_")
Check = Callable[[Candidates, int], tuple[Tensor, Tensor, Tensor, Tensor]]


@pytest.fixture
def check(device: torch.device) -> Check:
    """The operator on the device against its reference on the CPU; returns what both say."""

    def run(case: Candidates, num_nodes: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        outputs = build_tree(*(tensor.to(device) for tensor in case), num_nodes)
        references = build_tree_reference(*case, num_nodes)
        assert_equal_on(device, outputs, references)
        return references

    return run


@pytest.mark.parametrize("levels", [None, 4, 1], ids=["distinct", "ties", "integers"])
@pytest.mark.parametrize(("num_candidates", "num_nodes"), [(0, 1), (1, 1), (1, 2), (200, 30), (62, 63), (300, 63)])
@pytest.mark.parametrize("batch_size", [0, 1, 3])
def test_build_tree(check: Check, batch_size: int, num_candidates: int, num_nodes: int, levels: float | None) -> None:
    check(random_candidates(batch_size, num_candidates, levels=levels), num_nodes)


@pytest.mark.parametrize("num_nodes", [64, 65, 128, 129, 256])
def test_mask_words(check: Check, num_nodes: int) -> None:
    """Around the ends of the mask's words; each row is its parent's row and the node itself."""
    _, parents, depths, ancestors = check(random_candidates(2, 520, seed=num_nodes), num_nodes)
    assert ancestors.shape == (2, num_nodes, (num_nodes + 63) // 64)
    bits = (ancestors.unsqueeze(-1) >> torch.arange(64) & 1).flatten(2).bool()
    for seq in range(2):
        for node in range(1, num_nodes):
            own = torch.arange(bits.shape[2]) == node
            assert torch.equal(bits[seq, node], bits[seq, parents[seq, node]] | own)
    assert torch.equal(bits.sum(-1), depths + 1)


def test_chain_of_256_nodes() -> None:
    chain = torch.arange(-1, 254, dtype=torch.int32)[None]
    scores = -torch.arange(255.0)[None]
    _, parents, depths, ancestors = build_tree(torch.tensor([5]), torch.arange(255)[None], scores, chain, 256)
    assert depths[0].tolist() == list(range(256))
    assert parents[0].tolist() == list(range(-1, 255))
    assert (ancestors[0, 255] == -1).all()


@pytest.mark.parametrize("score", [0.0, -0.0, -1.5, -torch.inf, torch.nan])
def test_equal_scores_keep_the_first_candidates(check: Check, score: float) -> None:
    _, tokens, scores, parents = random_candidates(1, 100)
    kept, *_ = check((torch.tensor([7]), tokens, torch.full_like(scores, score), parents), 40)
    assert kept[0].tolist() == [7, *tokens[0, :39].tolist()]


def test_zeros_of_either_sign_are_equal(check: Check) -> None:
    scores = torch.tensor([[-0.0, 0.0, -0.0, 0.0]])
    case = (torch.tensor([7]), torch.arange(4)[None], scores, torch.full((1, 4), -1, dtype=torch.int32))
    assert check(case, 3)[0].tolist() == [[7, 0, 1]]


def test_nan_and_minus_infinity_come_last(check: Check) -> None:
    scores = torch.tensor([[-1.0, torch.nan, -torch.inf, -3.0, torch.nan, -2.0]])
    case = (torch.tensor([7]), torch.arange(6)[None], scores, torch.full((1, 6), -1, dtype=torch.int32))
    assert check(case, 4)[0].tolist() == [[7, 0, 3, 5]]
    assert check(case, 6)[0].tolist() == [[7, 0, 1, 2, 3, 5]]


@pytest.mark.parametrize(("draft", "name"), CASE_NAMES)
def test_published_trees(draft: str, name: str) -> None:
    recorded = golden(draft, name)
    num_nodes = int(recorded["total_tokens"])
    tokens, scores, parents = (recorded[f"candidate_{field}"][None] for field in ("tokens", "scores", "parents"))
    root = recorded["tree_tokens"][:1].long()
    node_tokens, node_parents, depths, ancestors = build_tree(root, tokens.long(), scores, parents, num_nodes)
    assert torch.equal(node_tokens[0].int(), recorded["tree_tokens"])
    assert torch.equal(node_parents[0], recorded["tree_parents"])
    assert torch.equal(depths[0], recorded["tree_depths"])
    bits = (ancestors[0].unsqueeze(-1) >> torch.arange(64) & 1).flatten(1)
    assert torch.equal(bits[:, :num_nodes].byte(), recorded["tree_mask"])


def test_published_trees_are_there() -> None:
    assert len(CASE_NAMES) == 18


@pytest.mark.parametrize(
    ("candidate", "parent"),
    [(3, 3), (3, 4), (3, 9), (3, 10), (3, -2), (3, 2**31 - 1), (3, -(2**31))],
    ids=["itself", "later", "not kept", "out of range", "negative", "largest int", "smallest int"],
)
def test_malformed_candidates(candidate: int, parent: int) -> None:
    scores = -torch.arange(10.0).expand(2, 10).contiguous()
    parents = torch.full((2, 10), -1, dtype=torch.int32)
    parents[1, candidate] = parent
    case = (torch.tensor([7, 8]), torch.arange(20).view(2, 10), scores, parents)
    message = (
        "parents: expected the parent of each kept candidate to be kept and to come before it, "
        f"got {parent} for candidate {candidate} of sequence 1"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        build_tree(*case, 6)
    with pytest.raises(ValueError, match="parents: candidate 3 is kept without its parent"):
        build_tree_reference(*case, 6)


def test_malformed_candidates_that_are_not_kept_do_not_matter() -> None:
    root_tokens, tokens, scores, parents = random_candidates(1, 50)
    expected = build_tree(root_tokens, tokens, scores, parents, 20)
    dropped = scores[0] < scores[0].sort(descending=True).values[18]
    parents[0, dropped] = 1234
    for ours, reference in zip(build_tree(root_tokens, tokens, scores, parents, 20), expected, strict=True):
        assert torch.equal(ours, reference)


def test_equal_bits_at_any_number_of_threads(set_threads) -> None:
    case = random_candidates(40, 1000, levels=8)
    set_threads(1)
    expected = build_tree(*case, 64)
    set_threads(3)
    assert all(torch.equal(a, b) for a, b in zip(build_tree(*case, 64), expected, strict=True))


def test_opcheck_and_compile(device: torch.device) -> None:
    case = [tensor.to(device) for tensor in random_candidates(2, 100)]
    torch.library.opcheck(torch.ops.vispec.build_tree.default, (*case, 66))
    compiled = torch.compile(build_tree, fullgraph=True, backend="aot_eager")
    for ours, eager in zip(compiled(*case, 66), build_tree(*case, 66), strict=True):
        assert torch.equal(ours, eager)
        assert ours.stride() == eager.stride()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": torch.zeros(9).long()}, "tokens: expected int64 [B, C], got int64 [9] on cpu"),
        ({"tokens": torch.zeros(2, 9).int()}, "tokens: expected int64 [2, 9] on cpu, got int32 [2, 9] on cpu"),
        ({"tokens": torch.zeros(9, 2).long().mT}, "tokens: expected a contiguous tensor, got strides [1, 2]"),
        ({"root_tokens": torch.zeros(3).long()}, "root_tokens: expected int64 [2] on cpu, got int64 [3] on cpu"),
        ({"scores": torch.zeros(2, 9).double()}, "scores: expected float32 [2, 9] on cpu, got Double [2, 9] on cpu"),
        ({"scores": torch.zeros(2, 8)}, "scores: expected float32 [2, 9] on cpu, got float32 [2, 8] on cpu"),
        ({"parents": torch.zeros(2, 9).long()}, "parents: expected int32 [2, 9] on cpu, got int64 [2, 9] on cpu"),
        ({"num_nodes": 0}, "num_nodes: expected from 1 to 256, got 0"),
        ({"num_nodes": 257}, "num_nodes: expected from 1 to 256, got 257"),
        ({"num_nodes": 11}, "num_nodes: expected at most 10 for 9 candidates and the root, got 11"),
    ],
)
def test_errors(change: dict, message: str) -> None:
    root_tokens, tokens, scores, parents = random_candidates(2, 9)
    arguments = {"root_tokens": root_tokens, "tokens": tokens, "scores": scores, "parents": parents, "num_nodes": 4}
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        build_tree(**arguments | change)


@pytest.mark.release
@pytest.mark.parametrize("seed", range(300))
def test_sweep(check: Check, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    batch_size, num_candidates, num_nodes, levels = (
        int(torch.randint(1, limit, (), generator=draw)) for limit in (6, 700, 257, 12)
    )
    check(random_candidates(batch_size, num_candidates, seed, levels), min(num_nodes, num_candidates + 1))
