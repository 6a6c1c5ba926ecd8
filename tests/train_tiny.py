"""Trains a tiny draft under torchrun: `train_tiny.py FOLDER` writes FOLDER/ddp and then FOLDER/fsdp."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch.distributed.tensor import DTensor

sys.path.insert(0, str(Path(__file__).parent))

import models
from training_samples import LAYOUTS, written_samples
from vispec.draft.model import DraftModel
from vispec.target import Target
from vispec.training.evaluation import agreement
from vispec.training.pipeline import shard_layers
from vispec.training.samples import EncodedSample
from vispec.training.source import SampleSource
from vispec.training.trainer import StageSettings, Trainer


class MadeSource(SampleSource):
    """Samples that no folder holds."""

    def encode(self, index: int) -> EncodedSample:
        return self.stored[index]


def train_tiny(folder: Path, shard_target: bool = False) -> None:
    """From the same samples and the same weights every time, in one process or several."""
    accelerator = Accelerator(cpu=True, kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)])
    model = models.make_target("llava")
    draft = copy.deepcopy(models.make_draft(model).model).requires_grad_(True)
    samples = written_samples(model, list(LAYOUTS) * 2)
    if shard_target:
        shard_layers(model, accelerator)
    target = Target(model)
    source = MadeSource(target, None, samples, 4096, together=accelerator if shard_target else None)

    def evaluate(draft: DraftModel) -> dict[str, float]:
        return agreement(target, draft, source.load, [0, 1], "vision")

    settings = StageSettings(epochs=6, batch_size=4, micro_batch_size=2, learning_rate=1e-3, save_every=2, eval_every=5)
    Trainer(accelerator, target, draft, source.load, list(range(len(samples))), evaluate, settings, folder).run()
    if shard_target:  # still in parts
        weights = list(model.get_decoder().layers.parameters())
        assert all(isinstance(weight, DTensor) for weight in weights)
        assert sum(weight.to_local().numel() for weight in weights) < 0.6 * sum(weight.numel() for weight in weights)


if __name__ == "__main__":
    torch.set_num_threads(1)
    train_tiny(Path(sys.argv[1]) / "ddp")
    train_tiny(Path(sys.argv[1]) / "fsdp", shard_target=True)
