"""`vispec shortlist`: let a draft guess none but the most frequent tokens, so that its LM head is smaller."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from transformers import AutoProcessor

from vispec.draft.checkpoint import read_model, save_model, shorten_vocabulary
from vispec.training.counts import count_answers, count_lines
from vispec.training.samples import read_samples


def run(draft: str, model: str, texts: Path, size: int, output: Path) -> int:
    """Count, choose, write.

    Returns:
        The exit code: 0, or 1 if something is not there or cannot be written.

    Raises:
        argparse.ArgumentError: an option cannot be used.
    """
    try:
        weights = read_model(draft)
        processor = AutoProcessor.from_pretrained(model)  # a tokenizer where the model has no more
        counts = count_answers(read_samples(texts), processor) if texts.is_dir() else count_lines(texts, processor)
        shortened = shorten_vocabulary(weights, counts, size)
        save_model(shortened, output)
    except OSError as error:
        print(f"vispec shortlist: {error}", file=sys.stderr)
        return 1
    except (UnicodeDecodeError, ValueError) as error:
        raise argparse.ArgumentError(None, str(error)) from error
    kept = set(shortened.draft_vocab.tolist())
    share = sum(count for token, count in counts.items() if token in kept) / max(1, counts.total())
    print(
        f"{size} of {weights.config.vocab_size} tokens are drafted: {share:.2%} of the {counts.total()} counted, in "
        f"which {len(counts)} different ones come\ndraft: {output}"
    )
    return 0
