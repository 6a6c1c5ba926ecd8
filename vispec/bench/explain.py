"""`vispec bench --explain`: what the cost model predicts of each tree, beside what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any

from rich.console import Console
from rich.table import Table

from vispec.bench.measuring import Measured, Round
from vispec.bench.methods import PLAIN, Method
from vispec.bench.subject import Question, Subject
from vispec.bench.summary import ALL
from vispec.calibration import calibrate
from vispec.cost import CostModel
from vispec.tree import TreeConfig

FEW = 9  # questions that are looked at to calibrate with one
REST = ("accept", "other")  # stages
STAGES = (*REST, "draft", "verify", "captured")


def explain(subject: Subject, methods: Sequence[Method], measured: Measured) -> dict[str, Any]:
    """Calibrate, and predict each of our eager methods with a fixed tree.

    Returns:
        The device's rates, and a row for each method (of a made-up text: and length of the prompt).

    Raises:
        NotImplementedError: the target's costs cannot be predicted, see `vispec.cost`.
    """
    question = typical_question(subject, measured)
    hidden = question.length - _draft_rows(subject, question)
    new_draft = next(iter(subject.drafts.values()))
    model = calibrate(subject.model, new_draft(), question.inputs, question.length - hidden)
    rows = []
    for method in methods:
        if isinstance(method.tree, TreeConfig) and method.baseline == PLAIN:
            chosen = [r for r in measured.rounds if method.name in r.runs and r.runs[method.name].num_accepted]
            for kind in dict.fromkeys(r.kind for r in chosen) if subject.is_simulated else (ALL,):
                found = [r for r in chosen if kind in (ALL, r.kind) and len(r.runs[PLAIN].tokens) > 1]
                if found:
                    rows.append({"method": method.name, "kind": kind, **_row(model, method, found, hidden)})
    return {"rates": asdict(model.rates), "rows": rows}


def typical_question(subject: Subject, measured: Measured) -> Question:
    """Of the first few, the one of middling length."""
    few = sorted(islice(subject.questions(measured.answers), FEW), key=lambda question: question.length)
    return few[len(few) // 2]


def _draft_rows(subject: Subject, question: Question) -> int:
    """What the prompt takes in the draft's cache, about: an image is no more than its slots."""
    image_token = getattr(subject.model.config, "image_token_id", None)
    if image_token is None:
        return question.length
    return question.length - int((question.inputs["input_ids"] == image_token).sum())


def _row(model: CostModel, method: Method, rounds: Sequence[Round], hidden: int) -> dict[str, Any]:
    """Milliseconds predicted and measured, medians; `hidden`: positions of the prompt that the draft does not see."""
    assert isinstance(method.tree, TreeConfig)  # of the caller
    runs = [r.runs[method.name] for r in rounds]
    plain = [r.runs[PLAIN] for r in rounds]
    context = round(
        statistics.median(r.prompt_tokens + len(run.tokens) / 2 for r, run in zip(rounds, runs, strict=True))
    )
    stages = {
        name: statistics.median(run.stages.get(name, 0.0) / len(run.num_accepted) for run in runs) for name in STAGES
    }
    step = statistics.median((run.seconds - 1e-3 * run.arrivals[0]) / (len(run.tokens) - 1) for run in plain)
    accepted = [count for run in runs for count in run.num_accepted]
    tau = sum(accepted) / len(accepted)
    draft_context = max(1, context - hidden)
    costs = model.cycle(method.tree, context, draft_context)
    cycle = sum(stages.values())
    row: dict[str, Any] = {"context": context, "mean_accepted": tau}
    row["plain_ms"] = [1e3 * model.plain(context), 1e3 * step]
    if not stages["captured"]:
        row["draft_ms"] = [1e3 * costs.draft, 1e3 * stages["draft"]]
        row["verify_ms"] = [1e3 * costs.verify, 1e3 * stages["verify"]]
        row["rest_ms"] = [1e3 * costs.rest, 1e3 * sum(stages[name] for name in REST)]
    row["roofline_ms"] = 1e3 * model.roofline(method.tree, context, draft_context)
    row["cycle_ms"] = [1e3 * costs.cycle, 1e3 * cycle]
    row["speed_up"] = [model.speed_up(method.tree, tau, context, draft_context), (tau + 1) * step / cycle]
    row["error"] = row["speed_up"][0] / row["speed_up"][1] - 1
    return row


def show_explained(console: Console, found: Mapping[str, Any]) -> None:
    """As a table."""
    rates = found["rates"]
    table = Table(
        title=f"Cost model: reads {rates['bandwidth'] / 1e9:.1f} GB/s, copies {rates['copying'] / 1e9:.1f} GB/s of a "
        f"cache, calculates {rates['flops'] / 1e9:.0f} GFLOP/s; each cell predicted / measured, ms",
        title_justify="left",
        pad_edge=False,
    )
    table.add_column("method")
    for name in ("context", "plain step", "draft", "verify", "rest", "cycle", "roofline", "tau", "speed-up", "error"):
        table.add_column(name, justify="right")
    for row in found["rows"]:
        table.add_row(
            row["method"],
            str(row["context"]),
            *[_both(row.get(f"{name}_ms")) for name in ("plain", "draft", "verify", "rest", "cycle")],
            f"{row['roofline_ms']:.2f}",
            f"{row['mean_accepted']:.2f}",
            _both(row["speed_up"]),
            f"{row['error']:+.0%}",
        )
    console.print(table)
    console.print(
        "The roofline is a cycle's bytes and flops at those rates. Fixed costs were calibrated with plain decoding and "
        "a tree of four nodes, right after the measurements; all else is predicted. The speed-up is of whole cycles "
        "over plain steps, with the measured tau; a machine that was busier while it was measured than while it was "
        "calibrated cancels out there.",
        highlight=False,
    )


def _both(pair: Sequence[float] | None) -> str:
    return "-" if pair is None else f"{pair[0]:.2f} / {pair[1]:.2f}"
