"""Questions from Hugging Face `datasets`, which come with `pip install "vispec[release]"`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from training_parts import save_picture
from vispec.training.requests import read_requests

pytestmark = pytest.mark.release


@pytest.fixture
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return datasets


def without_path(path: Path) -> dict[str, Any]:
    """As pictures come from the Hub: bytes in the table."""
    return {"bytes": path.read_bytes(), "path": None}


def test_pictures_become_files_once(datasets: Any, tmp_path: Path) -> None:
    files = [
        save_picture(tmp_path / "a.png", 20, 10),
        save_picture(tmp_path / "b.jpg", 10, 20, seed=1),
        save_picture(tmp_path / "c.png", 5, 5, seed=2),
    ]
    rows = {
        "image": [without_path(files[0]), without_path(files[1]), without_path(files[0])],
        "prompt": ["one", "two", "three"],
        "answer": ["yes", None, "no"],
        "source": ["x", "y", "z"],
    }
    features = {name: datasets.Value("string") for name in ("prompt", "answer", "source")}
    table = datasets.Dataset.from_dict(rows, features=datasets.Features({**features, "image": datasets.Image()}))
    table.save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match="image_folder: expected a folder"):
        read_requests(tmp_path / "saved")
    kept = tmp_path / "kept"
    requests = read_requests(tmp_path / "saved", image_folder=kept, limit=2)
    assert len(list(kept.iterdir())) == 2
    requests = read_requests(tmp_path / "saved", image_folder=kept)
    assert requests[:2] == read_requests(tmp_path / "saved", image_folder=kept, limit=2)
    assert sorted(path.suffix for path in kept.iterdir()) == [".jpeg", ".png"]
    assert [Path(request.images[0]).read_bytes() for request in requests] == [
        files[index].read_bytes() for index in (0, 1, 0)
    ]
    assert [request.answered for request in requests] == [True, False, True]
    assert requests[0].messages[0]["content"][1] == {"type": "text", "text": "one"}


def test_lists_of_pictures_and_dialogues(datasets: Any, tmp_path: Path) -> None:
    files = [save_picture(tmp_path / f"{seed}.png", 8, 8, seed=seed) for seed in range(2)]
    dialogue = [{"from": "human", "value": "<image><image>\nwhich?"}, {"from": "gpt", "value": "this"}]
    turn = {"from": datasets.Value("string"), "value": datasets.Value("string")}
    features = datasets.Features({"images": datasets.List(datasets.Image()), "conversations": datasets.List(turn)})
    table = datasets.Dataset.from_dict(
        {"images": [[without_path(path) for path in files]], "conversations": [dialogue]}, features=features
    )
    table.save_to_disk(tmp_path / "saved")
    (request,) = read_requests(tmp_path / "saved", image_folder=tmp_path / "kept")
    assert [part["type"] for part in request.messages[0]["content"]] == ["image", "image", "text"]
    for path, file in zip(request.images, files, strict=True):
        assert Image.open(path).tobytes() == Image.open(file).tobytes()


def test_names_of_files(datasets: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A column of texts names files as a JSON line does; a folder of data files is read as the Hub's are."""
    save_picture(tmp_path / "a.png", 8, 8)
    folder = tmp_path / "owner" / "name"
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text(json.dumps({"image": "a.png", "prompt": "?"}) + "\n")
    monkeypatch.chdir(tmp_path)
    (request,) = read_requests("owner/name", image_folder=tmp_path)
    assert request.images == (str(tmp_path / "a.png"),)


def test_wrong_folders(datasets: Any, tmp_path: Path) -> None:
    table = datasets.Dataset.from_dict({"question": ["?"]})
    table.save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match=r"expected a column prompt or conversations, got \['question'\]"):
        read_requests(tmp_path / "saved")
    datasets.DatasetDict({"train": table, "test": table}).save_to_disk(tmp_path / "splits")
    with pytest.raises(ValueError, match=r"expected one split of .*splits, the folder in it: test, train"):
        read_requests(tmp_path / "splits")
