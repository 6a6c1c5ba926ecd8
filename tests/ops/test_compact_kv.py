"""compact_kv: the accepted path's rows, bit for bit, and nothing else of the prefix."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from numerics import assert_same_bits
from operator_cases import compact_case, copy_of
from vispec.ops import compact_kv, compact_kv_reference

LAYERS = [(2, 200, 64, torch.float16), (1, 130, 7, torch.float32), (3, 129, 128, torch.bfloat16)]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("num_nodes", [1, 2, 30, 64, 65, 128])
@pytest.mark.parametrize("batch_size", [0, 1, 4])
def test_exactly_the_accepted_path(device: torch.device, batch_size: int, num_nodes: int, seed: int) -> None:
    before = compact_case(batch_size, num_nodes, LAYERS, seed)
    after = copy_of(before, device)
    compact_kv(**after)
    expected = copy_of(before, torch.device("cpu"))
    compact_kv_reference(**expected)
    assert_same_bits(after["cache_len"].cpu(), expected["cache_len"])
    for side in ("k_caches", "v_caches"):
        for ours, old, reference in zip(after[side], before[side], expected[side], strict=True):
            for seq, start in enumerate(before["cache_len"].tolist()):
                count = int(before["num_accepted"][seq]) + 1
                accepted = before["nodes"][seq, :count].long() + start
                assert_same_bits(ours[seq, :, :start].cpu(), old[seq, :, :start])
                assert_same_bits(ours[seq, :, start : start + count].cpu(), old[seq][:, accepted])
                assert_same_bits(ours[seq, :, start + count :].cpu(), reference[seq, :, start + count :])


def test_finished_sequences_are_left_alone(device: torch.device) -> None:
    before = compact_case(3, 20, LAYERS)
    before["num_accepted"].fill_(-1)
    after = copy_of(before, device)
    compact_kv(**after)
    assert_same_bits(after["cache_len"].cpu(), before["cache_len"])
    for ours, old in zip(after["k_caches"] + after["v_caches"], before["k_caches"] + before["v_caches"], strict=True):
        assert_same_bits(ours.cpu(), old)


def test_no_layers(device: torch.device) -> None:
    """Only the length advances."""
    cache_len = torch.tensor([3, 5], dtype=torch.int32, device=device)
    nodes = torch.tensor([[0, 1], [0, 0]], dtype=torch.int32, device=device)
    compact_kv([], [], cache_len, nodes, torch.tensor([1, -1], dtype=torch.int32, device=device))
    assert cache_len.tolist() == [5, 5]


def test_threads_move_the_same(set_threads: Callable[[int], None]) -> None:
    draw = torch.Generator().manual_seed(0)
    caches = [torch.randn(2, 4, 300, 256, generator=draw) for _ in range(16)]
    nodes = torch.arange(1, 257, dtype=torch.int32).repeat(2, 1)
    results = []
    for threads in (1, 3):
        set_threads(threads)
        k_caches, cache_len = [cache.clone() for cache in caches], torch.tensor([7, 20], dtype=torch.int32)
        compact_kv(k_caches, [cache + 1 for cache in caches], cache_len, nodes, torch.full((2,), 255).int())
        results.append(torch.stack(k_caches))
    assert_same_bits(results[0], results[1])
    assert_same_bits(results[0][:, 0, :, 7:263], torch.stack(caches)[:, 0, :, 8:264])


def test_opcheck_and_compile(device: torch.device) -> None:
    case = copy_of(compact_case(3, 20, LAYERS), device)
    torch.library.opcheck(torch.ops.vispec.compact_kv.default, tuple(case.values()))
    eager = copy_of(case, device)
    compact_kv(**eager)
    torch.compile(compact_kv, backend="aot_eager", fullgraph=True)(**case)
    assert_same_bits(case["cache_len"], eager["cache_len"])
    assert_same_bits(case["k_caches"][0], eager["k_caches"][0])


CACHES = [torch.zeros(2, 1, 30, 4), torch.zeros(2, 2, 12, 8)]
INT = torch.int32
ERRORS = [
    ({"v_caches": CACHES[:1]}, "v_caches: expected 2 tensors as k_caches, got 1"),
    (
        {"k_caches": [CACHES[0], CACHES[1][0]]},
        "k_caches[1]: expected float32, float16 or bfloat16 [B, Hkv, S, D], got float32 [2, 12, 8] on cpu",
    ),
    (
        {"v_caches": [CACHES[0], CACHES[1].half()]},
        "v_caches[1]: expected float32 [2, 2, 12, 8] on cpu as k_caches[1], got float16 [2, 2, 12, 8] on cpu",
    ),
    (
        {"k_caches": [CACHES[0].mT], "v_caches": [CACHES[0].mT]},
        "k_caches[0]: expected the last dimension contiguous, got strides [120, 120, 1, 4]",
    ),
    (
        {"k_caches": [CACHES[0][:1]], "v_caches": [CACHES[0][:1]]},
        "k_caches[0]: expected 2 sequences on cpu as cache_len, got float32 [1, 1, 30, 4] on cpu",
    ),
    ({"cache_len": torch.zeros(2)}, "cache_len: expected int32 [2] on cpu, got float32 [2] on cpu"),
    ({"cache_len": torch.zeros(2, 1, dtype=INT)}, "cache_len: expected int32 [B], got int32 [2, 1] on cpu"),
    ({"cache_len": torch.tensor([0, -1], dtype=INT)}, "cache_len: expected at least 0, got -1 for sequence 1"),
    ({"nodes": torch.zeros(2, dtype=INT)}, "nodes: expected int32 [B, P], got int32 [2] on cpu"),
    ({"nodes": torch.zeros(2, 4)}, "nodes: expected int32 [2, 4] on cpu, got float32 [2, 4] on cpu"),
    (
        {"nodes": torch.zeros(2, 257, dtype=INT)},
        "nodes: expected at most 256 a sequence, got int32 [2, 257] on cpu",
    ),
    (
        {"nodes": torch.tensor([[0, 1, 2, 2], [0, 2, 2, 2]], dtype=INT)},
        "nodes: expected ascending indices from 0 on, got 2 at position 2 of sequence 1",
    ),
    (
        {"nodes": torch.tensor([[-1, 1, 2, 2], [0, 1, 2, 2]], dtype=INT)},
        "nodes: expected ascending indices from 0 on, got -1 at position 0 of sequence 0",
    ),
    (
        {"nodes": torch.tensor([[0, 1, 2, 2], [0, 1, 7, 7]], dtype=INT)},
        "nodes: expected rows below the capacity 12, got row 12 of sequence 1",
    ),
    (
        {"num_accepted": torch.tensor([2, 4], dtype=INT)},
        "num_accepted: expected from -1 to 3, got 4 for sequence 1",
    ),
    (
        {"num_accepted": torch.tensor([-2, 1], dtype=INT)},
        "num_accepted: expected from -1 to 3, got -2 for sequence 0",
    ),
    ({"num_accepted": torch.zeros(3, dtype=INT)}, "num_accepted: expected int32 [2] on cpu, got int32 [3] on cpu"),
]


@pytest.mark.parametrize(("change", "message"), ERRORS, ids=[message[:40] for _, message in ERRORS])
def test_errors(change: dict[str, Any], message: str) -> None:
    """Nothing has been moved or advanced then."""
    case = {
        "k_caches": CACHES,
        "v_caches": CACHES,
        "cache_len": torch.tensor([2, 5], dtype=INT),
        "nodes": torch.tensor([[0, 1, 3, 3], [0, 2, 3, 3]], dtype=INT),
        "num_accepted": torch.tensor([2, 2], dtype=INT),
    } | change
    lengths = case["cache_len"].clone()
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        compact_kv(**case)
    assert_same_bits(case["cache_len"], lengths)
