"""What `vispec demo` shows on the terminal: the picture, both answers side by side as they are written, the numbers."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import vispec
from vispec.auto import AUTO
from vispec.comparison import Comparison, Listener, measure, speed_rows, stage_rows
from vispec.machine import tree_text
from vispec.pair.pretrained import Pair
from vispec.report import Subject
from vispec.terminal import BLOCKS, SideBySide, bars, can_show, num_colours, printable, render

MAX_COLUMNS, MAX_ROWS = 60, 24  # of the picture, so that it shares a screen with the answers
MIN_COLUMNS = 64  # for two columns of words
WIDTH = 76  # of what comes below them
WARM_UP_TOKENS = 4  # the first pass through a model also pays for memory and threads
TITLES = ("WITHOUT DRAFT  model.generate", "WITH DRAFT  vispec.generate")


def show_subject(subject: Subject, facts: Mapping[str, str], note: str | None) -> None:
    """The picture, the question, and what is about to run."""
    colours = num_colours(sys.stdout, os.environ)
    if colours:
        columns, rows = shutil.get_terminal_size()
        print(render(subject.image, min(columns - 1, MAX_COLUMNS), min(rows, MAX_ROWS), colours))
    size = f"{subject.image.width} x {subject.image.height} pixels"
    print(f"Picture: {printable(subject.source)}, as the target sees it: {size}")
    print(f"Question: {printable(subject.question)}")
    for label in ("Target", "Draft", "Tree", "Run"):
        print(f"{label}: {facts[label]}")
    if note:
        print("\n" + textwrap.fill(note, WIDTH))
    print(flush=True)


def show_answers(
    pair: Pair, inputs: Mapping[str, Any], max_new_tokens: int, tree: vispec.TreeConfig | Literal["auto"]
) -> Comparison:
    """Both answers, each timed alone; in two columns where the terminal has room, else one below the other."""
    without = partial(pair.model.generate, **inputs)
    with_draft = partial(vispec.generate, pair.model, pair.draft, inputs, tree=tree)
    for generate in (without, with_draft):
        generate(do_sample=False, max_new_tokens=WARM_UP_TOKENS)

    def run(generate: Callable[..., Any], write: Callable[[str], None]) -> tuple[Any, Any]:
        listener = Listener(pair.processor.tokenizer, write)
        return measure(generate, listener, inputs["input_ids"].shape[1], max_new_tokens)

    columns, rows = shutil.get_terminal_size()
    if not sys.stdout.isatty() or os.environ.get("TERM", "dumb") == "dumb" or columns < MIN_COLUMNS:
        print(TITLES[0], flush=True)
        plain, _ = run(without, _write)
        print(f"\n\n{TITLES[1]}", flush=True)
        speculative, output = run(with_draft, _write)
        print("\n")
    else:
        with SideBySide(sys.stdout, TITLES, columns, rows) as screen:
            plain, _ = run(without, screen.write_left)
            screen.end_left()
            speculative, output = run(with_draft, screen.write_right)
        print()
    return Comparison(plain, speculative, output.speculation, tree)


def _write(text: str) -> None:
    print(printable(text), end="", flush=True)


def show_numbers(comparison: Comparison) -> None:
    """Whether both answers agree, how fast each was, what each cycle gave, and where its time went."""
    print(comparison.verdict)
    for row in speed_rows(comparison):
        print("  {:<22}{:>14}{:>14}{:>12}".format(*row))
    speculation, most = comparison.speculation, comparison.most_accepted
    print(
        f"\nnum_accepted {speculation.mean_accepted:.2f}: draft tokens accepted a cycle, mean of "
        f"{speculation.num_cycles} cycles, at most {most}"
    )
    picture, legend = bars(comparison.num_accepted, most, can_show(BLOCKS, sys.stdout))
    width = max(1, min(WIDTH, shutil.get_terminal_size().columns - 4))
    for start in range(0, len(picture), width):
        print(f"  {picture[start : start + width]}")
    print(f"  one sign a cycle:   {legend}\n")
    if comparison.tree == AUTO:
        counts = Counter(tree_text(tree) for tree in speculation.trees)
        print("Drafted: " + "; ".join(f"{count} x {text}" for text, count in counts.most_common()) + "\n")
    for row in stage_rows(comparison):
        print("  {:<22}{:>14}{:>14}{:>12}".format(*row))
