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


def append_case(
    dtype: torch.dtype, batch_size: int, num_heads: int, num_nodes: int, head_dim: int, layout: str = "own"
) -> Case:
    """In `layout` "own" each tensor fills its allocation, so that AddressSanitizer sees every row over its end. Others
    are cut out of wider buffers, NaN around, 16 bytes ("wide") or one element ("odd") from where a vector could start.
    """
    draw = torch.Generator().manual_seed(num_nodes + head_dim)
    room, first = {"own": (0, 0), "wide": (16 // dtype.itemsize, 16 // dtype.itemsize), "odd": (3, 1)}[layout]

    def rows(count: int) -> Tensor:
        buffer = torch.full((batch_size, count + room, num_heads + min(room, 1), head_dim + room), torch.nan)
        cut = buffer.to(dtype)[:, :count, :num_heads, first : first + head_dim]
        return cut.copy_(torch.randn(cut.shape, generator=draw)).transpose(1, 2)

    capacity = num_nodes + 70
    cache_len = torch.tensor([0, 70, 33] * batch_size, dtype=torch.int32)[:batch_size]
    cases = {"k": rows(num_nodes), "v": rows(num_nodes), "k_cache": rows(capacity), "v_cache": rows(capacity)}
    return {**cases, "cache_len": cache_len}


def whole(x: Tensor) -> Tensor:
    """All that a tensor was cut out of."""
    return torch.empty(0, dtype=x.dtype).set_(x.untyped_storage())


def copy_of(case: Case) -> Case:
    """With the same strides, in buffers that hold the same around the rows."""
    return {
        name: torch.as_strided(whole(x).clone(), x.shape, x.stride(), x.storage_offset()) for name, x in case.items()
    }


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
        return [whole(x) for x in ours.values()]

    return same_in_every_schedule(run, schedules)


@pytest.mark.parametrize("head_dim", [1, 8, 80, 256])
@pytest.mark.parametrize("num_nodes", sweep([0, 1, 5, 64, 256], sanitized=[0, 1, 33]))
@pytest.mark.parametrize(("batch_size", "num_heads"), [(0, 2), (1, 1), (3, 2)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["own", "wide", "odd"])
def test_append_kv(
    schedules: list[Schedule],
    layout: str,
    dtype: torch.dtype,
    batch_size: int,
    num_heads: int,
    num_nodes: int,
    head_dim: int,
) -> None:
    case = append_case(dtype, batch_size, num_heads, num_nodes, head_dim, layout)
    ours = append(case, schedules)
    expected = copy_of(case)
    append_kv_reference(**expected)
    for got, want in zip(ours, expected.values(), strict=True):
        assert_same_bits(got, whole(want))


@pytest.mark.parametrize("start", [-3, -(2**31), 68, 70, 2**31 - 1])
def test_never_outside_the_cache(schedules: list[Schedule], start: int) -> None:
    """Nothing checks lengths on the device: rows that fit are written, others are dropped."""
    case = append_case(torch.float16, 2, 2, 5, 64)
    case["cache_len"] = torch.tensor([start, 10], dtype=torch.int32)
    expected = copy_of(case)
    for name in ("k", "v"):
        expected[f"{name}_cache"][1, :, 10:15] = case[name][1]
        for node in range(5):
            if 0 <= start + node < 75:
                expected[f"{name}_cache"][0, :, start + node] = case[name][0, :, node]
    for got, want in zip(append(case, schedules), expected.values(), strict=True):
        assert_same_bits(got, whole(want))
