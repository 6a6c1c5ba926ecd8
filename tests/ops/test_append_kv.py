"""append_kv: rows land bit for bit where they belong and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from kv_cases import wide_cache
from numerics import assert_same_bits
from operator_cases import copy_of
from vispec.ops import append_kv, append_kv_reference

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def append_case(
    dtype: torch.dtype, batch_size: int, num_heads: int, num_nodes: int, head_dim: int, capacity: int = 70
) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(0)
    k, v = wide_cache(batch_size, num_heads, num_nodes, head_dim, dtype, draw)
    k_cache, v_cache = wide_cache(batch_size, num_heads, capacity, head_dim, dtype, draw)
    room = capacity - num_nodes
    cache_len = torch.tensor([0, room, room // 2] * batch_size, dtype=torch.int32)[:batch_size]
    return {"k": k, "v": v, "k_cache": k_cache, "v_cache": v_cache, "cache_len": cache_len}


@pytest.mark.parametrize("head_dim", [1, 7, 64, 128, 256])
@pytest.mark.parametrize("num_nodes", [0, 1, 5, 64])
@pytest.mark.parametrize(("batch_size", "num_heads"), [(0, 2), (1, 1), (2, 3), (3, 2)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_append_kv(
    device: torch.device, dtype: torch.dtype, batch_size: int, num_heads: int, num_nodes: int, head_dim: int
) -> None:
    case = append_case(dtype, batch_size, num_heads, num_nodes, head_dim)
    ours = copy_of(case, device)
    append_kv(**ours)
    append_kv_reference(**case)
    for name, expected in case.items():
        assert_same_bits(ours[name].cpu(), expected)


def test_contiguous_slab_and_broadcast_source(device: torch.device) -> None:
    """Source and cache that are one block a head, and a source that repeats one row (stride 0)."""
    k = torch.randn(2, 1, 1, 64, device=device).expand(2, 3, 4, 64)
    k_cache = torch.zeros(2, 3, 10, 64, device=device)
    v_cache = torch.zeros_like(k_cache)
    append_kv(k, k, k_cache, v_cache, torch.tensor([6, 0], dtype=torch.int32, device=device))
    assert_same_bits(k_cache[0, :, 6:], k[0])
    assert_same_bits(v_cache[1, :, :4], k[1])
    assert not k_cache[0, :, :6].any()
    append_kv(k.contiguous(), k.contiguous(), k_cache, v_cache, torch.zeros(2, dtype=torch.int32, device=device))
    assert_same_bits(k_cache[:, :, :4].contiguous(), k.contiguous())


def test_k_and_v_with_strides_of_their_own(device: torch.device) -> None:
    """Models that put rotated keys together anew, but not values, leave them laid out differently."""
    case = copy_of(append_case(torch.float32, 2, 3, 5, 16), device)
    case["v"] = case["v"].transpose(1, 2).contiguous().transpose(1, 2)
    assert case["v"].stride() != case["k"].stride()
    expected = {name: tensor.clone() for name, tensor in case.items()}
    append_kv_reference(**expected)
    append_kv(**case)
    for name in ("k_cache", "v_cache"):
        assert_same_bits(case[name], expected[name])


def test_threads_copy_the_same(set_threads: Callable[[int], None]) -> None:
    """Enough bytes for several threads."""
    case = append_case(torch.float32, 3, 4, 200, 256, capacity=400)
    expected = {name: tensor.clone() for name, tensor in case.items()}
    append_kv_reference(**expected)
    set_threads(3)
    append_kv(**case)
    for name in ("k_cache", "v_cache"):
        assert_same_bits(case[name], expected[name])


def test_opcheck_and_compile(device: torch.device) -> None:
    case = copy_of(append_case(torch.float16, 2, 3, 5, 16), device)
    torch.library.opcheck(torch.ops.vispec.append_kv.default, tuple(case.values()))
    eager = {name: tensor.clone() for name, tensor in case.items()}
    append_kv(**eager)
    torch.compile(append_kv, backend="aot_eager", fullgraph=True)(**case)
    assert_same_bits(case["k_cache"], eager["k_cache"])


def test_under_every_grad_mode() -> None:
    """The cache may be an inference tensor and the rows may want a gradient: neither matters."""
    with torch.inference_mode():
        case = append_case(torch.float32, 1, 1, 3, 8)
    case["k"] = case["k"].clone().requires_grad_()
    case["v"] = case["v"].clone()
    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with mode():
            append_kv(**case)
    assert_same_bits(case["k_cache"][0, :, :3], case["k"][0].detach())


@pytest.mark.parametrize("cache_len", [[0, 66], [-1, 0], [0, 2**31 - 1], [70, 0]])
def test_rows_outside_the_cache(cache_len: list[int]) -> None:
    """Refused before anything is written, for the sequences that would fit too."""
    case = append_case(torch.float32, 2, 1, 5, 8)
    before = case["k_cache"].clone()
    case["cache_len"] = torch.tensor(cache_len, dtype=torch.int32)
    with pytest.raises(ValueError, match=r"^cache_len: expected rows within the capacity 70, got rows \[-?\d+, \d+\)"):
        append_kv(**case)
    assert_same_bits(case["k_cache"], before)


K = torch.zeros(2, 3, 5, 8)
ERRORS = [
    ({"k": K[0]}, "k: expected float32, float16 or bfloat16 [B, Hkv, N, D], got float32 [3, 5, 8] on cpu"),
    ({"k": K.double()}, "k: expected float32, float16 or bfloat16 [B, Hkv, N, D], got Double [2, 3, 5, 8] on cpu"),
    ({"k": K.mT.contiguous().mT}, "k: expected the last dimension contiguous, got strides [120, 40, 1, 5]"),
    ({"v": K[:1]}, "v: expected float32 [2, 3, 5, 8] on cpu as k, got float32 [1, 3, 5, 8] on cpu"),
    ({"v": K.half()}, "v: expected float32 [2, 3, 5, 8] on cpu as k, got float16 [2, 3, 5, 8] on cpu"),
    ({"v": K.mT.contiguous().mT}, "v: expected the last dimension contiguous, got strides [120, 40, 1, 5]"),
    ({"k_cache": K[0]}, "k_cache: expected float32, float16 or bfloat16 [B, Hkv, S, D], got float32 [3, 5, 8] on cpu"),
    ({"v_cache": K}, "v_cache: expected float32 [2, 3, 70, 8] on cpu as k_cache, got float32 [2, 3, 5, 8] on cpu"),
    (
        {"k": K.bfloat16(), "v": K.bfloat16()},
        "k_cache: expected bfloat16 on cpu as k, got float32 [2, 3, 70, 8] on cpu",
    ),
    ({"k": K[:, :2], "v": K[:, :2]}, "k_cache: expected size 2 in dimension 1 as k, got float32 [2, 3, 70, 8] on cpu"),
    (
        {"k": K[..., :4], "v": K[..., :4]},
        "k_cache: expected size 4 in dimension 3 as k, got float32 [2, 3, 70, 8] on cpu",
    ),
    ({"cache_len": torch.zeros(2, dtype=torch.int64)}, "cache_len: expected int32 [2] on cpu, got int64 [2] on cpu"),
    ({"cache_len": torch.zeros(3, dtype=torch.int32)}, "cache_len: expected int32 [2] on cpu, got int32 [3] on cpu"),
    (
        {"cache_len": torch.zeros(4, dtype=torch.int32)[::2]},
        "cache_len: expected a contiguous tensor, got strides [2]",
    ),
]


@pytest.mark.parametrize(("change", "message"), ERRORS, ids=[message[:40] for _, message in ERRORS])
def test_errors(change: dict[str, Any], message: str) -> None:
    cache = torch.zeros(2, 3, 70, 8)
    case = {"k": K, "v": K, "k_cache": cache, "v_cache": cache.clone(), "cache_len": torch.zeros(2, dtype=torch.int32)}
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        append_kv(**case | change)


def test_missing_argument_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="cache_len"):
        append_kv(K, K, K, K)  # type: ignore[call-arg]
