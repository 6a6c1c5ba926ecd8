"""A benchmark as data, and the prompts that it makes of its rows."""

from __future__ import annotations

import itertools
import random
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vispec.bench.prompts import Prompt
from vispec.bench.suites.rows import Table, folder_table, hub_table, open_images

SEED = 42  # of the draw among a benchmark's rows, as in the paper


@dataclass(frozen=True)
class Pictures:
    """Where a benchmark keeps its pictures, if not beside the questions.

    Args:
        config: of the same dataset; the split is the questions'.
        key: its column that the questions' column `image` names.
        image: its column of pictures.
    """

    config: str
    key: str
    image: str = "image"


@dataclass(frozen=True)
class Benchmark:
    """Where a benchmark's rows are and what is asked about each.

    Args:
        title: as tables write it.
        folder: of `--data` that holds the same files.
        dataset, config, split: on the Hub.
        prompt: `{column}` stands for a column's text, an empty one is N/A; a list of choices becomes `(A) ... (B) ...`.
        image: column of the picture or pictures.
        pictures: another table that holds them; `image` then names a row of it.
        where: a column and the value that a row must have there.
        drop: of the columns' texts.
        num_samples: rows that are drawn; None: all, in their order.
        differs: from how the paper measured, in words; empty if it does not.
    """

    title: str
    folder: str
    dataset: str
    split: str
    prompt: str
    config: str | None = None
    image: str = "image"
    pictures: Pictures | None = None
    where: tuple[str, str] | None = None
    drop: str = ""
    num_samples: int | None = 100
    differs: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the prompt names."""
        return tuple(name for _, name, _, _ in string.Formatter().parse(self.prompt) if name)

    def question(self, row: dict[str, Any]) -> str:
        """The prompt with a row's texts in it."""
        return self.prompt.format(**{name: _text(row[name], self.drop) for name in self.columns})


def _text(value: Any, drop: str) -> str:
    if isinstance(value, list):
        return " ".join(f"({letter}) {choice}" for letter, choice in zip(string.ascii_uppercase, value, strict=False))
    text = str(value)
    return (text.replace(drop, "") if drop else text).strip() or "N/A"


class Samples:
    """The rows of a benchmark that are measured: drawn by a fixed seed, a smaller draw the beginning of a larger one.

    Args:
        data: a folder with a folder of the benchmark's; None: the Hub.

    Raises:
        ValueError: the data are not as the description says.
        ImportError: `datasets` is needed and missing.
    """

    def __init__(self, benchmark: Benchmark, data: Path | None, max_new_tokens: int, system: str) -> None:
        self.benchmark, self.max_new_tokens, self.system = benchmark, max_new_tokens, system
        self.folder = None if data is None else data / benchmark.folder
        self.rows = self._table(benchmark.config)
        self.order = self._draw()
        if not self.order:
            wanted = "rows" if benchmark.where is None else "rows whose {} is {}".format(*benchmark.where)
            raise ValueError(f"{benchmark.title}: expected {wanted}, got none of {len(self.rows)}")
        pictures = benchmark.pictures
        self.pictures = None if pictures is None else self._table(pictures.config)
        self.picture_rows: dict[Any, int] = {}
        if self.pictures is not None and pictures is not None:
            keys = (self.pictures.read(index, [pictures.key])[pictures.key] for index in range(len(self.pictures)))
            self.picture_rows = {key: index for index, key in enumerate(keys)}
        self.read(0)  # a wrong schema is found before anything is measured

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[Prompt]:
        return (self.read(number) for number in range(len(self)))

    def read(self, number: int) -> Prompt:
        """The prompt that was drawn as the `number`th."""
        index, benchmark = self.order[number], self.benchmark
        row = self.rows.read(index, [*benchmark.columns, benchmark.image])
        try:
            images = open_images(self._picture(row[benchmark.image]), self.folder)
        except ValueError as error:
            raise ValueError(f"{benchmark.title}, row {index}, column {benchmark.image}: {error}") from error
        return Prompt(
            id=f"{benchmark.folder}-{index}",
            kind=benchmark.title,
            questions=(benchmark.question(row),),
            images=images,
            max_new_tokens=self.max_new_tokens,
            system=self.system,
        )

    def _table(self, config: str | None) -> Table:
        if self.folder is not None:
            return folder_table(self.folder, config, self.benchmark.split)
        return hub_table(self.benchmark.dataset, config, self.benchmark.split)

    def _draw(self) -> Sequence[int]:
        order = list(range(len(self.rows)))
        wanted = self.benchmark.num_samples
        if wanted is not None:
            random.Random(SEED).shuffle(order)
        if self.benchmark.where is None:
            return order[:wanted]
        column, value = self.benchmark.where
        fit = (index for index in order if self.rows.read(index, [column])[column] == value)
        return list(itertools.islice(fit, wanted))

    def _picture(self, value: Any) -> Any:
        """What the questions' column holds, or the row of the other table that it names."""
        if self.pictures is None or self.benchmark.pictures is None:
            return value
        if value not in self.picture_rows:
            raise ValueError(f"expected a {self.benchmark.pictures.key} of the pictures, got {value!r}")
        name = self.benchmark.pictures.image
        return self.pictures.read(self.picture_rows[value], [name])[name]
