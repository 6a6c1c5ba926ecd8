"""Where a call of `generate` gets its cycle from: a new one, or on a GPU the one of the call before with its graphs."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import cast
from weakref import WeakKeyDictionary

from torch import Tensor

from vispec.decoding import Cycle
from vispec.draft.checkpoint import Draft
from vispec.draft.drafter import Drafter
from vispec.graphs import Capture, CudaCapture, Replayer, fingerprint, why_not
from vispec.target import Prompt, Target
from vispec.tree import Tree, TreeConfig

ROWS_MULTIPLE = 512  # of a kept cache's capacity: prompts of like length then fit

# at most one a draft; it holds the target by weak references alone
_kept: WeakKeyDictionary[Draft, tuple[Hashable, Cycle]] = WeakKeyDictionary()


class NoDrafter:
    """Stands where nothing is drafted: it reads nothing and is never asked for a tree."""

    version = 0

    def __init__(self, target: Target) -> None:
        self.target = target

    def prefill(self, prompt: Prompt, root_tokens: Tensor) -> None:
        """Nothing to read."""

    def propose(self, root_tokens: Tensor, tree: TreeConfig) -> Tree:
        raise RuntimeError(f"plain decoding was asked for a tree, {tree}")

    def update(self, tokens: Tensor, features: Tensor, num_accepted: Tensor) -> None:
        """Nothing to read."""

    def reserve(self, num_tokens: int) -> None:
        """It holds nothing."""

    def remember(self, num_indices: int) -> None:
        """It has read nothing."""


@contextmanager
def borrowed_cycle(
    target: Target, draft: Draft, trees: Sequence[TreeConfig], batch_size: int, prompt_length: int, budget: int
) -> Iterator[Cycle]:
    """A cycle whose cache is empty and has room for the prompt and `budget` tokens more.

    Its cache is the caller's own, unless `is_kept`: then the next call writes into it. The caller holds `target` alone
    (`Target.exclusive`).
    """
    reason = why_not(target.model) if target.device.type == "cuda" else None
    if reason is not None:
        warnings.warn(f"vispec: cycles run without CUDA graphs: {reason}", stacklevel=2)
    if target.device.type == "cuda" and reason is None:
        with kept_cycle(target, draft, trees, batch_size, prompt_length, budget, CudaCapture) as cycle:
            yield cycle
    else:
        yield new_cycle(target, draft, trees, batch_size, prompt_length, budget)


def new_cycle(
    target: Target, draft: Draft | None, trees: Sequence[TreeConfig], batch_size: int, prompt_length: int, budget: int
) -> Cycle:
    """A cycle for one call, run as it is; without a draft for no `trees` at all."""
    drafter: Drafter = NoDrafter(target) if draft is None else draft.new_drafter(target, trees, budget)
    return Cycle(target, drafter, trees, _capacity(trees, prompt_length + budget), batch_size)


@contextmanager
def kept_cycle(
    target: Target,
    draft: Draft,
    trees: Sequence[TreeConfig],
    batch_size: int,
    prompt_length: int,
    budget: int,
    new_capture: Callable[[], Capture],
) -> Iterator[Cycle]:
    """The draft's kept cycle if it fits, else a new one that is kept for the next call."""
    mark = (fingerprint(target.model), target.compiles, tuple(trees), batch_size)
    capacity = _capacity(trees, prompt_length + budget)
    borrowed = cast(Target, weakref.proxy(target))
    kept = _kept.pop(draft, None)
    if kept is not None and kept[0] == mark and kept[1].cache.capacity >= capacity:
        cycle = kept[1]
        cycle.renew(borrowed)
    else:
        del kept  # before as much is allocated again
        spare = max(tree.max_accepted for tree in trees) + 1  # of the cycle that is launched ahead
        capacity = -(-(capacity + spare) // ROWS_MULTIPLE) * ROWS_MULTIPLE
        drafter = draft.new_drafter(borrowed, trees, capacity - prompt_length)
        cycle = Cycle(borrowed, drafter, trees, capacity, batch_size, Replayer(new_capture))
    yield cycle
    _kept[draft] = mark, cycle  # not after an error: who knows its state


def _capacity(trees: Sequence[TreeConfig], length: int) -> int:
    """Rows for texts of `length` tokens, the tree behind them, and what a sequence accepts past its end."""
    return length + max((tree.num_nodes + tree.max_accepted for tree in trees), default=1)
