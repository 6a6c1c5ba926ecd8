"""What the target makes of samples, batch by batch, and a bounded store of it on disk."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from vispec.target import Target
from vispec.training.prompts import pad_batch
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


def read_samples_with(target: Target, samples: Sequence[EncodedSample]) -> list[Sample]:
    """One forward of the target over all samples that have the same inputs (images or none)."""
    results: dict[int, Sample] = {}
    for members in _groups(samples):
        inputs = {k: v.to(target.device) for k, v in pad_batch([samples[i].inputs for i in members], "right").items()}
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


def count_forwards(samples: Sequence[EncodedSample]) -> int:
    """How often `read_samples_with` runs the target."""
    return len(_groups(samples))


def _groups(samples: Sequence[EncodedSample]) -> list[list[int]]:
    """Indices of samples that one forward can take: all of them with images, or none."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for index, sample in enumerate(samples):
        groups.setdefault(tuple(sample.inputs), []).append(index)
    return list(groups.values())


def empty_sample(target: Target) -> Sample:
    """A sample that counts nowhere, in the place of one that cannot be used."""
    rows = torch.zeros(2, target.hidden_size, dtype=target.dtype, device=target.device)
    return Sample(rows, rows, [], torch.zeros(2, dtype=torch.bool, device=target.device))


class FeatureStore:
    """Readings on disk, one file a sample, up to a number of bytes: later epochs need not run the target again.

    Args:
        folder: of this target's and these samples' files.
        limit: bytes; once reached nothing more is written.
        num_writers: processes that write there at the same time; each takes its part of the room.
    """

    def __init__(self, folder: Path, limit: int, num_writers: int = 1) -> None:
        self.folder, self.limit = folder, limit // num_writers
        folder.mkdir(parents=True, exist_ok=True)
        for torn in folder.glob("*.partial"):
            torn.unlink()
        self.used = sum(file.stat().st_size for file in folder.iterdir()) // num_writers

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
