"""Which samples each step reads: a pure function of seed and step, so a resumed run and any number of ranks agree."""

from __future__ import annotations

import functools
import hashlib

import torch


class SampleOrder:
    """An endless stream of epochs, each a permutation of all samples, cut into batches.

    Args:
        indices: the samples.
        batch_size: samples in a step, of all ranks together.
    """

    def __init__(self, indices: list[int], batch_size: int, seed: int) -> None:
        self.indices, self.batch_size, self.seed = indices, batch_size, seed
        self._epoch = functools.lru_cache(maxsize=2)(self._permutation)

    def steps(self, epochs: float) -> int:
        """Steps that read every sample `epochs` times."""
        return max(1, round(epochs * len(self.indices) / self.batch_size))

    def batch(self, step: int) -> list[int]:
        """The samples of a step."""
        positions = range(step * self.batch_size, (step + 1) * self.batch_size)
        size = len(self.indices)
        return [self.indices[self._epoch(position // size)[position % size]] for position in positions]

    def _permutation(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(stable_seed(self.seed, "epoch", epoch))
        return torch.randperm(len(self.indices), generator=generator).tolist()


def stable_seed(*parts: object) -> int:
    """63 bits that hang on all parts, the same in every process."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big") >> 1


def split_samples(keys: list[str], eval_share: float) -> tuple[list[int], list[int]]:
    """Indices to train on and held-out ones. A sample's key decides, so more data moves none to the other side."""
    held_out = [stable_seed("held out", key) % 10_000 < eval_share * 10_000 for key in keys]
    train = [i for i, held in enumerate(held_out) if not held]
    return train, [i for i, held in enumerate(held_out) if held]
