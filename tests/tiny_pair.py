"""A small pair with the shipped tokenizer and processor, whose random target writes words that do not repeat."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import LlavaForConditionalGeneration

from models import make_draft
from vispec.pair.target import make_config
from vispec.pair.tokenizer import make_processor

NUM_LAYERS = 2


def save_tiny_pair(folder: Path) -> Path:
    """Write `target/` and `draft/` there, as `load_pair` reads them; the same ones every time."""
    processor = make_processor()
    vocabulary = processor.tokenizer.get_vocab()
    config = make_config(processor.tokenizer, NUM_LAYERS)
    config.vision_config.num_hidden_layers = 1
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = False
    config.text_config.eos_token_id = None
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlavaForConditionalGeneration(config).eval()
        for part in (model.get_decoder(), model.model.multi_modal_projector):  # wide: picture and question matter
            for weight in part.parameters():
                if weight.ndim == 2:
                    torch.nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
        torch.nn.init.normal_(model.get_input_embeddings().weight)
        head = torch.nn.init.normal_(model.get_output_embeddings().weight)
    others = [index for token, index in vocabulary.items() if not (token.startswith("Ġ") and len(token) > 2)]
    head.data[others] = 0.0  # never written: what comes is words with a space before them
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder / "target")
    processor.save_pretrained(folder / "target")
    make_draft(model).save_pretrained(folder / "draft")
    return folder
