"""Whatever interrupts the writing of answers, and however many write: the files are the same in the end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from killing import run_and_kill
from training_parts import ask, make_parts, make_requests, save_picture, with_answers
from vispec.training.answers import INSTRUCTION, Written, write_answers
from vispec.training.samples import read_samples
from vispec.training.shards import ShardWriter


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_killed_at_any_moment(tmp_path: Path) -> None:
    """SIGKILL whenever the files have grown past a mark: nothing is lost, repeated or different."""
    model, processor = make_parts("llava")
    requests = make_requests(tmp_path, 23, with_images=True)

    def write(folder: Path) -> None:
        write_answers(model, processor, requests, folder, max_new_tokens=16, batch_size=3, num_shards=2)

    write(tmp_path / "undisturbed")
    expected = files(tmp_path / "undisturbed")
    folder = tmp_path / "killed"
    total = sum(len(data) for data in expected.values())
    kills = [kill_when_grown(lambda: write(folder), folder, total * share // 8) for share in range(8)]
    assert sum(kills) >= 3
    write(folder)
    assert files(folder) == expected


def kill_when_grown(work: Callable[[], None], folder: Path, size: int) -> bool:
    """Run `work` in a process of its own, and kill it once `folder` holds more than `size` bytes; whether it came to
    that."""

    def has_grown() -> bool:
        return folder.exists() and sum(path.stat().st_size for path in folder.iterdir() if path.exists()) > size

    return run_and_kill(work, has_grown)


def test_a_torn_batch_is_written_again(tmp_path: Path) -> None:
    _, processor = make_parts("llama")
    requests = with_answers([ask(index, "é" * (1 + index % 4)) for index in range(11)])

    def write() -> Written:
        return write_answers(None, processor, requests, tmp_path, generate=False, batch_size=4, num_shards=1)

    written = write()
    expected = files(tmp_path)
    path = tmp_path / "answers-00000-of-00001.jsonl"
    whole = path.read_bytes()
    for size in [0, 1, *range(len(whole) // 2, len(whole), 37), len(whole) - 1, len(whole)]:
        path.write_bytes(whole[:size])
        assert write() == written
        assert files(tmp_path) == expected


def test_complete_batches_are_not_written_again(tmp_path: Path) -> None:
    model, processor = make_parts("llama")
    requests = [ask(index, "?") for index in range(5)]
    options: dict[str, Any] = {"max_new_tokens": 4, "batch_size": 2, "num_shards": 1}
    write_answers(model, processor, requests, tmp_path, **options)
    passes: list[int] = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: passes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    write_answers(model, processor, requests, tmp_path, **options)
    assert not passes
    path = tmp_path / "answers-00000-of-00001.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:3]))
    write_answers(model, processor, requests, tmp_path, **options)
    assert passes
    assert set(passes) == {1, 2}  # lines 3 and 4 together, then line 5


def test_ranks_write_what_one_process_writes(tmp_path: Path) -> None:
    model, processor = make_parts("llava")
    requests = make_requests(tmp_path, 11, with_images=True)
    options: dict[str, Any] = {"max_new_tokens": 6, "batch_size": 2, "num_shards": 3}
    whole = write_answers(model, processor, requests, tmp_path / "one", **options)
    results = [
        write_answers(model, processor, requests, tmp_path / "two", rank=rank, world_size=2, **options)
        for rank in range(2)
    ]
    assert whole.num_samples == sum(result.num_samples for result in results)
    assert [r.num_samples + r.left_out.total() for r in results] == [7, 4]
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert len(files(tmp_path / "two")) == 4


def test_more_shards_than_requests(tmp_path: Path) -> None:
    _, processor = make_parts("llama")
    write_answers(None, processor, with_answers([ask(0, "?"), ask(1, "?")]), tmp_path, generate=False, num_shards=5)
    assert len(files(tmp_path)) == 6
    assert [sample.key for sample in read_samples(tmp_path)] == ["0", "1"]


def test_other_settings_are_refused(tmp_path: Path) -> None:
    model, processor = make_parts("llama")
    requests = [ask(index, "?") for index in range(3)]
    options: dict[str, Any] = {"max_new_tokens": 4, "batch_size": 2, "num_shards": 1}
    write_answers(model, processor, requests, tmp_path, **options)
    before = files(tmp_path)
    for changed, told in (
        ({"batch_size": 3}, "with: batch_size 2, now 3$"),
        ({"max_new_tokens": 5}, "with: max_new_tokens 4, now 5$"),
        ({"num_shards": 2, "instruction": ""}, f"with: instruction '{INSTRUCTION}', now ''; num_shards 1, now 2$"),
    ):
        with pytest.raises(ValueError, match=f"folder: expected a new one or the settings .* {told}"):
            write_answers(model, processor, requests, tmp_path, **{**options, **changed})
    with pytest.raises(ValueError, match=r"requests '.*', now '"):
        write_answers(model, processor, [*requests[:2], ask(2, "!")], tmp_path, **options)
    other, _ = make_parts("llama", seed=2)
    with pytest.raises(ValueError, match=r"with: model '.*', now '"):
        write_answers(other, processor, requests, tmp_path, **options)
    with pytest.raises(ValueError, match="generate True, now False"):
        write_answers(None, processor, with_answers(requests), tmp_path, generate=False)
    assert files(tmp_path) == before
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"folder: expected a manifest.json beside the answers"):
        write_answers(model, processor, requests, tmp_path, **options)


def test_damaged_shards_are_refused(tmp_path: Path) -> None:
    _, processor = make_parts("llama")
    requests = with_answers([ask(index, "?") for index in range(4)])

    def write() -> None:
        write_answers(None, processor, requests, tmp_path, generate=False, batch_size=2, num_shards=1)

    write()
    path = tmp_path / "answers-00000-of-00001.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    for damaged, told in (
        ([lines[0], b"\0\0\n", *lines[2:]], "line 2: expected a JSON object"),
        ([lines[1], lines[0]], "line 1: expected the sample of another request"),
        ([*lines, lines[0]], "line 5: expected the sample of another request"),
    ):
        path.write_bytes(b"".join(damaged))
        with pytest.raises(ValueError, match=f"{path.name}, {told}"):
            write()
    path.unlink()
    write()
    assert path.read_bytes() == b"".join(lines)


def test_two_processes_at_one_shard(tmp_path: Path) -> None:
    _, processor = make_parts("llama")
    requests = with_answers([ask(0, "?")])
    write_answers(None, processor, requests, tmp_path, generate=False, num_shards=1)
    path = tmp_path / "answers-00000-of-00001.jsonl"
    with ShardWriter(path, ["0"], 1), pytest.raises(RuntimeError, match=f"{path.name}: another process is writing it"):
        write_answers(None, processor, requests, tmp_path, generate=False, num_shards=1)
    write_answers(None, processor, requests, tmp_path, generate=False, num_shards=1)


def test_a_dead_disk_is_not_a_broken_picture(tmp_path: Path) -> None:
    model, processor = make_parts("llava")
    requests = make_requests(tmp_path, 3, with_images=True)
    Path(requests[2].images[1]).unlink()
    options: dict[str, Any] = {"max_new_tokens": 3, "batch_size": 2, "num_shards": 1}
    with pytest.raises(FileNotFoundError):
        write_answers(model, processor, requests, tmp_path / "answers", **options)
    save_picture(Path(requests[2].images[1]), 9, 9)
    assert write_answers(model, processor, requests, tmp_path / "answers", **options).num_samples == 3
