"""Carries out a recipe: the loop over stages, its checkpoints and its log."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from vispec.pair.batches import ROLES, Batch, PatchWords, dialogue_batches
from vispec.pair.chat import UNLABELLED, Chat
from vispec.pair.recipe import Recipe, Stage, make_optimizers
from vispec.pair.regions import THIRDS

SEED = 1
CLIP = 1.0
SHARPNESS = 6.0  # of the tower's choice among words, whose embeddings are scaled to unit length
SECONDS = 120.0  # of work that a kill may cost
SHAPES = 64  # of batches, more than ever come, that layers are compiled for


class Trainer:
    """The model, its optimizers and how far they are.

    Args:
        folder: of checkpoint, log and result; a run in it goes on.
        half: bf16 matrix products (autocast); weights and optimizers stay fp32.
        compiled: whether the layers run under torch.compile.
        save_every: seconds between checkpoints, which come at the end of a pool.

    Raises:
        ValueError: the folder's checkpoint is of another recipe.
    """

    def __init__(
        self, recipe: Recipe, folder: Path, half: bool = True, compiled: bool = False, save_every: float = SECONDS
    ) -> None:
        self.recipe, self.folder = recipe, folder
        self.half, self.compiled, self.save_every = half, compiled, save_every
        self.chat = Chat(recipe.processor)
        self.stage, self.pool, self.step, self.seconds = 0, 0, 0, 0.0
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(SEED)
        model = recipe.make_model(recipe.stages[0])
        self.first_embeddings = model.model.language_model.embed_tokens.weight.detach().clone()
        if self.checkpoint.exists():
            self._load()
        else:
            self._set_model(model)
        self._drop_log()

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    @property
    def log(self) -> Path:
        return self.folder / "log.jsonl"

    @property
    def current(self) -> Stage:
        """The stage at work, or the last one once all is done."""
        return self.recipe.stages[min(self.stage, len(self.recipe.stages) - 1)]

    def run(self) -> LlavaForConditionalGeneration:
        """All that is left."""
        while self.stage < len(self.recipe.stages):
            stage = self.current
            saved = time.monotonic()
            while self.pool < stage.num_pools:
                started = time.perf_counter()
                values = self._align(stage) if stage.align else self._dialogues(stage)
                self.pool += 1
                self.seconds += time.perf_counter() - started
                self._log(stage, values, time.perf_counter() - started)
                if time.monotonic() - saved > self.save_every:
                    self._save()
                    saved = time.monotonic()
            self._next_stage()
        self.model.eval()
        return self.model

    def save_target(self) -> None:
        """The model in bf16 and its processor in `folder / "target"`, as `from_pretrained` reads them."""
        target = self.recipe.finished(self.model, self.current)
        target.to(torch.bfloat16).save_pretrained(self.folder / "target")
        self.recipe.processor.save_pretrained(self.folder / "target")

    def _set_model(self, model: LlavaForConditionalGeneration) -> None:
        model.set_attn_implementation("eager")  # for sequences this short the quickest to train with
        self.model = model.train()
        self.words: PatchWords | None = None
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(self.recipe.trains(name, self.current))
        self.optimizers = make_optimizers(model, self.current)
        if self.compiled:
            torch._dynamo.config.recompile_limit = SHAPES
            for layer in (*model.model.language_model.layers, *model.model.vision_tower.encoder.layers):
                layer.compile(dynamic=False)

    def _next_stage(self) -> None:
        self.stage, self.pool = self.stage + 1, 0
        if self.stage < len(self.recipe.stages):
            torch.manual_seed(SEED + self.stage)
            self._set_model(self.recipe.next_model(self.model, self.current))
        self._save()

    def _align(self, stage: Stage) -> dict[str, float]:
        words = self._words(stage)
        sums: dict[str, float] = {}
        for start in range(0, stage.pool_size, stage.tokens):
            pixels, labels = words.batch(self.pool * stage.pool_size + start, stage.tokens)
            with self._autocast():
                features = self._image_features(pixels)
            loss = self._word_loss(words, features, labels, sums)
            self._step(loss, stage.rate((self.pool + start / stage.pool_size) / stage.num_pools))
        return {key: value * stage.tokens / stage.pool_size for key, value in sums.items()}

    def _dialogues(self, stage: Stage) -> dict[str, float]:
        words = self._words(stage) if stage.word_weight else None
        batches = list(self.batches(stage, self.pool))
        sums: dict[str, float] = {}
        for index, batch in enumerate(batches):
            loss, features = self.loss(batch)
            sums["loss"] = sums.get("loss", 0) + float(loss.detach())
            if words is not None:
                named: dict[str, float] = {}
                word_loss = self._word_loss(words, features, words.labels(batch.pictures), named)
                loss = loss + stage.word_weight * word_loss
                for role in (*THIRDS, "text"):
                    sums[role] = sums.get(role, 0) + named.get(role, 0.0)
            self._step(loss, stage.rate((self.pool + index / len(batches)) / stage.num_pools))
        return {key: value / len(batches) for key, value in sums.items()}

    def _words(self, stage: Stage) -> PatchWords:
        if self.words is None:
            self.words = PatchWords(self.chat.tokenizer, stage.shares, SEED)
        return self.words

    def _word_loss(
        self, words: PatchWords, features: Tensor, labels: Mapping[str, Tensor], sums: dict[str, float]
    ) -> Tensor:
        """How badly image features `[B, 144, H]` name the words of their patches; adds accuracies by role to `sums`."""
        classes = words.embeddings(self.first_embeddings)
        losses = []
        for role, weight in ROLES.items():
            rows = (labels[role] != UNLABELLED).nonzero(as_tuple=True)
            if len(rows[0]):
                logits = SHARPNESS / self.recipe.feature_length * features[rows].float() @ classes[role].T
                wanted = labels[role][rows]
                losses.append(weight * F.cross_entropy(logits, wanted))
                sums[role] = sums.get(role, 0) + float((logits.argmax(-1) == wanted).float().mean())
        loss = torch.stack(losses).sum()
        sums["loss"] = sums.get("loss", 0) + float(loss.detach())
        return loss

    def batches(self, stage: Stage, pool: int, split: str = "train") -> Iterator[Batch]:
        return dialogue_batches(
            pool,
            self.chat,
            seed=SEED + 1 + self.stage,
            pool_size=stage.pool_size,
            num_turns=stage.num_turns,
            tokens=stage.tokens,
            shares=stage.shares,
            split=split,
        )

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy of the answers' tokens, and the image features `[B, 144, H]`."""
        inner = self.model.model
        with self._autocast():
            embeds = inner.language_model.embed_tokens(batch.input_ids)
            features = self._image_features(batch.pixels)
            mask = (batch.input_ids == self.model.config.image_token_id).unsqueeze(-1)
            embeds = embeds.masked_scatter(mask, features.flatten(0, 1).to(embeds.dtype))
            hidden = inner.language_model(inputs_embeds=embeds, use_cache=False).last_hidden_state
            rows = (batch.labels[:, 1:] != UNLABELLED).nonzero(as_tuple=True)
            logits = self.model.lm_head(hidden[rows])
        return F.cross_entropy(logits.float(), batch.labels[:, 1:][rows]), features

    def _image_features(self, pixels: Tensor) -> Tensor:
        return torch.stack(tuple(self.model.model.get_image_features(pixels).pooler_output))

    def _autocast(self) -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=self.half)

    def _step(self, loss: Tensor, rate: float) -> None:
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss.item()} in step {self.step}: {self.checkpoint} is as before")
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
        with self.log.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        text = ", ".join(f"{key} {value:.3f}" for key, value in values.items())
        print(f"{stage.name} {self.pool}/{stage.num_pools}: {text}, {left / 60:.0f} min left", flush=True)

    def _drop_log(self) -> None:
        """Steps behind the checkpoint are made, and logged, again."""
        if self.log.exists():
            lines = self.log.read_text().splitlines(keepends=True)
            known = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= self.step]
            self.log.write_text("".join(known))

    def _trained(self) -> dict[str, Tensor]:
        """The weights that any stage changes."""
        state = self.model.state_dict()
        return {k: v for k, v in state.items() if any(self.recipe.trains(k, stage) for stage in self.recipe.stages)}

    def _save(self) -> None:
        state = {
            "stage": self.stage,
            "pool": self.pool,
            "step": self.step,
            "seconds": self.seconds,
            "model": self._trained(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, self.checkpoint)

    def _load(self) -> None:
        state = torch.load(self.checkpoint, weights_only=True)
        self.stage, self.pool, self.step, self.seconds = (state[k] for k in ("stage", "pool", "step", "seconds"))
        self._set_model(self.recipe.make_model(self.current))
        weights, own = state["model"], self._trained()
        for name in weights.keys() | own.keys():
            shapes = [tuple(part[name].shape) if name in part else None for part in (own, weights)]
            if shapes[0] != shapes[1]:
                raise ValueError(
                    f"folder: expected a checkpoint of this recipe, with {name} {shapes[0]}, got {shapes[1]} in "
                    f"{self.checkpoint}"
                )
        self.model.load_state_dict(self.model.state_dict() | weights)
        for optimizer, values in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(values)
