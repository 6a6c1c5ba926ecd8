"""Each report of the instrument is made, by a small kernel with that one mistake."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cuda_host import FULL_SCHEDULES, KernelError, Schedule, environment, run_file
from cuda_host.wrong_kernels import SOURCE, run_wrong_kernel

FORWARD = Schedule("forward", "issue")
LINE = r"wrong_kernels\.cu:\d+"
REPORTS = {
    "lane_not_in_mask": rf"{LINE}: __shfl_sync: lane 0 is not in its mask 0xffff0000, in thread \(0, 0, 0\) of block",
    "different_operations": rf"different operations: lane \d+ in __shfl_\w+ of {LINE} with mask 0xffffffff, lane \d+",
    "different_masks": rf"different operations: lane 16 in __shfl_sync of {LINE} with mask 0xffffffff, lane 0 in "
    rf"__shfl_sync of {LINE} with mask 0x0001ffff",
    "source_outside_mask": rf"{LINE}: __shfl_sync: lane 0 reads lane 20, which is outside the mask or has ended",
    "source_has_ended": rf"{LINE}: __shfl_down_sync: lane 29 reads lane 30, which is outside the mask or has ended",
    "barriers_at_different_lines": rf"{LINE}: __syncthreads while other threads wait at the barrier of {LINE}, in ",
    "deadlock": rf"deadlock in block .*\n  2 threads wait at the barrier of {LINE}\n  warp 0: lanes 0 1 2 3 4 6 .* "
    rf"wait in __syncwarp of {LINE} for lanes 5\n  warp 1: lanes 0",
    "misaligned_vector": rf"{LINE}: misaligned or null address 0x",
    "misaligned_copy": rf"{LINE}: cp.async from global memory: the address is not a multiple of 16, in thread \(1, 0, ",
    "misaligned_row": rf"{LINE}: ldmatrix: the address is not a multiple of 16, in thread \(1, 0, 0\)",
    "row_outside_shared_memory": rf"{LINE}: ldmatrix: not in the block's 1000 bytes of shared memory, in thread \(62, ",
    "not_shared": rf"{LINE}: cp.async: not in the block's 1000 bytes of shared memory",
}


@pytest.mark.parametrize("name", REPORTS)
def test_reports(name: str) -> None:
    with pytest.raises(KernelError, match=REPORTS[name]):
        run_wrong_kernel(name, FORWARD)
    assert run_wrong_kernel("both_write", FORWARD).eq(1).all(), "the launch before spoils this one"


def test_what_a_launch_refuses() -> None:
    x = torch.zeros(64)
    with pytest.raises(KernelError, match="the launcher returned cudaError_t 1"):
        run_file(SOURCE, "wrong_kernels", "WrongKernelsParams", FORWARD, kernel=1000, x=x, out=x)
    with pytest.raises(TypeError, match=r"WrongKernelsParams: missing \['out'\], unknown \['y'\]"):
        run_file(SOURCE, "wrong_kernels", "WrongKernelsParams", FORWARD, kernel=0, x=x, y=x)


def wrong_answers(name: str) -> set[tuple[str, str]]:
    """The schedules in which a kernel's answers are wrong; it should give 1 to 64, or 1 everywhere."""
    wrong = set()
    for schedule in FULL_SCHEDULES:
        out = run_wrong_kernel(name, schedule)
        right = torch.arange(64.0) + 1 if name == "missing_wait" else (torch.arange(64) ^ 32) + 1.0
        if not torch.equal(out, torch.ones(64) if name == "early_overwrite" else right):
            wrong.add((schedule.order, schedule.copies))
    return wrong


def test_copies_land_when_the_schedule_says() -> None:
    """A missing wait shows where they land late, an early overwrite where they land early."""
    assert {copies for _, copies in wrong_answers("missing_wait")} == {"wait"}
    assert {copies for _, copies in wrong_answers("early_overwrite")} == {"issue"}


def test_missing_barrier_shows_in_every_order() -> None:
    """Whichever warp runs first reads what the other has not written."""
    assert {order for order, _ in wrong_answers("missing_barrier")} == {"forward", "reverse", "random"}


def test_shared_memory_is_poisoned_in_every_block() -> None:
    for schedule in FULL_SCHEDULES:
        assert run_wrong_kernel("not_initialised", schedule).isnan().all()


SANITIZER_REPORTS = [
    ("asan", "over_shared_memory", rf"AddressSanitizer: use-after-poison(.|\n)*WRITE of size 4(.|\n)*{LINE}"),
    ("asan", "over_global_memory", rf"AddressSanitizer: heap-buffer-overflow(.|\n)*WRITE of size 4(.|\n)*{LINE}"),
    ("asan", "misaligned_vector", rf"{LINE}:\d+: runtime error: .* misaligned address"),
    ("tsan", "missing_barrier", rf"ThreadSanitizer: data race(.|\n)*{LINE}"),
    ("tsan", "both_write", rf"ThreadSanitizer: data race(.|\n)*{LINE}"),
    ("tsan", "shuffle_for_a_barrier", rf"ThreadSanitizer: data race(.|\n)*{LINE}"),
]


@pytest.mark.parametrize(("flavour", "name", "report"), SANITIZER_REPORTS, ids=[row[1] for row in SANITIZER_REPORTS])
def test_sanitizers_report(flavour: str, name: str, report: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cuda_host.wrong_kernels", name]
    done = subprocess.run(command, env=environment(flavour), cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    assert re.search(report, done.stderr), done.stderr
