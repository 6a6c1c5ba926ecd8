"""The pair that ships, on held-out pictures: mean accepted tokens and speed-up, tree by tree, beside `model.generate`.

`python benchmarks/pair.py --output benchmarks/results/pair_cpu.json` measures 200 pictures with questions for
descriptions at temperature 0; a run that was stopped goes on from FILE.jsonl.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from ablation import parse_tree
from ablation_measure import Candidate, measure, report, run_facts
from accelerate import Accelerator

from vispec.draft.checkpoint import Draft
from vispec.draft.model import DraftModel
from vispec.pair.pretrained import WEIGHTS, load_pair
from vispec.target import Target
from vispec.training.pipeline import Setup

TREES = ("3,8,30", "5,4,16", "7,2,12", "auto")  # the released one, and what suits a CPU


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", type=Path, default=WEIGHTS, help="holds target/ and draft/ (default: the package's)")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--new-tokens", type=int, default=200, help="of an answer, at most (default %(default)s)")
    parser.add_argument("--trees", type=parse_tree, nargs="+", default=[parse_tree(tree) for tree in TREES])
    parser.add_argument("--random-draft", action="store_true", help="measure a draft of random weights, too")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the fastest for a model this small
    pair = load_pair(arguments.pair)
    setup = Setup(Accelerator(cpu=True), Target(pair.model), pair.processor)
    facts = {"row": "vispec", "part": 1.0, "seed": 0}
    candidates = [Candidate("vispec", pair.draft, arguments.trees, facts)]
    if arguments.random_draft:
        torch.manual_seed(0)
        draft = Draft(DraftModel(pair.draft.config), pair.model)
        candidates.append(Candidate("random", draft, arguments.trees, {**facts, "row": "random weights"}))
    lines = measure(setup, candidates, arguments.images, arguments.new_tokens, arguments.output.with_suffix(".jsonl"))
    result = {**run_facts(arguments, setup, "benchmarks/pair.py"), "rows": report(lines, candidates)}
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
