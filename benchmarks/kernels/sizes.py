"""Sizes of the kernel benchmarks, of the models in `vispec.bench.geometries`. Read after the device is chosen."""

from __future__ import annotations

from typing import TypeVar

import torch

from kernel_bench import Chosen
from vispec.bench.geometries import GEOMETRIES

T = TypeVar("T")


def per_device(cpu: T, cuda: T) -> T:
    """What the device of this run is measured with."""
    return cuda if Chosen.device == "cuda" else cpu


NAMES = per_device(("tiny", "Qwen2.5-VL-7B", "LLaVA-1.6-7B"), ("Qwen2.5-VL-7B", "Qwen3-VL-8B", "LLaVA-1.6-7B"))
MODELS = {name: GEOMETRIES[name] for name in NAMES}
DTYPES = per_device((torch.float32, torch.bfloat16), (torch.bfloat16,))


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
