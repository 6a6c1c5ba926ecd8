"""`vispec info`: versions, back ends, and what is missing and why. Runs where the operators do not load, too."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

WIDTH = 14  # of the first column


def run() -> int:
    """Print the report; 0 if the operators work, else 1."""
    _print("vispec", f"{package_version('vispec')}, in {Path(__file__).parent}")
    for name in ("torch", "transformers"):
        _print(name, package_version(name))
    _print("Python", f"{platform.python_version()}, {platform.system()} {platform.machine()}")
    try:
        torch, build, ops, target = map(import_module, ("torch", "vispec._C", "vispec.ops", "vispec.target"))
    except (ImportError, OSError) as error:
        print(f"\nMissing:\n  {error}")
        return 1
    info = build.build_info()
    has_stream = build.has_cuda_stream(str(ops.LIBRARY))
    archs = " ".join(info["cuda_archs"])
    _print("built with", f"{info['compiler']}, headers of torch {info['torch']}")
    _print("CPU", f"operators ready, {build.cpu_isa()} loops, {torch.get_num_threads()} threads")
    _print("CUDA", f"operators for {archs}, by nvcc {info['nvcc']}" if info["cuda"] else "no operators")
    _print("CUDA stream", "torch's function is found" if has_stream else "torch's function is not found")
    _print("GPU", _gpus(torch))
    _print("families", ", ".join(target.FAMILIES))
    missing = list(_missing(torch, info, has_stream))
    print("\nMissing:" if missing else "\nNothing is missing.")
    for text in missing:
        print(f"  {text}")
    return 0


def package_version(name: str) -> str:
    """The installed version, or that there is none (a checkout on PYTHONPATH has none either)."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "(not installed)"


def _print(label: str, text: str) -> None:
    print(f"{label:<{WIDTH}}{text}")


def _gpus(torch: Any) -> str:
    if not torch.cuda.is_available():
        return "none seen"
    devices = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    return ", ".join(f"{device.name} ({device.major}.{device.minor})" for device in devices)


def _missing(torch: Any, info: dict[str, Any], has_stream: bool | None) -> Iterator[str]:
    """What does not hinder decoding on CPU."""
    if not info["cuda"]:
        yield f"CUDA operators: {info['cuda_reason']}"
    elif info["cuda_reason"]:
        yield info["cuda_reason"]
    if torch.version.cuda is None:
        yield f"GPU and CUDA stream: torch {torch.__version__} is a build without CUDA"
    else:
        if not torch.cuda.is_available():
            yield f"GPU: torch finds no device, or no driver for its CUDA {torch.version.cuda}"
        if not has_stream:
            yield "CUDA stream: the operators' library does not see torch's CUDA library, so CUDA operators cannot run"
    if find_spec("PIL") is None:
        yield 'pillow, for `vispec demo`: pip install ".[demo]" (or pip install pillow)'
