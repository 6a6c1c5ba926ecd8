"""The command `vispec`."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from vispec.bench.options import add_arguments as add_bench_arguments
from vispec.commands.options import add_arguments as add_answer_arguments
from vispec.commands.values import positive, tree
from vispec.info import package_version
from vispec.pictures import PICTURES
from vispec.training.options import add_arguments as add_training_arguments

# of commands whose module is not called as they are
MODULES = {
    "generate": "vispec.commands.generate",
    "chat": "vispec.commands.chat",
    "bench": "vispec.bench.command",
}
EXTRAS = {  # packages of an extra
    "bench": ("PIL", "jinja2", "matplotlib", "rich"),
    "demo": ("PIL", "jinja2", "rich"),
    "train": ("PIL", "accelerate", "jinja2"),
}
EXTRA_OF = {"generate": "demo", "chat": "demo"}  # of commands that have none of their own


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code: 0, 1 (it failed), 2 (wrong arguments), 130 (interrupted)."""
    parser = _parser()
    options = vars(parser.parse_args(arguments))
    command = options.pop("command")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a character that the locale lacks is a "?", not the end
    try:
        # only now, and only this one: `vispec info` must run where the operators do not load
        module = importlib.import_module(MODULES.get(command, f"vispec.{command}"))
    except (ImportError, OSError) as error:
        print(f"vispec {command}: {error}", file=sys.stderr)
        extra = EXTRA_OF.get(command, command)
        if str(getattr(error, "name", None)).partition(".")[0] in EXTRAS.get(extra, ()):
            print(f'`pip install ".[{extra}]"` brings it', file=sys.stderr)
        return 1
    try:
        code: int = module.run(**options)
        sys.stdout.flush()
    except argparse.ArgumentError as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `vispec info | head -1`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vispec", description="Speculative decoding for vision-language models, by the ViSpec method."
    )
    parser.add_argument("--version", action="version", version=f"vispec {package_version('vispec')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_demo(commands.add_parser("demo", help="answer a question about an image with and without speculation"))
    generate = commands.add_parser("generate", help="answer one question, about images or none")
    generate.add_argument("prompt", metavar="PROMPT", help="the question; -: read it from standard input")
    add_answer_arguments(generate, max_new_tokens=512)
    chat = commands.add_parser("chat", help="talk, about images or nothing in particular")
    add_answer_arguments(chat, max_new_tokens=1024)
    add_training_arguments(commands.add_parser("train", help="train a draft for a target of yours, on its own answers"))
    add_bench_arguments(commands.add_parser("bench", help="a target with and without its draft, beside its peers"))
    _add_shortlist(commands.add_parser("shortlist", help="let a draft guess none but the most frequent tokens"))
    commands.add_parser("info", help="versions, back ends, and what is missing and why")
    return parser


def _add_demo(demo: argparse.ArgumentParser) -> None:
    names = ", ".join(PICTURES)
    demo.add_argument(
        "--image", default=next(iter(PICTURES)), metavar="NAME|PATH", help=f"{names} (default: scene), or your own"
    )
    demo.add_argument("--question", help="default: one that suits the picture")
    demo.add_argument("--max-new-tokens", type=positive, default=256, metavar="N", help="default: 256")
    demo.add_argument(
        "--threads", type=positive, default=1, metavar="N", help="default: 1, the fastest for a model this small"
    )
    demo.add_argument(
        "--tree",
        type=tree,
        default=(5, 4, 16),
        metavar="D,K,N|auto",
        help="depth, children a node, and nodes of what is drafted, or auto: chosen cycle by cycle; default: 5,4,16",
    )
    demo.add_argument(
        "--pair",
        type=Path,
        dest="pair_folder",
        metavar="FOLDER",
        help="holds target/ and draft/; default: the pair in the package",
    )
    demo.add_argument(
        "--report", type=Path, dest="report_file", metavar="FILE", help="write what is shown there: .html or .png"
    )


def _add_shortlist(shortlist: argparse.ArgumentParser) -> None:
    add = shortlist.add_argument
    add("draft", metavar="DRAFT", help="a folder or a name on the Hub; it is left as it is")
    add("--model", required=True, metavar="NAME", help="the target, for its tokenizer: a folder or a name on the Hub")
    add(
        "--texts",
        required=True,
        type=Path,
        metavar="PATH",
        help="a folder of answers that `vispec train` wrote, or a text file with a text a line",
    )
    add("--size", required=True, type=positive, metavar="N", help="tokens to keep, the most frequent ones")
    add("--output", required=True, type=Path, metavar="DIR", help="for the draft with its shortlist")
