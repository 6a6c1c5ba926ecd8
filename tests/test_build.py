"""The build: what the libraries are, what they say about themselves, and setup.py's decisions as pure functions."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from vispec import _C
from vispec.ops import LIBRARY

ROOT = Path(__file__).resolve().parent.parent
OPERATORS = [
    "accept_path",
    "append_kv",
    "build_tree",
    "compact_kv",
    "expand_frontier",
    "select_tokens",
    "tree_attention",
]


@pytest.fixture(scope="module")
def build() -> ModuleType:
    """setup.py as a module: it builds only when it runs as a script."""
    spec = importlib.util.spec_from_file_location("vispec_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_build_info_is_whole() -> None:
    info = _C.build_info()
    assert set(info) == {"torch", "torch_cuda", "compiler", "cuda", "cuda_reason", "nvcc", "cuda_archs"}
    assert tuple(map(int, info["torch"].split(".")[:2])) >= (2, 10)
    assert info["compiler"].split()[0] in ("gcc", "clang")
    if info["cuda"]:
        assert info["nvcc"]
        assert info["cuda_archs"]
    else:
        assert info["cuda_reason"], "without CUDA operators the build must say why"
        assert not info["cuda_archs"]


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_are_registered(name: str) -> None:
    operator = getattr(torch.ops.vispec, name)
    assert operator.overloads() == ["default"]
    keys = ["CPU"] + (["CUDA"] if _C.build_info()["cuda"] else [])
    for key in keys:
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"vispec::{name}", key), key


def test_library_needs_torch_by_name_and_no_python() -> None:
    """Without libtorch.so among its needs the library would not find the CUDA stream on a CUDA torch."""
    data = LIBRARY.read_bytes()
    assert b"\0libtorch.so\0" in data
    assert b"\0libtorch_cpu.so\0" in data
    assert b"libtorch_python" not in data
    assert b"libpython" not in data


def test_cuda_stream_is_found_where_torch_has_cuda() -> None:
    assert _C.has_cuda_stream(str(LIBRARY)) is (torch.version.cuda is not None)
    assert _C.has_cuda_stream("/nowhere/_ops.abi3.so") is None


def test_missing_library_says_what_to_do(tmp_path: Path) -> None:
    shutil.copytree(LIBRARY.parent / "ops", tmp_path / "vispec/ops", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "vispec/__init__.py").touch()  # without one the installed package would be found first
    run = subprocess.run(
        [sys.executable, "-c", "import vispec.ops"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode != 0
    assert "ImportError: vispec's compiled operators are missing" in run.stderr
    assert "pip install ." in run.stderr


def test_auto_follows_nvcc_sources_and_torch(build: ModuleType) -> None:
    torch_13, cpu_torch = build.Torch("", "2.13.0+cu130", "13.0"), build.Torch("", "2.13.0+cpu", None)
    plan = build.plan_cuda("auto", True, "/cuda/bin/nvcc", "13.0", "8.0;9.0+PTX", torch_13)
    assert plan == build.Cuda(True, "", "/cuda/bin/nvcc", "13.0", ["8.0", "9.0+PTX"])
    without = build.plan_cuda("auto", True, None, "", "8.0", torch_13)
    assert not without.build
    assert "nvcc was not found" in without.reason
    assert "no CUDA sources" in build.plan_cuda("auto", False, "/cuda/bin/nvcc", "13.0", "8.0", torch_13).reason
    useless = build.plan_cuda("auto", True, "/cuda/bin/nvcc", "13.0", "8.0", cpu_torch)
    assert not useless.build
    assert "2.13.0+cpu is a build without CUDA" in useless.reason
    assert build.plan_cuda("1", True, "/cuda/bin/nvcc", "13.0", "8.0", cpu_torch).build


def test_cuda_can_be_refused_and_required(build: ModuleType) -> None:
    torch_13 = build.Torch("", "2.13.0+cu130", "13.0")
    assert build.plan_cuda("0", True, "/cuda/bin/nvcc", "13.0", "8.0", torch_13) == build.Cuda(False, "VISPEC_CUDA=0")
    assert build.plan_cuda("1", True, "/cuda/bin/nvcc", "13.0", "8.0", torch_13).build
    with pytest.raises(SystemExit, match="VISPEC_CUDA=1, but nvcc was not found"):
        build.plan_cuda("1", True, None, "", "8.0", torch_13)
    with pytest.raises(SystemExit, match="VISPEC_CUDA=1, but this version of vispec has no CUDA sources"):
        build.plan_cuda("1", False, "/cuda/bin/nvcc", "13.0", "8.0", torch_13)
    with pytest.raises(SystemExit, match="VISPEC_CUDA: expected 0, 1 or auto, got 'yes'"):
        build.plan_cuda("yes", True, None, "", "8.0", torch_13)


def test_another_cuda_than_torchs_is_mentioned(build: ModuleType) -> None:
    torch_12 = build.Torch("", "2.11.0+cu128", "12.8")
    assert "a driver for CUDA 13" in build.plan_cuda("auto", True, "nvcc", "13.0", "8.0", torch_12).reason
    assert build.plan_cuda("auto", True, "nvcc", "12.9", "8.0", torch_12).reason == ""


def test_architectures(build: ModuleType) -> None:
    assert build.default_archs("13.0") == build.default_archs("12.8") == build.DEFAULT_ARCHS
    assert build.default_archs("12.6") == "8.0;9.0+PTX"
    assert build.parse_archs("8.0;9.0a 12.0+PTX,8.0") == ["8.0", "9.0a", "12.0+PTX"]
    assert build.gencode_flags(["9.0a", "12.0+PTX"]) == [
        "-gencode=arch=compute_90a,code=sm_90a",
        "-gencode=arch=compute_120,code=sm_120",
        "-gencode=arch=compute_120,code=compute_120",
    ]
    assert build.parse_archs(build.DEFAULT_ARCHS)
    for wrong in ("Hopper", "90", ""):
        with pytest.raises(SystemExit, match="TORCH_CUDA_ARCH_LIST: expected"):
            build.parse_archs(wrong)


def test_jobs_are_bounded(build: ModuleType) -> None:
    assert build.num_jobs(16, 128 << 30, 5 << 30, None) == 16
    assert build.num_jobs(16, 12 << 30, 5 << 30, None) == 2
    assert build.num_jobs(16, 1 << 30, 5 << 30, None) == 1
    assert build.num_jobs(16, 1 << 30, 5 << 30, "7") == 7


def test_nvcc_is_looked_for_in_cuda_home_alone(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nvcc = tmp_path / "bin/nvcc"
    nvcc.parent.mkdir()
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert build.find_nvcc() is None
    nvcc.touch(mode=0o755)
    assert build.find_nvcc() == str(nvcc)


def test_torch_is_found_and_asked_for_only_where_it_lacks(build: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    found = build.find_torch()
    assert found.version == torch.__version__
    assert (Path(found.root) / "include/torch/csrc/stable/library.h").is_file()
    assert build.torch_requirement() == []
    monkeypatch.setattr(build, "find_torch", lambda: None)
    assert build.torch_requirement() == ["torch>=2.10"]
    assert build.release("2.9.1+cu128") < build.OLDEST_TORCH <= build.release("2.10.0")
