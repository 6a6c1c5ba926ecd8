"""Samples by index: read by the target when they are asked for, or from the store."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator

from vispec.target import Target
from vispec.training.prompts import UnusableSample
from vispec.training.readings import FeatureStore, Sample, count_forwards, empty_sample, read_samples_with
from vispec.training.samples import EncodedSample, StoredSample, encode_sample

logger = logging.getLogger(__name__)


class SampleSource:
    """What drafts are trained on.

    Args:
        target, processor: that the samples were written with.
        stored: all samples.
        max_length: of a sample, in positions.
        store: of readings, for samples that are read again.
        together: processes that hold one target in parts, so that all of them must run it equally often.
    """

    def __init__(
        self,
        target: Target,
        processor: Any,
        stored: Sequence[StoredSample],
        max_length: int,
        store: FeatureStore | None = None,
        together: Accelerator | None = None,
    ) -> None:
        self.target, self.processor, self.stored = target, processor, stored
        self.max_length, self.store, self.together = max_length, store, together
        self.has_told = False

    def encode(self, index: int) -> EncodedSample | None:
        """The target's inputs for a sample; None, told once, where `max_length` leaves nothing to learn from."""
        try:
            return encode_sample(self.processor, self.stored[index], self.max_length)
        except UnusableSample as reason:
            if not self.has_told:
                logger.warning("sample %s, and maybe others, trains nothing: %s", self.stored[index].key, reason)
            self.has_told = True
            return None

    def load(self, indices: list[int]) -> list[Sample]:
        """What the draft is trained on."""
        device = self.target.device
        found = {i: self.store.load(i, device) if self.store else None for i in indices}
        missing = [i for i, sample in found.items() if sample is None]
        encoded = {i: sample for i in missing if (sample := self.encode(i)) is not None}
        if self.together:
            self._keep_pace(count_forwards(list(encoded.values())), self.together)
        for i, read in zip(encoded, read_samples_with(self.target, list(encoded.values())), strict=True):
            found[i] = read
            if self.store:
                self.store.save(i, read)
        return [found[i] or empty_sample(self.target) for i in indices]

    def _keep_pace(self, forwards: int, together: Accelerator) -> None:
        """Run the target as often in all as the process does that has to run it most: a forward gathers all parts."""
        most = int(together.gather(torch.tensor([forwards], device=self.target.device)).max())
        for _ in range(most - forwards):
            self.target.read({"input_ids": torch.zeros(1, 1, dtype=torch.long, device=self.target.device)})
