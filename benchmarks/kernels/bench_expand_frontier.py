"""expand_frontier beside log_softmax and topk."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kernel_bench import run
from vispec.ops import expand_frontier

TOP_K = 8
VOCAB_SIZES = [4096, 32064, 151936]  # a small model's, LLaVA's, Qwen2.5-VL's


def log_softmax_and_topk(logits: Tensor, scores: Tensor, top_k: int) -> tuple[Tensor, ...]:
    """The same by torch's own fast functions, whose order of equal scores is not defined."""
    log_probs, tokens = logits.float().log_softmax(-1).topk(top_k)
    candidates = scores.unsqueeze(-1) + log_probs
    frontier_scores, frontier = candidates.flatten(1).topk(top_k)
    return tokens, candidates, frontier, tokens.flatten(1).gather(1, frontier), frontier_scores


PEERS = {"vispec": expand_frontier, "torch": log_softmax_and_topk}


@pytest.mark.parametrize("vocab_size", VOCAB_SIZES)
@pytest.mark.parametrize("num_nodes", [1, TOP_K])  # the first level, a frontier
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("peer", PEERS)
def bench_expand_frontier(
    benchmark: Any,
    device: torch.device,
    threads: int,
    peer: str,
    dtype: torch.dtype,
    num_nodes: int,
    vocab_size: int,
) -> None:
    """Floor: the logits read once, F * V elements."""
    draw = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(1, num_nodes, vocab_size, generator=draw)).to(device, dtype)
    scores = -torch.rand(1, num_nodes, generator=draw).to(device)
    case = {"logits": logits, "scores": scores, "top_k": TOP_K}
    benchmark.group = f"expand_frontier F {num_nodes} V {vocab_size} {str(dtype)[6:]} threads {threads}"
    run(benchmark, PEERS[peer], case, device, bytes=logits.numel() * logits.element_size())
