"""What speculation did in one call, and how long each part of it took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vispec.tree import TreeConfig

STAGES = ("prefill", "draft", "verify", "accept", "captured", "other")


@dataclass
class Speculation:
    """What speculation did in one call.

    Attributes:
        num_cycles: Cycles run; 0 where prefill's own token was enough.
        num_accepted: int32 `[num_cycles, B]`, accepted draft tokens as verified, before cutting at a stop; -1 once a
            sequence has finished. Its mean is the paper's tau.
        num_drafted: int32 `[B]`, drafted nodes in all.
        num_emitted: int32 `[B]`, tokens really returned, prefill's first one included.
        seconds: time by stage: prefill (target and drafter), draft, verify, accept (with compaction); captured, whole
            cycles that a GPU replayed as graphs; other, what is left of the wall time.
        trees: the tree of each cycle, None where nothing was drafted.
    """

    num_cycles: int
    num_accepted: Tensor
    num_drafted: Tensor
    num_emitted: Tensor
    seconds: dict[str, float] = field(default_factory=dict)
    trees: list[TreeConfig | None] = field(default_factory=list)

    @property
    def mean_accepted(self) -> float:
        """Mean of `num_accepted` over the cycles of unfinished sequences, the paper's tau; 0.0 without a cycle."""
        counted = self.num_accepted[self.num_accepted >= 0]
        return counted.float().mean().item() if counted.numel() else 0.0


class Clock:
    """Adds up time by stage: the host's, or on a GPU the device's own."""

    def __init__(self, device: torch.device) -> None:
        self.start = time.perf_counter()
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.is_cuda = device.type == "cuda"
        self.events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        if not self.is_cuda:
            start = time.perf_counter()
            yield
            self.seconds[name] += time.perf_counter() - start
        elif torch.cuda.is_current_stream_capturing():  # the replays will be timed
            yield
        else:
            start_event, end_event = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start_event.record()
            yield
            end_event.record()
            self.events.append((name, start_event, end_event))

    def finish(self) -> dict[str, float]:
        """To be called once; waits for the device."""
        if self.events:
            torch.cuda.synchronize()
        for name, start_event, end_event in self.events:
            self.seconds[name] += start_event.elapsed_time(end_event) * 1e-3
        self.seconds["other"] = max(0.0, time.perf_counter() - self.start - sum(self.seconds.values()))
        return self.seconds
