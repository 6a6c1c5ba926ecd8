"""Geometry of a ViSpec draft, read from and written as the released checkpoints' config.json."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_SIZES = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "vocab_size")
_OPTIONAL = ("global_feature", "rms_norm_eps", "rope_theta", "bias", "qkv_bias", "draft_vocab_size")
_MAX_SIZE = 2**31 - 1  # beyond any model; a larger one in a broken file would overflow in torch

# what a ViSpec draft always is; `rope_parameters` is transformers 5's name for theta and scaling in one
_FIXED = {"num_hidden_layers": 1, "hidden_act": "silu", "rope_scaling": None, "rope_parameters": None}


@dataclass(frozen=True)
class DraftConfig:
    """A one-layer draft in the released checkpoints' field names, which are LLaMA's.

    Args:
        hidden_size, intermediate_size, num_attention_heads, num_key_value_heads, vocab_size: as in the target's text
            model, though `num_key_value_heads` may differ.
        num_queries: Learned queries of the vision adaptor, `num_q` in files. All but the last become image slots, the
            last gives the global feature. 0: no adaptor, the draft reads every image position (EAGLE-2).
        global_feature: False: all queries become slots, and text sees the image through them alone.
        rms_norm_eps, rope_theta: as LLaMA; `rope_theta` is 10000 where a file has none.
        bias: Whether `fc` and `img_fc` have one.
        qkv_bias: Whether the q, k and v projections (of the layer and of the adaptor) have one.
        draft_vocab_size: Tokens that it drafts at all, a shortlist of the target's; None: all.

    Raises:
        ValueError: a size is not a positive int, heads do not divide as attention needs, or a float is not positive.
    """

    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    num_queries: int = 2
    global_feature: bool = True
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    bias: bool = True
    qkv_bias: bool = False
    draft_vocab_size: int | None = None

    def __post_init__(self) -> None:
        for name in (*_SIZES, "num_queries"):
            value, least = getattr(self, name), 0 if name == "num_queries" else 1
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= _MAX_SIZE:
                raise ValueError(f"{name}: expected a {'positive int' if least else 'count from 0'}, got {value!r}")
        size = self.draft_vocab_size
        is_size = isinstance(size, int) and not isinstance(size, bool) and 1 <= size <= self.vocab_size
        if not (is_size or size is None):
            raise ValueError(f"draft_vocab_size: expected 1 to vocab_size ({self.vocab_size}), or null, got {size!r}")
        for name in ("rms_norm_eps", "rope_theta"):
            value = getattr(self, name)
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not is_number or not 0 < value <= sys.float_info.max:
                raise ValueError(f"{name}: expected a positive number, got {value!r}")
        for name in ("global_feature", "bias", "qkv_bias"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name}: expected true or false, got {getattr(self, name)!r}")
        if self.global_feature and not self.num_queries:
            raise ValueError("global_feature: expected false without queries, which it would come from, got True")
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                f"hidden_size: expected a multiple of 2 * num_attention_heads ({self.num_attention_heads}) for rotary "
                f"halves, got {self.hidden_size}"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_key_value_heads: expected a divisor of num_attention_heads ({self.num_attention_heads}), "
                f"got {self.num_key_value_heads}"
            )

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def num_slots(self) -> int:
        """Slots that stand for one image in the draft's sequence."""
        return self.num_queries - self.global_feature

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], num_queries: int) -> DraftConfig:
        """Read config.json fields; fields that a draft does not use are passed over.

        Args:
            fields: LLaMA-style fields, as in a released config.json.
            num_queries: From the checkpoint's `imadpt.q`, since released configs do not hold it; 0 where there is none.

        Raises:
            ValueError: a field is missing or wrong, or asks for something that a ViSpec draft has not.
        """
        missing = [name for name in _SIZES if name not in fields and name != "num_key_value_heads"]
        if missing:
            raise ValueError(f"{missing[0]}: missing from the config")
        for name, expected in _FIXED.items():
            value = fields.get(name, expected)
            if value != expected or isinstance(value, bool):
                raise ValueError(f"{name}: expected {expected!r}, got {value!r}")
        if fields.get("num_q", num_queries) != num_queries:
            raise ValueError(f"num_q: {fields['num_q']!r} in the config, but imadpt.q holds {num_queries} queries")
        sizes = {name: fields[name] for name in _SIZES if name in fields}
        sizes.setdefault("num_key_value_heads", fields["num_attention_heads"])
        optional = {name: fields[name] for name in _OPTIONAL if name in fields}
        if not num_queries:
            optional.setdefault("global_feature", False)  # EAGLE's files do not speak of it
        config = cls(**sizes, num_queries=num_queries, **optional)
        if fields.get("head_dim") not in (None, config.head_dim):
            raise ValueError(f"head_dim: expected hidden_size / heads = {config.head_dim}, got {fields['head_dim']!r}")
        return config

    def to_dict(self) -> dict[str, Any]:
        """Fields for config.json; `from_dict` gives an equal config back."""
        shortlist = {} if self.draft_vocab_size is None else {"draft_vocab_size": self.draft_vocab_size}
        return {
            **{name: getattr(self, name) for name in _SIZES},
            "num_hidden_layers": 1,
            "num_q": self.num_queries,
            "global_feature": self.global_feature,
            "hidden_act": "silu",
            "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": self.rope_theta,
            "rope_scaling": None,
            "bias": self.bias,
            "qkv_bias": self.qkv_bias,
            **shortlist,
        }
