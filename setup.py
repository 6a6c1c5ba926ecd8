"""Build of vispec's two libraries; also the package's own build backend (pyproject.toml).

`vispec/_ops.abi3.so` holds the operators: it is compiled against torch's stable ABI, without a Python symbol, and runs
on every torch from 2.10. `vispec._C` (pybind11) holds the build information. Neither is linked to a certain torch: only
its headers and the names of its libraries are used, so an isolated build takes those of the torch that the user has.

Environment: VISPEC_CUDA=auto (default: CUDA operators where nvcc is and torch is a build with CUDA), 1 (required) or 0
(none); TORCH_CUDA_ARCH_LIST; CUDA_HOME; MAX_JOBS; CXX, CXXFLAGS, NVCCFLAGS.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from setuptools import Extension, build_meta, setup
from setuptools.build_meta import (
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)
from setuptools.command.build_ext import build_ext

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

ROOT = Path(__file__).resolve().parent
OLDEST_TORCH = (2, 10)
TORCH_TARGET_VERSION = "0x020a000000000000"  # 2.10: without it the library asks for symbols that 2.10 lacks
DEFAULT_ARCHS = "8.0;9.0;10.0;12.0+PTX"  # 8.6 and 8.9 run 8.0's code, later cards the PTX
OLD_NVCC_ARCHS = "8.0;9.0+PTX"  # of an nvcc before 12.8, which knows no others
HOST_FLAGS = ["-std=c++20", "-O3", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math"]
HOST_FLAGS += ["-fopenmp-simd", "-Wall", "-Wextra", "-DNDEBUG"]
DEVICE_FLAGS = ["-std=c++20", "-O3", "--expt-relaxed-constexpr", "-Xcompiler=-fPIC,-fvisibility=hidden"]
HOST_JOB_BYTES, NVCC_JOB_BYTES = 1 << 30, 5 << 30


# ---- Which torch ---------------------------------------------------------------------------------

# Prints where torch is, without importing it: that takes seconds, and a broken torch still has headers.
PROBE = """
import importlib.util, json, pathlib, runpy
spec = importlib.util.find_spec("torch")
if spec is not None and spec.origin:
    root = pathlib.Path(spec.origin).parent
    version = runpy.run_path(str(root / "version.py"))
    print(json.dumps({"root": str(root), "version": version["__version__"], "cuda": version["cuda"]}))
"""


@dataclass(frozen=True)
class Torch:
    """An installed torch: its folder, its version, and the CUDA version that it was built with."""

    root: str
    version: str
    cuda: str | None


@functools.cache
def find_torch() -> Torch | None:
    """The torch to build against: this interpreter's, else the one outside of pip's isolated build environment."""
    outside = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONNOUSERSITE")}
    tries = [(sys.executable, dict(os.environ)), (sys.executable, outside)]
    if "VIRTUAL_ENV" in os.environ:  # `python -m build` runs in a virtual environment of its own
        tries.append((os.path.join(os.environ["VIRTUAL_ENV"], "bin", "python"), outside))
    for python, env in tries:
        if not os.path.exists(python):
            continue
        probe = subprocess.run([python, "-c", PROBE], env=env, capture_output=True, text=True, cwd="/")
        if probe.returncode == 0 and probe.stdout.strip():
            torch = Torch(**json.loads(probe.stdout))
            if release(torch.version) >= OLDEST_TORCH:
                return torch
    return None


def release(version: str) -> tuple[int, ...]:
    """`"2.13.0+cpu"` to `(2, 13)`."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def get_requires_for_build_wheel(config_settings: dict[str, str] | None = None) -> list[str]:
    """Ask for torch only where there is none to build against."""
    return build_meta.get_requires_for_build_wheel(config_settings) + torch_requirement()


def get_requires_for_build_editable(config_settings: dict[str, str] | None = None) -> list[str]:
    """As for a wheel."""
    return build_meta.get_requires_for_build_editable(config_settings) + torch_requirement()


def torch_requirement() -> list[str]:
    """What the build environment lacks."""
    return [] if find_torch() else ["torch>=" + ".".join(map(str, OLDEST_TORCH))]


# ---- Whether and for what to build CUDA operators ------------------------------------------------


@dataclass(frozen=True)
class Cuda:
    """What the CUDA part of this build is: `reason` says why it is not built, or what to know about it."""

    build: bool
    reason: str
    nvcc: str = ""
    version: str = ""
    archs: list[str] = field(default_factory=list)


def find_nvcc() -> str | None:
    """nvcc of CUDA_HOME, of the PATH or of the usual place."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    places = [os.path.join(home, "bin")] if home else [os.environ.get("PATH", os.defpath), "/usr/local/cuda/bin"]
    return next(filter(None, (shutil.which("nvcc", path=place) for place in places)), None)


def toolkit_flags(nvcc: str) -> tuple[list[str], list[str]]:
    """Folders of the toolkit for compiler and linker, as nvcc says them: it may be a wrapper or lie elsewhere."""
    command = [nvcc, "--dryrun", "-x", "cu", "-c", os.devnull, "-o", os.devnull]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    includes, libraries = ("".join(re.findall(rf"{name}=(.*)", output)) for name in (" INCLUDES", " LIBRARIES"))
    headers = [f"-isystem{folder}" for folder in re.findall(r'"-I([^"]+)"', includes)]
    return headers, re.findall(r'"(-L[^"]+)"', libraries)


def plan_cuda(mode: str, has_sources: bool, nvcc: str | None, nvcc_version: str, archs: str, torch: Torch) -> Cuda:
    """Decide by VISPEC_CUDA and by what is there; `VISPEC_CUDA=1` fails where it cannot be obeyed."""
    if mode not in ("0", "1", "auto"):
        raise SystemExit(f"VISPEC_CUDA: expected 0, 1 or auto, got {mode!r}")
    if mode == "0":
        return Cuda(False, "VISPEC_CUDA=0")
    if not has_sources:
        missing = "this version of vispec has no CUDA sources"
    elif nvcc is None:
        missing = "nvcc was not found (on the PATH, in CUDA_HOME or in /usr/local/cuda)"
    elif mode == "auto" and torch.cuda is None:
        missing = f"torch {torch.version} is a build without CUDA (VISPEC_CUDA=1 builds them all the same)"
    else:
        major = nvcc_version.partition(".")[0]
        other = torch.cuda is not None and torch.cuda.partition(".")[0] != major
        note = f"torch has CUDA {torch.cuda}: a driver for CUDA {major} is needed" if other else ""
        return Cuda(True, note, nvcc, nvcc_version, parse_archs(archs))
    if mode == "1":
        raise SystemExit(f"VISPEC_CUDA=1, but {missing}")
    return Cuda(False, missing)


def parse_archs(archs: str) -> list[str]:
    """`"8.0;9.0a 12.0+PTX"` to `["8.0", "9.0a", "12.0+PTX"]`, in order, each once."""
    names = list(dict.fromkeys(re.split(r"[;,\s]+", archs.strip())))
    for name in names:
        if not re.fullmatch(r"\d+\.\d[af]?(\+PTX)?", name):
            raise SystemExit(f"TORCH_CUDA_ARCH_LIST: expected architectures such as '8.0;9.0a;12.0+PTX', got {name!r}")
    return names


def default_archs(nvcc_version: str) -> str:
    """Where no GPU is visible and none was asked for."""
    return DEFAULT_ARCHS if release(nvcc_version) >= (12, 8) else OLD_NVCC_ARCHS


def gencode_flags(archs: list[str]) -> list[str]:
    """nvcc's flags: machine code for each architecture, and PTX (for later ones) where asked."""
    flags = []
    for arch in archs:
        number = arch.removesuffix("+PTX").replace(".", "")
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if arch.endswith("+PTX"):
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


def visible_archs() -> str:
    """The compute capabilities of the GPUs that this machine shows, or an empty string."""
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return ""
    query = [smi, "--query-gpu=compute_cap", "--format=csv,noheader"]
    found = subprocess.run(query, capture_output=True, text=True).stdout.split()
    return ";".join(sorted(cap for cap in set(found) if re.fullmatch(r"\d+\.\d", cap)))


# ---- The build itself ----------------------------------------------------------------------------


def num_jobs(cores: int, memory_bytes: int, job_bytes: int, max_jobs: str | None) -> int:
    """MAX_JOBS, else as many as cores and memory allow, at least one."""
    return max(1, int(max_jobs) if max_jobs else min(cores, memory_bytes // job_bytes))


def memory_bytes() -> int:
    """Memory of this machine, or of the container if that allows less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    return total if text == "max" else min(total, int(text))


class BuildLibraries(build_ext):
    """Compiles and links both extensions by one ninja run, which keeps its state between runs in `build/temp*`."""

    def build_extensions(self) -> None:
        torch = find_torch()
        if torch is None:
            raise SystemExit(f"vispec: found no torch to build against, {torch_requirement()[0]} is needed")
        cuda_sources = [*sorted((ROOT / "csrc/cuda").glob("*.cu")), *(ROOT / "csrc").glob("ops_cuda.cpp")]
        nvcc = find_nvcc()
        output = subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout if nvcc else ""
        nvcc_version = "".join(re.findall(r"release ([\d.]+)", output)[:1])
        archs = os.environ.get("TORCH_CUDA_ARCH_LIST") or visible_archs() or default_archs(nvcc_version)
        mode = os.environ.get("VISPEC_CUDA", "auto")
        cuda = plan_cuda(mode, bool(cuda_sources), nvcc, nvcc_version, archs, torch)

        folder = Path(self.build_temp).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        write_if_changed(folder / "build_info.h", build_info(torch, cuda))
        write_if_changed(folder / "build.ninja", self.ninja_file(torch, cuda, cuda_sources if cuda.build else []))
        job_bytes = NVCC_JOB_BYTES if cuda.build else HOST_JOB_BYTES
        jobs = num_jobs(len(os.sched_getaffinity(0)), memory_bytes(), job_bytes, os.environ.get("MAX_JOBS"))
        if subprocess.run([sys.executable, "-m", "ninja", "-C", str(folder), f"-j{jobs}"]).returncode != 0:
            raise SystemExit("vispec: the compiler failed, its words are above")
        print(summary(torch, cuda))

    def ninja_file(self, torch: Torch, cuda: Cuda, cuda_sources: list[Path]) -> str:
        """Rules and targets; every path is absolute."""
        import pybind11

        pybind = [f"-isystem{path}" for path in (pybind11.get_include(), *self.include_dirs)]
        # torch's libraries are loaded RTLD_LOCAL: symbols are found through our own DT_NEEDED, and libtorch.so alone
        # leads to libtorch_cuda.so where there is one. Distributions' linkers drop it without --no-as-needed.
        link = [f"-L{torch.root}/lib", "-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu", "-Wl,--as-needed"]
        compile_ops = [f"-isystem{torch.root}/include", f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}"]
        if cuda_sources:
            includes, libraries = toolkit_flags(cuda.nvcc)
            compile_ops += includes
            link += [*libraries, "-lcudart_static", "-ldl", "-lrt", "-lpthread", "-Wl,--exclude-libs,ALL"]
        lines = [
            f"host = {joined([*HOST_FLAGS, f'-I{ROOT}/csrc'])} {os.environ.get('CXXFLAGS', '')}",
            f"device = {joined([*DEVICE_FLAGS, f'-I{ROOT}/csrc', *gencode_flags(cuda.archs)])} "
            f"{os.environ.get('NVCCFLAGS', '')}",
            f"cxx = {os.environ.get('CXX', 'c++')}",
            f"nvcc = {joined([cuda.nvcc])}",
            "rule cxx\n  command = $cxx $host $flags -MD -MF $out.d -c $in -o $out\n  depfile = $out.d\n  deps = gcc",
            "rule cu\n  command = $nvcc $device -MD -MF $out.d -c $in -o $out\n  depfile = $out.d\n  deps = gcc",
            "rule link\n  command = $cxx -shared $in -o $out $flags",
        ]
        for extension in self.extensions:
            is_ops = extension.name.endswith("._ops")
            objects = []
            for source in [ROOT / name for name in extension.sources] + (cuda_sources if is_ops else []):
                objects.append(f"{source.relative_to(ROOT)}.o")
                rule = "cu" if source.suffix == ".cu" else "cxx"
                lines.append(f"build {objects[-1]}: {rule} {escaped(source)}")
                lines.append(f"  flags = {joined(compile_ops if is_ops else ['-I.', *pybind])}")
            target = Path(self.get_ext_fullpath(extension.name)).resolve()
            lines.append(f"build {escaped(target)}: link {' '.join(objects)}")
            lines.append(f"  flags = {joined(link if is_ops else [])}")
        return "\n".join(lines) + "\n"


def joined(flags: list[str]) -> str:
    """Flags for the shell, in ninja's spelling."""
    return shlex.join(flags).replace("$", "$$")


def escaped(path: Path) -> str:
    """A path in a build line of ninja."""
    return re.sub(r"([$ :])", r"$\1", str(path))


def summary(torch: Torch, cuda: Cuda) -> str:
    """One line: what was built, what not, and why."""
    built = f"CUDA operators for {' '.join(cuda.archs)} (nvcc {cuda.version})" if cuda.build else "no CUDA operators"
    reason = f" ({cuda.reason})" if cuda.reason else ""
    return f"vispec: built CPU operators and {built}{reason}, with the headers of torch {torch.version}"


def build_info(torch: Torch, cuda: Cuda) -> str:
    """The header that module.cpp reports from."""
    strings = {
        "kTorch": torch.version,
        "kTorchCuda": torch.cuda or "",
        "kNvcc": cuda.version,
        "kCudaArchs": " ".join(cuda.archs),
        "kCudaReason": cuda.reason,
    }
    lines = [f"constexpr const char* {name} = {json.dumps(text)};" for name, text in strings.items()]
    return "\n".join(["#pragma once", f"constexpr bool kCuda = {str(cuda.build).lower()};", *lines]) + "\n"


def write_if_changed(path: Path, text: str) -> None:
    """Keep the file's time where nothing changed, so that ninja has nothing to do."""
    if not path.is_file() or path.read_text() != text:
        path.write_text(text)


def main() -> None:
    """Called by setuptools, which runs this file as a script, for every command."""
    for stale in ROOT.glob("build/lib*"):  # a module that the sources lost would come back from there
        shutil.rmtree(stale)
    csrc = ROOT / "csrc"
    sources = [csrc / "ops.cpp", csrc / "ops_tree.cpp", *sorted((csrc / "cpu").glob("*.cpp"))]
    operators = [str(path.relative_to(ROOT)) for path in sources]
    setup(
        ext_modules=[
            Extension("vispec._ops", operators, py_limited_api=True),
            Extension("vispec._C", ["csrc/module.cpp"]),
        ],
        cmdclass={"build_ext": BuildLibraries},
    )


if __name__ == "__main__":
    main()
