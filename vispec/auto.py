"""`tree="auto"`: what to draft next, by what each tree costs on this device and how often its guesses are right.

A tree's cycle takes about as long whatever the text says, so a few timings of it are enough. They are taken of cycles
that decode: measuring costs no pass of its own, only that for some cycles the tree is not the best one. What a cycle
yields hangs on draft and text and is followed all the time (`Acceptance`). The tree with the most expected tokens a
second is drafted, or none (`choose`). The text never depends on it, only the speed.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Literal
from weakref import WeakKeyDictionary

import torch

from vispec.draft.checkpoint import Draft
from vispec.target import Target
from vispec.tree import TreeConfig

AUTO: Literal["auto"] = "auto"
# Few, since each is a graph of its own on a GPU: from a short one for CPUs, where every node costs, to the most that a
# GPU checks at about the price of one.
CANDIDATES = (
    TreeConfig(1, 2, 4),
    TreeConfig(3, 2, 8),
    TreeConfig(7, 2, 12),
    TreeConfig(5, 4, 16),
    TreeConfig(3, 8, 30),
    TreeConfig(7, 4, 32),
    TreeConfig(6, 10, 60),
)
LEAST_TOKENS = min(tree.top_k for tree in CANDIDATES)  # of the draft's vocabulary

LEAST_TIMINGS, MOST_TIMINGS = 3, 5  # of a tree: the median forgets a first one that also paid for memory or a graph
RENEWAL = 64  # drafted cycles after which one comes without a tree, so that its cost is known as it is now
SHORT = 512  # tokens, twice that is the smallest size of a text
KEEP = 0.97  # of what was seen, from one drafted cycle to the next: the last 30 or so count
WIDTH_GAIN = 0.4  # of miss rates, see `Acceptance`; fitted on the pair that ships
FIRST_MISS, FIRST_WEIGHT = 0.3, 1.0  # before anything is seen, and how many cycles that counts for
MODEL_WEIGHT = 8.0  # cycles that the model's word counts for beside a tree's own record
FIRST_GAP, LAST_GAP = 4, 128  # undrafted cycles before a guess is tried again: at most about 2% are spent on that


class Acceptance:
    """How many tokens a cycle at any tree may yield, learned from the cycles seen; old ones fade.

    The model: level j is missed (no child of the accepted node is the target's token) with probability
    `m_j ** (1 + 0.4 ln w)`, where w is the tree's mean number of nodes a level and m_j the rate of a chain (w = 1). So
    width helps a good draft much (0.2 falls to 0.06 at w = 7), a bad one little (0.7 to 0.53), and one that is never
    right not at all. m_j is the rate of misses seen at level j, brought to w = 1; a level that was seldom reached is
    taken to be like the one before it. This carries over from the trees that were drafted to those that were not; the
    mean yield of a tree's own cycles is weighed against it, for what the model does not know.
    """

    def __init__(self, levels: int) -> None:
        self.misses, self.tries = [0.0] * levels, [0.0] * levels
        self.exponents = [0.0] * levels  # summed over tries
        self.cycles: dict[TreeConfig, float] = {}
        self.tokens: dict[TreeConfig, float] = {}
        self.miss_rates = [FIRST_MISS] * levels  # m_j

    def note(self, tree: TreeConfig, num_accepted: Sequence[int]) -> None:
        """A cycle accepted so many draft tokens of each sequence; -1 counts as nothing seen."""
        for values in (self.misses, self.tries, self.exponents):
            values[:] = [KEEP * value for value in values]
        for record in (self.cycles, self.tokens):
            record.update({other: KEEP * value for other, value in record.items()})
        exponent = _exponent(tree)
        for accepted in num_accepted:
            if accepted < 0:
                continue
            for level in range(min(accepted + 1, tree.max_accepted)):
                self.tries[level] += 1.0
                self.exponents[level] += exponent
            if accepted < tree.max_accepted:
                self.misses[accepted] += 1.0
            self.cycles[tree] = self.cycles.get(tree, 0.0) + 1.0
            self.tokens[tree] = self.tokens.get(tree, 0.0) + accepted + 1.0
        before = FIRST_MISS
        for level, tries in enumerate(self.tries):
            mean_exponent = self.exponents[level] / tries if tries > 1e-6 else 1.0
            seen = (self.misses[level] + FIRST_WEIGHT * before**mean_exponent) / (tries + FIRST_WEIGHT)
            before = self.miss_rates[level] = seen ** (1.0 / mean_exponent)

    def expected_tokens(self, tree: TreeConfig | None) -> float:
        """Of a cycle, the bonus token included; 1 without a tree."""
        if tree is None:
            return 1.0
        exponent, tokens, reached = _exponent(tree), 1.0, 1.0
        for miss_rate in self.miss_rates[: tree.max_accepted]:
            reached *= 1.0 - miss_rate**exponent
            tokens += reached
        cycles = self.cycles.get(tree, 0.0)
        return (MODEL_WEIGHT * tokens + self.tokens.get(tree, 0.0)) / (MODEL_WEIGHT + cycles)


def _exponent(tree: TreeConfig) -> float:
    """Of the miss rates of a chain, for a tree that is wider."""
    return 1.0 + WIDTH_GAIN * math.log((tree.num_nodes - 1) / tree.max_accepted)


def choose(
    costs: Mapping[TreeConfig | None, float], acceptance: Acceptance, candidates: Sequence[TreeConfig]
) -> TreeConfig | None:
    """What to draft: the tree with the most expected tokens a second, or first one whose cost is to be measured.

    Args:
        costs: seconds of a cycle by tree, None: without one; trees that were not measured are missing.
        acceptance: of the cycles seen.
        candidates: trees, the cheapest first.

    Returns:
        None, for no tree, until that is measured, and where no tree pays. Else the first candidate that is not
        measured and would be better than all measured ones if it cost no more than the dearest of those that it
        exceeds in no way (so none is measured that cannot win); where there is none, the best of the measured.
    """
    if None not in costs:
        return None
    tokens = {tree: acceptance.expected_tokens(tree) for tree in (None, *candidates)}
    best = max(costs, key=lambda tree: tokens[tree] / costs[tree])
    for tree in candidates:
        if tree not in costs:
            least = max(cost for other, cost in costs.items() if other is None or _is_within(other, tree))
            if tokens[tree] / least > tokens[best] / costs[best]:
                return tree
    return best


def _is_within(tree: TreeConfig, other: TreeConfig) -> bool:
    """Whether a cycle at `other` does all that one at `tree` does, and more."""
    return tree.depth <= other.depth and tree.top_k <= other.top_k and tree.num_nodes <= other.num_nodes


class AutoTree:
    """The plan of `tree="auto"`: what it learned in one call serves the next ones with the same draft.

    Where no tree pays, nothing is drafted and nothing would be learned: after `gap` such cycles the most promising tree
    is tried once, and each time that this does not pay the gap doubles, up to `LAST_GAP`. Where trees do pay, a cycle
    without one now and then shows whether they still do.

    Args:
        candidates: the trees to choose from, the cheapest first.
    """

    def __init__(self, candidates: Sequence[TreeConfig] = CANDIDATES) -> None:
        self.trees: Sequence[TreeConfig] = tuple(candidates)
        self.acceptance = Acceptance(max(tree.max_accepted for tree in candidates))
        self.costs: dict[int, _Costs] = {}  # by size of the text: over a long one trees cost more, and not all alike
        self.size = 0
        self.gap, self.undrafted, self.drafted = FIRST_GAP, 0, 0  # cycles in a row
        self.previous: TreeConfig | None = None  # that was noted
        self.last_paid: bool | None = None  # whether the last tree was worth its time; None: asked already

    def next_tree(self, length: int) -> TreeConfig | None:
        self.size = (length // SHORT).bit_length() // 2  # a factor of 4 each
        costs = self.costs.setdefault(self.size, _Costs()).seconds
        tree = choose(costs, self.acceptance, self.trees)
        if tree is None and None in costs:
            tree = self._next_try(costs)
        elif tree is not None:
            self.gap = FIRST_GAP
            if self.drafted >= RENEWAL:
                tree = None
        self.undrafted, self.drafted = (self.undrafted + 1, 0) if tree is None else (0, self.drafted + 1)
        return tree

    def _next_try(self, costs: Mapping[TreeConfig | None, float]) -> TreeConfig | None:
        """Where no tree pays: None, or the one that is tried all the same."""
        if self.last_paid is not None:
            self.gap = FIRST_GAP if self.last_paid else min(2 * self.gap, LAST_GAP)
            self.last_paid = None
        if self.undrafted < self.gap:
            return None
        measured = [tree for tree in costs if tree is not None]
        expected = self.acceptance.expected_tokens
        return max(measured, key=lambda tree: expected(tree) / costs[tree], default=self.trees[0])

    def note(self, tree: TreeConfig | None, num_accepted: Sequence[int], seconds: float) -> None:
        costs = self.costs.setdefault(self.size, _Costs())
        if tree is None or self.previous is not None:  # else the drafter also read what it had missed
            costs.note(tree, seconds)
        self.previous = tree
        if tree is not None:
            self.acceptance.note(tree, num_accepted)
            emitted = [accepted + 1 for accepted in num_accepted if accepted >= 0]
            self.last_paid = bool(emitted) and statistics.mean(emitted) * costs.seconds.get(None, 0.0) > seconds


class _Costs:
    """Seconds of a cycle by tree, None: without one; of those that were measured often enough."""

    def __init__(self) -> None:
        self.timings: dict[TreeConfig | None, deque[float]] = {}
        self.seconds: dict[TreeConfig | None, float] = {}

    def note(self, tree: TreeConfig | None, seconds: float) -> None:
        timings = self.timings.setdefault(tree, deque(maxlen=MOST_TIMINGS))
        timings.append(seconds)
        if len(timings) >= LEAST_TIMINGS:
            self.seconds[tree] = statistics.median(timings)


_plans: WeakKeyDictionary[Draft, dict[tuple[object, ...], AutoTree]] = WeakKeyDictionary()


def auto_plan(draft: Draft, target: Target, batch_size: int) -> AutoTree:
    """The plan that has learned from earlier calls with this draft (and so this target), device and batch size."""
    key = (target.device, target.dtype, target.compiles, torch.get_num_threads(), batch_size)
    plans = _plans.setdefault(draft, {})
    if key not in plans:
        plans[key] = AutoTree([tree for tree in CANDIDATES if tree.top_k <= draft.num_tokens])
    return plans[key]
