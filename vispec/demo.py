"""`vispec demo`: one image and one question, answered without and with speculation; compared and timed on the spot."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor
from transformers.utils import logging

import vispec
from vispec.decoding import STAGES, Speculation
from vispec.demo_pair import Pair, load_pair
from vispec.terminal import Printer, num_colours, render

IMAGE = Path(__file__).with_name("assets") / "scene.png"
MAX_COLUMNS, MAX_ROWS = 60, 22  # of the picture, so that it shares a screen with the answers
WARM_UP_TOKENS = 4  # the first pass through a model also pays for memory and threads
TREE = vispec.TreeConfig()


@dataclass(frozen=True)
class Answer:
    """New tokens int64 `[emitted]`, and the wall time of the whole call, prefill and printing included."""

    tokens: Tensor
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        return len(self.tokens) / self.seconds


def run(image_path: Path | None, question: str, max_new_tokens: int, threads: int) -> int:
    """Show everything.

    Returns:
        The exit code: 0, or 1 if the two answers differ.

    Raises:
        argparse.ArgumentError: no image can be read at `image_path`, or the question is not words alone.
    """
    path = image_path or IMAGE
    image = _open_image(path)
    with _settings(threads):
        pair = load_pair()
        try:
            inputs = pair.inputs(image, question)
        except ValueError as error:
            raise argparse.ArgumentError(None, f"--question: {error}") from error
        _show_image(path, image)
        _show_pair(pair, question, threads)
        without = partial(pair.model.generate, **inputs)
        with_draft = partial(vispec.generate, pair.model, pair.draft, inputs, tree=TREE)
        for generate in (without, with_draft):
            generate(do_sample=False, max_new_tokens=WARM_UP_TOKENS)
        print("\nWithout speculation:", flush=True)
        plain, _ = _answer(without, pair, inputs["input_ids"], max_new_tokens)
        print("\nWith speculation:", flush=True)
        speculative, output = _answer(with_draft, pair, inputs["input_ids"], max_new_tokens)
    print()
    identical = _show_comparison(plain, speculative)
    _show_numbers(plain, speculative, output.speculation)
    return 0 if identical else 1


def _open_image(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    # pillow: SyntaxError for a broken PNG, ValueError for fields that make no sense
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        raise argparse.ArgumentError(None, f"--image: cannot read {path}: {reason}") from error


def _show_image(path: Path, image: Image.Image) -> None:
    colours = num_colours(sys.stdout, os.environ)
    if colours:
        columns, rows = shutil.get_terminal_size()
        print(render(image, min(columns - 1, MAX_COLUMNS), min(rows, MAX_ROWS), colours))
    print(f"Image: {path}, {image.width} x {image.height} pixels")


def _show_pair(pair: Pair, question: str, threads: int) -> None:
    text = pair.model.config.get_text_config()
    parameters = sum(parameter.numel() for parameter in pair.model.parameters()) / 1e6
    dtype = str(pair.model.dtype).removeprefix("torch.")
    print(f"Question: {question}")
    print(
        f"Target: {pair.model.config.model_type}, {text.num_hidden_layers} layers of size {text.hidden_size}, "
        f"{parameters:.1f}M weights, {dtype}, {pair.model.device}, threads: {threads}"
    )
    print(f"\n{pair.note}")


def _answer(generate: Callable[..., Any], pair: Pair, prompt: Tensor, max_new_tokens: int) -> tuple[Answer, Any]:
    """One timed call, printed as it comes; also what it returned."""
    printer = Printer(pair.processor.tokenizer, sys.stdout)
    start = time.perf_counter()
    output = generate(do_sample=False, max_new_tokens=max_new_tokens, streamer=printer, return_dict_in_generate=True)
    seconds = time.perf_counter() - start
    return Answer(output.sequences[0, prompt.shape[1] :], seconds), output


def _show_comparison(plain: Answer, speculative: Answer) -> bool:
    """Say whether both are the same, token for token."""
    if torch.equal(plain.tokens, speculative.tokens):
        print(f"Both answers are identical: {len(plain.tokens)} tokens compared.")
        return True
    length = min(len(plain.tokens), len(speculative.tokens))
    differs = (plain.tokens[:length] != speculative.tokens[:length]).nonzero()
    first = int(differs[0]) if len(differs) else length
    print(
        f"THE ANSWERS DIFFER from token {first} on ({len(plain.tokens)} tokens without, {len(speculative.tokens)} "
        "with speculation). This should not be: please report it."
    )
    return False


def _show_numbers(plain: Answer, speculative: Answer, speculation: Speculation) -> None:
    speed_up = speculative.tokens_per_second / plain.tokens_per_second
    accepted = f"draft tokens a cycle, mean of {speculation.num_cycles} cycles"
    seconds = speculation.seconds
    shares = [f"{stage} {100 * seconds[stage] / sum(seconds.values()):.0f}%" for stage in STAGES]
    for label, number, text in (
        ("without", f"{plain.tokens_per_second:.1f}", f"tokens/s, {plain.seconds:.2f} s"),
        ("with", f"{speculative.tokens_per_second:.1f}", f"tokens/s, {speculative.seconds:.2f} s"),
        ("speed-up", f"{speed_up:.2f}", "times"),
        ("num_accepted", f"{speculation.mean_accepted:.2f}", f"{accepted}, of at most {TREE.max_accepted}"),
        ("time", "", ", ".join(shares)),
    ):
        print(f"  {label:<13}{number:>7} {text}")


@contextmanager
def _settings(threads: int) -> Iterator[None]:
    """`threads` for torch, and transformers quiet: its advice on options is not about this demo's user."""
    before, verbosity = torch.get_num_threads(), logging.get_verbosity()
    torch.set_num_threads(threads)
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        torch.set_num_threads(before)
