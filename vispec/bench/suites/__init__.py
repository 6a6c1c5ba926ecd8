"""Suites of `vispec bench`: the paper's evaluation, and prompts in the shape of MMSpec's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vispec.bench.prompts import Source
from vispec.bench.suites.drawn import DrawnKinds
from vispec.bench.suites.mmspec import MMSpec
from vispec.bench.suites.paper import Paper

SUITES: dict[str, Callable[[Path | None, int | None], Source]] = {
    Paper.name: Paper,
    MMSpec.name: MMSpec,
    DrawnKinds.name: DrawnKinds,
}


def load_suite(name: str, data: Path | None = None, limit: int | None = None) -> Source:
    """A suite's prompts.

    Args:
        name: one of SUITES.
        data: a folder with its data; None: they are fetched from the Hub ("paper") or drawn ("mmspec-pictures").
        limit: prompts in all, at most; None: as the suite has it.

    Raises:
        ValueError: no such suite, a limit below 1, or data that are not as the suite's are.
        ImportError: the data are not JSON lines, and `datasets` is missing.
    """
    if name not in SUITES:
        raise ValueError(f"suite: expected one of {', '.join(SUITES)}, got {name!r}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit: expected at least 1, got {limit}")
    return SUITES[name](data, limit)
