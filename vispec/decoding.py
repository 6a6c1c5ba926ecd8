"""The cycle: draft a tree, verify it in one pass of the target, accept a path, compact the cache.

    prefill   target over prompt and images; drafter over the same, images compressed
    draft     drafter proposes N nodes
    verify    one target pass over them
    accept    the target's token at each node, the path that agrees, the bonus token
    compact   accepted rows move behind the prefix, in all layers
    update    drafter reads what was kept

One cycle is one call, `Cycle.launch(tree)`: what it does is a function of the tree's size and of tensors that persist
and are changed in place, so a GPU replays it as one graph a size (`vispec.graphs`), and may begin the next one before
the host has read the last. Between two cycles the host reads a record, makes room, and is told the next tree by a
`Plan`. Sequences of a batch advance at their own rate, and one that has finished stands still. Where the plan drafts
nothing, the root alone is verified, and the drafter reads the tokens that it missed when it is asked again. It does not
know which drafter it runs.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from vispec.draft.drafter import MAX_CHAIN, Drafter, Memory
from vispec.graphs import Replayer
from vispec.ops import accept_path
from vispec.sampling import Choice, Chooser
from vispec.speculation import Clock, Speculation
from vispec.target import Prompt, Target, rope_delta
from vispec.text import Text
from vispec.tree import Plan, Tree, TreeConfig, chain, root_alone


@dataclass(frozen=True)
class Decoded:
    """Sequences (prompt first) int64 `[B, L + emitted]`, the statistics, and the cache of all but the last token.

    The cache lacks what a sequence that finished early went on with, unless it was asked for. Hidden states, where they
    were asked for: of each new token those of the pass that chose it, `[B, L, H]` for the first, then `[B, 1, H]`,
    before every layer and after the last. `memory` is what the drafter keeps of the text, if the cache was asked for.
    """

    sequences: Tensor
    speculation: Speculation
    cache: Cache
    hidden_states: list[tuple[Tensor, ...]] | None
    memory: Memory | None


class Before(NamedTuple):
    """What the cycle's cache holds when a call begins."""

    num_rows: int = 0
    num_cached: int = 0  # leading tokens of the prompt that these are of: all of them, or 0 where it begins behind them
    memory: Memory | None = None  # what the drafter kept of them


class Record:
    """What the host reads of a cycle, on its way from the device.

    Args:
        rows: int64 `[B, 1 + P]`: `num_accepted`, and the accepted tokens and the bonus token, padded to the tree's
            deepest path. Copied at once: the next cycle may write its own into the same place.
    """

    def __init__(self, rows: Tensor) -> None:
        self.rows = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=rows.is_cuda)
        self.rows.copy_(rows, non_blocking=True)
        self.arrival = torch.cuda.Event() if rows.is_cuda else None
        if self.arrival is not None:
            self.arrival.record()

    def read(self) -> tuple[list[int], list[list[int]]]:
        """`num_accepted` and the new tokens of each sequence; waits for them."""
        if self.arrival is not None:
            self.arrival.synchronize()
        rows = self.rows.tolist()
        return [row[0] for row in rows], [row[1 : row[0] + 2] for row in rows]


class _Missed:
    """Tokens and features of cycles without a draft, for the drafter's next update.

    The count lives on the device, where the cycles write; the host keeps its own, to know when there is no more room.
    """

    def __init__(self, target: Target, batch_size: int) -> None:
        device = target.device
        self.tokens = torch.zeros(batch_size, MAX_CHAIN, dtype=torch.int64, device=device)
        self.features = torch.zeros(batch_size, MAX_CHAIN, target.hidden_size, dtype=target.dtype, device=device)
        self.num_rows = torch.zeros(1, dtype=torch.int64, device=device)

    def append(self, tokens: Tensor, features: Tensor) -> None:
        """One more token `[B, 1]` and the feature before it `[B, 1, H]`."""
        self.tokens.index_copy_(1, self.num_rows, tokens)
        self.features.index_copy_(1, self.num_rows, features)
        self.num_rows += 1

    def feed(self, drafter: Drafter, is_active: Tensor) -> None:
        """Have the drafter read them, of active sequences; none are missed then."""
        last = torch.where(is_active, self.num_rows - 1, -1).int()
        drafter.update(self.tokens, self.features, last)
        self.num_rows.zero_()


class Cycle:
    """One cycle of one prompt, and all that it works on.

    Persistent: `root_tokens` int64 `[B]` (the last token of each text, which no cache holds yet), `kv_start` int32
    `[B]` (cache rows of left padding), `is_active` bool `[B]` (sequences that go on), `choice`, the target's cache, the
    drafter's own state, the missed tokens. `reserve` may replace buffers of the caches by larger ones. After `renew`
    another prompt may follow.

    Args:
        target, drafter: the drafter is made for this target and for `trees`.
        trees: all that may be asked for.
        capacity: rows of the target's cache.
        batch_size: B.
        replayer: runs the cycles as graphs, and the cycle is kept for another call; None: they are run as they are.
    """

    def __init__(
        self,
        target: Target,
        drafter: Drafter,
        trees: Sequence[TreeConfig],
        capacity: int,
        batch_size: int,
        replayer: Replayer | None = None,
    ) -> None:
        self.target, self.drafter, self.replayer = target, drafter, replayer
        self.most_nodes = max((tree.num_nodes for tree in trees), default=1)
        self.cache = target.new_cache(capacity, batch_size)
        self.choice = Choice(batch_size, target.vocab_size, target.device, target.processes)
        self.chooser: Chooser = self.choice
        self.root_tokens = torch.zeros(batch_size, dtype=torch.int64, device=target.device)
        self.kv_start = torch.zeros(batch_size, dtype=torch.int32, device=target.device)
        self.is_active = torch.ones(batch_size, dtype=torch.bool, device=target.device)
        self.rope_delta: Tensor | None = None
        self.missed = _Missed(target, batch_size)
        self.num_missed = 0
        self.no_guess = root_alone(self.root_tokens)
        self.text_states: list[tuple[Tensor, ...]] | None = None  # hidden states of each step, where they are kept
        self.clock = Clock(target.device)

    @property
    def is_kept(self) -> bool:
        """Whether the next call may write into its cache."""
        return self.replayer is not None

    def renew(self, target: Target) -> None:
        """Forget the text; go on with another adapter of the same model."""
        self.target = self.drafter.target = target
        self.cache.reset()

    def start(
        self, prompt: Prompt, root_tokens: Tensor, rope_delta: Tensor | None, chooser: Chooser, clock: Clock
    ) -> None:
        """The target's prefill is in the cache: let the drafter read the prompt, too."""
        self.chooser, self.clock = chooser, clock
        self.root_tokens.copy_(root_tokens)
        self.kv_start.copy_(torch.tensor(prompt.starts))
        self.is_active.fill_(True)
        self._set_rope_delta(rope_delta)
        self.missed.num_rows.zero_()
        self.num_missed = 0
        with clock.stage("prefill"):
            self.drafter.prefill(prompt, root_tokens)
            self.cache.start_verifying()
        self.reserve(self.cache.get_seq_length())

    def _set_rope_delta(self, rope_delta: Tensor | None) -> None:
        """In place, so that graphs stay right; of another shape, or where there was none, they are void."""
        if rope_delta is None and self.rope_delta is None:
            return
        if rope_delta is not None and self.rope_delta is not None and rope_delta.shape == self.rope_delta.shape:
            self.rope_delta.copy_(rope_delta)
            return
        self.rope_delta = None if rope_delta is None else rope_delta.clone()
        if self.replayer is not None:
            self.replayer.forget()

    def go_on_with(self, is_open: Sequence[bool]) -> None:
        """Let the other sequences stand still from the next cycle on."""
        self.is_active.copy_(torch.tensor(is_open))

    def has_room(self, length: int) -> bool:
        """Whether a cycle behind a text of `length` tokens needs no larger cache."""
        return length + self.most_nodes <= self.cache.capacity

    def reserve(self, length: int) -> None:
        """Make room for a cycle behind a text of at most `length` tokens."""
        self.cache.reserve(length + self.most_nodes)
        self.drafter.reserve(self.cache.capacity - self.most_nodes)  # so that both have room, or neither

    def launch(self, tree: TreeConfig | None) -> Record:
        """Draft a tree, verify, accept, compact, update; None: let the target write one token by itself."""
        if tree is None:
            if self.num_missed == MAX_CHAIN:
                self._catch_up()
            self.num_missed += 1
        elif self.num_missed:
            self._catch_up()
        if self.replayer is None:
            return Record(self._work(tree))
        version = (self.cache.version, self.drafter.version)
        key = tree, self.chooser.mode
        return Record(self.replayer.run(key, version, lambda: self._work(tree), lambda: self.clock.stage("captured")))

    def remember(self, num_rows: int, padding: int) -> Memory | None:
        """What the drafter keeps of the first `num_rows` tokens, the first `padding` of which are none."""
        if self.num_missed:
            self._catch_up()
        return self.drafter.remember(num_rows - padding)

    def _catch_up(self) -> None:
        """Let the drafter read the tokens that it missed: a fixed amount of work whatever their number."""
        with self.clock.stage("draft"):
            self.missed.feed(self.drafter, self.is_active)
        self.num_missed = 0

    def _work(self, tree: TreeConfig | None) -> Tensor:
        """All of a cycle on the device; what the host reads of it, see `Record`."""
        with self.clock.stage("draft"):
            guess = self.no_guess if tree is None else self._propose(tree)
        with self.clock.stage("verify"):
            logits, features, hidden_states = self.target.verify(
                guess, self.cache, self.rope_delta, self.kv_start, self.text_states is not None
            )
        with self.clock.stage("accept"):
            positions = (self.cache.cache_len - self.kv_start)[:, None] + guess.depths
            target_tokens = self.chooser.choose(logits, guess, positions)
            most_accepted = min(0 if tree is None else tree.max_accepted, self.chooser.most_accepted)
            nodes, num_accepted, bonus = accept_path(guess.tokens, guess.parents, target_tokens, most_accepted)
            num_accepted = torch.where(self.is_active, num_accepted, -1)
            self.cache.compact(nodes, num_accepted)
            path = nodes.long()
            tokens = target_tokens.gather(1, path)  # a node's own target token is the next one on the path
            features = features.gather(1, path[..., None].expand(-1, -1, features.shape[2]))
            self.chooser.note(tokens, num_accepted)
            if self.text_states is not None and hidden_states is not None:
                self.text_states += _by_step(hidden_states, path)
            self.root_tokens.copy_(bonus)
        with self.clock.stage("draft"):
            if tree is None:
                self.missed.append(tokens, features)
            else:
                self.drafter.update(tokens, features, num_accepted)
        return torch.cat((num_accepted[:, None].long(), tokens), dim=1)

    def _propose(self, tree: TreeConfig) -> Tree:
        return Tree(*self.target.processes.agreed(*self.drafter.propose(self.root_tokens, tree)))

    def read_on(self, tokens: Tensor, start: int) -> None:
        """Have the target read more of all texts, `tokens` int64 `[B, M]` from row `start` of its cache on."""
        self.cache.reserve(start + tokens.shape[1])
        for part in tokens.split(MAX_CHAIN, dim=1):
            self.cache.cache_len.fill_(start)
            self.target.verify(chain(part), self.cache, self.rope_delta, self.kv_start)
            start += part.shape[1]


def _by_step(hidden_states: Sequence[Tensor], path: Tensor) -> list[tuple[Tensor, ...]]:
    """Of the nodes `path` int64 `[B, P]`, P steps of `[B, 1, H]` a layer."""
    rows = torch.arange(len(path), device=path.device)[:, None]
    return [tuple(layer[rows, step] for layer in hidden_states) for step in path.split(1, dim=1)]


class _InFlight:
    """Cycles that were launched and not read: on a GPU the next one runs while the host reads the last.

    `lengths` are those of the texts as the cycles leave them, which may be past where a sequence was cut.
    """

    def __init__(self, cycle: Cycle, plan: Plan, lengths: list[int], max_length: float, ahead: int) -> None:
        self.cycle, self.plan, self.max_length, self.ahead = cycle, plan, max_length, ahead
        self.lengths = lengths
        self.records: deque[tuple[TreeConfig | None, Record]] = deque()
        self.last = time.perf_counter()

    def launch(self, shortest: int) -> None:
        """Start as many cycles as may be on their way; `shortest`: the least length of an open sequence."""
        most = max(self.lengths)
        if not self.records:
            self.last = time.perf_counter()  # what streamers and criteria took is no cycle's time
        if not self.records and not self.cycle.has_room(most):
            self.cycle.reserve(most)
        while len(self.records) < self.ahead:
            longest = most + sum(1 if tree is None else tree.max_accepted + 1 for tree, _ in self.records)
            # not where the one before surely ends the text, nor where the caches would have to grow for it
            is_wasted = shortest + len(self.records) >= self.max_length
            if self.records and (is_wasted or not self.cycle.has_room(longest)):
                return
            tree = self.plan.next_tree(longest)
            self.records.append((tree, self.cycle.launch(tree)))

    def read(self) -> tuple[TreeConfig | None, list[int], list[list[int]]]:
        """The oldest one: its tree, `num_accepted` and new tokens of each sequence."""
        tree, record = self.records.popleft()
        accepted, tokens = record.read()
        self.lengths = [length + count + 1 for length, count in zip(self.lengths, accepted, strict=True)]
        now = time.perf_counter()
        self.plan.note(tree, accepted, now - self.last)
        self.last = now
        return tree, accepted, tokens


def decode(
    target: Target,
    cycle: Cycle,
    plan: Plan,
    input_ids: Tensor,
    model_kwargs: Mapping[str, Any],
    chooser: Chooser,
    text: Text,
    ahead: int = 1,
    keeps_cache: bool = False,
    before: Before = Before(),  # noqa: B008  # immutable
) -> Decoded:
    """Speculative decoding of one batch of prompts.

    Args:
        target, cycle: `cycle` works with this target.
        plan: says what is drafted, cycle by cycle.
        input_ids: int64 `[B, L]`, padded on the left.
        model_kwargs: as `model.generate` hands them to a custom_generate callable.
        chooser: chooses the target's tokens; it has begun with these prompts.
        text: holds the prompts, and knows when to end.
        ahead: cycles that may be on their way before the first of them is read.
        keeps_cache: whether the cache is to be gone on from: it is to hold the padding behind finished sequences, too.
        before: what the cache holds already.
    """
    clock, cache = Clock(target.device), cycle.cache
    batch_size, prompt_length = input_ids.shape
    unseen = before.num_rows - before.num_cached  # tokens before the prompt
    memory = None
    trees: list[TreeConfig | None] = []
    num_accepted: list[list[int]] = []  # [num_cycles][B]
    with target.attached():
        with clock.stage("prefill"):
            prompt = target.prefill(input_ids, model_kwargs, cache, before.num_cached)
            if prompt.hidden_states is not None:
                cycle.text_states = [prompt.hidden_states]
            delta = rope_delta(model_kwargs.get("position_ids"), unseen + prompt_length)
            last = root_alone(input_ids[:, -1].long().contiguous())
            places = [unseen + prompt_length - 1 - start for start in prompt.starts]
            positions = torch.tensor(places, dtype=torch.int32, device=target.device)[:, None]
            root_tokens = chooser.choose(prompt.logits[:, None], last, positions)
            chooser.note(root_tokens, last.depths[:, 0])
        if not chooser.emits:
            text.emit(root_tokens.tolist())
        if not text.has_ended or keeps_cache:
            starts = prompt.starts
            cycle.start(replace(prompt, memory=before.memory), root_tokens[:, 0], delta, chooser, clock)
            del prompt
            with target.verification():
                lengths = [unseen + length for length in text.lengths]
                in_flight = _InFlight(cycle, plan, lengths, text.stops.max_length, ahead)
                active = [True] * batch_size
                while not text.has_ended:
                    if active != text.is_open:
                        active = list(text.is_open)
                        cycle.go_on_with(active)
                    in_flight.launch(min(text.open_lengths))
                    tree, accepted, tokens = in_flight.read()
                    trees.append(tree)
                    num_accepted.append(accepted)
                    if not chooser.emits:
                        text.emit(tokens)
                shortest = min(text.lengths) - 1
                if keeps_cache and shortest < text.length - 1:
                    cycle.read_on(text.sequences[:, shortest:-1], unseen + shortest)
                if keeps_cache:
                    memory = cycle.remember(unseen + text.length - 1, starts[0])
    cache.stop_verifying(unseen + text.length - 1)
    counts = torch.tensor(num_accepted, dtype=torch.int32).view(len(num_accepted), batch_size)
    drafted = torch.tensor([tree.num_nodes - 1 if tree else 0 for tree in trees], dtype=torch.int32)
    emitted = torch.tensor([min(length, text.length) - prompt_length for length in text.lengths], dtype=torch.int32)
    speculation = Speculation(
        num_cycles=len(num_accepted),
        num_accepted=counts,
        num_drafted=((counts >= 0) * drafted[:, None]).sum(0).int(),
        num_emitted=emitted,
        trees=trees,
        seconds=clock.finish(),
    )
    return Decoded(text.sequences, speculation, cache, cycle.text_states, memory)
