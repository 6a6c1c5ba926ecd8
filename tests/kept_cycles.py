"""Cycles that are kept from call to call, as on a GPU, with something in the place of a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module

import pytest

from vispec import cycles
from vispec.graphs import Capture

GENERATE = import_module("vispec.generate")  # the package has a function of that name


@contextmanager
def kept_cycles(monkeypatch: pytest.MonkeyPatch, new_capture: Callable[[], Capture]) -> Iterator[None]:
    """Inside, calls of `generate` keep their cycles, which `new_capture` captures."""
    monkeypatch.setattr(GENERATE, "borrowed_cycle", partial(cycles.kept_cycle, new_capture=new_capture))
    yield
    cycles._kept.clear()
