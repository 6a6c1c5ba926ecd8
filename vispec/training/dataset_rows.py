"""Rows of a source; those of Hugging Face `datasets`, whose pictures become files."""

from __future__ import annotations

import hashlib
import importlib
import io
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from PIL import Image

COLUMNS = ("id", "image", "images", "prompt", "answer", "conversations")
HUB_NAME = re.compile(r"(?P<path>[\w.-]+/[\w.-]+)(/(?P<config>[\w.-]+))?(:(?P<split>.+))?")


@dataclass(frozen=True)
class Rows:
    """What a source holds, and how to name a place in it."""

    name: str
    unit: str
    numbers: Sequence[int]
    values: Sequence[Any]

    def place(self, index: int) -> str:
        return f"{self.name}, {self.unit} {self.numbers[index]}"


class _DatasetRows(Sequence[dict[str, Any]]):
    """Rows as plain values; a picture is written to `image_folder` when its row is read, and is then a path."""

    def __init__(self, dataset: Any, image_folder: Path | None) -> None:
        self.dataset, self.image_folder = dataset, image_folder

    def __len__(self) -> int:
        return len(self.dataset)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...

    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        row: dict[str, Any] = self.dataset[index]
        for name in row.keys() & {"image", "images"}:
            value = row[name]
            row[name] = [self._path(image) for image in value] if isinstance(value, list) else self._path(value)
        return row

    def _path(self, image: Any) -> Any:
        """Of a picture as `datasets` stores it: encoded bytes, or the path of a file."""
        if not isinstance(image, dict):
            return image
        if image["bytes"] is None:
            return image["path"]
        if self.image_folder is None:
            raise ValueError("image_folder: expected a folder to write the dataset's pictures to, got None")
        with Image.open(io.BytesIO(image["bytes"])) as picture:
            suffix = str(picture.format).lower()
        name = hashlib.sha256(image["bytes"]).hexdigest()[:32]
        path = Path(os.path.abspath(self.image_folder)) / f"{name}.{suffix}"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(f".partial-{os.getpid()}")
            partial.write_bytes(image["bytes"])
            os.replace(partial, path)
        return str(path)


def read_dataset(source: str, image_folder: str | Path | None) -> Rows:
    """The columns of `COLUMNS` that a dataset on disk or on the Hub has.

    Raises:
        ValueError: nothing there, or neither questions nor dialogues in it.
        ImportError: `datasets` is missing.
    """
    name = HUB_NAME.fullmatch(source)
    if not os.path.isdir(source) and (name is None or source.endswith((".json", ".jsonl"))):
        raise ValueError(f"source: expected a file, a folder or OWNER/NAME on the Hub, got {source!r}, which is none")
    if os.path.exists(os.path.join(source, "dataset_dict.json")):
        splits = ", ".join(sorted(entry.name for entry in os.scandir(source) if entry.is_dir()))
        raise ValueError(f"source: expected one split of {source}, the folder in it: {splits}; got all of them")
    try:
        datasets: Any = importlib.import_module("datasets")
    except ImportError as error:
        raise ImportError(f"{source}: to read it, `pip install datasets`") from error
    if os.path.exists(os.path.join(source, "state.json")):
        dataset = datasets.load_from_disk(source)
    elif name is None or os.path.isdir(source):
        dataset = datasets.load_dataset(source, split="train")
    else:
        dataset = datasets.load_dataset(name["path"], name["config"], split=name["split"] or "train")
    columns = [column for column in COLUMNS if column in dataset.column_names]
    if not {"prompt", "conversations"} & set(columns):
        raise ValueError(f"{source}: expected a column prompt or conversations, got {dataset.column_names}")
    dataset = dataset.select_columns(columns)
    encoded = datasets.Image(decode=False)
    for column, feature in dataset.features.items():
        if isinstance(feature, datasets.Image):
            dataset = dataset.cast_column(column, encoded)
        elif isinstance(getattr(feature, "feature", None), datasets.Image):
            dataset = dataset.cast_column(column, type(feature)(encoded))
    rows = _DatasetRows(dataset, None if image_folder is None else Path(image_folder))
    return Rows(source, "row", range(len(dataset)), rows)
