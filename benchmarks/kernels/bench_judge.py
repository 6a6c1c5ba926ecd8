"""What follows verification in a cycle, on one stream: select_tokens, accept_path and compact_kv; and plain torch's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kernel_bench import run
from sizes import MODELS
from vispec.ops import accept_path, accept_path_reference, compact_kv, compact_kv_reference, select_tokens

TREE, LEVELS, CAPACITY, CONTEXT = 64, 5, 1024, 900


def ours(
    logits: Tensor, tokens: Tensor, parents: Tensor, k_caches: list[Tensor], v_caches: list[Tensor], cache_len: Tensor
) -> None:
    nodes, accepted, _ = accept_path(tokens, parents, select_tokens(logits), LEVELS)
    compact_kv(k_caches, v_caches, cache_len.clone(), nodes, accepted)


def reference(
    logits: Tensor, tokens: Tensor, parents: Tensor, k_caches: list[Tensor], v_caches: list[Tensor], cache_len: Tensor
) -> None:
    nodes, accepted, _ = accept_path_reference(tokens, parents, logits.argmax(-1), LEVELS)
    compact_kv_reference(k_caches, v_caches, cache_len.clone(), nodes, accepted)


PEERS = {"vispec": ours, "reference": reference}


@pytest.mark.parametrize("peer", PEERS)  # the last to vary: peers of one size are timed one after the other
@pytest.mark.parametrize("model", MODELS)
def bench_judge(benchmark: Any, device: torch.device, threads: int, peer: str, model: str) -> None:
    """Floor: the logits read once, and the rows of a path of full depth moved in every layer."""
    sizes = MODELS[model]
    logits = torch.zeros(1, TREE, sizes.vocab_size, dtype=torch.bfloat16, device=device)
    path = torch.arange(0, TREE, TREE // LEVELS)[: LEVELS + 1]  # root first, then one node a level
    parents = torch.zeros(TREE, dtype=torch.int32)
    parents[path[1:]] = path[:-1].int()
    parents[0] = -1
    tokens = torch.zeros(TREE, dtype=torch.int64)
    tokens[path[1:]] = 1
    logits[:, :, 1] = 1.0
    shape = (1, sizes.num_key_value_heads, CAPACITY, sizes.head_dim)
    caches = [torch.zeros(shape, dtype=torch.bfloat16, device=device) for _ in range(2 * sizes.num_hidden_layers)]
    case = {
        "logits": logits,
        "tokens": tokens[None].to(device),
        "parents": parents[None].to(device),
        "k_caches": caches[::2],
        "v_caches": caches[1::2],
        "cache_len": torch.tensor([CONTEXT], dtype=torch.int32, device=device),
    }
    rows = 2 * sizes.num_hidden_layers * sizes.num_key_value_heads * LEVELS * sizes.head_dim * 2
    benchmark.group = f"select, accept, compact {model} N {TREE} depth {LEVELS} bfloat16 threads {threads}"
    run(benchmark, PEERS[peer], case, device, bytes=logits.numel() * 2 + 2 * rows, waits=peer == "reference")
