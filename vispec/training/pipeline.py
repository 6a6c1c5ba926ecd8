"""All of `vispec train`: the target's answers, stage 1 (text), stage 2 (vision), and the finished draft."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from transformers import PreTrainedModel

from vispec.draft.checkpoint import load_draft, save_model, shorten_vocabulary
from vispec.draft.config import DraftConfig
from vispec.draft.model import DraftModel
from vispec.loading import load_target
from vispec.target import DEVICES, Target
from vispec.training.answers import write_answers
from vispec.training.counts import count_answers
from vispec.training.evaluation import agreement, as_text, has_one_answer, num_accepted
from vispec.training.order import split_samples
from vispec.training.readings import FeatureStore
from vispec.training.requests import Request, read_requests
from vispec.training.samples import EncodedSample, StoredSample, read_samples
from vispec.training.self_check import check_feeding
from vispec.training.settings import TrainOptions, compare_options, note_options
from vispec.training.source import SampleSource
from vispec.training.trainer import ADAPTOR, Trainer
from vispec.tree import TreeConfig

GIB = 2**30
CHECKED = 4  # samples of the self-check
EVAL_TOKENS = 256  # of an answer that is decoded to measure num_accepted: its mean has settled by then
WAIT = timedelta(days=7)  # for the slowest process while answers are written


class Setup(NamedTuple):
    """What all stages work with."""

    accelerator: Accelerator
    target: Target
    processor: Any


def train(options: TrainOptions) -> Path:
    """Do all that is not done yet in `options.output`; the folder of the finished draft.

    Raises:
        ValueError: options or data do not fit, or the folder was begun with others.
        NotImplementedError: the target is not supported.
        ImportError: a package is missing that the data needs.
        OSError: a file or model is not there.
        RuntimeError: the self-check failed, or another process works in the same folder.
        FloatingPointError: training broke; the last checkpoint is kept.
    """
    requests = {}
    for name, option, data in (("text", "text_data", options.text_data), ("vision", "data", options.data)):
        if data:
            with _blaming(option):
                requests[name] = read_requests(data, image_folder=options.image_folder, limit=options.limit)
    options.output.mkdir(parents=True, exist_ok=True)
    compare_options(options)
    setup = prepare(options)
    if (options.draft_vocab_size or 1) > setup.target.vocab_size:
        raise ValueError(
            f"draft_vocab_size: expected at most the target's {setup.target.vocab_size} tokens, got "
            f"{options.draft_vocab_size}"
        )
    draft = new_draft(setup.target, options)
    setup.accelerator.print(_about(setup.target, draft))
    stored = {name: _samples(name, found, setup, options) for name, found in requests.items()}
    if setup.accelerator.is_main_process:  # only now: a mended command must not be held to one that did not work
        note_options(options)
    if options.shard_target:
        shard_layers(setup.target.model, setup.accelerator)
    for name, samples in stored.items():
        source = _source(name, samples, setup, options)
        run_stage(name, source, setup, draft, options, options.output / name)
    result = options.output / "draft"
    if setup.accelerator.is_main_process:
        if options.draft_vocab_size:
            counts = sum((count_answers(samples, setup.processor) for samples in stored.values()), Counter[int]())
            draft = shorten_vocabulary(draft, counts, options.draft_vocab_size)
        save_model(draft.to(setup.target.dtype), result)
    setup.accelerator.wait_for_everyone()
    setup.accelerator.print(f"draft: {result}")
    return result


def prepare(options: TrainOptions) -> Setup:
    """Processes, target and processor.

    Raises:
        ValueError: the batch cannot be spread over the processes.
        NotImplementedError: the target is not supported.
        OSError: no such target.
    """
    accelerator = Accelerator(
        cpu=options.device == "cpu" or not torch.accelerator.is_available(),  # accelerate starts no gloo unasked
        mixed_precision=options.mixed_precision,
        kwargs_handlers=[
            DistributedDataParallelKwargs(find_unused_parameters=True),
            InitProcessGroupKwargs(timeout=WAIT),
        ],
    )
    if options.batch_size % accelerator.num_processes:
        raise ValueError(
            f"batch_size: expected a multiple of the {accelerator.num_processes} processes, got {options.batch_size}"
        )
    with _blaming("model"):
        model, processor = load_target(options.model, options.dtype, accelerator.device)
    return Setup(accelerator, Target(model), processor)


def new_draft(target: Target, options: TrainOptions) -> DraftModel:
    """The draft before training, in fp32: new weights, or those of `options.init`.

    An image adaptor is taken over where it is of the asked kind, and is new otherwise: a draft that knows text may
    learn images in any way.

    Raises:
        ValueError, OSError: no draft for this target at `options.init`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        draft = DraftModel(new_config(target, options))
    if options.init:
        weights = load_draft(options.init, target.model).model.state_dict()
        own = draft.state_dict()
        missing = [name for name, new in own.items() if name not in weights or weights[name].shape != new.shape]
        for name in missing:
            if not name.startswith(ADAPTOR):
                raise ValueError(f"init: expected {name} of shape {list(own[name].shape)} in {options.init}")
        for name, tensor in own.items():
            if not (missing and name.startswith(ADAPTOR)):
                tensor.copy_(weights[name])
    return draft.to(device=target.device, dtype=torch.float32)


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
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)  # else each layer, a root, stays whole once it ran


def run_stage(
    name: str, source: SampleSource, setup: Setup, draft: DraftModel, options: TrainOptions, folder: Path
) -> None:
    """Train `draft` in place, from where the checkpoint in `folder` is on.

    Raises:
        ValueError: nothing to train on, or a checkpoint of other settings.
        RuntimeError: training and decoding would feed the draft differently.
    """
    accelerator, target = setup.accelerator, setup.target
    train_indices, held_out = split_samples([sample.key for sample in source.stored], options.eval_share)
    if not train_indices:
        raise ValueError(f"data: expected samples to train on, got none of {len(source.stored)} in stage {name}")
    measured = held_out[: options.eval_samples]
    encoded = [source.encode(i) for i in measured or train_indices[:CHECKED]]
    single = [sample for sample in encoded if sample is not None and has_one_answer(sample)]
    can_decode = target.device.type in DEVICES and not options.shard_target
    evaluate = partial(_evaluate, setup, source, measured, single if can_decode and measured else [], name, options)
    trainer = Trainer(accelerator, target, draft, source.load, train_indices, evaluate, options.stage(name), folder)
    accelerator.print(
        f"{name}: {len(train_indices)} samples to train on, {len(held_out)} held out; step {trainer.step} of "
        f"{trainer.steps}"
    )
    if trainer.step == trainer.steps:
        return
    if not can_decode:
        accelerator.print(
            f"{name}: no self-check and no num_accepted, they need the whole target on {' or '.join(DEVICES)}"
        )
    elif single[:CHECKED]:
        difference = check_feeding(target, draft, single[:CHECKED])
        accelerator.print(f"{name}: decoding feeds the draft what training does (differences <= {difference:.1g})")
    trainer.run()
    if trainer.last_evaluation:
        accelerator.print(f"{name}: {as_text(trainer.last_evaluation)}")


def _evaluate(
    setup: Setup,
    source: SampleSource,
    held_out: list[int],
    single: Sequence[EncodedSample],
    stage: str,
    options: TrainOptions,
    draft: DraftModel,
) -> dict[str, float]:
    """Measures, on the main process; a target in parts is run by all."""
    if not (setup.accelerator.is_main_process or options.shard_target):
        return {}
    values = agreement(setup.target, draft, source.load, held_out, stage) if held_out else {}
    if single:
        values |= num_accepted(setup.target, draft, single, TreeConfig(), min(options.max_new_tokens, EVAL_TOKENS))
    return values


def _samples(name: str, requests: Sequence[Request], setup: Setup, options: TrainOptions) -> Sequence[StoredSample]:
    accelerator, folder = setup.accelerator, options.output / f"{name}_answers"
    write_answers(
        setup.target.model,
        setup.processor,
        requests,
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


def _source(name: str, stored: Sequence[StoredSample], setup: Setup, options: TrainOptions) -> SampleSource:
    limit = int(options.feature_cache * GIB)
    folder = options.output / f"{name}_features"
    store = FeatureStore(folder, limit, setup.accelerator.num_processes) if limit else None
    together = setup.accelerator if options.shard_target else None
    return SampleSource(setup.target, setup.processor, stored, options.max_length, store, together)


def _about(target: Target, draft: DraftModel) -> str:
    sizes = [sum(p.numel() for p in module.parameters()) / 1e6 for module in (target.model, draft)]
    name, dtype = type(target.model).__name__, str(target.dtype).removeprefix("torch.")
    return f"target: {name}, {sizes[0]:.1f}M parameters, {dtype} on {target.device}; draft: {sizes[1]:.1f}M"


@contextmanager
def _blaming(option: str) -> Iterator[None]:
    """What is wrong in here is wrong with the value of `option`."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{option}: {str(error).removeprefix('source: ')}") from error
    except OSError as error:
        raise OSError(f"{option}: {error}") from error
