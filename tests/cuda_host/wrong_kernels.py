"""Runs one kernel of `tests/cuda/wrong_kernels.cu`: `python -m cuda_host.wrong_kernels NAME`."""

from __future__ import annotations

import re
import sys

import torch
from torch import Tensor

from cuda_host.build import HERE
from cuda_host.run import Schedule, run_file

SOURCE = HERE.parent / "cuda" / "wrong_kernels.cu"


def run_wrong_kernel(name: str, schedule: Schedule) -> Tensor:
    """`name` in two blocks of 64 threads; its output of 64 floats."""
    table = re.search(r"kKernels\[\][^=]*= {(.*?)}", SOURCE.read_text(), re.DOTALL)
    assert table is not None
    kernel = re.findall(r"\w+", table[1]).index(name)
    x, out = torch.arange(64.0) + 1, torch.full((64,), torch.nan)
    run_file(SOURCE, "wrong_kernels", "WrongKernelsParams", schedule, kernel=kernel, x=x, out=out)
    return out


if __name__ == "__main__":
    print(run_wrong_kernel(sys.argv[1], Schedule("forward", "issue")).tolist())
