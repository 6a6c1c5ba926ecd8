"""Results of the kernel benchmarks: peers side by side, and their share of what the machine does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (0.0, ""))


def measured(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A result for each group, in order: what a call moves and calculates, its roofline, each peer's median.

    Args:
        entries: as pytest-benchmark has them: group, params, extra_info, stats; a round may be many calls.
    """
    groups: dict[str, dict[str, Any]] = {}
    for entry in entries:
        info = entry["extra_info"]
        group = groups.setdefault(entry["group"], {"group": entry["group"], **_roofline(info), "median_us": {}})
        median = entry["stats"]["median"] / info["calls"]
        group["median_us"][entry["params"]["peer"]] = round(median * 1e6, 2)
    return list(groups.values())


def rates(entries: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The best rates that were measured in this run."""
    return {
        name: max(entry["extra_info"][name] for entry in entries if name in entry["extra_info"])
        for name in ("copy_rate", "flop_rate")
        if any(name in entry["extra_info"] for entry in entries)
    }


def _roofline(info: Mapping[str, Any]) -> dict[str, Any]:
    """The larger of its bytes at the copy's rate and its flops at the product's; data in a cache can be faster."""
    by_bytes = info["bytes"] / info["copy_rate"]
    by_flops = info["flops"] / info["flop_rate"] if "flops" in info else 0.0
    longest, bound = max((by_bytes, "bytes"), (by_flops, "flops"))
    kept = {name: info[name] for name in ("bytes", "flops", "copy_rate", "flop_rate") if name in info}
    return {**kept, "roofline_us": round(longest * 1e6, 3), "bound_by": bound}


def table(results: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Lines for a terminal."""
    for result in results:
        work = f"{_scaled(result['bytes'])}B" + (f", {_scaled(result['flops'])}flop" if "flops" in result else "")
        yield f"\n{result['group']}: {work}; roofline {result['roofline_us']:.1f} us ({result['bound_by']})"
        for peer, microseconds in result["median_us"].items():
            seconds = microseconds * 1e-6
            line = f"  {peer:14}{microseconds:11.1f} us " + _rate(result["bytes"], seconds, result["copy_rate"], "B/s")
            if "flops" in result:
                line += ", " + _rate(result["flops"], seconds, result["flop_rate"], "flop/s")
            yield line


def _rate(amount: float, seconds: float, best: float, unit: str) -> str:
    """With its share of the copy's or the product's."""
    rate = amount / seconds
    return f"{_scaled(rate):>8}{unit} {rate / best:4.0%}"


def _scaled(value: float) -> str:
    scale, prefix = next((s, p) for s, p in UNITS if value >= s)
    return f"{value / (scale or 1):.3g} {prefix}"
