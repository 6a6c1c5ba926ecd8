"""The paper's table, from a recorded run."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

from vispec.bench.measuring import Log, Round
from vispec.bench.methods import COMPILED, LOOKUP, NO_DRAFT, PLAIN
from vispec.bench.runs import Run
from vispec.bench.suites.table import Cell, average, main, notes, paper_table, read_run

OURS, OURS_COMPILED = "vispec 3,8,30", "vispec 3,8,30, compiled"
BASELINES = {PLAIN: PLAIN, LOOKUP: PLAIN, NO_DRAFT: PLAIN, OURS: PLAIN, COMPILED: COMPILED, OURS_COMPILED: COMPILED}


def run(tokens: int, seconds: float, num_accepted: list[int]) -> Run:
    trees = ["3,8,30"] * len(num_accepted)
    return Run([7] * tokens, seconds, [0.0] * tokens, None, num_accepted, trees, {"draft": 0.1} if trees else {})


def write_run(folder: Path) -> None:
    """Two samples of SQA and one of GQA, greedy and at temperature 1, as `vispec bench` writes them."""
    folder.mkdir()
    log = Log(folder / "measured.jsonl", {"target": "recorded"})
    for temperature in (0.0, 1.0):
        for prompt, kind, speed in (("scienceqa-0", "SQA", 1), ("scienceqa-5", "SQA", 3), ("gqa-2", "GQA", 1)):
            runs = {
                PLAIN: run(10, 10 / speed, []),
                LOOKUP: run(10, 8 / speed, []),
                NO_DRAFT: run(10, 10 / speed, [0] * 10),
                OURS: run(10, 4 / speed, [4, 2] if speed == 1 else [0]),
                COMPILED: run(10, 5 / speed, []),
                OURS_COMPILED: run(10, 4 / speed, [4, 2]),
            }
            log.add_round(Round(prompt, 0, kind, temperature, 0, 100, runs))
    rows = [{"method": method, "baseline": baseline} for method, baseline in BASELINES.items()]
    (folder / "summary.json").write_text(json.dumps({"rows": rows}))


def test_cells(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    cells = read_run(tmp_path / "run").cells()
    assert set(cells) == {(t, m) for t in (0.0, 1.0) for m in (LOOKUP, OURS, OURS_COMPILED)}
    ours = cells[0.0, OURS]
    assert ours["SQA"] == Cell(pytest.approx(2.0), pytest.approx(2.5))  # 6 of 3 cycles; means of (2.5, 7.5), (1, 3)
    assert ours["GQA"] == Cell(pytest.approx(3.0), pytest.approx(2.5))
    assert cells[0.0, LOOKUP]["SQA"] == Cell(None, pytest.approx(1.25))
    assert cells[0.0, OURS_COMPILED]["SQA"].speed_up == pytest.approx(1.25)  # over compiled decoding


def test_the_ratio_is_of_means(tmp_path: Path) -> None:
    """As the paper has it: not the mean of the samples' ratios, which is 2.5 here."""
    log = Log(tmp_path / "measured.jsonl", {})
    for seconds, ours in ((10, 2.5), (1, 1)):
        log.add_round(
            Round(str(seconds), 0, "MME", 0.0, 0, 100, {PLAIN: run(10, seconds, []), OURS: run(10, ours, [1])})
        )
    rows = [{"method": PLAIN, "baseline": PLAIN}, {"method": OURS, "baseline": PLAIN}]
    (tmp_path / "summary.json").write_text(json.dumps({"rows": rows}))
    assert read_run(tmp_path).cells()[0.0, OURS]["MME"].speed_up == pytest.approx((4 + 10) / (1 + 10))


def test_average() -> None:
    cells = {"a": Cell(1.0, 2.0), "b": Cell(2.0, 4.0), "c": Cell(None, 1.0)}
    assert average(cells, ["a", "b"]) == Cell(1.5, 3.0)
    assert average(cells, ["a", "c"]) == Cell(None, 1.5)
    assert average(cells, ["a", "d"]) is average(cells, []) is None


def test_table(tmp_path: Path) -> None:
    """The paper's number stands below ours where it has one, its average over the same benchmarks."""
    write_run(tmp_path / "run")
    runs = {"LLaVA-1.6 7B": read_run(tmp_path / "run"), "a target of ours": read_run(tmp_path / "run")}
    console = Console(width=250, record=True)
    console.print(paper_table(runs))
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in console.export_text().splitlines()]
    rows = {}
    for upper, lower in itertools.pairwise(lines):
        if len(upper) > 1 and upper[0].endswith(("T=0", "T=1")):
            rows[upper[0], lower[0]] = (upper[1:], lower[1:])
    ours, published = rows["LLaVA-1.6 7B, T=0", OURS]
    assert ours == ["2.00 2.50x", "-", "-", "-", "-", "-", "3.00 2.50x", "-", "2.50 2.50x"]
    assert published[0] == "(2.86 2.37x)"
    assert published[6:] == ["(2.88 2.22x)", "(3.03 2.22x)", "(2.87 2.29x)"]
    assert rows["LLaVA-1.6 7B, T=1", OURS][1][0] == "(2.06 2.20x)"
    assert rows["LLaVA-1.6 7B, T=0", LOOKUP] == (["- 1.25x", *"-----", "- 1.25x", "-", "- 1.25x"], [""] * 9)
    assert rows["a target of ours, T=0", OURS][1] == [""] * 9


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "run")
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.setattr(sys, "argv", ["table", f"Qwen/Qwen2.5-VL-7B-Instruct={tmp_path / 'run'}"])
    main()
    shown = capsys.readouterr().out
    assert "(2.19 1.84x)" in shown
    assert notes({"one": read_run(tmp_path / "run")})[1].startswith("SQA: no solved examples before the question")
    assert "GQA: the Hub's rows are in another order" in shown
    assert "MME" not in shown.rpartition("tau counts")[2]
    (tmp_path / "run" / "summary.json").unlink()
    with pytest.raises(SystemExit):
        main()
    assert "expected summary.json and measured.jsonl of `vispec bench`, got no summary.json" in capsys.readouterr().err
