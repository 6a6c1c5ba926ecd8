"""What happens in one cycle and when, by torch's profiler: on a CPU the operators, on a GPU its kernels."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch.profiler import ProfilerActivity, profile

from vispec.bench.methods import Method

NEW_TOKENS = 96  # many cycles, of which the shortest is shown: others may have waited for other programs
# by which operators (and, on a GPU, kernels of the same name) a cycle is cut into stages
FIRST_OF_DRAFT, LAST_OF_DRAFT, FIRST_OF_ACCEPT, LAST_OF_CYCLE = (
    "expand_frontier",
    "build_tree",
    "select_tokens",
    "compact_kv",
)
LANES = {  # words in the names of operators and kernels; what has none is "other"
    "matrix products": ("linear", "matmul", "gemm", "gemv", "addmm", "cutlass", "nvjet"),
    "attention": ("attention", "fmha", "flash"),
    "vispec's other operators": (
        FIRST_OF_DRAFT,
        LAST_OF_DRAFT,
        FIRST_OF_ACCEPT,
        LAST_OF_CYCLE,
        "accept_path",
        "append",
    ),
}
OTHER = "norms, activations, copies"


@dataclass(frozen=True)
class Span:
    """One operator or kernel; times in milliseconds from the start of the cycle."""

    stage: str
    lane: str
    start: float
    end: float


def trace_cycle(method: Method, inputs: Mapping[str, Any]) -> list[Span]:
    """The shortest cycle of a greedy text, by this method of ours with a fixed tree; nothing if there was none.

    A cycle starts where the last one's `compact_kv` ended: the draft reads what was accepted, then drafts.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's words are not the user's
    options = {"do_sample": False, "max_new_tokens": NEW_TOKENS}
    is_cuda = inputs["input_ids"].device.type == "cuda"
    for _ in range(2):  # compiled, captured
        method.generate(inputs, **options)
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_cuda else [])]) as found:
        method.generate(inputs, **options)
    wanted = "CUDA" if is_cuda else "CPU"
    events = [e for e in found.events() or [] if e.device_type.name == wanted and (is_cuda or e.cpu_parent is None)]
    spans = sorted((e.time_range.start * 1e-3, e.time_range.end * 1e-3, str(e.name)) for e in events)
    return shortest_cycle(spans)


def shortest_cycle(spans: list[tuple[float, float, str]]) -> list[Span]:
    """Of operators in order: start, end and name."""
    cycles: list[list[tuple[float, float, str]]] = []
    current: list[tuple[float, float, str]] = []
    for span in spans:
        current.append(span)
        if LAST_OF_CYCLE in span[2]:
            if any(LAST_OF_DRAFT in name for _, _, name in current):  # else a second launch of the same
                cycles.append(current)
            current = []
    whole = cycles[1:]  # before the first one the prompt was read
    return _staged(min(whole, key=lambda found: found[-1][1] - found[0][0])) if whole else []


def _staged(cycle: list[tuple[float, float, str]]) -> list[Span]:
    origin, stage = cycle[0][0], "update"
    found = []
    for start, end, name in cycle:
        if FIRST_OF_DRAFT in name:
            stage = "draft"
        elif FIRST_OF_ACCEPT in name:
            stage = "accept"
        found.append(Span(stage, _lane(name), start - origin, end - origin))
        if LAST_OF_DRAFT in name:
            stage = "verify"
    return found


def _lane(name: str) -> str:
    return next((lane for lane, words in LANES.items() if any(word in name.lower() for word in words)), OTHER)
