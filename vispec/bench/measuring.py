"""The measurements: each question answered by every method in turn, a line a round, in a file that a killed run goes on
from."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from vispec.auto import AUTO, auto_plan
from vispec.bench.methods import NO_DRAFT, PLAIN, Method, cache_rows
from vispec.bench.runs import Run, compare, first_difference, measure
from vispec.bench.subject import Answers, Question, Subject
from vispec.target import Target

WARM_UPS = 3  # questions that every method answers before it is measured
MOST_WARM_UPS = 24  # of `tree="auto"`, which is warm once two in a row taught it the cost of no further tree


@dataclass(frozen=True)
class Round:
    """One question answered by every method, one right after the other."""

    prompt: str
    turn: int
    kind: str
    temperature: float
    repeat: int
    prompt_tokens: int
    runs: dict[str, Run]


@dataclass
class Measured:
    """All that a file holds.

    Args:
        warm_ups: calls that are not counted, the first ones of each process, by method and temperature.
        failed: why a method does not run.
        answers: the target's own, that later turns quote.
    """

    rounds: list[Round]
    warm_ups: dict[tuple[str, float], list[Run]]
    failed: dict[str, str]
    answers: Answers


class Log:
    """The file: its first line says what is measured, each other one is a result. A line cut by a kill is dropped.

    Raises:
        ValueError: the file holds measurements of something else.
    """

    def __init__(self, file: Path, settings: Mapping[str, Any]) -> None:
        self.file = file
        text = file.read_text() if file.exists() else ""
        whole = text[: text.rfind("\n") + 1]
        lines = [json.loads(line) for line in whole.splitlines()]
        if lines:
            different = [name for name in settings if lines[0]["settings"].get(name) != settings[name]]
            if different:
                name = different[0]
                raise ValueError(
                    f"output: {file} holds measurements with another {name}: expected {settings[name]!r}, got "
                    f"{lines[0]['settings'].get(name)!r}; move it away, or choose another --output"
                )
        if whole != text:
            file.write_text(whole)
        self.measured = Measured([], {}, {}, {})
        for line in lines[1:]:
            self._take(line)
        if not lines:
            self._write({"settings": dict(settings)})

    def add_round(self, measured: Round) -> None:
        self.measured.rounds.append(measured)
        self._write({"round": asdict(measured)})

    def add_warm_up(self, method: str, temperature: float, run: Run) -> None:
        self._add({"warm_up": method, "temperature": temperature, "run": asdict(run)})

    def add_failure(self, method: str, reason: str) -> None:
        self._add({"failed": method, "reason": reason})

    def add_answer(self, question: Question, tokens: list[int]) -> None:
        self._add({"answer": [question.prompt, question.turn, tokens]})

    def _add(self, line: dict[str, Any]) -> None:
        self._take(line)
        self._write(line)

    def _write(self, line: dict[str, Any]) -> None:
        with self.file.open("a") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")

    def _take(self, line: dict[str, Any]) -> None:
        if "round" in line:
            runs = {name: Run(**run) for name, run in line["round"].pop("runs").items()}
            self.measured.rounds.append(Round(**line["round"], runs=runs))
        elif "warm_up" in line:
            self.measured.warm_ups.setdefault((line["warm_up"], line["temperature"]), []).append(Run(**line["run"]))
        elif "failed" in line:
            self.measured.failed[line["failed"]] = line["reason"]
        else:
            prompt, turn, tokens = line["answer"]
            self.measured.answers[prompt, turn] = tokens


class Bench:
    """Measures a subject with all methods.

    Args:
        log: what it holds already is not measured again.
        temperatures: 0: greedy.
        repeats: of each question, far apart in time.
    """

    def __init__(
        self,
        subject: Subject,
        methods: Sequence[Method],
        log: Log,
        temperatures: Sequence[float],
        repeats: int,
        console: Console,
    ) -> None:
        self.subject, self.methods, self.log, self.console = subject, list(methods), log, console
        self.temperatures, self.repeats = temperatures, repeats
        self.warm: set[tuple[float, int]] = set()  # temperature and size of questions that every method has seen

    def run(self) -> Measured:
        """Measure what is missing."""
        done = {(r.repeat, r.temperature, r.prompt, r.turn) for r in self.log.measured.rounds}
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        with Progress(TextColumn("{task.description}"), *columns, console=self.console) as progress:
            bar = progress.add_task("", total=self.repeats * len(self.temperatures) * self.subject.num_prompts)
            for number, (repeat, temperature, question) in enumerate(self._plan()):
                if (repeat, temperature, question.prompt, question.turn) not in done:
                    about = f"temperature {temperature:g}, {question.kind}"
                    progress.update(bar, description=f"warm-up, {about}")
                    self._warm_up(question, temperature)
                    progress.update(bar, description=f"repeat {repeat + 1}, {about}")
                    self._measure(question, temperature, repeat, number)
                progress.advance(bar, float(question.is_last))
        return self.log.measured

    def _plan(self) -> Iterator[tuple[int, float, Question]]:
        for repeat in range(self.repeats):
            for temperature in self.temperatures:
                for question in self._questions():
                    yield repeat, temperature, question

    def _questions(self) -> Iterator[Question]:
        """With the target's own answers wherever a later turn quotes them."""
        answers = self.log.measured.answers
        for question in self.subject.questions(answers):
            yield question
            if not question.is_last and (question.prompt, question.turn) not in answers:
                ids = self.subject.model.generate(
                    **question.inputs, do_sample=False, max_new_tokens=question.max_new_tokens
                )
                self.log.add_answer(question, ids[0, question.length :].tolist())

    def _warm_up(self, question: Question, temperature: float) -> None:
        """Let every method see a question of this size first: caches grow, graphs and code are compiled."""
        mark = (temperature, cache_rows(question.length + question.max_new_tokens))
        if mark in self.warm:
            return
        is_first = all(temperature != warm for warm, _ in self.warm)
        questions = list(islice(self._questions(), MOST_WARM_UPS)) if is_first else []
        for method in list(self.methods):
            for run in self._warm_ups(method, [question, *questions], temperature):
                self.log.add_warm_up(method.name, temperature, run)
        self.warm.add(mark)

    def _warm_ups(self, method: Method, questions: Sequence[Question], temperature: float) -> Iterator[Run]:
        last_lesson = 0
        for number, question in enumerate(questions):
            if number >= WARM_UPS and number > last_lesson + 2:
                return
            before = self._num_lessons(method)
            run = self._try(method, question, temperature, seed=number)
            if run is None:
                return
            if self._num_lessons(method) > before:
                last_lesson = number
            yield run

    def _num_lessons(self, method: Method) -> int:
        """Costs of trees that `tree="auto"` knows; 0 for all else, which has nothing to learn."""
        if method.draft is None or method.tree != AUTO:
            return 0
        plan = auto_plan(method.draft, Target(self.subject.model, method.compiles), batch_size=1)
        return sum(len(costs.seconds) for costs in plan.costs.values())

    def _measure(self, question: Question, temperature: float, repeat: int, number: int) -> None:
        """All methods, each round beginning with the next one."""
        turn = number % len(self.methods)
        seed = zlib.crc32(f"{question.prompt} {question.turn} {repeat}".encode())
        found = {
            m.name: self._try(m, question, temperature, seed) for m in [*self.methods[turn:], *self.methods[:turn]]
        }
        runs = {name: run for name, run in found.items() if run is not None}
        compared = {name: self._compared(name, run, question, temperature, runs) for name, run in runs.items()}
        self.log.add_round(
            Round(question.prompt, question.turn, question.kind, temperature, repeat, question.length, compared)
        )

    def _compared(self, name: str, run: Run, question: Question, temperature: float, runs: Mapping[str, Run]) -> Run:
        """The run with where its text leaves the one it must be: plain greedy text, or ours with the same draws."""
        if not temperature:
            return replace(run, difference=compare(self.subject.model, question.inputs, runs[PLAIN].tokens, run.tokens))
        is_ours = NO_DRAFT in runs and run.stages
        return replace(run, difference=first_difference(runs[NO_DRAFT].tokens, run.tokens)) if is_ours else run

    def _try(self, method: Method, question: Question, temperature: float, seed: int) -> Run | None:
        """A call; None: the method does not run, and is left out from here on."""
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        options = {"max_new_tokens": question.max_new_tokens, **(sampling if temperature else {"do_sample": False})}
        try:
            return measure(method, question.inputs, options, seed)
        except Exception as error:
            if not method.may_fail:
                raise
            words = str(error).strip().splitlines()
            self.log.add_failure(method.name, f"{type(error).__name__}: {words[0] if words else 'no words'}")
            self.methods.remove(method)
            return None
