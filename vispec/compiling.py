"""The target's pass as one compiled graph, where a caller asks for it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers import PreTrainedModel

from vispec.context import Local

MOST_GRAPHS = 64  # of a model: for one text or several, trees or single tokens, hidden states, threads, grad modes, ...

_compiled: WeakKeyDictionary[PreTrainedModel, Callable[..., Any]] = WeakKeyDictionary()


def run_compiled(model: PreTrainedModel, locals_: tuple[Local[Any], ...], **kwargs: Any) -> Any:
    """`model(**kwargs)` by torch.compile, in which `locals_` have their values of this context.

    What was compiled is kept while the model lives.

    Raises:
        NotImplementedError: it is more than one graph.
    """
    if model not in _compiled:
        # code of its own, since torch counts graphs, and stops at some, by code
        own = FunctionType(_forward.__code__.replace(), _forward.__globals__, f"forward_of_{type(model).__name__}")
        has_limit = "recompile_limit" in inspect.signature(torch.compile).parameters
        limit: dict[str, Any] = {"recompile_limit": MOST_GRAPHS} if has_limit else {}
        _compiled[model] = torch.compile(own, fullgraph=True, dynamic=True, **limit)
    try:
        return _compiled[model](model, locals_, tuple(local.here.get() for local in locals_), kwargs)
    except torch._dynamo.exc.Unsupported as error:
        reason = str(error).partition("\n")[0]
        raise NotImplementedError(
            f"compile: expected a model that torch.compile can trace as one graph, got {type(model).__name__} "
            f"({reason}); leave it out"
        ) from error


def _forward(model: PreTrainedModel, locals_: tuple[Local[Any], ...], values: tuple[Any, ...], kwargs: Any) -> Any:
    if not torch.compiler.is_dynamo_compiling():  # torch.compile is switched off
        return model(**kwargs)
    for local, value in zip(locals_, values, strict=True):
        local.traced = (value,)
    output = model(**kwargs)
    for local in locals_:
        local.traced = None
    return output
