"""The command line of `vispec train`."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command; their names are those of `TrainOptions`."""
    add = parser.add_argument
    add("--model", required=True, metavar="NAME", help="the target: a folder or a name on the Hub")
    add(
        "--data",
        required=True,
        metavar="FILE",
        help="images and prompts: JSONL, LLaVA JSON, ShareGPT JSON, or datasets",
    )
    add("--output", required=True, type=Path, metavar="DIR", help="everything goes here; a run in it goes on")
    add("--image-folder", type=Path, metavar="DIR", help="that image paths are relative to (default: the data's)")
    add("--text-data", metavar="FILE", help="dialogues with answers for a stage before, on text alone")
    add("--init", metavar="DRAFT", help="start from this draft instead of new weights")
    add("--limit", type=int, metavar="N", help="use the first N requests")
    group = parser.add_argument_group("answers").add_argument
    group(
        "--answers", choices=("write", "given"), default="write", help="the target writes them (default), or the data's"
    )
    group("--instruction", metavar="TEXT", help="added to each prompt; default: a request for a long answer")
    group("--max-new-tokens", type=int, default=1024, metavar="N", help="of an answer (default %(default)s)")
    group("--generate-batch-size", type=int, default=8, metavar="N", help="(default %(default)s)")
    group("--num-shards", type=int, default=8, metavar="N", help="files, spread over processes (default %(default)s)")
    group = parser.add_argument_group("draft").add_argument
    group("--num-queries", type=int, default=2, metavar="N", help="of the vision adaptor; 0: read every image token")
    group("--no-global-feature", dest="global_feature", action="store_false", help="all queries become image slots")
    group(
        "--draft-vocab-size",
        type=int,
        metavar="N",
        help="draft the N tokens that are most frequent in the answers, and no others (default: all)",
    )
    group("--multi-token-steps", type=int, default=1, metavar="N", help="passes on own outputs (default %(default)s)")
    group("--no-noise", dest="noise", action="store_false", help="train on the features as they are")
    group = parser.add_argument_group("training").add_argument
    group("--epochs", type=float, default=20.0, metavar="N", help="(default %(default)s)")
    group("--text-epochs", type=float, default=20.0, metavar="N", help="of the stage before (default %(default)s)")
    group(
        "--batch-size", type=int, default=8, metavar="N", help="samples a step, of all processes (default %(default)s)"
    )
    group("--micro-batch-size", type=int, default=8, metavar="N", help="samples a forward (default %(default)s)")
    group("--learning-rate", type=float, default=1e-4, metavar="X", help="(default %(default)s)")
    group("--warm-up", type=float, default=0.05, metavar="X", help="share of the steps (default %(default)s)")
    group("--clip-value", type=float, default=0.5, metavar="X", help="bound on each gradient (default %(default)s)")
    group("--max-length", type=int, default=4096, metavar="N", help="positions of a sample (default %(default)s)")
    group("--seed", type=int, default=0, metavar="N")
    group = parser.add_argument_group("machine").add_argument
    group("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto", help="of the target")
    group("--mixed-precision", choices=("no", "bf16"), default="no", help="of the draft; its weights stay fp32")
    group("--device", choices=("cpu",), help="use the CPU although there is a GPU")
    group("--shard-target", action="store_true", help="spread the target's layers over the processes (FSDP)")
    group("--feature-cache", type=float, default=0.0, metavar="GIB", help="keep the target's features on disk, so much")
    group = parser.add_argument_group("evaluation").add_argument
    group("--eval-share", type=float, default=0.05, metavar="X", help="of the samples, held out (default %(default)s)")
    group("--eval-samples", type=int, default=16, metavar="N", help="of these are measured (default %(default)s)")
    group("--eval-every", type=int, default=500, metavar="N", help="steps (default %(default)s)")
    group("--save-every", type=int, default=200, metavar="N", help="steps (default %(default)s)")
