"""Every kernel's tests once more, under AddressSanitizer + UBSan and under ThreadSanitizer: not one report."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cuda_host import CSRC, environment, pytest_command

HERE = Path(__file__).resolve().parent
NAMES = ["vocabulary", *sorted(source.stem for source in (CSRC / "cuda").glob("*.cu"))]


@pytest.mark.parametrize("marks", ["not release", pytest.param("release", marks=pytest.mark.release)])
@pytest.mark.parametrize("name", NAMES)
def test_no_report(name: str, marks: str, tmp_path: Path) -> None:
    command = pytest_command("-m", f"{marks} and not gpu", str(HERE / f"test_{name}.py"))

    def run(flavour: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env=environment(flavour), cwd=tmp_path, capture_output=True, text=True)

    with ThreadPoolExecutor(max_workers=2) as pool:
        for flavour, done in zip(("asan", "tsan"), pool.map(run, ("asan", "tsan")), strict=True):
            assert done.returncode == 0, f"{flavour}: {done.stdout[-4000:]}\n{done.stderr[-8000:]}"
