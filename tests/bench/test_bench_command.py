"""`vispec bench` from its options to its files, on a small pair: counts, texts, going on after a kill, labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from killing import run_and_kill
from tiny_pair import save_tiny_pair
from vispec.bench.command import MEASURED, SUMMARY
from vispec.cli import main

METHODS = ["plain", "prompt lookup", "vispec, no draft", "vispec 2,2,6", "vispec auto"]
METHODS += ["vispec 2,2,6, random draft", "vispec auto, random draft"]
OPTIONS = ["--limit", "2", "--max-new-tokens", "6", "--no-compile", "--trees", "2,2,6", "auto", "--random-draft"]
SAMPLED = ["--temperatures", "0", "1", "--repeats", "2"]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command with its pair."""
    return ["bench", "--pair", str(save_tiny_pair(tmp_path_factory.mktemp("pair"))), *OPTIONS]


@pytest.fixture(scope="module")
def finished(bench: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole run."""
    folder = tmp_path_factory.mktemp("finished")
    assert main([*bench, *SAMPLED, "--no-plots", "--output", str(folder)]) == 0
    return folder


def read_lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / MEASURED).read_text().splitlines()]


def read_rounds(folder: Path) -> list[dict[str, Any]]:
    return [line["round"] for line in read_lines(folder) if "round" in line]


def counts(folder: Path) -> list[Any]:
    """All that is no time: texts, acceptance, trees; `auto` chooses by time."""
    found = []
    for one in read_rounds(folder):
        key = [one[name] for name in ("prompt", "turn", "kind", "temperature", "repeat", "prompt_tokens")]
        for name in sorted(one["runs"]):
            run = one["runs"][name]
            is_timed = name.startswith("vispec auto")
            found.append([*key, name, run["tokens"], *([] if is_timed else [run["num_accepted"], run["trees"]])])
    return found


def test_every_method_answers_every_question(finished: Path) -> None:
    rounds = read_rounds(finished)
    assert len({(r["prompt"], r["temperature"], r["repeat"]) for r in rounds}) == len(rounds) == 2 * 2 * 2
    for one in rounds:
        assert sorted(one["runs"]) == sorted(METHODS)
        texts = {name: run["tokens"] for name, run in one["runs"].items()}
        assert all(len(text) == 6 for text in texts.values())
        ours = METHODS[2:]
        assert all(texts[name] == texts["vispec, no draft" if one["temperature"] else "plain"] for name in ours)
        for run in one["runs"].values():
            assert len(run["arrivals"]) == 6
            assert run["arrivals"] == sorted(run["arrivals"])
            assert run["arrivals"][-1] <= 1e3 * run["seconds"] + 1e-3
            assert run["difference"] is None
    firsts = [next(iter(one["runs"])) for one in rounds]
    assert len(set(firsts)) == len(METHODS), "each comes first at times"


def test_summary(finished: Path) -> None:
    summary = json.loads((finished / SUMMARY).read_text())
    assert summary["facts"]["acceptance"] == "real"
    rows = {(row["temperature"], row["kind"], row["method"]): row for row in summary["rows"]}
    assert {kind for _, kind, _ in rows} == {"all", "describe", "where"}
    whole = rows[0.0, "all", "vispec 2,2,6"]
    assert whole["runs"] == 4
    assert whole["tokens"] == 4 * 6
    assert whole["texts"] == {"same": 4, "near_tie": 0, "other": 0}
    assert whole["speed_up"]["pairs"] == 4
    runs = [one["runs"]["vispec 2,2,6"] for one in read_rounds(finished) if one["temperature"] == 0]
    assert whole["speculation"]["cycles"] == sum(len(run["num_accepted"]) for run in runs)
    assert whole["speculation"]["cycles_by_tree"] == {"2,2,6": whole["speculation"]["cycles"]}
    assert rows[1.0, "all", "plain"]["texts"] is None, "sampled with other draws"
    assert rows[1.0, "all", "vispec auto"]["texts"] == {"same": 4, "near_tie": 0, "other": 0}


def test_second_run_agrees(bench: list[str], finished: Path, tmp_path: Path) -> None:
    assert main([*bench, *SAMPLED, "--no-plots", "--output", str(tmp_path)]) == 0
    assert counts(tmp_path) == counts(finished)


def test_killed_run_goes_on(
    bench: list[str], finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*bench, *SAMPLED, "--no-plots", "--output", str(tmp_path)]
    file = tmp_path / MEASURED

    def has_rounds() -> bool:
        return file.exists() and file.read_text().count('{"round"') >= 3

    assert run_and_kill(lambda: main(command), has_rounds), "it was killed"
    whole = file.read_text()[: file.read_text().rfind("\n") + 1]
    file.write_text(whole + '{"round": {"prompt": "cut by the ki')
    assert main(command) == 0
    assert file.read_text().startswith(whole)
    assert counts(tmp_path) == counts(finished)
    before = file.read_text()
    capsys.readouterr()
    assert main(command) == 0
    assert file.read_text() == before, "nothing is left to measure"
    assert "vispec 2,2,6" in capsys.readouterr().out


def test_other_measurements_are_not_mixed_in(
    bench: list[str], finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*bench, "--no-plots", "--output", str(finished)])
    assert stop.value.code == 2
    assert "--output: " in (said := capsys.readouterr().err)
    assert "holds measurements with another methods" in said


def test_geometry_is_labelled_simulated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--geometry", "tiny", "--contexts", "16", "40", "--accepted", "1.5", "--trees", "2,2,6"]
    more = ["--max-new-tokens", "60", "--repeats", "1", "--no-compile", "--explain"]
    assert main(["bench", *options, *more, "--output", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "acceptance: SIMULATED, 1.5 draft tokens a cycle" in out
    assert "Temperature 0 (acceptance SIMULATED)" in out
    summary = json.loads((tmp_path / SUMMARY).read_text())
    ours = next(row for row in summary["rows"] if row["kind"] == "all" and row["method"] != "plain")
    assert ours["method"] == "vispec 2,2,6, simulated tau 1.5"
    assert ours["speculation"]["mean_accepted"] == pytest.approx(1.5, abs=0.2)
    assert ours["texts"] == {"same": 2, "near_tie": 0, "other": 0}
    assert [row["kind"] for row in summary["explained"]["rows"]] == ["16 tokens", "40 tokens"]
    assert all(predicted > 0 for row in summary["explained"]["rows"] for predicted in row["cycle_ms"])
    pictures = {path.stem: Image.open(path) for path in tmp_path.glob("*.png")}
    assert sorted(pictures) == ["acceptance", "context", "kinds", "speed_up", "timeline"]
    for picture in pictures.values():
        assert min(picture.size) > 300
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 50, "something was drawn"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--draft", "there"], "--draft: expected one and its target, by --model, or neither"),
        (["--geometry", "huge"], "--geometry: expected one of Qwen2.5-VL-3B"),
        (["--geometry", "tiny", "--trees", "auto"], "expected fixed ones with --geometry, got auto"),
        (["--geometry", "tiny", "--pair", "there"], "--geometry, --model, --pair: expected one of them"),
        (["--geometry", "tiny", "--limit", "3"], "tokens and draft are random"),
        (["--data", "there"], "--data: expected the suite"),
        (["--suite", "none"], "--suite: expected one of paper"),
        (["--trees", "1,2,99"], "num_nodes is 99 with the root"),
        (["--pair", "nowhere"], "--pair: expected a folder with target/ and draft/, got nowhere"),
        (["--temperatures", "-1"], "expected a number from 0"),
    ],
)
def test_bad_options(options: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["bench", "--no-plots", "--output", str(tmp_path / "new"), *options])
    assert stop.value.code == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_missing_matplotlib_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(SystemExit):
        main(["bench", "--output", str(tmp_path)])
    assert '`pip install ".[bench]"` brings it' in capsys.readouterr().err
