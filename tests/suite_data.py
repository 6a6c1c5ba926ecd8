"""Small benchmarks in the schemas of the real ones: rows and pictures as files."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

CHOICES = ["an ant", "a bee"]


def save_picture(path: Path, seed: int) -> Image.Image:
    """A picture of noise, no two alike; the pixels that are read back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.frombytes("RGB", (12, 8), random.Random(seed).randbytes(12 * 8 * 3))
    image.save(path)
    return image


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def paper_rows(count: int) -> dict[str, list[dict[str, Any]]]:
    """Rows of each benchmark by the file that holds them, all columns of the Hub there; `image` names a file."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for i in range(count):
        image = f"images/{i}.png"
        question = f"Which one is number {i}?"
        found = {
            "scienceqa/ScienceQA-IMG/validation": {
                "image": image, "question": question, "choices": CHOICES, "answer": 1, "hint": "" if i else "It flies.",
                "task": "closed choice", "grade": "grade2", "subject": "natural science", "topic": "biology",
                "category": "Animals", "skill": "Tell insects", "lecture": "", "solution": "",
            },
            "mm-vet/test": {"question_id": f"v1_{i}", "image": image, "question": question, "answer": "this"},
            "textvqa/validation": {
                "image_id": f"a{i}", "question_id": i, "question": question, "image": image, "answers": ["x"] * 10,
            },
            "mme/test": {
                "question_id": f"OCR/{i}.png", "image": image, "question": f"Is it {i}? Please answer yes or no.",
                "answer": "Yes", "category": "OCR",
            },
            "coco-caption/val": {
                "question_id": f"{i}.jpg", "image": image, "question": "Caption it.", "answer": ["a b"], "id": i,
            },
            "vizwiz-vqa/test": {
                "question_id": f"{i}.jpg", "image": image, "question": question, "answers": None, "category": "other",
            },
            "gqa/testdev_balanced_instructions/testdev": {"id": f"q{i}", "imageId": f"n{i // 2}", "question": question},
            "gqa/testdev_balanced_images/testdev": {"id": f"n{i}", "image": image},
            "seed-bench/test": {
                "answer": "A", "choice_a": "x", "choice_b": "y", "choice_c": "z", "choice_d": "w", "image": [image],
                "data_type": "video" if i % 2 else "image", "question": question, "question_id": str(i),
            },
        }  # fmt: skip
        for place, row in found.items():
            rows.setdefault(place, []).append(row)
    return rows


def write_paper(folder: Path, count: int) -> dict[int, Image.Image]:
    """All eight benchmarks as JSON lines; the pictures by number."""
    rows = paper_rows(count)
    for place, lines in rows.items():
        write_lines(folder / f"{place}.jsonl", lines)
    pictures = {}
    for name in {place.partition("/")[0] for place in rows}:
        for i in range(count):
            pictures[i] = save_picture(folder / name / "images" / f"{i}.png", i)
    return pictures
