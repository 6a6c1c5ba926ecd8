"""What the kernel benchmarks share: the models' geometries, rotating inputs, and a clock that waits for the device."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Geometry(NamedTuple):
    """Attention of one layer: query heads, key-value heads, head size."""

    num_heads: int
    num_key_value_heads: int
    head_dim: int

    def __str__(self) -> str:
        return f"{self.num_heads}-{self.num_key_value_heads}-{self.head_dim}"


GEOMETRIES = [
    Geometry(3, 3, 64),  # a 24-layer, H = 192 test model
    Geometry(9, 3, 64),  # SmolLM2-135M
    Geometry(28, 4, 128),  # Qwen2.5-VL-7B
    Geometry(32, 32, 128),  # LLaVA-1.5-7B, and its drafter
]

MAX_CASES, MAX_BYTES = 64, 1 << 30


def case_bytes(case: dict[str, Any]) -> int:
    """Memory that the tensors of a case take."""
    tensors = itertools.chain.from_iterable(v if isinstance(v, list) else [v] for v in case.values())
    return sum(t.numel() * t.element_size() for t in tensors if torch.is_tensor(t))


def copy_of(case: dict[str, Any]) -> dict[str, Any]:
    """A case with the same numbers elsewhere in memory."""

    def copy(value: Any) -> Any:
        if isinstance(value, list):
            return [copy(v) for v in value]
        return value.clone() if torch.is_tensor(value) else value

    return {name: copy(value) for name, value in case.items()}


def last_level_cache() -> int:
    """Bytes of the CPU's third-level cache as Linux knows it."""
    entry = Path("/sys/devices/system/cpu/cpu0/cache/index3/size")
    return int(entry.read_text().strip().removesuffix("K")) << 10 if entry.is_file() else 64 << 20


def rotating(case: dict[str, Any], device: torch.device) -> Iterator[dict[str, Any]]:
    """Equal cases in turn, more than the last-level cache holds: in a model the other layers come between two calls."""
    cache = 64 << 20 if device.type == "cuda" else last_level_cache()
    size = case_bytes(case)
    count = min(MAX_CASES, max(2, math.ceil(2 * cache / size)), max(2, MAX_BYTES // size))
    return itertools.cycle([case, *(copy_of(case) for _ in range(count - 1))])


def run(benchmark: Any, function: Callable[..., Any], case: dict[str, Any], device: torch.device, **info: Any) -> None:
    """Time `function(**case)` over rotating copies; `info` is stored beside the time."""
    cases = rotating(case, device)

    def call(**kwargs: Any) -> None:
        function(**kwargs)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    benchmark.extra_info.update(info)
    with torch.inference_mode():
        benchmark.pedantic(call, setup=lambda: ((), next(cases)), rounds=30, warmup_rounds=5)


def random_ancestors(num_nodes: int, device: torch.device) -> Tensor:
    """Mask words `[1, num_nodes, W]` of a random tree, deep and wide as drafted ones are."""
    draw = torch.Generator().manual_seed(0)
    seen = torch.zeros(num_nodes, -(-num_nodes // 64) * 64, dtype=torch.int64)
    for node in range(num_nodes):
        if node > 0:
            seen[node] = seen[int(torch.randint((node - 1) // 4, node, (), generator=draw))]
        seen[node, node] = 1
    return (seen.view(1, num_nodes, -1, 64) << torch.arange(64)).sum(dim=-1).to(device)
