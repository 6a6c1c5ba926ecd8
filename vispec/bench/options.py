"""The command line of `vispec bench`. Loads nothing: `vispec info` must always run."""

from __future__ import annotations

import argparse
from pathlib import Path

from vispec.commands.values import positive, temperature, tree


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    group = parser.add_argument_group("what is measured (default: the pair in the package)").add_argument
    group("--pair", type=Path, metavar="FOLDER", help="holds target/ and draft/")
    group("--model", metavar="NAME", help="the target: a folder or a name on the Hub; with --draft")
    group("--draft", metavar="DRAFT", help="a folder or a name on the Hub")
    group("--random-draft", action="store_true", help="a draft of random weights, too: what a useless one costs")
    group("--assistant", metavar="NAME", help="a small model with the target's tokenizer: assisted decoding, too")
    group("--geometry", metavar="NAME", help="random weights of a real model's size, acceptance SIMULATED")
    group(
        "--accepted", type=temperature, nargs="+", default=[2.24, 2.98], metavar="X",
        help="draft tokens a cycle that --geometry makes up (default: two of the paper's, 2.24 2.98)",
    )  # fmt: skip
    group(
        "--contexts", type=positive, nargs="+", default=[2048], metavar="N",
        help="tokens of the prompts of --geometry (default 2048)",
    )  # fmt: skip
    group = parser.add_argument_group("prompts (default: held-out pictures of the pair's generator)").add_argument
    group("--suite", metavar="NAME", help="paper, mmspec, ...; a wrong name lists them")
    group("--data", type=Path, metavar="DIR", help="the suite's data; default: as the suite has it")
    group("--limit", type=positive, metavar="N", help="prompts (default: the suite's; 52 pictures)")
    group("--max-new-tokens", type=positive, metavar="N", help="of an answer (default: the suite's; 256)")
    group = parser.add_argument_group("how").add_argument
    group(
        "--trees", type=tree, nargs="+", metavar="D,K,N|auto",
        help="what vispec drafts (default: 3,8,30 5,4,16 auto; --geometry: 3,8,30)",
    )  # fmt: skip
    group("--temperatures", type=temperature, nargs="+", default=[0.0], metavar="T", help="0: greedy (default)")
    group("--repeats", type=positive, default=3, metavar="N", help="of every question (default 3)")
    group("--no-compile", dest="compiles", action="store_false", help="leave out compiled decoding")
    group("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    group("--dtype", choices=("float32", "bfloat16", "float16"), help="default: float32 on a CPU, else bfloat16")
    group("--threads", type=positive, metavar="N", help="of the CPU; default: torch's, and 1 for the small pair")
    group = parser.add_argument_group("what comes out").add_argument
    group(
        "--output", type=Path, default=Path("vispec-bench"), metavar="DIR",
        help="measured.jsonl, which the same command goes on from, summary.json and pictures (default vispec-bench)",
    )  # fmt: skip
    group("--no-plots", dest="plots", action="store_false", help="no pictures, and no need for matplotlib")
    group("--explain", action="store_true", help="what the cost model predicts of this device, and what came out")
