"""Questions to train on, read from the files that people have: JSON lines, LLaVA's and ShareGPT's JSON, `datasets`."""

from __future__ import annotations

import codecs
import json
import logging
import os
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vispec.training.dataset_rows import Rows, read_dataset

IMAGE = "<image>"
IMAGE_LINE = re.compile(f"\n?{IMAGE}\n?")  # LLaVA's files put the placeholder on a line of its own
QUESTION_FIELDS = {"id", "image", "images", "prompt", "answer"}
ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "assistant": "assistant",
    "system": "system",
}
Message = dict[str, Any]  # of a chat template: role, and content as a list of texts and images

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """A question to the target, or a whole dialogue with given answers."""

    key: str  # unique in its source: the row's number and, where it has one, its id
    messages: tuple[Message, ...]
    images: tuple[str, ...]  # absolute paths, in the order of the image parts of `messages`

    @property
    def answered(self) -> bool:
        """Whether answers are given."""
        return any(message["role"] == "assistant" for message in self.messages)

    @property
    def prompt(self) -> tuple[Message, ...]:
        """Up to the last question."""
        return self._until("user")

    @property
    def dialogue(self) -> tuple[Message, ...]:
        """Up to the last answer."""
        return self._until("assistant")

    def _until(self, role: str) -> tuple[Message, ...]:
        ends = [index for index, message in enumerate(self.messages, 1) if message["role"] == role]
        return self.messages[: ends[-1]] if ends else ()


def count_images(messages: Sequence[Message]) -> int:
    return sum(part["type"] == "image" for message in messages for part in message["content"])


class _Unusable(Exception):
    """A dialogue that people's collections are full of: left out, and counted."""


def read_requests(
    source: str | Path, image_folder: str | Path | None = None, limit: int | None = None, seed: int | None = None
) -> list[Request]:
    """Read questions, with or without answers.

    Args:
        source: One of
            - JSON lines of `{"image": path, "prompt": text}`, and optional "answer" and "id"; `"images": [paths]` for
              several. Images come before the text, or where `<image>` stands in it;
            - a JSON list or JSON lines of dialogues `{"image": path, "conversations": [{"from": "human", "value":
              text}, {"from": "gpt", "value": text}]}` as of LLaVA-Pretrain, or without images as of ShareGPT;
            - a folder of `datasets` (saved by `save_to_disk`, or of files that `load_dataset` reads), or a name on the
              Hub, `OWNER/NAME`, `OWNER/NAME/CONFIG`, with `:SPLIT` behind it if that is not `train`. Columns are named
              as the fields above; others are ignored.
        image_folder: Where relative image paths start, else beside the file; for a dataset that holds pictures
            themselves, the folder to write them to.
        limit: So many requests at most.
        seed: Shuffle the rows first.

    Raises:
        ValueError: nothing there, a broken row or a missing image, by line; or no row can be used.
        ImportError: `datasets` is needed and missing.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit: expected at least 1, got {limit}")
    path = Path(source)
    if path.is_file():
        rows = _read_file(path)
        folder = Path(image_folder) if image_folder is not None else path.parent
    else:
        rows = read_dataset(str(source), image_folder)
        folder = Path(image_folder or ".")
    order = list(range(len(rows.values)))
    if seed is not None:
        random.Random(seed).shuffle(order)
    requests: list[Request] = []
    unusable: Counter[str] = Counter()
    for index in order:
        if len(requests) == limit:
            break
        try:
            requests.append(_read_row(rows.values[index], index, rows.place(index), folder))
        except _Unusable as reason:
            unusable[str(reason)] += 1
    if unusable:
        reasons = ", ".join(f"{count} with {reason}" for reason, count in unusable.most_common())
        logger.warning("%s: %d dialogues cannot be used: %s", rows.name, unusable.total(), reasons)
    if not requests:
        raise ValueError(f"source: expected at least one row that can be used, got none in {rows.name}")
    return requests


def _read_file(path: Path) -> Rows:
    """A JSON list, or JSON lines: told apart by the first character."""
    data = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    if data.lstrip()[:1] == b"[":
        try:
            entries = json.loads(data)
        except ValueError as error:
            raise ValueError(f"{path}: expected a JSON list, got {error}") from error
        return Rows(str(path), "entry", range(len(entries)), entries)
    numbers, values = [], []
    for number, line in enumerate(data.split(b"\n"), 1):
        if line.strip():
            try:
                values.append(json.loads(line))
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: expected a JSON object, got {error}") from error
            numbers.append(number)
    return Rows(str(path), "line", numbers, values)


def _read_row(row: Any, index: int, place: str, folder: Path) -> Request:
    if not isinstance(row, Mapping):
        raise ValueError(f"{place}: expected a JSON object, got {type(row).__name__}")
    fields = {name: value for name, value in row.items() if value is not None}
    images = _find_images(fields, place, folder)
    if "conversations" in fields:
        messages = _read_dialogue(fields["conversations"], len(images), place)
    else:
        messages = _read_question(fields, len(images), place)
    identity = fields.get("id")
    return Request(str(index) if identity is None else f"{index}:{identity}", tuple(messages), images)


def _find_images(fields: Mapping[str, Any], place: str, folder: Path) -> tuple[str, ...]:
    if "image" in fields and "images" in fields:
        raise ValueError(f"{place}: expected image or images, got both")
    found = fields.get("image", fields.get("images", []))
    found = [found] if isinstance(found, str) else found
    if not isinstance(found, Sequence) or not all(isinstance(name, str) for name in found):
        raise ValueError(f"{place}: expected a path, or a list of paths, as image or images, got {found!r}")
    paths = tuple(os.path.abspath(folder / name) for name in found)
    for path in paths:
        if not os.path.isfile(path):
            raise ValueError(f"{place}: expected an image at {path}, got no file there")
    return paths


def _read_question(fields: Mapping[str, Any], num_images: int, place: str) -> list[Message]:
    unknown = sorted(fields.keys() - QUESTION_FIELDS)
    if unknown:
        known = ", ".join(sorted(QUESTION_FIELDS))
        raise ValueError(f"{place}: expected fields among {known}, or conversations, got {', '.join(unknown)}")
    texts = {name: fields.get(name) for name in ("prompt", "answer") if name == "prompt" or name in fields}
    for name, text in texts.items():
        if not isinstance(text, str) or not text.strip() or not _is_unicode(text):
            raise ValueError(f"{place}: expected a text as {name}, got {text!r}")
    parts = str(texts["prompt"]).split(IMAGE)
    if len(parts) - 1 not in (0, num_images):
        raise ValueError(f"{place}: expected one {IMAGE} an image in prompt, got {len(parts) - 1} for {num_images}")
    messages = [{"role": "user", "content": _content(parts, num_images)}]
    if "answer" in texts:
        messages.append(_answer(str(texts["answer"])))
    return messages


def _read_dialogue(turns: Any, num_images: int, place: str) -> list[Message]:
    """Alternating turns from the first question on, behind a system text if there is one."""
    speakers, texts = _read_turns(turns, place)
    start = 1 if speakers[:1] == ["system"] else 0
    first = next((index for index, role in enumerate(speakers) if role == "user"), len(speakers))
    if set(speakers[start:first]) - {"assistant"}:
        raise _Unusable("a system text between other turns")
    pairs = list(zip(speakers, texts, strict=True))
    pairs = pairs[:start] + pairs[first:]
    if first == len(speakers):
        raise _Unusable("no question")
    if any(role != ("user", "assistant")[turn % 2] for turn, (role, _) in enumerate(pairs[start:])):
        raise _Unusable("turns that do not alternate")
    asked = sum(text.count(IMAGE) for role, text in pairs if role == "user")
    if any(IMAGE in text for role, text in pairs if role != "user") or (asked and not num_images):
        raise _Unusable(f"{IMAGE} where no image is")
    if num_images and asked not in (0, num_images):
        raise ValueError(f"{place}: expected one {IMAGE} an image in conversations, got {asked} for {num_images}")
    messages: list[Message] = []
    for turn, (role, text) in enumerate(pairs):
        if role == "user":
            ahead = num_images if turn == start and not asked else 0
            messages.append({"role": role, "content": _content(IMAGE_LINE.split(text), ahead)})
        else:
            messages.append({**_answer(text), "role": role})
    return messages


def _read_turns(turns: Any, place: str) -> tuple[list[str], list[str]]:
    """Roles and texts; a dialogue with a turn that nobody could use is refused."""
    if not isinstance(turns, Sequence) or isinstance(turns, str):
        raise ValueError(f"{place}: expected a list as conversations, got {type(turns).__name__}")
    speakers, texts = [], []
    for turn in turns:
        speaker, text = (turn.get("from"), turn.get("value")) if isinstance(turn, Mapping) else (None, None)
        if not isinstance(speaker, str) or not isinstance(text, str):
            raise ValueError(f"{place}: expected from and value, two texts, in each turn, got {turn!r}")
        if speaker not in ROLES:
            raise _Unusable(f"a turn by {speaker!r}")
        if not text.strip():
            raise _Unusable("an empty turn")
        if not _is_unicode(text):
            raise _Unusable("half a character")
        speakers.append(ROLES[speaker])
        texts.append(text)
    return speakers, texts


def _content(texts: Sequence[str], images_ahead: int) -> list[dict[str, str]]:
    """`texts` with an image between each two; `images_ahead` more before them if there is only one."""
    parts: list[dict[str, str]] = [{"type": "image"}] * images_ahead if len(texts) == 1 else []
    for index, text in enumerate(texts):
        parts += [{"type": "image"}] if index else []
        parts += [{"type": "text", "text": text}] if text else []
    return parts


def _answer(text: str) -> Message:
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def _is_unicode(text: str) -> bool:
    """Without lone surrogates, which JSON can spell and no tokenizer reads."""
    return not any("\ud800" <= character <= "\udfff" for character in text)
