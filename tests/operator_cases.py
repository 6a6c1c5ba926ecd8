"""Inputs of operators, random and odd: for the operators' own tests and for their CUDA kernels' on the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kv_cases import paths, random_parents, wide_cache

OPTION_DTYPES = {
    "temperature": torch.float32,
    "top_k": torch.int32,
    "top_p": torch.float32,
    "min_p": torch.float32,
    "repetition_penalty": torch.float32,
}
Candidates = tuple[Tensor, Tensor, Tensor, Tensor]  # root tokens, and tokens, scores and parents
Layer = tuple[int, int, int, torch.dtype]  # heads, rows, head size, dtype


# ---- select_tokens ----


def random_logits(
    batch_size: int,
    num_nodes: int,
    vocab_size: int,
    dtype: torch.dtype = torch.float32,
    spread: float = 2,
    wide: bool = False,
) -> Tensor:
    """`wide`: cut out of a wider, transposed buffer whose other entries are NaN."""
    draw = torch.Generator().manual_seed(1000 * vocab_size + 10 * num_nodes + batch_size)
    values = torch.randn(batch_size, num_nodes, vocab_size, generator=draw) * spread
    if not wide:
        return values.to(dtype)
    buffer = torch.full((num_nodes, batch_size + 1, vocab_size + 3), torch.nan, dtype=dtype)
    return buffer[:, :batch_size, 1 : vocab_size + 1].transpose(0, 1).copy_(values)


def random_case(batch_size: int, num_nodes: int, vocab_size: int, **options: float) -> dict[str, Any]:
    """A tree, positions, a history and, for each named option, its value for every sequence."""
    draw = torch.Generator().manual_seed(vocab_size + num_nodes)
    parents = torch.full((batch_size, num_nodes), -1, dtype=torch.int32)
    for node in range(1, num_nodes):
        parents[:, node] = torch.randint(0, node, (batch_size,), generator=draw)
    words = (vocab_size + 31) // 32
    return {
        "tokens": torch.randint(0, vocab_size, (batch_size, num_nodes), generator=draw),
        "parents": parents,
        "positions": torch.randint(0, 2**31, (batch_size, num_nodes), generator=draw, dtype=torch.int32),
        "seen": torch.randint(-(2**31), 2**31, (batch_size, words), generator=draw).int(),
        "seed": torch.randint(-(2**63), 2**63 - 1, (batch_size,), generator=draw),
        **{name: torch.full((batch_size,), value, dtype=OPTION_DTYPES[name]) for name, value in options.items()},
    }


# ---- build_tree ----


def random_candidates(batch_size: int, num_candidates: int, seed: int = 0, levels: float | None = None) -> Candidates:
    """Root tokens and candidates whose parents come before them and outscore them; `levels`: scores tie often."""
    draw = torch.Generator().manual_seed(seed)
    root_tokens, tokens = (torch.randint(0, 10**12, (batch_size, n), generator=draw) for n in (1, num_candidates))
    parents = torch.full((batch_size, num_candidates), -1, dtype=torch.int32)
    scores = -torch.rand(batch_size, num_candidates, generator=draw)
    if levels is not None:
        scores = (scores * levels).ceil() / levels
    for c in range(1, num_candidates):
        parents[:, c] = torch.randint(-1, c, (batch_size,), generator=draw)
        above = scores.gather(1, parents[:, c : c + 1].long().clamp(min=0))[:, 0]
        scores[:, c] += torch.where(parents[:, c] >= 0, above, 0.0)
    return root_tokens[:, 0].clone(), tokens, scores, parents


# ---- compact_kv ----


def compact_case(batch_size: int, num_nodes: int, layers: Sequence[Layer], seed: int = 0) -> dict[str, Any]:
    """A random path of a random tree for each sequence, one of them finished; layers of different shapes."""
    draw = torch.Generator().manual_seed(seed)
    width = num_nodes + 1
    nodes = torch.zeros(batch_size, width, dtype=torch.int32)
    num_accepted = torch.zeros(batch_size, dtype=torch.int32)
    for seq in range(batch_size):
        path = paths(random_parents(num_nodes, draw))[int(torch.randint(num_nodes, (), generator=draw))]
        nodes[seq] = torch.tensor([*path, *[path[-1]] * (width - len(path))])
        num_accepted[seq] = len(path) - 1
    if batch_size > 2:
        num_accepted[1] = -1
    cache_len = torch.randint(0, 129 - num_nodes + 1, (batch_size,), generator=draw, dtype=torch.int32)
    caches = [wide_cache(batch_size, heads, rows, dim, dtype, draw) for heads, rows, dim, dtype in layers]
    k_caches, v_caches = (list(side) for side in zip(*caches, strict=True)) if caches else ([], [])
    return {
        "k_caches": k_caches,
        "v_caches": v_caches,
        "cache_len": cache_len,
        "nodes": nodes,
        "num_accepted": num_accepted,
    }


def copy_of(case: dict[str, Any], device: torch.device | str = "cpu") -> dict[str, Any]:
    """Tensors laid out alike on the device, with copies of all that lies around them."""

    def move(tensor: Tensor) -> Tensor:
        size = tensor.untyped_storage().nbytes() // tensor.itemsize
        around = tensor.as_strided((size,), (1,), 0).to(device, copy=True)
        return around.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())

    return {name: [move(t) for t in value] if isinstance(value, list) else move(value) for name, value in case.items()}
