"""The method's claims on one pair: drafts trained without one part each, measured on held-out pictures.

`python benchmarks/ablation.py FOLDER` does everything in FOLDER and goes on there when it was stopped. All drafts
start from one text stage. `vispec` and `eagle-2` are trained on all samples, once a seed; the others on `--share` of
them with one seed, beside a `vispec` of that budget. A budget is a number of samples and of epochs, so of optimizer
steps too: the row without the target's long answers reads as many pictures, with the data's own short answers.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from ablation_measure import Candidate, measure, report, run_facts

import vispec
from vispec.draft.checkpoint import Draft
from vispec.pair.dataset import SHARES, make_turns
from vispec.pair.pretrained import WEIGHTS
from vispec.pair.write_requests import LONG, SHORT, write_requests
from vispec.training.answers import write_answers
from vispec.training.pipeline import GIB, Setup, new_draft, prepare, run_stage
from vispec.training.readings import FeatureStore
from vispec.training.requests import read_requests
from vispec.training.samples import Samples, read_samples
from vispec.training.settings import TrainOptions
from vispec.training.source import SampleSource

DATA_SEED = 7  # another one than the target was trained with
MAX_LENGTH = 1024  # positions of a sample


@dataclass(frozen=True)
class Row:
    """One draft of the table.

    Args:
        data: "long", the target's own long answers, or "short", the data's own short ones.
        part: of the samples, 1.0 or less.
        seed: of new weights, the order of samples and their noise.
        changes: options of `vispec train` that make it an ablation.
    """

    name: str
    part: float
    seed: int
    data: str = "long"
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return f"{self.name}, part {self.part:.2g}, seed {self.seed}"


def rows_of(seeds: int, share: float) -> list[Row]:
    eagle = {"num_queries": 0, "global_feature": False}
    rows = [Row("vispec", 1.0, seed) for seed in range(seeds)]
    rows += [Row("eagle-2", 1.0, seed, changes=eagle) for seed in range(seeds)]
    return [
        *rows,
        Row("vispec", share, 0),
        Row("without global feature", share, 0, changes={"global_feature": False}),
        Row("without slots", share, 0, changes={"num_queries": 1}),
        Row("without long answers", share, 0, data="short"),
        Row("without multi-token pass", share, 0, changes={"multi_token_steps": 0}),
    ]


class Ablation:
    """Everything in one folder; each step is skipped where an earlier run has done it."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments, self.folder = arguments, arguments.folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.options = TrainOptions(
            model=str(arguments.pair / "target"),
            data="",
            output=self.folder,
            dtype="float32",
            device="cpu",
            epochs=arguments.epochs,
            text_epochs=arguments.text_epochs,
            batch_size=arguments.batch_size,
            micro_batch_size=arguments.batch_size,
            learning_rate=arguments.learning_rate,
            max_length=MAX_LENGTH,
            eval_share=0.0,  # measured on pictures of another split, at the end
            eval_samples=0,
        )
        self.setup: Setup = prepare(self.options)
        self.found: dict[str, Samples] = {}

    def samples(self, name: str) -> Samples:
        """Of "text", "long" or "short": pictures, questions and answers, written once."""
        if name not in self.found:
            self.found[name] = self._write_samples(name)
        return self.found[name]

    def _write_samples(self, name: str) -> Samples:
        count = {"text": self.arguments.text_samples, "long": self.arguments.samples}
        number = count.get(name, round(self.arguments.samples * self.arguments.share))
        data = self.folder / f"{name}_data"
        file = data / "requests.jsonl"
        if not file.exists() or file.read_bytes().count(b"\n") < number:
            if name == "text":
                data.mkdir(exist_ok=True)
                write_dialogues(file, number)
            else:
                write_requests(data, number, "train", DATA_SEED, LONG if name == "long" else SHORT)
        answers = self.folder / f"{name}_answers"
        write_answers(
            self.setup.target.model,
            self.setup.processor,
            read_requests(file),
            answers,
            generate=name == "long",
            instruction="",  # the pair was trained to describe at length when asked to, and on no other request
            max_new_tokens=self.arguments.max_new_tokens,
            batch_size=self.arguments.generate_batch_size,
        )
        return read_samples(answers)

    def source(self, name: str, part: float = 1.0) -> SampleSource:
        """The first samples; what the target makes of them is kept on disk and serves every row."""
        stored = self.samples(name)
        store = FeatureStore(self.folder / f"{name}_features", int(self.arguments.feature_cache * GIB))
        number = round(len(stored) * part)
        return SampleSource(self.setup.target, self.setup.processor, stored[:number], MAX_LENGTH, store)

    @cached_property
    def text_draft(self) -> Path:
        """The draft that all rows start from."""
        folder = self.folder / "text"
        draft = new_draft(self.setup.target, self.options)
        run_stage("text", self.source("text"), self.setup, draft, self.options, folder)
        Draft(draft, self.setup.target.model).save_pretrained(folder / "draft")
        return folder / "draft"

    def train(self, row: Row) -> Candidate:
        """The draft of a row, and what it was trained on."""
        folder = self.folder / "rows" / row.key.replace(", ", "_").replace(" ", "-")
        options = replace(self.options, init=str(self.text_draft), seed=row.seed, **row.changes)
        source = self.source(row.data, 1.0 if row.data == "short" else row.part)
        draft = new_draft(self.setup.target, options)
        print(f"{row.key}:", flush=True)
        run_stage("vision", source, self.setup, draft, options, folder)
        log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        trees = self.arguments.trees if row.part == 1.0 else self.arguments.trees[:1]
        facts = {
            "row": row.name,
            "part": row.part,
            "seed": row.seed,
            "samples": len(source.stored),
            "answer_tokens": sum(count_answer(source, index) for index in range(len(source.stored))),
            "steps": log[-1]["step"],
            "last_loss": log[-1]["loss"],
            "trainable_parameters": sum(weight.numel() for weight in draft.parameters()),
        }
        return Candidate(row.key, Draft(draft, self.setup.target.model), trees, facts)


def write_dialogues(file: Path, number: int) -> None:
    """Questions and answers of the generator, without their pictures."""
    with file.open("w") as lines:
        for index in range(number):
            _, (turn,), _ = make_turns(DATA_SEED + 1, "train", index, shares=SHARES)
            lines.write(json.dumps({"prompt": turn.question, "answer": turn.answer}) + "\n")


def count_answer(source: SampleSource, index: int) -> int:
    """Tokens of a sample's answer: as the target wrote it, or of the text that was given."""
    sample = source.stored[index]
    if sample.answer is not None:
        return len(sample.answer)
    tokenizer = source.processor.tokenizer
    return sum(len(tokenizer.tokenize(sample.text[start:end])) for start, end in sample.spans)


def parse_tree(text: str) -> vispec.TreeConfig | Literal["auto"]:
    return "auto" if text == "auto" else vispec.TreeConfig(*map(int, text.split(",")))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("folder", type=Path, help="for data, checkpoints and measurements; a run in it goes on")
    add("--pair", type=Path, default=WEIGHTS, help="holds target/ (default: the pair in the package)")
    add("--samples", type=int, default=6_000, help="of the rows on all data (default %(default)s)")
    add("--share", type=float, default=1 / 3, help="of them for the other rows (default a third)")
    add("--text-samples", type=int, default=6_000, help="of the text stage (default %(default)s)")
    add("--epochs", type=float, default=8.0, help="(default %(default)s)")
    add("--text-epochs", type=float, default=4.0, help="(default %(default)s)")
    add("--batch-size", type=int, default=16, help="(default %(default)s)")
    add("--learning-rate", type=float, default=1e-3, help="(default %(default)s)")
    add("--max-new-tokens", type=int, default=300, help="of an answer to train on (default %(default)s)")
    add("--generate-batch-size", type=int, default=32, help="(default %(default)s)")
    add("--feature-cache", type=float, default=12.0, help="GiB on disk for each kind of data (default %(default)s)")
    add("--seeds", type=int, default=2, help="of vispec and eagle-2 (default %(default)s)")
    add("--images", type=int, default=200, help="held-out ones to measure (default %(default)s)")
    add("--new-tokens", type=int, default=200, help="of a measured answer, at most (default %(default)s)")
    add(
        "--trees",
        type=parse_tree,
        nargs="+",
        default=[vispec.TreeConfig(3, 8, 30), vispec.TreeConfig(3, 4, 10)],
        metavar="D,K,N",
        help="the first for every row, the others for the rows on all data (default 3,8,30 3,4,10)",
    )
    add("--output", type=Path, help="the results' JSON (default FOLDER/ablation.json)")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(1)  # the fastest for a model this small
    ablation = Ablation(arguments)
    candidates = [ablation.train(row) for row in rows_of(arguments.seeds, arguments.share)]
    lines = measure(
        ablation.setup, candidates, arguments.images, arguments.new_tokens, arguments.folder / "measured.jsonl"
    )
    facts = run_facts(arguments, ablation.setup, "benchmarks/ablation.py FOLDER")
    result = {**facts, "rows": report(lines, candidates)}
    (arguments.output or arguments.folder / "ablation.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
