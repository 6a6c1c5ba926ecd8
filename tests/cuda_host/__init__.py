"""CUDA kernels on a CPU: a test instrument that compiles `csrc/cuda/NAME.cu` for the host and executes it.

The kernels' own sources are compiled by g++ against `include/cuda/{launch,ptx}.cuh`, which replace the headers of the
same name. Each thread of a block is a fiber; blocks run one after the other. What a test does:

    from cuda_host import byte_strides, run_kernel, same_in_every_schedule

    def test_append_kv(schedules):                      # fixture: orders of threads, moments at which cp.async lands
        def run(schedule):
            ours = ...                                  # fresh outputs, poisoned
            run_kernel("append_kv", schedule, k=k, ..., cache=byte_strides(k_cache), batch=2, ...)
            return [ours]
        (ours,) = same_in_every_schedule(run, schedules)  # bit for bit, or an AssertionError

`run_kernel` fills the launcher's parameter struct by name, every field of it: tensors become pointers, None is null,
a dtype is a DType, a tuple a nested struct. Arguments between the parameters and the stream follow the schedule, in
order: workspaces as tensors, plans by `make_struct("TreeAttentionPlan", field=...)`, numbers. A broken rule (block.cpp
has them all) raises KernelError with a text that names the line.

The plain build sees no access outside of memory. `test_sanitizers.py` runs every `test_NAME.py` again, in a process of
its own, under AddressSanitizer + UBSan ("asan") and under ThreadSanitizer ("tsan", the race check), which are about ten
times slower: `sweep(cases, sanitized=fewer)` cuts a test's cases there. By hand, with the flavour's name:

    python -m cuda_host asan tests/cuda/test_append_kv.py -k 64       # from the folder tests/, or PYTHONPATH=tests

Tensors passed under "asan" are watched to their last byte if each is an allocation of its own, so do not cut outputs
out of wider buffers in every case. What it cannot see: races between blocks, and a mistake in ldmatrix or mma that the
kernel and `ptx.cpp` share (`test_vocabulary.py` compares those with a device).
"""

from __future__ import annotations

from cuda_host.build import CSRC, FLAVOUR, FLAVOURS, MissingToolsError, build, check_tools, environment, pytest_command
from cuda_host.run import (
    DEFAULT_SCHEDULES,
    FULL_SCHEDULES,
    KernelError,
    Schedule,
    byte_strides,
    make_struct,
    run_file,
    run_file_on_device,
    run_kernel,
    same_in_every_schedule,
    sweep,
)

__all__ = [
    "CSRC",
    "DEFAULT_SCHEDULES",
    "FLAVOUR",
    "FLAVOURS",
    "FULL_SCHEDULES",
    "KernelError",
    "MissingToolsError",
    "Schedule",
    "build",
    "byte_strides",
    "check_tools",
    "environment",
    "make_struct",
    "pytest_command",
    "run_file",
    "run_file_on_device",
    "run_kernel",
    "same_in_every_schedule",
    "sweep",
]
