"""MMSpec's six kinds, from its own schema and from drawn pictures."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from suite_data import save_picture, write_lines
from vispec.bench.suites import load_suite
from vispec.bench.suites.drawn import DIALOGUES, PER_KIND, make_conversation
from vispec.bench.suites.mmspec import KINDS, Kind
from vispec.pair.pretrained import load_pair


def mmspec_rows(count: int) -> list[dict[str, Any]]:
    """As the published `mmspec.jsonl` has them."""
    return [
        {
            "id": f"img_{i:06}",
            "image": f"folder/img_{i:06}.png",
            "turns": [f"What is {i}, part {part}?" for part in range(1 + i % 3)],
            "category": "Lakeside Pavilion",
            "topic": KINDS[i % len(KINDS)].topic,
        }
        for i in range(count)
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_lines(tmp_path / "mmspec.jsonl", mmspec_rows(14))
    for i in range(14):
        save_picture(tmp_path / "images" / "folder" / f"img_{i:06}.png", i)
    return tmp_path


def test_its_own_rows(folder: Path) -> None:
    prompts = list(load_suite("mmspec", folder))
    assert [prompt.kind for prompt in prompts[:6]] == [kind.title for kind in KINDS]
    assert sorted(prompt.id for prompt in prompts) == [f"img_{i:06}" for i in range(14)]
    by_id = {prompt.id: prompt for prompt in prompts}
    assert by_id["img_000005"].questions == ("What is 5, part 0?", "What is 5, part 1?", "What is 5, part 2?")
    assert by_id["img_000005"].kind == "multi-turn"
    assert by_id["img_000005"].images[0].tobytes() == save_picture(folder / "same.png", 5).tobytes()
    assert [p.id for p in load_suite("mmspec", folder, limit=8)] == [p.id for p in prompts[:8]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"topic": "poems"}, "row 0: expected a topic of general vqa, .*, got 'poems'"),
        ({"turns": []}, r"row 0, column turns: expected a list of questions, got \[\]"),
        ({"turns": "Why?"}, "row 0, column turns: expected a list of questions, got 'Why"),
        ({"image": "none.png"}, "row 0, column image: expected a picture, got 'none.png'"),
    ],
)
def test_wrong_rows(folder: Path, change: dict[str, Any], words: str) -> None:
    write_lines(folder / "mmspec.jsonl", [{**mmspec_rows(1)[0], **change}])
    with pytest.raises(ValueError, match=words):
        load_suite("mmspec", folder)


def test_wrong_folders(folder: Path) -> None:
    for data in (None, folder / "none"):
        with pytest.raises(ValueError, match=r"data: expected a folder with mmspec.jsonl and images/.*needs no data"):
            load_suite("mmspec", data)
    with pytest.raises(ValueError, match=r"images: expected .*test\*.jsonl .* got neither"):
        load_suite("mmspec", folder / "images")
    write_lines(folder / "mmspec.jsonl", [])
    with pytest.raises(ValueError, match="expected rows, got none"):
        load_suite("mmspec", folder)
    with pytest.raises(ValueError, match="data: expected none for mmspec-pictures, which draws its pictures"):
        load_suite("mmspec-pictures", folder)


def test_published_lengths(folder: Path) -> None:
    for suite in (load_suite("mmspec", folder), load_suite("mmspec-pictures")):
        assert suite.published("caption", 0.0, "any") == "192 tokens, all turns"
        assert suite.published("poems", 0.0, "any") is None


def test_drawn_conversations() -> None:
    """All six kinds, each about a picture of its own, the same ones in every run."""
    suite = load_suite("mmspec-pictures")
    prompts = list(suite)
    assert len(suite) == len(prompts) == PER_KIND * len(KINDS)
    assert Counter(prompt.kind for prompt in prompts) == {kind.title: PER_KIND for kind in KINDS}
    assert len({prompt.id for prompt in prompts}) == len({prompt.images[0].tobytes() for prompt in prompts}) == 60
    again = list(load_suite("mmspec-pictures", limit=7))
    assert [(p.id, p.questions) for p in again] == [(p.id, p.questions) for p in prompts[:7]]
    assert [p.images[0].tobytes() for p in again] == [p.images[0].tobytes() for p in prompts[:7]]
    for prompt in prompts:
        assert len(set(prompt.questions)) == len(prompt.questions)
        assert (len(prompt.questions) > 1) == bool(DIALOGUES[prompt.kind].then)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.title)
def test_lengths_of_drawn_conversations(kind: Kind) -> None:
    """The generator's own answers are about as long as those that MMSpec's targets write."""
    words = [make_conversation(kind.title, number).words for number in range(PER_KIND)]
    assert sum(words) / PER_KIND == pytest.approx(kind.answer_tokens, rel=0.15)


def test_the_pair_reads_drawn_conversations() -> None:
    pair = load_pair()
    for prompt in load_suite("mmspec-pictures", limit=6):
        inputs = pair.inputs(prompt.images[0], prompt.questions[0])
        assert inputs["pixel_values"].shape[0] == 1
