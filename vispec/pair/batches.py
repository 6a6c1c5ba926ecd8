"""Training batches of the target, as pure functions of a pool's number: what a killed run had read is read again."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from vispec.pair.chat import UNLABELLED, Chat
from vispec.pair.dataset import draw, make_turns
from vispec.pair.regions import GRID, THIRDS, cell_words, patch_words
from vispec.pair.scenes import Scene
from vispec.pair.scoring import Picture

NUM_IMAGE_TOKENS = GRID * GRID
MULTIPLE = 64  # sequences are padded to one of few lengths: a compiled model is compiled for each
RARE = 4  # pictures; a text in fewer is one of the made-up names, which are spelt, not known
ROLES = {
    **{"noun": 2.0, "colour": 1.0, "size": 1.0, "row": 1.0, "column": 1.0, "background": 1.0},
    **dict.fromkeys(THIRDS, 1.0),
    "text": 1.0,  # the whole text that a patch is part of, where it is a frequent one
}  # and their weights


@dataclass(frozen=True)
class Batch:
    """Dialogues about pictures, padded on the right.

    Args:
        pixels: `[B, 3, 96, 96]`, -1 to 1.
        input_ids, labels: int64 `[B, L]`; labels name the token itself where the model must write it, else -100.
    """

    pixels: Tensor
    input_ids: Tensor
    labels: Tensor
    pictures: tuple[Picture, ...]


def to_pixels(image: Image.Image) -> Tensor:
    """`[3, 96, 96]` as the processor makes it of a picture of this size."""
    return torch.from_numpy(np.asarray(image, np.float32) / 127.5 - 1).permute(2, 0, 1)


def dialogue_batches(
    pool: int,
    chat: Chat,
    *,
    seed: int,
    pool_size: int,
    num_turns: int,
    tokens: int,
    shares: Mapping[str, float],
    split: str = "train",
) -> Iterator[Batch]:
    """The pool's pictures with `num_turns` questions each, in batches of about `tokens` positions of like length."""
    rng = random.Random(f"{seed} pool {pool}")
    samples = []
    for index in range(pool * pool_size, (pool + 1) * pool_size):
        picture, turns, drawing = make_turns(seed, split, index, num_turns, shares)
        order = rng.sample(turns, len(turns))
        samples.append((*chat.encode(order), draw(picture, drawing), picture))
    samples.sort(key=lambda sample: len(sample[0]))
    batches = []
    while samples:
        longest = -(-len(samples[-1][0]) // MULTIPLE) * MULTIPLE
        count = max(1, tokens // longest)
        batches.append((longest, samples[-count:]))
        del samples[-count:]
    rng.shuffle(batches)
    for longest, members in batches:
        input_ids = torch.full((len(members), longest), chat.tokenizer.pad_token_id)
        labels = torch.full((len(members), longest), UNLABELLED)
        for row, (ids, wanted, *_) in enumerate(members):
            input_ids[row, : len(ids)] = torch.tensor(ids)
            labels[row, : len(wanted)] = torch.tensor(wanted)
        pixels = torch.stack([to_pixels(image) for _, _, image, _ in members])
        yield Batch(pixels, input_ids, labels, tuple(picture for *_, picture in members))


def _words(picture: Picture) -> list[dict[str, str]]:
    return cell_words(picture) if isinstance(picture, Scene) else patch_words(picture)


class PatchWords:
    """The words of image patches as classes, by role; the classes are those of the first `count` pictures."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        shares: Mapping[str, float],
        seed: int,
        count: int = 4000,
    ) -> None:
        self.shares, self.seed = shares, seed
        found: dict[str, Counter[str]] = {role: Counter() for role in ROLES}
        for index in range(count):
            patches = _words(make_turns(seed, "train", index, 1, shares)[0])
            for role, word in {pair for words in patches for pair in words.items()}:
                if role in found:
                    found[role][word] += 1
        least = {role: RARE if role == "text" else 1 for role in ROLES}
        self.classes = {
            role: {word: i for i, word in enumerate(sorted(w for w, n in words.items() if n >= least[role]))}
            for role, words in found.items()
        }
        self.tokens = {
            role: [
                tokenizer(word if role in THIRDS else f" {word}", add_special_tokens=False)["input_ids"]
                for word in words
            ]
            for role, words in self.classes.items()
        }

    def embeddings(self, weight: Tensor) -> dict[str, Tensor]:
        """By role `[classes, H]`: the sum of the word's token embeddings, at unit length.

        Those of a patch's left and right character are turned by a third and two, as their order would be lost.
        """
        turns = {"left": weight.shape[1] // 3, "right": 2 * weight.shape[1] // 3}
        return {
            role: F.normalize(torch.stack([weight[ids].sum(0) for ids in tokens]), dim=-1).roll(turns.get(role, 0), -1)
            for role, tokens in self.tokens.items()
        }

    def batch(self, start: int, size: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Pixels `[size, 3, 96, 96]` and by role the classes int64 `[size, 144]` of pictures from `start` on."""
        found = [make_turns(self.seed, "train", start + row, 1, self.shares) for row in range(size)]
        pixels = torch.stack([to_pixels(draw(picture, drawing)) for picture, _, drawing in found])
        return pixels, self.labels([picture for picture, *_ in found])

    def labels(self, pictures: Sequence[Picture]) -> dict[str, Tensor]:
        """By role the classes int64 `[len(pictures), 144]` of the pictures' patches."""
        labels = {role: torch.full((len(pictures), NUM_IMAGE_TOKENS), UNLABELLED) for role in ROLES}
        for row, picture in enumerate(pictures):
            for patch, words in enumerate(_words(picture)):
                for role, classes in self.classes.items():
                    if words.get(role) in classes:
                        labels[role][row, patch] = classes[words[role]]
        return labels
