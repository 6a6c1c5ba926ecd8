"""Fixtures of the kernel benchmarks, a table of peers side by side, and results small enough to commit.

pytest benchmarks/kernels/bench_tree_attention.py --benchmark-json=FILE

On a machine that does other work too, `-k 1-thread --benchmark-timer=time.thread_time` counts CPU time instead.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from kernel_bench import ROUNDS, Chosen
from shares import measured, rates, table
from vispec import _C
from vispec.machine import cpu_name


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("vispec")
    group.addoption("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    group.addoption("--flex", action="store_true", help="FlexAttention too, which compiles for seconds a size")
    group.addoption(
        "--mma-tflops",
        type=float,
        help="of the instruction that our kernels use, as benchmarks/gpu/mma_rate.cu prints it",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Before the benchmarks are read."""
    Chosen.device = config.getoption("--device") or Chosen.device
    Chosen.has_flex = config.getoption("--flex")
    if Chosen.device == "cuda" and not torch.cuda.is_available():
        raise pytest.UsageError("--device cuda: torch finds no GPU")
    tflops = config.getoption("--mma-tflops")
    Chosen.mma_rate = None if tflops is None else tflops * 1e12
    config.option.benchmark_quiet = True  # its own table knows neither bytes nor how many calls a round has


@pytest.fixture
def device() -> torch.device:
    """The one of this run."""
    return torch.device(Chosen.device)


@pytest.fixture(params=[1, 2], ids=["1-thread", "2-threads"])
def threads(request: pytest.FixtureRequest, device: torch.device) -> Iterator[int]:
    """Threads of the CPU; a GPU is timed once."""
    if device.type == "cuda" and request.param > 1:
        pytest.skip("the GPU does the work")
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Peers of one size below each other: time, bytes and flops a second, and their shares of what the machine does."""
    entries = [
        {"group": b.group, "params": b.params, "extra_info": b.extra_info, "stats": {"median": b.stats.median}}
        for b in config._benchmarksession.benchmarks  # type: ignore[attr-defined]
        if not b.has_error
    ]
    for line in table(measured(entries)):
        terminalreporter.write_line(line)


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: list[Any], output_json: dict[str, Any]) -> None:
    """Keep the median of each peer, side by side, and what it was measured on."""
    entries = output_json["benchmarks"]
    machine = {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if Chosen.device == "cuda" else None,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "compiler": _C.build_info()["compiler"],
        "python": platform.python_version(),
        "timer": entries[0]["options"]["timer"],
        "commit": output_json["commit_info"]["id"],
        "date": output_json["datetime"],
        **rates(entries),
    }
    output_json.clear()
    output_json.update(machine=machine, most_rounds=ROUNDS, results=measured(entries))
