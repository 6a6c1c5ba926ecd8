"""Generates with targets that are split over processes: `torchrun split_target.py FOLDER FAMILY...`.

It writes FOLDER/texts<rank>.pt.

Whatever may differ between processes does: their seeds, clocks, drafts, and when their criteria stop.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel, StoppingCriteria
from transformers.distributed import DistributedConfig

sys.path.insert(0, str(Path(__file__).parent))

import vispec
from families import TABLE
from models import VOCAB_SIZE, make_batch, make_draft, make_prompt, make_target
from vispec.draft.checkpoint import EMBEDDING, shorten_vocabulary

SHORTLIST = dict.fromkeys(range(0, VOCAB_SIZE, 2), 1)
Texts = dict[str, Any]


class StopsAt(StoppingCriteria):
    """Like a clock: another answer in each process."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        return torch.full((len(input_ids),), input_ids.shape[1] >= self.length)


def save_pairs(folder: Path, families: Iterable[str]) -> None:
    """Targets, and drafts with a shortlist and, as released ones have it, the target's embedding."""
    for family in families:
        model = make_target(family)
        model.save_pretrained(folder / family)
        short = shorten_vocabulary(make_draft(model).model, SHORTLIST, len(SHORTLIST))
        vispec.Draft(short, model).save_pretrained(folder / family / "draft")
        file = folder / family / "draft/model.safetensors"
        save_file({**load_file(file), EMBEDDING: model.get_input_embeddings().weight.detach()}, file)


def load_target(folder: Path, family: str, **options: Any) -> PreTrainedModel:
    if not TABLE[family].has_sdpa:
        options["attn_implementation"] = "eager"
    model = type(make_target(family)).from_pretrained(folder / family, **options).eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model


def texts_of(folder: Path, family: str, rank: int, **options: Any) -> Texts:
    """What a target writes, by what is asked of it."""
    model = load_target(folder, family, **options)
    draft = vispec.load_draft(folder / family / "draft", model)
    rng = random.Random(family)
    layout = "one image" if TABLE[family].images else "text"
    prompts = [make_prompt(model, layout, rng) for _ in range(3)]
    stops = {"stopping_criteria": [StopsAt(prompts[0]["input_ids"].shape[1] + 9 - 4 * rank)]}
    calls: dict[str, tuple[dict[str, Tensor], dict[str, Any]]] = {
        "greedy": (prompts[0], {}),
        "auto": (prompts[0], {"tree": "auto"}),
        "sampling": (prompts[1], {"do_sample": True, "top_p": 0.9}),
        "batch": (make_batch(prompts, TABLE[family].of_rows), {"eos_token_id": list(range(3, 60))}),
        "criteria": (prompts[0], stops),
        "processors": (prompts[2], {"no_repeat_ngram_size": 2, "do_sample": True}),
    }
    texts: Texts = {}
    torch.manual_seed(rank)
    for name, (inputs, asked) in calls.items():
        asked = {"do_sample": False, "max_new_tokens": 24, "return_dict_in_generate": True, **asked}
        output = vispec.generate(model, draft, inputs, **asked)
        texts[name] = output.sequences
        if asked.get("tree") != "auto":
            texts[f"{name}, accepted"] = output.speculation.num_accepted
    texts["plain"] = model.generate(**prompts[0], do_sample=False, max_new_tokens=24)
    draft.short_head.weight += rank  # other guesses, in the other processes alone
    texts["other guesses"] = vispec.generate(model, draft, prompts[0], do_sample=False, max_new_tokens=24)
    return texts


def other_prompts(folder: Path, family: str, rank: int, **options: Any) -> str:
    """What is said where each process has a prompt of its own."""
    model = load_target(folder, family, **options)
    try:
        vispec.generate(model, None, torch.tensor([[5, 9, 14 + rank]]), max_new_tokens=4)
    except ValueError as error:
        return str(error)
    return "nothing"


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, families, rank = Path(sys.argv[1]), sys.argv[2:], int(os.environ["RANK"])
    split = {"distributed_config": DistributedConfig(tp_plan="auto")}
    texts = {family: texts_of(folder, family, rank, **split) for family in families}
    texts["other prompts"] = other_prompts(folder, families[0], rank, **split)
    torch.save(texts, folder / f"texts{rank}.pt")
    torch.distributed.destroy_process_group()
