"""How much of what the target says is true: `python -m vispec.pair.evaluate FOLDER [--split test] [--samples 200]`.

Each question is also put to the model beside another picture, and its answer measured against the right one: what
is left then the model knows without looking.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoProcessor, LlavaForConditionalGeneration, PreTrainedModel, ProcessorMixin

from vispec.pair.dataset import SHARES, Sample, make_sample
from vispec.pair.scoring import Score, score

SEED = 1234
BATCH = 25
KINDS = ("size", "colour", "shape", "position", "count", "text", "value", "asked")
SCENES = {key: share for key, share in SHARES.items() if key.startswith("scene/")}


def answer(model: PreTrainedModel, processor: ProcessorMixin, samples: Sequence[Sample], shift: int = 0) -> list[str]:
    """Greedy answers; `shift` pairs each question with the picture of the sample so many places on."""
    texts = []
    for start in range(0, len(samples), BATCH):
        numbers = range(start, min(start + BATCH, len(samples)))
        chats = [
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": samples[n].question}]}]
            for n in numbers
        ]
        prompts = processor.apply_chat_template(chats, add_generation_prompt=True)
        images = [samples[(n + shift) % len(samples)].image for n in numbers]
        inputs = processor(images=images, text=prompts, padding=True, return_tensors="pt", add_special_tokens=False)
        inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
        output = model.generate(**inputs, do_sample=False, max_new_tokens=300)
        texts += processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return texts


def total_score(answers: Sequence[str], samples: Sequence[Sample]) -> Score:
    """All claims of all answers."""
    total = Score()
    for text, sample in zip(answers, samples, strict=True):
        total.update(score(text, sample.facts))
    return total


def measure(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    split: str,
    count: int,
    shares: Mapping[str, float],
    seed: int = SEED,
) -> dict[str, Any]:
    """Accuracy by kind of claim, with the right and with a wrong picture, and how many claims of a kind there were."""
    samples = [make_sample(seed, split, index, shares) for index in range(count)]
    right = total_score(answer(model, processor, samples), samples)
    wrong = total_score(answer(model, processor, samples, shift=1), samples)
    result: dict[str, Any] = {"samples": count}
    for kind in (None, *(kind for kind in KINDS if right.named[kind])):
        accuracies = {"right": right.accuracy(kind), "wrong_picture": wrong.accuracy(kind)}
        claims = right.named[kind] if kind else sum(right.named[k] for k in KINDS if k != "asked")
        result[kind or "all"] = {**{k: round(v, 3) for k, v in accuracies.items()}, "claims": claims}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the model and its processor")
    parser.add_argument("--split", default="test", choices=("validation", "test"))
    parser.add_argument("--samples", type=int, default=200, help="of each part (default %(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = LlavaForConditionalGeneration.from_pretrained(options.folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(options.folder)
    for name, shares in (("scenes", SCENES), ("everything", SHARES)):
        result = measure(model, processor, options.split, options.samples, shares)
        print(json.dumps({name: result}), flush=True)


if __name__ == "__main__":
    main()
