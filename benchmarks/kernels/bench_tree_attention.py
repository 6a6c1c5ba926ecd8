"""tree_attention beside torch: SDPA with a mask, FlexAttention, plain products, and the operator's own reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from kernel_bench import Chosen, random_ancestors, run
from sizes import DTYPES, MODELS, dtype_name, per_device
from vispec.bench.geometries import Geometry
from vispec.ops import tree_attention, tree_attention_reference

NODES = per_device((1, 8, 30, 64), (16, 32, 64))
CONTEXTS = per_device((64, 512, 4096), (1024, 4096, 16384, 32768))
FLEX_NODES = 32  # it compiles for seconds a shape: one tree size


def ours(q: Tensor, k_cache: Tensor, v_cache: Tensor, cache_len: Tensor, ancestors: Tensor, **_: Any) -> Tensor:
    return tree_attention(q, k_cache, v_cache, cache_len, ancestors)


def reference(q: Tensor, k_cache: Tensor, v_cache: Tensor, cache_len: Tensor, ancestors: Tensor, **_: Any) -> Tensor:
    return tree_attention_reference(q, k_cache, v_cache, cache_len, ancestors)


def sdpa(q: Tensor, k_cache: Tensor, v_cache: Tensor, mask: Tensor, **_: Any) -> Tensor:
    """torch's fused attention over the rows in use, the mask made beforehand; torch's own grouping of heads."""
    rows = mask.shape[-1]
    out = F.scaled_dot_product_attention(
        q, k_cache[:, :, :rows], v_cache[:, :, :rows], attn_mask=mask, enable_gqa=q.shape[1] != k_cache.shape[1]
    )
    return out.transpose(1, 2).contiguous()


def sdpa_packed(q: Tensor, k_cache: Tensor, v_cache: Tensor, mask: Tensor, **_: Any) -> Tensor:
    """The query heads of a key-value head as further rows: fused kernels take the mask then, and read K and V once."""
    batch_size, num_heads, num_nodes, head_dim = q.shape
    kv_heads, rows = k_cache.shape[1], mask.shape[-1]
    packed = q.reshape(batch_size, kv_heads, -1, head_dim)
    out = F.scaled_dot_product_attention(packed, k_cache[:, :, :rows], v_cache[:, :, :rows], attn_mask=mask)
    return out.view(batch_size, num_heads, num_nodes, head_dim).transpose(1, 2).contiguous()


def products(q: Tensor, k_cache: Tensor, v_cache: Tensor, mask: Tensor, **_: Any) -> Tensor:
    """Two matrix products and a softmax, the query heads of a key-value head packed, the mask made beforehand."""
    batch_size, num_heads, num_nodes, head_dim = q.shape
    kv_heads, rows = k_cache.shape[1], mask.shape[-1]
    packed = q.reshape(batch_size, kv_heads, -1, head_dim)
    scores = (packed @ k_cache[:, :, :rows].mT) * head_dim**-0.5
    scores = scores.view(batch_size, num_heads, num_nodes, rows) + mask
    out = scores.softmax(dim=-1).view(batch_size, kv_heads, -1, rows) @ v_cache[:, :, :rows]
    return out.view(batch_size, num_heads, num_nodes, head_dim).transpose(1, 2).contiguous()


def compiled_flex(case: dict[str, Any], num_nodes: int, context: int) -> Any:
    """FlexAttention compiled for this shape, its block mask made beforehand."""
    seen, rows = case["ancestors"][0, :, 0], context + num_nodes

    def sees(b: Tensor, h: Tensor, row: Tensor, key: Tensor) -> Tensor:
        return (key < context) | ((seen[row] >> (key - context).clamp(min=0)) & 1).bool()

    block_mask = create_block_mask(sees, None, None, num_nodes, rows, device=seen.device)
    compiled = torch.compile(flex_attention, dynamic=False)

    def flex(q: Tensor, k_cache: Tensor, v_cache: Tensor, **_: Any) -> Any:
        return compiled(q, k_cache[:, :, :rows], v_cache[:, :, :rows], block_mask=block_mask, enable_gqa=True)

    return flex


PEERS = {
    "vispec": ours,
    "sdpa": sdpa,
    "sdpa, packed": sdpa_packed,
    "products": products,
    "reference": reference,
    **({"flex": None} if Chosen.has_flex else {}),
}


def attention_case(
    model: Geometry, num_nodes: int, context: int, dtype: torch.dtype, device: torch.device
) -> dict[str, Any]:
    """One sequence with `context` cached rows and a random tree behind them."""
    shape = (1, model.num_key_value_heads, context + num_nodes + 32, model.head_dim)
    q_shape = (1, num_nodes, model.num_attention_heads, model.head_dim)
    ancestors = random_ancestors(num_nodes, device)
    visible = (ancestors[0, :, :, None] >> torch.arange(64, device=device) & 1).flatten(1)[:, :num_nodes].bool()
    mask = torch.zeros(num_nodes, context + num_nodes, dtype=dtype, device=device)
    mask[:, context:].masked_fill_(~visible, -torch.inf)
    return {
        "q": torch.randn(q_shape, dtype=dtype, device=device).transpose(1, 2),
        "k_cache": torch.randn(shape, dtype=dtype, device=device),
        "v_cache": torch.randn(shape, dtype=dtype, device=device),
        "cache_len": torch.tensor([context], dtype=torch.int32, device=device),
        "ancestors": ancestors,
        "mask": mask,
    }


@pytest.mark.parametrize("peer", PEERS)  # the last to vary: peers of one size are timed one after the other
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("num_nodes", NODES)
@pytest.mark.parametrize("model", MODELS)
def bench_tree_attention(
    benchmark: Any,
    device: torch.device,
    threads: int,
    peer: str,
    model: str,
    num_nodes: int,
    context: int,
    dtype: torch.dtype,
) -> None:
    """Floor: K and V of the context read once, queries and outputs moved; 4 * Hq * M * (context + M) * D flops."""
    sizes = MODELS[model]
    if peer == "flex" and num_nodes != FLEX_NODES:
        pytest.skip(f"timed with {FLEX_NODES} nodes alone")
    case = attention_case(sizes, num_nodes, context, dtype, device)
    if peer == "sdpa, packed":
        case["mask"] = case["mask"].repeat(sizes.num_attention_heads // sizes.num_key_value_heads, 1)
    function = compiled_flex(case, num_nodes, context) if peer == "flex" else PEERS[peer]
    heads, kv_heads, head_dim = sizes.num_attention_heads, sizes.num_key_value_heads, sizes.head_dim
    rows = context + num_nodes
    name = f"{model} {heads}-{kv_heads}-{head_dim}"
    benchmark.group = f"tree_attention {name} nodes {num_nodes} context {context} {dtype_name(dtype)} threads {threads}"
    moved = 2 * head_dim * (kv_heads * rows + heads * num_nodes) * dtype.itemsize
    flops = 4 * heads * num_nodes * rows * head_dim
    run(benchmark, function, case, device, bytes=moved, flops=flops, waits=peer == "reference")
