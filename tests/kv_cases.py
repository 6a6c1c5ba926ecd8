"""Random trees and caches for the operators that work on K and V."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Case = dict[str, Any]  # of `tree_attention`


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
    batch_size: int,
    num_heads: int,
    capacity: int,
    head_dim: int,
    dtype: torch.dtype,
    draw: torch.Generator,
    margins: tuple[int, int] = (1, 2),
) -> tuple[Tensor, Tensor]:
    """K and V caches `[B, Hkv, S, D]` cut out of one wider buffer, NaN around them: no stride is trivial.

    `margins`: numbers before and behind each row.
    """
    before, behind = margins
    buffer = torch.full((batch_size, capacity, 2, num_heads + 1, before + head_dim + behind), torch.nan, dtype=dtype)
    cut = buffer[:, :, :, :num_heads, before : before + head_dim]
    cut.copy_(torch.randn(cut.shape, generator=draw))
    k_cache, v_cache = cut.permute(2, 0, 3, 1, 4)
    return k_cache, v_cache


def poison(caches: Sequence[Tensor], first: Sequence[int], end: Sequence[int]) -> None:
    """NaN into all cache rows of each sequence but `[first, end)`."""
    for cache in caches:
        for seq in range(cache.shape[0]):
            cache[seq, :, : first[seq]] = torch.nan
            cache[seq, :, end[seq] :] = torch.nan


def tree_case(
    dtype: torch.dtype,
    heads: tuple[int, int],
    prefix: int,
    num_nodes: int,
    head_dim: int = 64,
    num_rows: int | None = None,
    starts: tuple[int, int] = (0, 0),
    seed: int = 0,
    spare: int = 3,
    margins: tuple[int, int] = (1, 2),
) -> Case:
    """Two sequences, the second with half the prefix; q as a model makes it; rows that nobody may see are NaN.

    Of a tree of `num_rows` (default: `num_nodes`) rows the last `num_nodes` are queries; the cache has `spare` rows
    behind it, and `margins` as in `wide_cache`.
    """
    draw = torch.Generator().manual_seed(seed)
    rows = num_rows or num_nodes
    q = torch.randn(2, num_nodes, heads[0] + 1, head_dim, generator=draw).to(dtype)[:, :, 1:].transpose(1, 2)
    k_cache, v_cache = wide_cache(2, heads[1], prefix + rows + spare, head_dim, dtype, draw, margins)
    cache_len = torch.tensor([prefix, prefix // 2], dtype=torch.int32)
    first = [min(start, length) for start, length in zip(starts, cache_len.tolist(), strict=True)]
    poison((k_cache, v_cache), first, [length + rows for length in cache_len.tolist()])
    ancestors = random_ancestors(2, rows, draw)[:, rows - num_nodes :].contiguous()
    case: Case = {"q": q, "k_cache": k_cache, "v_cache": v_cache, "cache_len": cache_len, "ancestors": ancestors}
    if any(starts):
        case["kv_start"] = torch.tensor(first, dtype=torch.int32)
    return case


def in_float64(case: Case) -> Case:
    return {
        name: value.double() if torch.is_tensor(value) and value.is_floating_point() else value
        for name, value in case.items()
    }
