"""Losses of draft training (arXiv 2509.15235 section 3.4; EAGLE for stage 1), one value a counted index."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

RANKED_TOKENS = 10  # of the target's, best first
L1_WEIGHT, VISION_RANKING_WEIGHT = 10.0, 0.1
TEXT_LOGIT_WEIGHT, TEXT_RANKING_WEIGHT = 0.1, 0.1


class VisionLoss(NamedTuple):
    """Stage 2: `loss = 10 * l1 + 0.1 * ranking`, means over all counted indices of all passes."""

    loss: Tensor
    l1: Tensor
    ranking: Tensor


class TextLoss(NamedTuple):
    """Stage 1: `loss = smooth_l1 + 0.1 * (cross_entropy + 0.1 * ranking)`, means over counted indices."""

    loss: Tensor
    smooth_l1: Tensor
    cross_entropy: Tensor
    ranking: Tensor


def distribution_distance(logits: Tensor, target_logits: Tensor) -> Tensor:
    """Sum over the vocabulary of |p - q|: `[..., V]` twice to `[...]`, 0 to 2."""
    return (target_logits.float().softmax(-1) - logits.float().softmax(-1)).abs().sum(-1)


def ranking_loss(logits: Tensor, target_logits: Tensor) -> Tensor:
    """Plackett-Luce: how unlikely the draft makes the target's order of its 10 best tokens.

    Args:
        logits, target_logits: `[..., V]`, the draft's and the target's.

    Returns:
        `[...]`: minus the log-probability of drawing those tokens in that order by the draft's logits.
    """
    order = target_logits.topk(min(RANKED_TOKENS, target_logits.shape[-1]), dim=-1).indices
    ranked = logits.float().gather(-1, order)
    remaining = ranked.flip(-1).logcumsumexp(-1).flip(-1)
    return (remaining - ranked).sum(-1)


def vision_loss(logits: Tensor, target_logits: Tensor) -> VisionLoss:
    """Stage 2's loss from the counted indices of all passes, `[M, V]` each."""
    l1 = distribution_distance(logits, target_logits).mean()
    ranking = ranking_loss(logits, target_logits).mean()
    return VisionLoss(L1_WEIGHT * l1 + VISION_RANKING_WEIGHT * ranking, l1, ranking)


def text_loss(outputs: Tensor, features: Tensor, logits: Tensor, target_logits: Tensor) -> TextLoss:
    """Stage 1's loss from the counted indices.

    Args:
        outputs, features: `[M, H]`, the draft's outputs and the target's features one position on.
        logits, target_logits: `[M, V]`, the LM head of both.
    """
    smooth_l1 = F.smooth_l1_loss(outputs.float(), features.float())
    probabilities = target_logits.float().softmax(-1)
    cross_entropy = torch.sum(-probabilities * logits.float().log_softmax(-1), dim=-1).mean()
    ranking = ranking_loss(logits, target_logits).mean()
    logit_loss = cross_entropy + TEXT_RANKING_WEIGHT * ranking
    return TextLoss(smooth_l1 + TEXT_LOGIT_WEIGHT * logit_loss, smooth_l1, cross_entropy, ranking)
