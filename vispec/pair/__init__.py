"""The pair that ships in the package, from its data on: pictures, questions, answers, and how answers are measured.

`make_sample(seed, split, index)` makes any sample alone; `score(answer, sample.facts)` measures an answer. Tokenizer
and processor are in `vispec.pair.tokenizer`, labels for the vision tower in `vispec.pair.regions`.
"""

from vispec.pair.dataset import SHARES, SPLITS, Sample, draw, make_sample, make_turns, split_of
from vispec.pair.reading_documents import named_attributes
from vispec.pair.scoring import Facts, Score, score

__all__ = [
    "SHARES",
    "SPLITS",
    "Facts",
    "Sample",
    "Score",
    "draw",
    "make_sample",
    "make_turns",
    "named_attributes",
    "score",
    "split_of",
]
