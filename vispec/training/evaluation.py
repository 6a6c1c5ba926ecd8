"""Measures of a draft in training on held-out samples: agreement pass by pass, and the real cycle's num_accepted."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from vispec.draft.checkpoint import Draft
from vispec.draft.model import DraftModel
from vispec.generate import SpeculativeOutput, generate
from vispec.target import Target
from vispec.training.objective import DraftLoss, Objective
from vispec.training.readings import Sample
from vispec.training.samples import EncodedSample
from vispec.tree import TreeConfig

STEPS = 4  # passes whose agreement is measured: the depth that the released tree drafts


@torch.no_grad()
def agreement(
    target: Target, model: DraftModel, load: Callable[[list[int]], list[Sample]], indices: Sequence[int], stage: str
) -> dict[str, float]:
    """Share of counted indices at which pass 1, 2, ... has the target's most likely token: `top1_step1`, ...

    Pass 1 reads the target's features, each later one the outputs of the one before, as drafting does level by level.
    """
    loss = DraftLoss(model, target.logits, Objective(stage, STEPS - 1, noise=False))
    agreed, count = torch.zeros(STEPS), 0
    for index in indices:
        samples = load([index])
        sums = loss(samples, [])
        agreed += torch.stack([sums[f"agree_{step}"] for step in range(1, STEPS + 1)]).cpu()
        count += loss.count(samples[0]) // STEPS
    return {f"top1_step{step}": value / max(1, count) for step, value in enumerate(agreed.tolist(), 1)}


def has_one_answer(sample: EncodedSample) -> bool:
    """Whether the answer is one piece."""
    answer = sample.is_answer.nonzero()[:, 0]
    return len(answer) > 0 and len(answer) == int(answer[-1] - answer[0]) + 1


def prompt_inputs(sample: EncodedSample) -> dict[str, Tensor]:
    """`generate`'s inputs for what stands before the answer.

    Raises:
        ValueError: the sample has no answer, or several.
    """
    if not has_one_answer(sample):
        raise ValueError("sample: expected one answer, got none or several")
    length, start = len(sample.is_answer), int(sample.is_answer.nonzero()[0])
    return {k: v[:, :start] if v.shape == (1, length) else v for k, v in sample.inputs.items()}


def num_accepted(
    target: Target, model: DraftModel, samples: Sequence[EncodedSample], tree: TreeConfig, max_new_tokens: int
) -> dict[str, float]:
    """Mean `num_accepted` over all cycles (the paper's tau) when the draft decodes the samples' prompts: `tau`."""
    draft = Draft(copy.deepcopy(model), target.model)
    accepted = []
    for sample in samples:
        inputs = {name: tensor.to(target.device) for name, tensor in prompt_inputs(sample).items()}
        output = generate(
            target.model,
            draft,
            inputs,
            tree=tree,
            do_sample=False,
            max_new_tokens=max_new_tokens,
            return_dict_in_generate=True,
        )
        assert isinstance(output, SpeculativeOutput)
        assert output.speculation is not None
        accepted.append(output.speculation.num_accepted.flatten())
    cycles = torch.cat(accepted).float()
    return {"tau": cycles.mean().item() if len(cycles) else 0.0}


def as_text(values: Mapping[str, float]) -> str:
    """One line of JSON."""
    return json.dumps({name: round(value, 4) for name, value in values.items()})
