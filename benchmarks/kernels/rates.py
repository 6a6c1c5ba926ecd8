"""What the machine does at best, measured in the same run: bytes of a copy and flops of a matrix product a second."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

SIZE = {"cpu": 512, "cuda": 8192}  # of the square matrices
CHUNK = {"cpu": 16 << 20, "cuda": 1 << 30}  # bytes of a copy: a few milliseconds, which other work rarely interrupts
TRIES = 20


def last_level_cache() -> int:
    """Bytes of the CPU's third-level cache as Linux knows it."""
    entry = Path("/sys/devices/system/cpu/cpu0/cache/index3/size")
    return int(entry.read_text().strip().removesuffix("K")) << 10 if entry.is_file() else 64 << 20


@functools.cache
def copy_rate(device: str, threads: int) -> float:
    """Bytes read and written a second by copies in turn that no cache holds; `threads` are set by the caller."""
    size = CHUNK[device]
    count = max(2, -(-last_level_cache() // size)) if device == "cpu" else 2
    sources, targets = (torch.ones(count, size, dtype=torch.uint8, device=device) for _ in range(2))
    copies = [partial(target.copy_, source) for target, source in zip(targets, sources, strict=True)]
    return 2 * size / _fastest(copies, device)


@functools.cache
def product_rate(device: str, threads: int, dtype: torch.dtype) -> float:
    """Flops a second of a matrix product in this dtype."""
    size = SIZE[device]
    a, b = (torch.ones(size, size, dtype=dtype, device=device) for _ in range(2))
    return 2 * size**3 / _fastest([partial(torch.matmul, a, b)] * TRIES, device)


def _fastest(calls: Sequence[Callable[[], object]], device: str) -> float:
    """Seconds of the fastest call in the second round: the rate is the machine's best."""
    times = []
    for call in (*calls, *calls):
        _wait(device)
        start = time.perf_counter()
        call()
        _wait(device)
        times.append(time.perf_counter() - start)
    return min(times[len(calls) :])


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
