"""Operators on tensors: each file holds one operator's function, its fake (meta) implementation and its reference.

The functions call the compiled operators `torch.ops.vispec.*`; a `_reference` does the same in plain torch, slowly and
plainly, for tests and for reading.
"""

from vispec.ops._library import LIBRARY
from vispec.ops.accept_path import accept_path, accept_path_reference
from vispec.ops.append_kv import append_kv, append_kv_reference
from vispec.ops.build_tree import build_tree, build_tree_reference
from vispec.ops.compact_kv import compact_kv, compact_kv_reference
from vispec.ops.expand_frontier import expand_frontier, expand_frontier_reference
from vispec.ops.select_tokens import select_tokens, select_tokens_reference
from vispec.ops.tree_attention import tree_attention, tree_attention_reference

__all__ = [
    "LIBRARY",
    "accept_path",
    "accept_path_reference",
    "append_kv",
    "append_kv_reference",
    "build_tree",
    "build_tree_reference",
    "compact_kv",
    "compact_kv_reference",
    "expand_frontier",
    "expand_frontier_reference",
    "select_tokens",
    "select_tokens_reference",
    "tree_attention",
    "tree_attention_reference",
]
