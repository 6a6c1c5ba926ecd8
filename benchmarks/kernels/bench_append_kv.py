"""append_kv beside torch's index_copy_ (as static caches do it) and the operator's own reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kernel_bench import run
from sizes import MODELS
from vispec.ops import append_kv, append_kv_reference


def index_copy(k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, cache_len: Tensor) -> None:
    """For one sequence, with positions on the device."""
    rows = cache_len + torch.arange(k.shape[2], device=k.device)
    k_cache.index_copy_(2, rows, k)
    v_cache.index_copy_(2, rows, v)


PEERS = {"vispec": append_kv, "index_copy": index_copy, "reference": append_kv_reference}


@pytest.mark.parametrize("peer", PEERS)  # the last to vary: peers of one size are timed one after the other
@pytest.mark.parametrize("num_nodes", [1, 30, 1024])
@pytest.mark.parametrize("model", MODELS)
def bench_append_kv(benchmark: Any, device: torch.device, threads: int, peer: str, model: str, num_nodes: int) -> None:
    """Floor: reads and writes 2 * Hkv * N * D elements."""
    kv_heads, head_dim = MODELS[model].num_key_value_heads, MODELS[model].head_dim
    k = torch.randn(1, num_nodes, kv_heads, head_dim, dtype=torch.bfloat16, device=device).transpose(1, 2)
    cache = torch.zeros(1, kv_heads, 2048, head_dim, dtype=torch.bfloat16, device=device)
    lengths = torch.tensor([1000], dtype=torch.int32, device=device)
    case = {"k": k, "v": k.clone(), "k_cache": cache, "v_cache": cache.clone(), "cache_len": lengths}
    benchmark.group = f"append_kv {model} nodes {num_nodes} bfloat16 threads {threads}"
    moved = 4 * k.numel() * k.element_size()
    run(benchmark, PEERS[peer], case, device, bytes=moved, waits=peer == "reference")
