"""tree_attention beside torch: SDPA with a mask, the plain products, and the operator's own reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kernel_bench import GEOMETRIES, Geometry, random_ancestors, run
from vispec.ops import tree_attention, tree_attention_reference


def sdpa(q: Tensor, k_cache: Tensor, v_cache: Tensor, mask: Tensor, **_: Any) -> Tensor:
    """torch's fused attention over the rows in use, the mask made beforehand."""
    rows = mask.shape[-1]
    out = F.scaled_dot_product_attention(
        q, k_cache[:, :, :rows], v_cache[:, :, :rows], attn_mask=mask, enable_gqa=q.shape[1] != k_cache.shape[1]
    )
    return out.transpose(1, 2).contiguous()


def products(q: Tensor, k_cache: Tensor, v_cache: Tensor, mask: Tensor, **_: Any) -> Tensor:
    """Two matrix products and a softmax, the query heads of a key-value head packed, the mask made beforehand."""
    batch_size, num_heads, num_nodes, head_dim = q.shape
    kv_heads, rows = k_cache.shape[1], mask.shape[-1]
    packed = q.reshape(batch_size, kv_heads, -1, head_dim)
    scores = (packed @ k_cache[:, :, :rows].mT) * head_dim**-0.5
    scores = scores.view(batch_size, num_heads, num_nodes, rows) + mask
    out = scores.softmax(dim=-1).view(batch_size, kv_heads, -1, rows) @ v_cache[:, :, :rows]
    return out.view(batch_size, num_heads, num_nodes, head_dim).transpose(1, 2).contiguous()


PEERS = {
    "vispec": lambda mask, **case: tree_attention(**case),
    "sdpa": sdpa,
    "products": products,
    "reference": lambda mask, **case: tree_attention_reference(**case),
}


def attention_case(
    geometry: Geometry, num_nodes: int, context: int, dtype: torch.dtype, device: torch.device
) -> dict[str, Any]:
    """One sequence with `context` cached rows and a random tree behind them."""
    num_heads, kv_heads, head_dim = geometry
    shape = (1, kv_heads, context + num_nodes + 32, head_dim)
    ancestors = random_ancestors(num_nodes, device)
    visible = (ancestors[0, :, :, None] >> torch.arange(64, device=device) & 1).flatten(1)[:, :num_nodes].bool()
    mask = torch.zeros(num_nodes, context + num_nodes, dtype=dtype, device=device)
    mask[:, context:].masked_fill_(~visible, -torch.inf)
    return {
        "q": torch.randn(1, num_nodes, num_heads, head_dim, dtype=dtype, device=device).transpose(1, 2),
        "k_cache": torch.randn(shape, dtype=dtype, device=device),
        "v_cache": torch.randn(shape, dtype=dtype, device=device),
        "cache_len": torch.tensor([context], dtype=torch.int32, device=device),
        "ancestors": ancestors,
        "mask": mask,
    }


@pytest.mark.parametrize("peer", PEERS)  # the last to vary: peers of one size are timed one after the other
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("context", [64, 512, 4096])
@pytest.mark.parametrize("num_nodes", [1, 8, 30, 64])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def bench_tree_attention(
    benchmark: Any,
    device: torch.device,
    threads: int,
    peer: str,
    geometry: Geometry,
    num_nodes: int,
    context: int,
    dtype: torch.dtype,
) -> None:
    """Floor: K and V of the context read once, 2 * Hkv * context * D elements; 4 * Hq * M * (context + M) * D flops."""
    name = str(dtype).removeprefix("torch.")
    benchmark.group = f"tree_attention {geometry} nodes {num_nodes} context {context} {name} threads {threads}"
    rows = context + num_nodes
    run(
        benchmark,
        PEERS[peer],
        attention_case(geometry, num_nodes, context, dtype, device),
        device,
        bytes=2 * geometry.num_key_value_heads * rows * geometry.head_dim * dtype.itemsize,
        flops=4 * geometry.num_heads * num_nodes * rows * geometry.head_dim,
    )
