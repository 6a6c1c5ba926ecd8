"""`vispec generate` on a small pair that the test saves, and on the one in the package where it is there."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import vispec
from tiny_pair import save_tiny_pair
from vispec.cli import main
from vispec.pair.pretrained import Pair, load_pair
from vispec.pictures import picture_file

SPEED = (
    r"llava {}, float32 on cpu: 12 tokens in [\d.]+ s, [\d.]+ tokens/s, the first after [\d.]+ s and \d+ read"
    r"(; tau [\d.]+ in \d+ cycles)?\n"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def pair(folder: Path) -> Pair:
    return load_pair(folder)


@pytest.fixture(scope="module")
def target(folder: Path) -> list[str]:
    """Options that name the target."""
    return ["--model", str(folder / "target"), "--max-new-tokens", "12", "--device", "cpu"]


@pytest.fixture(scope="module")
def models(folder: Path, target: list[str]) -> list[str]:
    """Options that name both models."""
    return [*target, "--draft", str(folder / "draft")]


def expected(pair: Pair, picture: str, question: str, **options: Any) -> str:
    with Image.open(picture_file(picture)) as image:
        inputs = pair.inputs(image, question)
    ids = pair.model.generate(**inputs, max_new_tokens=12, **options)
    return pair.processor.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def test_in_a_pipe(pair: Pair, models: list[str], tmp_path: Path) -> None:
    """The answer alone on stdout."""
    command = [sys.executable, "-m", "vispec", "generate", *models, "--image", "sign", "What does it say?"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, expected(pair, "sign", "What does it say?") + "\n")
    matched = re.fullmatch(SPEED.format("with a draft"), run.stderr)
    assert matched
    assert matched.group(1)


def test_plain(pair: Pair, target: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", *target, "--plain", "--image", "sign", "What does it say?"]) == 0
    captured = capsys.readouterr()
    assert captured.out == expected(pair, "sign", "What does it say?") + "\n"
    matched = re.fullmatch(SPEED.format("without a draft"), captured.err)
    assert matched
    assert not matched.group(1)


def test_two_images_and_none(
    pair: Pair, models: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By name or path, in their order; the question from standard input."""
    path = tmp_path / "sign.png"
    path.write_bytes(picture_file("sign").read_bytes())
    texts = []
    monkeypatch.setattr(sys, "stdin", io.StringIO("What?"))
    for images in ([str(path)], ["scene", str(path)], [str(path), "scene"], []):
        sys.stdin.seek(0)
        options = [option for image in images for option in ("--image", image)]
        assert main(["generate", *models, *options, "-"]) == 0
        texts.append(capsys.readouterr().out)
    assert len(set(texts)) == 4
    assert texts[0] == expected(pair, "sign", "What?") + "\n"


def test_sampling(pair: Pair, models: list[str], target: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A seed gives one text, with and without a draft."""
    texts = []
    for options in (
        [*models, "--seed", "5", "--temperature", "1.5"],
        [*models, "--seed", "5", "--temperature", "1.5", "--tree", "2,2,6"],
        [*target, "--plain", "--seed", "5", "--temperature", "1.5"],
        [*models, "--seed", "6", "--temperature", "1.5"],
        [*models, "--seed", "5", "--temperature", "1.5", "--top-k", "1"],
        [*models, "--temperature", "0"],
    ):
        assert main(["generate", *options, "--image", "chart", "What?"]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] == texts[2]
    assert texts[3] not in (texts[0], texts[5])
    assert texts[4] == texts[5] == expected(pair, "chart", "What?") + "\n"


def test_the_models_own_settings(
    pair: Pair, folder: Path, models: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Its generation config counts where nothing is asked for."""
    file = folder / "target" / "generation_config.json"
    before = file.read_text()
    file.write_text(before.replace("{", '{"repetition_penalty": 1.8,', 1))
    try:
        assert main(["generate", *models, "--image", "chart", "What?"]) == 0
    finally:
        file.write_text(before)
    text = capsys.readouterr().out
    assert text == expected(pair, "chart", "What?", repetition_penalty=1.8) + "\n" != expected(pair, "chart", "What?")


def test_pair_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    assert main(["generate", "--image", "scene", "--max-new-tokens", "12", "Describe the picture."]) == 0
    captured = capsys.readouterr()
    assert captured.out == expected(load_pair(), "scene", "Describe the picture.") + "\n"
    assert re.fullmatch(SPEED.format("with a draft"), captured.err)
    assert torch.get_num_threads() == threads


def test_no_room(folder: Path, models: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """An answer ends where the model can read no further."""
    most = load_pair(folder).model.config.get_text_config().max_position_embeddings
    words = "a" * (most - 8)
    assert main(["generate", *models, words]) == 0
    assert re.search(r": [1-7] tokens? in", capsys.readouterr().err)
    with pytest.raises(SystemExit):
        main(["generate", *models, words + "a" * 8])
    assert f"PROMPT: the dialogue takes all of the {most} tokens that the model can read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--draft", "x"], "--draft: expected its target too, by --model"),
        (["--model", "x"], "--draft: expected one for --model x; --plain answers without"),
        (["--plain", "--model", "x", "--draft", "y"], "--plain: answers without a draft, but got --draft y"),
        (["--model", "./nowhere", "--plain"], "--model: "),
        (["--model", "{target}", "--draft", "./nowhere"], "--draft: expected a folder, got nowhere"),
        (["{models}", "--image", "nowhere.png"], "--image: [Errno 2] No such file or directory: "),
        (["{models}", "--image", __file__], "--image: cannot read the picture "),
        (["{models}", "--system", "Be brief."], "--system: the model's chat template has no system prompt"),
        (["{models}", "--tree", "1,2,99"], "--tree: num_nodes is 99 with the root"),
        (["{models}", "--device", "nothing"], "--device: Expected one of cpu"),
        (["{models}", "--device", "meta"], "--device: expected cpu"),
        (["{models}", "--temperature", "0", "--top-k", "3"], "--temperature: 0 is greedy"),
        (["{models}", "--temperature", "-1"], "--temperature: expected a number from 0 (greedy) on, got '-1'"),
        (["{models}", "--top-p", "1.5"], "--top-p: expected a number above 0, at most 1, got '1.5'"),
        (["{models}", "--top-p", "much"], "--top-p: expected a number above 0, at most 1, got 'much'"),
        (["{models}", "--top-k", "0"], "--top-k: expected a whole number from 1, got '0'"),
        (["{models}", "--seed", f"{2**64}"], f"--seed: expected an integer of 64 bits, got '{2**64}'"),
        (["{models}", "--seed", "x"], "--seed: expected an integer of 64 bits, got 'x'"),
    ],
)
def test_bad_options(
    options: list[str], words: str, target: list[str], models: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    if options[0] == "{models}":
        options = [*models, *options[1:]]
    options = [target[1] if option == "{target}" else option for option in options]
    with pytest.raises(SystemExit) as stop:
        main(["generate", *options, "What?"])
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.out == ""


@pytest.mark.parametrize("question", ["", "<image>?"])
def test_bad_question(question: str, models: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["generate", *models, question])
    assert "PROMPT: " in capsys.readouterr().err


def test_interrupted(models: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(vispec, "generate", interrupt)
    assert main(["generate", *models, "What?"]) == 130
