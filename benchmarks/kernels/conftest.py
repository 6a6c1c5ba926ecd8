"""Fixtures of the kernel benchmarks, and results small enough to commit.

pytest benchmarks/kernels/bench_tree_attention.py --benchmark-json=benchmarks/results/tree_attention_cpu.json

On a machine that does other work too, `-k 1-thread --benchmark-timer=time.thread_time` counts CPU time instead.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from vispec import _C

DEVICES = ["cuda"] if torch.cuda.is_available() else ["cpu"]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device(request.param)


@pytest.fixture(params=[1, 2], ids=["1-thread", "2-threads"])
def threads(request: pytest.FixtureRequest, device: torch.device) -> Iterator[int]:
    """Threads of the CPU; a GPU is timed once."""
    if device.type == "cuda" and request.param > 1:
        pytest.skip("the GPU does the work")
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def processor() -> str:
    """The CPU's name as Linux knows it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: list[Any], output_json: dict[str, Any]) -> None:
    """Keep the median of each peer, side by side, and what it was measured on."""
    groups: dict[str, dict[str, Any]] = {}
    for entry in output_json["benchmarks"]:
        info, params = entry["extra_info"], entry["params"]
        group = groups.setdefault(entry["group"], {"group": entry["group"], **info, "median_us": {}})
        group["median_us"][params["peer"]] = round(entry["stats"]["median"] * 1e6, 1)
    machine = {
        "cpu": processor(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "compiler": _C.build_info()["compiler"],
        "python": platform.python_version(),
        "timer": output_json["benchmarks"][0]["options"]["timer"],
        "commit": output_json["commit_info"]["id"],
        "date": output_json["datetime"],
    }
    output_json.clear()
    output_json.update(machine=machine, rounds=30, results=list(groups.values()))
