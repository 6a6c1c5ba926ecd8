"""`vispec demo` on a small pair that the test saves, and on the one in the package where it is there."""

from __future__ import annotations

import os
import pty
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyte
import pytest
import torch
import transformers
from PIL import Image

import vispec
from tiny_pair import save_tiny_pair
from vispec.cli import main
from vispec.pair import make_sample, split_of
from vispec.pair.pretrained import load_pair
from vispec.pictures import PICTURES, picture_file

ANSWERS = re.compile(r"WITHOUT DRAFT [^\n]*\n(.+?)\n\nWITH DRAFT [^\n]*\n(.+?)\n\n([^\n]+)\n", re.DOTALL)
ROW = r"^  {} +([\d.]+) +([\d.]+) +([\d.]+)x$"
COLUMNS, ROWS = 100, 40


@pytest.fixture(scope="module")
def tiny_pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module", params=["tiny", "shipped"])
def demo(request: pytest.FixtureRequest, tiny_pair: Path) -> list[str]:
    """The command with its pair."""
    return ["demo", "--pair", str(tiny_pair)] if request.param == "tiny" else ["demo"]


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any connection fails the test."""

    def connect(*args: Any) -> None:
        raise AssertionError(f"connects to {args[1:]}")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket.socket, "connect_ex", connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)


def test_demo_in_a_pipe(demo: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vispec", *demo, "--max-new-tokens", "12", "--tree", "3,8,30"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0
    assert run.stderr == ""
    assert "\x1b" not in run.stdout
    assert "Picture: scene, as the target sees it: 96 x 96 pixels\nQuestion: Describe the picture" in run.stdout
    assert ("trained from scratch for this package" in run.stdout) is ("--pair" not in demo)
    plain, speculative, verdict = ANSWERS.search(run.stdout).groups()
    assert plain == speculative
    assert verdict == "Both answers are identical: 12 tokens compared."
    for label in ("tokens/s", "tokens/s, decode alone"):
        without, with_draft, speed_up = map(float, re.search(ROW.format(label), run.stdout, re.MULTILINE).groups())
        rounding = 0.01 + speed_up * 0.05 * (1 / without + 1 / with_draft)
        assert speed_up == pytest.approx(with_draft / without, abs=rounding)
    shares = re.findall(r"^  (?:prepare|prefill|draft|verify|accept|other) .* ([\d.]+)%$", run.stdout, re.MULTILINE)
    assert len(shares) == 6
    assert sum(map(float, shares)) == pytest.approx(100, abs=0.3)
    mean, cycles = re.search(r"num_accepted ([\d.]+): .* mean of (\d+) cycles, at most 4", run.stdout).groups()
    bars = re.search(r"cycles, at most 4\n  ([▁▂▄▆█]+)\n  one sign a cycle:   ▁ 0 ", run.stdout).group(1)
    assert len(bars) == int(cycles)
    assert sum(map("▁▂▄▆█".index, bars)) / len(bars) == pytest.approx(float(mean), abs=0.01)


def test_demo_in_a_terminal(demo: list[str], tmp_path: Path) -> None:
    """The picture above, both answers beside each other, the numbers below."""
    pid, controller = pty.fork()
    if pid == 0:  # the child: nothing but the command
        os.chdir(tmp_path)  # away from a checkout, which would be imported
        os.environ.update(TERM="xterm-256color", COLUMNS=str(COLUMNS), LINES=str(ROWS))
        os.execv(sys.executable, [sys.executable, "-m", "vispec", *demo, "--image", "table", "--max-new-tokens", "40"])
    screen = pyte.HistoryScreen(COLUMNS, ROWS, history=500)
    stream = pyte.ByteStream(screen)
    while data := read(controller):
        stream.feed(data)
    os.close(controller)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    above = ["".join(line[x].data for x in range(COLUMNS)) for line in screen.history.top]
    lines = [line.rstrip() for line in (*above, *screen.display)]
    assert sum(line.startswith("▀" * 48) for line in lines) == 24
    title = next(i for i, line in enumerate(lines) if re.fullmatch(r"WITHOUT DRAFT .*│ WITH DRAFT .*", line))
    pairs = [line.split(" │", 1) for line in lines[title + 1 : lines.index("", title)]]
    assert len(pairs) >= 2
    assert all(left.rstrip() == right.strip() for left, right in pairs)
    assert re.search(r"Both answers are identical: \d+ tokens compared", lines[title + len(pairs) + 2])


def read(descriptor: int) -> bytes:
    """What comes next; nothing once the other side has closed its terminal."""
    try:
        return os.read(descriptor, 1 << 16)
    except OSError:  # how Linux says so
        return b""


@pytest.mark.usefixtures("no_network")
def test_demo_answers_about_any_picture(tiny_pair: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = Image.linear_gradient("L").resize((80, 50))
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be turned by 90 degrees
    path = tmp_path / "photo.jpg"
    photo.save(path, exif=exif)
    texts = []
    for arguments in (["--image", "chart"], ["--image", str(path)], ["--image", str(path), "--question", "Why\x1b?"]):
        assert main(["demo", "--pair", str(tiny_pair), "--max-new-tokens", "8", *arguments]) == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        texts.append(ANSWERS.search(captured.out).group(1))
    assert f"Picture: {path}, as the target sees it: 96 x 96 pixels\nQuestion: Why·?\n" in captured.out
    assert len(set(texts)) == 3, "picture and question make a difference"


def test_target_sees_the_middle(tiny_pair: Path) -> None:
    """The sides of a picture that is no square are cut off, as the processor does."""
    wide = Image.new("RGB", (300, 100), "red")
    wide.paste("blue", (100, 0, 200, 100))
    pair = load_pair(tiny_pair)
    view = pair.view(wide)
    assert view.size == (96, 96)
    assert view.getpixel((48, 48)) == (0, 0, 255)
    assert view.crop((4, 0, 92, 96)).getcolors() == [(88 * 96, (0, 0, 255))]
    pixels = pair.inputs(wide, "What?")["pixel_values"]
    assert torch.equal(pixels, pair.inputs(view, "What?")["pixel_values"])


def test_demo_compares(tiny_pair: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    generate = vispec.generate

    def wrong(*args: Any, **kwargs: Any) -> Any:
        output = generate(*args, **kwargs)
        if kwargs["max_new_tokens"] == 8:
            output.sequences[0, -3] += 1
        return output

    monkeypatch.setattr(vispec, "generate", wrong)
    assert main(["demo", "--pair", str(tiny_pair), "--max-new-tokens", "8"]) == 1
    out = capsys.readouterr().out
    assert "THE ANSWERS DIFFER from token 5 on" in out
    assert "identical" not in out


def test_one_token(tiny_pair: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Prefill's own token is all: no cycle, and no rate of decoding alone."""
    assert main(["demo", "--pair", str(tiny_pair), "--max-new-tokens", "1"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^  tokens/s, decode alone +- +- +-$", out, re.MULTILINE)
    assert "mean of 0 cycles" in out


def test_tree(tiny_pair: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--pair", str(tiny_pair), "--max-new-tokens", "8", "--tree", "9,2,16"]) == 0
    out = capsys.readouterr().out
    assert "Tree: depth 9, 2 children a node, 16 nodes\n" in out
    assert re.search(r"at most 10\n  [0-9a]+\n  one sign a cycle:   0 to 10; letters go on from 9\n", out)


def test_tree_of_auto(tiny_pair: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--pair", str(tiny_pair), "--max-new-tokens", "24", "--tree", "auto"]) == 0
    out = capsys.readouterr().out
    assert "Tree: chosen cycle by cycle\n" in out
    assert re.search(r"cycles, at most 8\n  [0-8▁-█]+\n", out)
    assert re.search(r"^Drafted: (\d+ x (nothing|depth \d, \d+ children a node, \d+ nodes)(; |$))+", out, re.MULTILINE)


@pytest.mark.parametrize("case", ["missing", "folder", "text", "cut"])
def test_bad_image(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "image.png"
    if case == "folder":
        path.mkdir()
    elif case == "text":
        path.write_text("no image")
    elif case == "cut":
        path.write_bytes(picture_file("sign").read_bytes()[:1000])
    with pytest.raises(SystemExit) as stop:
        main(["demo", "--image", str(path)])
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert f"error: --image: cannot read {path}: " in captured.err
    assert ("(shipped pictures: scene, emoji," in captured.err) is (case == "missing")
    assert captured.out == ""


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--question", "<image>?", "--question: expected words alone, got a question with <image> in it"),
        ("--question", " ", "--question: expected some words"),
        ("--tree", "1,2,99", "--tree: num_nodes is 99 with the root"),
        ("--pair", "nowhere", "expected one with target/ and draft/, got nowhere without target/"),
        ("--report", "report.pdf", "--report: expected a file named *.html or *.png, got report.pdf"),
        ("--report", "nowhere/report.html", "No such file or directory: 'nowhere/report.html'"),
    ],
)
def test_bad_options(option: str, value: str, words: str, tiny_pair: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["demo", "--pair", str(tiny_pair), option, value])
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.out == ""


def test_interrupted(tiny_pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code as shells expect it; threads and log level are for the demo alone."""
    threads, verbosity = torch.get_num_threads(), transformers.logging.get_verbosity()
    inside = []

    def interrupt(*args: Any, **kwargs: Any) -> None:
        inside.append((torch.get_num_threads(), transformers.logging.get_verbosity()))
        raise KeyboardInterrupt

    monkeypatch.setattr(vispec, "generate", interrupt)
    assert main(["demo", "--pair", str(tiny_pair), "--threads", str(threads + 1)]) == 130
    assert inside == [(threads + 1, transformers.logging.ERROR)]
    assert (torch.get_num_threads(), transformers.logging.get_verbosity()) == (threads, verbosity)
    assert transformers.logging.is_progress_bar_enabled()


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_held_out(name: str) -> None:
    sample = make_sample(0, "test", PICTURES[name].number)
    assert sample.kind.startswith(name)
    assert split_of(sample.facts.picture) == "test"
    with Image.open(picture_file(name)) as image:
        assert image.size == sample.image.size
        assert image.mode == "RGB"
