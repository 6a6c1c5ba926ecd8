"""The order of measurements: turns that quote answers, methods that fail, warm-ups, and texts that differ."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from rich.console import Console
from transformers import AutoProcessor

from models import make_draft, make_prompt, make_target
from tiny_pair import save_tiny_pair
from vispec import TreeConfig
from vispec.bench.measuring import Bench, Log
from vispec.bench.methods import COMPILED, PLAIN, Method, transformers_methods, vispec_methods
from vispec.bench.prompts import Prompt
from vispec.bench.runs import compare, is_near_tie, measure
from vispec.bench.subject import Answers, Question, Subject, load_subject
from vispec.bench.timeline import shortest_cycle, trace_cycle

TREE = TreeConfig(2, 2, 6)


class Dialogues:
    """Two prompts, the first of two turns."""

    name = "dialogues"

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Iterator[Prompt]:
        image = Image.linear_gradient("L").convert("RGB")
        yield Prompt("a", "talk", ("What is it?", "And why?"), (image,), max_new_tokens=5)
        yield Prompt("b", "text", ("Who?",), max_new_tokens=4)

    def published(self, kind: str, temperature: float, target: str) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def pair_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_pair(tmp_path_factory.mktemp("pair"))


def subject_of_text(family: str = "llama", max_new_tokens: int = 8) -> Subject:
    """A small random target with one prompt."""
    model = make_target(family)
    inputs = make_prompt(model, "text", random.Random(0))

    def questions(answers: Answers) -> Iterator[Question]:
        yield Question("p", 0, "text", inputs, max_new_tokens)

    return Subject(model, {"": lambda: make_draft(model)}, {}, questions, 1, lambda kind, temperature: None)


def run_bench(subject: Subject, methods: list[Method], folder: Path) -> Any:
    log = Log(folder / "measured.jsonl", {})
    return Bench(subject, methods, log, [0.0], 1, Console(quiet=True)).run()


def test_later_turns_quote_the_targets_answers(pair_folder: Path, tmp_path: Path) -> None:
    device = torch.device("cpu")
    subject = load_subject(pair_folder / "target", pair_folder / "draft", Dialogues(), device, torch.float32)
    methods = transformers_methods(subject.model, compiles=False, assistant=None, lookup=False)
    methods += vispec_methods(subject.model, subject.drafts[""], [TREE], "")
    measured = run_bench(subject, methods, tmp_path)
    assert [(r.prompt, r.turn, len(r.runs[PLAIN].tokens)) for r in measured.rounds] == [
        ("a", 0, 5),
        ("a", 1, 5),
        ("b", 0, 4),
    ]
    answer = measured.rounds[0].runs[PLAIN].tokens
    assert measured.answers == {("a", 0): answer}
    tokenizer = AutoProcessor.from_pretrained(pair_folder / "target").tokenizer
    second = next(q for q in subject.questions(measured.answers) if q.turn == 1)
    text = tokenizer.decode(second.inputs["input_ids"][0])
    assert text.index("What is it?") < text.index(tokenizer.decode(answer)) < text.index("And why?")
    assert second.inputs["pixel_values"].shape[0] == 1


def test_peer_that_fails_is_a_result(tmp_path: Path) -> None:
    subject = subject_of_text()

    def fail(inputs: Any, **options: Any) -> Any:
        raise RuntimeError("no such kernel\nand more")

    (plain,) = transformers_methods(subject.model, compiles=False, assistant=None, lookup=False)
    measured = run_bench(subject, [plain, Method("peer", fail, may_fail=True)], tmp_path)
    assert measured.failed == {"peer": "RuntimeError: no such kernel"}
    assert [list(r.runs) for r in measured.rounds] == [[PLAIN]]
    assert Log(tmp_path / "measured.jsonl", {}).measured.failed == measured.failed
    (tmp_path / "ours").mkdir()
    with pytest.raises(RuntimeError, match="no such kernel"):
        run_bench(subject, [plain, Method("ours", fail)], tmp_path / "ours")


def test_auto_warms_up_until_it_learns_nothing_new(pair_folder: Path, tmp_path: Path) -> None:
    subject = subject_of_text(max_new_tokens=24)
    methods = transformers_methods(subject.model, compiles=False, assistant=None, lookup=False)
    methods += vispec_methods(subject.model, subject.drafts[""], ["auto", TREE], "")
    question = next(subject.questions({}))
    many = replace(subject, questions=lambda answers: iter([question] * 30))
    measured = run_bench(many, methods, tmp_path)
    warm_ups = {method: len(runs) for (method, _), runs in measured.warm_ups.items()}
    assert warm_ups[PLAIN] == warm_ups["vispec 2,2,6"] == 3
    assert 3 <= warm_ups["vispec auto"] <= 25  # how many hangs on the times that it measures
    assert measured.rounds, "and then it is measured"


def test_assisted_decoding(tmp_path: Path) -> None:
    subject = subject_of_text()
    assistant = make_target("llama", seed=1)
    methods = transformers_methods(subject.model, compiles=False, assistant=assistant, lookup=True)
    measured = run_bench(subject, methods, tmp_path)
    assert not measured.failed
    (one,) = measured.rounds
    assert list(one.runs) == [PLAIN, "prompt lookup", "assisted"]
    assert all(run.difference is None for run in one.runs.values())


def test_static_cache_and_compiled_forward(tmp_path: Path) -> None:
    subject = subject_of_text()
    methods = transformers_methods(subject.model, compiles=True, assistant=None, lookup=False)
    torch._dynamo.utils.counters.clear()
    measured = run_bench(subject, methods, tmp_path)
    assert not measured.failed
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1
    (one,) = measured.rounds
    assert list(one.runs) == [PLAIN, COMPILED]
    assert one.runs[COMPILED].difference is None


def test_where_texts_part() -> None:
    subject = subject_of_text()
    inputs = next(subject.questions({})).inputs
    length = inputs["input_ids"].shape[1]
    plain = subject.model.generate(**inputs, do_sample=False, max_new_tokens=8)[0, length:].tolist()
    assert compare(subject.model, inputs, plain, list(plain)) is None
    assert compare(subject.model, inputs, plain, plain[:5]) == {"at": 5, "gap": None, "noise": None}
    other = [*plain[:3], plain[3] + 1, *plain[4:]]
    found = compare(subject.model, inputs, plain, other)
    assert found is not None
    with torch.no_grad():
        logits = subject.model(torch.tensor([[*inputs["input_ids"][0].tolist(), *plain[:3]]])).logits[0, -1]
    assert found["at"] == 3
    assert found["gap"] == pytest.approx(float(logits[plain[3]] - logits[plain[3] + 1]), abs=1e-4)
    assert found["noise"] is not None
    assert found["noise"] < 1e-3
    assert not is_near_tie(found)
    assert is_near_tie({"at": 3, "gap": 1e-5, "noise": 1e-5})
    assert not is_near_tie({"at": 3, "gap": None, "noise": None})


def test_compiled_verification() -> None:
    """The same text as without, and compared with compiled decoding."""
    subject = subject_of_text(max_new_tokens=12)
    inputs = next(subject.questions({})).inputs
    (eager,) = vispec_methods(subject.model, subject.drafts[""], [TREE], "")
    (compiled,) = vispec_methods(subject.model, subject.drafts[""], [TREE], ", compiled", compiles=True)
    options = {"do_sample": False, "max_new_tokens": 12}
    expected, found = (measure(method, inputs, options, 0) for method in (eager, compiled))
    assert (found.tokens, found.num_accepted) == (expected.tokens, expected.num_accepted)
    assert (eager.baseline, compiled.baseline) == (PLAIN, COMPILED)


def test_timeline_has_all_stages() -> None:
    subject = subject_of_text()
    inputs = next(subject.questions({})).inputs
    (method,) = vispec_methods(subject.model, subject.drafts[""], [TREE], "")
    spans = trace_cycle(method, inputs)
    assert list(dict.fromkeys(span.stage for span in spans)) == ["update", "draft", "verify", "accept"]
    assert spans[0].start == 0
    assert all(before.start <= after.start for before, after in pairwise(spans))
    attention = [span.stage for span in spans if span.lane == "attention"]
    layers = subject.model.config.num_hidden_layers
    assert attention == ["update", *["draft"] * TREE.depth, *["verify"] * layers]


def test_timeline_of_kernels() -> None:
    """The shortest whole cycle; the last one's end may come in two launches."""
    cycle = ["gemm", "expand_frontier_kernel", "build_tree_kernel", "gemm", "select_tokens_kernel", "compact_kv_kernel"]
    names = ["prefill", *cycle, "compact_kv_kernel", *cycle, *cycle]
    durations = [1.0] * 8 + [2.0] * 6 + [1.0] * 6
    spans, start = [], 0.0
    for name, duration in zip(names, durations, strict=True):
        spans.append((start, start + duration, name))
        start += duration
    found = shortest_cycle(spans)
    assert [span.stage for span in found] == ["update", "draft", "draft", "verify", "accept", "accept"]
    assert (found[0].start, found[-1].end) == (0.0, 6.0)
    assert shortest_cycle([(0.0, 1.0, "gemm")]) == []
