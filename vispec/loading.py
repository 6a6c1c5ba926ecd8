"""Targets and what makes their inputs, from a folder or the Hub; and a quiet transformers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedModel,
)
from transformers.utils import logging


def load_target(name: str, dtype: str, device: torch.device) -> tuple[PreTrainedModel, Any]:
    """A model and what makes its inputs: a processor, or a tokenizer where the model reads text alone.

    Raises:
        OSError: no such folder, nor such a name on the Hub.
        ValueError: it is of a kind that transformers does not know.
    """
    with quiet(has_bars=not os.path.isdir(name)):
        config = AutoConfig.from_pretrained(name)
        reads_images = hasattr(config, "vision_config")
        kind = AutoModelForImageTextToText if reads_images else AutoModelForCausalLM
        model = kind.from_pretrained(name, dtype=dtype if dtype == "auto" else getattr(torch, dtype))
        processor = (AutoProcessor if reads_images else AutoTokenizer).from_pretrained(name)
    return model.to(device).eval().requires_grad_(False), processor


@contextmanager
def quiet(has_bars: bool = False) -> Iterator[None]:
    """Without transformers' advice, and without its bars where nothing is fetched."""
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if not has_bars:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before[0])
        if before[1]:
            logging.enable_progress_bar()


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """So many threads inside; None: as many as there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if count is None else count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
