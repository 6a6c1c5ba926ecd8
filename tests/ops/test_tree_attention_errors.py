"""tree_attention: what is wrong with its arguments is said in words, before any work."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch

from vispec.ops import tree_attention


def error_case() -> dict[str, Any]:
    return {
        "q": torch.zeros(2, 6, 5, 8),
        "k_cache": torch.zeros(2, 3, 70, 8),
        "v_cache": torch.zeros(2, 3, 70, 8),
        "cache_len": torch.tensor([3, 66], dtype=torch.int32),
        "ancestors": torch.ones(2, 5, 1, dtype=torch.int64),
    }


INT = torch.int32
CACHE = torch.zeros(2, 3, 70, 8)
LONG = torch.int64
WIDE = {"q": torch.zeros(2, 6, 5, 257), "k_cache": torch.zeros(2, 3, 70, 257), "v_cache": torch.zeros(2, 3, 70, 257)}
ERRORS = [
    ({"q": CACHE[0]}, "q: expected float32, float16 or bfloat16 [B, Hq, M, D], got float32 [3, 70, 8] on cpu"),
    ({"q": CACHE.long()}, "q: expected float32, float16 or bfloat16 [B, Hq, M, D], got int64 [2, 3, 70, 8] on cpu"),
    ({"q": torch.zeros(2, 6, 257, 8)}, "q: expected at most 256 nodes, got float32 [2, 6, 257, 8] on cpu"),
    (WIDE, "q: expected a head size from 1 to 256, got float32 [2, 6, 5, 257] on cpu"),
    (
        {"k_cache": CACHE[0]},
        "k_cache: expected float32, float16 or bfloat16 [B, Hkv, S, D], got float32 [3, 70, 8] on cpu",
    ),
    (
        {"k_cache": CACHE.mT.contiguous().mT},
        "k_cache: expected the last dimension contiguous, got strides [1680, 560, 1, 70]",
    ),
    (
        {"v_cache": CACHE.half()},
        "v_cache: expected float32 [2, 3, 70, 8] on cpu as k_cache, got float16 [2, 3, 70, 8] on cpu",
    ),
    (
        {"v_cache": torch.zeros(2, 70, 3, 8).transpose(1, 2)},
        "v_cache: expected strides [1680, 560, 8, 1] as k_cache, got [1680, 8, 24, 1]",
    ),
    ({"q": torch.zeros(2, 6, 5, 8).half()}, "k_cache: expected float16 on cpu as q, got float32 [2, 3, 70, 8] on cpu"),
    (
        {"q": torch.zeros(2, 6, 5, 16)},
        "k_cache: expected size 16 in dimension 3 as q, got float32 [2, 3, 70, 8] on cpu",
    ),
    (
        {"q": torch.zeros(2, 7, 5, 8)},
        "k_cache: expected a divisor of the 7 heads of q in dimension 1, got float32 [2, 3, 70, 8] on cpu",
    ),
    ({"cache_len": torch.zeros(2)}, "cache_len: expected int32 [2] on cpu, got float32 [2] on cpu"),
    (
        {"cache_len": torch.tensor([3, 71], dtype=INT)},
        "cache_len: expected from 0 to the capacity 70, got 71 for sequence 1",
    ),
    (
        {"cache_len": torch.tensor([-3, 7], dtype=INT)},
        "cache_len: expected from 0 to the capacity 70, got -3 for sequence 0",
    ),
    ({"kv_start": torch.zeros(2, dtype=LONG)}, "kv_start: expected int32 [2] on cpu, got int64 [2] on cpu"),
    ({"kv_start": torch.tensor([4, 0], dtype=INT)}, "kv_start: expected from 0 to cache_len 3, got 4 for sequence 0"),
    (
        {"kv_start": torch.tensor([0, -1], dtype=INT)},
        "kv_start: expected from 0 to cache_len 66, got -1 for sequence 1",
    ),
    ({"ancestors": torch.ones(2, 5, dtype=LONG)}, "ancestors: expected int64 [B, M, W], got int64 [2, 5] on cpu"),
    (
        {"ancestors": torch.ones(2, 4, 1, dtype=LONG)},
        "ancestors: expected int64 [2, 5, 1] on cpu, got int64 [2, 4, 1] on cpu",
    ),
    (
        {"ancestors": torch.ones(2, 5, 1, dtype=INT)},
        "ancestors: expected int64 [2, 5, 1] on cpu, got int32 [2, 5, 1] on cpu",
    ),
    (
        {"ancestors": torch.ones(2, 5, 0, dtype=LONG)},
        "ancestors: expected from M / 64 to 4 words a row, got int64 [2, 5, 0] on cpu",
    ),
    (
        {"ancestors": torch.ones(2, 5, 5, dtype=LONG)},
        "ancestors: expected from M / 64 to 4 words a row, got int64 [2, 5, 5] on cpu",
    ),
    (
        {"ancestors": torch.ones(5, 2, 1, dtype=LONG).transpose(0, 1)},
        "ancestors: expected a contiguous tensor, got strides [1, 2, 1]",
    ),
    (
        {"ancestors": torch.full((2, 5, 1), 16)},
        "ancestors: expected bits below capacity - cache_len = 4, got bit 4 in row 0 of sequence 1",
    ),
    (
        {"ancestors": torch.full((2, 5, 1), -(2**63))},
        "ancestors: expected bits below capacity - cache_len = 4, got bit 63 in row 0 of sequence 1",
    ),
    ({"scale": math.nan}, "scale: expected a finite number, got nan"),
    ({"softcap": 0.0}, "softcap: expected a number above 0 or None, got 0"),
    ({"sliding_window": 0}, "sliding_window: expected at least 1 or None, got 0"),
]


@pytest.mark.parametrize(("change", "message"), ERRORS, ids=[message[:40] for _, message in ERRORS])
def test_errors(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        tree_attention(**error_case() | change)
