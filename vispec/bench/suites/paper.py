"""The evaluation of the ViSpec paper (arXiv 2509.15235): its eight benchmarks, its prompts and its numbers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vispec.bench.prompts import Prompt
from vispec.bench.suites.benchmark import Benchmark, Pictures, Samples
from vispec.bench.suites.turns import in_turn

MAX_NEW_TOKENS = 512
SYSTEM = (  # Vicuna's, which all targets were given
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
EXPLAIN = "{question} Please answer with an explanation."
OTHER_ROWS = "the Hub's rows are in another order, so that the same seed draws others"

# The prompts are those of the published evaluation, as are splits and numbers of samples. Names and columns on the Hub
# were read off the datasets' cards (ScienceQA, MME, VizWiz, the folders of GQA) and lmms-eval's tasks (all but MM-Vet),
# whose authors moved them from lmms-lab to lmms-lab-encoder in 2026; MM-Vet's off the published evaluation, which loads
# it itself.
BENCHMARKS = (
    Benchmark(
        title="SQA",
        folder="scienceqa",
        dataset="lmms-lab-encoder/ScienceQA",
        config="ScienceQA-IMG",
        split="validation",
        prompt="Context: {hint}\nQuestion: {question}\nOptions: {choices}\n"
        'Your answer should begin with "The answer is". Please answer with an explanation. Answer:',
        differs=f"no solved examples before the question (the paper does not say how many); {OTHER_ROWS}",
    ),
    Benchmark("MM-Vet", "mm-vet", "whyu/mm-vet", "test", EXPLAIN, num_samples=None),
    Benchmark(
        title="TextVQA",
        folder="textvqa",
        dataset="lmms-lab-encoder/textvqa",
        split="validation",
        prompt="{question} Perform an OCR task on the provided image. Please extract the text accurately and provide a "
        "detailed explanation of the process. Ensure the response is comprehensive and well-structured.",
        differs=OTHER_ROWS,
    ),
    Benchmark(
        "MME", "mme", "lmms-lab-encoder/MME", "test", EXPLAIN, drop=" Please answer yes or no.", differs=OTHER_ROWS
    ),
    Benchmark(
        title="COCO Caps",
        folder="coco-caption",
        dataset="lmms-lab-encoder/COCO-Caption",
        split="val",
        prompt="Please provide a detailed description of the given image.",
        differs="all of COCO 2014's validation pictures: the paper's part of them comes in a form that `datasets` "
        "reads no more",
    ),
    Benchmark("VizWiz", "vizwiz-vqa", "lmms-lab-encoder/VizWiz-VQA", "test", EXPLAIN, differs=OTHER_ROWS),
    Benchmark(
        title="GQA",
        folder="gqa",
        dataset="lmms-lab-encoder/GQA",
        config="testdev_balanced_instructions",
        split="testdev",
        prompt=EXPLAIN,
        image="imageId",
        pictures=Pictures("testdev_balanced_images", key="id"),
        differs=OTHER_ROWS,
    ),
    Benchmark(
        title="SEED-Bench",
        folder="seed-bench",
        dataset="lmms-lab-encoder/SEED-Bench",
        split="test",
        prompt=EXPLAIN,
        where=("data_type", "image"),
        differs=OTHER_ROWS,
    ),
)

# ViSpec's tau and speed-up by target and temperature, in the order of BENCHMARKS: the table of the paper and of its
# repository's README.
PUBLISHED = {
    ("LLaVA-1.6 7B", 0.0): (
        (2.86, 2.37), (2.83, 2.52), (2.95, 2.90), (2.84, 2.55), (3.30, 3.22), (3.16, 2.67), (2.88, 2.22), (3.03, 2.22),
    ),
    ("LLaVA-1.6 13B", 0.0): (
        (2.76, 2.57), (2.73, 2.34), (2.78, 2.43), (2.78, 2.36), (3.18, 2.82), (2.93, 2.26), (2.95, 2.12), (3.04, 2.16),
    ),
    ("Qwen2.5-VL 3B", 0.0): (
        (1.99, 1.87), (2.13, 1.81), (2.15, 1.85), (1.96, 1.82), (2.37, 2.15), (2.22, 1.71), (2.28, 2.01), (2.37, 1.78),
    ),
    ("Qwen2.5-VL 7B", 0.0): (
        (2.19, 1.84), (2.16, 1.74), (2.21, 1.72), (2.15, 1.96), (2.27, 1.99), (2.31, 1.71), (2.30, 1.91), (2.34, 1.55),
    ),
    ("LLaVA-1.6 7B", 1.0): (
        (2.06, 2.20), (1.94, 1.99), (1.78, 1.93), (1.96, 1.98), (2.36, 3.05), (2.32, 2.21), (2.11, 1.83), (2.16, 1.94),
    ),
    ("LLaVA-1.6 13B", 1.0): (
        (2.02, 2.25), (1.98, 2.15), (1.90, 2.08), (2.07, 2.08), (2.43, 2.39), (2.04, 2.01), (2.19, 2.03), (2.22, 2.07),
    ),
    ("Qwen2.5-VL 3B", 1.0): (
        (1.49, 1.49), (1.23, 1.39), (1.32, 1.38), (1.45, 1.58), (1.42, 1.50), (1.39, 1.43), (1.49, 1.59), (1.55, 1.42),
    ),
    ("Qwen2.5-VL 7B", 1.0): (
        (1.82, 1.62), (1.57, 1.47), (1.51, 1.37), (1.61, 1.49), (1.63, 1.50), (1.88, 1.53), (1.61, 1.56), (1.70, 1.38),
    ),
}  # fmt: skip
TARGETS = {
    "llava-v1.6-vicuna-7b-hf": "LLaVA-1.6 7B",
    "llava-v1.6-vicuna-13b-hf": "LLaVA-1.6 13B",
    "Qwen2.5-VL-3B-Instruct": "Qwen2.5-VL 3B",
    "Qwen2.5-VL-7B-Instruct": "Qwen2.5-VL 7B",
}


def published(kind: str, temperature: float, target: str) -> tuple[float, float] | None:
    """The paper's tau and speed-up of a benchmark, by the target's name on the Hub or its folder; None: no number."""
    cells = PUBLISHED.get((TARGETS.get(Path(target).name, ""), temperature))
    titles = [benchmark.title for benchmark in BENCHMARKS]
    return cells[titles.index(kind)] if cells and kind in titles else None


class Paper:
    """The paper's eight benchmarks in turn, one question of each.

    Args:
        data: holds a folder for each benchmark that is to be measured; None: all of them, from the Hub.
        limit: prompts in all, at most; None: those of the paper, 100 of each and all 218 of MM-Vet.

    Raises:
        ValueError: `data` has none of the folders, or one of another schema.
        ImportError: `datasets` is needed and missing.
    """

    name = "paper"

    def __init__(self, data: Path | None, limit: int | None) -> None:
        there = [benchmark for benchmark in BENCHMARKS if data is None or (data / benchmark.folder).is_dir()]
        if not there:
            names = ", ".join(benchmark.folder for benchmark in BENCHMARKS)
            raise ValueError(f"data: expected a folder with one of {names} in it, got {data}")
        self.samples = [Samples(benchmark, data, MAX_NEW_TOKENS, SYSTEM) for benchmark in there]
        self.limit = sum(map(len, self.samples)) if limit is None else min(limit, sum(map(len, self.samples)))

    def __len__(self) -> int:
        return self.limit

    def __iter__(self) -> Iterator[Prompt]:
        return in_turn(self.samples, self.limit)

    def published(self, kind: str, temperature: float, target: str) -> str | None:
        """The paper's tau and speed-up."""
        cell = published(kind, temperature, target)
        return None if cell is None else f"tau {cell[0]:.2f}, {cell[1]:.2f}x"
