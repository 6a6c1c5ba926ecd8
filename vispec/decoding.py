"""The cycle: draft a tree, verify it in one pass of the target, accept a path, compact the cache.

    prefill   target over prompt and images; drafter over the same, images compressed
    draft     drafter proposes N nodes
    verify    one target pass over them
    accept    the target's token at each node, the path that agrees, the bonus token
    compact   accepted rows move behind the prefix, in all layers

Shapes do not depend on the text, lengths live on the device: what lies between two reads of a cycle's record could be
captured in a graph. It does not know which drafter it runs.
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
from vispec.draft.drafter import Drafter
from vispec.ops import accept_path, select_tokens
from vispec.target import Prompt, Target, rope_delta
from vispec.tree import TreeConfig

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
    """

    num_cycles: int
    num_accepted: Tensor
    num_drafted: Tensor
    num_emitted: Tensor
    seconds: dict[str, float] = field(default_factory=dict)

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


class _Kept(NamedTuple):
    """What a cycle keeps, padded to the tree's deepest path; `num_accepted + 1` entries are real."""

    tokens: Tensor  # int64 [B, P], accepted tokens and the bonus token
    features: Tensor  # [B, P, H], of the root and the accepted nodes
    num_accepted: Tensor  # int32 [B]
    bonus: Tensor  # int64 [B]

    def read(self) -> tuple[list[int], list[list[int]]]:
        """`num_accepted` and the new tokens of each sequence: the cycle's one read from the device."""
        rows = torch.cat((self.num_accepted[:, None].long(), self.tokens), dim=1).tolist()
        return [row[0] for row in rows], [row[1 : row[0] + 2] for row in rows]


class _Run:
    """The models and the state of one prompt's decoding."""

    def __init__(self, target: Target, drafter: Drafter, tree: TreeConfig, cache: TreeCache) -> None:
        self.target, self.drafter, self.tree, self.cache = target, drafter, tree, cache
        self.clock = _Clock()
        self.rope_delta: Tensor | None = None

    def read_prompt(self, input_ids: Tensor, model_kwargs: Mapping[str, Any]) -> tuple[Prompt, Tensor]:
        """The target's prefill; the prompt as the drafter will read it, and the first token `[B]`."""
        with self.clock.stage("prefill"):
            prompt = self.target.prefill(input_ids, model_kwargs, self.cache)
            self.rope_delta = rope_delta(model_kwargs.get("position_ids"), input_ids.shape[1])
            return prompt, select_tokens(prompt.logits[:, None])[:, 0]

    def start_drafting(self, prompt: Prompt, root_tokens: Tensor) -> None:
        """The drafter's prefill; from here on only `cycle` and `go_on` in turn."""
        with self.clock.stage("prefill"):
            self.drafter.prefill(prompt, root_tokens)
            self.cache.start_verifying()

    def cycle(self, root_tokens: Tensor) -> _Kept:
        """Draft, verify, accept, compact."""
        with self.clock.stage("draft"):
            tree = self.drafter.propose(root_tokens)
        with self.clock.stage("verify"):
            logits, features = self.target.verify(tree, self.cache, self.rope_delta)
        with self.clock.stage("accept"):
            target_tokens = select_tokens(logits)
            nodes, num_accepted, bonus = accept_path(tree.tokens, tree.parents, target_tokens, self.tree.max_accepted)
            self.cache.compact(nodes, num_accepted)
            path = nodes.long()
            return _Kept(
                tokens=target_tokens.gather(1, path),  # a node's own target token is the next one on the path
                features=features.gather(1, path[..., None].expand(-1, -1, features.shape[2])),
                num_accepted=num_accepted,
                bonus=bonus,
            )

    def go_on(self, kept: _Kept, length: int) -> Tensor:
        """Feed the drafter and make room for another cycle after `length` tokens; the next root `[B]`."""
        with self.clock.stage("draft"):
            self.cache.reserve(length + self.tree.num_nodes)
            self.drafter.reserve(length)
            self.drafter.update(kept.tokens, kept.features, kept.num_accepted)
        return kept.bonus


def decode(
    target: Target,
    drafter: Drafter,
    tree: TreeConfig,
    input_ids: Tensor,
    model_kwargs: Mapping[str, Any],
    stops: Stops,
    streamer: BaseStreamer | None,
    budget: int,
) -> Decoded:
    """Greedy speculative decoding of one prompt.

    Args:
        target, drafter: `drafter` is new and serves this call only.
        tree: what the drafter drafts; sizes the cache.
        input_ids: int64 `[1, L]`.
        model_kwargs: as `model.generate` hands them to a custom_generate callable.
        stops: when to end.
        streamer: gets each token, not its end.
        budget: rows to allocate for new tokens; more are allocated when needed.
    """
    text = _Text(input_ids, stops, streamer)
    batch_size, prompt_length = input_ids.shape
    cache = target.new_cache(prompt_length + budget + tree.num_nodes, batch_size)
    run = _Run(target, drafter, tree, cache)
    num_accepted: list[list[int]] = []  # [num_cycles][B]
    with target.attached():
        prompt, root_tokens = run.read_prompt(input_ids, model_kwargs)
        if not text.emit(root_tokens.tolist()):
            run.start_drafting(prompt, root_tokens)
            del prompt
            with target.verification():
                while True:
                    kept = run.cycle(root_tokens)
                    accepted, tokens = kept.read()
                    num_accepted.append(accepted)
                    if text.emit(tokens[0]):
                        break
                    root_tokens = run.go_on(kept, text.length)
    cache.stop_verifying(text.length - 1)
    counts = torch.tensor(num_accepted, dtype=torch.int32).view(len(num_accepted), batch_size)
    speculation = Speculation(
        num_cycles=len(num_accepted),
        num_accepted=counts,
        num_drafted=((counts >= 0).sum(0) * (tree.num_nodes - 1)).int(),
        num_emitted=torch.full((batch_size,), text.length - prompt_length, dtype=torch.int32),
        seconds=run.clock.finish(),
    )
    return Decoded(text.sequences, speculation, cache)
