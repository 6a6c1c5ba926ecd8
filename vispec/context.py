"""Values that a pass of the target needs beside its arguments, where a compiled pass can read them, too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Generic, TypeVar

import torch

T = TypeVar("T")


class Local(Generic[T]):
    """A value of this context, as a ContextVar holds one; None outside of `holding`.

    torch.compile cannot trace a ContextVar. What we compile gets the values as arguments and sets `traced` while it is
    traced (`vispec.compiling`); outside of a trace that is None, so other threads' compiled code never sees a value.
    Where someone else compiled the target, the ContextVar is asked, which breaks that graph.
    """

    def __init__(self, name: str) -> None:
        self.here: ContextVar[T | None] = ContextVar(name, default=None)
        self.traced: tuple[T | None] | None = None

    def get(self) -> T | None:
        if not torch.compiler.is_dynamo_compiling():
            return self.here.get()
        return self._ask() if self.traced is None else self.traced[0]

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _ask(self) -> T | None:
        return self.here.get()

    @contextmanager
    def holding(self, value: T) -> Iterator[T]:
        """Inside, and in this context, it is that."""
        token = self.here.set(value)
        try:
            yield value
        finally:
            self.here.reset(token)
