"""Trains a tiny draft in a process of its own: `train_tiny.py FOLDER [--shard-target]`, alone or under torchrun."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs

sys.path.insert(0, str(Path(__file__).parent))

import models
from training_samples import LAYOUTS, written_samples
from vispec.target import Target
from vispec.training.pipeline import shard_layers
from vispec.training.readings import read_samples_with
from vispec.training.trainer import StageSettings, Trainer


def main(folder: Path, shard_target: bool) -> None:
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True, kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)])
    model = models.make_target("llava")
    draft = copy.deepcopy(models.make_draft(model).model).requires_grad_(True)
    samples = written_samples(model, list(LAYOUTS) * 2)
    if shard_target:
        shard_layers(model, accelerator)
    target = Target(model)
    settings = StageSettings(epochs=6, batch_size=4, micro_batch_size=2, learning_rate=1e-3, save_every=2)
    Trainer(
        accelerator,
        target,
        draft,
        lambda indices: read_samples_with(target, [samples[i] for i in indices]),
        list(range(len(samples))),
        lambda draft: {},
        settings,
        folder,
    ).run()


if __name__ == "__main__":
    main(Path(sys.argv[1]), "--shard-target" in sys.argv)
