"""What the measurements say: medians and quartiles of interleaved pairs, latencies, acceptance, memory, equal texts."""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from vispec.bench.measuring import Measured, Round
from vispec.bench.methods import NO_DRAFT, PLAIN
from vispec.bench.runs import Run, is_near_tie

ALL = "all"  # kinds together
MIB = 2**20


def summarise(measured: Measured, baselines: Mapping[str, str]) -> list[dict[str, Any]]:
    """A row for each temperature, kind (first all together) and method.

    Args:
        baselines: of each method, in the order of the rows.
    """
    rows = []
    for temperature in sorted({r.temperature for r in measured.rounds}):
        rounds = [r for r in measured.rounds if r.temperature == temperature]
        for kind in (ALL, *sorted({r.kind for r in rounds})):
            chosen = [r for r in rounds if kind in (ALL, r.kind)]
            for method, baseline in baselines.items():
                if any(method in r.runs for r in chosen):
                    about = {"temperature": temperature, "kind": kind, "method": method, "baseline": baseline}
                    rows.append({**about, **_row(chosen, method, baseline)})
    return rows


def _row(rounds: Sequence[Round], method: str, baseline: str) -> dict[str, Any]:
    runs = [r.runs[method] for r in rounds if method in r.runs]
    behind = [run for run in runs if len(run.tokens) > 1]
    gaps = [gap for run in runs for gap in run.gaps]
    first = [run.arrivals[0] for run in runs]
    peaks = [run.peak_bytes for run in runs if run.peak_bytes is not None]
    row = {
        "runs": len(runs),
        "tokens": sum(len(run.tokens) for run in runs),
        "tokens_per_second": sum(len(run.tokens) for run in runs) / sum(run.seconds for run in runs),
        "decode_tokens_per_second": _ratio(
            sum(len(run.tokens) - 1 for run in behind), sum(run.decode_seconds for run in behind)
        ),
        "first_token_ms": {"median": statistics.median(first), "p90": percentile(first, 90)},
        "gap_ms": {f"p{share}": percentile(gaps, share) for share in (50, 90, 99)} if gaps else None,
        "peak_mib": max(peaks) / MIB if peaks else None,
        "texts": _texts(runs) if _is_compared(rounds, method) else None,
    }
    for name, base in (("speed_up", baseline), ("over_plain", PLAIN)):
        row[name] = spread(_pairs(rounds, method, base, lambda run: run.rate))
        row[f"decode_{name}"] = spread(_pairs(rounds, method, base, lambda run: run.decode_rate))
    if method != NO_DRAFT and any(run.stages for run in runs):
        row["speculation"] = _speculation(runs)
    return row


def _pairs(rounds: Sequence[Round], method: str, baseline: str, rate: Callable[[Run], float | None]) -> Iterator[float]:
    """The method's rate over its baseline's, of each round that has both."""
    for r in rounds:
        if method in r.runs and baseline in r.runs:
            ours, theirs = rate(r.runs[method]), rate(r.runs[baseline])
            if ours is not None and theirs is not None:
                yield ours / theirs


def spread(values: Iterator[float] | Sequence[float]) -> dict[str, float] | None:
    """Median and quartiles; None of nothing."""
    found = list(values)
    if not found:
        return None
    low, high = percentile(found, 25), percentile(found, 75)
    return {"low": low, "median": statistics.median(found), "high": high, "pairs": len(found)}


def percentile(values: Sequence[float], share: float) -> float:
    """Linear between the values beside it."""
    ordered, place = sorted(values), (len(values) - 1) * share / 100
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def _ratio(over: float, under: float) -> float | None:
    return over / under if under else None


def _is_compared(rounds: Sequence[Round], method: str) -> bool:
    """Whether texts are held against others: greedy ones against plain decoding's, sampled ones of ours alone."""
    return all(not r.temperature or (NO_DRAFT in r.runs and r.runs[method].stages) for r in rounds if method in r.runs)


def _texts(runs: Sequence[Run]) -> dict[str, int]:
    """How many texts are the reference's, equal up to a near tie, and other."""
    counts = Counter(
        "same" if run.difference is None else "near_tie" if is_near_tie(run.difference) else "other" for run in runs
    )
    return {name: counts[name] for name in ("same", "near_tie", "other")}


def _speculation(runs: Sequence[Run]) -> dict[str, Any]:
    """Of ours: acceptance and where the time went."""
    counts: Counter[int] = Counter(accepted for run in runs for accepted in run.num_accepted)
    cycles = sum(counts.values())
    seconds: dict[str, float] = defaultdict(float)
    for run in runs:
        for name, value in {**run.stages, "prepare": max(0.0, run.seconds - sum(run.stages.values()))}.items():
            seconds[name] += value
    return {
        "cycles": cycles,
        "mean_accepted": _ratio(sum(accepted * count for accepted, count in counts.items()), cycles),
        "cycles_by_accepted": [counts[accepted] for accepted in range(max(counts, default=-1) + 1)],
        "accepted_at_least": accepted_at_least(runs),
        "cycles_by_tree": dict(Counter(tree for run in runs for tree in run.trees)),
        "stage_seconds": {name: value for name, value in seconds.items() if value},
    }


def accepted_at_least(runs: Sequence[Run]) -> list[float]:
    """For 1, 2, ... draft tokens: the share of the cycles whose tree went so deep that accepted as many."""
    reached: Counter[int] = Counter()  # cycles
    tried: Counter[int] = Counter()
    for run in runs:
        for tree, accepted in zip(run.trees, run.num_accepted, strict=True):
            for level in range(1, max_accepted(tree) + 1):
                tried[level] += 1
                reached[level] += int(accepted >= level)
    return [reached[level] / tried[level] for level in sorted(tried)]


def max_accepted(tree: str) -> int:
    """Draft tokens that a cycle with this tree accepts at most."""
    if tree == "none":
        return 0
    depth, _, num_nodes = map(int, tree.split(","))
    return min(depth + 1, num_nodes - 1)
