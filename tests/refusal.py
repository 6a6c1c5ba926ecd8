"""How a wrong call is checked: the error's kind and words, and that nothing ran or changed before it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from torch import nn
from transformers import PreTrainedModel


@contextmanager
def refused(model: nn.Module, error: type[Exception], *words: str) -> Iterator[None]:
    """The block raises exactly `error`, naming all of `words`; no module of `model` has run, its settings stay."""
    passes: list[str] = []
    hooks = [module.register_forward_pre_hook(lambda *args: passes.append("pass")) for module in model.modules()]
    before = copy.deepcopy(_settings(model))
    try:
        with pytest.raises(error) as caught:
            yield
    finally:
        for hook in hooks:
            hook.remove()
    assert type(caught.value) is error
    for word in words:
        assert word in str(caught.value)
    assert not passes
    assert _settings(model) == before


def _settings(model: nn.Module) -> Any:
    if not isinstance(model, PreTrainedModel):
        return None
    config, generation_config = model.config, getattr(model, "generation_config", None)
    attention = config._attn_implementation, config.get_text_config()._attn_implementation
    return attention, config.to_dict(), generation_config and generation_config.to_dict()
