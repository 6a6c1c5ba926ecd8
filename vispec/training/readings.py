"""What the target makes of samples, batch by batch, and a bounded store of it on disk."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from vispec.target import Target
from vispec.training.samples import EncodedSample


@dataclass(frozen=True)
class Sample:
    """One text as the draft is trained on it.

    Args:
        embeds, features: `[L, H]`, what the target's decoder read at each position and its last hidden states.
        images: `(start, end)` of each encoded image, in positions.
        is_answer: bool `[L]`, the target's own words.
    """

    embeds: Tensor
    features: Tensor
    images: list[tuple[int, int]]
    is_answer: Tensor

    @property
    def runs(self) -> list[tuple[int, int]]:
        """Images in the draft's indices, one before their positions (section 3.1)."""
        return [(max(start - 1, 0), end - 1) for start, end in self.images]


def pad_together(inputs: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """One batch of forward's inputs from several of batch 1: texts padded on the right, images stacked.

    Raises:
        ValueError: the samples have other inputs, so that one forward cannot take them together.
    """
    names = inputs[0].keys()
    longest = max(sample["input_ids"].shape[1] for sample in inputs)
    batch = {}
    for name in names:
        if any(sample.keys() != names for sample in inputs):
            raise ValueError(f"inputs: expected {sorted(names)} in every sample of a batch, got others")
        tensors = [sample[name] for sample in inputs]
        lengths = [sample["input_ids"].shape[1] for sample in inputs]
        if all(t.ndim == 2 and t.shape == (1, length) for t, length in zip(tensors, lengths, strict=True)):
            batch[name] = torch.cat([F.pad(t, (0, longest - t.shape[1])) for t in tensors])
        else:  # images: what differs in size (tiles) is filled with zeros, as the processors do
            sizes = [max(sizes) for sizes in zip(*(t.shape[1:] for t in tensors), strict=True)]
            fill = [
                [n for size, own in zip(sizes[::-1], t.shape[:0:-1], strict=True) for n in (0, size - own)]
                for t in tensors
            ]
            batch[name] = torch.cat([F.pad(t, pad) for t, pad in zip(tensors, fill, strict=True)])
    return batch


def read_samples_with(target: Target, samples: Sequence[EncodedSample]) -> list[Sample]:
    """One forward of the target over all samples that have the same inputs (images or none)."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for index, sample in enumerate(samples):
        groups.setdefault(tuple(sample.inputs), []).append(index)
    results: dict[int, Sample] = {}
    for members in groups.values():
        inputs = {k: v.to(target.device) for k, v in pad_together([samples[i].inputs for i in members]).items()}
        inputs = {k: v.to(target.dtype) if v.is_floating_point() else v for k, v in inputs.items()}
        reading = target.read(inputs)
        for row, index in enumerate(members):
            length = len(samples[index].is_answer)
            results[index] = Sample(
                reading.embeds[row, :length].clone(),
                reading.features[row, :length].clone(),
                reading.images[row],
                samples[index].is_answer.to(target.device),
            )
    return [results[index] for index in range(len(samples))]


def empty_sample(target: Target) -> Sample:
    """A sample that counts nowhere, in the place of one that cannot be used."""
    rows = torch.zeros(2, target.hidden_size, dtype=target.dtype, device=target.device)
    return Sample(rows, rows, [], torch.zeros(2, dtype=torch.bool, device=target.device))


class FeatureStore:
    """Readings on disk, one file a sample, up to a number of bytes: later epochs need not run the target again.

    Args:
        folder: of this target's and these samples' files.
        limit: bytes; once reached nothing more is written.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        folder.mkdir(parents=True, exist_ok=True)
        for torn in folder.glob("*.partial"):
            torn.unlink()
        self.used = sum(file.stat().st_size for file in folder.iterdir())

    def load(self, index: int, device: torch.device) -> Sample | None:
        """The reading of sample `index`, if it is stored."""
        file = self._file(index)
        if not file.exists():
            return None
        with safe_open(file, "pt", device=str(device)) as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        images = [(start, end) for start, end in tensors["images"].tolist()]
        return Sample(tensors["embeds"], tensors["features"], images, tensors["is_answer"])

    def save(self, index: int, sample: Sample) -> None:
        """Store a reading, if there is room."""
        size = sample.embeds.nbytes + sample.features.nbytes
        if self.used + size > self.limit:
            return
        tensors = {
            "embeds": sample.embeds,
            "features": sample.features,
            "images": torch.tensor(sample.images).reshape(-1, 2),
            "is_answer": sample.is_answer,
        }
        file = self._file(index)
        partial = file.with_suffix(f".{os.getpid()}.partial")
        save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, partial)
        os.replace(partial, file)
        self.used += file.stat().st_size

    def _file(self, index: int) -> Path:
        return self.folder / f"{index:08d}.safetensors"
