"""Writes the pair's model card: `python -m vispec.pair.model_card FOLDER` (the folder of `target/` and `draft/`).

What is measured is measured here; what was trained is read from the code and from the training's log.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, ProcessorMixin

from vispec.pair.dataset import SHARES, Sample, make_sample
from vispec.pair.evaluate import KINDS, SCENES, answer, measure
from vispec.pair.pretrained import load_pair
from vispec.pair.scoring import score
from vispec.pair.train_target import STAGES

EXAMPLES = 10
EXAMPLE_SEED = 99
SAMPLES = 200
CARD = """\
---
license: apache-2.0
---
# The pair that comes with vispec

A small vision-language model and its ViSpec draft, both trained from scratch on made-up pictures: `vispec demo`, the
tests and the benchmarks run on trained weights without a download. It knows six kinds of 96x96 pictures (shapes,
pictograms, signs, receipts, charts, tables) and nothing else: photos are beyond it.

## Target

`LlavaForConditionalGeneration`, {parameters:.1f}M weights in bf16: a CLIP-style tower (6 layers of 192, 144 image
tokens a picture) and a Llama-style text model ({layers} layers of 192, 3 heads of 64 with one key-value head,
byte-level BPE of {vocabulary} tokens).

Data: `vispec.pair.make_sample(seed, split, index)`, pictures and dialogues from a seeded grammar. A picture's facts
decide its split, so held-out pictures were never trained on. {ngrams} Pictograms: Noto Emoji (SIL Open Font License
1.1).

Recipe: `python -m vispec.pair.train_target FOLDER --compile`, seed 1, bf16 matrix products, {hours:.1f} hours on
{machine}:

{stages}

{remarks}

### How much of what it says is true

Claims in its greedy answers on {samples} held-out pictures, beside the same questions put with another picture
(`python -m vispec.pair.evaluate`): right / with another picture (number of claims). "asked" is a question's point (yes
or no, how many, which).

{accuracy}

### Ten held-out pictures

The first ten test samples of seed {example_seed}, not chosen. In brackets: true claims of all claims.

{examples}
## Draft

{draft}

## Licence

Apache-2.0, as vispec; the pictograms are Noto Emoji's (SIL Open Font License 1.1). No other data was used.
"""


def stage_lines(log: Sequence[Mapping[str, Any]]) -> str:
    """One line a stage, with what its last pools logged."""
    lines = []
    for stage in STAGES:
        entries = [entry for entry in log if entry["stage"] == stage.name]
        loss = sum(entry["loss"] for entry in entries[-10:]) / max(1, len(entries[-10:]))
        pictures = stage.num_pools * stage.pool_size
        lines.append(
            f"- **{stage.name}**: {pictures:,} pictures"
            + (f" with {stage.num_turns} questions each" if stage.name != "align" else "")
            + f", {stage.num_layers} layers, learning rate {stage.learning_rate:g}, "
            + ("AdamW and Muon" if stage.muon else "AdamW")
            + f"; loss at the end {loss:.3f}"
        )
    return "\n".join(lines)


def accuracy_table(parts: Mapping[str, Mapping[str, Any]]) -> str:
    """Accuracy by kind of claim."""
    rows = ["| claims about | " + " | ".join(parts) + " |", "| --- |" + " --- |" * len(parts)]
    for kind in ("all", *KINDS):
        found = [part.get(kind) for part in parts.values()]
        cells = [f"{c['right']:.1%} / {c['wrong_picture']:.1%} ({c['claims']})" if c else "" for c in found]
        rows.append(f"| {kind} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def examples(model: PreTrainedModel, processor: ProcessorMixin, folder: Path) -> str:
    """Write the pictures beside the card; the lines about them."""
    folder.mkdir(exist_ok=True)
    samples: list[Sample] = [make_sample(EXAMPLE_SEED, "test", index) for index in range(EXAMPLES)]
    lines = []
    for index, (sample, text) in enumerate(zip(samples, answer(model, processor, samples), strict=True)):
        sample.image.save(folder / f"{index}.png")
        found = score(text, sample.facts)
        claims = f"{sum(found.right.values())} of {sum(found.named.values())}"
        said = text.replace("\n", "<br>")
        lines.append(f"![{sample.kind}](examples/{index}.png) **{sample.question}** {said} [{claims}]\n")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--log", type=Path, required=True, help="log.jsonl of the target's training")
    parser.add_argument("--notes", type=Path, required=True, help="JSON of texts: machine, ngrams, remarks, draft")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pair = load_pair(options.folder)
    log = [json.loads(line) for line in options.log.read_text().splitlines()]
    notes = json.loads(options.notes.read_text())
    parts = {
        "scenes": measure(pair.model, pair.processor, "test", SAMPLES, SCENES),
        "everything": measure(pair.model, pair.processor, "test", SAMPLES, SHARES),
    }
    text = pair.model.config.text_config
    card = CARD.format(
        parameters=sum(p.numel() for p in pair.model.parameters()) / 1e6,
        layers=text.num_hidden_layers,
        vocabulary=text.vocab_size,
        hours=log[-1]["seconds"] / 3600,
        stages=stage_lines(log),
        samples=SAMPLES,
        accuracy=accuracy_table(parts),
        example_seed=EXAMPLE_SEED,
        examples=examples(pair.model, pair.processor, options.folder / "examples"),
        **notes,
    )
    (options.folder / "README.md").write_text(card)


if __name__ == "__main__":
    main()
