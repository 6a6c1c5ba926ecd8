"""The trained pair that ships in the package, or one like it: a target, its processor and its draft."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, BatchFeature, PreTrainedModel, ProcessorMixin

from vispec.draft.checkpoint import Draft, load_draft

WEIGHTS = Path(__file__).with_name("weights")
TARGET, DRAFT = "target", "draft"  # folders in it


@dataclass(frozen=True)
class Pair:
    """A target with its processor and its draft."""

    model: PreTrainedModel
    processor: ProcessorMixin
    draft: Draft

    def inputs(self, image: Image.Image, question: str) -> BatchFeature:
        """What `generate` takes: one turn of the processor's chat template, and the picture.

        Raises:
            ValueError: the question is empty, or holds a token that means something to the template.
        """
        if not question.strip():
            raise ValueError("expected some words, got none")
        for token in self.processor.tokenizer.get_added_vocab():
            if token.strip() and token in question:
                raise ValueError(f"expected words alone, got a question with {token} in it")
        content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
        return self.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )

    def view(self, image: Image.Image) -> Image.Image:
        """The picture as the target gets it, scaled and cropped."""
        pixels = self.processor.image_processor(image, do_rescale=False, do_normalize=False, return_tensors="np")
        return Image.fromarray(np.moveaxis(pixels["pixel_values"][0], 0, -1).astype(np.uint8))


def load_pair(folder: Path = WEIGHTS, dtype: torch.dtype = torch.float32) -> Pair:
    """Read a pair; nothing is fetched from anywhere.

    Args:
        folder: holds `target/`, as `AutoModelForImageTextToText` and `AutoProcessor` read it, and `draft/`, as
            `vispec.load_draft` does.
        dtype: of the weights; on CPUs fp32 is the fast one.

    Raises:
        FileNotFoundError: no such folder.
    """
    for name in (TARGET, DRAFT):
        if not (folder / name).is_dir():
            raise FileNotFoundError(f"folder: expected one with {TARGET}/ and {DRAFT}/, got {folder} without {name}/")
    target = folder / TARGET
    model = AutoModelForImageTextToText.from_pretrained(target, dtype=dtype, local_files_only=True).eval()
    processor = AutoProcessor.from_pretrained(target, local_files_only=True)
    return Pair(model, processor, load_draft(folder / DRAFT, model))
