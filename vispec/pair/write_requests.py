"""Writes pictures and questions as a user's own data would lie: `python -m vispec.pair.write_requests FOLDER`.

FOLDER/images/*.png and FOLDER/requests.jsonl, lines of {"id", "image", "conversations"}, as LLaVA writes them: one
question about a picture with the generator's own answer, or with `--turns` several. Training has the target answer the
last question, unless told not to (`--answers given`). FOLDER/dialogues.json: the same without pictures, as ShareGPT
writes dialogues, for `--text-data`.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Mapping
from pathlib import Path

from vispec.commands.values import positive
from vispec.pair.asking import Turn
from vispec.pair.dataset import FAMILIES, SHARES, SPLITS, draw, make_turns
from vispec.pair.scoring import Picture

LONG = {key: share for key, share in SHARES.items() if key.endswith("/describe")}
SHORT = {key: share for key, share in SHARES.items() if not key.endswith("/describe")}
KINDS = {"all": SHARES, "long": LONG, "short": SHORT}


def write_requests(
    folder: Path, count: int, split: str, seed: int, shares: Mapping[str, float], most_turns: int = 1
) -> None:
    """Write samples 0, 1, ... of a seed, with 1 to `most_turns` different questions each, their kinds by `shares`."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    dialogues = []
    with (folder / "requests.jsonl").open("w") as file:
        for index in range(count):
            picture, turns, drawing = make_turns(seed, split, index, shares=shares)
            name = f"images/{split}-{seed}-{index:06d}.png"
            draw(picture, drawing).save(folder / name)
            turns += _more_turns(picture, turns[0], random.Random(index), shares, most_turns - 1)
            texts = [text for turn in turns for text in (("human", turn.question), ("gpt", turn.answer))]
            conversation = [{"from": role, "value": text} for role, text in texts]
            line = {"id": f"{split}-{seed}-{index}", "conversations": conversation}
            file.write(json.dumps({**line, "image": name}) + "\n")
            dialogues.append(line)
    (folder / "dialogues.json").write_text(json.dumps(dialogues) + "\n")


def _more_turns(
    picture: Picture, first: Turn, rng: random.Random, shares: Mapping[str, float], most: int
) -> tuple[Turn, ...]:
    """0 to `most` further questions about a picture; one that it does not give, or that came, is left out."""
    family = first.kind.split("/")[0]
    kinds = {key.split("/")[1]: share for key, share in shares.items() if key.startswith(f"{family}/")}
    turns = {first.question: first}
    for kind in rng.choices(tuple(kinds), tuple(kinds.values()), k=rng.randint(0, most)):
        turn = FAMILIES[family].ask[kind](picture, rng)
        if turn is not None:
            turns.setdefault(turn.question, turn)
    return tuple(turns.values())[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--split", default="train", choices=tuple(SPLITS))
    parser.add_argument("--seed", type=int, default=7, help="another one than the target was trained with")
    parser.add_argument("--kinds", default="all", choices=tuple(KINDS), help="of questions (default %(default)s)")
    parser.add_argument(
        "--turns", type=positive, default=1, help="questions about a picture at most (default %(default)s)"
    )
    options = parser.parse_args()
    write_requests(options.folder, options.count, options.split, options.seed, KINDS[options.kinds], options.turns)


if __name__ == "__main__":
    main()
