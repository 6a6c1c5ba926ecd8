"""Writes pictures and questions as a user's own data would lie: `python -m vispec.pair.write_requests FOLDER`.

FOLDER/images/*.png and FOLDER/requests.jsonl, lines of {"id", "image", "prompt", "answer"}; the answer is the
generator's own, which training uses only when told to (`--answers given`). FOLDER/dialogues.json: the same questions
and answers without pictures, as ShareGPT writes dialogues, for `--text-data`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

from vispec.pair.dataset import SHARES, SPLITS, make_sample

LONG = {key: share for key, share in SHARES.items() if key.endswith("/describe")}
SHORT = {key: share for key, share in SHARES.items() if not key.endswith("/describe")}
KINDS = {"all": SHARES, "long": LONG, "short": SHORT}


def write_requests(folder: Path, count: int, split: str, seed: int, shares: Mapping[str, float]) -> None:
    """Write samples 0, 1, ... of a seed."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    dialogues = []
    with (folder / "requests.jsonl").open("w") as file:
        for index in range(count):
            sample = make_sample(seed, split, index, shares)
            name = f"images/{split}-{seed}-{index:06d}.png"
            sample.image.save(folder / name)
            line = {"id": f"{split}-{seed}-{index}", "image": name, "prompt": sample.question, "answer": sample.answer}
            file.write(json.dumps(line) + "\n")
            turns = ({"from": "human", "value": sample.question}, {"from": "gpt", "value": sample.answer})
            dialogues.append({"id": line["id"], "conversations": turns})
    (folder / "dialogues.json").write_text(json.dumps(dialogues) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--split", default="train", choices=tuple(SPLITS))
    parser.add_argument("--seed", type=int, default=7, help="another one than the target was trained with")
    parser.add_argument("--kinds", default="all", choices=tuple(KINDS), help="of questions (default %(default)s)")
    options = parser.parse_args()
    write_requests(options.folder, options.count, options.split, options.seed, KINDS[options.kinds])


if __name__ == "__main__":
    main()
