"""Samples whose answers a tiny random target really wrote, without files in between."""

from __future__ import annotations

import random

import torch
from transformers import PreTrainedModel

from models import make_prompt
from vispec.target import Target
from vispec.training.readings import Sample, read_samples_with
from vispec.training.samples import EncodedSample

LAYOUTS = ("text", "one image", "two adjacent images", "image first", "two separate images")


def written_samples(
    model: PreTrainedModel, layouts: list[str], max_new_tokens: int = 24, seed: int = 0
) -> list[EncodedSample]:
    """One sample a layout of `models.LAYOUTS`."""
    rng = random.Random(seed)
    samples = []
    for layout in layouts:
        inputs = make_prompt(model, layout, rng)
        with torch.no_grad():
            ids = model.generate(**inputs, do_sample=False, max_new_tokens=rng.randint(8, max_new_tokens))
        prompt_length = inputs["input_ids"].shape[1]
        whole = {**inputs, "input_ids": ids}
        if "mm_token_type_ids" in inputs:
            padding = torch.zeros(1, ids.shape[1] - prompt_length, dtype=torch.int)
            whole["mm_token_type_ids"] = torch.cat((inputs["mm_token_type_ids"], padding), dim=1)
        samples.append(EncodedSample(whole, torch.arange(ids.shape[1]) >= prompt_length))
    return samples


def read_samples_of(model: PreTrainedModel, layouts: list[str], seed: int = 0) -> list[Sample]:
    """The same, as the draft is trained on them."""
    return read_samples_with(Target(model), written_samples(model, layouts, seed=seed))
