"""What `vispec generate` and `vispec chat` share: the models, and answers that are written as they come."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import StoppingCriteria

import vispec
from vispec.cache import CACHE_NAME
from vispec.commands.dialogue import Dialogue
from vispec.commands.options import AnswerOptions
from vispec.commands.values import blaming
from vispec.comparison import Listener
from vispec.loading import load_target, quiet, torch_threads
from vispec.pair.pretrained import DRAFT, TARGET, WEIGHTS
from vispec.pictures import PICTURES, picture_file
from vispec.speculation import Speculation
from vispec.target import DEVICES, Target
from vispec.training.prompts import open_image


@dataclass(frozen=True)
class Spoken:
    """One answer: its new tokens, and the wall time of the call and to the first token, in seconds.

    `num_read` counts the tokens before it that no earlier call had read.
    """

    tokens: list[int]
    num_read: int
    seconds: float
    first: float
    speculation: Speculation
    drafted: bool

    def __str__(self) -> str:
        count = len(self.tokens)
        text = f"{count} token{'s' * (count != 1)} in {self.seconds:.2f} s, {count / self.seconds:.1f} tokens/s"
        text += f", the first after {self.first:.2f} s and {self.num_read} read"
        if self.drafted:
            text += f"; tau {self.speculation.mean_accepted:.2f} in {self.speculation.num_cycles} cycles"
        return text


class Speaker:
    """A target, its draft, and a dialogue with them on one cache.

    Raises:
        argparse.ArgumentError: an option cannot be used; it is named.
    """

    def __init__(self, options: AnswerOptions) -> None:
        _check_models(options)
        self.sampling = _sampling(options)
        self.generator = None if options.seed is None else torch.Generator().manual_seed(options.seed)
        self.max_new_tokens = options.max_new_tokens
        with blaming("--tree"):
            tree = options.tree
            self.tree = vispec.TreeConfig(*tree) if isinstance(tree, tuple) else tree
        with blaming("--device"):
            device = _device(options.device)
        is_pair = options.model is None
        name = str(WEIGHTS / TARGET) if options.model is None else options.model
        with blaming("--model"):
            self.model, self.processor = load_target(name, options.dtype or ("float32" if is_pair else "auto"), device)
            Target(self.model).check_device()
            self.dialogue = Dialogue(self.processor, _end_tokens(self.model))
        with blaming("--system"):
            self.dialogue = Dialogue(self.processor, _end_tokens(self.model), options.system)
        with blaming("--draft"):
            source = str(WEIGHTS / DRAFT) if is_pair else options.draft
            self.draft = None if options.plain or source is None else vispec.load_draft(source, self.model)
        self.cache: Any = None

    @property
    def about(self) -> str:
        """Models and machine in a line."""
        dtype = str(self.model.dtype).removeprefix("torch.")
        with_draft = "without a draft" if self.draft is None else "with a draft"
        return f"{self.model.config.model_type} {with_draft}, {dtype} on {self.model.device}"

    def answer(
        self, question: str, images: Sequence[str], write: Callable[[str], None], stop: StoppingCriteria | None = None
    ) -> Spoken:
        """Answer the next question of the dialogue; `write` gets whole words as they come.

        Raises:
            ValueError, OSError: see `Dialogue.ask`; or there is no room for an answer.
        """
        inputs = self.dialogue.ask(question, images)
        if not self.dialogue.grows:
            self.cache = None
        num_cached = 0 if self.cache is None else self.cache.get_seq_length()
        length = inputs["input_ids"].shape[1]
        room = getattr(self.model.config.get_text_config(), "max_position_embeddings", length + 1) - length
        if room < 1:
            raise ValueError(f"the dialogue takes all of the {length + room} tokens that the model can read")
        listener = Listener(self.dialogue.tokenizer, write)
        on_device = {
            name: value.to(self.model.device, self.model.dtype if value.is_floating_point() else value.dtype)
            for name, value in inputs.items()
        }
        start = time.perf_counter()
        output: Any = vispec.generate(
            self.model,
            self.draft,
            on_device,
            tree=self.tree,
            max_new_tokens=min(self.max_new_tokens, room),
            streamer=listener,
            stopping_criteria=None if stop is None else [stop],
            generator=self.generator,
            return_dict_in_generate=True,
            **({} if self.cache is None else {CACHE_NAME: self.cache}),
            **self.sampling,
        )
        seconds = time.perf_counter() - start
        tokens = output.sequences[0, length:].tolist()
        self.dialogue.hear(tokens)
        self.cache = output[CACHE_NAME]
        return Spoken(
            tokens, length - num_cached, seconds, listener.times[1] - start, output.speculation, self.draft is not None
        )


@contextmanager
def answering(options: AnswerOptions) -> Iterator[Speaker]:
    """A speaker, and torch and transformers as answering needs them."""
    with torch_threads(options.threads or (1 if options.model is None else None)), quiet():
        yield Speaker(options)


def find_pictures(names: Sequence[str]) -> list[str]:
    """The paths of pictures that `--image` named; an argparse.ArgumentError says what is wrong with them."""
    with blaming("--image"):
        return [find_picture(name) for name in names]


def find_picture(name: str) -> str:
    """The path of a picture that can be read: of the user's, or by its name one of those in the package.

    Raises:
        ValueError: the file is no whole picture.
        OSError: it cannot be read.
    """
    path = str(picture_file(name)) if name in PICTURES and not Path(name).exists() else name
    open_image(path)
    return path


def _check_models(options: AnswerOptions) -> None:
    wrong = None
    if options.model is None and options.draft is not None:
        wrong = "--draft: expected its target too, by --model"
    elif options.model is None and not WEIGHTS.is_dir():
        wrong = f"--model: expected one, there is no pair in the package ({WEIGHTS})"
    elif options.plain and options.draft is not None:
        wrong = f"--plain: answers without a draft, but got --draft {options.draft}"
    elif options.model is not None and options.draft is None and not options.plain:
        wrong = f"--draft: expected one for --model {options.model}; --plain answers without"
    if wrong:
        raise argparse.ArgumentError(None, wrong)


def _sampling(options: AnswerOptions) -> dict[str, Any]:
    """Keywords of `generate`; none: as the model's files say."""
    asked = {"temperature": options.temperature, "top_p": options.top_p, "top_k": options.top_k}
    asked = {name: value for name, value in asked.items() if value is not None}
    if options.temperature == 0:
        if len(asked) > 1:
            raise argparse.ArgumentError(None, "--temperature: 0 is greedy, which --top-p and --top-k do not go with")
        return {"do_sample": False}
    return {"do_sample": True, **asked} if asked else {}


def _device(name: str | None) -> torch.device:
    usable = [kind for kind in DEVICES if kind != "cuda" or torch.cuda.is_available()]
    try:
        device = torch.device(usable[-1] if name is None else name)
    except RuntimeError as error:
        raise ValueError(str(error).partition("\n")[0]) from error
    if device.type not in usable:
        raise ValueError(f"expected {' or '.join(usable)}, which can be used here, got {name}")
    return device


def _end_tokens(model: Any) -> set[int]:
    ids = model.generation_config.eos_token_id
    return set(ids if isinstance(ids, list) else [] if ids is None else [ids])
