"""The guess of one cycle: its size (`TreeConfig`), who chooses that (`Plan`), and its tensors (`Tree`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

MAX_NODES = 256  # the operators' limit, root included


@dataclass(frozen=True)
class TreeConfig:
    """The tree that is drafted in every cycle (EAGLE-2 dynamic tree, arXiv 2509.15235 section 4).

    Args:
        depth: Draft passes after the first one. The tree has up to `depth + 1` levels below the root, so a cycle
            accepts at most `depth + 1` draft tokens.
        top_k: Children that are scored for each frontier node, and frontier nodes of each pass.
        num_nodes: Nodes that the target verifies, the root included.

    Raises:
        TypeError: a field is not an int.
        ValueError: `depth < 0`, `top_k < 1`, `num_nodes` outside 2 to 256, `depth * top_k > 256`, or more nodes than
            candidates (`num_nodes - 1 > top_k + depth * top_k**2`).
    """

    depth: int = 3
    top_k: int = 8
    num_nodes: int = 30

    def __post_init__(self) -> None:
        for name in ("depth", "top_k", "num_nodes"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"tree: expected an int for {name}, got {value!r}")
        if self.depth < 0:
            raise ValueError(f"tree: expected depth >= 0, got {self.depth}")
        if self.top_k < 1:
            raise ValueError(f"tree: expected top_k >= 1, got {self.top_k}")
        if not 2 <= self.num_nodes <= MAX_NODES:
            raise ValueError(f"tree: expected num_nodes (root included) from 2 to {MAX_NODES}, got {self.num_nodes}")
        if self.depth * self.top_k > MAX_NODES:
            raise ValueError(f"tree: expected depth * top_k <= {MAX_NODES}, got {self.depth} * {self.top_k}")
        if self.num_nodes - 1 > self.num_candidates:
            raise ValueError(
                f"tree: num_nodes is {self.num_nodes} with the root, but depth {self.depth} and top_k {self.top_k} "
                f"give only {self.num_candidates} candidates"
            )

    @property
    def num_candidates(self) -> int:
        """Candidates that the draft scores in a cycle."""
        return self.top_k + self.depth * self.top_k**2

    @property
    def max_accepted(self) -> int:
        """Draft tokens that one cycle can accept at most."""
        return min(self.depth + 1, self.num_nodes - 1)


class Plan(Protocol):
    """Says what each cycle of one call drafts.

    Attributes:
        trees: All that may come, fixed for the call.
    """

    trees: Sequence[TreeConfig]

    def next_tree(self, length: int) -> TreeConfig | None:
        """What the next cycle drafts behind a text of `length` tokens: one of `trees`, or None for nothing."""

    def note(self, tree: TreeConfig | None, num_accepted: Sequence[int], seconds: float) -> None:
        """A cycle with this tree accepted so many draft tokens of each sequence (-1: it had finished) and took so long.

        Cycles are noted in their order; on a GPU the next one may have been asked for before.
        """


class SameTree:
    """The plan of an explicit tree: it is drafted in every cycle."""

    def __init__(self, tree: TreeConfig) -> None:
        self.trees: Sequence[TreeConfig] = (tree,)

    def next_tree(self, length: int) -> TreeConfig:
        return self.trees[0]

    def note(self, tree: TreeConfig | None, num_accepted: Sequence[int], seconds: float) -> None:
        """Nothing to learn."""


class NoTree:
    """The plan of plain decoding: nothing is ever drafted."""

    trees: Sequence[TreeConfig] = ()

    def next_tree(self, length: int) -> None:
        return None

    def note(self, tree: TreeConfig | None, num_accepted: Sequence[int], seconds: float) -> None:
        """Nothing to learn."""


class Tree(NamedTuple):
    """A drafted tree, nodes in topological order with the root first."""

    tokens: Tensor  # int64 [B, N]
    parents: Tensor  # int32 [B, N], -1 for the root
    depths: Tensor  # int32 [B, N], 0 for the root
    ancestors: Tensor  # int64 [B, N, ceil(N / 64)], bit j of row i: node i sees node j


def root_alone(root_tokens: Tensor) -> Tree:
    """A tree without a guess; its token is a view of `root_tokens` `[B]` and changes with it."""
    tokens = root_tokens[:, None]
    zeros = torch.zeros_like(tokens, dtype=torch.int32)
    return Tree(tokens, parents=zeros - 1, depths=zeros, ancestors=torch.ones_like(tokens)[..., None])


def chain(tokens: Tensor) -> Tree:
    """A tree without branches of `tokens` int64 `[B, N]`, N at most 64."""
    index = torch.arange(tokens.shape[1], dtype=torch.int32, device=tokens.device).expand_as(tokens)
    ancestors = (torch.ones_like(tokens) << index).cumsum(1)  # distinct powers of two: their sum is their union
    return Tree(tokens, parents=index - 1, depths=index, ancestors=ancestors[..., None])
