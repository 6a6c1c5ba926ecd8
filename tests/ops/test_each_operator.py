"""Each operator against its reference in a few small sizes: quick enough for tools that watch every access of a GPU."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from numerics import assert_error_ratio
from vispec import ops


def attention_case(
    device: torch.device, dtype: torch.dtype, prefix: int, nodes: int, heads: tuple[int, int], head_dim: int
) -> dict[str, Any]:
    cache = torch.randn(2, 2, heads[1], prefix + nodes + 3, head_dim, device=device).to(dtype)
    cache[..., prefix + nodes :, :] = torch.nan
    parents = [max(0, node - 1 - random.Random(node).randrange(3)) for node in range(nodes)]
    words = torch.zeros(nodes, -(-nodes // 64), dtype=torch.int64)
    for node, parent in enumerate(parents):
        words[node] = words[parent] if node else 0
        words[node, node // 64] |= 1 << (node % 64) if node % 64 < 63 else -(1 << 63)
    return {
        "q": torch.randn(2, nodes, heads[0], head_dim, device=device).to(dtype).transpose(1, 2),
        "k_cache": cache[0],
        "v_cache": cache[1],
        "cache_len": torch.full((2,), prefix, dtype=torch.int32, device=device),
        "ancestors": words.expand(2, -1, -1).contiguous().to(device),
    }


SIZES = [(0, 1, (4, 2), 64), (130, 30, (6, 2), 80), (300, 70, (4, 4), 128), (65, 9, (2, 1), 256)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_tree_attention(device: torch.device, dtype: torch.dtype, size: tuple[int, int, tuple[int, int], int]) -> None:
    torch.manual_seed(0)
    case = attention_case(device, dtype, *size)
    exact = {name: x.double() if x.is_floating_point() else x for name, x in case.items()}
    references = ops.tree_attention_reference(**case), ops.tree_attention_reference(**exact)
    assert_error_ratio(ops.tree_attention(**case), *references)


@pytest.fixture
def logits(device: torch.device) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(2, 9, 5003).to(device)


def assert_equal(ours: Any, reference: Any) -> None:
    pairs = zip(ours, reference, strict=True) if isinstance(ours, tuple) else [(ours, reference)]
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_expand_and_build(device: torch.device, logits: Tensor) -> None:
    scores = torch.zeros(2, 9, device=device)
    assert_equal(ops.expand_frontier(logits, scores, 8), ops.expand_frontier_reference(logits, scores, 8))
    tokens = torch.arange(144, device=device).view(2, 72)
    parents = torch.tensor([-1] * 8 + [i // 8 for i in range(64)], dtype=torch.int32, device=device).repeat(2, 1)
    candidates = -torch.rand(2, 72, device=device).cumsum(1)
    arguments = (tokens[:, 0].contiguous(), tokens, candidates, parents, 30)
    assert_equal(ops.build_tree(*arguments), ops.build_tree_reference(*arguments))


def test_select(device: torch.device, logits: Tensor) -> None:
    assert_equal(ops.select_tokens(logits), ops.select_tokens_reference(logits))
    drawn = {
        "positions": torch.arange(18, dtype=torch.int32, device=device).view(2, 9),
        "temperature": torch.tensor([0.8, 1.2], device=device),
        "top_k": torch.tensor([50, 0], dtype=torch.int32, device=device),
        "top_p": torch.tensor([0.9, 0.95], device=device),
        "seed": torch.tensor([1, 2], device=device),
    }
    assert_equal(ops.select_tokens(logits, **drawn), ops.select_tokens_reference(logits, **drawn))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cache(device: torch.device, dtype: torch.dtype) -> None:
    torch.manual_seed(0)

    def both(function: Callable[..., Any], reference: Callable[..., Any], *arguments: Any, changed: list[Any]) -> None:
        copies = [[x.clone() for x in c] if isinstance(c, list) else c.clone() for c in changed]
        function(*arguments, *changed)
        reference(*arguments, *copies)
        flat = [[*c] if isinstance(c, list) else [c] for c in (*changed, *copies)]
        tensors = [x for group in flat for x in group]
        for a, b in zip(tensors[: len(tensors) // 2], tensors[len(tensors) // 2 :], strict=True):
            assert torch.equal(a, b)

    k, v = torch.randn(2, 2, 3, 5, 64, device=device).to(dtype)
    caches = list(torch.randn(6, 2, 3, 70, 64, device=device).to(dtype))
    lengths = torch.tensor([60, 3], dtype=torch.int32, device=device)

    def append(k: Tensor, v: Tensor, caches: list[Tensor], run: Any = ops.append_kv) -> None:
        run(k, v, caches[0], caches[1], lengths)

    def append_reference(k: Tensor, v: Tensor, caches: list[Tensor]) -> None:
        append(k, v, caches, ops.append_kv_reference)

    both(append, append_reference, k, v, changed=[caches])
    nodes = torch.tensor([[0, 2, 4], [0, 1, 1]], dtype=torch.int32, device=device)
    accepted = torch.tensor([2, 1], dtype=torch.int32, device=device)

    def compact(caches: list[Tensor], lengths: Tensor, run: Any = ops.compact_kv) -> None:
        run(caches[::2], caches[1::2], lengths, nodes, accepted)

    def compact_reference(caches: list[Tensor], lengths: Tensor) -> None:
        compact(caches, lengths, ops.compact_kv_reference)

    both(compact, compact_reference, changed=[caches, lengths])


def test_accept(device: torch.device) -> None:
    torch.manual_seed(0)
    tokens = torch.randint(0, 3, (2, 12), device=device)
    parents = torch.tensor([[-1, *[node // 2 for node in range(11)]]] * 2, dtype=torch.int32, device=device)
    targets = torch.randint(0, 3, (2, 12), device=device)
    assert_equal(ops.accept_path(tokens, parents, targets, 4), ops.accept_path_reference(tokens, parents, targets, 4))
