"""The paper's eight benchmarks, from small data in their schemas."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from suite_data import paper_rows, save_picture, write_lines, write_paper
from vispec.bench.suites import load_suite
from vispec.bench.suites.paper import BENCHMARKS, PUBLISHED, Paper, published

EXPLAIN = " Please answer with an explanation."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_paper(tmp_path, 4)
    return tmp_path


def test_questions_of_all_eight(folder: Path) -> None:
    prompts = list(load_suite("paper", folder))
    assert len(prompts) == len({prompt.id for prompt in prompts}) == 7 * 4 + 2  # SEED-Bench: pictures alone
    asked = {prompt.id: prompt.questions for prompt in prompts}
    assert asked["mm-vet-3"] == asked["vizwiz-vqa-3"] == asked["gqa-3"] == ("Which one is number 3?" + EXPLAIN,)
    assert asked["seed-bench-2"] == ("Which one is number 2?" + EXPLAIN,)
    assert asked["mme-1"] == ("Is it 1?" + EXPLAIN,)
    assert asked["textvqa-0"][0].startswith("Which one is number 0? Perform an OCR task")
    assert asked["coco-caption-0"] == ("Please provide a detailed description of the given image.",)
    start = "Context: {}\nQuestion: Which one is number {}?\nOptions: (A) an ant (B) a bee\nYour answer should"
    assert asked["scienceqa-0"][0].startswith(start.format("It flies.", 0))
    assert asked["scienceqa-2"][0].startswith(start.format("N/A", 2))
    assert {prompt.max_new_tokens for prompt in prompts} == {512}


def test_pictures(tmp_path: Path) -> None:
    pictures = write_paper(tmp_path, 4)
    for prompt in load_suite("paper", tmp_path):
        number = int(prompt.id.rpartition("-")[2])
        (image,) = prompt.images
        expected = number // 2 if prompt.kind == "GQA" else number
        assert image.tobytes() == pictures[expected].tobytes()


def test_order(folder: Path) -> None:
    """The benchmarks in turn; what is drawn does not hang on the limit."""
    prompts = list(load_suite("paper", folder))
    assert [prompt.kind for prompt in prompts[:8]] == [benchmark.title for benchmark in BENCHMARKS]
    few = load_suite("paper", folder, limit=11)
    assert len(few) == 11
    assert [prompt.id for prompt in few] == [prompt.id for prompt in prompts[:11]]


def test_number_of_samples(tmp_path: Path) -> None:
    """100 rows of a benchmark, drawn; MM-Vet whole and in order."""
    for name, place in (("mme", "mme/test"), ("mm-vet", "mm-vet/test")):
        write_lines(tmp_path / f"{place}.jsonl", paper_rows(130)[place])
        for i in range(130):
            save_picture(tmp_path / name / "images" / f"{i}.png", i)
    ids = [prompt.id for prompt in load_suite("paper", tmp_path)]
    drawn = [one for one in ids if one.startswith("mme")]
    assert len(drawn) == len(set(drawn)) == 100
    assert drawn != sorted(drawn, key=lambda one: int(one.split("-")[1]))
    assert [one for one in ids if one.startswith("mm-vet")] == [f"mm-vet-{i}" for i in range(130)]


def test_some_of_the_folders(tmp_path: Path) -> None:
    save_picture(tmp_path / "mme" / "images" / "0.png", 0)
    write_lines(tmp_path / "mme" / "data" / "test-00000-of-00001.jsonl", paper_rows(1)["mme/test"])
    (prompt,) = load_suite("paper", tmp_path)
    assert prompt.kind == "MME"


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("image", None, r"MME, row \d, column image: expected a picture, its bytes or the name of its file, got None"),
        ("image", "images/none.png", r"MME, row \d, column image: expected a picture, got 'images/none.png'"),
        ("image", "test.jsonl", r"MME, row \d, column image: expected a picture, got 'test.jsonl'"),
        (
            "question",
            ...,
            r"test.jsonl, line \d: expected question, got \['question_id', 'image', 'answer', 'category'",
        ),
    ],
)
def test_wrong_rows(folder: Path, column: str, value: object, words: str) -> None:
    rows = paper_rows(4)["mme/test"]
    for row in rows:
        row[column] = value
        if value is ...:
            del row[column]
    write_lines(folder / "mme" / "test.jsonl", rows)
    with pytest.raises(ValueError, match=words):
        load_suite("paper", folder)


def test_wrong_folders(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"data: expected a folder with one of scienceqa, mm-vet, .* in it, got .*/gqa"
    ):
        load_suite("paper", folder / "gqa")
    (folder / "mme" / "test.jsonl").rename(folder / "mme" / "train.jsonl")
    with pytest.raises(ValueError, match=r"mme: expected .*test\*.jsonl .* \(or .parquet\), got neither"):
        load_suite("paper", folder)
    write_lines(folder / "mme" / "test.jsonl", [])
    with pytest.raises(ValueError, match="MME: expected rows, got none"):
        load_suite("paper", folder)
    (folder / "mme" / "test.jsonl").write_text("no JSON\n")
    with pytest.raises(ValueError, match=r"test.jsonl, line 1: expected JSON, got 'no JSON'"):
        load_suite("paper", folder)
    write_lines(folder / "mme" / "test-2.jsonl", [])
    with pytest.raises(ValueError, match=r"expected one file test\*.jsonl, got test-2.jsonl, test.jsonl"):
        load_suite("paper", folder)


def test_pictures_that_are_missing(folder: Path) -> None:
    write_lines(folder / "gqa" / "testdev_balanced_images" / "testdev.jsonl", [{"id": "n7", "image": "images/0.png"}])
    with pytest.raises(ValueError, match=r"GQA, row \d, column imageId: expected a id of the pictures, got 'n\d'"):
        load_suite("paper", folder)


def test_without_the_datasets_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match="lmms-lab-encoder/ScienceQA: to read it, `pip install datasets`"):
        load_suite("paper")
    (tmp_path / "mme").mkdir()
    (tmp_path / "mme" / "test-0.parquet").touch()
    with pytest.raises(ImportError, match=r"test-0.parquet: to read it, `pip install datasets`"):
        load_suite("paper", tmp_path)


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="suite: expected one of paper, mmspec, mmspec-pictures, got 'papers'"):
        load_suite("papers")
    with pytest.raises(ValueError, match="limit: expected at least 1, got 0"):
        load_suite("paper", limit=0)


@pytest.mark.parametrize(
    ("target", "temperature", "averages"),
    [
        ("LLaVA-1.6 7B", 0.0, (2.98, 2.58)),
        ("LLaVA-1.6 13B", 0.0, (2.89, 2.38)),
        ("Qwen2.5-VL 3B", 0.0, (2.19, 1.87)),
        ("Qwen2.5-VL 7B", 0.0, (2.24, 1.80)),
        ("LLaVA-1.6 7B", 1.0, (2.09, 2.14)),
        ("LLaVA-1.6 13B", 1.0, (2.11, 2.13)),
        ("Qwen2.5-VL 3B", 1.0, (1.42, 1.47)),
        ("Qwen2.5-VL 7B", 1.0, (1.66, 1.49)),
    ],
)
def test_published_numbers(target: str, temperature: float, averages: tuple[float, float]) -> None:
    """The cells add up to the averages that the paper prints."""
    cells = PUBLISHED[target, temperature]
    assert len(cells) == len(BENCHMARKS)
    for values, average in zip(zip(*cells, strict=True), averages, strict=True):
        assert sum(values) / len(values) == pytest.approx(average, abs=0.0101)


def test_published_by_the_target_s_name(folder: Path) -> None:
    assert published("COCO Caps", 0.0, "llava-hf/llava-v1.6-vicuna-7b-hf") == (3.30, 3.22)
    assert published("SQA", 1.0, "/models/Qwen2.5-VL-7B-Instruct") == (1.82, 1.62)
    assert published("SQA", 0.5, "Qwen/Qwen2.5-VL-7B-Instruct") is None
    assert published("SQA", 0.0, "Qwen/Qwen3-VL-8B-Instruct") is None
    suite = Paper(folder, None)
    assert suite.published("COCO Caps", 0.0, "llava-hf/llava-v1.6-vicuna-7b-hf") == "tau 3.30, 3.22x"
    assert suite.published("COCO Caps", 0.0, "other") is None
