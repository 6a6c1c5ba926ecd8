"""`vispec chat` on a small pair: turns, commands, and what a terminal's keys do."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from killing import PATIENCE
from tiny_pair import save_tiny_pair
from vispec.commands.chat import Interrupt
from vispec.commands.dialogue import Dialogue
from vispec.pair.pretrained import load_pair
from vispec.pictures import picture_file

SPOKEN = r"\((stopped; )?(\d+) tokens? in .* tokens/s, .* s and (\d+) read; tau .* cycles\)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_pair(tmp_path_factory.mktemp("pair"))


def command(folder: Path, *options: str) -> list[str]:
    models = ["--model", str(folder / "target"), "--draft", str(folder / "draft"), "--device", "cpu", "--threads", "1"]
    return [sys.executable, "-m", "vispec", "chat", *models, *options]


def test_turns_from_a_file(folder: Path, tmp_path: Path) -> None:
    """Each answer is what the target writes after the whole dialogue, and nothing is read twice."""
    lines = ["/image", "What?", "/image scene", "Where?", "/nothing", "<image>?", "/help", "/reset", "What?", "", "End"]
    run = subprocess.run(
        command(folder, "--max-new-tokens", "10", "--image", "sign"),
        input="\n".join(lines).encode() + b"\xff?\n",
        cwd=tmp_path,
        capture_output=True,
        check=False,
        timeout=PATIENCE,
    )
    assert (run.returncode, run.stderr) == (0, b"")
    about, *said = re.split(r"(?<!\w)> ", run.stdout.decode())
    assert about == "llava with a draft, float32 on cpu. /help lists what you can do.\n"
    assert said.pop() == "\n"
    assert said[0] == "(/image: expected the path of a picture)\n"
    assert said[2] == "(scene goes with your next message)\n"
    assert said[4] == "(there is no /nothing; /help lists what there is)\n"
    assert said[5] == "(1 times <image> in the text of 0 images)\n"
    assert said[6].startswith("/image PATH")
    assert said[7] == "(nothing was said)\n"
    assert said[9] == ""  # an empty line

    pair = load_pair(folder)
    dialogue = Dialogue(pair.processor)
    turns = [("What?", ["sign"], 1), ("Where?", ["scene"], 3), ("What?", [], 8), ("End\ufffd?", [], 10)]
    held = 0
    for question, images, place in turns:
        if place == 8:
            dialogue.reset()
            held = 0
        inputs = dialogue.ask(question, [str(picture_file(name)) for name in images])
        ids = pair.model.generate(**inputs, max_new_tokens=10)[0, inputs["input_ids"].shape[1] :].tolist()
        answer, speed = said[place].removesuffix("\n").rsplit("\n", 1)
        assert answer == dialogue.hear(ids)
        assert re.fullmatch(SPOKEN, speed).groups() == (None, "10", str(inputs["input_ids"].shape[1] - held))
        held = inputs["input_ids"].shape[1] + len(ids) - 1


class Terminal:
    """The command on a terminal of its own."""

    def __init__(self, arguments: list[str], folder: Path) -> None:
        self.shown = ""
        self.pid, self.controller = pty.fork()
        if self.pid == 0:  # the child: nothing but the command
            os.chdir(folder)  # away from a checkout, which would be imported
            os.environ["TERM"] = "dumb"
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # which a run in the background ignores, and hands on
            os.execv(sys.executable, arguments)

    def type(self, keys: str) -> None:
        os.write(self.controller, keys.encode())

    def press(self, key: str, pattern: str) -> None:
        """Until it shows that. Python's own line editing forgets a Ctrl-C that comes while it works on another key."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            self.type(key)
            if self.shows(pattern, patience=5):
                break
        self.wait_for(pattern)

    def wait_for(self, pattern: str) -> str:
        """What it shows so, behind what was waited for before."""
        found = self.shows(pattern, PATIENCE)
        assert found, f"no {pattern} in {self.shown!r}"
        self.shown = self.shown[found.end() :]
        return found.group()

    def shows(self, pattern: str, patience: float) -> re.Match[str] | None:
        end = time.monotonic() + patience
        while not (found := re.search(pattern, self.shown)):
            ready, _, _ = select.select([self.controller], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                break
            self.shown += os.read(self.controller, 1 << 16).decode(errors="replace")
        return found

    def code(self) -> int:
        """Of its end; what it still shows is read."""
        while True:
            assert select.select([self.controller], [], [], PATIENCE)[0], "it does not end"
            try:
                if not os.read(self.controller, 1 << 16):
                    break
            except OSError:  # how Linux says that the other side is closed
                break
        os.close(self.controller)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_keys(folder: Path, tmp_path: Path) -> None:
    """Ctrl-C stops an answer or drops a line, Ctrl-D ends."""
    terminal = Terminal(command(folder, "--max-new-tokens", "4000"), tmp_path)
    terminal.wait_for(r"you can do\.\s+> ")
    terminal.type("What")
    terminal.wait_for("What")
    terminal.press("\x03", r"\(Ctrl-D ends the chat\)\s+> ")
    terminal.type("Where?\n")
    terminal.wait_for(r"Where\?\s+(\w+\s+){5}")
    terminal.type("\x03")
    stopped = re.fullmatch(SPOKEN, terminal.wait_for(SPOKEN)).groups()
    assert stopped[0] == "stopped; "
    assert 5 <= int(stopped[1]) < 4000
    terminal.wait_for("> ")
    terminal.type("When?\n")
    terminal.wait_for(r"When\?\s+(\w+\s+){5}")  # the chat goes on
    terminal.type("\x03")
    terminal.wait_for(SPOKEN)
    terminal.wait_for("> ")
    terminal.type("\x04")
    assert terminal.code() == 0


def test_the_second_interrupt_raises() -> None:
    """So that what never reaches its next token can be ended, too."""
    before = signal.getsignal(signal.SIGINT)
    ids = torch.zeros(2, 3, dtype=torch.int64)
    with Interrupt() as interrupt:
        assert interrupt(ids, None).tolist() == [False, False]
        signal.raise_signal(signal.SIGINT)
        assert interrupt(ids, None).tolist() == [True, True]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
