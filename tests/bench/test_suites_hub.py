"""Suites in parquet files and by names of the Hub, read by `datasets`: `pip install "vispec[release]"` brings it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from suite_data import paper_rows, save_picture, write_paper
from vispec.bench.suites import load_suite
from vispec.bench.suites.benchmark import Samples
from vispec.bench.suites.paper import BENCHMARKS
from vispec.bench.suites.rows import folder_table

pytestmark = pytest.mark.release


@pytest.fixture
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return datasets


def write_parquet(datasets: Any, rows: list[dict[str, Any]], pictures: Path, path: Path) -> None:
    """As the Hub's files are: pictures as bytes in the table, lists of pictures too."""

    def encoded(value: Any) -> Any:
        if isinstance(value, list):
            return [encoded(one) for one in value]
        return {"bytes": (pictures / value).read_bytes(), "path": None}

    if "image" in rows[0]:
        rows = [{**row, "image": encoded(row["image"])} for row in rows]
    table = datasets.Dataset.from_list(rows)
    if "image" in rows[0]:
        image = datasets.Image()
        table = table.cast_column("image", datasets.List(image) if isinstance(rows[0]["image"], list) else image)
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_parquet(path)


def test_parquet_files(datasets: Any, tmp_path: Path) -> None:
    """The same prompts as from JSON lines, picture by picture; files may be in `data/`, and numbered."""
    lines, parquet = tmp_path / "lines", tmp_path / "parquet"
    write_paper(lines, 4)
    for place, rows in paper_rows(4).items():
        name, _, rest = place.partition("/")
        rest = rest if "/" in rest else f"data/{rest}"
        write_parquet(datasets, rows, lines / name, parquet / name / f"{rest}-00000-of-00001.parquet")
    expected, got = list(load_suite("paper", lines)), list(load_suite("paper", parquet))
    assert [(p.id, p.questions) for p in got] == [(p.id, p.questions) for p in expected]
    assert [p.images[0].tobytes() for p in got] == [p.images[0].tobytes() for p in expected]
    with pytest.raises(ValueError, match=r"parquet: expected a column caption, got \['question_id', 'image', "):
        folder_table(parquet / "mme", None, "test").read(0, ["caption"])


def test_names_of_the_hub(datasets: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` reads a folder of that name as it reads the Hub's."""
    monkeypatch.chdir(tmp_path)
    write_paper(tmp_path / "lines", 4)
    (mme,) = (benchmark for benchmark in BENCHMARKS if benchmark.title == "MME")
    folder = tmp_path / mme.dataset / "data"
    write_parquet(
        datasets, paper_rows(4)["mme/test"], tmp_path / "lines" / "mme", folder / "test-00000-of-00001.parquet"
    )
    prompts = list(Samples(mme, None, 512, ""))
    assert [p.questions for p in prompts] == [p.questions for p in Samples(mme, tmp_path / "lines", 512, "")]


def test_mmspec_in_parquet_files(datasets: Any, tmp_path: Path) -> None:
    picture = save_picture(tmp_path / "a.png", 0)
    row = {"id": "a", "image": "a.png", "turns": ["What?", "Where?"], "category": "x", "topic": "text vqa"}
    write_parquet(datasets, [row], tmp_path, tmp_path / "data" / "test-00000-of-00001.parquet")
    (prompt,) = load_suite("mmspec", tmp_path)
    assert prompt.questions == ("What?", "Where?")
    assert prompt.images[0].tobytes() == picture.tobytes()
