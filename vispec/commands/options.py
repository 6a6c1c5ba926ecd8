"""The command line of `vispec generate` and `vispec chat`. Loads nothing: `vispec info` must always run."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Literal

from vispec.commands.values import positive, seed, share, temperature, tree


@dataclass(frozen=True)
class AnswerOptions:
    """What both commands take: which models, where they run, and how they answer. None: see the command line."""

    model: str | None
    draft: str | None
    plain: bool
    system: str | None
    image: list[str]
    max_new_tokens: int
    temperature: float | None
    top_p: float | None
    top_k: int | None
    seed: int | None
    tree: tuple[int, int, int] | Literal["auto"]
    dtype: Literal["auto", "float32", "bfloat16", "float16"] | None
    device: str | None
    threads: int | None


def add_arguments(parser: argparse.ArgumentParser, max_new_tokens: int) -> None:
    """Their names are those of `AnswerOptions`."""
    group = parser.add_argument_group("models").add_argument
    group("--model", metavar="NAME", help="the target: a folder or a name on the Hub; default: the pair in the package")
    group("--draft", metavar="DRAFT", help="its draft: a folder or a name on the Hub")
    group("--plain", action="store_true", help="answer without a draft, to compare: the text is the same")
    group(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        help="default: auto, as stored; pair: float32",
    )
    group("--device", metavar="NAME", help="default: a GPU where one can be used, else cpu")
    group("--threads", type=positive, metavar="N", help="of the CPU; default: torch's, and 1 for the small pair")
    group = parser.add_argument_group("question").add_argument
    group(
        "--image",
        action="append",
        default=[],
        metavar="PATH",
        help="a picture before the words, or the name of one in the package (scene, receipt, ...); may come again",
    )
    group("--system", metavar="TEXT", help="a system prompt")
    group = parser.add_argument_group("answer").add_argument
    group("--max-new-tokens", type=positive, default=max_new_tokens, metavar="N", help="default: %(default)s")
    group("--temperature", type=temperature, metavar="T", help="0: greedy; default: what the model's files say")
    group("--top-p", type=share, metavar="P", help="draw from the likeliest tokens with this probability together")
    group("--top-k", type=positive, metavar="N", help="draw from so many of the likeliest tokens")
    group("--seed", type=seed, metavar="N", help="what is drawn; default: another text each time")
    group(
        "--tree",
        type=tree,
        default="auto",
        metavar="D,K,N|auto",
        help="depth, children a node, and nodes of what is drafted; default: auto, chosen cycle by cycle",
    )
