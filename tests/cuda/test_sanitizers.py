"""Every kernel's tests once more, under AddressSanitizer + UBSan and under ThreadSanitizer: not one report."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from cuda_host import CSRC, environment, pytest_command

HERE = Path(__file__).resolve().parent
NAMES = ["vocabulary", *sorted(source.stem for source in (CSRC / "cuda").glob("*.cu"))]


@pytest.mark.parametrize("marks", ["not release", pytest.param("release", marks=pytest.mark.release)])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("flavour", ["asan", "tsan"])
def test_no_report(flavour: str, name: str, marks: str, tmp_path: Path) -> None:
    command = pytest_command("-m", f"{marks} and not gpu", str(HERE / f"test_{name}.py"))
    done = subprocess.run(command, env=environment(flavour), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-8000:]}"
