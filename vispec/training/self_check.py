"""Before training: what training feeds the draft must be what inference feeds it.

A draft that was trained on shifted tokens, other positions or features of another layer guesses badly and nothing else
shows it. So a few samples are decoded with an observer in the drafter's place, and the draft's outputs in decoding are
compared with those of the training pass at the same indices.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vispec.draft.checkpoint import Draft
from vispec.draft.drafter import ViSpecDrafter
from vispec.draft.model import DraftModel
from vispec.generate import generate
from vispec.target import Prompt, Target
from vispec.training.evaluation import prompt_inputs
from vispec.training.passes import draft_pass
from vispec.training.readings import read_samples_with
from vispec.training.samples import EncodedSample
from vispec.tree import TreeConfig

TREE = TreeConfig(depth=2, top_k=2, num_nodes=5)
TOKENS = 12
TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.25}  # of outputs of unit size: rounding


class FeedingError(RuntimeError):
    """Training would feed the draft otherwise than decoding does."""


class _Observed(ViSpecDrafter):
    """The real drafter; keeps its output at the last index of each step."""

    def prefill(self, prompt: Prompt, root_tokens: Tensor) -> None:
        super().prefill(prompt, root_tokens)
        self.seen = [(int(self.next_position[0]) - 1, self.hidden[0].clone())]

    def update(self, tokens: Tensor, features: Tensor, num_accepted: Tensor) -> None:
        super().update(tokens, features, num_accepted)
        self.seen.append((int(self.next_position[0]) - 1, self.hidden[0].clone()))


class _ObservedDraft(Draft):
    observed: _Observed

    def new_drafter(self, target: Target, trees: Sequence[TreeConfig], budget: int) -> _Observed:
        self.observed = _Observed(self.model, target, trees, budget, self.short_head, self.input_weight)
        return self.observed


def check_feeding(target: Target, model: DraftModel, samples: Sequence[EncodedSample]) -> float:
    """Compare the draft's outputs in decoding with those in training.

    Args:
        samples: with one answer each, as the target wrote it.

    Returns:
        The largest relative difference.

    Raises:
        FeedingError: they differ by more than rounding; names the first index.
    """
    draft = _ObservedDraft(copy.deepcopy(model), target.model)
    largest = 0.0
    for sample in samples:
        inputs = {name: tensor.to(target.device) for name, tensor in prompt_inputs(sample).items()}
        ids = generate(target.model, draft, inputs, tree=TREE, do_sample=False, max_new_tokens=TOKENS)
        taught = _teach(target, draft.model, sample, ids)
        prompt_length = inputs["input_ids"].shape[1]
        for index, output in draft.observed.seen:
            if index >= len(taught):
                continue
            expected = taught[index]
            difference = float((output - expected).norm() / expected.norm().clamp(min=1e-6))
            largest = max(largest, difference)
            if not difference <= TOLERANCE[target.dtype]:
                raise FeedingError(
                    f"self-check: at draft index {index} (the prompt has {prompt_length} positions) decoding and "
                    f"training give outputs that differ by {difference:.2g} of their size, at most "
                    f"{TOLERANCE[target.dtype]} is rounding; {type(target.model).__name__} feeds a draft otherwise in "
                    "training than in decoding"
                )
    return largest


def _teach(target: Target, model: DraftModel, sample: EncodedSample, ids: Tensor) -> Tensor:
    """The training pass over the decoded text, `[L - 1, H]`."""
    length, total = len(sample.is_answer), ids.shape[1]
    inputs = {}
    for name, tensor in sample.inputs.items():
        if name == "input_ids":
            inputs[name] = ids
        elif tensor.shape == (1, length):
            fill = 1 if name == "attention_mask" else 0
            inputs[name] = F.pad(tensor[:, :total], (0, max(0, total - length)), value=fill)
        else:
            inputs[name] = tensor
    is_answer = torch.zeros(total, dtype=torch.bool)
    (reading,) = read_samples_with(target, [EncodedSample(inputs, is_answer)])
    with torch.no_grad():
        return draft_pass(model, [reading.embeds[1:]], [reading.features[:-1]], [reading.runs])[0]
