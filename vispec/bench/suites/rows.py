"""Rows of a benchmark: a dataset on the Hub, or a folder in the same schema."""

from __future__ import annotations

import importlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from PIL import Image


class Table(Protocol):
    """Rows by their number; no more of a row is read than is asked for."""

    def __len__(self) -> int:
        """How many rows there are."""

    def read(self, index: int, columns: Sequence[str]) -> dict[str, Any]:
        """The values of a row.

        Raises:
            ValueError: there is no such column.
        """


class JsonLines:
    """A JSON object a line; pictures are files beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        text = path.read_text(encoding="utf-8")
        self.lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]

    def __len__(self) -> int:
        return len(self.lines)

    def read(self, index: int, columns: Sequence[str]) -> dict[str, Any]:
        number, line = self.lines[index]
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{self.path}, line {number}: expected JSON, got {line[:60]!r}") from error
        keys = list(row) if isinstance(row, dict) else []
        if missing := [column for column in columns if column not in keys]:
            raise ValueError(f"{self.path}, line {number}: expected {', '.join(missing)}, got {keys}")
        return {column: row[column] for column in columns}


class HubRows:
    """A split as Hugging Face `datasets` reads it."""

    def __init__(self, dataset: Any, name: str) -> None:
        self.dataset, self.name = dataset, name

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, index: int, columns: Sequence[str]) -> dict[str, Any]:
        if missing := [column for column in columns if column not in self.dataset.column_names]:
            raise ValueError(f"{self.name}: expected a column {', '.join(missing)}, got {self.dataset.column_names}")
        row: dict[str, Any] = self.dataset.select_columns(list(columns))[index]
        return row


def _datasets(reason: str) -> Any:
    try:
        return importlib.import_module("datasets")
    except ImportError as error:
        raise ImportError(f"{reason}: to read it, `pip install datasets`") from error


def hub_table(dataset: str, config: str | None, split: str) -> Table:
    """A split of a dataset on the Hub, fetched by `datasets` if it is not there yet.

    Raises:
        ImportError: `datasets` is missing.
    """
    return HubRows(_datasets(dataset).load_dataset(dataset, config, split=split), dataset)


def folder_table(folder: Path, config: str | None, split: str) -> Table:
    """The same in a folder: `[CONFIG/ or data/]SPLIT*.jsonl` or `.parquet`, which is how the Hub's files are named.

    Raises:
        ValueError: there is neither, or there are several JSONL files.
        ImportError: parquet files are read by `datasets`, and it is missing.
    """
    places = [folder / config if config else folder, folder / "data"]
    for pattern in (f"{split}*.jsonl", f"{split}*.parquet"):
        files = [path for place in places for path in sorted(place.glob(pattern))]
        if files and pattern.endswith(".parquet"):
            names = [str(path) for path in files]
            return HubRows(_datasets(names[0]).load_dataset("parquet", data_files=names, split="train"), names[0])
        if len(files) > 1:
            raise ValueError(f"{folder}: expected one file {pattern}, got {', '.join(path.name for path in files)}")
        if files:
            return JsonLines(files[0])
    looked = " or ".join(str(place / f"{split}*.jsonl") for place in places)
    raise ValueError(f"{folder}: expected {looked} (or .parquet), got neither")


def open_images(value: Any, folder: Path | None) -> tuple[Image.Image, ...]:
    """The pictures of a column's value, in RGB: pictures, encoded bytes, or names of files in `folder`; or a list.

    Raises:
        ValueError: it is none of these, or not a picture that PIL reads.
    """
    if isinstance(value, list):
        return tuple(image for one in value for image in open_images(one, folder))
    if isinstance(value, Image.Image):
        return (value.convert("RGB"),)
    source: Any = None
    if isinstance(value, dict) and value.get("bytes"):
        source = io.BytesIO(value["bytes"])
    elif isinstance(value, str) and folder is not None:
        source = folder / value
    if source is None:
        raise ValueError(f"expected a picture, its bytes or the name of its file, got {value!r:.80}")
    try:
        with Image.open(source) as image:
            return (image.convert("RGB"),)
    except OSError as error:
        raise ValueError(f"expected a picture, got {value!r:.80}: {error}") from error
