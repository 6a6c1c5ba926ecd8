"""What the kernel benchmarks share: the device, rotating inputs, and a clock that waits for it."""

from __future__ import annotations

import functools
import itertools
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rates import copy_rate, last_level_cache, product_rate

ROUNDS, FEWEST, WARM_UPS = 30, 3, 5
SLOW = 0.05  # seconds a call, from which on there are fewer rounds
MAX_CASES, MAX_BYTES = 64, 1 << 30
GPU_CACHE = 128 << 20  # the largest second-level caches hold 126 MB
GRAPH_CALLS = 64  # in a CUDA graph, so that its launch is no part of a call's time


class Chosen:
    """The device of this run, set before the benchmarks are read: what they are measured with hangs on it."""

    device = "cuda" if torch.cuda.is_available() else "cpu"
    has_flex = False
    mma_rate: float | None = None  # flops a second of the tensor-core instruction, if it was measured


def tensors_of(case: dict[str, Any]) -> list[Tensor]:
    """All tensors of a case, those of lists too."""
    values = itertools.chain.from_iterable(v if isinstance(v, list) else [v] for v in case.values())
    return [value for value in values if torch.is_tensor(value)]


def copy_of(case: dict[str, Any]) -> dict[str, Any]:
    """A case with the same numbers elsewhere in memory."""

    def copy(value: Any) -> Any:
        if isinstance(value, list):
            return [copy(v) for v in value]
        return value.clone() if torch.is_tensor(value) else value

    return {name: copy(value) for name, value in case.items()}


def rotating(case: dict[str, Any], device: torch.device) -> list[dict[str, Any]]:
    """Equal cases in turn, so that each is cold: in a model the other layers come between two calls."""
    cache = GPU_CACHE if device.type == "cuda" else last_level_cache()
    size = sum(t.numel() * t.element_size() for t in tensors_of(case))
    count = min(MAX_CASES, max(2, math.ceil(2 * cache / size)), max(2, MAX_BYTES // size))
    cases = [case, *(copy_of(case) for _ in range(count - 1))]
    if device.type == "cpu":
        other_data().add_(1)  # takes the place of what making the copies left in the cache; a round uses each once
    return cases


@functools.cache
def other_data() -> Tensor:
    """As much as the last-level cache holds."""
    return torch.zeros(last_level_cache(), dtype=torch.uint8)


def run(
    benchmark: Any,
    function: Callable[..., Any],
    case: dict[str, Any],
    device: torch.device,
    *,
    bytes: int,
    flops: int = 0,
    waits: bool = False,
) -> None:
    """Time `function(**case)` over rotating copies; a round is a call, or a CUDA graph of many.

    Args:
        bytes, flops: that a call must move and calculate.
        waits: the function waits for the GPU itself, so that no graph can hold it: a round is a call.
    """
    cases = rotating(case, device)
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    info: dict[str, Any] = {"bytes": bytes, "calls": 1, "copy_rate": copy_rate(device.type, threads)}
    if flops:
        dtype = max(tensors_of(case), key=Tensor.numel).dtype
        info |= {"flops": flops, "flop_rate": Chosen.mma_rate or product_rate(device.type, threads, dtype)}
    benchmark.extra_info.update(info)  # before it is timed: what was interrupted is reported, too
    with torch.inference_mode():
        if device.type == "cpu" or waits:
            turn = itertools.cycle(cases)
            call = function if device.type == "cpu" else partial(_finished, function)
            rounds, warm_ups = _rounds(partial(call, **next(turn)))
            benchmark.pedantic(call, setup=lambda: ((), next(turn)), rounds=rounds, warmup_rounds=warm_ups)
        else:
            calls = list(itertools.islice(itertools.cycle(cases), max(GRAPH_CALLS, len(cases))))
            benchmark.extra_info["calls"] = len(calls)
            graph = _graph([partial(function, **one) for one in calls])
            benchmark.pedantic(partial(_finished, graph.replay), rounds=ROUNDS, warmup_rounds=WARM_UPS)


def _rounds(call: Callable[[], Any]) -> tuple[int, int]:
    """How many are timed, and before them not: the references of large sizes take a second a call."""
    start = time.perf_counter()
    call()
    seconds = time.perf_counter() - start
    return (max(FEWEST, min(ROUNDS, int(ROUNDS * SLOW / seconds))), 0) if seconds > SLOW else (ROUNDS, WARM_UPS)


def _finished(function: Callable[..., Any], **case: Any) -> None:
    function(**case)
    torch.cuda.synchronize()


def _graph(calls: Sequence[Callable[[], Any]]) -> torch.cuda.CUDAGraph:
    """All calls in one graph, after two of them: what is made once is made then."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for call in calls[:2]:
            call()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for call in calls:
            call()
    return graph


def random_ancestors(num_nodes: int, device: torch.device) -> Tensor:
    """Mask words `[1, num_nodes, W]` of a random tree, deep and wide as drafted ones are."""
    draw = torch.Generator().manual_seed(0)
    seen = torch.zeros(num_nodes, -(-num_nodes // 64) * 64, dtype=torch.int64)
    for node in range(num_nodes):
        if node > 0:
            seen[node] = seen[int(torch.randint((node - 1) // 4, node, (), generator=draw))]
        seen[node, node] = 1
    return (seen.view(1, num_nodes, -1, 64) << torch.arange(64)).sum(dim=-1).to(device)
