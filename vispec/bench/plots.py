"""The summary as pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vispec.bench.measuring import Round
from vispec.bench.methods import PLAIN
from vispec.bench.summary import ALL
from vispec.bench.timeline import LANES, OTHER, Span

INK, MUTED, RULE = "#1c2127", "#5c6670", "#d9dde2"
OURS = ("#1f5fb4", "#2a9d78", "#8a63b8", "#0e8fa8", "#c2478f", "#5b7f19", "#102a54", "#e0708a")
PEERS = ("#8b949e", "#b04a05", "#d9a21b")
STAGE_SHADES = {"update": "#efe6f7", "draft": "#fdeccc", "verify": "#dceafa", "accept": "#d9f2e6"}
LEAST_TOKENS = 40  # that a point of a curve stands for
BINS = 12  # of the text's length
DPI = 150


class Plots:
    """Writes pictures of one summary.

    Args:
        rows: as `summarise` makes them.
        caption: machine, versions, command: below each picture.
    """

    def __init__(self, folder: Path, rows: Sequence[Mapping[str, Any]], caption: str, is_simulated: bool) -> None:
        self.folder, self.rows, self.caption = folder, rows, caption
        self.is_simulated, self.label = is_simulated, "   ACCEPTANCE SIMULATED" if is_simulated else ""
        methods = list(dict.fromkeys(row["method"] for row in rows))
        ours = [m for m in methods if m.startswith("vispec")]
        peers = [m for m in methods if m not in ours]
        self.colours = {m: OURS[i % len(OURS)] for i, m in enumerate(ours)}
        self.colours |= {m: PEERS[i % len(PEERS)] for i, m in enumerate(peers)}
        self.temperatures = sorted({row["temperature"] for row in rows})

    def draw_all(self, rounds: Sequence[Round], cycle: Sequence[Span], about_cycle: str) -> list[Path]:
        """All pictures that there is something for."""
        files = [self.speed_ups()]
        if len({row["kind"] for row in self.rows}) > 2:
            files.append(self.kinds())
        files += [self.acceptance(), self.contexts(rounds)]
        if cycle:
            files.append(self.timeline(cycle, about_cycle))
        return files

    def speed_ups(self) -> Path:
        """A bar for each method and temperature, with quartiles; compiled beside compiled, eager beside eager."""
        rows = [row for row in self.rows if row["kind"] == ALL]
        baselines = list(dict.fromkeys(row["baseline"] for row in rows))
        heights = [sum(row["baseline"] == baseline for row in rows) + 1.2 for baseline in baselines]
        figure = Figure(figsize=(9, 1.3 + 0.36 * sum(heights)))
        axes = figure.subplots(len(baselines), 1, squeeze=False, height_ratios=heights)[:, 0]
        most = max(row["speed_up"]["high"] for row in rows)
        for ax, baseline in zip(axes, baselines, strict=True):
            group = [row for row in rows if row["baseline"] == baseline]
            for place, row in enumerate(group):
                found = row["speed_up"]
                spread = [[found["median"] - found["low"]], [found["high"] - found["median"]]]
                ax.barh(place, found["median"], color=self.colours[row["method"]], height=0.72)
                if row["method"] != baseline:
                    ax.errorbar(found["median"], place, xerr=spread, color=INK, capsize=3, linewidth=1.2)
                ratio = "" if row["method"] == baseline else f"{found['median']:.2f}x   "
                told = f"{ratio}{row['tokens_per_second']:.0f} tokens/s"
                ax.text(found["high"] + 0.02 * most, place, told, va="center", fontsize=9, color=INK)
            names = [self._named(row["method"], row["temperature"]) for row in group]
            ax.set_yticks(range(len(group)), names, fontsize=9)
            ax.invert_yaxis()
            ax.set_xlim(0, 1.35 * most)
            ax.axvline(1, color=MUTED, linewidth=0.8, linestyle=":")
            _bare(ax, grid="x")
            ax.set_title(f'against "{baseline}"', fontsize=10, loc="left", color=MUTED)
        axes[-1].set_xlabel("tokens per second over the baseline's, prompt included: median and quartiles of pairs")
        return self._write(figure, "speed_up", "Speed-up")

    def kinds(self) -> Path:
        """Speed-up of each kind of prompt: where a peer is ahead shows as the right-most dot of its line."""
        rows = [r for r in self.rows if r["kind"] != ALL and r["method"] != r["baseline"] and r["speed_up"]]
        kinds = list(dict.fromkeys(row["kind"] for row in rows))
        panels = list(dict.fromkeys((row["temperature"], row["baseline"]) for row in rows))
        figure = Figure(figsize=(4.2 * len(panels) + 1.5, 1.9 + 0.34 * len(kinds)))
        axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for ax, panel in zip(axes, panels, strict=True):
            group = [row for row in rows if (row["temperature"], row["baseline"]) == panel]
            for method in dict.fromkeys(row["method"] for row in group):
                found = [row for row in group if row["method"] == method]
                places = [kinds.index(row["kind"]) for row in found]
                medians = [row["speed_up"]["median"] for row in found]
                mark = "o" if method.startswith("vispec") else "s"
                ax.plot(medians, places, mark, color=self.colours[method], label=method, markersize=6, alpha=0.9)
            ax.axvline(1, color=MUTED, linewidth=0.8, linestyle=":")
            ax.set_xlim(left=0)
            ax.set_title(f'T = {panel[0]:g}, against "{panel[1]}"', fontsize=10, loc="left", color=MUTED)
            ax.legend(fontsize=7.5, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)
            _bare(ax, grid="both")
        axes[0].set_yticks(range(len(kinds)), kinds, fontsize=9)
        axes[0].invert_yaxis()
        return self._write(figure, "kinds", "Speed-up by kind of prompt, medians")

    def acceptance(self) -> Path:
        """The share of cycles that accept at least so many draft tokens."""
        ours = [row for row in self.rows if row["kind"] == ALL and row.get("speculation")]
        rows = [row for row in ours if row["baseline"] == PLAIN]  # compiled ones accept the same
        figure = Figure(figsize=(7.5, 4.4))
        ax = figure.subplots()
        for row in rows:
            shares = row["speculation"]["accepted_at_least"]
            style = "-" if row["temperature"] == self.temperatures[0] else "--"
            told = (
                f"{row['method']}, T = {row['temperature']:g}: {row['speculation']['mean_accepted'] or 0:.2f} a cycle"
            )
            ax.plot(range(1, len(shares) + 1), shares, style, marker="o", color=self.colours[row["method"]], label=told)
        most = max((len(row["speculation"]["accepted_at_least"]) for row in rows), default=1)
        ax.set_xticks(range(1, most + 1))
        ax.set_ylim(0, 1.02)
        ax.set_xlabel("draft tokens accepted")
        ax.set_ylabel("share of the cycles whose tree goes so deep")
        _legend(ax)
        _bare(ax, grid="both")
        return self._write(figure, "acceptance", "Acceptance by depth: cycles that accept at least so many tokens")

    def contexts(self, rounds: Sequence[Round]) -> Path:
        """Tokens a second behind the first one, by the text's length when they came, at the lowest temperature."""
        figure = Figure(figsize=(7.5, 4.4))
        ax = figure.subplots()
        temperature = self.temperatures[0]
        for method, colour in self.colours.items():
            chosen = [r for r in rounds if r.temperature == temperature and method in r.runs]
            points = rates_by_length(chosen, method, by_prompt=self.is_simulated)
            if points:
                told = self._named(method, temperature)
                ax.plot(*zip(*points, strict=True), marker=".", color=colour, label=told)
        ax.set_ylim(bottom=0)
        ax.set_xlabel("tokens of prompt and answer so far")
        ax.set_ylabel("tokens per second, decoding alone")
        _legend(ax)
        _bare(ax, grid="both")
        return self._write(figure, "context", "Speed against the length of the text")

    def timeline(self, cycle: Sequence[Span], about: str) -> Path:
        """One cycle: each operator where it ran, stages shaded."""
        lanes = [lane for lane in (*LANES, OTHER) if any(span.lane == lane for span in cycle)]
        figure = Figure(figsize=(11, 1.8 + 0.5 * len(lanes)))
        ax = figure.subplots()
        whole, before = cycle[-1].end, -cycle[-1].end
        for stage, shade in STAGE_SHADES.items():
            spans = [span for span in cycle if span.stage == stage]
            if spans:
                start, end = spans[0].start, spans[-1].end
                ax.axvspan(start, end, color=shade, linewidth=0)
                extent = (start / whole, end / whole)
                self._name_stage(ax, f"{stage} {end - start:.2f} ms", extent, is_close=start - before < 0.1 * whole)
                before = start
        for place, lane in enumerate(lanes):
            bars = [(span.start, span.end - span.start) for span in cycle if span.lane == lane]
            colour = (OURS[0], OURS[1], OURS[4], MUTED)[place]
            # with an edge: most are thinner than a dot
            ax.broken_barh(bars, (place - 0.35, 0.7), facecolors=colour, edgecolors=colour, linewidth=0.4)
        ax.set_yticks(range(len(lanes)), lanes, fontsize=9)
        ax.set_ylim(len(lanes) - 0.4, -1)
        ax.set_xlim(0, whole)
        ax.set_xlabel("milliseconds; gaps: the host between two operators, and the profiler's own time")
        _bare(ax, grid=None)
        return self._write(figure, "timeline", f"One cycle: {about}")

    def _name_stage(self, ax: Axes, text: str, extent: tuple[float, float], is_close: bool) -> None:
        """In the middle of a wide stage; above the edge of a narrow one, towards the middle of the picture.

        Args:
            extent: start and end, 0 to 1.
            is_close: to the start of the one before: its name may still be there, so this one goes above it.
        """
        start, end = extent
        style: dict[str, Any] = {"fontsize": 9, "color": INK, "transform": ax.transAxes}
        if end - start > 0.12:
            ax.text((start + end) / 2, 0.93, text, ha="center", **style)
        else:
            height = 1.1 if is_close else 1.02
            side = "left" if start < 0.5 else "right"
            ax.text(start, height, text, ha=side, **style)

    def _named(self, method: str, temperature: float) -> str:
        return f"{method}, T = {temperature:g}" if len(self.temperatures) > 1 else method

    def _write(self, figure: Figure, name: str, title: str) -> Path:
        figure.suptitle(title + self.label, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
        figure.text(0.01, -0.01, self.caption, fontsize=7, color=MUTED, va="top")
        figure.tight_layout()
        path = self.folder / f"{name}.png"
        figure.savefig(path, dpi=DPI, bbox_inches="tight", facecolor="white")
        return path


def _bare(ax: Axes, grid: Literal["x", "both"] | None) -> None:
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.tick_params(length=0, colors=INK)
    if grid is not None:
        ax.grid(axis=grid, color=RULE, linewidth=0.6)
    ax.set_axisbelow(True)


def _legend(ax: Axes) -> None:
    """Beside the curves."""
    if ax.get_legend_handles_labels()[1]:
        ax.legend(fontsize=8, frameon=False, bbox_to_anchor=(1.01, 1), loc="upper left")


def rates_by_length(rounds: Sequence[Round], method: str, by_prompt: bool) -> list[tuple[float, float]]:
    """Points (length of the text, tokens a second): tokens over the time between them.

    Args:
        by_prompt: a point for each length of the prompt; else for each of some ranges of the text's length.
    """
    gaps = [
        (r.prompt_tokens if by_prompt else 0, r.prompt_tokens + index, gap)
        for r in rounds
        for index, gap in enumerate(r.runs[method].gaps, start=1)
    ]
    if not gaps:
        return []
    low, high = min(length for _, length, _ in gaps), max(length for _, length, _ in gaps) + 1
    groups: dict[int, list[tuple[int, float]]] = {}
    for prompt, length, gap in sorted(gaps):
        group = prompt if by_prompt else (length - low) * BINS // (high - low)
        groups.setdefault(group, []).append((length, gap))
    return [
        (sum(length for length, _ in found) / len(found), 1e3 * len(found) / sum(gap for _, gap in found))
        for found in groups.values()
        if len(found) >= LEAST_TOKENS and sum(gap for _, gap in found) > 0
    ]
