"""All of `vispec train`: the target's answers, stage 1 (text), stage 2 (vision), and the finished draft."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedModel,
)

from vispec.draft.checkpoint import Draft, load_draft
from vispec.draft.config import DraftConfig
from vispec.draft.model import DraftModel
from vispec.target import DEVICES, Target
from vispec.training.answers import write_answers
from vispec.training.evaluation import agreement, as_text, has_one_answer, num_accepted
from vispec.training.order import split_samples
from vispec.training.prompts import UnusableSample
from vispec.training.readings import FeatureStore, Sample, empty_sample, read_samples_with
from vispec.training.requests import read_requests
from vispec.training.samples import EncodedSample, StoredSample, encode_sample, read_samples
from vispec.training.self_check import check_feeding
from vispec.training.trainer import StageSettings, Trainer
from vispec.tree import TreeConfig

GIB = 2**30
CHECKED = 4  # samples of the self-check
WAIT = timedelta(days=7)  # for the slowest process while answers are written
OPTIONS_FILE = "options.json"
MAY_CHANGE = {"device", "feature_cache", "micro_batch_size", "eval_every", "save_every", "generate_batch_size"}


@dataclass(frozen=True)
class TrainOptions:
    """`vispec train`'s options, see its help."""

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
    multi_token_steps: int = 1
    noise: bool = True
    epochs: float = 20.0
    text_epochs: float = 20.0
    batch_size: int = 8
    micro_batch_size: int = 8
    learning_rate: float = 1e-4
    warm_up: float = 0.05
    clip_value: float = 0.5
    max_length: int = 4096
    dtype: str = "auto"
    mixed_precision: str = "no"
    device: str | None = None
    shard_target: bool = False
    feature_cache: float = 0.0
    eval_share: float = 0.05
    eval_samples: int = 16
    eval_every: int = 500
    save_every: int = 200
    seed: int = 0

    def stage(self, name: str) -> StageSettings:
        """Settings of stage "text" or "vision"."""
        return StageSettings(
            stage=name,
            epochs=self.text_epochs if name == "text" else self.epochs,
            multi_token_steps=0 if name == "text" else self.multi_token_steps,
            batch_size=self.batch_size,
            micro_batch_size=self.micro_batch_size,
            learning_rate=self.learning_rate,
            warm_up=self.warm_up,
            clip_value=self.clip_value,
            noise=self.noise,
            eval_every=self.eval_every,
            save_every=self.save_every,
            seed=self.seed,
        )


class SampleSource:
    """Samples by index, read by the target when they are asked for, or from the store."""

    def __init__(
        self,
        target: Target,
        processor: Any,
        stored: Sequence[StoredSample],
        max_length: int,
        store: FeatureStore | None,
    ) -> None:
        self.target, self.processor, self.stored = target, processor, stored
        self.max_length, self.store = max_length, store

    def encode(self, index: int) -> EncodedSample | None:
        """The target's inputs for a sample; None, told once, where `max_length` leaves nothing to learn from."""
        try:
            return encode_sample(self.processor, self.stored[index], self.max_length)
        except UnusableSample as reason:
            warnings.warn(f"sample {self.stored[index].key} and maybe others train nothing: {reason}", stacklevel=2)
            return None

    def load(self, indices: list[int]) -> list[Sample]:
        """What the draft is trained on."""
        device = self.target.device
        found = {i: self.store.load(i, device) if self.store else None for i in indices}
        missing = [i for i, sample in found.items() if sample is None]
        encoded = {i: sample for i in missing if (sample := self.encode(i)) is not None}
        for i, read in zip(encoded, read_samples_with(self.target, list(encoded.values())), strict=True):
            found[i] = read
            if self.store:
                self.store.save(i, read)
        return [found[i] or empty_sample(self.target) for i in indices]


def train(options: TrainOptions) -> Path:
    """Do all that is not done yet in `options.output`; the folder of the finished draft."""
    accelerator = Accelerator(
        cpu=options.device == "cpu",
        mixed_precision=options.mixed_precision,
        kwargs_handlers=[
            DistributedDataParallelKwargs(find_unused_parameters=True),
            InitProcessGroupKwargs(timeout=WAIT),
        ],
    )
    _check_options(options, accelerator)
    model, processor = load_target(options.model, options.dtype, accelerator.device)
    target = Target(model)
    parts = [("text", options.text_data), ("vision", options.data)]
    stored = {name: _samples(name, data, model, processor, options, accelerator) for name, data in parts if data}
    if options.shard_target:
        shard_layers(model, accelerator)
    draft = load_draft(options.init, model).model if options.init else DraftModel(new_config(target, options))
    draft = draft.to(device=accelerator.device, dtype=torch.float32)
    for name in stored:
        _run_stage(name, stored[name], target, processor, draft, options, accelerator)
    result = options.output / "draft"
    if accelerator.is_main_process:
        Draft(draft, model).save_pretrained(result)
    accelerator.wait_for_everyone()
    accelerator.print(f"draft: {result}")
    return result


def load_target(name: str, dtype: str, device: torch.device) -> tuple[PreTrainedModel, Any]:
    """A model and what makes its inputs: a processor, or a tokenizer where the model reads text alone."""
    config = AutoConfig.from_pretrained(name)
    reads_images = hasattr(config, "vision_config")
    kind = AutoModelForImageTextToText if reads_images else AutoModelForCausalLM
    model = kind.from_pretrained(name, dtype=dtype if dtype == "auto" else getattr(torch, dtype))
    processor = (AutoProcessor if reads_images else AutoTokenizer).from_pretrained(name)
    return model.to(device).eval().requires_grad_(False), processor


def new_config(target: Target, options: TrainOptions) -> DraftConfig:
    """A draft with the geometry of the target's text model (section 3)."""
    text = target.text_config
    rope = getattr(text, "rope_parameters", None) or {}
    return DraftConfig(
        hidden_size=text.hidden_size,
        intermediate_size=text.intermediate_size,
        num_attention_heads=text.num_attention_heads,
        num_key_value_heads=text.num_key_value_heads,
        vocab_size=text.vocab_size,
        num_queries=options.num_queries,
        global_feature=options.global_feature and options.num_queries > 0,
        rms_norm_eps=text.rms_norm_eps,
        rope_theta=float(rope.get("rope_theta", 10000.0)),
        qkv_bias=bool(getattr(text, "attention_bias", text.model_type.startswith("qwen2"))),
    )


def shard_layers(model: PreTrainedModel, accelerator: Accelerator) -> None:
    """Spread the decoder layers' weights over all processes (FSDP): each layer is gathered when it runs."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for layer in model.get_decoder().layers:
        fully_shard(layer, mesh=mesh)


def _check_options(options: TrainOptions, accelerator: Accelerator) -> None:
    """Settings of an earlier run in the same folder must be the same: their results would be mixed."""
    if options.shard_target and options.feature_cache:
        raise ValueError("feature_cache: expected 0 with shard_target, whose processes must read every batch together")
    options.output.mkdir(parents=True, exist_ok=True)
    file = options.output / OPTIONS_FILE
    ours = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(options).items()}
    if file.exists():
        theirs = json.loads(file.read_text())
        for name in ours.keys() - MAY_CHANGE:
            if theirs.get(name) != ours[name]:
                raise ValueError(
                    f"{name}: the run in {options.output} was started with {theirs.get(name)}, got {ours[name]}"
                )
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        file.write_text(json.dumps(ours, indent=2) + "\n")


def _samples(
    name: str, data: str, model: PreTrainedModel, processor: Any, options: TrainOptions, accelerator: Accelerator
) -> Sequence[StoredSample]:
    folder = options.output / f"{name}_answers"
    write_answers(
        model,
        processor,
        read_requests(data, image_folder=options.image_folder, limit=options.limit),
        folder,
        **({} if options.instruction is None else {"instruction": options.instruction}),
        generate=name == "vision" and options.answers == "write",
        max_new_tokens=options.max_new_tokens,
        batch_size=options.generate_batch_size,
        num_shards=options.num_shards,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
    )
    accelerator.wait_for_everyone()
    return read_samples(folder)


def _run_stage(
    name: str,
    stored: Sequence[StoredSample],
    target: Target,
    processor: Any,
    draft: DraftModel,
    options: TrainOptions,
    accelerator: Accelerator,
) -> None:
    limit = int(options.feature_cache * GIB)
    store = FeatureStore(options.output / f"{name}_features", limit) if limit else None
    source = SampleSource(target, processor, stored, options.max_length, store)
    train_indices, held_out = split_samples([sample.key for sample in stored], options.eval_share)
    if not train_indices:
        raise ValueError(f"data: expected samples to train on, got none of {len(stored)} in stage {name}")
    encoded = [source.encode(i) for i in (held_out or train_indices)[: options.eval_samples]]
    single = [sample for sample in encoded if sample is not None and has_one_answer(sample)]
    if accelerator.device.type in DEVICES and not options.shard_target:
        difference = check_feeding(target, draft, single[:CHECKED])
        accelerator.print(f"self-check: decoding feeds the draft what training does, differences <= {difference:.1g}")
    else:
        single = []
        accelerator.print(
            f"num_accepted and the self-check need the whole target on {' or '.join(DEVICES)}: left out here"
        )
    evaluate = partial(_evaluate, target, source, held_out[: options.eval_samples], single, name, options)
    trainer = Trainer(
        accelerator, target, draft, source.load, train_indices, evaluate, options.stage(name), options.output / name
    )
    trainer.run()
    if trainer.last_evaluation:
        accelerator.print(f"{name}: {as_text(trainer.last_evaluation)}")


def _evaluate(
    target: Target,
    source: SampleSource,
    held_out: list[int],
    single: Sequence[EncodedSample],
    stage: str,
    options: TrainOptions,
    draft: DraftModel,
) -> dict[str, float]:
    values = agreement(target, draft, source.load, held_out, stage) if held_out else {}
    if single:
        values |= num_accepted(target, draft, single, TreeConfig(), options.max_new_tokens)
    return values
