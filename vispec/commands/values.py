"""Values on the command line, and whom to blame for wrong ones. Loads nothing: `vispec info` must always run."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)


def tree(text: str) -> tuple[int, int, int] | Literal["auto"]:
    if text == "auto":
        return "auto"
    numbers = text.split(",")
    if len(numbers) != 3 or not all(number.isdecimal() for number in numbers):
        raise argparse.ArgumentTypeError(f"expected three whole numbers D,K,N or auto, got {text!r}")
    depth, top_k, num_nodes = map(int, numbers)
    return depth, top_k, num_nodes


def temperature(text: str) -> float:
    value = _number(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number from 0 (greedy) on, got {text!r}")
    return value


def share(text: str) -> float:
    value = _number(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number above 0, at most 1, got {text!r}")
    return value


def seed(text: str) -> int:
    """What torch's generators take."""
    try:
        value = int(text)
    except ValueError:
        value = 2**64
    if not -(2**63) <= value < 2**64:
        raise argparse.ArgumentTypeError(f"expected an integer of 64 bits, got {text!r}")
    return value


def _number(text: str) -> float:
    """NaN, which no bounds hold, for what is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


@contextmanager
def blaming(option: str) -> Iterator[None]:
    """What is wrong in here is wrong with the value of `option`.

    Raises:
        argparse.ArgumentError: in place of an OSError, a ValueError or a NotImplementedError.
    """
    try:
        yield
    except (OSError, ValueError, NotImplementedError) as error:
        raise argparse.ArgumentError(None, f"{option}: {str(error).removeprefix(option[2:] + ': ')}") from error
