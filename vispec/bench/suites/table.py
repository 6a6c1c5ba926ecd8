"""The paper's table: tau and speed-up, a row for each target and method, a column for each benchmark, then the average.

`python -m vispec.bench.suites.table TARGET=DIR ...` makes one table of runs of `vispec bench --suite paper`. DIR is the
`--output` of a run, TARGET the name of its rows: the paper's numbers stand below ours where it has them for that name.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from vispec.bench.measuring import Log, Round
from vispec.bench.methods import NO_DRAFT
from vispec.bench.suites.paper import BENCHMARKS, PUBLISHED, TARGETS

MEASURED, SUMMARY = "measured.jsonl", "summary.json"  # of a run's folder
AVERAGE = "Avg."


@dataclass(frozen=True)
class Cell:
    """Of one method on one benchmark.

    Args:
        tau: draft tokens accepted a cycle, over all cycles of all samples; None: the method does not draft.
        speed_up: the mean of the samples' tokens a second, prompt and image included, over the baseline's.
    """

    tau: float | None
    speed_up: float

    def __str__(self) -> str:
        return f"{'-' if self.tau is None else format(self.tau, '.2f')} {self.speed_up:.2f}x"


@dataclass(frozen=True)
class Measurements:
    """What a run of `vispec bench` measured, and with what each method is compared."""

    rounds: Sequence[Round]
    baselines: Mapping[str, str]

    def cells(self) -> dict[tuple[float, str], dict[str, Cell]]:
        """By temperature and method, then by benchmark; rounds without the baseline count for nothing, nor does ours
        without a draft, which is there to compare texts."""
        grouped: dict[tuple[float, str], dict[str, list[Round]]] = {}
        for one in self.rounds:
            for method in one.runs:
                if method not in (self.baselines[method], NO_DRAFT) and self.baselines[method] in one.runs:
                    grouped.setdefault((one.temperature, method), {}).setdefault(one.kind, []).append(one)
        return {
            key: {kind: self._cell(found, key[1]) for kind, found in kinds.items()} for key, kinds in grouped.items()
        }

    def _cell(self, rounds: Sequence[Round], method: str) -> Cell:
        accepted = [count for one in rounds for count in one.runs[method].num_accepted]
        names = (method, self.baselines[method])
        ours, base = (statistics.mean(one.runs[name].rate for one in rounds) for name in names)
        return Cell(statistics.mean(accepted) if accepted else None, ours / base)


def read_run(folder: Path) -> Measurements:
    """From the `--output` of `vispec bench`.

    Raises:
        FileNotFoundError: no run ended there.
    """
    summary, measured = folder / SUMMARY, folder / MEASURED
    for file in (summary, measured):
        if not file.is_file():
            raise FileNotFoundError(
                f"{folder}: expected {SUMMARY} and {MEASURED} of `vispec bench`, got no {file.name}"
            )
    baselines = {row["method"]: row["baseline"] for row in json.loads(summary.read_text())["rows"]}
    return Measurements(Log(measured, {}).measured.rounds, baselines)


def published_cells(target: str, temperature: float) -> dict[str, Cell]:
    """The paper's, by benchmark; empty for a target that is not in it."""
    numbers = PUBLISHED.get((TARGETS.get(Path(target).name, target), temperature), ())
    return {benchmark.title: Cell(*pair) for benchmark, pair in zip(BENCHMARKS, numbers, strict=bool(numbers))}


def average(cells: Mapping[str, Cell], titles: Sequence[str]) -> Cell | None:
    """Over these benchmarks, each counted once, as the paper has it; None where one of them is missing."""
    if not titles or any(title not in cells for title in titles):
        return None
    taus = [tau for title in titles if (tau := cells[title].tau) is not None]
    speed_up = statistics.mean(cells[title].speed_up for title in titles)
    return Cell(statistics.mean(taus) if len(taus) == len(titles) else None, speed_up)


def paper_table(runs: Mapping[str, Measurements]) -> Table:
    """All runs in one table.

    Args:
        runs: by target, named as in PUBLISHED, as on the Hub, or otherwise: such rows have no number below ours.
    """
    titles = [benchmark.title for benchmark in BENCHMARKS]
    table = Table(title="tau and speed-up (the paper's)", title_justify="left", show_lines=True)
    table.add_column("target, method")
    for title in (*titles, AVERAGE):
        table.add_column(title, justify="right", no_wrap=True)
    for target, run in runs.items():
        for (temperature, method), cells in sorted(run.cells().items()):
            published = published_cells(target, temperature) if cells_have_tau(cells) else {}
            there = [title for title in titles if title in cells]
            pairs = [(cells.get(title), published.get(title)) for title in titles]
            pairs.append((average(cells, there), average(published, there)))
            table.add_row(f"{target}, T={temperature:g}\n{method}", *[_two_lines(*pair) for pair in pairs])
    return table


def cells_have_tau(cells: Mapping[str, Cell]) -> bool:
    """Whether the method drafts as ours does: the paper's numbers are of its own method alone."""
    return all(cell.tau is not None for cell in cells.values())


def _two_lines(ours: Cell | None, published: Cell | None) -> str:
    return f"{'-' if ours is None else ours}\n{'' if published is None else f'({published})'}".rstrip("\n")


def notes(runs: Mapping[str, Measurements]) -> list[str]:
    """How to read the table, and what differs from the paper's way for the benchmarks in it."""
    kinds = {one.kind for run in runs.values() for one in run.rounds}
    lines = [
        "tau counts accepted draft tokens, over all cycles; the speed-up is the ratio of the samples' mean tokens a "
        "second, prompt included. Tokens are counted alike for all methods, which the paper's speed-up does not do."
    ]
    return lines + [f"{b.title}: {b.differs}." for b in BENCHMARKS if b.differs and b.title in kinds]


def show_paper(console: Console, runs: Mapping[str, Measurements]) -> None:
    """The table, and how to read it."""
    console.print(paper_table(runs))
    for line in notes(runs):
        console.print(line, highlight=False, markup=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "runs", nargs="+", metavar="TARGET=DIR", help=f"targets of the paper: {', '.join(TARGETS.values())}"
    )
    runs = {}
    for text in parser.parse_args().runs:
        target, _, folder = text.partition("=")
        try:
            runs[target] = read_run(Path(folder))
        except FileNotFoundError as error:
            parser.error(f"TARGET=DIR: {error}")
    show_paper(Console(highlight=False), runs)


if __name__ == "__main__":
    main()
