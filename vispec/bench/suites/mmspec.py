"""MMSpec (arXiv 2603.14989): six kinds of prompt, from its own data or from others in its schema."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vispec.bench.prompts import Prompt
from vispec.bench.suites.paper import SYSTEM
from vispec.bench.suites.rows import JsonLines, Table, folder_table, hub_table, open_images
from vispec.bench.suites.turns import in_turn

COLUMNS = ("id", "image", "turns", "topic")
MAX_NEW_TOKENS = 1024
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Kind:
    """One of the six.

    Args:
        title: as our tables write it.
        topic: as the rows write it.
        answer_tokens: of a target's answers to all questions of a conversation, on average, as MMSpec has them.
    """

    title: str
    topic: str
    answer_tokens: int


KINDS = (
    Kind("short VQA", "general vqa", 47),
    Kind("text VQA", "text vqa", 63),
    Kind("caption", "image captioning", 192),
    Kind("chart", "chart understanding", 69),
    Kind("reasoning", "complex reasoning pro", 286),
    Kind("multi-turn", "multi-turn conversation", 748),
)


def answer_length(kind: str) -> str | None:
    """Of this kind, in words."""
    return next((f"{k.answer_tokens} tokens, all turns" for k in KINDS if k.title == kind), None)


class MMSpec:
    """The kinds in turn, a conversation of each.

    Args:
        data: a folder with `mmspec.jsonl` and `images/`, or one with the files of a dataset's split "test", or the
            dataset's OWNER/NAME on the Hub.
        limit: conversations in all, at most; None: all.

    Raises:
        ValueError: nothing there, or it is not as MMSpec's rows are.
        ImportError: the dataset is on the Hub, and `datasets` is missing.
    """

    name = "mmspec"

    def __init__(self, data: Path | None, limit: int | None) -> None:
        self.rows, self.images = _table(data)
        titles = {kind.topic: kind.title for kind in KINDS}
        self.groups: dict[str, list[int]] = {kind.title: [] for kind in KINDS}
        for index in range(len(self.rows)):
            topic = self.rows.read(index, COLUMNS)["topic"]
            if topic not in titles:
                raise ValueError(f"{data}, row {index}: expected a topic of {', '.join(titles)}, got {topic!r}")
            self.groups[titles[topic]].append(index)
        count = len(self.rows)
        if count == 0:
            raise ValueError(f"{data}: expected rows, got none")
        self.limit = count if limit is None else min(limit, count)
        next(iter(self))  # a wrong schema is found before anything is measured

    def __len__(self) -> int:
        return self.limit

    def __iter__(self) -> Iterator[Prompt]:
        groups = [[(title, index) for index in indices] for title, indices in self.groups.items()]
        return (self._prompt(title, index) for title, index in in_turn(groups, self.limit))

    def published(self, kind: str, temperature: float, target: str) -> str | None:
        """How long MMSpec's answers are; its results by kind and method were not at hand."""
        return answer_length(kind)

    def _prompt(self, kind: str, index: int) -> Prompt:
        row: dict[str, Any] = self.rows.read(index, COLUMNS)
        turns = row["turns"]
        if not isinstance(turns, list) or not turns or not all(isinstance(turn, str) for turn in turns):
            raise ValueError(f"row {index}, column turns: expected a list of questions, got {turns!r:.80}")
        try:
            images = open_images(row["image"], self.images)
        except ValueError as error:
            raise ValueError(f"row {index}, column image: {error}") from error
        return Prompt(str(row["id"]), kind, tuple(turns), images, MAX_NEW_TOKENS, SYSTEM)


def _table(data: Path | None) -> tuple[Table, Path | None]:
    """The rows, and where their pictures are if they are files."""
    if data is not None and (data / "mmspec.jsonl").is_file():
        return JsonLines(data / "mmspec.jsonl"), data / "images"
    if data is not None and data.is_dir():
        return folder_table(data, None, "test"), data
    if data is not None and HUB_NAME.fullmatch(str(data)):
        return hub_table(str(data), None, "test"), None
    raise ValueError(
        f"data: expected a folder with mmspec.jsonl and images/, as dataset/MMSpec/test of "
        f"github.com/killthefullmoon/MMSpec, or OWNER/NAME on the Hub, got {data}; "
        "`--suite mmspec-pictures` needs no data"
    )
