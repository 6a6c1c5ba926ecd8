"""Cycles as CUDA graphs: captured once a tree, replayed without a decision of the host inside.

Between two calls of `generate` a cycle is kept with its buffers and its graphs (`vispec.cycles`). What cannot be
captured runs as it is, and says so.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from vispec.placement import why_not_recorded

# fields of text configs with experts, whose choice of experts makes the host wait
EXPERT_FIELDS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")

_enabled = True


@contextmanager
def no_capture() -> Iterator[None]:
    """Inside, cycles run without CUDA graphs: to compare, or to look for an error."""
    global _enabled
    before, _enabled = _enabled, False
    try:
        yield
    finally:
        _enabled = before


class Graph(Protocol):
    """Work that was captured."""

    def replay(self) -> Tensor:
        """Do it again, on the current stream; the output is in the same place each time."""


Capture = Callable[[Callable[[], Tensor]], Graph]  # goes through the work without doing it

_void: list[torch.cuda.CUDAGraph] = []  # captures that failed: torch's allocator still asks them


class Replayer:
    """Runs cycles: the first one of a tree as it is, which warms it up, the second is captured, all others replayed."""

    def __init__(self, new_capture: Callable[[], Capture]) -> None:
        self.new_capture = new_capture
        self.capture = new_capture()
        self.graphs: dict[Hashable, Graph] = {}
        self.warm: set[Hashable] = set()
        self.version: Hashable = None
        self.failed = False

    def run(
        self,
        key: Hashable,
        version: Hashable,
        work: Callable[[], Tensor],
        timed: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> Tensor:
        """What `work` returns.

        Args:
            key: what the work depends on beside its tensors' contents.
            version: another one than before: tensors were replaced, so all graphs are void.
            work: changes its tensors in place.
            timed: entered around a replay.
        """
        if version != self.version:
            self.forget()
            self.version = version
        if key not in self.warm or self.failed:
            self.warm.add(key)
            return work()
        if key not in self.graphs:
            try:
                self.graphs[key] = self.capture(work)
            except RuntimeError as error:
                self.failed = True
                self.forget()
                warnings.warn(f"vispec: cycles run without CUDA graphs, capturing failed: {error}", stacklevel=2)
                return work()
        with timed():
            return self.graphs[key].replay()

    def forget(self) -> None:
        """Drop all graphs and their memory; what changed is run once as it is before it is captured again."""
        self.graphs.clear()
        self.warm.clear()
        self.capture = self.new_capture()  # a memory pool ends with its last graph


@dataclass(frozen=True)
class CapturedWork:
    """A CUDA graph and the tensor that each replay writes."""

    graph: torch.cuda.CUDAGraph
    output: Tensor

    def replay(self) -> Tensor:
        self.graph.replay()
        return self.output


class CudaCapture:
    """Captures on a stream of its own; its graphs share one memory pool, as they never run at the same time.

    It is of the device that is current when it first captures, and of no use after its last graph is gone.
    """

    def __init__(self) -> None:
        self.pool: Any = None
        self.stream: torch.cuda.Stream | None = None

    def __call__(self, work: Callable[[], Tensor]) -> CapturedWork:
        if self.stream is None:  # one for all: memory is shared among the graphs of a stream
            self.pool, self.stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()
        self.stream.wait_stream(torch.cuda.current_stream())
        try:
            return self._record(work, self.pool)
        except BaseException:
            # torch's random numbers stay in capture mode after a failure; a capture that succeeds ends that
            with contextlib.suppress(RuntimeError):
                self._record(lambda: torch.zeros(1, device="cuda"), torch.cuda.graph_pool_handle())
            raise

    def _record(self, work: Callable[[], Tensor], pool: Any) -> CapturedWork:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(self.stream):
            try:
                # thread_local: what other threads allocate meanwhile is not forbidden
                graph.capture_begin(pool=pool, capture_error_mode="thread_local")
                output = work()
                graph.capture_end()
            except BaseException:
                with contextlib.suppress(RuntimeError):  # it is void, but the stream leaves its capture mode
                    graph.capture_end()
                _void.append(graph)
                raise
        return CapturedWork(graph, output)


def why_not(model: PreTrainedModel) -> str | None:
    """Why cycles of this target are not captured, or None."""
    if not _enabled:
        return "vispec.graphs.no_capture"
    reason = why_not_recorded(model)
    if reason is not None:
        return reason
    config = model.config.get_text_config()
    experts = next((name for name in EXPERT_FIELDS if getattr(config, name, None)), None)
    if experts is not None:
        return f"the target has experts ({experts}), the host waits for their choice"
    adapted = next(
        (name for name, module in model.named_modules() if type(module).__module__.startswith("peft.")), None
    )
    return None if adapted is None else f"{adapted} has an adapter, which may be switched between two cycles"


def fingerprint(model: PreTrainedModel) -> Hashable:
    """Changes where weights moved to other memory, so that graphs would read the wrong place."""
    tensors = (*model.parameters(), *model.buffers())
    return torch.is_inference_mode_enabled(), tuple(tensor.data_ptr() for tensor in tensors)
