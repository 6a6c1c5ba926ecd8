"""select_tokens beside torch.argmax, and beside transformers' processors with torch.multinomial."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.generation.logits_process import (
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from kernel_bench import run
from vispec.ops import select_tokens

VOCAB_SIZES = [4096, 32064, 151936]  # a small model's, LLaVA's, Qwen2.5-VL's
OPTIONS: dict[str, dict[str, float]] = {
    "argmax": {},
    "temperature": {"temperature": 0.8},
    "top_k": {"temperature": 0.8, "top_k": 50},
    "top_p": {"temperature": 0.8, "top_p": 0.9},
    "top_k and top_p": {"temperature": 0.8, "top_k": 50, "top_p": 0.9},
}
PROCESSORS = {"temperature": TemperatureLogitsWarper, "top_k": TopKLogitsWarper, "top_p": TopPLogitsWarper}


def vispec(logits: Tensor, options: dict[str, float]) -> Tensor:
    if not options:
        return select_tokens(logits)
    tensors = {name: torch.tensor([value], device=logits.device) for name, value in options.items()}
    if "top_k" in tensors:
        tensors["top_k"] = tensors["top_k"].int()
    positions = torch.arange(logits.shape[1], dtype=torch.int32, device=logits.device)[None]
    return select_tokens(logits, positions=positions, seed=torch.zeros_like(positions[0, :1]).long(), **tensors)


def transformers(logits: Tensor, options: dict[str, float]) -> Tensor:
    """What generate does with a row of logits, over all nodes at once."""
    if not options:
        return logits.argmax(-1)
    processors: list[LogitsProcessor] = [PROCESSORS[name](value) for name, value in options.items()]
    scores = LogitsProcessorList(processors)(torch.empty(0), logits[0].float())
    return torch.multinomial(scores.softmax(-1), num_samples=1)[None, :, 0]


PEERS = {"vispec": vispec, "transformers": transformers}


def bench(
    benchmark: Any, device: torch.device, threads: int, peer: str, dtype: torch.dtype, sizes: tuple[int, int], name: str
) -> None:
    """Floor: the logits read once, N * V elements."""
    logits = (3 * torch.randn(1, *sizes, generator=torch.Generator().manual_seed(0))).to(device, dtype)
    benchmark.group = f"{name} N {sizes[0]} V {sizes[1]} {str(dtype)[6:]} threads {threads}"
    case = {"logits": logits, "options": OPTIONS[name]}
    run(benchmark, PEERS[peer], case, device, bytes=logits.numel() * logits.element_size())


@pytest.mark.parametrize("vocab_size", VOCAB_SIZES)
@pytest.mark.parametrize("num_nodes", [8, 30, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("peer", PEERS)
def bench_argmax(
    benchmark: Any,
    device: torch.device,
    threads: int,
    peer: str,
    dtype: torch.dtype,
    num_nodes: int,
    vocab_size: int,
) -> None:
    bench(benchmark, device, threads, peer, dtype, (num_nodes, vocab_size), "argmax")


@pytest.mark.parametrize("vocab_size", VOCAB_SIZES)
@pytest.mark.parametrize("name", [name for name in OPTIONS if name != "argmax"])
@pytest.mark.parametrize("peer", PEERS)
def bench_draw(benchmark: Any, device: torch.device, threads: int, peer: str, name: str, vocab_size: int) -> None:
    bench(benchmark, device, threads, peer, torch.float32, (30, vocab_size), name)
