"""What nvcc makes of the hot kernels: loads of 16 bytes, tensor cores where there are products, no local memory."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from cuda_host import CSRC
from cuda_host.build import wheel_folders

# Every kernel on the path of a cycle whose cost is its bytes or products: what its machine code must hold.
COPIES = r"LDGSTS\.E\.BYPASS\.128"  # cp.async of 16 bytes, past L1
LOADS = r"LDG\.E\.(NA\.)?128"  # NA: past L1
STORES = r"STG\.E\.128"
HOT = {
    "append_kv_kernel": [LOADS, STORES],
    "compact_kv_kernel": [LOADS, STORES],
    "expand_frontier_kernel": [LOADS],
    "select_tokens_argmax_kernel": [LOADS],
    "tree_attention_kernel": [COPIES, r"LDSM\.16\.M88\.4", r"LDSM\.16\.MT88\.4", r"HMMA\.16816\.F32"],
    "tree_attention_merge_kernel": [LOADS],
}
FLAGS = ["-std=c++20", "-O3", "--expt-relaxed-constexpr", "-Werror", "all-warnings", f"-I{CSRC}"]


def tool(name: str) -> str:
    """Of the toolkit on the PATH, or of the wheels that the extra `test` brings."""
    found = shutil.which(name) or shutil.which(name, path=os.pathsep.join(wheel_folders("bin")))
    if found is None:
        pytest.skip(f"no {name}: nvcc's machine code cannot be looked at")
    return found


@functools.cache
def machine_code(source: Path, arch: str, folder: Path) -> dict[str, list[str]]:
    """Each kernel's instructions, by its mangled name."""
    binary = folder / f"{source.stem}.{arch}.cubin"
    command = [tool("nvcc"), *FLAGS, f"-arch={arch}", "-cubin", "-o", str(binary), str(source)]
    subprocess.run(command, check=True)
    # cuobjdump itself calls nvdisasm
    folders = [str(Path(tool(name)).parent) for name in ("cuobjdump", "nvdisasm")]
    environment = {**os.environ, "PATH": os.pathsep.join([*folders, os.environ["PATH"]])}
    command = [tool("cuobjdump"), "-sass", str(binary)]
    text = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    kernels = {}
    for function in text.split("Function : ")[1:]:
        name, _, body = function.partition("\n")
        kernels[name.strip()] = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ +)?([A-Z][\w.]*)", body)
    return kernels


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cubin")


# Where a few numbers too many live in a kernel, other architectures spill one or the other: see benchmarks/NOTES.md.
@pytest.mark.parametrize("arch", ["sm_90", pytest.param("sm_80", marks=pytest.mark.release)])
@pytest.mark.parametrize("kernel", HOT)
def test_hot_kernel(kernel: str, arch: str, folder: Path) -> None:
    tool("cuobjdump")
    source = max(
        (path for path in (CSRC / "cuda").glob("*.cu") if kernel.startswith(path.stem)), key=lambda p: len(p.stem)
    )
    found = {name: code for name, code in machine_code(source, arch, folder).items() if re.search(rf"\d{kernel}", name)}
    assert found, f"{source.name} has no {kernel}"
    for name, code in found.items():
        local = [instruction for instruction in code if re.match(r"(LDL|STL)\b", instruction)]
        assert not local, f"{name} keeps something in local memory: {len(local)} instructions"
    for pattern in HOT[kernel]:
        some = [name for name, code in found.items() if any(re.match(pattern, instruction) for instruction in code)]
        assert some, f"no {kernel} has {pattern}"
        if kernel == "tree_attention_kernel":
            assert len(some) == len(found), f"not every {kernel} has {pattern}"
