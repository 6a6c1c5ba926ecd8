"""Pictures and questions on disk, as `vispec train` reads a user's."""

from __future__ import annotations

import json
import sys

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


@pytest.mark.parametrize(("kinds", "shares"), [("long", LONG), ("short", SHORT), ("all", SHARES)])
def test_command(tmp_path, monkeypatch, kinds, shares):
    arguments = [str(tmp_path), "--count", "5", "--split", "test", "--seed", "3", "--kinds", kinds]
    monkeypatch.setattr(sys, "argv", ["write_requests", *arguments])
    main()
    lines = [json.loads(line) for line in (tmp_path / "requests.jsonl").read_text().splitlines()]
    samples = [make_sample(3, "test", index, shares) for index in range(5)]
    assert [(line["prompt"], line["answer"]) for line in lines] == [(s.question, s.answer) for s in samples]
    assert all((tmp_path / line["image"]).is_file() for line in lines)
    assert len({line["id"] for line in lines}) == 5


def test_long_and_short_are_all():
    assert {**LONG, **SHORT} == SHARES
    assert not LONG.keys() & SHORT.keys()
