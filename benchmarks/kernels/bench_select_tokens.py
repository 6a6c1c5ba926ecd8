"""select_tokens beside torch.argmax, transformers' processors with torch.multinomial, and the operator's reference."""

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
from sizes import DTYPES, MODELS, dtype_name
from vispec.ops import select_tokens, select_tokens_reference

OPTIONS: dict[str, dict[str, float]] = {
    "temperature": {"temperature": 0.8},
    "top_k": {"temperature": 0.8, "top_k": 50},
    "top_p": {"temperature": 0.8, "top_p": 0.9},
    "top_k and top_p": {"temperature": 0.8, "top_k": 50, "top_p": 0.9},
}
PROCESSORS = {"temperature": TemperatureLogitsWarper, "top_k": TopKLogitsWarper, "top_p": TopPLogitsWarper}


def argmax(logits: Tensor) -> Tensor:
    return logits.argmax(-1)


def transformers(logits: Tensor, options: dict[str, float], **_: Any) -> Tensor:
    """What generate does with a row of logits, over all nodes at once."""
    processors: list[LogitsProcessor] = [PROCESSORS[name](value) for name, value in options.items()]
    scores = LogitsProcessorList(processors)(torch.empty(0), logits[0].float())
    return torch.multinomial(scores.softmax(-1), num_samples=1)[None, :, 0]


def without_options(function: Any) -> Any:
    """Ours take tensors."""

    def call(options: dict[str, float], **case: Any) -> Tensor:
        return function(**case)

    return call


GREEDY_PEERS = {"vispec": select_tokens, "argmax": argmax}  # which the reference is, too
DRAW_PEERS = {
    "vispec": without_options(select_tokens),
    "transformers": transformers,
    "reference": without_options(select_tokens_reference),
}


def random_logits(model: str, num_nodes: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    return (3 * torch.randn(1, num_nodes, MODELS[model].vocab_size, generator=draw)).to(device, dtype)


@pytest.mark.parametrize("peer", GREEDY_PEERS)  # the last to vary: peers of one size are timed one after the other
@pytest.mark.parametrize("num_nodes", [8, 30, 64])
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("model", MODELS)
def bench_argmax(
    benchmark: Any, device: torch.device, threads: int, peer: str, model: str, dtype: torch.dtype, num_nodes: int
) -> None:
    """Floor: the logits read once, N * V elements."""
    logits = random_logits(model, num_nodes, dtype, device)
    benchmark.group = f"argmax {model} N {num_nodes} V {logits.shape[2]} {dtype_name(dtype)} threads {threads}"
    run(benchmark, GREEDY_PEERS[peer], {"logits": logits}, device, bytes=logits.numel() * logits.element_size())


@pytest.mark.parametrize("peer", DRAW_PEERS)
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("model", MODELS)
def bench_draw(benchmark: Any, device: torch.device, threads: int, peer: str, model: str, name: str) -> None:
    """Floor: the logits read once, N * V elements."""
    logits = random_logits(model, 30, torch.float32, device)
    tensors = {option: torch.tensor([value], device=device) for option, value in OPTIONS[name].items()}
    if "top_k" in tensors:
        tensors["top_k"] = tensors["top_k"].int()
    case = {
        "logits": logits,
        "positions": torch.arange(30, dtype=torch.int32, device=device)[None],
        "seed": torch.zeros(1, dtype=torch.int64, device=device),
        "options": OPTIONS[name],
        **tensors,
    }
    benchmark.group = f"{name} {model} N 30 V {logits.shape[2]} float32 threads {threads}"
    moved = logits.numel() * logits.element_size()
    waits = (
        peer != "vispec"
    )  # torch.multinomial does, in some versions: its calls are not in a graph, and launched one by one
    run(benchmark, DRAW_PEERS[peer], case, device, bytes=moved, waits=waits)
