"""The draft's passes over teacher-forced samples: the same `fuse`, `compress` and layer that inference runs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vispec.draft.model import DraftModel

NOISE = 0.1 * 512  # uniform noise on features is +- this over the number of positions (EAGLE)


def feature_noise(features: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Uniform noise for `features` `[L, H]`, in their shape."""
    bound = NOISE / features.shape[0]
    noise = torch.empty_like(features)
    return noise.uniform_(-bound, bound, generator=generator)


def draft_pass(
    model: DraftModel, embeds: Sequence[Tensor], features: Sequence[Tensor], runs: Sequence[Sequence[tuple[int, int]]]
) -> list[Tensor]:
    """One causal pass over a batch of samples of different lengths.

    Args:
        embeds: per sample `[L, H]`, at index i the input embedding of token i + 1.
        features: per sample `[L, H]`, at index i the feature that the draft reads there.
        runs: per sample, `(start, end)` of its images in indices.

    Returns:
        Per sample `[L, H]`: the output at every index; an image's slots stand at the last indices of its run, the rest
        of the run is 0.
    """
    sequences = [model.compress(*sample) for sample in zip(embeds, features, runs, strict=True)]
    longest = max(len(sequence.positions) for sequence in sequences)
    # padding stands behind every real row, so causal attention never reads it
    hidden = torch.stack([F.pad(s.hidden, (0, 0, 0, longest - len(s.positions))) for s in sequences])
    positions = torch.stack([F.pad(s.positions, (0, longest - len(s.positions))) for s in sequences])
    output = model(hidden, model.rotary(positions, hidden.dtype), _attend_causally)
    return [
        torch.zeros_like(embed).index_copy(0, sequence.positions, rows[: len(sequence.positions)])
        for embed, sequence, rows in zip(embeds, sequences, output, strict=True)
    ]


def multi_token_passes(
    model: DraftModel,
    embeds: Sequence[Tensor],
    features: Sequence[Tensor],
    runs: Sequence[Sequence[tuple[int, int]]],
    extra_passes: int,
) -> list[list[Tensor]]:
    """`draft_pass` and then `extra_passes` more on the draft's own outputs (section 3.3, shortcut mitigation).

    Each further pass reads at index i what the pass before put out at i - 1; index 0 keeps the target's feature.
    Gradients flow through all passes.

    Returns:
        `[1 + extra_passes][samples]` outputs as of `draft_pass`.
    """
    passes = [draft_pass(model, embeds, features, runs)]
    for _ in range(extra_passes):
        shifted = [torch.cat((feature[:1], output[:-1])) for feature, output in zip(features, passes[-1], strict=True)]
        passes.append(draft_pass(model, embeds, shifted, runs))
    return passes


def _attend_causally(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2)
