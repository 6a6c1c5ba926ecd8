"""The command `vispec`: info, demo, and what it says when something is wrong."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image

import vispec
from vispec import _C
from vispec.cli import main
from vispec.demo_pair import load_pair
from vispec.target import FAMILIES
from vispec.terminal import TRUE_COLOUR, num_colours, printable, render

PACKAGE = Path(vispec.__file__).parent
ANSWERS = re.compile(r"Without speculation:\n(.+)\n\nWith speculation:\n(.+)\n\n(.+)\n")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any connection fails the test."""

    def connect(*args: Any) -> None:
        raise AssertionError(f"connects to {args[1:]}")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket.socket, "connect_ex", connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)


@pytest.fixture
def terminal() -> Iterator[Any]:
    """A stream that is a terminal."""
    controller, follower = os.openpty()
    with os.fdopen(follower, "w", encoding="utf-8") as stream:
        yield stream
    os.close(controller)


@pytest.fixture
def package_copy(tmp_path: Path) -> Path:
    """A folder with the package, but without its operators."""
    shutil.copytree(PACKAGE, tmp_path / "vispec", ignore=shutil.ignore_patterns("_ops*", "__pycache__"))
    return tmp_path


def run_python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, its output in a pipe; a package in `folder` hides the installed one."""
    return subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False)


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    rows = dict(re.findall(r"^(\S.*?) {2,}(.+)$", capsys.readouterr().out, flags=re.MULTILINE))
    assert rows["vispec"].endswith(f"in {PACKAGE}")
    assert rows["torch"] == torch.__version__
    assert rows["transformers"] == transformers.__version__
    assert rows["Python"].startswith(sys.version.split()[0])
    assert rows["built with"].startswith(_C.build_info()["compiler"])
    assert rows["CPU"].startswith("operators ready")
    assert rows["families"] == ", ".join(FAMILIES)
    assert (rows["GPU"] == "none seen") is not torch.cuda.is_available()
    assert ("is not found" in rows["CUDA stream"]) is (torch.version.cuda is None)


def test_info_says_why_there_are_no_cuda_operators(capsys: pytest.CaptureFixture[str]) -> None:
    info = _C.build_info()
    main(["info"])
    out = capsys.readouterr().out
    if info["cuda"]:
        assert " ".join(info["cuda_archs"]) in out
    else:
        assert f"CUDA operators: {info['cuda_reason']}" in out


def test_missing_operators_are_explained(package_copy: Path) -> None:
    code = "import vispec; from vispec.cli import main; print(main(['info']), main(['demo'])); vispec.generate"
    run = run_python(package_copy, "-c", code)
    reason = "vispec's compiled operators are missing"
    assert f"\nMissing:\n  {reason}" in run.stdout
    assert run.stdout.endswith("1 1\n")
    assert run.stderr.startswith(f"vispec demo: {reason}")
    assert f"ImportError: {reason}" in run.stderr


def test_broken_operators_are_explained(package_copy: Path) -> None:
    (package_copy / "vispec/_ops.abi3.so").write_bytes(b"not a library")
    run = run_python(package_copy, "-m", "vispec", "info")
    assert run.returncode == 1
    assert run.stderr == ""
    assert re.search(r"\nMissing:\n  .*_ops.abi3.so", run.stdout)


@pytest.mark.parametrize(
    ("arguments", "words"), [(["--version"], "vispec "), (["--help"], "demo"), (["demo", "-h"], "--image")]
)
def test_help(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 0
    assert words in capsys.readouterr().out


def test_demo_in_a_pipe(tmp_path: Path) -> None:
    run = run_python(tmp_path, "-m", "vispec", "demo", "--max-new-tokens", "12")
    assert run.returncode == 0
    assert run.stderr == ""
    assert "\x1b" not in run.stdout
    assert f"Image: {PACKAGE / 'assets/scene.png'}, 336 x 252 pixels" in run.stdout
    assert "random weights" in run.stdout
    plain, speculative, verdict = ANSWERS.search(run.stdout).groups()
    assert plain == speculative
    assert verdict == "Both answers are identical: 12 tokens compared."
    numbers = dict(re.findall(r"^  (without|with|speed-up) +([\d.]+)", run.stdout, flags=re.MULTILINE))
    assert float(numbers["speed-up"]) == pytest.approx(float(numbers["with"]) / float(numbers["without"]), abs=0.01)
    shares = re.findall(r"(?:prefill|draft|verify|accept|other) (\d+)%", run.stdout)
    assert sum(map(int, shares)) == pytest.approx(100, abs=2)
    assert len(shares) == 5


@pytest.mark.usefixtures("no_network")
def test_demo_answers_about_the_users_own_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = Image.linear_gradient("L").resize((80, 50))
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be turned by 90 degrees
    path = tmp_path / "photo.jpg"
    photo.save(path, exif=exif)
    texts = []
    for arguments in ([], ["--image", str(path)], ["--image", str(path), "--question", "Why?"]):
        assert main(["demo", "--max-new-tokens", "8", *arguments]) == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        texts.append(ANSWERS.search(captured.out).group(1))
    assert f"Image: {path}, 50 x 80 pixels\nQuestion: Why?\n" in captured.out
    assert len(set(texts)) == 3, "image and question make a difference"


def test_demo_compares(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    generate = vispec.generate

    def wrong(*args: Any, **kwargs: Any) -> Any:
        output = generate(*args, **kwargs)
        if kwargs["max_new_tokens"] == 8:
            output.sequences[0, -3] += 1
        return output

    monkeypatch.setattr(vispec, "generate", wrong)
    assert main(["demo", "--max-new-tokens", "8"]) == 1
    out = capsys.readouterr().out
    assert "THE ANSWERS DIFFER from token 5 on" in out
    assert "identical" not in out


def test_pair_is_the_same_every_time() -> None:
    state = torch.get_rng_state()
    first, second = load_pair(), load_pair()
    assert torch.equal(torch.get_rng_state(), state)
    for one, other in ((first.model, second.model), (first.draft.model, second.draft.model)):
        weights = other.state_dict()
        assert all(torch.equal(tensor, weights[name]) for name, tensor in one.state_dict().items())
    assert first.processor.tokenizer.get_vocab() == second.processor.tokenizer.get_vocab()
    text = "Où? 🙂 <b>"
    assert first.processor.tokenizer.decode(first.processor.tokenizer(text).input_ids) == text


@pytest.mark.parametrize("case", ["missing", "folder", "text", "cut"])
def test_bad_image(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "image.png"
    if case == "folder":
        path.mkdir()
    elif case == "text":
        path.write_text("no image")
    elif case == "cut":
        path.write_bytes((PACKAGE / "assets/scene.png").read_bytes()[:2000])
    with pytest.raises(SystemExit) as stop:
        main(["demo", "--image", str(path)])
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert f"error: --image: cannot read {path}: " in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "COMMAND"),
        (["chat"], "invalid choice: 'chat'"),
        (["demo", "--max-new-tokens", "0"], "expected a whole number from 1, got '0'"),
        (["demo", "--threads", "many"], "expected a whole number from 1, got 'many'"),
        (["demo", "--question", "<image>?"], "--question: expected words alone"),
    ],
)
def test_bad_arguments(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert words in capsys.readouterr().err


def test_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code as shells expect it; threads and log level are for the demo alone."""
    threads, verbosity = torch.get_num_threads(), transformers.logging.get_verbosity()
    inside = []

    def interrupt(*args: Any, **kwargs: Any) -> None:
        inside.append((torch.get_num_threads(), transformers.logging.get_verbosity()))
        raise KeyboardInterrupt

    monkeypatch.setattr(vispec, "generate", interrupt)
    assert main(["demo", "--threads", str(threads + 1)]) == 130
    assert inside == [(threads + 1, transformers.logging.ERROR)]
    assert (torch.get_num_threads(), transformers.logging.get_verbosity()) == (threads, verbosity)


def test_colours(terminal: Any, tmp_path: Path) -> None:
    many = {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
    assert num_colours(terminal, many) == TRUE_COLOUR
    assert num_colours(terminal, {"TERM": "xterm-direct"}) == TRUE_COLOUR
    assert num_colours(terminal, {"TERM": "screen-256color"}) == 256
    assert num_colours(terminal, many | {"NO_COLOR": ""}) == TRUE_COLOUR, "no-color.org: an empty one is none"
    for environ in ({}, many | {"NO_COLOR": "1"}, many | {"TERM": "dumb"}, {"TERM": "vt100"}):
        assert num_colours(terminal, environ) == 0
    terminal.reconfigure(encoding="latin-1")
    assert num_colours(terminal, many) == 0
    with (tmp_path / "file").open("w", encoding="utf-8") as file:
        assert num_colours(file, many) == 0


def test_render() -> None:
    image = Image.new("RGB", (1, 2), (255, 0, 0))
    image.putpixel((0, 1), (0, 135, 95))
    assert render(image, 1, 5, TRUE_COLOUR) == "\x1b[38;2;255;0;0;48;2;0;135;95m▀\x1b[0m"
    assert render(image, 9, 1, 256) == "\x1b[38;5;196;48;5;29m▀\x1b[0m"
    lines = render(Image.new("L", (300, 200)), 60, 10, 256).split("\n")
    assert len(lines) == 10
    assert {line.count("▀") for line in lines} == {30}
    assert render(Image.new("RGB", (1, 5000)), 60, 22, 256).count("▀") == 22
    assert render(Image.new("RGB", (5000, 1)), 60, 22, 256).count("▀") == 60


def test_words_cannot_steer_the_terminal() -> None:
    assert printable("a\x1b[2Jb\rc\n\u202ed\ufffd é 図") == "a·[2Jb·c··d· é 図"
