"""Random trees and caches for the operators that work on K and V."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def random_parents(num_nodes: int, draw: torch.Generator, arity: int = 3) -> list[int]:
    """Parents of a tree in topological order; with a larger `arity` it is flatter."""
    low = [max(0, (node - 1) // arity) for node in range(num_nodes)]
    return [-1] + [int(torch.randint(low[node], node, (), generator=draw)) for node in range(1, num_nodes)]


def paths(parents: Sequence[int]) -> list[list[int]]:
    """Each node's path from the root, itself included."""
    out: list[list[int]] = []
    for node, parent in enumerate(parents):
        out.append([*(out[parent] if parent >= 0 else []), node])
    return out


def ancestor_bits(rows: Sequence[Sequence[int]], num_words: int) -> Tensor:
    """Rows of tree row indices to mask words: int64 `[len(rows), num_words]`."""
    seen = torch.zeros(len(rows), num_words, 64, dtype=torch.int64)
    for i, row in enumerate(rows):
        for j in row:
            seen[i, j // 64, j % 64] = 1
    return (seen << torch.arange(64)).sum(dim=-1)


def random_ancestors(batch_size: int, num_nodes: int, draw: torch.Generator, num_words: int | None = None) -> Tensor:
    """A random tree for each sequence: int64 `[batch_size, num_nodes, num_words]`."""
    words = num_words or max(1, -(-num_nodes // 64))
    trees = [ancestor_bits(paths(random_parents(num_nodes, draw)), words) for _ in range(batch_size)]
    return torch.stack(trees) if trees else torch.zeros(0, num_nodes, words, dtype=torch.int64)


def wide_cache(
    batch_size: int, num_heads: int, capacity: int, head_dim: int, dtype: torch.dtype, draw: torch.Generator
) -> tuple[Tensor, Tensor]:
    """K and V caches `[B, Hkv, S, D]` cut out of one wider buffer, NaN around them: no stride is trivial."""
    buffer = torch.full((batch_size, capacity, 2, num_heads + 1, head_dim + 3), torch.nan, dtype=dtype)
    cut = buffer[:, :, :, :num_heads, 1 : head_dim + 1]
    cut.copy_(torch.randn(cut.shape, generator=draw))
    k_cache, v_cache = cut.permute(2, 0, 3, 1, 4)
    return k_cache, v_cache


def poison(caches: Sequence[Tensor], first: Sequence[int], end: Sequence[int]) -> None:
    """NaN into all cache rows of each sequence but `[first, end)`."""
    for cache in caches:
        for seq in range(cache.shape[0]):
            cache[seq, :, : first[seq]] = torch.nan
            cache[seq, :, end[seq] :] = torch.nan
