"""compact_kv's kernels on the host: the accepted path's rows, bit for bit, in any layout, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from cuda_host import Schedule, byte_strides, make_struct, run_kernel, same_in_every_schedule, sweep
from numerics import assert_same_bits
from operator_cases import compact_case, copy_of
from vispec.ops import compact_kv_reference

# Rows of 128, 28, 256, 14, 24 and 40 bytes, cut out of wider ones: vectors of 2 and 4 bytes.
LAYERS = [
    (2, 200, 64, torch.float16),
    (1, 130, 7, torch.float32),
    (3, 129, 128, torch.bfloat16),
    (1, 140, 7, torch.float16),
    (2, 131, 6, torch.float32),
    (4, 150, 20, torch.float16),
]


def compact(case: dict[str, Any], schedules: list[Schedule]) -> dict[str, Any]:
    """The case afterwards."""
    num_layers = len(case["k_caches"])

    def run(schedule: Schedule) -> list[Tensor]:
        ours = copy_of(case)
        layers = [
            make_struct(
                "CompactKvLayer",
                k_cache=k,
                v_cache=v,
                strides=byte_strides(k),
                num_kv_heads=k.shape[1],
                capacity=k.shape[2],
                row_bytes=k.shape[3] * k.element_size(),
            )
            for k, v in zip(ours["k_caches"], ours["v_caches"], strict=True)
        ]
        run_kernel(
            "compact_kv",
            schedule,
            layers=(type(layers[0]) * num_layers)(*layers) if layers else None,
            cache_len=ours["cache_len"],
            nodes=ours["nodes"],
            num_accepted=ours["num_accepted"],
            num_layers=num_layers,
            batch=ours["nodes"].shape[0],
            width=ours["nodes"].shape[1],
        )
        return [ours["cache_len"], *ours["k_caches"], *ours["v_caches"]]

    cache_len, *caches = same_in_every_schedule(run, schedules)
    return case | {"k_caches": caches[:num_layers], "v_caches": caches[num_layers:], "cache_len": cache_len}


def check(before: dict[str, Any], schedules: list[Schedule]) -> None:
    after, expected = compact(before, schedules), copy_of(before)
    compact_kv_reference(**expected)
    assert_same_bits(after["cache_len"], expected["cache_len"])
    for side in ("k_caches", "v_caches"):
        for ours, reference in zip(after[side], expected[side], strict=True):
            assert_same_bits(ours, reference)


@pytest.mark.parametrize("seed", sweep(range(3), sanitized=[0]))
@pytest.mark.parametrize("num_nodes", sweep([1, 2, 30, 64, 65, 128], sanitized=[2, 65]))
@pytest.mark.parametrize("batch_size", [0, 1, 4])
def test_exactly_the_accepted_path(schedules: list[Schedule], batch_size: int, num_nodes: int, seed: int) -> None:
    check(compact_case(batch_size, num_nodes, LAYERS, seed), schedules)


@pytest.mark.parametrize("head_dim", [4, 8, 64, 80, 128, 256])
@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 16, 17, 40])
def test_chains_move_by_one_row(schedules: list[Schedule], length: int, head_dim: int) -> None:
    """Each row's target is the source of the row before: the hardest order, around the rows moved at once."""
    draw = torch.Generator().manual_seed(length)
    k_caches = [torch.randn(2, 3, 60, head_dim, generator=draw).half() for _ in range(2)]
    nodes = torch.arange(1, 46, dtype=torch.int32).repeat(2, 1)
    case = {
        "k_caches": k_caches,
        "v_caches": [cache + 1 for cache in k_caches],
        "cache_len": torch.tensor([0, 11], dtype=torch.int32),
        "nodes": nodes,
        "num_accepted": torch.tensor([length - 1, length], dtype=torch.int32),
    }
    check(case, schedules)


@pytest.mark.parametrize("num_layers", sweep([1, 63, 64, 65, 130], sanitized=[65]))
def test_layers_of_several_launches(schedules: list[Schedule], num_layers: int) -> None:
    check(compact_case(2, 20, [(1, 130, 8, torch.float32)] * num_layers), schedules)


def test_finished_sequences_are_left_alone(schedules: list[Schedule]) -> None:
    before = compact_case(3, 20, LAYERS)
    before["num_accepted"].fill_(-1)
    after = compact(before, schedules)
    assert_same_bits(after["cache_len"], before["cache_len"])
    for ours, old in zip(after["k_caches"] + after["v_caches"], before["k_caches"] + before["v_caches"], strict=True):
        assert_same_bits(ours, old)


def test_no_layers(schedules: list[Schedule]) -> None:
    """Only the length advances."""
    case = compact_case(2, 5, [])
    case["cache_len"], case["num_accepted"] = torch.tensor([3, 5]).int(), torch.tensor([1, -1]).int()
    assert compact(case, schedules)["cache_len"].tolist() == [5, 5]


@pytest.mark.parametrize(
    ("cache_len", "nodes", "num_accepted"),
    [
        (28, [0, 3, 9, 9], 2),
        (28, [0, 2, 3, 3], 2),
        (27, [1, 2, 3, 4], 3),
        (30, [0, 3, 9, 9], 2),
        (2**31 - 1, [0, 3, 9, 9], 2),
        (-5, [0, 3, 9, 9], 2),
        (4, [0, -1, 2**31 - 1, -(2**31)], 3),
        (4, [0, 2, 3, 5], 7),
        (4, [0, 1, 3, 5], -9),
    ],
)
def test_never_outside_the_cache(
    schedules: list[Schedule], cache_len: int, nodes: list[int], num_accepted: int
) -> None:
    """What the CPU refuses: rows that are not there are neither read (the sanitizer watches) nor written."""
    draw = torch.Generator().manual_seed(0)
    caches = [torch.randn(1, 1, 30, 8, generator=draw) for _ in range(2)]
    case = {
        "k_caches": caches[:1],
        "v_caches": caches[1:],
        "cache_len": torch.tensor([cache_len], dtype=torch.int32),
        "nodes": torch.tensor([nodes], dtype=torch.int32),
        "num_accepted": torch.tensor([num_accepted], dtype=torch.int32),
    }
    expected = [cache.clone() for cache in caches]
    for target, node in enumerate(nodes[: num_accepted + 1] if num_accepted >= 0 else []):
        if cache_len >= 0 and node >= 0 and cache_len + node < 30:
            for cache, before in zip(expected, caches, strict=True):
                cache[:, :, cache_len + target] = before[:, :, cache_len + node]
    after = compact(case, schedules)
    assert_same_bits(after["k_caches"][0], expected[0])
    assert_same_bits(after["v_caches"][0], expected[1])
