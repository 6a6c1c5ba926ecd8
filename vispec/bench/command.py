"""`vispec bench`, from its options to its results."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import PreTrainedModel

from vispec.bench.explain import explain, show_explained, typical_question
from vispec.bench.geometries import GEOMETRIES
from vispec.bench.measuring import Bench, Log, Measured
from vispec.bench.methods import COMPILED, Method, Tree, transformers_methods, vispec_methods, without_draft
from vispec.bench.prompts import HeldOutPictures, Source
from vispec.bench.subject import Subject, load_subject, simulated_subject
from vispec.bench.suites import load_suite
from vispec.bench.suites.paper import Paper
from vispec.bench.suites.table import Measurements, show_paper
from vispec.bench.summary import summarise
from vispec.bench.tables import show
from vispec.bench.timeline import trace_cycle
from vispec.commands.values import blaming
from vispec.cost import target_layer
from vispec.loading import load_target, quiet, torch_threads
from vispec.machine import facts_of_run
from vispec.pair.pretrained import DRAFT, TARGET, WEIGHTS
from vispec.target import DEVICES
from vispec.tree import TreeConfig

PICTURES = 52  # two of each kind of question
NEW_TOKENS = 256  # of a geometry's text
TREES = ((3, 8, 30), (5, 4, 16), "auto")
FILE_WIDTH = 180
MEASURED, SUMMARY = "measured.jsonl", "summary.json"


def run(**options: Any) -> int:
    """Measure, and show what came out.

    Returns:
        The exit code, 0.

    Raises:
        argparse.ArgumentError: an option's value cannot be used; it is named.
    """
    asked = argparse.Namespace(**options)
    _check(asked)
    with blaming("--trees"):
        trees = [TreeConfig(*tree) if isinstance(tree, tuple) else tree for tree in _trees(asked)]
    # where nobody looks, the tables are as wide as they are
    console = Console(highlight=False, width=None if sys.stdout.isatty() else FILE_WIDTH)
    with torch_threads(asked.threads or (1 if _is_pair(asked) else None)), quiet():
        subject = _subject(asked)
        if asked.explain:
            with blaming("--explain"):
                target_layer(subject.model.config.get_text_config())  # raises where there is nothing to predict by
        with blaming("--assistant"):
            methods = _methods(asked, subject, trees)
        facts = _facts(asked, subject, methods)
        asked.output.mkdir(parents=True, exist_ok=True)
        with blaming("--output"):
            log = Log(asked.output / MEASURED, facts)
        for name, text in facts.items():
            console.print(f"{name}: {text}", markup=False)
        measured = Bench(subject, methods, log, asked.temperatures, asked.repeats, console).run()
        baselines = {method.name: method.baseline for method in methods}
        rows = summarise(measured, baselines)
        show(console, rows, measured, subject.published, subject.is_simulated)
        if asked.suite == Paper.name:
            show_paper(console, {asked.model or "the pair": Measurements(measured.rounds, baselines)})
        result: dict[str, Any] = {"command": _command(), "facts": facts, "failed": measured.failed, "rows": rows}
        if asked.explain:
            result["explained"] = explain(subject, methods, measured)
            show_explained(console, result["explained"])
        (asked.output / SUMMARY).write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
        if asked.plots:
            _draw(asked.output, subject, methods, result, measured)
    console.print(f"Everything is in {asked.output}", markup=False)
    return 0


def _check(asked: argparse.Namespace) -> None:
    """What options cannot say of each other."""
    wrong = None
    if (asked.model is None) != (asked.draft is None):
        wrong = "--draft: expected one and its target, by --model, or neither"
    elif sum(value is not None for value in (asked.pair, asked.model, asked.geometry)) > 1:
        wrong = "--geometry, --model, --pair: expected one of them"
    elif asked.geometry is not None and asked.geometry not in GEOMETRIES:
        wrong = f"--geometry: expected one of {', '.join(GEOMETRIES)}, got {asked.geometry!r}"
    elif asked.geometry is not None and "auto" in _trees(asked):
        wrong = "--trees: expected fixed ones with --geometry, got auto: acceptance is made up for one tree alone"
    elif asked.geometry is not None and (asked.suite or asked.limit or asked.assistant or asked.random_draft):
        wrong = "--geometry: tokens and draft are random: no --suite, --limit, --assistant or --random-draft"
    elif _is_pair(asked) and not all((_pair_folder(asked) / name).is_dir() for name in (TARGET, DRAFT)):
        wrong = f"--pair: expected a folder with {TARGET}/ and {DRAFT}/, got {_pair_folder(asked)}"
    elif asked.data is not None and asked.suite is None:
        wrong = "--data: expected the suite whose data they are, by --suite"
    elif asked.device == "cuda" and not ("cuda" in DEVICES and torch.cuda.is_available()):
        wrong = "--device: there is no cuda, see `vispec info`"
    elif asked.plots:
        try:
            import matplotlib  # noqa: F401
        except ImportError:
            wrong = '--no-plots: matplotlib is missing; `pip install ".[bench]"` brings it, --no-plots does without'
    if wrong:
        raise argparse.ArgumentError(None, wrong)


def _is_pair(asked: argparse.Namespace) -> bool:
    return asked.model is None and asked.geometry is None


def _pair_folder(asked: argparse.Namespace) -> Path:
    return Path(asked.pair or WEIGHTS)


def _trees(asked: argparse.Namespace) -> Sequence[Any]:
    return asked.trees or (TREES[:1] if asked.geometry else TREES)


def _subject(asked: argparse.Namespace) -> Subject:
    has_cuda = "cuda" in DEVICES and torch.cuda.is_available()
    device = torch.device(asked.device or ("cuda" if has_cuda else "cpu"))
    dtype = getattr(torch, asked.dtype or ("float32" if device.type == "cpu" else "bfloat16"))
    if asked.geometry:
        new_tokens = asked.max_new_tokens or NEW_TOKENS
        with blaming("--accepted"):
            return simulated_subject(asked.geometry, asked.accepted, asked.contexts, new_tokens, device, dtype)
    with blaming("--suite"):
        source: Source = HeldOutPictures(asked.limit or PICTURES)
        if asked.suite:
            source = load_suite(asked.suite, asked.data, asked.limit)
    target, draft = asked.model or _pair_folder(asked) / TARGET, asked.draft or _pair_folder(asked) / DRAFT
    with blaming("--model" if asked.model else "--pair"):
        return load_subject(target, draft, source, device, dtype, asked.max_new_tokens, asked.random_draft)


def _methods(asked: argparse.Namespace, subject: Subject, trees: Sequence[Tree]) -> list[Method]:
    """Eager ones first, then compiled ones."""
    model = subject.model
    methods = transformers_methods(
        model,
        compiles=asked.compiles,
        assistant=_assistant(asked, model),
        lookup=not subject.is_simulated,  # a made-up text is no easier to copy than another
    )
    eager = [method for method in methods if method.baseline != COMPILED]
    if any(asked.temperatures):
        eager.append(without_draft(model))
    compiled = [method for method in methods if method.baseline == COMPILED]
    for label, new_draft in subject.drafts.items():
        eager += vispec_methods(model, new_draft, trees, label)
        if asked.compiles:
            compiled += vispec_methods(model, new_draft, trees, f"{label}, compiled", compiles=True)
    return [*eager, *compiled]


def _assistant(asked: argparse.Namespace, model: PreTrainedModel) -> PreTrainedModel | None:
    if asked.assistant is None:
        return None
    return load_target(asked.assistant, str(model.dtype).removeprefix("torch."), model.device)[0]


def _facts(asked: argparse.Namespace, subject: Subject, methods: Sequence[Method]) -> dict[str, str]:
    """What measurements that belong together have in common."""
    run = facts_of_run(subject.model, "auto")
    return {
        **subject.facts,
        "methods": "; ".join(method.name for method in methods),
        "assistant": str(asked.assistant),
        "temperatures": ", ".join(f"{value:g}" for value in asked.temperatures),
        "new tokens": str(asked.max_new_tokens or "as the prompts have it"),
        "run": run["Run"],
        "processor": f"{run['Processor']}, {os.cpu_count()} cores",
        "versions": run["Versions"],
    }


def _command() -> str:
    return shlex.join(["vispec", *sys.argv[1:]])


def _draw(
    folder: Path, subject: Subject, methods: Sequence[Method], result: Mapping[str, Any], measured: Measured
) -> None:
    from vispec.bench.plots import Plots  # matplotlib, which --no-plots does without

    facts = result["facts"]
    models = f"target: {facts['target']}; draft: {facts['draft']}; acceptance {facts['acceptance']}"
    caption = f"{result['command']}\n{models}\n{facts['processor']}; {facts['run']}; {facts['versions']}"
    fixed = next((m for m in methods if isinstance(m.tree, TreeConfig) and m.name not in measured.failed), None)
    cycle = trace_cycle(fixed, typical_question(subject, measured).inputs) if fixed else []
    plots = Plots(folder, result["rows"], caption, subject.is_simulated)
    plots.draw_all(measured.rounds, cycle, fixed.name if fixed else "")
