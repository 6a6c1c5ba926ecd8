"""The target's pass as one compiled graph, where a caller asks for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import FunctionType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers import PreTrainedModel

from vispec.placement import is_placed
from vispec.processes import processes_of

_compiled: WeakKeyDictionary[PreTrainedModel, Callable[..., Any]] = WeakKeyDictionary()


def compiled(model: PreTrainedModel) -> Callable[..., Any]:
    """`model(**kwargs)` by torch.compile; what was compiled is kept while the model lives."""
    if model not in _compiled:
        # code of its own, since torch counts graphs, and stops at some, by code
        own = FunctionType(_forward.__code__.replace(), _forward.__globals__, f"forward_of_{type(model).__name__}")
        _compiled[model] = torch.compile(own, dynamic=True)
    return partial(_compiled[model], model)


def _forward(model: PreTrainedModel, **kwargs: Any) -> Any:
    return model(**kwargs)


def why_not_compiled(model: PreTrainedModel) -> str | None:
    """Why passes of this target are not compiled, or None."""
    if processes_of(model).are_several:
        return "the target is split over processes"
    if getattr(model, "is_quantized", False):
        return "the target is quantised, which was never tried"
    placed = next((name for name, module in model.named_modules() if is_placed(module)), None)
    return None if placed is None else f"{placed or 'the target'} is offloaded or dispatched by accelerate"
