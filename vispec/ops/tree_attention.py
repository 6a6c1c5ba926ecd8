"""Attention of a tree of new tokens over the cached prefix and over each other."""

import torch
from torch import Tensor


def tree_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    cache_len: Tensor,
    ancestors: Tensor,
    *,
    kv_start: Tensor | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
) -> Tensor:
    """Attend from M tree nodes to the cached prefix and to the tree rows that each node's ancestor bits name.

    Of sequence b, cache rows `[kv_start[b], cache_len[b])` are the prefix, seen by every query; row `cache_len[b] + j`
    is tree row j, seen by query i if bit j of `ancestors[b, i]` is set (bit `j % 64` of word `j // 64`). Tree rows are
    in topological order and a query's bits, its own included, are its path from the root. Rows that no query sees may
    hold anything, NaN too. A query that sees nothing yields zeros.

    Args:
        q: `[B, Hq, M, D]`, any strides, fp32, fp16 or bf16. M <= 256, 1 <= D <= 256.
        k_cache, v_cache: `[B, Hkv, S, D]`, dtype and device of `q`, D contiguous, the same strides in both. Query head
            h reads key-value head `h // (Hq // Hkv)`.
        cache_len: int32 `[B]`. Rows of the prefix.
        ancestors: int64 `[B, M, W]`, contiguous, W <= 4.
        kv_start: int32 `[B]`, the prefix's first row (left padding lies before it); None: 0.
        scale: factor on the scores; None: `1 / sqrt(D)`.
        softcap: c > 0 replaces a scaled score x by `c * tanh(x / c)`.
        sliding_window: w > 0: a key is seen only by queries less than w positions behind it. Prefix row r has position
            `r - kv_start`; query i has `cache_len - kv_start` plus its depth (its ancestor bits minus one), tree
            row j, seen by query i, likewise with the bits of row i below j counted.

    Returns:
        `[B, M, Hq, D]`, contiguous, dtype of `q`. Arithmetic is fp32.

    Raises:
        ValueError: a shape, dtype, stride or device is not as above, or (on CPU) a length or an ancestor bit points
            outside the cache.
    """
    out: Tensor = torch.ops.vispec.tree_attention(
        q, k_cache, v_cache, cache_len, ancestors, kv_start, scale, softcap, sliding_window
    )
    return out


@torch.library.register_fake("vispec::tree_attention")
def _(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    cache_len: Tensor,
    ancestors: Tensor,
    kv_start: Tensor | None,
    scale: float | None,
    softcap: float | None,
    sliding_window: int | None,
) -> Tensor:
    """The output is contiguous, whatever the strides of `q`."""
    batch_size, num_heads, num_queries, head_dim = q.shape
    return q.new_empty(batch_size, num_queries, num_heads, head_dim)


def tree_attention_reference(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    cache_len: Tensor,
    ancestors: Tensor,
    *,
    kv_start: Tensor | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
) -> Tensor:
    """`tree_attention` in plain torch, one sequence at a time, in the dtype of `q` (fp64 too)."""
    group = q.shape[1] // k_cache.shape[1]
    out = q.new_zeros(q.shape[0], q.shape[2], q.shape[1], q.shape[3])
    for seq, length in enumerate(cache_len.tolist()):
        start = 0 if kv_start is None else int(kv_start[seq])
        visible = _visible_rows(ancestors[seq], length - start, sliding_window)[:, : k_cache.shape[2] - start]
        rows = slice(start, start + visible.shape[1])
        k, v = (cache[seq, :, rows].repeat_interleave(group, dim=0) for cache in (k_cache, v_cache))
        scores = q[seq] @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        weights = scores.masked_fill(~visible, -torch.inf).softmax(dim=-1).masked_fill(~visible, 0)
        out[seq] = _weighted_sum(weights, v, visible).transpose(0, 1)
    return out


def _weighted_sum(weights: Tensor, v: Tensor, visible: Tensor) -> Tensor:
    """`weights @ v`, `[Hq, M, rows]` and `[Hq, rows, D]`; infinite and NaN rows reach only queries that see them."""
    finite = v.isfinite().all(dim=-1)  # a weight of 0 would not hold them back: 0 * inf is NaN
    out = weights @ v.masked_fill(~finite[..., None], 0)
    for row in (~finite.all(dim=0) & visible.any(dim=0)).nonzero()[:, 0].tolist():
        heads = ~finite[:, row, None, None] & visible[:, row, None]
        out += torch.where(heads, weights[:, :, row, None] * v[:, row, None], 0)
    return out


def _visible_rows(ancestors: Tensor, prefix_len: int, sliding_window: int | None) -> Tensor:
    """Which of the `prefix_len` prefix rows and `64 * W` tree rows each query sees: bool `[M, prefix_len + 64 * W]`."""
    bits = (ancestors[:, :, None] >> torch.arange(64, device=ancestors.device) & 1).flatten(1)
    visible = torch.cat([bits.new_ones(len(bits), prefix_len), bits], dim=1).bool()
    if sliding_window is not None:
        # Along a query's path positions count up by one a row, so they are the running count of the rows it sees.
        positions = visible.cumsum(dim=1)
        visible &= positions[:, -1:] - positions < sliding_window
    return visible
