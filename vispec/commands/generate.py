"""`vispec generate`: one question, about images or none. The answer goes to stdout, how fast it was to stderr."""

from __future__ import annotations

import sys
from typing import Any

from vispec.commands.answering import answering, find_pictures
from vispec.commands.options import AnswerOptions
from vispec.commands.values import blaming
from vispec.terminal import printable


def run(prompt: str, **options: Any) -> int:
    """Answer.

    Returns:
        The exit code, 0.

    Raises:
        argparse.ArgumentError: an option's value cannot be used; it is named.
    """
    asked = AnswerOptions(**options)
    images = find_pictures(asked.image)
    with blaming("PROMPT"):
        question = sys.stdin.read() if prompt == "-" else prompt
    is_shown = sys.stdout.isatty()

    def write(text: str) -> None:
        print(printable(text) if is_shown else text, end="", flush=True)

    with answering(asked) as speaker:
        with blaming("PROMPT"):
            spoken = speaker.answer(question, images, write)
        print(flush=True)
        print(f"{speaker.about}: {spoken}", file=sys.stderr)
    return 0
