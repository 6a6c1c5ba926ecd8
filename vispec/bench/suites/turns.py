"""The order of a suite: its kinds in turn, so that the first N prompts hold about equally many of each."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def in_turn(groups: Iterable[Iterable[T]], limit: int) -> Iterator[T]:
    """One of each group, then the next of each, until `limit`; a group that ends is left out from there on."""
    rest = [iter(group) for group in groups]
    return itertools.islice(_rounds(rest), limit)


def _rounds(rest: list[Iterator[T]]) -> Iterator[T]:
    while rest:
        for group in rest.copy():
            try:
                yield next(group)
            except StopIteration:
                rest.remove(group)
