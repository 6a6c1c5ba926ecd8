"""The command `vispec`: info, and what it says when something is wrong."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers

import vispec
from vispec import _C
from vispec.cli import main
from vispec.target import FAMILIES

PACKAGE = Path(vispec.__file__).parent


@pytest.fixture
def package_copy(tmp_path: Path) -> Path:
    """A folder with the package, but without its operators."""
    shutil.copytree(PACKAGE, tmp_path / "vispec", ignore=shutil.ignore_patterns("_ops*", "__pycache__", "weights"))
    return tmp_path


def run_python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, its output in a pipe; a package in `folder` hides the installed one."""
    return subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False)


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    rows = dict(re.findall(r"^(\S.*?) {2,}(.+)$", capsys.readouterr().out, flags=re.MULTILINE))
    assert rows["vispec"].endswith(f"in {PACKAGE}")
    assert rows["torch"] == torch.__version__
    assert rows["transformers"] == transformers.__version__
    assert rows["Python"].startswith(sys.version.split()[0])
    assert rows["built with"].startswith(_C.build_info()["compiler"])
    assert rows["CPU"].startswith("operators ready")
    assert rows["families"] == ", ".join(FAMILIES)
    assert (rows["GPU"] == "none seen") is not torch.cuda.is_available()
    assert ("is not found" in rows["CUDA stream"]) is (torch.version.cuda is None)


def test_info_says_why_there_are_no_cuda_operators(capsys: pytest.CaptureFixture[str]) -> None:
    info = _C.build_info()
    main(["info"])
    out = capsys.readouterr().out
    if info["cuda"]:
        assert " ".join(info["cuda_archs"]) in out
    else:
        assert f"CUDA operators: {info['cuda_reason']}" in out


def test_missing_operators_are_explained(package_copy: Path) -> None:
    code = "import vispec; from vispec.cli import main; print(main(['info']), main(['demo'])); vispec.generate"
    run = run_python(package_copy, "-c", code)
    reason = "vispec's compiled operators are missing"
    assert f"\nMissing:\n  {reason}" in run.stdout
    assert run.stdout.endswith("1 1\n")
    assert run.stderr.startswith(f"vispec demo: {reason}")
    assert f"ImportError: {reason}" in run.stderr


def test_broken_operators_are_explained(package_copy: Path) -> None:
    (package_copy / "vispec/_ops.abi3.so").write_bytes(b"not a library")
    run = run_python(package_copy, "-m", "vispec", "info")
    assert run.returncode == 1
    assert run.stderr == ""
    assert re.search(r"\nMissing:\n  .*_ops.abi3.so", run.stdout)


def test_missing_package_of_the_demo_is_named(tmp_path: Path) -> None:
    code = "import sys; sys.modules['rich'] = None; from vispec.cli import main; sys.exit(main(['demo']))"
    run = run_python(tmp_path, "-c", code)
    assert run.returncode == 1
    assert run.stderr.startswith("vispec demo: ")
    assert run.stderr.endswith('`pip install ".[demo]"` brings it\n')


@pytest.mark.parametrize(
    ("arguments", "words"), [(["--version"], "vispec "), (["--help"], "demo"), (["demo", "-h"], "--image")]
)
def test_help(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 0
    assert words in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "COMMAND"),
        (["sing"], "invalid choice: 'sing'"),
        (["demo", "--max-new-tokens", "0"], "expected a whole number from 1, got '0'"),
        (["demo", "--threads", "many"], "expected a whole number from 1, got 'many'"),
        (["demo", "--tree", "3,8"], "expected three whole numbers D,K,N or auto, got '3,8'"),
    ],
)
def test_bad_arguments(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert words in capsys.readouterr().err
