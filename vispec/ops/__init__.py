"""Operators on tensors: each file holds one operator's function, its fake (meta) implementation and its reference.

The functions call the compiled operators `torch.ops.vispec.*`; a `_reference` does the same in plain torch, slowly and
plainly, for tests and for reading.
"""

from vispec.ops._library import LIBRARY
from vispec.ops.append_kv import append_kv, append_kv_reference
from vispec.ops.compact_kv import compact_kv, compact_kv_reference
from vispec.ops.tree_attention import tree_attention, tree_attention_reference

__all__ = [
    "LIBRARY",
    "append_kv",
    "append_kv_reference",
    "compact_kv",
    "compact_kv_reference",
    "tree_attention",
    "tree_attention_reference",
]
