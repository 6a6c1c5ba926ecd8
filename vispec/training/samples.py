"""Samples to train on, as they are stored and as the target reads them: the question and its answer in one text."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import torch
from torch import Tensor

from vispec.training.prompts import (
    Processor,
    UnusableSample,
    adds_special_tokens,
    append_tokens,
    cut_tokens,
    encode_text,
    get_tokenizer,
)
from vispec.training.shards import LEFT_OUT, read_lines, read_manifest, shard_path


@dataclass(frozen=True)
class StoredSample:
    """One line of a shard: either `answer` or `spans`."""

    key: str  # of its request
    text: str  # the rendered question; with `spans` the whole rendered dialogue
    images: tuple[str, ...]  # paths
    answer: tuple[int, ...] | None = None  # the target's tokens as it wrote them, the end of text included
    ended: bool | None = None  # whether the answer came to its end; else the budget ended it
    spans: tuple[tuple[int, int], ...] = ()  # where given answers stand in `text`, `(start, end)` in characters


@dataclass(frozen=True)
class EncodedSample:
    """A sample as the target's forward takes it, on the CPU."""

    inputs: dict[str, Tensor]  # a batch of one, without padding
    is_answer: Tensor  # bool [L], tokens that the target wrote, or that were given as its answer


class Samples(Sequence[StoredSample]):
    """All samples of a folder in their source's order. Lines are read when asked for, so that any number fits.

    Raises:
        ValueError: no folder of samples, an unfinished one, or one in which no sample can be used.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        manifest = read_manifest(self.folder)
        num_shards, num_requests = manifest["num_shards"], manifest["num_requests"]
        self.left_out: Counter[str] = Counter()  # requests that make no sample, by reason
        self._places: list[tuple[Path, int]] = []
        for shard in range(num_shards):
            path = shard_path(self.folder, shard, num_shards)
            if path.exists():
                self._index(path)
        found = len(self) + self.left_out.total()
        if found != num_requests:
            raise ValueError(
                f"folder: expected the answers to all {num_requests} requests in {folder}, got {found}; write them "
                "with the same settings and they go on from there"
            )
        if not len(self):
            reasons = ", ".join(f"{count} times {reason}" for reason, count in self.left_out.most_common())
            raise ValueError(f"folder: expected at least one sample in {folder}, all were left out: {reasons}")

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> StoredSample: ...

    @overload
    def __getitem__(self, index: slice) -> list[StoredSample]: ...

    def __getitem__(self, index: int | slice) -> StoredSample | list[StoredSample]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        path, offset = self._places[index]
        with path.open("rb") as file:
            file.seek(offset)
            record = json.loads(file.readline())
        answer = record.get("answer")
        return StoredSample(
            key=record["key"],
            text=record["text"],
            images=tuple(record["images"]),
            answer=None if answer is None else tuple(answer),
            ended=record.get("ended"),
            spans=tuple((start, end) for start, end in record.get("spans", ())),
        )

    def _index(self, path: Path) -> None:
        offset = 0
        for line, record in read_lines(path):
            if LEFT_OUT in record:
                self.left_out[record[LEFT_OUT]] += 1
            else:
                self._places.append((path, offset))
            offset += len(line)


def read_samples(folder: str | Path) -> Samples:
    """What `write_answers` wrote; see `Samples`."""
    return Samples(folder)


def encode_sample(processor: Processor, sample: StoredSample, max_length: int | None = None) -> EncodedSample:
    """The whole text of a sample, with its images, for the target.

    Args:
        processor: The one that the sample was written with.
        sample: Of `read_samples`.
        max_length: Further tokens are cut off.

    Raises:
        UnusableSample: cut to `max_length`, an image would not be whole or no answer would be left; or an image is
            broken.
    """
    inputs = encode_text(processor, sample.text, sample.images)
    if sample.answer is not None:
        prompt_length = inputs["input_ids"].shape[1]
        inputs = append_tokens(inputs, sample.answer)
        is_answer = torch.arange(inputs["input_ids"].shape[1]) >= prompt_length
    else:
        is_answer = _given_answers(processor, sample, inputs["input_ids"][0])
    length = len(is_answer)
    if max_length is not None and length > max_length:
        images = inputs["input_ids"][0] == _image_token_id(processor)
        if images[max_length:].any():
            raise UnusableSample(f"{length} tokens, cut to {max_length} an image is not whole")
        inputs, is_answer = cut_tokens(inputs, max_length), is_answer[:max_length]
    if not is_answer.any():
        raise UnusableSample(f"{length} tokens, the first {len(is_answer)} hold no answer")
    return EncodedSample(inputs, is_answer)


def _given_answers(processor: Processor, sample: StoredSample, ids: Tensor) -> Tensor:
    """Which of the tokens `ids` `[L]` stand in the spans: bool `[L]`.

    The processor writes many tokens where the text has one an image. All others are the same, so the text's own
    offsets hold for them.
    """
    tokenizer = get_tokenizer(processor)
    if not tokenizer.is_fast:
        raise ValueError(f"processor: expected a fast tokenizer, which knows offsets, got {type(tokenizer).__name__}")
    plain = tokenizer(
        sample.text, add_special_tokens=adds_special_tokens(processor, sample.text), return_offsets_mapping=True
    )
    in_span = torch.tensor(
        [
            any(start < until and end > since and end > start for since, until in sample.spans)
            for start, end in plain["offset_mapping"]
        ],
        dtype=torch.bool,
    )
    image = _image_token_id(processor)
    plain_ids = torch.tensor(plain["input_ids"])
    if not torch.equal(plain_ids[plain_ids != image], ids[ids != image]):
        raise ValueError(
            f"processor: expected {type(processor).__name__} to change nothing in a text but the number of its image "
            f"tokens, other tokens differ in sample {sample.key}"
        )
    is_answer = torch.zeros(len(ids), dtype=torch.bool)
    is_answer[ids != image] = in_span[plain_ids != image]
    return is_answer


def _image_token_id(processor: Processor) -> int:
    """-1, which is no token, for a plain tokenizer."""
    return getattr(processor, "image_token_id", -1)
