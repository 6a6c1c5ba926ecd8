"""Mistakes planted in copies of the kernels' sources are caught by the kernels' own tests."""

from __future__ import annotations

import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from cuda_host import CSRC, environment, pytest_command

HERE = Path(__file__).resolve().parent
RACE = r"ThreadSanitizer: data race"
OVERFLOW = r"AddressSanitizer: (heap-buffer-overflow|use-after-poison)"
WRONG = r"E +(AssertionError|.*KernelError)"


@dataclass(frozen=True)
class Bug:
    """In `file`, `old` becomes `new`; the tests of `operator` in that flavour say `report`."""

    operator: str
    name: str
    file: str
    old: str
    new: str
    flavour: str
    report: str


BUGS = [
    Bug(
        "accept_path",
        "missing barrier",
        "accept_path.cu",
        "__syncwarp();  // every lane reads what the others have brought",
        "",
        "tsan",
        RACE,
    ),
    Bug(
        "accept_path",
        "first child of a word",
        "accept_path.cu",
        "int first = (node + 1) / kWarp * kWarp",
        "int first = (node + kWarp) / kWarp * kWarp",
        "plain",
        WRONG,
    ),
    Bug("append_kv", "tail", "append_kv.cu", "i < bytes;", "i <= bytes;", "asan", OVERFLOW),
    Bug("append_kv", "rows that fit", "append_kv.cu", "row >= p.capacity", "row + 1 >= p.capacity", "plain", WRONG),
    Bug(
        "build_tree",
        "missing barrier",
        "build_tree.cu",
        "__syncthreads();  // walks upwards read all parents",
        "",
        "plain",
        WRONG,
    ),
    Bug("build_tree", "places", "build_tree.cu", "(1u << lane) - 1", "(2u << lane) - 1", "plain", WRONG),
    Bug(
        "compact_kv",
        "tail",
        "compact_kv.cu",
        "vector >= layer.num_vectors",
        "vector > layer.num_vectors",
        "asan",
        OVERFLOW,
    ),
    Bug("compact_kv", "finished sequence", "compact_kv.cu", "max(path_length(paths, seq), 0)", "1", "plain", WRONG),
    Bug(
        "expand_frontier",
        "missing barrier",
        "expand_frontier.cu",
        "__syncthreads();  // all candidates are there",
        "",
        "plain",
        WRONG,
    ),
    Bug(
        "select_tokens",
        "missing barrier",
        "select_tokens.cu",
        "__syncthreads();  // every warp's key is there",
        "",
        "plain",
        WRONG,
    ),
    Bug(
        "tree_attention",
        "missing wait",
        "tree_attention.cu",
        "free_stage < 0 ? stages - 1 : stages - 2",
        "stages - 1",
        "plain",
        WRONG,
    ),
    Bug(
        "tree_attention",
        "missing barrier",
        "tree_attention.cu",
        "__syncthreads();  // the tile is there for all, and the one before it has been read",
        "",
        "plain",
        WRONG,
    ),
    Bug(
        "tree_attention",
        "mask bit",
        "tree_attention_state.cuh",
        "begin) >> thread_column()",
        "begin) >> (thread_column() + 1)",
        "plain",
        WRONG,
    ),
]


@pytest.mark.parametrize("operator", sorted({bug.operator for bug in BUGS}))
def test_bugs_are_caught(operator: str, tmp_path: Path) -> None:
    bugs = [bug for bug in BUGS if bug.operator == operator]
    with ThreadPoolExecutor(max_workers=2) as pool:
        for bug, output in zip(bugs, pool.map(partial(output_with, tmp_path), bugs), strict=True):
            assert re.search(bug.report, output), f"{bug.name} is not caught: {output[-8000:]}"


def output_with(folder: Path, bug: Bug) -> str:
    """What the operator's tests say about a copy with that bug."""
    folder = folder / bug.name.replace(" ", "_")
    shutil.copytree(CSRC, folder / "csrc")
    file = folder / "csrc" / "cuda" / bug.file
    source = file.read_text()
    assert source.count(bug.old) == 1, f"{bug.file} has changed: {bug.old!r} is there {source.count(bug.old)} times"
    file.write_text(source.replace(bug.old, bug.new))
    command = pytest_command("-m", "not release and not gpu", str(HERE / f"test_{bug.operator}.py"))
    folders = {"VISPEC_HOST_CSRC": str(folder / "csrc"), "VISPEC_HOST_BUILD": str(folder / "build")}
    env = {**environment(bug.flavour), **folders}
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True)
    assert done.returncode != 0, f"{bug.name}: the tests pass"
    return done.stdout + done.stderr
