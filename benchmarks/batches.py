"""The pair that ships, several pictures at once: tokens a second beside `model.generate` on the same batch.

    python benchmarks/batches.py [--sizes 1 4 8 16] --output FILE

Held-out scenes to describe, greedy, one thread. In each round all methods answer the batch in turn, beginning with the
next one; ratios are medians of rounds. Texts are compared token for token.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import vispec
from vispec.bench.summary import spread
from vispec.machine import facts_of_pair, facts_of_run
from vispec.pair.dataset import make_sample
from vispec.pair.pretrained import Pair, load_pair

SEED, NEW_TOKENS = 4321, 150
TREES = {"3,8,30": vispec.TreeConfig(3, 8, 30), "5,4,16": vispec.TreeConfig(5, 4, 16), "auto": "auto"}
PLAIN = "model.generate"


def make_batch(pair: Pair, size: int) -> dict[str, Tensor]:
    """The first held-out scenes, padded on the left."""
    samples = [make_sample(SEED, "test", index, {"scene/describe": 1.0}) for index in range(size)]
    chats = [
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": sample.question}]}]
        for sample in samples
    ]
    text = pair.processor.apply_chat_template(chats, add_generation_prompt=True)
    images = [sample.image for sample in samples]
    return dict(pair.processor(images=images, text=text, padding=True, return_tensors="pt", add_special_tokens=False))


def time_rounds(methods: dict[str, Callable[[], Any]], rounds: int) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Seconds of every round, and the last texts; one round more, at the start, is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    texts: dict[str, Any] = {}
    order = list(methods)
    for index in range(rounds + 1):
        for name in order[index % len(order) :] + order[: index % len(order)]:
            start = time.perf_counter()
            texts[name] = methods[name]()
            if index:
                seconds[name].append(time.perf_counter() - start)
    return seconds, texts


def measure(pair: Pair, size: int, rounds: int) -> dict[str, Any]:
    """One size of batch."""
    inputs = make_batch(pair, size)
    options = {"max_new_tokens": NEW_TOKENS, "do_sample": False}
    methods = {PLAIN: partial(pair.model.generate, **inputs, **options)}
    for name, tree in TREES.items():
        methods[name] = partial(vispec.generate, pair.model, pair.draft, inputs, tree=tree, **options)
    seconds, texts = time_rounds(methods, rounds)
    ratios = {
        name: [plain / own for plain, own in zip(seconds[PLAIN], times, strict=True)] for name, times in seconds.items()
    }
    return {
        "batch_size": size,
        "seconds": {name: statistics.median(times) for name, times in seconds.items()},
        "speed_up": {name: spread(ratios[name]) for name in TREES},
        "same_text": {name: torch.equal(texts[name], texts[PLAIN]) for name in TREES},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 4, 8, 16])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the fastest for a model this small
    pair = load_pair()
    rows = []
    for size in arguments.sizes:
        rows.append(measure(pair, size, arguments.rounds))
        print(json.dumps(rows[-1]), flush=True)
    facts = {**facts_of_pair(pair), **facts_of_run(pair.model, "auto")}
    command = f"python benchmarks/batches.py --rounds {arguments.rounds} --output FILE"
    result = {"command": command, **facts, "rows": rows}
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
