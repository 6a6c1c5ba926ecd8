"""accept_path beside its reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kernel_bench import run
from vispec.ops import accept_path, accept_path_reference

PEERS = {"vispec": accept_path, "reference": accept_path_reference}


@pytest.mark.parametrize("peer", PEERS)  # the last to vary: peers of one size are timed one after the other
@pytest.mark.parametrize(("max_depth", "num_nodes"), [(4, 30), (6, 60), (9, 256)])
@pytest.mark.parametrize("batch_size", [1, 32])
def bench_accept_path(
    benchmark: Any, device: torch.device, peer: str, batch_size: int, max_depth: int, num_nodes: int
) -> None:
    """Floor: the tree read once, 20 bytes a node; in truth the call. A path of full depth is accepted."""
    draw = torch.Generator().manual_seed(0)
    parents = torch.full((batch_size, num_nodes), -1, dtype=torch.int32)
    parents[:, 1:] = (torch.arange(1, num_nodes) * torch.rand(batch_size, num_nodes - 1, generator=draw)).int()
    path = torch.arange(num_nodes - max_depth, num_nodes)  # a chain at the tree's end: the longest search
    parents[:, path] = torch.cat((torch.zeros(1), path[:-1])).int()
    tokens = torch.ones(batch_size, num_nodes, dtype=torch.int64)
    tokens[:, path] = 2
    case = {
        "tokens": tokens.to(device),
        "parents": parents.to(device),
        "target_tokens": torch.full_like(tokens, 2, device=device),
        "max_depth": max_depth,
    }
    benchmark.group = f"accept_path B {batch_size} N {num_nodes} depth {max_depth}"
    run(benchmark, PEERS[peer], case, device, bytes=20 * batch_size * num_nodes, waits=peer == "reference")
