"""What `vispec train` is asked to do, and the note of it in the output folder that a resumed run is held to."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from vispec.training.trainer import StageSettings

OPTIONS_FILE = "options.json"
MAY_CHANGE = {
    "output", "device", "shard_target", "feature_cache", "generate_batch_size", "micro_batch_size", "eval_samples",
    "eval_every", "save_every",
}  # fmt: skip  # between runs in one folder: they decide how and where, not what comes out
POSITIVE = ("epochs", "text_epochs", "learning_rate", "clip_value")
SHARES = ("warm_up", "eval_share")
LEAST = {"max_length": 4, "num_queries": 0, "multi_token_steps": 0, "eval_samples": 0, "feature_cache": 0, "seed": 0}
COUNTS = (
    "limit", "max_new_tokens", "generate_batch_size", "num_shards", "draft_vocab_size", "batch_size",
    "micro_batch_size", "eval_every", "save_every",
)  # fmt: skip


@dataclass(frozen=True)
class TrainOptions:
    """`vispec train`'s options, see its help.

    Raises:
        ValueError: a number is out of range.
    """

    model: str
    data: str
    output: Path
    image_folder: Path | None = None
    text_data: str | None = None
    init: str | None = None
    limit: int | None = None
    answers: str = "write"
    instruction: str | None = None
    max_new_tokens: int = 1024
    generate_batch_size: int = 8
    num_shards: int = 8
    num_queries: int = 2
    global_feature: bool = True
    draft_vocab_size: int | None = None
    multi_token_steps: int = StageSettings.multi_token_steps
    noise: bool = StageSettings.noise
    epochs: float = StageSettings.epochs
    text_epochs: float = StageSettings.epochs
    batch_size: int = StageSettings.batch_size
    micro_batch_size: int = StageSettings.micro_batch_size
    learning_rate: float = StageSettings.learning_rate
    warm_up: float = StageSettings.warm_up
    clip_value: float = StageSettings.clip_value
    max_length: int = 4096
    dtype: str = "auto"
    mixed_precision: str = "no"
    device: str | None = None
    shard_target: bool = False
    feature_cache: float = 0.0
    eval_share: float = 0.05
    eval_samples: int = 16
    eval_every: int = StageSettings.eval_every
    save_every: int = StageSettings.save_every
    seed: int = StageSettings.seed

    def __post_init__(self) -> None:
        for name, least in {**dict.fromkeys(COUNTS, 1), **LEAST}.items():
            value = getattr(self, name)
            if value is not None and not least <= value < math.inf:
                raise ValueError(f"{name}: expected at least {least}, got {value}")
        for name in POSITIVE:
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}: expected a number above 0, got {getattr(self, name)}")
        for name in SHARES:
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: expected a share from 0 to below 1, got {getattr(self, name)}")
        if self.shard_target and self.feature_cache:
            raise ValueError(
                "feature_cache: expected 0 with shard_target, whose processes must read every batch together"
            )

    def stage(self, name: str) -> StageSettings:
        """Settings of stage "text" or "vision"."""
        own = {field.name: getattr(self, field.name) for field in fields(StageSettings) if hasattr(self, field.name)}
        text = {"epochs": self.text_epochs, "multi_token_steps": 0} if name == "text" else {}
        return StageSettings(**{**own, **text, "stage": name})


def compare_options(options: TrainOptions) -> None:
    """
    Raises:
        ValueError: the output folder was begun with other options: what is in it would be mixed with other results.
    """
    file = options.output / OPTIONS_FILE
    if not file.exists():
        return
    theirs, ours = json.loads(file.read_text()), _as_json(options)
    for name in sorted(ours.keys() - MAY_CHANGE):
        if theirs.get(name) != ours[name]:
            raise ValueError(
                f"{name}: the run in {options.output} was started with {theirs.get(name)}, got {ours[name]}; "
                "give the same again, or another output folder"
            )


def note_options(options: TrainOptions) -> None:
    """Write them into the output folder, for `compare_options`."""
    partial = options.output / f"{OPTIONS_FILE}.partial"
    partial.write_text(json.dumps(_as_json(options), indent=2) + "\n")
    os.replace(partial, options.output / OPTIONS_FILE)


def _as_json(options: TrainOptions) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(options).items()}
