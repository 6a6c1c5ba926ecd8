"""The cycle: draft a tree, verify it in one pass of the target, accept a path, compact the cache.

    prefill   target over prompt and images; drafter over the same, images compressed
    draft     drafter proposes N nodes
    verify    one target pass over them
    accept    the target's token at each node, the path that agrees, the bonus token
    compact   accepted rows move behind the prefix, in all layers
    update    drafter reads what was kept

One cycle is one call, `Cycle.run(tree)`: what it does is a function of the tree's size and of tensors that persist and
are changed in place, so it could be captured in one graph a size. Between two cycles the host reads the record of the
last one, makes room, and is told the next tree by a `Plan`. Where the plan drafts nothing, the root alone is verified,
and the drafter reads the tokens that it missed when it is asked again. It does not know which drafter it runs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.generation.stopping_criteria import EosTokenCriteria, MaxLengthCriteria, StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from vispec.cache import TreeCache
from vispec.draft.drafter import MAX_CHAIN, Drafter
from vispec.ops import accept_path, select_tokens
from vispec.target import Prompt, Target, rope_delta
from vispec.tree import Plan, Tree, TreeConfig

STAGES = ("prefill", "draft", "verify", "accept", "other")


@dataclass
class Speculation:
    """What speculation did in one call.

    Attributes:
        num_cycles: Cycles run; 0 where prefill's own token was enough.
        num_accepted: int32 `[num_cycles, B]`, accepted draft tokens as verified, before cutting at a stop; -1 once a
            sequence has finished. Its mean is the paper's tau.
        num_drafted: int32 `[B]`, drafted nodes in all.
        num_emitted: int32 `[B]`, tokens really returned, prefill's first one included.
        seconds: wall time by stage: prefill (target and drafter), draft, verify, accept (with compaction), other.
        trees: the tree of each cycle, None where nothing was drafted.
    """

    num_cycles: int
    num_accepted: Tensor
    num_drafted: Tensor
    num_emitted: Tensor
    seconds: dict[str, float] = field(default_factory=dict)
    trees: list[TreeConfig | None] = field(default_factory=list)

    @property
    def mean_accepted(self) -> float:
        """Mean of `num_accepted` over the cycles of unfinished sequences, the paper's tau; 0.0 without a cycle."""
        counted = self.num_accepted[self.num_accepted >= 0]
        return counted.float().mean().item() if counted.numel() else 0.0


@dataclass(frozen=True)
class Decoded:
    """Sequences (prompt first) int64 `[B, L + emitted]`, the statistics, and the cache of all but the last token."""

    sequences: Tensor
    speculation: Speculation
    cache: TreeCache


class Stops:
    """When to stop, asked after every token as plain decoding asks.

    Length and end-of-sequence are answered from numbers on the host; any other criterion is called with the ids that
    end at the token in question.
    """

    def __init__(self, criteria: Sequence[StoppingCriteria]) -> None:
        lengths = [c.max_length for c in criteria if type(c) is MaxLengthCriteria]
        self.max_length: float = min(lengths, default=torch.inf)
        eos = [c.eos_token_id for c in criteria if type(c) is EosTokenCriteria]
        self.eos_tokens = {token for ids in eos for token in ids.tolist()}
        self.others = [c for c in criteria if type(c) not in (MaxLengthCriteria, EosTokenCriteria)]

    def __call__(self, ids: Tensor, token: int) -> bool:
        """Whether decoding ends with `token`, the last of `ids` `[1, length]`."""
        at_end = ids.shape[1] >= self.max_length or token in self.eos_tokens
        for criterion in self.others:  # each is asked, like plain decoding does: some count their calls
            at_end = bool(torch.as_tensor(criterion(ids, None)).all()) or at_end
        return at_end


class _Clock:
    """Adds up wall time by stage."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.seconds = dict.fromkeys(STAGES, 0.0)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - start

    def finish(self) -> dict[str, float]:
        self.seconds["other"] = time.perf_counter() - self.start - sum(self.seconds.values())
        return self.seconds


class _Text:
    """The tokens so far, and who hears of them."""

    def __init__(self, ids: Tensor, stops: Stops, streamer: BaseStreamer | None) -> None:
        self.length = ids.shape[1]
        self.ids = ids.long()
        self.stops, self.streamer = stops, streamer

    def emit(self, tokens: list[int]) -> bool:
        """Append tokens one by one until one of them ends the text; whether one did."""
        end = self.length + len(tokens)
        if end > self.ids.shape[1]:
            self.ids = torch.cat((self.ids, self.ids.new_empty(1, max(len(tokens), self.ids.shape[1]))), dim=1)
        self.ids[0, self.length : end] = torch.tensor(tokens)
        for token in tokens:
            self.length += 1
            if self.streamer is not None:
                self.streamer.put(torch.tensor([token]))
            if self.stops(self.ids[:, : self.length], token):
                return True
        return False

    @property
    def sequences(self) -> Tensor:
        return self.ids[:, : self.length].clone()


class Record(NamedTuple):
    """What the host reads of a cycle."""

    num_accepted: Tensor  # int32 [B]
    tokens: Tensor  # int64 [B, P], accepted tokens and the bonus token, padded to the tree's deepest path

    def read(self) -> tuple[list[int], list[list[int]]]:
        """`num_accepted` and the new tokens of each sequence: the cycle's one read from the device."""
        rows = torch.cat((self.num_accepted[:, None].long(), self.tokens), dim=1).tolist()
        return [row[0] for row in rows], [row[1 : row[0] + 2] for row in rows]


class _Missed:
    """Tokens and features of cycles without a draft, for the drafter's next update.

    The count lives on the device, where the cycles write; the host keeps its own, to know when there is no more room.
    """

    def __init__(self, features: Tensor) -> None:
        batch_size, _, hidden_size = features.shape
        self.tokens = torch.zeros(batch_size, MAX_CHAIN, dtype=torch.int64, device=features.device)
        self.features = features.new_zeros(batch_size, MAX_CHAIN, hidden_size)
        self.num_rows = torch.zeros(1, dtype=torch.int64, device=features.device)

    def append(self, tokens: Tensor, features: Tensor) -> None:
        """One more token `[B, 1]` and the feature before it `[B, 1, H]`."""
        self.tokens.index_copy_(1, self.num_rows, tokens)
        self.features.index_copy_(1, self.num_rows, features)
        self.num_rows += 1

    def feed(self, drafter: Drafter) -> None:
        """Have the drafter read them; none are missed then."""
        last = (self.num_rows - 1).int().expand(self.tokens.shape[0])
        drafter.update(self.tokens, self.features, last)
        self.num_rows.zero_()


class Cycle:
    """One cycle of one prompt, and all that it works on.

    Persistent: `root_tokens` int64 `[B]` (the last token of each text, which no cache holds yet), the target's cache,
    the drafter's own state, the missed tokens. `reserve` may replace buffers of the caches by larger ones.
    """

    def __init__(
        self,
        target: Target,
        drafter: Drafter,
        cache: TreeCache,
        prompt: Prompt,
        root_tokens: Tensor,
        rope_delta: Tensor | None,
        most_nodes: int,
        clock: _Clock,
    ) -> None:
        self.target, self.drafter, self.cache, self.clock = target, drafter, cache, clock
        self.root_tokens, self.rope_delta, self.most_nodes = root_tokens.clone(), rope_delta, most_nodes
        self.missed = _Missed(prompt.features)
        self.num_missed = 0
        self.no_guess = _root_alone(self.root_tokens)
        with clock.stage("prefill"):
            drafter.prefill(prompt, root_tokens)
            cache.start_verifying()

    def reserve(self, length: int) -> None:
        """Make room for a cycle behind a text of `length` tokens."""
        with self.clock.stage("draft"):
            self.cache.reserve(length + self.most_nodes)
            self.drafter.reserve(length)

    def catch_up(self) -> None:
        """Let the drafter read the tokens that it missed: a fixed amount of work whatever their number."""
        if self.num_missed:
            with self.clock.stage("draft"):
                self.missed.feed(self.drafter)
            self.num_missed = 0

    def run(self, tree: TreeConfig | None) -> Record:
        """Draft a tree, verify, accept, compact, update; None: let the target write one token by itself.

        Before a tree comes behind cycles without one, and before more than `MAX_CHAIN` of those, call `catch_up`.
        """
        with self.clock.stage("draft"):
            guess = self.no_guess if tree is None else self.drafter.propose(self.root_tokens, tree)
        with self.clock.stage("verify"):
            logits, features = self.target.verify(guess, self.cache, self.rope_delta)
        with self.clock.stage("accept"):
            most_accepted = 0 if tree is None else tree.max_accepted
            target_tokens = select_tokens(logits)
            nodes, num_accepted, bonus = accept_path(guess.tokens, guess.parents, target_tokens, most_accepted)
            self.cache.compact(nodes, num_accepted)
            path = nodes.long()
            tokens = target_tokens.gather(1, path)  # a node's own target token is the next one on the path
            features = features.gather(1, path[..., None].expand(-1, -1, features.shape[2]))
            self.root_tokens.copy_(bonus)
        with self.clock.stage("draft"):
            if tree is None:
                self.missed.append(tokens, features)
                self.num_missed += 1
            else:
                self.drafter.update(tokens, features, num_accepted)
        return Record(num_accepted, tokens)


def _root_alone(root_tokens: Tensor) -> Tree:
    """A tree without a guess; its token is a view of `root_tokens` `[B]` and changes with it."""
    tokens = root_tokens[:, None]
    zeros = torch.zeros_like(tokens, dtype=torch.int32)
    return Tree(tokens, parents=zeros - 1, depths=zeros, ancestors=torch.ones_like(tokens)[..., None])


def decode(
    target: Target,
    drafter: Drafter,
    plan: Plan,
    input_ids: Tensor,
    model_kwargs: Mapping[str, Any],
    stops: Stops,
    streamer: BaseStreamer | None,
    budget: int,
) -> Decoded:
    """Greedy speculative decoding of one prompt.

    Args:
        target, drafter: `drafter` is new, made for the trees of `plan`, and serves this call only.
        plan: says what is drafted, cycle by cycle; its largest tree sizes the cache.
        input_ids: int64 `[1, L]`.
        model_kwargs: as `model.generate` hands them to a custom_generate callable.
        stops: when to end.
        streamer: gets each token, not its end.
        budget: rows to allocate for new tokens; more are allocated when needed.
    """
    clock, text = _Clock(), _Text(input_ids, stops, streamer)
    batch_size, prompt_length = input_ids.shape
    most_nodes = max(tree.num_nodes for tree in plan.trees)
    cache = target.new_cache(prompt_length + budget + most_nodes, batch_size)
    trees: list[TreeConfig | None] = []
    num_accepted: list[list[int]] = []  # [num_cycles][B]
    with target.attached():
        with clock.stage("prefill"):
            prompt = target.prefill(input_ids, model_kwargs, cache)
            delta = rope_delta(model_kwargs.get("position_ids"), prompt_length)
            root_tokens = select_tokens(prompt.logits[:, None])[:, 0]
        if not text.emit(root_tokens.tolist()):
            cycle = Cycle(target, drafter, cache, prompt, root_tokens, delta, most_nodes, clock)
            del prompt
            with target.verification():
                while True:
                    tree = plan.next_tree(text.length)
                    cycle.reserve(text.length)
                    if tree is not None or cycle.num_missed == MAX_CHAIN:
                        cycle.catch_up()
                    start = time.perf_counter()
                    accepted, tokens = cycle.run(tree).read()
                    plan.note(tree, accepted, time.perf_counter() - start)
                    trees.append(tree)
                    num_accepted.append(accepted)
                    if text.emit(tokens[0]):
                        break
    cache.stop_verifying(text.length - 1)
    counts = torch.tensor(num_accepted, dtype=torch.int32).view(len(num_accepted), batch_size)
    drafted = torch.tensor([tree.num_nodes - 1 if tree else 0 for tree in trees], dtype=torch.int32)
    speculation = Speculation(
        num_cycles=len(num_accepted),
        num_accepted=counts,
        num_drafted=((counts >= 0) * drafted[:, None]).sum(0).int(),
        num_emitted=torch.full((batch_size,), text.length - prompt_length, dtype=torch.int32),
        seconds=clock.finish(),
        trees=trees,
    )
    return Decoded(text.sequences, speculation, cache)
