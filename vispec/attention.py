"""How tree attention enters a transformers model: an attention function registered under the name "vispec".

The state of a verification travels beside the arguments (`vispec.context`). Without it the function acts as the
target's own attention, so a plain `model.generate` in another thread keeps its result while this one verifies.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from vispec.context import Local
from vispec.ops import tree_attention

NAME = "vispec"

# keywords that say nothing about which keys a node sees or how they count
_HARMLESS = frozenset(
    {
        "cache",
        "cache_position",
        "logits_to_keep",
        "output_hidden_states",
        "past_key_values",
        "position_ids",
        "use_cache",
    }
)


@dataclass(frozen=True)
class Verification:
    """What tree attention needs to know beside the layer's own tensors."""

    cache_len: Tensor  # int32 [B], rows before the tree
    ancestors: Tensor  # int64 [B, N, W]
    kv_start: Tensor | None = None  # int32 [B], rows of left padding

    def on(self, device: torch.device) -> Verification:
        """For a layer there."""
        if device == self.cache_len.device:
            return self
        kv_start = None if self.kv_start is None else self.kv_start.to(device)
        return Verification(self.cache_len.to(device), self.ancestors.to(device), kv_start)


VERIFICATION: Local[Verification] = Local("vispec_verification")
WINDOWS: Local[list[int | None]] = Local("vispec_windows")  # that tree attention is told, at each of its calls


@dataclass
class _Switch:
    """The attention of one text config, which models may share. Never deleted while the config lives: another thread
    may have looked up our function just before it was switched back."""

    own: str = ""  # the implementation that the target came with
    users: set[object] = field(default_factory=set)  # verifications under way


_switches: dict[int, _Switch] = {}  # by id of the text config: configs are not hashable
_switching = threading.Lock()


@contextmanager
def switched_attention(model: PreTrainedModel) -> Iterator[None]:
    """Route the text decoder's attention through `tree_attention_forward`; the model is as before afterwards.

    Raises:
        NotImplementedError: the model does not take its attention from transformers' AttentionInterface.
    """
    config = model.config.get_text_config()
    key = "" if config is model.config else "text_config"
    switch, user = _switch_of(config), object()
    try:
        with _switching:
            if config._attn_implementation != NAME:
                switch.own = config._attn_implementation
            switch.users.add(user)
            model.set_attn_implementation({key: NAME})
        if config._attn_implementation != NAME:
            raise NotImplementedError(
                f"{type(model).__name__}: its attention cannot be set, expected one that follows AttentionInterface"
            )
        yield
    finally:
        with _switching:
            switch.users.discard(user)
            if not switch.users:  # one assignment, not a walk over all modules: an interrupt may come again
                config._attn_implementation = {"": switch.own}


def _switch_of(config: Any) -> _Switch:
    with _switching:
        if id(config) not in _switches:
            _switches[id(config)] = _Switch()
            weakref.finalize(config, _switches.pop, id(config))
        return _switches[id(config)]


def tree_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention of one decoder layer over cache and tree; transformers' attention function signature.

    Args:
        query: `[B, Hq, N, D]`, the nodes.
        key, value: `[B, Hkv, S, D]`, whole cache rows, the nodes already written behind `cache_len`.

    Returns:
        `[B, N, Hq, D]` and no weights.

    Raises:
        NotImplementedError: a keyword that tree attention does not know (sinks, biases, ...).
    """
    verification = VERIFICATION.get()
    if verification is None:
        own = _own_attention(module)
        options = {"softcap": softcap, "sliding_window": sliding_window}
        kwargs.update({name: option for name, option in options.items() if option is not None})
        return own(module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs)
    unknown = sorted(k for k, v in kwargs.items() if k not in _HARMLESS and v is not None and v is not False)
    if unknown or dropout:
        raise NotImplementedError(f"{type(module).__name__}: tree attention does not know {unknown or ['dropout']}")
    verification = verification.on(query.device)
    windows = WINDOWS.get()
    if windows is not None:
        windows.append(sliding_window)
    out = tree_attention(
        query,
        key,
        value,
        verification.cache_len,
        verification.ancestors,
        kv_start=verification.kv_start,
        scale=scaling,
        softcap=softcap,
        sliding_window=sliding_window,
    )
    return out, None


def _own_attention(module: Any) -> Callable[..., tuple[Tensor, Tensor | None]]:
    own = _switches[id(module.config)].own
    eager = sys.modules[type(module).__module__].eager_attention_forward
    return ALL_ATTENTION_FUNCTIONS.get_interface(own, eager)


def _own_mask(*args: Any, config: Any, **kwargs: Any) -> Any:
    """Masks for passes that are not verification, while the model is switched."""
    if VERIFICATION.get() is not None:
        raise NotImplementedError(f"{config.model_type}: builds a mask of its own beside the one it is given")
    return ALL_MASK_ATTENTION_FUNCTIONS[_switches[id(config)].own](*args, config=config, **kwargs)


AttentionInterface.register(NAME, tree_attention_forward)
AttentionMaskInterface.register(NAME, _own_mask)
