"""compact_kv over all layers beside torch's index_select a layer and the operator's own reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kernel_bench import GEOMETRIES, Geometry, run
from vispec.ops import compact_kv, compact_kv_reference

LAYERS, CAPACITY, CONTEXT = 32, 1024, 900


def index_select(
    k_caches: list[Tensor], v_caches: list[Tensor], cache_len: Tensor, nodes: Tensor, num_accepted: Tensor
) -> None:
    """For one sequence: the path's rows gathered and written back, layer by layer, with the count known to the host."""
    start, count = int(cache_len), int(num_accepted) + 1
    rows = nodes[0, :count] + cache_len
    for cache in (*k_caches, *v_caches):
        cache[:, :, start : start + count] = cache.index_select(2, rows)


def on_lengths(function: Any) -> Any:
    """The operator advances `cache_len` in place; every round starts from the same one."""

    def call(cache_len: Tensor, **case: Any) -> None:
        function(cache_len=cache_len.clone(), **case)

    return call


PEERS = {
    "vispec": on_lengths(compact_kv),
    "index_select": on_lengths(index_select),
    "reference": on_lengths(compact_kv_reference),
}


@pytest.mark.parametrize("peer", PEERS)  # the last to vary: peers of one size are timed one after the other
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def bench_compact_kv(benchmark: Any, device: torch.device, threads: int, peer: str, geometry: Geometry) -> None:
    """Floor: reads and writes 2 * L * Hkv * D elements an accepted node that is not already in place (3 of 5 here)."""
    _, kv_heads, head_dim = geometry
    shape = (1, kv_heads, CAPACITY, head_dim)
    caches = [torch.zeros(shape, dtype=torch.bfloat16, device=device) for _ in range(2 * LAYERS)]
    case = {
        "k_caches": caches[:LAYERS],
        "v_caches": caches[LAYERS:],
        "cache_len": torch.tensor([CONTEXT], dtype=torch.int32, device=device),
        "nodes": torch.tensor([[0, 1, 4, 11, 23]], dtype=torch.int32, device=device),
        "num_accepted": torch.tensor([4], dtype=torch.int32, device=device),
    }
    benchmark.group = f"compact_kv {geometry} layers {LAYERS} accepted 4 bfloat16 threads {threads}"
    run(benchmark, PEERS[peer], case, device, bytes=2 * 2 * LAYERS * kv_heads * 3 * head_dim * 2)
