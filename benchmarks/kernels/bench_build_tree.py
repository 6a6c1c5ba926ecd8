"""build_tree beside its reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kernel_bench import run
from vispec.ops import build_tree, build_tree_reference

PEERS = {"vispec": build_tree, "reference": build_tree_reference}


def candidates(depth: int, top_k: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Scores and parents of a draft: each level's best `top_k` are expanded by the next."""
    scores, parents = -torch.rand(top_k, generator=draw), torch.full((top_k,), -1)
    frontier = torch.arange(top_k)
    for _ in range(depth):
        level = scores[frontier, None] - torch.rand(top_k, top_k, generator=draw)
        first = scores.numel()
        scores = torch.cat((scores, level.flatten()))
        parents = torch.cat((parents, frontier.repeat_interleave(top_k)))
        frontier = first + level.flatten().topk(top_k).indices
    return scores, parents.int()


@pytest.mark.parametrize("peer", PEERS)  # the last to vary: peers of one size are timed one after the other
@pytest.mark.parametrize(("depth", "top_k", "num_nodes"), [(3, 8, 30), (5, 10, 60), (8, 32, 256)])
@pytest.mark.parametrize("batch_size", [1, 32])
def bench_build_tree(
    benchmark: Any,
    device: torch.device,
    threads: int,
    peer: str,
    batch_size: int,
    depth: int,
    top_k: int,
    num_nodes: int,
) -> None:
    """Floor: the candidates read once, 16 bytes each; in truth the call."""
    draw = torch.Generator().manual_seed(0)
    scores, parents = zip(*(candidates(depth, top_k, draw) for _ in range(batch_size)), strict=True)
    num_candidates = scores[0].numel()
    case = {
        "root_tokens": torch.zeros(batch_size, dtype=torch.int64, device=device),
        "tokens": torch.arange(num_candidates, device=device).repeat(batch_size, 1),
        "scores": torch.stack(scores).to(device),
        "parents": torch.stack(parents).to(device),
        "num_nodes": num_nodes,
    }
    benchmark.group = f"build_tree B {batch_size} C {num_candidates} N {num_nodes} threads {threads}"
    moved = 16 * batch_size * num_candidates
    run(benchmark, PEERS[peer], case, device, bytes=moved, waits=peer == "reference")
