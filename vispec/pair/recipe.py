"""What a target's training is made of: models, processor, stages. `vispec.pair.trainer` carries it out."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration, LlavaProcessor

BETAS, WEIGHT_DECAY = (0.9, 0.98), 0.05


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One part of the training.

    Args:
        num_pools: the stage's length; a pool of pictures is what a checkpoint counts.
        pool_size: pictures in a pool.
        tokens: positions in a batch (pictures in a batch for the alignment).
        final: the learning rate's end, as a share of `learning_rate`.
        shares: how often each kind of question comes, as `vispec.pair.SHARES`.
        num_layers: of the text model; None: all that it has.
        num_turns: questions about a picture.
        align: the vision tower learns words, without the text model; else answers are learnt.
        word_weight: of the alignment's loss, beside the answers'.
        muon: the layers' matrices are trained by Muon.
    """

    name: str
    num_pools: int
    pool_size: int
    tokens: int
    learning_rate: float
    warm_up: float
    final: float
    shares: Mapping[str, float]
    num_layers: int | None = None
    num_turns: int = 1
    align: bool = False
    train_tower: bool = True
    muon: bool = False
    word_weight: float = 0.0

    def rate(self, done: float) -> float:
        """The learning rate once the share `done` of the stage is behind."""
        if done < self.warm_up:
            return self.learning_rate * done / self.warm_up
        cosine = 0.5 + 0.5 * math.cos(math.pi * (done - self.warm_up) / (1 - self.warm_up))
        return self.learning_rate * (self.final + (1 - self.final) * cosine)


def align_stage(shares: Mapping[str, float], num_layers: int | None = None) -> Stage:
    """Every target's first stage; by AdamW, as Muon came out alike."""
    return Stage(
        name="align",
        num_pools=500,
        pool_size=160,
        tokens=32,
        learning_rate=1e-3,
        warm_up=0.02,
        final=0.02,
        shares=shares,
        num_layers=num_layers,
        align=True,
    )


class Recipe(ABC):
    """A target's first weights and how they are trained.

    Args:
        processor: of the target; it is saved with it.
        stages: in their order.
        feature_length: of an image token that says one word; the mean length of a token's embedding.
    """

    def __init__(self, processor: LlavaProcessor, stages: tuple[Stage, ...], feature_length: float = 1.0) -> None:
        self.processor, self.stages, self.feature_length = processor, stages, feature_length

    @abstractmethod
    def make_model(self, stage: Stage) -> LlavaForConditionalGeneration:
        """In fp32; what is new comes from torch's default generator."""

    def next_model(self, model: LlavaForConditionalGeneration, stage: Stage) -> LlavaForConditionalGeneration:
        """What a stage goes on with, after the stage before it."""
        return model

    def trains(self, name: str, stage: Stage) -> bool:
        """Whether the stage changes a parameter. What no stage changes is in no checkpoint."""
        if name.startswith(("model.vision_tower.", "model.multi_modal_projector.")):
            return stage.train_tower
        return not stage.align

    def finished(self, model: LlavaForConditionalGeneration, stage: Stage) -> LlavaForConditionalGeneration:
        """A copy in plain classes, to be saved."""
        copy = self.make_model(stage)
        copy.load_state_dict(model.state_dict())
        return copy


def make_optimizers(model: nn.Module, stage: Stage) -> list[torch.optim.Optimizer]:
    """With Muon for the layers' matrices, where the stage has it; one learning rate for all."""
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    vectors: list[Tensor] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_matrix = stage.muon and parameter.ndim == 2 and "embedding" not in name and "embed_tokens" not in name
            (matrices if is_matrix else others if parameter.ndim > 1 else vectors).append(parameter)
    groups: list[dict[str, Any]] = [{"params": others}, {"params": vectors, "weight_decay": 0.0}]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=True)
    ]
    if matrices:
        optimizers.append(torch.optim.Muon(matrices, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"))
    return optimizers
