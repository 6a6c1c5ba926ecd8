"""Measuring several drafts of one target beside `model.generate`, picture by picture in one process."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from tqdm import tqdm
from transformers import BatchFeature

import vispec
from vispec.auto import CANDIDATES
from vispec.draft.checkpoint import Draft
from vispec.machine import cpu_name
from vispec.pair.dataset import make_sample
from vispec.pair.pretrained import Pair
from vispec.pair.write_requests import LONG
from vispec.training.pipeline import Setup

SEED, SPLIT = 4321, "test"  # pictures that neither target nor drafts were trained on
WARM_UP = 1  # pictures that are not counted


@dataclass(frozen=True)
class Candidate:
    """A draft to measure.

    Args:
        trees: to measure it with.
        facts: what it was trained on, for the report.
    """

    key: str
    draft: Draft
    trees: Sequence[vispec.TreeConfig | Literal["auto"]]
    facts: dict[str, Any]


def measure(
    setup: Setup, candidates: Sequence[Candidate], images: int, new_tokens: int, file: Path
) -> list[dict[str, Any]]:
    """One line a picture in `file`, which goes on where it ended.

    Each picture is answered by the target alone, by every candidate, and by the target alone again, so that all times
    lie close together whatever else the machine does; candidates take turns at coming first.
    """
    settings = {"drafts": {c.key: [str(t) for t in c.trees] for c in candidates}, "new_tokens": new_tokens}
    found = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else [settings]
    if found[0] != settings:
        raise ValueError(f"{file}: expected measurements of these drafts and trees, got others; move it away")
    lines = found[1:]
    with file.open("a") as output:
        if file.stat().st_size == 0:
            output.write(json.dumps(settings) + "\n")
        for index in tqdm(range(images), initial=len(lines), total=images, desc="measure", unit="picture"):
            if index < len(lines):
                continue
            if index == len(lines):
                for warm in range(WARM_UP):
                    measure_picture(setup, candidates, images + warm, new_tokens)
            line = measure_picture(setup, candidates, index, new_tokens)
            output.write(json.dumps(line) + "\n")
            output.flush()
            lines.append(line)
    return lines[:images]


def measure_picture(setup: Setup, candidates: Sequence[Candidate], index: int, new_tokens: int) -> dict[str, Any]:
    model = setup.target.model
    sample = make_sample(SEED, SPLIT, index, LONG)
    inputs = Pair(model, setup.processor, candidates[0].draft).inputs(sample.image, sample.question)
    length = inputs["input_ids"].shape[1]
    options = {"do_sample": False, "max_new_tokens": new_tokens}
    first, expected = time_plain(model, inputs, options)
    runs: dict[str, Any] = {}
    turn = index % len(candidates)
    for candidate in [*candidates[turn:], *candidates[:turn]]:
        for tree in candidate.trees:
            start = time.perf_counter()
            output = vispec.generate(model, candidate.draft, inputs, tree=tree, return_dict_in_generate=True, **options)
            seconds = time.perf_counter() - start
            drafted = output.speculation.trees
            accepted = output.speculation.num_accepted.flatten().clamp(min=0)
            most = max(tree.max_accepted for tree in ([tree] if isinstance(tree, vispec.TreeConfig) else CANDIDATES))
            runs[f"{candidate.key} {name_of(tree)}"] = {
                "seconds": seconds,
                "cycles_by_accepted": torch.bincount(accepted, minlength=most + 1).tolist(),
                "cycles_by_tree": Counter("none" if tree is None else name_of(tree) for tree in drafted),
                "identical": torch.equal(output.sequences, expected),
            }
    second, _ = time_plain(model, inputs, options)
    return {"tokens": expected.shape[1] - length, "plain_seconds": (first + second) / 2, "runs": runs}


def time_plain(model: Any, inputs: BatchFeature, options: dict[str, Any]) -> tuple[float, torch.Tensor]:
    start = time.perf_counter()
    ids = model.generate(**inputs, **options)
    return time.perf_counter() - start, ids


def name_of(tree: vispec.TreeConfig | Literal["auto"]) -> str:
    return f"{tree.depth},{tree.top_k},{tree.num_nodes}" if isinstance(tree, vispec.TreeConfig) else tree


def report(lines: Sequence[dict[str, Any]], candidates: Sequence[Candidate]) -> list[dict[str, Any]]:
    """A summary a draft and tree; prints them as a table, and the spread over seeds."""
    rows = []
    for candidate in candidates:
        for tree in candidate.trees:
            name = name_of(tree)
            rows.append({**candidate.facts, "tree": name, **summary(lines, f"{candidate.key} {name}")})
    print("| draft | part | seed | tree | tau | accepted >= 1, 2, ... | speed-up (all, median) | identical |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        shares = ", ".join(f"{share:.2f}" for share in row["accepted_at_least"])
        print(
            f"| {row['row']} | {row['part']:.2g} | {row['seed']} | {row['tree']} | {row['tau']:.2f} | {shares} | "
            f"{row['speed_up']:.2f}, {row['median_speed_up']:.2f} | {row['identical']} of {row['images']} |"
        )
    groups: dict[tuple[str, float, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["row"], row["part"], row["tree"]), []).append(row)
    for (name, _, tree), members in groups.items():
        if len(members) > 1:
            told = []
            for value in ("tau", "speed_up"):
                values = [row[value] for row in members]
                told.append(f"{value} {statistics.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})")
            print(f"{name}, tree {tree}, {len(members)} seeds: {'; '.join(told)}")
    return rows


def summary(lines: Sequence[dict[str, Any]], run: str) -> dict[str, Any]:
    runs = [line["runs"][run] for line in lines]
    plain = [line["plain_seconds"] for line in lines]
    cycles = [sum(counts) for counts in zip(*(run["cycles_by_accepted"] for run in runs), strict=True)]
    total = max(1, sum(cycles))
    seconds = sum(run["seconds"] for run in runs)
    return {
        "images": len(lines),
        "tokens": sum(line["tokens"] for line in lines),
        "cycles": sum(cycles),
        "tau": sum(accepted * count for accepted, count in enumerate(cycles)) / total,
        "accepted_at_least": [sum(cycles[depth:]) / total for depth in range(1, len(cycles))],
        "speed_up": sum(plain) / seconds,
        "median_speed_up": statistics.median(p / run["seconds"] for p, run in zip(plain, runs, strict=True)),
        "seconds": seconds,
        "plain_seconds": sum(plain),
        "identical": sum(run["identical"] for run in runs),
        "cycles_by_tree": sum((Counter(run["cycles_by_tree"]) for run in runs), Counter()),
    }


def run_facts(arguments: argparse.Namespace, setup: Setup, script: str) -> dict[str, Any]:
    """What a reader needs to run it again; `script` with all of its arguments that are no paths."""
    paths = ("folder", "pair", "output")
    sizes = {name: value for name, value in vars(arguments).items() if name not in (*paths, "trees")}
    told = " ".join(
        f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}")
        for name, value in sizes.items()
        if value is not False
    )
    return {
        "command": f"python {script} {told} --trees {' '.join(map(name_of, arguments.trees))}",
        "machine": f"{cpu_name()}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "target": f"{type(setup.target.model).__name__}, {setup.target.model.num_parameters() / 1e6:.1f}M, fp32",
        "pictures": f"split {SPLIT}, seed {SEED}, questions for descriptions",
    }
