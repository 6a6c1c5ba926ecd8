"""Every form in which people have questions, and what is wrong in files of theirs."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest

from training_parts import save_picture
from vispec.training.requests import Request, read_requests

IMAGE = {"type": "image"}


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def user(*content: dict[str, str]) -> dict[str, Any]:
    return {"role": "user", "content": list(content)}


def assistant(words: str) -> dict[str, Any]:
    return {"role": "assistant", "content": [text(words)]}


def turns(*texts: str, speakers: tuple[str, ...] = ("human", "gpt")) -> list[dict[str, str]]:
    return [{"from": speakers[index % 2], "value": words} for index, words in enumerate(texts)]


def write_json(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value))
    return path


def write_lines(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    (tmp_path / "sub").mkdir()
    return [save_picture(tmp_path / "a.png", 20, 10), save_picture(tmp_path / "sub" / "b.jpg", 10, 20)]


def test_json_lines(tmp_path: Path, pictures: list[Path]) -> None:
    path = write_lines(
        tmp_path / "ask.jsonl",
        {"image": "a.png", "prompt": " Why?\n"},
        {"images": ["a.png", str(pictures[1])], "prompt": "<image>is this <image>? ", "id": "two", "answer": "No. "},
        {"prompt": "é € \u2028 \U0001f600", "image": None},
        {"images": ["sub/b.jpg", "a.png"], "prompt": "compare", "id": 7},
    )
    with path.open("a") as file:
        file.write("\n\n")
    first, second = map(str, pictures)
    assert read_requests(path) == [
        Request("0", (user(IMAGE, text(" Why?\n")),), (first,)),
        Request("1:two", (user(IMAGE, text("is this "), IMAGE, text("? ")), assistant("No. ")), (first, second)),
        Request("2", (user(text("é € \u2028 \U0001f600")),), ()),
        Request("3:7", (user(IMAGE, IMAGE, text("compare")),), (second, first)),
    ]
    assert [request.answered for request in read_requests(path)] == [False, True, False, False]


def test_relative_paths_are_made_absolute(
    tmp_path: Path, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    path = write_lines(elsewhere / "ask.jsonl", {"image": "b.jpg", "prompt": "?"})
    monkeypatch.chdir(tmp_path)
    (request,) = read_requests("elsewhere/ask.jsonl", image_folder="sub")
    assert request.images == (str(pictures[1]),)
    with pytest.raises(ValueError, match=r"line 1: expected an image at .*elsewhere/b.jpg, got no file"):
        read_requests(path)


def test_llava(tmp_path: Path, pictures: list[Path]) -> None:
    entries: list[dict[str, Any]] = [
        {"id": "004", "image": "a.png", "conversations": turns("Describe it briefly.\n<image>", "a cat ")},
        {"id": "005", "image": "a.png", "conversations": turns("<image>\nWhat is it?", "a", "And now?", "b")},
        {"id": "006", "image": "a.png", "conversations": turns("Well?", "a")},
        {"id": "007", "image": ["a.png"], "conversations": turns("<image>")},
    ]
    path = write_json(tmp_path / "blip.json", entries)
    requests = read_requests(path)
    path.write_bytes(b"\xef\xbb\xbf\n" + path.read_bytes())  # as some editors save
    assert read_requests(path) == requests
    assert [request.key for request in requests] == ["0:004", "1:005", "2:006", "3:007"]
    assert all(request.images == (str(pictures[0]),) for request in requests)
    briefly = user(text("Describe it briefly."), IMAGE)
    assert requests[0].messages == (briefly, assistant("a cat "))
    assert (requests[0].prompt, requests[0].dialogue) == ((briefly,), (briefly, assistant("a cat ")))
    what = user(IMAGE, text("What is it?"))
    assert requests[1].prompt == (what, assistant("a"), user(text("And now?")))
    assert requests[2].messages[0] == user(IMAGE, text("Well?"))
    assert (requests[3].messages, requests[3].answered, requests[3].dialogue) == ((user(IMAGE),), False, ())


def test_sharegpt_dialogues_that_cannot_be_used_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    system = {"from": "system", "value": "Be brief."}
    dialogues = [
        turns("hi", "hello"),
        turns("left over", "hi", "hello", "bye", speakers=("gpt", "human")),
        [system, *turns("hi", "hello", speakers=("user", "bing"))],
        turns("hi", "hello", "unanswered", speakers=("human", "chatgpt")),
        turns("hi", "hello", speakers=("human", "human")),
        [*turns("hi"), system],
        turns("only me", speakers=("bard", "bard")),
        [],
        turns("hi", "  "),
        turns("hi", "hello", speakers=("human", "tool")),
        turns("what is <image> in HTML?", "a tag"),
        turns("half \ud83d", "hello"),
    ]
    path = write_json(tmp_path / "share.json", [{"id": "x", "conversations": dialogue} for dialogue in dialogues])
    with caplog.at_level(logging.WARNING):
        requests = read_requests(path)
    hi, hello = user(text("hi")), assistant("hello")
    assert [request.key for request in requests] == ["0:x", "1:x", "2:x", "3:x"]
    assert requests[0].messages == (hi, hello)
    assert requests[1].messages == (hi, hello, user(text("bye")))
    assert requests[2].messages == ({"role": "system", "content": [text("Be brief.")]}, hi, hello)
    assert requests[3].dialogue == (hi, hello)
    assert requests[3].prompt == (hi, hello, user(text("unanswered")))
    (record,) = caplog.records
    message = record.getMessage()
    assert "8 dialogues cannot be used" in message
    for reason in ("2 with turns that do not", "2 with no question", "an empty turn", "by 'tool'", "<image>", "half"):
        assert reason in message


def test_limit_and_seed(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "ask.jsonl", *({"prompt": f"question {index}"} for index in range(50)))
    everything = read_requests(path)
    assert read_requests(path, limit=7) == everything[:7]
    shuffled = read_requests(path, seed=1)
    assert shuffled != everything
    assert sorted(shuffled, key=lambda request: int(request.key)) == everything
    assert read_requests(path, limit=7, seed=1) == shuffled[:7]
    assert read_requests(path, limit=7, seed=2) != shuffled[:7]
    with pytest.raises(ValueError, match="limit: expected at least 1, got 0"):
        read_requests(path, limit=0)


def test_limit_counts_what_can_be_used(tmp_path: Path) -> None:
    dialogues = [turns("hi", ""), turns("hi", "hello"), turns("bye", "bye")]
    path = write_lines(tmp_path / "share.jsonl", *({"conversations": dialogue} for dialogue in dialogues))
    assert [request.key for request in read_requests(path, limit=1)] == ["1"]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([1], "expected a JSON object, got list"),
        ({"prompt": "?", "imgae": "a.png"}, "expected fields among .*prompt, or conversations, got imgae"),
        ({"prompt": "?", "image": "a.png", "images": ["a.png"]}, "expected image or images, got both"),
        ({"prompt": "?", "image": 3}, "expected a path, or a list of paths, as image or images, got 3"),
        ({"prompt": "?", "images": [["a.png"]]}, "expected a path, or a list of paths, as image or images, got "),
        ({"prompt": "?", "image": "none.png"}, "expected an image at .*none.png, got no file there"),
        ({"prompt": "?", "image": "sub"}, "expected an image at .*sub, got no file there"),
        ({"image": "a.png"}, "expected a text as prompt, got None"),
        ({"prompt": " "}, "expected a text as prompt, got ' '"),
        ({"prompt": "half \udc00"}, "expected a text as prompt"),
        ({"prompt": "?", "answer": 3}, "expected a text as answer, got 3"),
        ({"prompt": "? <image>"}, "expected one <image> an image in prompt, got 1 for 0"),
        ({"conversations": "?"}, "expected a list as conversations, got str"),
        ({"conversations": [{"value": "?"}]}, "expected from and value"),
        ({"conversations": ["?"]}, "expected from and value"),
        (
            {"image": "a.png", "conversations": turns("<image><image>", "?")},
            "expected one <image> an image in conversations, got 2 for 1",
        ),
    ],
)
def test_broken_rows_are_named(tmp_path: Path, pictures: list[Path], row: Any, expected: str) -> None:
    lines = write_lines(tmp_path / "ask.jsonl", {"prompt": "a good one"}, row)
    with pytest.raises(ValueError, match=f"ask.jsonl, line 2: {expected}"):
        read_requests(lines)
    entries = write_json(tmp_path / "ask.json", [{"prompt": "a good one"}, row])
    with pytest.raises(ValueError, match=f"ask.json, entry 1: {expected}"):
        read_requests(entries)


def test_broken_files(tmp_path: Path) -> None:
    path = tmp_path / "ask.jsonl"
    path.write_text('{"prompt": "?"}\n\n{"prompt": ')
    with pytest.raises(ValueError, match=r"ask.jsonl, line 3: expected a JSON object, got Expecting value"):
        read_requests(path)
    path.write_bytes(b'{"prompt": "\xff"}')
    with pytest.raises(ValueError, match="line 1: expected a JSON object, got 'utf-8'"):
        read_requests(path)
    path.write_text('[{"prompt": "?"}')
    with pytest.raises(ValueError, match=r"ask.jsonl: expected a JSON list"):
        read_requests(path)
    for empty in ("", "[]", json.dumps([{"conversations": []}])):
        path.write_text(empty)
        with pytest.raises(ValueError, match="source: expected at least one row that can be used, got none"):
            read_requests(path)


@pytest.mark.parametrize("source", ["none.json", "some/none.jsonl", "/no/such/folder", "one_word"])
def test_nothing_there(source: str) -> None:
    with pytest.raises(ValueError, match="source: expected a file, a folder or OWNER/NAME on the Hub"):
        read_requests(source)


def test_datasets_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    for source in (str(tmp_path), "owner/name"):
        with pytest.raises(ImportError, match="pip install datasets"):
            read_requests(source)
