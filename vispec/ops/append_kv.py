"""Write new K and V rows into the cache, at each sequence's own length."""

import torch
from torch import Tensor


def append_kv(k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, cache_len: Tensor) -> None:
    """Write `k` and `v` into rows `[cache_len, cache_len + N)` of each sequence's cache, in place.

    Args:
        k, v: `[B, Hkv, N, D]`, fp32, fp16 or bf16. D contiguous, other strides free, each its own.
        k_cache, v_cache: `[B, Hkv, S, D]`, dtype and device of `k`, the same strides in both, D contiguous. Other rows
            are not touched.
        cache_len: int32 `[B]`, on the device of `k`. Where the first row goes; the caller advances it.

    Raises:
        ValueError: a shape, dtype, stride or device is not as above, or (on CPU) a row lies outside the cache;
            nothing has been written then.
    """
    torch.ops.vispec.append_kv(k, v, k_cache, v_cache, cache_len)


@torch.library.register_fake("vispec::append_kv")
def _(k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, cache_len: Tensor) -> None:
    """Works in place: nothing to allocate."""


def append_kv_reference(k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, cache_len: Tensor) -> None:
    """`append_kv` in plain torch, one sequence at a time."""
    for seq, start in enumerate(cache_len.tolist()):
        k_cache[seq, :, start : start + k.shape[2]] = k[seq]
        v_cache[seq, :, start : start + v.shape[2]] = v[seq]
