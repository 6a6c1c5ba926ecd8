"""append_kv's kernel on the host: rows land bit for bit where they belong and nowhere else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from cuda_host import Schedule, byte_strides, run_kernel, same_in_every_schedule, sweep
from numerics import assert_same_bits
from vispec.ops import append_kv_reference

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
Case = dict[str, Tensor]


def append_case(dtype: torch.dtype, batch_size: int, num_heads: int, num_nodes: int, head_dim: int, wide: bool) -> Case:
    """Rows are multiples of 16 bytes; `wide`: cut out of buffers with NaN around, else allocations of their own."""
    draw = torch.Generator().manual_seed(num_nodes + head_dim)
    room = 9 if wide else 0

    def rows(count: int) -> Tensor:
        buffer = torch.full(
            (batch_size, count + room, num_heads + (1 if wide else 0), head_dim + 2 * room * 8), torch.nan
        )
        buffer = buffer.to(dtype)
        cut = buffer[:, :count, :num_heads, room * 8 : room * 8 + head_dim]
        return cut.copy_(torch.randn(cut.shape, generator=draw)).transpose(1, 2)

    capacity = num_nodes + 70
    cache_len = torch.tensor([0, 70, 33] * batch_size, dtype=torch.int32)[:batch_size]
    cases = {"k": rows(num_nodes), "v": rows(num_nodes), "k_cache": rows(capacity), "v_cache": rows(capacity)}
    return {**cases, "cache_len": cache_len}


def copy_of(case: Case) -> Case:
    """With the same strides."""
    return {name: torch.empty_strided(x.shape, x.stride(), dtype=x.dtype).copy_(x) for name, x in case.items()}


def fields(case: Case) -> dict[str, Any]:
    k, k_cache = case["k"], case["k_cache"]
    return {
        **case,
        "k_strides": byte_strides(k),
        "v_strides": byte_strides(case["v"]),
        "cache": byte_strides(k_cache),
        "batch": k.shape[0],
        "num_kv_heads": k.shape[1],
        "num_nodes": k.shape[2],
        "capacity": k_cache.shape[2],
        "row_bytes": k.shape[3] * k.element_size(),
    }


def append(case: Case, schedules: list[Schedule]) -> list[Tensor]:
    def run(schedule: Schedule) -> list[Tensor]:
        ours = copy_of(case)
        run_kernel("append_kv", schedule, **fields(ours))
        return list(ours.values())

    return same_in_every_schedule(run, schedules)


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("head_dim", [8, 64, 80, 128, 256])
@pytest.mark.parametrize("num_nodes", sweep([0, 1, 5, 33, 64, 256], sanitized=[0, 1, 33]))
@pytest.mark.parametrize(("batch_size", "num_heads"), [(0, 2), (1, 1), (2, 3), (3, 2)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_append_kv(
    schedules: list[Schedule],
    dtype: torch.dtype,
    batch_size: int,
    num_heads: int,
    num_nodes: int,
    head_dim: int,
    wide: bool,
) -> None:
    case = append_case(dtype, batch_size, num_heads, num_nodes, head_dim, wide)
    ours = append(case, schedules)
    expected = copy_of(case)
    append_kv_reference(**expected)
    for got, want in zip(ours, expected.values(), strict=True):
        assert_same_bits(got, want)


@pytest.mark.parametrize("start", [-3, -(2**31), 68, 70, 2**31 - 1])
def test_never_outside_the_cache(schedules: list[Schedule], start: int) -> None:
    """Nothing checks lengths on the device: rows that fit are written, others are dropped."""
    case = append_case(torch.float16, 2, 2, 5, 64, wide=False)
    case["k_cache"], case["v_cache"] = case["k_cache"][:, :, :70], case["v_cache"][:, :, :70]
    case["cache_len"] = torch.tensor([start, 10], dtype=torch.int32)
    _, _, k_cache, v_cache, _ = append(case, schedules)
    for ours, source, before in ((k_cache, case["k"], case["k_cache"]), (v_cache, case["v"], case["v_cache"])):
        expected = before.clone()
        expected[1, :, 10:15] = source[1]
        for node in range(5):
            if 0 <= start + node < 70:
                expected[0, :, start + node] = source[0, :, node]
        assert_same_bits(ours, expected)
