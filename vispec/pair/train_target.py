"""Trains the pair's target from scratch: `python -m vispec.pair.train_target FOLDER`.

Three stages: the vision tower learns to write the words of what each patch shows (in the word embeddings, fixed and
random); a model of a quarter of the layers learns to read and answer with the tower as it is; grown to all layers,
everything learns together. A run that was killed goes on from its last checkpoint and ends with the same weights.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from vispec.pair.batches import ROLES, UNLABELLED, Batch, PatchWords, dialogue_batches
from vispec.pair.dataset import SHARES
from vispec.pair.target import NEW_LAYERS, NUM_LAYERS, grow, make_target
from vispec.pair.tokenizer import load_tokenizer, make_processor

SEED = 1
CLIP, BETAS, WEIGHT_DECAY = 1.0, (0.9, 0.98), 0.05
SHARPNESS = 6.0  # of the tower's choice among words, whose embeddings have unit length
HARD = ("where", "is_there", "relation")  # questions that come three times as often until the model has grown
THINGS = ("scene/", "emoji/")
EARLY_SHARES = {
    key: share * (3 if key.startswith(THINGS) and key.endswith(HARD) else 1) for key, share in SHARES.items()
}


@dataclass(frozen=True)
class Stage:
    """One part of the training.

    Args:
        num_pools: the stage's length; a pool of pictures is what a checkpoint counts.
        pool_size: pictures in a pool.
        tokens: positions in a batch (pictures in a batch for the alignment).
        final: the learning rate's end, as a share of `learning_rate`.
        muon: the layers' matrices are trained by Muon, in the first 30 pools of "small" far quicker than by AdamW; in
            the alignment the two came out alike.
    """

    name: str
    num_pools: int
    pool_size: int
    tokens: int
    learning_rate: float
    warm_up: float
    final: float
    num_layers: int
    shares: Mapping[str, float]
    num_turns: int = 1
    train_tower: bool = True
    muon: bool = True

    def rate(self, done: float) -> float:
        """The learning rate once the share `done` of the stage is behind."""
        if done < self.warm_up:
            return self.learning_rate * done / self.warm_up
        cosine = 0.5 + 0.5 * math.cos(math.pi * (done - self.warm_up) / (1 - self.warm_up))
        return self.learning_rate * (self.final + (1 - self.final) * cosine)


STAGES = (
    Stage("align", 500, 160, 32, 1e-3, 0.02, 0.02, NUM_LAYERS // (1 + NEW_LAYERS), EARLY_SHARES, muon=False),
    Stage("small", 160, 160, 4096, 2e-3, 0.03, 0.1, NUM_LAYERS // (1 + NEW_LAYERS), EARLY_SHARES, 3, False),
    Stage("grown", 170, 160, 4096, 1e-3, 0.03, 0.0, NUM_LAYERS, SHARES, 3),
)


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


class Trainer:
    """The model, its optimizer and how far they are.

    Args:
        folder: of checkpoint, log and result.
        half: bf16 matrix products (autocast); weights and optimizer stay fp32.
        compiled: whether the layers run under torch.compile.
    """

    def __init__(self, folder: Path, half: bool, compiled: bool) -> None:
        self.folder, self.half, self.compiled = folder, half, compiled
        self.tokenizer = load_tokenizer()
        self.stage, self.pool, self.step, self.seconds = 0, 0, 0, 0.0
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(SEED)
        self._set_model(make_target(self.tokenizer, STAGES[0].num_layers))
        if self.checkpoint.exists():
            self._load()

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    def run(self) -> LlavaForConditionalGeneration:
        """All that is left, then the finished model in `folder / "target"`."""
        words = None
        while self.stage < len(STAGES):
            stage = STAGES[self.stage]
            if stage.name == "align" and words is None:
                words = PatchWords(self.tokenizer, stage.shares, SEED)
            saved = time.monotonic()
            while self.pool < stage.num_pools:
                started = time.perf_counter()
                values = self._align(stage, words) if stage.name == "align" else self._dialogues(stage)
                self.pool += 1
                self.seconds += time.perf_counter() - started
                self._log(stage, values, time.perf_counter() - started)
                if time.monotonic() - saved > 120:
                    self._save()
                    saved = time.monotonic()
            self._next_stage()
        self.model.eval()
        return self.model

    def save_target(self) -> None:
        """The model in bf16 and its processor, as `from_pretrained` reads them."""
        target = make_target(self.tokenizer, self.model.config.text_config.num_hidden_layers)
        target.load_state_dict(self.model.state_dict())
        target.to(torch.bfloat16).save_pretrained(self.folder / "target")
        make_processor(self.tokenizer).save_pretrained(self.folder / "target")

    def _set_model(self, model: LlavaForConditionalGeneration) -> None:
        model.set_attn_implementation("eager")  # for sequences this short the quickest to train with
        self.model = model.train()
        stage = STAGES[min(self.stage, len(STAGES) - 1)]
        model.model.language_model.requires_grad_(stage.name != "align")
        model.model.vision_tower.requires_grad_(stage.train_tower)
        model.model.multi_modal_projector.requires_grad_(stage.train_tower)
        self.optimizers = make_optimizers(model, stage)
        if self.compiled:
            for layer in (*model.model.language_model.layers, *model.model.vision_tower.encoder.layers):
                layer.compile(dynamic=False)

    def _next_stage(self) -> None:
        self.stage, self.pool = self.stage + 1, 0
        if self.stage < len(STAGES):
            layers = STAGES[self.stage].num_layers
            old = self.model
            torch.manual_seed(SEED + self.stage)
            model = old if layers == old.config.text_config.num_hidden_layers else grow(old, self.tokenizer)
            self._set_model(model)
        self._save()

    def _align(self, stage: Stage, words: PatchWords | None) -> dict[str, float]:
        assert words is not None
        classes = words.embeddings(self.model.model.language_model.embed_tokens.weight.detach())
        sums: dict[str, float] = {}
        for start in range(0, stage.pool_size, stage.tokens):
            pixels, labels = words.batch(self.pool * stage.pool_size + start, stage.tokens)
            with self._autocast():
                features = self._image_features(pixels)
            losses = {}
            for role, weight in ROLES.items():
                rows = (labels[role] != UNLABELLED).nonzero(as_tuple=True)
                if len(rows[0]):
                    logits = SHARPNESS * features[rows].float() @ classes[role].T
                    wanted = labels[role][rows]
                    losses[role] = weight * F.cross_entropy(logits, wanted)
                    sums[role] = sums.get(role, 0) + float((logits.argmax(-1) == wanted).float().mean())
            loss = torch.stack(list(losses.values())).sum()
            self._step(loss, stage.rate((self.pool + start / stage.pool_size) / stage.num_pools))
            sums["loss"] = sums.get("loss", 0) + float(loss.detach())
        return {key: value * stage.tokens / stage.pool_size for key, value in sums.items()}

    def _dialogues(self, stage: Stage) -> dict[str, float]:
        batches = list(self.batches(stage, self.pool))
        losses = []
        for index, batch in enumerate(batches):
            loss = self.loss(batch)
            self._step(loss, stage.rate((self.pool + index / len(batches)) / stage.num_pools))
            losses.append(float(loss.detach()))
        return {"loss": sum(losses) / len(losses)}

    def batches(self, stage: Stage, pool: int, split: str = "train") -> Iterator[Batch]:
        return dialogue_batches(
            pool,
            self.tokenizer,
            seed=SEED + 1 + self.stage,
            pool_size=stage.pool_size,
            num_turns=stage.num_turns,
            tokens=stage.tokens,
            shares=stage.shares,
            split=split,
        )

    def loss(self, batch: Batch) -> Tensor:
        """Mean cross-entropy of the answers' tokens."""
        inner = self.model.model
        with self._autocast():
            embeds = inner.language_model.embed_tokens(batch.input_ids)
            features = self._image_features(batch.pixels).flatten(0, 1)
            mask = (batch.input_ids == self.model.config.image_token_id).unsqueeze(-1)
            embeds = embeds.masked_scatter(mask, features.to(embeds.dtype))
            hidden = inner.language_model(inputs_embeds=embeds, use_cache=False).last_hidden_state
            rows = (batch.labels[:, 1:] != UNLABELLED).nonzero(as_tuple=True)
            logits = self.model.lm_head(hidden[rows])
        return F.cross_entropy(logits.float(), batch.labels[:, 1:][rows])

    def _image_features(self, pixels: Tensor) -> Tensor:
        return torch.stack(tuple(self.model.model.get_image_features(pixels).pooler_output))

    def _autocast(self) -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=self.half)

    def _step(self, loss: Tensor, rate: float) -> None:
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is {float(loss)} in step {self.step}: {self.checkpoint} is as before")
        loss.backward()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
                nn.utils.clip_grad_norm_(group["params"], CLIP)
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1

    def _log(self, stage: Stage, values: dict[str, float], seconds: float) -> None:
        left = seconds * (stage.num_pools - self.pool)
        entry: dict[str, Any] = {"stage": stage.name, "pool": self.pool, "step": self.step}
        entry |= {key: round(value, 4) for key, value in values.items()} | {"seconds": round(self.seconds, 1)}
        with open(self.folder / "log.jsonl", "a") as file:
            file.write(json.dumps(entry) + "\n")
        text = ", ".join(f"{key} {value:.3f}" for key, value in values.items())
        print(f"{stage.name} {self.pool}/{stage.num_pools}: {text}, {left / 60:.0f} min left", flush=True)

    def _save(self) -> None:
        state = {
            "stage": self.stage,
            "pool": self.pool,
            "step": self.step,
            "seconds": self.seconds,
            "layers": self.model.config.text_config.num_hidden_layers,
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, self.checkpoint)

    def _load(self) -> None:
        state = torch.load(self.checkpoint, weights_only=True)
        self.stage, self.pool, self.step, self.seconds = (state[k] for k in ("stage", "pool", "step", "seconds"))
        self._set_model(make_target(self.tokenizer, state["layers"]))
        self.model.load_state_dict(state["model"])
        for optimizer, values in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="for checkpoint, log and result; a run in it goes on")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16", help="of matrix products")
    parser.add_argument("--compile", action="store_true", help="torch.compile the layers: needs a C++ compiler")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    trainer = Trainer(options.folder, options.dtype == "bfloat16", options.compile)
    trainer.run()
    trainer.save_target()


if __name__ == "__main__":
    main()
