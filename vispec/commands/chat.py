"""`vispec chat`: questions and answers in turn, on a terminal or from a file."""

from __future__ import annotations

import io
import signal
import sys
from types import FrameType, TracebackType
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria

from vispec.commands.answering import Speaker, answering, find_picture, find_pictures
from vispec.commands.dialogue import NO_IMAGES
from vispec.commands.options import AnswerOptions
from vispec.terminal import printable

PROMPT = "> "
HELP = """\
/image PATH  show the model a picture, with your next message
/reset       begin anew
/help        this
Ctrl-C       stop an answer; Ctrl-D: end the chat"""


def run(**options: Any) -> int:
    """Talk until the input ends.

    Returns:
        The exit code, 0.

    Raises:
        argparse.ArgumentError: an option's value cannot be used; it is named.
    """
    asked = AnswerOptions(**options)
    images = find_pictures(asked.image)
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # a broken character is a "?", not the end
    _edit_lines()
    with answering(asked) as speaker:
        print(f"{speaker.about}. /help lists what you can do.", flush=True)
        Chat(speaker, images).run()
    return 0


def _edit_lines() -> None:
    """Where Python has readline, `input` lets lines be edited and earlier ones be called back."""
    try:
        import readline  # noqa: F401
    except ImportError:
        return


class Chat:
    """Reads lines, obeys those that start with a slash, and has the others answered.

    Args:
        images: Paths of those that go with the first message.
    """

    def __init__(self, speaker: Speaker, images: list[str]) -> None:
        self.speaker, self.images = speaker, images
        self.commands = {"/image": self.show, "/reset": self.reset, "/help": lambda _: print(HELP)}

    def run(self) -> None:
        """Until the input ends."""
        while True:
            try:
                line = input(PROMPT).strip()
            except EOFError:
                print()
                return
            except KeyboardInterrupt:
                print("\n(Ctrl-D ends the chat)")
                continue
            if line:
                self.obey(line)

    def obey(self, line: str) -> None:
        """One line; what is wrong with it is said."""
        name, _, argument = line.partition(" ")
        try:
            if not line.startswith("/"):
                self.talk(line)
            elif name in self.commands:
                self.commands[name](argument.strip())
            else:
                raise ValueError(f"there is no {name}; /help lists what there is")
        except (OSError, ValueError, NotImplementedError) as error:
            print(f"({printable(str(error))})")
        sys.stdout.flush()

    def show(self, name: str) -> None:
        """`/image`."""
        if not name:
            raise ValueError("/image: expected the path of a picture")
        if not self.speaker.dialogue.reads_images:
            raise ValueError(NO_IMAGES)
        self.images.append(find_picture(name))
        print(f"({printable(name)} goes with your next message)")

    def reset(self, _: str) -> None:
        """`/reset`."""
        self.speaker.dialogue.reset()
        self.images.clear()
        print("(nothing was said)")

    def talk(self, question: str) -> None:
        """Answer; if the answer is broken off before its first word, nothing was asked."""
        with Interrupt() as interrupt:
            try:
                spoken = self.speaker.answer(question, self.images, _write, interrupt)
            except KeyboardInterrupt:
                print("\n(broken off; nothing was asked)")
                return
        self.images.clear()
        print(f"\n({'stopped; ' if interrupt.came else ''}{spoken})")


class Interrupt(StoppingCriteria):
    """Inside, the first Ctrl-C ends an answer at its next token; the second one raises, as it does outside."""

    def __init__(self) -> None:
        self.came = False

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Asked after every token."""
        return torch.full((input_ids.shape[0],), self.came, device=input_ids.device)

    def __enter__(self) -> Interrupt:
        self.before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGINT, self.before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.came:
            raise KeyboardInterrupt
        self.came = True


def _write(text: str) -> None:
    print(printable(text), end="", flush=True)
