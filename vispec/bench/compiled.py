"""Verification as one compiled graph, for the comparison of compiled decoding with compiled decoding."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Generic, TypeVar

import torch
from transformers import PreTrainedModel

import vispec.attention
import vispec.target

T = TypeVar("T")
# where vispec keeps what a pass of the target needs to know, beside its arguments
CONTEXT = ((vispec.attention, "_verification"), (vispec.attention, "_windows"), (vispec.target, "_record"))
MOST_GRAPHS = 64  # of one forward: each tree's number of nodes may be one, until torch takes it as variable


class _Plain(Generic[T]):
    """What a ContextVar does, for one thread alone: torch.compile cannot trace a ContextVar."""

    def __init__(self) -> None:
        self.value: T | None = None

    def get(self) -> T | None:
        return self.value

    def set(self, value: T | None) -> T | None:
        """Returns what `reset` takes."""
        before, self.value = self.value, value
        return before

    def reset(self, before: T | None) -> None:
        self.value = before


def compiled_verification(model: PreTrainedModel) -> Callable[[], AbstractContextManager[None]]:
    """A context in which each verification of `model` is one compiled graph; no other thread may decode meanwhile.

    Compiled once, when it is first run, and again for sizes that differ. Prefill runs as it is.
    """
    own = model.forward
    compiled = torch.compile(own)
    plain: list[_Plain[Any]] = [_Plain() for _ in CONTEXT]

    @functools.wraps(own)
    def forward(*args: Any, **kwargs: Any) -> Any:
        return (own if plain[0].value is None else compiled)(*args, **kwargs)

    @contextmanager
    def around() -> Iterator[None]:
        before = [getattr(module, name) for module, name in CONTEXT]
        with torch._dynamo.config.patch(recompile_limit=MOST_GRAPHS):
            try:
                for (module, name), value in zip(CONTEXT, plain, strict=True):
                    setattr(module, name, value)
                model.forward = forward
                yield
            finally:
                del model.forward
                for (module, name), value in zip(CONTEXT, before, strict=True):
                    setattr(module, name, value)

    return around
