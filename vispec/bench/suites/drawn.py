"""MMSpec's six kinds about pictures that the pair's generator draws: for the shipped pair, nothing is fetched."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from vispec.bench.prompts import MAX_NEW_TOKENS, SEED, SPLIT, Prompt
from vispec.bench.suites.mmspec import KINDS, answer_length
from vispec.bench.suites.turns import in_turn
from vispec.pair.dataset import FAMILIES, draw, make_turns

PER_KIND = 10
TOO_SHORT, TOO_LONG = 0.9, 1.2  # of MMSpec's length: what the generator's own answers to a conversation may have
NEAR_ENOUGH = 60  # pictures that are tried for a conversation of that length
MOST_TRIES = 100  # of further questions, not all of which a picture gives
MOST = 10_000  # conversations of a kind before the pictures are those of the next kind
SHORT = ("where", "is_there", "relation", "what_at", "count")


@dataclass(frozen=True)
class Dialogue:
    """How conversations of one kind are made up.

    Args:
        families: of pictures, in turn.
        first: kinds of the first question, in turn.
        then: kinds of those after it, in turn; empty: there is one question.
    """

    families: tuple[str, ...]
    first: tuple[str, ...]
    then: tuple[str, ...] = ()


DIALOGUES = {
    "short VQA": Dialogue(("scene", "emoji"), SHORT, SHORT),
    "text VQA": Dialogue(("sign", "receipt"), ("describe",)),
    "caption": Dialogue(("scene", "emoji"), ("describe",)),
    "chart": Dialogue(("chart",), ("describe",)),
    "reasoning": Dialogue(("table", "receipt"), ("describe",), ("compare", "describe", "value")),
    "multi-turn": Dialogue(("scene", "emoji"), ("describe",), ("describe",)),  # few questions, long answers
}


class DrawnKinds:
    """The kinds in turn, each about a held-out picture of its own.

    Args:
        data: None; nothing is read.
        limit: conversations in all; None: PER_KIND of each kind.

    Raises:
        ValueError: `data` is not None.
    """

    name = "mmspec-pictures"

    def __init__(self, data: Path | None, limit: int | None) -> None:
        if data is not None:
            raise ValueError(f"data: expected none for {self.name}, which draws its pictures, got {data}")
        self.limit = PER_KIND * len(KINDS) if limit is None else limit

    def __len__(self) -> int:
        return self.limit

    def __iter__(self) -> Iterator[Prompt]:
        return in_turn((self._prompts(kind.title) for kind in KINDS), self.limit)

    def published(self, kind: str, temperature: float, target: str) -> str | None:
        """How long the answers are that these are in the shape of."""
        return answer_length(kind)

    def _prompts(self, kind: str) -> Iterator[Prompt]:
        for number in itertools.count():
            made = make_conversation(kind, number)
            id = f"{kind.replace(' ', '-')}-{SEED}-{number}"
            yield Prompt(id, kind, made.questions, (made.image,), MAX_NEW_TOKENS)


@dataclass(frozen=True)
class Conversation:
    """Questions about a picture; `words` and marks, about as many as tokens, have the generator's answers in all."""

    questions: tuple[str, ...]
    words: int
    image: Image.Image


def make_conversation(kind: str, number: int) -> Conversation:
    """The `number`th of a kind: the first one tried whose answers are as long as MMSpec's, else the nearest."""
    place = [k.title for k in KINDS].index(kind)
    length, first = KINDS[place].answer_tokens, (place * MOST + number) * NEAR_ENOUGH
    tries = []
    for index in range(first, first + NEAR_ENOUGH):
        tries.append(_attempt(DIALOGUES[kind], number, index, length))
        if TOO_SHORT * length <= tries[-1].words <= TOO_LONG * length:
            return tries[-1]
    return min(tries, key=lambda made: abs(made.words - length))


def _attempt(dialogue: Dialogue, number: int, index: int, length: int) -> Conversation:
    """Questions about one picture until their answers are long enough."""
    family = dialogue.families[number % len(dialogue.families)]
    first = dialogue.first[number % len(dialogue.first)]
    picture, (turn,), rng = make_turns(SEED, SPLIT, index, shares={f"{family}/{first}": 1.0})
    image = draw(picture, random.Random(index))
    questions, words = [turn.question], _count(turn.answer)
    for kind in _then(dialogue, number):
        if words >= TOO_SHORT * length:
            break
        more = FAMILIES[family].ask[kind](picture, rng)
        if more is not None and more.question not in questions:
            questions.append(more.question)
            words += _count(more.answer)
    return Conversation(tuple(questions), words, image)


def _then(dialogue: Dialogue, number: int) -> Iterator[str]:
    """Kinds of the questions after the first; a picture may not give all, so there is an end."""
    return itertools.islice(itertools.cycle(dialogue.then), number, number + MOST_TRIES)


def _count(text: str) -> int:
    return len(re.findall(r"\w+|[^\w\s]", text))
