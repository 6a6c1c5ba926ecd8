"""Compiles one operator's kernels for the host, as a shared library a flavour."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CSRC = Path(os.environ.get("VISPEC_HOST_CSRC", ROOT / "csrc"))  # another one: a copy with a bug in it
OUTPUT = Path(os.environ.get("VISPEC_HOST_BUILD", ROOT / "build" / "cuda_host"))
FLAVOUR = os.environ.get("VISPEC_HOST_FLAVOUR", "plain")  # of this process

COMMON = ["-std=c++20", "-g1", "-fPIC", "-fvisibility=hidden", "-fno-gnu-unique", "-fno-strict-aliasing"]
COMMON += ["-Wno-unknown-pragmas"]


class MissingToolsError(Exception):
    """This machine cannot compile kernels for the host; the text says why."""


@dataclass(frozen=True)
class Flavour:
    """Flags for kernels; for the scheduler, which no sanitizer may look into; for the linker; what to load first."""

    kernel: list[str]
    scheduler: list[str]
    link: list[str]
    preload: list[str]
    options: dict[str, str]


FLAVOURS = {
    # Misaligned vectors would be a crash: the compiler's check calls block.cpp, without the sanitizer's library.
    "plain": Flavour(["-O1", "-fsanitize=alignment,null"], ["-O2", "-DVISPEC_PLAIN"], [], [], {}),
    "asan": Flavour(
        [
            "-O1",
            "-fsanitize=address,undefined",
            "-fno-sanitize=null,vptr,pointer-overflow",
            "-fno-sanitize-recover=all",
        ],
        ["-O2", "-DVISPEC_ASAN"],
        ["-fsanitize=address,undefined"],
        ["libasan.so", "libubsan.so"],
        {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"},
    ),
    "tsan": Flavour(
        ["-O1", "-fsanitize=thread"],
        ["-O2", "-DVISPEC_TSAN"],
        ["-fsanitize=thread"],
        ["libtsan.so"],
        {"TSAN_OPTIONS": "halt_on_error=1 history_size=4"},
    ),
}


@functools.cache
def compiler() -> str:
    """g++: it alone has all three sanitizers in a form that fibers survive."""
    found = shutil.which("g++")
    if platform.machine() != "x86_64":
        raise MissingToolsError(f"kernels run on the host on x86-64 only, this is {platform.machine()}")
    if found is None:
        raise MissingToolsError("no g++: kernels cannot be compiled for the host")
    return found


def wheel_folders(name: str) -> list[str]:
    """Of the CUDA wheels that are installed: their folders of headers ("include") or tools ("bin")."""
    nvidia = importlib.util.find_spec("nvidia")
    packages = nvidia.submodule_search_locations if nvidia else None
    return [str(path) for package in packages or [] for path in Path(package).glob(f"cu*/{name}")]


@functools.cache
def toolkit_includes() -> list[str]:
    """Flags for the toolkit's headers: of nvcc where it is, else of the wheels that the extra `test` brings."""
    nvcc = shutil.which("nvcc")
    if nvcc is not None:
        command = [nvcc, "--dryrun", "-x", "cu", "-c", os.devnull, "-o", os.devnull]
        flags = "".join(re.findall(r"INCLUDES=(.*)", call(command).stderr))
        folders = re.findall(r'"(?:-I|-isystem" ")([^"]+)"', flags)
    else:
        folders = wheel_folders("include")
    for header in ("cuda_bf16.h", "crt/host_defines.h", "nv/target"):
        if not any((Path(folder) / header).is_file() for folder in folders):
            raise MissingToolsError(f"no {header}: neither nvcc nor the wheels of the extra 'test' are installed")
    return [f"-isystem{folder}" for folder in folders]


def check_tools() -> None:
    """Raises MissingToolsError where kernels cannot be compiled."""
    compiler()
    toolkit_includes()


def pytest_command(*arguments: str) -> list[str]:
    """Stops at the first failure; a sanitizer's report goes to stderr itself and not into pytest's files."""
    return [sys.executable, "-m", "pytest", "-x", "-q", "--capture=sys", "-p", "no:cacheprovider", *arguments]


def environment(flavour: str) -> dict[str, str]:
    """For a process whose kernels are of that flavour: sanitizers have to be loaded before Python is."""
    chosen = FLAVOURS[flavour]
    libraries = []
    for name in chosen.preload:
        command = [compiler(), f"-print-file-name={name}"]
        path = Path(call(command).stdout.strip())
        if not path.is_absolute():
            raise MissingToolsError(f"no {name} beside {compiler()}")
        libraries.append(str(path.resolve()))
    preload = {"LD_PRELOAD": " ".join(libraries)} if libraries else {}
    path = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
    own = {"VISPEC_HOST_FLAVOUR": flavour, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    return {**os.environ, **preload, **chosen.options, **own}


def sources_of(units: list[Path], flags: list[str]) -> list[Path]:
    """The units and all that they include, but for system headers."""
    rules = call([compiler(), "-std=c++20", *flags, "-MM", "-x", "c++", *map(str, units)]).stdout
    names = re.split(r"(?<!\\)\s+", rules.replace("\\\n", " ").strip())  # a space in a name is escaped
    return sorted({Path(name.replace("\\ ", " ")) for name in names if not name.endswith(".o:")})


def build(name: str, source: Path, header: str, params: str, flavour: str = FLAVOUR) -> Path:
    """The library of launcher `name` in `source`; `header` declares it, `params` is its struct. Built once a state."""
    chosen = FLAVOURS[flavour]
    flags = [f"-I{HERE / 'include'}", f"-I{HERE}", f"-I{CSRC}", *toolkit_includes()]
    launcher = name if "::" in name else f"vispec::cuda::{name}"
    entry = [f'-DVISPEC_HEADER="{header}"', f"-DVISPEC_LAUNCHER={launcher}", f"-DVISPEC_PARAMS=vispec::{params}"]
    units = [
        (source, chosen.kernel),
        (HERE / "entry.cpp", chosen.kernel + entry),
        (HERE / "block.cpp", chosen.scheduler),
        (HERE / "ptx.cpp", chosen.scheduler),
    ]
    state = hashlib.sha256(repr((compiler(), COMMON, flags, units, chosen.link)).encode())
    for path in sources_of([unit for unit, _ in units], flags + entry):
        state.update(path.read_bytes())
    stem = f"{name}-{flavour}"
    library = OUTPUT / f"{stem}-{state.hexdigest()[:16]}.so"
    if library.is_file():
        return library
    work = OUTPUT / f"{library.stem}.{os.getpid()}"  # another process may be building the same
    work.mkdir(parents=True, exist_ok=True)
    try:
        objects = [str(work / f"{unit.stem}.o") for unit, _ in units]
        compile_flags = [[*COMMON, *flags, *own, "-x", "c++", "-c", str(unit)] for unit, own in units]
        with ThreadPoolExecutor(max_workers=2) as pool:
            commands = [[compiler(), *command, "-o", out] for command, out in zip(compile_flags, objects, strict=True)]
            list(pool.map(call, commands))
        call([compiler(), "-shared", *chosen.link, *objects, "-o", str(work / "library.so")])
        for stale in set(OUTPUT.glob(f"{stem}-*.so")) - {library}:  # that another process may have built meanwhile
            stale.unlink(missing_ok=True)
        (work / "library.so").replace(library)
    finally:
        shutil.rmtree(work)
    return library


def build_for_device(source: Path, header: Path, launcher: str, params: str, arch: str = "native") -> Path:
    """The same by nvcc, for the GPU that is there."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        raise MissingToolsError("no nvcc: kernels cannot be compiled for the device")
    OUTPUT.mkdir(parents=True, exist_ok=True)
    library = OUTPUT / f"{launcher}-device.so"
    flags = ["-std=c++20", "-O3", "--expt-relaxed-constexpr", f"-arch={arch}", "-shared", "-Xcompiler=-fPIC"]
    names = [f'-DVISPEC_HEADER="{header}"', f"-DVISPEC_LAUNCHER={launcher}", f"-DVISPEC_PARAMS={params}"]
    call([nvcc, *flags, *names, f"-I{CSRC}", str(source), str(HERE / "device_entry.cu"), "-o", str(library)])
    return library


def call(command: list[str]) -> subprocess.CompletedProcess[str]:
    """A compiler, without the sanitizer that this process may have loaded; its complaints become an error."""
    outside = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    done = subprocess.run(command, capture_output=True, text=True, env=outside)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    return done
