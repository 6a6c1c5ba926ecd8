"""One batch's loss: which indices count, the passes, and the loss in pieces of bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vispec.draft.model import DraftModel
from vispec.training.losses import TextLoss, VisionLoss, text_loss, vision_loss
from vispec.training.passes import feature_noise, multi_token_passes
from vispec.training.readings import Sample

PIECE = 1024  # counted indices whose logits exist at a time: 150k tokens of vocabulary take 0.6 GB a pass in fp32
LOGITS_KEPT = 2**26  # so few are kept for the backward pass, more are computed again: 256 MB in fp32, six times
STAGES = ("text", "vision")


def counted_indices(is_answer: Tensor, stage: str) -> Tensor:
    """Indices whose outputs are trained, int64, of a text with answer mask bool `[L]`.

    Vision: the target at index i + 1 predicts an answer token (position i + 2). Text, as EAGLE: token i itself is one.
    The draft's last index has no feature to aim at, and what would follow an answer's end is never drafted.
    """
    aimed = is_answer[2:] if stage == "vision" else is_answer[:-1]
    return aimed.nonzero()[:, 0]


@dataclass(frozen=True)
class Objective:
    """What is trained, and on what (section 5 of the method; each part can be left out for comparison).

    Args:
        stage: "text" (smooth L1 to the features, cross-entropy, ranking) or "vision" (probabilities and ranking).
        multi_token_steps: passes on the draft's own outputs, after the one on the target's features.
        noise: whether features get uniform noise.
    """

    stage: str
    multi_token_steps: int
    noise: bool


class DraftLoss(nn.Module):
    """The draft with its loss, so that DistributedDataParallel sees one forward.

    Args:
        model: the draft.
        logits: the target's LM head, frozen; it is no part of this module.
    """

    def __init__(self, model: DraftModel, logits: Callable[[Tensor], Tensor], objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective
        self.logits = logits

    def forward(self, samples: Sequence[Sample], generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
        """Sums over the counted indices of all samples and passes.

        Args:
            generators: of the samples' noise.

        Returns:
            `loss` with gradients, its parts without, and `agree_1`, ...: at how many indices pass 1, ... has the
            target's most likely token.
        """
        runs = [sample.runs for sample in samples]
        embeds = [sample.embeds[1:].float() for sample in samples]
        features = [sample.features[:-1].float() for sample in samples]
        if self.objective.noise:
            features = [f + feature_noise(f, g) for f, g in zip(features, generators, strict=True)]
        passes = multi_token_passes(self.model, embeds, features, runs, self.objective.multi_token_steps)
        chosen = [counted_indices(sample.is_answer, self.objective.stage) for sample in samples]
        clean = torch.cat([sample.features[1:][rows] for sample, rows in zip(samples, chosen, strict=True)])
        if not len(clean):  # nothing counts, but every process must take part in the gradients
            return self._nothing(passes)
        rows = [torch.cat([o[index] for o, index in zip(outputs, chosen, strict=True)]) for outputs in passes]
        is_small = len(clean) * len(rows) * self.model.config.vocab_size <= LOGITS_KEPT
        sums: dict[str, Tensor] = {}
        for start in range(0, len(clean), PIECE):
            piece = [clean[start : start + PIECE], *(outputs[start : start + PIECE] for outputs in rows)]
            values = self._piece(*piece) if is_small else checkpoint(self._piece, *piece, use_reentrant=False)
            for name, value in values.items():
                sums[name] = sums[name] + value if name in sums else value
        return sums

    def _nothing(self, passes: Sequence[Sequence[Tensor]]) -> dict[str, Tensor]:
        zero = torch.stack([output.sum() for outputs in passes for output in outputs]).sum() * 0.0
        parts = VisionLoss._fields if self.objective.stage == "vision" else TextLoss._fields
        names = [*parts[1:], *(f"agree_{number}" for number in range(1, len(passes) + 1))]
        return {"loss": zero, **{name: zero.detach() for name in names}}

    def count(self, sample: Sample) -> int:
        """Indices times passes that `forward` sums over for a sample."""
        return len(counted_indices(sample.is_answer, self.objective.stage)) * (1 + self.objective.multi_token_steps)

    def _piece(self, features: Tensor, *passes: Tensor) -> dict[str, Tensor]:
        with torch.no_grad(), torch.autocast(features.device.type, enabled=False):  # as exact as decoding has them
            target_logits = self.logits(features)
            best = target_logits.argmax(-1)
        sums: dict[str, Tensor] = {}
        for number, outputs in enumerate(passes, 1):
            logits = self.logits(outputs.to(features.dtype))
            if self.objective.stage == "vision":
                losses = vision_loss(logits, target_logits)._asdict()
            else:
                losses = text_loss(outputs, features, logits, target_logits)._asdict()
            for name, value in losses.items():
                total = (value if name == "loss" else value.detach()) * len(outputs)
                sums[name] = sums[name] + total if name in sums else total
            sums[f"agree_{number}"] = (logits.detach().argmax(-1) == best).sum().float()
        return sums
