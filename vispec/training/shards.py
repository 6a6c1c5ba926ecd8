"""Folders of samples: JSON lines in shards that survive a kill at any moment, and what they were written with."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

MANIFEST = "manifest.json"
LEFT_OUT = "left_out"  # in the line of a request that makes no sample: why
ABOUT = "about"  # in the manifest: for people, not compared


def shard_path(folder: Path, shard: int, num_shards: int) -> Path:
    return folder / f"answers-{shard:05d}-of-{num_shards:05d}.jsonl"


def shard_range(shard: int, num_shards: int, num_requests: int) -> range:
    """Which requests stand in a shard: a run of them, so that shards in order give the source's order."""
    return range(shard * num_requests // num_shards, (shard + 1) * num_requests // num_shards)


def digest(parts: Iterable[str]) -> str:
    """A name for settings too long to be told."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part.encode() + b"\0")
    return sha.hexdigest()[:16]


def read_manifest(folder: Path) -> dict[str, Any]:
    """
    Raises:
        ValueError: none there, or a broken one.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ValueError(f"folder: expected samples, with a {MANIFEST}, in {folder}, got none")
    try:
        manifest: dict[str, Any] = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: expected a JSON object, got {error}") from error
    return manifest


def settle_manifest(folder: Path, settings: Mapping[str, Any], rank: int) -> None:
    """Write `settings` into a new folder; in one that goes on, compare them. Every rank may do so at once.

    Raises:
        ValueError: the folder was begun with other settings, or holds shards of unknown ones.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / MANIFEST
    if not path.exists():
        if any(folder.glob("answers-*.jsonl")):
            raise ValueError(f"folder: expected a {MANIFEST} beside the answers in {folder}, got none")
        partial = folder / f"{MANIFEST}.partial-{rank}"
        with partial.open("w", encoding="utf-8") as file:
            file.write(json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    found = read_manifest(folder)
    names = sorted((found.keys() | settings.keys()) - {ABOUT})
    differing = [name for name in names if found.get(name) != settings.get(name)]
    if differing:
        told = "; ".join(f"{name} {found.get(name)!r}, now {settings.get(name)!r}" for name in differing)
        raise ValueError(f"folder: expected a new one or the settings that {folder} was begun with: {told}")


class FolderInUse(RuntimeError):
    """Two processes would write the same shard."""


class ShardWriter:
    """One shard, a line a request, appended batch by batch. What a kill left of a batch is cut off when it is opened.

    Args:
        path: The file.
        keys: Of the shard's requests.
        batch_size: Lines of every batch but the last.

    Raises:
        ValueError: the file holds lines that are not of these requests.
        RuntimeError: another process has it open.
    """

    def __init__(self, path: Path, keys: Sequence[str], batch_size: int) -> None:
        self.path, self.keys, self.batch_size = path, keys, batch_size
        self.done = 0  # requests
        self.outcomes: Counter[str] = Counter()  # lines by why they were left out, "" for samples
        self._file = open(path, "a+b", buffering=0)  # noqa: SIM115  # closed by __exit__
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # goes with the process, however it ends
            self._recover()
        except BlockingIOError as error:
            self._file.close()
            raise FolderInUse(f"{path}: another process is writing it") from error
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._file.close()

    def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Write the lines of the next batch; they are on the disk when this returns."""
        lines = [json.dumps(record, ensure_ascii=False) for record in records]
        remaining = memoryview("".join(f"{line}\n" for line in lines).encode())
        while remaining:
            remaining = remaining[self._file.write(remaining) :]
        os.fsync(self._file.fileno())
        self.done += len(records)
        self.outcomes.update(record.get(LEFT_OUT, "") for record in records)

    def _recover(self) -> None:
        """Count complete batches and cut the file behind them."""
        end, size, outcomes = 0, 0, []
        for number, (line, record) in enumerate(read_lines(self.path), 1):
            if number > len(self.keys) or record.get("key") != self.keys[number - 1]:
                raise ValueError(f"{self.path}, line {number}: expected the sample of another request")
            size += len(line)
            outcomes.append(record.get(LEFT_OUT, ""))
            if number % self.batch_size == 0 or number == len(self.keys):
                self.done, end = number, size
        self._file.truncate(end)
        self.outcomes.update(outcomes[: self.done])


def read_lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """The whole lines of a shard and what they say, without what a kill tore off.

    Raises:
        ValueError: a line is damaged.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                record = json.loads(line)
            except ValueError as error:
                raise ValueError(
                    f"{path}, line {number}: expected a JSON object, got {error}; without the file its samples are "
                    "written again"
                ) from error
            yield line, record
