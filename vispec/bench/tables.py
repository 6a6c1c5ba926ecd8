"""The summary on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from vispec.bench.measuring import Measured
from vispec.bench.methods import COMPILED, NO_DRAFT, PLAIN
from vispec.bench.summary import ALL
from vispec.speculation import STAGES

STAGE_ORDER = ("prepare", *STAGES)


def show(
    console: Console,
    rows: Sequence[Mapping[str, Any]],
    measured: Measured,
    published: Callable[[str, float], str | None],
    is_simulated: bool,
) -> None:
    """All tables, and what a reader must know."""
    label = " (acceptance SIMULATED)" if is_simulated else ""
    for temperature in sorted({row["temperature"] for row in rows}):
        chosen = [row for row in rows if row["temperature"] == temperature]
        console.print(_speeds([row for row in chosen if row["kind"] == ALL], f"Temperature {temperature:g}{label}"))
        console.print(_cycles([row for row in chosen if row["kind"] == ALL], f"Cycles, temperature {temperature:g}"))
        if len({row["kind"] for row in chosen}) > 2:
            console.print(_kinds(chosen, temperature, published))
    for line in remarks(rows, measured):
        console.print(line, highlight=False, markup=False)


def _table(title: str, first: str, others: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right")
    return table


def _speeds(rows: Sequence[Mapping[str, Any]], title: str) -> Table:
    columns = (
        "tokens/s", "over its baseline", "decode alone", "over its baseline", "first token ms", "gap p50/90/99 ms",
        "peak MiB", "texts same/tie/other",
    )  # fmt: skip
    table = _table(title, "method", columns)
    for row, following in zip(rows, [*rows[1:], rows[-1]], strict=True):
        gap, texts = row["gap_ms"], row["texts"]
        is_baseline = row["method"] == row["baseline"]
        table.add_row(
            row["method"],
            number(row["tokens_per_second"]),
            "-" if is_baseline else times(row["speed_up"]),
            number(row["decode_tokens_per_second"]),
            "-" if is_baseline else times(row["decode_speed_up"]),
            number(row["first_token_ms"]["median"]),
            "/".join(number(gap[name]) for name in ("p50", "p90", "p99")) if gap else "-",
            number(row["peak_mib"]),
            "/".join(str(texts[name]) for name in ("same", "near_tie", "other")) if texts else "-",
            end_section=row["baseline"] != following["baseline"],
        )
    return table


def _cycles(rows: Sequence[Mapping[str, Any]], title: str) -> Table:
    ours = [row for row in rows if row.get("speculation")]
    stages = [name for name in STAGE_ORDER if any(name in row["speculation"]["stage_seconds"] for row in ours)]
    table = _table(title, "method", ("cycles", "accepted", *[f"{name} %" for name in stages], "accepted >= 1, 2, ..."))
    for row in ours:
        found = row["speculation"]
        total = sum(found["stage_seconds"].values())
        table.add_row(
            row["method"],
            str(found["cycles"]),
            number(found["mean_accepted"], 2),
            *[number(100 * found["stage_seconds"].get(name, 0.0) / total) for name in stages],
            " ".join(f"{share:.2f}" for share in found["accepted_at_least"]),
        )
    return table


def _kinds(
    rows: Sequence[Mapping[str, Any]], temperature: float, published: Callable[[str, float], str | None]
) -> Table:
    """Speed-up and accepted tokens of each kind, with what others published."""
    methods = list(dict.fromkeys(row["method"] for row in rows if row["method"] != row["baseline"]))
    kinds = [kind for kind in dict.fromkeys(row["kind"] for row in rows) if kind != ALL]
    texts = {kind: published(kind, temperature) for kind in kinds}
    has_published = any(texts.values())
    title = f"By kind, temperature {temperature:g}: speed-up over the baseline, prompt included (accepted a cycle)"
    table = _table(title, "kind", ("tokens", *methods, *(["published"] if has_published else [])))
    cells = {(row["kind"], row["method"]): row for row in rows}
    for kind in kinds:
        found = [cells.get((kind, method)) for method in methods]
        told = [_kind_cell(row) for row in found]
        plain = cells[kind, PLAIN]
        table.add_row(
            kind, number(plain["tokens"] / plain["runs"], 0), *told, *([texts[kind] or "-"] if has_published else [])
        )
    return table


def _kind_cell(row: Mapping[str, Any] | None) -> str:
    if row is None or row["speed_up"] is None:
        return "-"
    speculation = row.get("speculation")
    accepted = f" ({number(speculation['mean_accepted'], 2)})" if speculation and speculation["cycles"] else ""
    return f"{row['speed_up']['median']:.2f}{accepted}"


def remarks(rows: Sequence[Mapping[str, Any]], measured: Measured) -> list[str]:
    """How to read the tables; what failed; what the first use of auto costs; where a peer wins."""
    lines = [
        "Ratios are medians (quartiles) of interleaved pairs: the same prompt, one right after the other. Eager "
        f'methods are compared with "{PLAIN}", compiled ones with "{COMPILED}". "decode alone" is all behind the first '
        "token; of vispec that includes the draft's reading of the prompt."
    ]
    lines += [f"{method} does not run here: {reason}" for method, reason in measured.failed.items()]
    lines += _first_uses(measured)
    lines += _wins_of_peers(rows)
    return lines


def _first_uses(measured: Measured) -> list[str]:
    lines = []
    for (method, temperature), runs in measured.warm_ups.items():
        if method.startswith("vispec auto"):
            plain = measured.warm_ups.get((PLAIN, temperature), [])
            rate, base = (sum(len(r.tokens) for r in x) / sum(r.seconds for r in x) for x in (runs, plain))
            lines.append(
                f"{method}, first use (temperature {temperature:g}, not in the tables): {len(runs)} calls, "
                f"{sum(r.seconds for r in runs):.1f} s, {rate:.1f} tokens/s; plain warming up: {base:.1f}"
            )
    return lines


def _wins_of_peers(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Kinds where a method that is not ours is faster than the best of ours, with the same baseline."""
    lines = []
    for temperature, kind, baseline in dict.fromkeys((r["temperature"], r["kind"], r["baseline"]) for r in rows):
        group = [r for r in rows if (r["temperature"], r["kind"], r["baseline"]) == (temperature, kind, baseline)]
        ours = [r for r in group if r.get("speculation") and r["speed_up"]]
        theirs = [r for r in group if not r.get("speculation") and r["speed_up"] and r["method"] != NO_DRAFT]
        if not ours or not theirs:
            continue
        best, peer = (max(x, key=lambda r: r["speed_up"]["median"]) for x in (ours, theirs))
        if peer["speed_up"]["median"] > best["speed_up"]["median"]:
            lines.append(
                f"{peer['method']} is ahead on {kind} (temperature {temperature:g}): {peer['speed_up']['median']:.2f} "
                f"times {baseline}, {best['method']} {best['speed_up']['median']:.2f}"
            )
    return lines


def number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def times(value: Mapping[str, float] | None) -> str:
    """A ratio with its quartiles."""
    return "-" if value is None else f"{value['median']:.2f} ({value['low']:.2f} to {value['high']:.2f})"
