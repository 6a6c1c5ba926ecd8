"""Calls launchers of the host build with torch tensors."""

from __future__ import annotations

import ctypes
import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from cuda_host.build import CSRC, FLAVOUR, build, build_for_device

T = TypeVar("T")
Extra = Tensor | ctypes.Structure | int | None  # an argument of a launcher: pointer, reference, number


class KernelError(Exception):
    """A kernel broke a rule of CUDA; the text says which, where and in which thread."""


@dataclass(frozen=True)
class Schedule:
    """In which order blocks, warps and lanes run, and whether cp.async lands when it is issued or waited for."""

    order: str  # "forward", "reverse" or "random"
    copies: str  # "issue" or "wait"
    seed: int = 0


# Copies that land late show a missing wait, early ones an overwrite; either order can hide a missing barrier. What
# sanitizers report depends little on the order.
DEFAULT_SCHEDULES = [Schedule("forward", "issue"), Schedule("reverse", "wait")]
DEFAULT_SCHEDULES += [Schedule("random", "wait", 1)] if FLAVOUR == "plain" else []
FULL_SCHEDULES = [
    *(Schedule(order, copies) for order in ("forward", "reverse") for copies in ("issue", "wait")),
    *(Schedule("random", copies, seed) for copies in ("issue", "wait") for seed in range(4)),
]


def sweep(cases: Sequence[T], sanitized: Sequence[T]) -> Sequence[T]:
    """`cases` in the plain build, `sanitized` under a sanitizer, where a run takes ten times as long."""
    return cases if FLAVOUR == "plain" else sanitized


def byte_strides(tensor: Tensor) -> tuple[int, int, int]:
    """`Strides` of a 4-D tensor whose last dimension is contiguous."""
    seq, head, row, _ = (stride * tensor.element_size() for stride in tensor.stride())
    return seq, head, row


def same_in_every_schedule(run: Callable[[Schedule], Sequence[Tensor]], schedules: Sequence[Schedule]) -> list[Tensor]:
    """What `run` returns in the first schedule, after checking that all others give the same bits."""
    first = [tensor.clone() for tensor in run(schedules[0])]
    for schedule in schedules[1:]:
        for i, (tensor, expected) in enumerate(zip(run(schedule), first, strict=True)):
            same = torch.equal(as_bytes(tensor), as_bytes(expected))
            assert same, f"output {i} depends on the schedule: {schedules[0]} and {schedule} differ"
    return first


def as_bytes(tensor: Tensor) -> Tensor:
    """The values' bytes: NaN equals itself."""
    return tensor.contiguous().view(torch.uint8) if tensor.dim() else tensor.reshape(1).view(torch.uint8)


# ---- Parameter structs, read from the headers ----------------------------------------------------

NUMBERS = {
    "bool": ctypes.c_bool,
    "char": ctypes.c_char,
    "int": ctypes.c_int,
    "float": ctypes.c_float,
    "double": ctypes.c_double,
    "DType": ctypes.c_int,
    "size_t": ctypes.c_size_t,
    **{f"{sign}int{bits}_t": getattr(ctypes, f"c_{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
DTYPES = [torch.float32, torch.float16, torch.bfloat16]  # DType, in order


@functools.cache
def parse_struct(name: str, header: Path | None = None) -> type[ctypes.Structure]:
    """The ctypes twin of a plain struct in `csrc/common/*.h` or `header`: numbers, pointers, structs."""
    for path in [*([header] if header else []), *sorted((CSRC / "common").glob("*.h"))]:
        found = re.search(rf"^struct {name} {{\n(.*?)^}};", path.read_text(), re.MULTILINE | re.DOTALL)
        if found:
            break
    else:
        raise LookupError(f"no header declares struct {name}")
    fields: list[tuple[str, Any]] = []
    for declaration in re.sub(r"//[^\n]*", "", found[1]).split(";"):
        words = " ".join(declaration.split())
        if not words:
            continue
        match = re.fullmatch(r"(?:const )?(\w+) ?(.*)", words)
        if match is None:
            raise LookupError(f"struct {name}: cannot read {words!r}")
        for declarator in match[2].split(","):
            field = re.fullmatch(r" ?(\**) ?(?:const )?(\w+)(?:\[(\d+)\])?(?: ?= ?.*)?", declarator)
            if field is None:
                raise LookupError(f"struct {name}: cannot read {declarator!r}")
            kind: Any = ctypes.c_void_p if field[1] else NUMBERS.get(match[1]) or parse_struct(match[1], header)
            fields.append((field[2], kind * int(field[3]) if field[3] else kind))
    return type(name, (ctypes.Structure,), {"_fields_": fields})


def make_struct(name: str, header: Path | None = None, **values: Any) -> ctypes.Structure:
    """Struct `name` with every field given by name; what it points to must be kept alive."""
    kind = parse_struct(name, header)
    fields: dict[str, Any] = {field[0]: field[1] for field in kind._fields_}
    if fields.keys() != values.keys():
        raise TypeError(f"{name}: missing {sorted(fields.keys() - values)}, unknown {sorted(values.keys() - fields)}")
    struct = kind()
    for field, value in values.items():
        setattr(struct, field, fields[field](*value) if isinstance(value, (tuple, list)) else plain(value))
    return struct


def plain(value: Any) -> Any:
    """A tensor or a ctypes array as its address, a dtype as a DType; numbers, structs and None stay."""
    if isinstance(value, Tensor):
        return value.data_ptr()
    if isinstance(value, torch.dtype):
        return DTYPES.index(value)
    return ctypes.addressof(value) if isinstance(value, ctypes.Array) else value


# ---- Launches ------------------------------------------------------------------------------------


class ScheduleStruct(ctypes.Structure):
    """`Schedule` of block.h."""

    _fields_ = (("order", ctypes.c_int), ("copies_at_wait", ctypes.c_int), ("seed", ctypes.c_uint64))


@functools.cache
def load(name: str, source: Path, header: str, params: str) -> ctypes.CDLL:
    """The library of a launcher."""
    library = ctypes.CDLL(str(build(name, source, header, params)))
    library.vispec_run.restype = ctypes.c_char_p
    return library


@functools.cache
def params_of(name: str) -> str:
    """The parameter struct of an operator's launcher."""
    declared = re.search(rf"cudaError_t {name}\(const (\w+)&", (CSRC / "cuda" / "operators.h").read_text())
    if declared is None:
        raise LookupError(f"operators.h declares no launcher {name}")
    return declared[1]


def run_kernel(name: str, schedule: Schedule, *extras: Extra, **values: Any) -> None:
    """Run operator `name` with the parameters `values`; `extras` are the arguments between them and the stream."""
    params = params_of(name)
    launch(
        load(name, CSRC / "cuda" / f"{name}.cu", "cuda/operators.h", params),
        schedule,
        make_struct(params, **values),
        extras,
    )


def run_file(source: Path, launcher: str, params: str, schedule: Schedule, **values: Any) -> None:
    """Run a launcher of a test's own source file, which has a header of the same name beside it."""
    header = source.with_suffix(".h")
    launch(load(launcher, source, str(header), params), schedule, make_struct(params, header, **values), ())


def run_file_on_device(source: Path, launcher: str, params: str, **values: Any) -> None:
    """The same on the GPU, on tensors there."""
    header = source.with_suffix(".h")
    library = ctypes.CDLL(str(build_for_device(source, header, launcher, params)))
    library.vispec_run.restype = ctypes.c_char_p
    error = library.vispec_run(ctypes.byref(make_struct(params, header, **values)))
    if error is not None:
        raise KernelError(error.decode())


def launch(library: ctypes.CDLL, schedule: Schedule, params: ctypes.Structure, extras: Sequence[Extra]) -> None:
    """Call, and raise what went wrong."""
    if library.vispec_params_bytes() != ctypes.sizeof(params):
        raise TypeError(f"{type(params).__name__}: {ctypes.sizeof(params)} bytes here, not so in C++")
    if library.vispec_num_extras() != len(extras):
        raise TypeError(f"the launcher takes {library.vispec_num_extras()} arguments more, got {len(extras)}")
    addresses = [ctypes.addressof(extra) if isinstance(extra, ctypes.Structure) else plain(extra) for extra in extras]
    words = (ctypes.c_uint64 * max(1, len(extras)))(*(address or 0 for address in addresses))
    order = ["forward", "reverse", "random"].index(schedule.order)
    how = ScheduleStruct(order, ["issue", "wait"].index(schedule.copies), schedule.seed)
    error = library.vispec_run(ctypes.byref(params), words, ctypes.byref(how))
    if error is not None:
        raise KernelError(error.decode())
