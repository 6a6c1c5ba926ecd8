"""Close the gaps that rejected tree nodes leave in the cache."""

from collections.abc import Sequence

import torch
from torch import Tensor


def compact_kv(
    k_caches: Sequence[Tensor], v_caches: Sequence[Tensor], cache_len: Tensor, nodes: Tensor, num_accepted: Tensor
) -> None:
    """Move the accepted nodes' rows to the end of each sequence's prefix in every layer, and advance `cache_len`.

    With a = `num_accepted`, row `cache_len + nodes[i]` goes to row `cache_len + i` for i = 0 .. a, then `cache_len`
    grows by a + 1. A sequence with a = -1 has finished: nothing of it is touched.

    Args:
        k_caches, v_caches: one `[B, Hkv, S, D]` a layer, fp32, fp16 or bf16, D contiguous; shape, strides and dtype are
            the same in K and V of a layer and may differ from layer to layer.
        cache_len: int32 `[B]`, on the caches' device. Rows of the prefix; the tree lies behind them. Advanced in place.
        nodes: int32 `[B, P]`, contiguous, P <= 256. Accepted node indices, root first, ascending over the first a + 1.
        num_accepted: int32 `[B]`. Accepted nodes below the root, -1 <= a < P.

    Raises:
        ValueError: a shape, dtype, stride or device is not as above, or (on CPU) an index is out of range or not
            ascending; nothing has been moved then.
    """
    torch.ops.vispec.compact_kv(list(k_caches), list(v_caches), cache_len, nodes, num_accepted)


@torch.library.register_fake("vispec::compact_kv")
def _(
    k_caches: Sequence[Tensor], v_caches: Sequence[Tensor], cache_len: Tensor, nodes: Tensor, num_accepted: Tensor
) -> None:
    """Works in place: nothing to allocate."""


def compact_kv_reference(
    k_caches: Sequence[Tensor], v_caches: Sequence[Tensor], cache_len: Tensor, nodes: Tensor, num_accepted: Tensor
) -> None:
    """`compact_kv` in plain torch, one sequence and one layer at a time."""
    for seq, (start, count) in enumerate(zip(cache_len.tolist(), (num_accepted + 1).tolist(), strict=True)):
        rows = start + nodes[seq, :count].long()
        for cache in (*k_caches, *v_caches):
            cache[seq, :, start : start + count] = cache[seq].index_select(1, rows)
    cache_len += num_accepted + 1
