"""How the target's tokens are chosen on the device, at all nodes of a tree at once.

What `model.generate` hands over as logits processors is recognised by type and becomes `Rules`, which `select_tokens`
follows. A draw is keyed by the call's seed and the token's position, so it is the same whatever tree it is made in.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers.generation.logits_process import (
    LogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from vispec.ops import select_tokens
from vispec.processes import Processes
from vispec.tree import MAX_NODES, Tree

SEEN_BITS = 32  # tokens a word of `seen`


@dataclass(frozen=True)
class Rules:
    """Options of `select_tokens` for one call; as they stand: argmax of the logits.

    Attributes:
        samples: Whether tokens are drawn.
        ignored: Leading tokens of the prompt that the penalty does not count; a tensor `[B]`: of each sequence.
    """

    samples: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    ignored: int | Tensor = 0


def _filter_option(name: str) -> Callable[[Any], dict[str, Any] | None]:
    def read(warper: Any) -> dict[str, Any] | None:
        is_usual = warper.filter_value == -float("inf") and warper.min_tokens_to_keep == 1
        return {name: getattr(warper, name)} if is_usual else None

    return read


# options of a processor's type, in the order in which `select_tokens` applies them; None: it cannot
_READERS: dict[type[LogitsProcessor], Callable[[Any], dict[str, Any] | None]] = {
    RepetitionPenaltyLogitsProcessor: lambda processor: {
        "repetition_penalty": processor.penalty,
        "ignored": 0 if processor.prompt_ignore_length is None else processor.prompt_ignore_length,
    },
    TemperatureLogitsWarper: lambda warper: {"temperature": warper.temperature},
    TopKLogitsWarper: _filter_option("top_k"),
    TopPLogitsWarper: _filter_option("top_p"),
    MinPLogitsWarper: _filter_option("min_p"),
}


def rules_of(processors: Sequence[LogitsProcessor], samples: bool) -> Rules | None:
    """What `select_tokens` has to do for the same choice; None where a processor or their order is not its own."""
    order = list(_READERS)
    if not samples:
        order = order[:1]  # an argmax after a temperature could differ by its rounding
    options: dict[str, Any] = {}
    for processor in processors:
        kind = type(processor)
        found = _READERS[kind](processor) if kind in order else None
        if found is None:
            return None
        order = order[order.index(kind) + 1 :]
        options.update(found)
    return Rules(samples=samples, **options)


class Chooser(Protocol):
    """What the cycle asks: the target's tokens at the nodes of a tree.

    Attributes:
        mode: What a graph of the cycle depends on, beside tensors that are changed in place.
        emits: Whether it has emitted the tokens of the accepted path by the time that `choose` returns.
        most_accepted: Nodes below the root that a cycle may accept, as far as it is concerned; right after `choose`.
    """

    @property
    def mode(self) -> Hashable: ...

    @property
    def emits(self) -> bool: ...

    @property
    def most_accepted(self) -> int: ...

    def choose(self, logits: Tensor, tree: Tree, positions: Tensor) -> Tensor:
        """Tokens int64 `[B, N]` after the nodes, from logits `[B, N, V]`.

        Positions int32 `[B, N]`: tokens before each node, without padding.
        """

    def note(self, tokens: Tensor, num_accepted: Tensor) -> None:
        """The texts go on with the first `num_accepted + 1` (int32 `[B]`) of their `tokens` int64 `[B, P]`."""


class Choice:
    """Chooses by `select_tokens`. Its tensors persist: each call of `generate` begins by filling them.

    Args:
        batch_size, vocab_size, device: of the logits.
        processes: that have to choose the same.
    """

    emits = False
    most_accepted = MAX_NODES

    def __init__(
        self, batch_size: int, vocab_size: int, device: torch.device, processes: Processes | None = None
    ) -> None:
        self.processes = processes or Processes()
        self.samples, self.is_penalised = False, False
        self.options = {
            name: torch.zeros(batch_size, dtype=dtype, device=device)
            for name, dtype in (
                ("temperature", torch.float32),
                ("top_k", torch.int32),
                ("top_p", torch.float32),
                ("min_p", torch.float32),
                ("repetition_penalty", torch.float32),
                ("seed", torch.int64),
            )
        }
        self.seen = torch.zeros(batch_size, -(-vocab_size // SEEN_BITS), dtype=torch.int32, device=device)

    @property
    def mode(self) -> Hashable:
        return self.samples, self.is_penalised

    def begin(self, rules: Rules, seed: int, input_ids: Tensor) -> None:
        """Forget the last call; `input_ids` int64 `[B, L]`: what the texts hold already."""
        self.samples, self.is_penalised = rules.samples, rules.repetition_penalty != 1.0
        self.options["seed"].fill_(seed)
        for name in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty"):
            self.options[name].fill_(getattr(rules, name))
        if not rules.samples:
            self.options["temperature"].zero_()
        if self.is_penalised:
            self.seen.copy_(_seen_bits(input_ids.long(), rules.ignored, self.seen.shape[1]))

    def choose(self, logits: Tensor, tree: Tree, positions: Tensor) -> Tensor:
        return self.processes.agreed(self._select(logits, tree, positions))[0]

    def _select(self, logits: Tensor, tree: Tree, positions: Tensor) -> Tensor:
        if self.is_penalised:
            return select_tokens(logits, tree.tokens, tree.parents, positions, self.seen, **self.options)
        if self.samples:
            options = {name: option for name, option in self.options.items() if name != "repetition_penalty"}
            return select_tokens(logits, positions=positions, **options)
        return select_tokens(logits)

    def note(self, tokens: Tensor, num_accepted: Tensor) -> None:
        if not self.is_penalised:
            return
        index = torch.arange(tokens.shape[1], device=tokens.device)
        tokens = torch.where(index <= num_accepted[:, None], tokens, tokens[:, :1])  # padding: one that is there
        words, bits = tokens // SEEN_BITS, 1 << (tokens % SEEN_BITS)
        is_repeated = (tokens[:, :, None] == tokens[:, None, :]).tril(-1).any(2)
        bits = bits.masked_fill(is_repeated, 0)  # distinct bits: their sum over a word is their union
        union = ((words[:, :, None] == words[:, None, :]) * bits[:, None, :]).sum(2)
        self.seen.scatter_(1, words, self.seen.gather(1, words) | union.int())


def _seen_bits(ids: Tensor, ignored: int | Tensor, num_words: int) -> Tensor:
    """int32 `[B, num_words]` with the bits of the tokens `ids` `[B, L]`, but of the first `ignored` of each."""
    first = ignored.to(ids.device)[:, None] if isinstance(ignored, Tensor) else ignored
    counted = torch.arange(ids.shape[1], device=ids.device) >= first
    is_seen = torch.zeros(len(ids), num_words * SEEN_BITS, dtype=torch.int64, device=ids.device)
    is_seen.scatter_reduce_(1, ids, counted.long().expand_as(ids), "amax")
    bits = 1 << torch.arange(SEEN_BITS, device=ids.device)
    return (is_seen.unflatten(1, (num_words, SEEN_BITS)) * bits).sum(2).int()


def draw_seed(generator: torch.Generator | None) -> int:
    """One draw of 64 bits from `generator`, or from torch's own: `torch.manual_seed` fixes what follows."""
    device = "cpu" if generator is None else generator.device
    return int(torch.randint(-(2**63), 2**63 - 1, (), generator=generator, device=device))
