"""expand_frontier beside torch's log_softmax and topk, and the operator's own reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kernel_bench import run
from sizes import DTYPES, MODELS, dtype_name
from vispec.ops import expand_frontier, expand_frontier_reference

TOP_K = 8


def log_softmax_and_topk(logits: Tensor, scores: Tensor, top_k: int) -> tuple[Tensor, ...]:
    """The same by torch's own fast functions, whose order of equal scores is not defined."""
    log_probs, tokens = logits.float().log_softmax(-1).topk(top_k)
    candidates = scores.unsqueeze(-1) + log_probs
    frontier_scores, frontier = candidates.flatten(1).topk(top_k)
    return tokens, candidates, frontier, tokens.flatten(1).gather(1, frontier), frontier_scores


PEERS = {"vispec": expand_frontier, "torch": log_softmax_and_topk, "reference": expand_frontier_reference}


@pytest.mark.parametrize("peer", PEERS)  # the last to vary: peers of one size are timed one after the other
@pytest.mark.parametrize("num_nodes", [1, TOP_K])  # the first level, a frontier
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("model", MODELS)
def bench_expand_frontier(
    benchmark: Any, device: torch.device, threads: int, peer: str, model: str, dtype: torch.dtype, num_nodes: int
) -> None:
    """Floor: the logits read once, F * V elements."""
    vocab_size, draw = MODELS[model].vocab_size, torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(1, num_nodes, vocab_size, generator=draw)).to(device, dtype)
    scores = -torch.rand(1, num_nodes, generator=draw).to(device)
    case = {"logits": logits, "scores": scores, "top_k": TOP_K}
    benchmark.group = f"expand_frontier {model} F {num_nodes} V {vocab_size} {dtype_name(dtype)} threads {threads}"
    moved = logits.numel() * logits.element_size()
    run(benchmark, PEERS[peer], case, device, bytes=moved, waits=peer == "reference")
