"""When tokens come."""

from __future__ import annotations

import time

from torch import Tensor
from transformers.generation.streamers import BaseStreamer


class Arrivals(BaseStreamer):
    """A streamer that notes times.

    Attributes:
        times: of each new token, as `time.perf_counter` has it; those that come together have one time.
    """

    def __init__(self) -> None:
        self.times: list[float] = []
        self._has_prompt = False

    def put(self, value: Tensor) -> None:
        """Called by `generate` with the prompt, then with one new token or several."""
        now = time.perf_counter()
        if self._has_prompt:
            self.times += [now] * value.numel()
        self._has_prompt = True

    def end(self) -> None:
        """Nothing comes any more."""
