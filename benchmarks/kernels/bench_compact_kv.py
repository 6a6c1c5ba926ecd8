"""compact_kv over all layers beside torch's index_select a layer and the operator's own reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kernel_bench import run
from sizes import MODELS
from vispec.ops import compact_kv, compact_kv_reference

CAPACITY, CONTEXT = 1024, 900


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
@pytest.mark.parametrize("model", MODELS)
def bench_compact_kv(benchmark: Any, device: torch.device, threads: int, peer: str, model: str) -> None:
    """Floor: reads and writes 2 * L * Hkv * D elements an accepted node that is not already in place (3 of 5 here)."""
    layers, kv_heads, head_dim = (
        getattr(MODELS[model], name) for name in ("num_hidden_layers", "num_key_value_heads", "head_dim")
    )
    shape = (1, kv_heads, CAPACITY, head_dim)
    caches = [torch.zeros(shape, dtype=torch.bfloat16, device=device) for _ in range(2 * layers)]
    case = {
        "k_caches": caches[:layers],
        "v_caches": caches[layers:],
        "cache_len": torch.tensor([CONTEXT], dtype=torch.int32, device=device),
        "nodes": torch.tensor([[0, 1, 4, 11, 23]], dtype=torch.int32, device=device),
        "num_accepted": torch.tensor([4], dtype=torch.int32, device=device),
    }
    benchmark.group = f"compact_kv {model} layers {layers} accepted 4 bfloat16 threads {threads}"
    moved = 2 * 2 * layers * kv_heads * 3 * head_dim * 2
    run(benchmark, PEERS[peer], case, device, bytes=moved, waits=peer != "vispec")
