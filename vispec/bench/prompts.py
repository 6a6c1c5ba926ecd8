"""What `vispec bench` asks: prompts, and where they come from (`Source`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from vispec.pair.dataset import SHARES, make_sample

MAX_NEW_TOKENS = 256  # the pair's longest answers fit
SEED, SPLIT = 4321, "test"  # pictures that neither the pair's target nor its draft was trained on


@dataclass(frozen=True)
class Prompt:
    """One conversation to be measured: questions about images, each asked after the target's own answer to the last.

    Args:
        id: unique in its source and the same in every run: measurements are kept under it.
        kind: the row of the table that it counts for, such as "caption".
        questions: of the user; the first one comes behind the images, and has a placeholder for none of them.
        images: may be none.
        max_new_tokens: of each answer.
        system: said before all else, where the target's chat template has a place for it.
    """

    id: str
    kind: str
    questions: tuple[str, ...]
    images: tuple[Image.Image, ...] = ()
    max_new_tokens: int = MAX_NEW_TOKENS
    system: str | None = None


class Source(Protocol):
    """Prompts in an order that is the same in every run.

    Attributes:
        name: as the command line names it; measurements of one file share it.
    """

    name: str

    def __len__(self) -> int:
        """How many prompts there are."""

    def __iter__(self) -> Iterator[Prompt]:
        """Each prompt once; images are read as they are needed."""

    def published(self, kind: str, temperature: float, target: str) -> str | None:
        """What others measured on prompts of this kind with this target (its name on the Hub, or its folder)."""


class HeldOutPictures:
    """Pictures of the pair's generator that it was not trained on, all its kinds of question in turn.

    Args:
        count: pictures; each has one question.
    """

    name = "pictures"

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Prompt]:
        kinds = list(SHARES)
        for index in range(self.count):
            kind = kinds[index % len(kinds)]
            sample = make_sample(SEED, SPLIT, index, {kind: 1.0})
            yield Prompt(f"{SPLIT}-{SEED}-{index}", kind.split("/")[1], (sample.question,), (sample.image,))

    def published(self, kind: str, temperature: float, target: str) -> None:
        """The pair is ours alone."""
