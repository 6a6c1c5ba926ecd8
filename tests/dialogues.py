"""Dialogues of random turns, and what their tests ask of them."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from models import family_of, make_prompt
from vispec.training.prompts import append_inputs, append_tokens

LENGTH = 16
LAYOUTS = ("one image", "text", "two adjacent images", "image first")
OPTIONS: dict[str, Any] = {"max_new_tokens": LENGTH, "do_sample": False}
IDS = torch.tensor([[5, 9, 14, 20, 33, 8]])
Inputs = dict[str, Tensor]


def turns_of(model: PreTrainedModel, seed: int = 0, layouts: Sequence[str] = LAYOUTS) -> list[Inputs]:
    """What comes in at each turn, images and all; text alone where the model reads no more."""
    rng = random.Random(seed)
    has_images = family_of(model).images is not None
    return [make_prompt(model, layout if has_images else "text", rng) for layout in layouts]


def after(inputs: Inputs | None, answer: list[int], turn: Inputs) -> Inputs:
    """A dialogue with one more answer and one more turn."""
    turn = {**turn, "attention_mask": torch.ones_like(turn["input_ids"])}
    return turn if inputs is None else append_inputs(append_tokens(inputs, answer), turn)


def with_images_of(inputs: Inputs, turn: Inputs) -> Inputs:
    """The dialogue with the images of its last turn alone, as plain generate takes it beside a cache."""
    per_token = {name: value for name, value in inputs.items() if value.shape == inputs["input_ids"].shape}
    return {**per_token, **{name: value for name, value in turn.items() if name not in per_token}}


def answer_of(output: Any, inputs: Inputs) -> list[int]:
    sequences = output if isinstance(output, Tensor) else output.sequences
    return sequences[0, inputs["input_ids"].shape[1] :].tolist()


@contextmanager
def passes_of(model: PreTrainedModel) -> Iterator[list[int]]:
    """Tokens of each pass of the decoder."""
    passes: list[int] = []

    def note(module: Any, args: Any, keywords: dict[str, Any]) -> None:
        first = keywords.get("inputs_embeds") if keywords.get("input_ids") is None else keywords["input_ids"]
        passes.append((args[0] if args else first).shape[1])

    hook = model.get_decoder().register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield passes
    finally:
        hook.remove()


@contextmanager
def warns(words: str | None) -> Iterator[None]:
    """The block warns so; None: it does not."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    heard = [str(warning.message) for warning in caught if str(warning.message).startswith("vispec:")]
    assert any(words in text for text in heard) if words else not heard
