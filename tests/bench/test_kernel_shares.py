"""What the kernel benchmarks print and keep: `benchmarks/kernels/shares.py`."""

from __future__ import annotations

from typing import Any

from shares import measured, rates, table


def entry(group: str, peer: str, seconds: float, **info: float) -> dict[str, Any]:
    """As pytest-benchmark hands it over."""
    return {
        "group": group,
        "params": {"peer": peer},
        "stats": {"median": seconds},
        "extra_info": {"calls": 1, "copy_rate": 1e10, **info},
    }


ENTRIES = [
    entry("moves", "vispec", 2e-4, bytes=1e6),
    entry("moves", "torch", 64 * 4e-4, bytes=1e6, calls=64),
    entry("calculates", "vispec", 1e-3, bytes=1e6, flops=1e9, flop_rate=2e12),
]


def test_results() -> None:
    """Peers of a group side by side, a round of many calls divided among them; the longer bound is the roofline."""
    moves, calculates = measured(ENTRIES)
    assert moves["median_us"] == {"vispec": 200.0, "torch": 400.0}
    assert (moves["roofline_us"], moves["bound_by"], moves["bytes"]) == (100.0, "bytes", 1e6)
    assert (calculates["roofline_us"], calculates["bound_by"], calculates["flops"]) == (500.0, "flops", 1e9)
    assert rates(ENTRIES) == {"copy_rate": 1e10, "flop_rate": 2e12}
    assert rates(ENTRIES[:2]) == {"copy_rate": 1e10}


def test_table() -> None:
    lines = list(table(measured(ENTRIES)))
    assert lines == [
        "\nmoves: 1 MB; roofline 100.0 us (bytes)",
        "  vispec              200.0 us      5 GB/s  50%",
        "  torch               400.0 us    2.5 GB/s  25%",
        "\ncalculates: 1 MB, 1 Gflop; roofline 500.0 us (flops)",
        "  vispec             1000.0 us      1 GB/s  10%,      1 Tflop/s  50%",
    ]
