"""The training loop of one stage: batches, accumulation, clipping, schedule, checkpoints, evaluation."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from vispec.draft.model import DraftModel
from vispec.target import Target
from vispec.training.log import TrainingLog
from vispec.training.objective import DraftLoss, Objective
from vispec.training.order import SampleOrder, stable_seed
from vispec.training.readings import Sample

ADAPTOR = ("img_fc.", "imadpt.")  # stage 2's own weights


@dataclass(frozen=True)
class StageSettings:
    """How one stage is trained.

    Args:
        stage: "text" or "vision".
        epochs: times that every sample is read.
        batch_size: samples in an optimizer step, of all processes together.
        micro_batch_size: samples in one forward of a process.
        learning_rate, warm_up: rises linearly over the share `warm_up` of all steps, then falls linearly to 0.
        weight_decay: AdamW's.
        clip_value: bound on each gradient.
        multi_token_steps, noise: see `Objective`.
        eval_every, save_every: optimizer steps; evaluation and checkpoint at the end come in any case.
        seed: order of samples and their noise.
    """

    stage: str = "vision"
    epochs: float = 20.0
    batch_size: int = 8
    micro_batch_size: int = 8
    learning_rate: float = 1e-4
    warm_up: float = 0.05
    weight_decay: float = 0.01
    clip_value: float = 0.5
    multi_token_steps: int = 1
    noise: bool = True
    eval_every: int = 500
    save_every: int = 200
    seed: int = 0

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of step 0, 1, ... `steps - 1`."""
        warm_up = max(1.0, self.warm_up * steps)
        return self.learning_rate * min((step + 1) / warm_up, max(0.0, (steps - step) / max(1.0, steps - warm_up)))


class Trainer:
    """One stage of one draft.

    Args:
        accelerator: processes, devices, mixed precision.
        target: frozen; lends its LM head.
        model: the draft, trained in place, in fp32.
        load: samples by their indices.
        indices: samples to train on.
        evaluate: measures of the draft, taken now and then; called in every process, the main one's count.
        folder: of checkpoint and log.

    Raises:
        ValueError: a checkpoint in `folder` was made with other settings.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        target: Target,
        model: DraftModel,
        load: Callable[[list[int]], list[Sample]],
        indices: list[int],
        evaluate: Callable[[DraftModel], dict[str, float]],
        settings: StageSettings,
        folder: Path,
    ) -> None:
        self.accelerator, self.model, self.load, self.evaluate = accelerator, model, load, evaluate
        self.settings, self.folder = settings, folder
        self.order = SampleOrder(indices, settings.batch_size, settings.seed)
        self.steps = self.order.steps(settings.epochs)
        self.step = 0
        self.last_evaluation: dict[str, float] = {}
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(settings.stage == "vision" or not name.startswith(ADAPTOR))
        objective = Objective(settings.stage, settings.multi_token_steps, settings.noise)
        self.loss = accelerator.prepare_model(DraftLoss(model.train(), target.logits, objective))
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, betas=(0.9, 0.95), weight_decay=settings.weight_decay)
        folder.mkdir(parents=True, exist_ok=True)
        self._resume()
        self.log = TrainingLog(folder, self.step, accelerator.is_main_process)

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    def run(self) -> None:
        """All steps that are left.

        Raises:
            FloatingPointError: a loss or gradient that is not finite; the last checkpoint stays as it was.
        """
        settings = self.settings
        progress = tqdm(
            total=self.steps,
            initial=self.step,  # earlier runs say nothing about the time left
            desc=settings.stage,
            unit="step",
            mininterval=0.5,
            disable=not self.accelerator.is_main_process,
        )
        with progress:
            while self.step < self.steps:
                values = self._train_step()
                self.step += 1
                if self.step % settings.eval_every == 0 or self.step == self.steps:
                    values |= self._evaluate()
                self.log.write(self.step, values)
                progress.set_postfix(loss=f"{values['loss']:.3f}", agree=f"{values['agree_1']:.3f}", refresh=False)
                progress.update()
                if self.step % settings.save_every == 0 or self.step == self.steps:
                    self._save()

    def _train_step(self) -> dict[str, float]:
        settings, accelerator = self.settings, self.accelerator
        mine = self.order.batch(self.step)[accelerator.process_index :: accelerator.num_processes]
        size = settings.micro_batch_size
        micro_batches = [self.load(mine[start : start + size]) for start in range(0, len(mine), size)]
        total = self._count(micro_batches)
        sums: dict[str, Tensor] = {}
        for number, samples in enumerate(micro_batches):
            indices = mine[number * size :][: len(samples)]
            generators = [
                torch.Generator(accelerator.device).manual_seed(stable_seed(settings.seed, self.step, index))
                for index in indices
            ]
            is_last = number == len(micro_batches) - 1
            with nullcontext() if is_last else accelerator.no_sync(self.loss), accelerator.autocast():
                values = self.loss(samples, generators)
                # averaged over processes by DDP: together the mean over all indices of the whole batch
                accelerator.backward(values["loss"] * accelerator.num_processes / total)
            for name, value in values.items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value.detach().float()
        means = self._means(sums, total)
        self._check_finite(means)
        rate = settings.rate(self.step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        nn.utils.clip_grad_value_(self.parameters, settings.clip_value)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return {**means, "learning_rate": rate}

    def _count(self, micro_batches: list[list[Sample]]) -> float:
        """Counted indices times passes in the whole batch, of all processes."""
        module = self.accelerator.unwrap_model(self.loss)
        count = sum(module.count(sample) for samples in micro_batches for sample in samples)
        total = self.accelerator.reduce(torch.tensor(float(count), device=self.accelerator.device), "sum")
        return max(1.0, float(total))  # a batch may hold nothing to learn from

    def _means(self, sums: Mapping[str, Tensor], total: float) -> dict[str, float]:
        names = sorted(sums)
        values = self.accelerator.reduce(torch.stack([sums[name].double() for name in names]), "sum").tolist()
        found = dict(zip(names, values, strict=True))
        passes = 1 + self.settings.multi_token_steps
        return {name: value / total * (passes if name.startswith("agree") else 1) for name, value in found.items()}

    def _check_finite(self, means: Mapping[str, float]) -> None:
        norm = torch.stack([p.grad.norm() for p in self.parameters if p.grad is not None]).norm()
        wrong = [f"{name} is {value}" for name, value in means.items() if not abs(value) < float("inf")]
        if not torch.isfinite(norm):
            wrong.append(f"the gradient's norm is {float(norm)}")
        if wrong:
            kept = f"; {self.checkpoint} is the last good state" if self.checkpoint.exists() else ""
            raise FloatingPointError(
                f"step {self.step + 1}: {wrong[0]}. Try a lower learning rate (now {self.settings.learning_rate}) or "
                f"fp32 instead of mixed precision{kept}"
            )

    def _evaluate(self) -> dict[str, float]:
        values = self.evaluate(self.model)
        self.accelerator.wait_for_everyone()
        self.model.train()
        self.last_evaluation = values
        return {f"eval_{name}": value for name, value in values.items()}

    def _save(self) -> None:
        if self.accelerator.is_main_process:
            state = {
                "settings": asdict(self.settings),
                "steps": self.steps,
                "step": self.step,
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
            }
            partial = self.checkpoint.with_suffix(".partial")
            torch.save(state, partial)
            os.replace(partial, self.checkpoint)
        self.accelerator.wait_for_everyone()

    def _resume(self) -> None:
        if not self.checkpoint.exists():
            return
        state: dict[str, Any] = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        ours = {**asdict(self.settings), "steps": self.steps}
        theirs = {**state["settings"], "steps": state["steps"]}
        for name, value in ours.items():
            if theirs[name] != value and name not in ("eval_every", "save_every", "micro_batch_size"):
                raise ValueError(f"{name}: {self.checkpoint} was made with {theirs[name]}, got {value}")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
