"""How often each token comes in texts like those that a target will write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from vispec.training.prompts import Processor, get_tokenizer
from vispec.training.samples import StoredSample


def count_answers(samples: Iterable[StoredSample], processor: Processor) -> Counter[int]:
    """Tokens of the answers: the target's own as it wrote them, given ones by the tokenizer."""
    tokenizer, counts = get_tokenizer(processor), Counter[int]()
    for sample in samples:
        counts.update(sample.answer or ())
        for start, end in sample.spans:
            counts.update(tokenizer(sample.text[start:end], add_special_tokens=False).input_ids)
    return counts


def count_lines(file: Path, processor: Processor) -> Counter[int]:
    """Tokens of a text file; a text ends with its line, and the end of text is counted then."""
    tokenizer, counts = get_tokenizer(processor), Counter[int]()
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            counts.update(tokenizer(line.rstrip("\n"), add_special_tokens=False).input_ids + end)
    return counts
