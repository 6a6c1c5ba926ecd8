"""Values that a pass of the target needs beside its arguments, where a compiled pass can read them, too."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Generic, TypeVar

import torch

T = TypeVar("T")
_one_pass = threading.Lock()


class Local(Generic[T]):
    """A value of this context, as a ContextVar holds one; None outside of `holding`.

    torch.compile cannot trace a ContextVar: compiled code reads the value of the one pass that is in `traceable`.
    """

    def __init__(self, name: str) -> None:
        self.here: ContextVar[T | None] = ContextVar(name, default=None)
        self.traced: T | None = None

    def get(self) -> T | None:
        return self.traced if torch.compiler.is_compiling() else self.here.get()

    @contextmanager
    def holding(self, value: T) -> Iterator[T]:
        """Inside, and in this context, it is that."""
        token = self.here.set(value)
        try:
            yield value
        finally:
            self.here.reset(token)


@contextmanager
def traceable(*values: Local[Any]) -> Iterator[None]:
    """Inside, compiled code reads this context's values. One thread at a time: others wait."""
    with _one_pass:
        try:
            for value in values:
                value.traced = value.here.get()
            yield
        finally:
            for value in values:
                value.traced = None
