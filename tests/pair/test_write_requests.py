"""Pictures and questions on disk, as `vispec train` reads a user's."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from PIL import Image, ImageChops

from vispec.pair import SHARES, make_sample
from vispec.pair.write_requests import LONG, SHORT, main, write_requests
from vispec.training.requests import read_requests


def test_requests_are_read(tmp_path):
    write_requests(tmp_path, 12, "validation", 7, SHARES)
    requests = read_requests(tmp_path / "requests.jsonl")
    assert len(requests) == 12
    for index, request in enumerate(requests):
        sample = make_sample(7, "validation", index)
        (image,) = request.images
        assert ImageChops.difference(Image.open(image), sample.image).getbbox() is None
        (prompt,) = request.prompt
        assert [part["type"] for part in prompt["content"]] == ["image", "text"]
        assert prompt["content"][1]["text"] == sample.question
        assert request.dialogue[-1]["content"][0]["text"] == sample.answer
    dialogues = read_requests(tmp_path / "dialogues.json")
    assert [(d.images, d.dialogue[-1]["content"][0]["text"]) for d in dialogues] == [
        ((), request.dialogue[-1]["content"][0]["text"]) for request in requests
    ]


def texts(line: dict[str, Any]) -> list[str]:
    return [turn["value"] for turn in line["conversations"]]


def test_several_turns(tmp_path):
    """The first is what it was alone; no question comes twice; the last one's answer is not in the prompt."""
    for folder, turns in ((tmp_path / "one", 1), (tmp_path / "many", 5)):
        write_requests(folder, 30, "validation", 7, SHARES, turns)
    ones, many = (
        [json.loads(line) for line in (tmp_path / name / "requests.jsonl").read_text().splitlines()]
        for name in ("one", "many")
    )
    assert {len(texts(line)) for line in ones} == {2}
    assert {len(texts(line)) for line in many} == {2, 4, 6, 8, 10}
    for one, line in zip(ones, many, strict=True):
        assert texts(line)[:2] == texts(one)
        questions = texts(line)[::2]
        assert len(set(questions)) == len(questions)
    for line, request in zip(many, read_requests(tmp_path / "many" / "requests.jsonl"), strict=True):
        assert len(request.prompt) == len(texts(line)) - 1
        (image,) = request.images
        assert Image.open(image).size == (96, 96)
    dialogues = json.loads((tmp_path / "many" / "dialogues.json").read_text())
    assert [texts(line) for line in dialogues] == [texts(line) for line in many]


@pytest.mark.parametrize(("kinds", "shares"), [("long", LONG), ("short", SHORT), ("all", SHARES)])
def test_command(tmp_path, monkeypatch, kinds, shares):
    arguments = [str(tmp_path), "--count", "5", "--split", "test", "--seed", "3", "--kinds", kinds]
    monkeypatch.setattr(sys, "argv", ["write_requests", *arguments])
    main()
    lines = [json.loads(line) for line in (tmp_path / "requests.jsonl").read_text().splitlines()]
    samples = [make_sample(3, "test", index, shares) for index in range(5)]
    assert [texts(line) for line in lines] == [[sample.question, sample.answer] for sample in samples]
    assert all((tmp_path / line["image"]).is_file() for line in lines)
    assert len({line["id"] for line in lines}) == 5


def test_long_and_short_are_all():
    assert {**LONG, **SHORT} == SHARES
    assert not LONG.keys() & SHORT.keys()
