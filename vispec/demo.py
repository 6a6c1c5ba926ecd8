"""`vispec demo`: one picture and one question, answered without and with a draft; compared and timed."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Literal

from PIL import Image, ImageOps

import vispec
from vispec.commands.values import blaming
from vispec.demo_screen import show_answers, show_numbers, show_subject
from vispec.loading import quiet, torch_threads
from vispec.machine import facts_of_pair, facts_of_run
from vispec.pair.pretrained import WEIGHTS, load_pair
from vispec.pictures import PICTURES, QUESTION, picture_file
from vispec.report import Report, Subject, check_report_file, write_report

NOTE = (
    "The pair was trained from scratch for this package on drawn 96 x 96 pictures of "
    f"six families ({', '.join(PICTURES)}): it knows no photos."
)


def run(
    image: str,
    question: str | None,
    max_new_tokens: int,
    threads: int,
    tree: tuple[int, int, int] | Literal["auto"],
    pair_folder: Path | None,
    report_file: Path | None,
) -> int:
    """Show everything.

    Returns:
        The exit code: 0, or 1 if the two answers differ.

    Raises:
        argparse.ArgumentError: an option's value cannot be used; it is named.
    """
    with blaming("--tree"):
        config = vispec.TreeConfig(*tree) if isinstance(tree, tuple) else tree
    with blaming("--report"):
        if report_file is not None:
            check_report_file(report_file)
    subject = _read_subject(image, question)
    note = None if pair_folder else NOTE
    with torch_threads(threads), quiet():
        with blaming("--pair"):
            pair = load_pair(pair_folder or WEIGHTS)
        with blaming("--question"):
            inputs = pair.inputs(subject.image, subject.question)
        subject = subject._replace(image=pair.view(subject.image))
        facts = facts_of_pair(pair) | facts_of_run(pair.model, config)
        show_subject(subject, facts, note)
        comparison = show_answers(pair, inputs, max_new_tokens, config)
    show_numbers(comparison)
    if report_file is not None:
        write_report(report_file, Report(subject, comparison, pair.processor.tokenizer, facts, note))
        print(f"\nReport: {report_file}")
    return 0 if comparison.identical else 1


def _read_subject(source: str, question: str | None) -> Subject:
    shipped = PICTURES.get(source)
    path = picture_file(source) if shipped else Path(source)
    question = question if question is not None else shipped.question if shipped else QUESTION
    try:
        with Image.open(path) as image:
            return Subject(source, ImageOps.exif_transpose(image).convert("RGB"), question)
    # pillow: SyntaxError for a broken PNG, ValueError for fields that make no sense
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        hint = "" if path.exists() else f" (shipped pictures: {', '.join(PICTURES)})"
        raise argparse.ArgumentError(None, f"--image: cannot read {path}: {reason}{hint}") from error
