"""Numbers about the data: `python -m vispec.pair.data_report` prints lengths, tokens used, n-gram agreement, speed."""

from __future__ import annotations

import argparse
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from vispec.pair.dataset import make_sample, make_turns
from vispec.pair.tokenizer import load_tokenizer

Ids = NDArray[np.int64]
ORDERS = (1, 2, 4, 6)


def _contexts(texts: Sequence[Ids], order: int) -> tuple[NDArray[np.uint64], Ids]:
    """A hash of the `order` tokens before each token (of fewer at a text's start), and the token."""
    hashes = []
    for ids in texts:
        padded = np.concatenate([np.full(order, -1, dtype=np.int64), ids])
        value = np.zeros(len(ids), dtype=np.uint64)
        for i in range(order):
            word = padded[i : i + len(ids)].astype(np.uint64) + np.uint64(2)
            value = (value ^ word) * np.uint64(0x9E3779B97F4A7C15)
            value ^= value >> np.uint64(29)
        hashes.append(value)
    return np.concatenate(hashes), np.concatenate(texts)


def _table(texts: Sequence[Ids], order: int) -> tuple[NDArray[np.uint64], Ids]:
    """Each context seen, sorted, and the token that followed it most often."""
    contexts, tokens = _contexts(texts, order)
    by_pair = np.lexsort((tokens, contexts))
    contexts, tokens = contexts[by_pair], tokens[by_pair]
    starts = np.flatnonzero(np.r_[True, (contexts[1:] != contexts[:-1]) | (tokens[1:] != tokens[:-1])])
    counts = np.diff(np.r_[starts, len(tokens)])
    contexts, tokens = contexts[starts], tokens[starts]
    by_count = np.lexsort((-counts, contexts))
    contexts, tokens = contexts[by_count], tokens[by_count]
    first = np.r_[True, contexts[1:] != contexts[:-1]]
    return contexts[first], tokens[first]


def ngram_agreement(
    train: Sequence[Ids], test: Sequence[Ids], orders: Sequence[int] = ORDERS
) -> dict[int, tuple[float, float]]:
    """How often tables of n-grams, built on `train`, guess the next token of `test`.

    For each order (tokens of context): the table alone, where an unknown context counts as wrong, and with all the
    lower orders to fall back on.
    """
    guesses = np.full(sum(map(len, test)), -1, dtype=np.int64)
    agreement = {}
    for order in range(max(orders) + 1):
        known, best = _table(train, order)
        contexts, tokens = _contexts(test, order)
        i = np.searchsorted(known, contexts).clip(0, len(known) - 1)
        alone = np.where(known[i] == contexts, best[i], -1)
        guesses = np.where(alone >= 0, alone, guesses)
        agreement[order] = float((alone == tokens).mean()), float((guesses == tokens).mean())
    return {order: agreement[order] for order in orders}


def answers(split: str, count: int) -> Iterator[tuple[str, Ids]]:
    """Kind and tokens, with the end token, of the first answers of a split."""
    tokenizer = load_tokenizer()
    for index in range(count):
        _, (turn,), _ = make_turns(0, split, index)
        yield turn.kind, np.array(tokenizer(turn.answer + tokenizer.eos_token)["input_ids"], dtype=np.int64)


def _print_lengths(train: Sequence[tuple[str, Ids]]) -> None:
    by_kind: dict[str, list[int]] = defaultdict(list)
    for kind, ids in train:
        by_kind[kind].append(len(ids) - 1)
    by_kind["all"] = [len(ids) - 1 for _, ids in train]
    print(f"{'answers, tokens':18} share   min  10%  50%  90%  max  mean")
    for kind, lengths in sorted(by_kind.items()):
        low, tenth, half, ninth, high = np.percentile(lengths, [0, 10, 50, 90, 100]).astype(int)
        share = len(lengths) / len(train)
        print(f"{kind:18} {share:5.3f} {low:5} {tenth:4} {half:4} {ninth:4} {high:4} {np.mean(lengths):5.1f}")


def main() -> None:
    """Print all numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", type=int, default=50_000, help="training answers (default %(default)s)")
    parser.add_argument("--test", type=int, default=2_000, help="held-out answers (default %(default)s)")
    sizes = parser.parse_args()
    train, test = list(answers("train", sizes.train)), list(answers("test", sizes.test))
    _print_lengths(train)
    used = Counter(np.concatenate([ids for _, ids in train]).tolist())
    often = sum(count >= 20 for count in used.values())
    print(f"tokens used in {sizes.train} answers: {len(used)}, at least 20 times: {often}")
    for order, (alone, backed) in ngram_agreement([ids for _, ids in train], [ids for _, ids in test]).items():
        print(f"n-grams, context {order}: {alone:.3f} of the held-out tokens, with lower orders {backed:.3f}")
    samples = {(p.key(), turns[0].question) for p, turns, _ in (make_turns(0, "train", i) for i in range(sizes.train))}
    print(f"distinct pictures with questions: {len(samples)} of {sizes.train}")
    start = time.process_time()
    for index in range(2_000):
        make_sample(1, "train", index)
    print(f"samples/s on one core: {2_000 / (time.process_time() - start):.0f}")


if __name__ == "__main__":
    main()
