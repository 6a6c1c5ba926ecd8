"""Training data by the target itself: its own long answers to people's questions, as tokens (VISPEC.md section 5)."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from vispec.training.prompts import (
    Processor,
    UnusableSample,
    check_placeholders,
    get_tokenizer,
    open_image,
    render_dialogue,
)
from vispec.training.requests import Request, count_images
from vispec.training.shards import ABOUT, LEFT_OUT, ShardWriter, digest, settle_manifest, shard_path, shard_range
from vispec.training.writer import Record, Writer, fingerprint

INSTRUCTION = "Answer at length and in detail, in at least 1000 words."
FIRST_TRIED = 20  # requests of which one must work before any is written
REASONS_TOLD = 5  # of requests left out, the most common ones

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Written:
    """What a rank's shards hold."""

    num_samples: int
    left_out: Counter[str]  # requests that make no sample, by reason


def write_answers(
    model: PreTrainedModel | None,
    processor: Processor,
    requests: Sequence[Request],
    folder: str | Path,
    *,
    generate: bool = True,
    instruction: str = INSTRUCTION,
    max_new_tokens: int = 1024,
    batch_size: int = 8,
    num_shards: int = 8,
    rank: int = 0,
    world_size: int = 1,
) -> Written:
    """Have the target answer `requests`, greedily, and store its tokens; or store the answers that they came with.

    Killed at any moment and called again with the same arguments, it goes on, and ends with the same files.

    Args:
        model: The target; it is left as it was found. Not used where answers are given.
        processor: The target's processor, or the tokenizer of a text-only target, with a chat template.
        requests: All of them, on every rank.
        folder: For the shards; see `read_samples`.
        generate: Answer each request's last question. False: store the dialogues with the answers given.
        instruction: Follows each question; "" for none.
        max_new_tokens: Of an answer.
        batch_size: Requests that are answered together.
        num_shards: Files; a rank writes every `world_size`-th.
        rank, world_size: Of the processes that write at the same time.

    Returns:
        What this rank's shards hold now.

    Raises:
        ValueError, TypeError: an argument does not fit, none of the first requests works, or the folder was begun with
            other settings.
    """
    _check_numbers(
        max_new_tokens=max_new_tokens, batch_size=batch_size, num_shards=num_shards, rank=rank, world_size=world_size
    )
    requests = list(requests)
    _check_requests(processor, requests)
    folder = Path(folder)
    settings: dict[str, Any] = {
        "num_requests": len(requests),
        "requests": digest(json.dumps([r.key, r.messages, r.images]) for r in requests),
        "generate": generate,
        "batch_size": batch_size,
        "num_shards": num_shards,
        "chat_template": digest([json.dumps(processor.chat_template)]),
    }
    if generate:
        if not isinstance(model, PreTrainedModel):
            raise TypeError(f"model: expected a transformers PreTrainedModel, got {type(model).__name__}")
        writer = Writer(model, processor, instruction, max_new_tokens)
        answer = writer.answer
        _try_first(requests, writer.encode)
        settings |= {"instruction": instruction, "max_new_tokens": max_new_tokens, "model": fingerprint(model)}
        settings[ABOUT] = {"class": type(model).__name__, "name": model.config.name_or_path}
    else:
        _try_first(requests, lambda request: _given(processor, request))

        def answer(batch: Sequence[Request]) -> list[Record]:
            return [_or_left_out(request, lambda r: _given(processor, r)) for request in batch]

    settle_manifest(folder, settings, rank)
    return _write_shards(requests, folder, answer, batch_size, num_shards, rank, world_size)


def _write_shards(
    requests: Sequence[Request],
    folder: Path,
    answer: Callable[[Sequence[Request]], list[Record]],
    batch_size: int,
    num_shards: int,
    rank: int,
    world_size: int,
) -> Written:
    """Batches are the same in every run, as their padding can show in the last bits of an answer's logits."""
    with ExitStack() as stack:
        shards: list[tuple[ShardWriter, list[Request]]] = []
        for shard in range(rank, num_shards, world_size):
            own = [requests[index] for index in shard_range(shard, num_shards, len(requests))]
            keys = [request.key for request in own]
            shards.append(
                (stack.enter_context(ShardWriter(shard_path(folder, shard, num_shards), keys, batch_size)), own)
            )
        bar = transformers_logging.tqdm(
            total=sum(len(own) for _, own in shards),
            initial=sum(file.done for file, _ in shards),  # earlier runs say nothing about the time left
            desc="answers",
            unit="answer",
            disable=rank != 0,
        )
        stack.enter_context(bar)
        for file, own in shards:
            while file.done < len(own):
                batch = own[file.done : file.done + batch_size]
                file.append(answer(batch))
                bar.update(len(batch))
        outcomes = sum((file.outcomes for file, _ in shards), Counter[str]())
    num_samples = outcomes.pop("", 0)
    if outcomes:
        reasons = ", ".join(f"{count} times {reason}" for reason, count in outcomes.most_common(REASONS_TOLD))
        logger.warning("%s: %d requests left out: %s", folder, outcomes.total(), reasons)
    return Written(num_samples, outcomes)


def _given(processor: Processor, request: Request) -> Record:
    """The line of a dialogue."""
    if not request.answered:
        raise UnusableSample("no answer is given")
    text, spans = render_dialogue(processor, request.dialogue)
    images = request.images[: count_images(request.dialogue)]
    check_placeholders(processor, text, images)
    for path in images:
        open_image(path)
    return {"key": request.key, "text": text, "images": list(images), "spans": [list(span) for span in spans]}


def _or_left_out(request: Request, make: Callable[[Request], Record]) -> Record:
    try:
        return make(request)
    except UnusableSample as reason:
        return {"key": request.key, LEFT_OUT: str(reason)}


def _try_first(requests: Sequence[Request], prepare: Callable[[Request], object]) -> None:
    """An error of every request is better told before any of them is written off."""
    tried = requests[:FIRST_TRIED]
    for request in tried:
        try:
            prepare(request)
            return
        except UnusableSample as error:
            first = error
    raise ValueError(f"requests: expected some that work, got none in the first {len(tried)}: {first}") from first


def _check_numbers(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < (0 if name == "rank" else 1):
            raise ValueError(f"{name}: expected at least {0 if name == 'rank' else 1}, got {number}")
    if numbers["rank"] >= numbers["world_size"]:
        raise ValueError(f"rank: expected less than world_size {numbers['world_size']}, got {numbers['rank']}")


def _check_requests(processor: Processor, requests: Sequence[Request]) -> None:
    text_only = get_tokenizer(processor) is processor
    if not processor.chat_template:
        raise ValueError(f"processor: expected one with a chat template, {type(processor).__name__} has none")
    if not requests:
        raise ValueError("requests: expected at least one, got none")
    keys = Counter(request.key for request in requests)
    key, count = keys.most_common(1)[0]
    if count > 1:
        raise ValueError(f"requests: expected every key once, got {count} times {key!r}")
    shown = next((request.key for request in requests if request.images), None)
    if text_only and shown is not None:
        raise ValueError(f"processor: expected one that takes images, as request {shown!r} has; got a tokenizer")
