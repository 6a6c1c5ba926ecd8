"""What decoding costs: bytes and flops of draft and verification by their sizes, and the seconds that a device needs.

A pass over few rows reads each weight and each cached key and value once, whatever the rows are, and calculates with
all of them for each row. To the time of both comes a fixed cost for each layer that is run: the host's, or a kernel's
launch. Rates are measured by products of matrices and copies of a cache; fixed costs are what is left over in two short
texts, one decoded plainly and one with a small tree (`vispec.calibration`). All else is predicted: other trees, other
lengths of text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vispec.draft.config import DraftConfig
from vispec.graphs import EXPERT_FIELDS
from vispec.tree import TreeConfig


@dataclass(frozen=True)
class Work:
    """What some passes read and calculate.

    Args:
        bytes: read.
        flops: calculated.
        layers: that are run, each pass anew.
        copied: bytes of caches that are written anew to append to them.
    """

    bytes: float = 0.0
    flops: float = 0.0
    layers: int = 0
    copied: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(
            self.bytes + other.bytes,
            self.flops + other.flops,
            self.layers + other.layers,
            self.copied + other.copied,
        )

    def __mul__(self, times: int) -> Work:
        return Work(self.bytes * times, self.flops * times, self.layers * times, self.copied * times)


@dataclass(frozen=True)
class Layer:
    """A decoder layer as a pass sees it.

    Args:
        weights: of all its matrices.
        kv_size: numbers that a cached position holds, keys and values.
        q_size: of a query of all heads.
    """

    weights: int
    kv_size: int
    q_size: int

    def work(self, rows: int, context: int, itemsize: int) -> Work:
        """A pass over `rows` new positions that see each other and `context` cached ones."""
        seen = context + rows
        moved = self.weights + self.kv_size * seen
        flops = 2 * rows * self.weights + 4 * rows * self.q_size * seen
        return Work(moved * itemsize, flops, 1)


def head_work(vocab_size: int, hidden_size: int, rows: int, itemsize: int) -> Work:
    """An LM head over `rows` features."""
    weights = vocab_size * hidden_size
    return Work((weights + rows * vocab_size) * itemsize, 2 * rows * weights)


def target_layer(text_config: Any) -> Layer:
    """Of a decoder with gated MLPs, as nearly all have.

    Raises:
        NotImplementedError: it has experts: what a pass reads hangs on the rows.
    """
    experts = next((name for name in EXPERT_FIELDS if getattr(text_config, name, None)), None)
    if experts is not None:
        raise NotImplementedError(f"model: costs of a model with experts ({experts}) cannot be predicted")
    hidden, heads = text_config.hidden_size, text_config.num_attention_heads
    head_dim = getattr(text_config, "head_dim", None) or hidden // heads
    kv_heads = getattr(text_config, "num_key_value_heads", None) or heads
    weights = 2 * hidden * head_dim * (heads + kv_heads) + 3 * hidden * text_config.intermediate_size
    return Layer(weights, 2 * kv_heads * head_dim, heads * head_dim)


def plain_work(text_config: Any, context: int, itemsize: int) -> Work:
    """A step of transformers' own decoding: its cache is copied for each token."""
    copied = target_layer(text_config).kv_size * context * text_config.num_hidden_layers
    return target_work(text_config, 1, context, itemsize) + Work(copied=copied * itemsize)


def target_work(text_config: Any, rows: int, context: int, itemsize: int) -> Work:
    """A pass of the target over `rows` behind `context` cached positions, the LM head included."""
    layers = target_layer(text_config).work(rows, context, itemsize) * text_config.num_hidden_layers
    return layers + head_work(text_config.vocab_size, text_config.hidden_size, rows, itemsize)


def draft_work(config: DraftConfig, tree: TreeConfig, context: int, itemsize: int) -> Work:
    """All of the draft in one cycle: the update, and its passes with the LM head; `context`: its own cached rows."""
    hidden, kv_hidden = config.hidden_size, config.num_key_value_heads * config.head_dim
    inputs = 2 * hidden * hidden  # fc and img_fc, as one
    weights = inputs + 2 * hidden * (hidden + kv_hidden) + 3 * hidden * config.intermediate_size
    layer = Layer(weights, 2 * kv_hidden, hidden)
    vocab_size = config.draft_vocab_size or config.vocab_size
    work = layer.work(tree.max_accepted + 1, context, itemsize) + head_work(vocab_size, hidden, 1, itemsize)
    for level in range(tree.depth):
        work += layer.work(tree.top_k, context + level * tree.top_k, itemsize)
        work += head_work(vocab_size, hidden, tree.top_k, itemsize)
    return work


@dataclass(frozen=True)
class Rates:
    """What a device reads, calculates and copies in a second.

    Args:
        bandwidth: bytes, of weights that a single row is multiplied with.
        copying: bytes of a cache that grows by a row, into new memory.
        flops: on a CPU what rows cost beyond the first, as many as a tree has; on a GPU, which so few do not keep busy,
            what many need in all.
        overlaps: a GPU calculates while it reads; on a CPU one comes to the other, nearly.
    """

    bandwidth: float
    copying: float
    flops: float
    overlaps: bool

    def seconds(self, work: Work) -> float:
        """Without fixed costs."""
        reading, calculating = work.bytes / self.bandwidth, work.flops / self.flops
        products = max(reading, calculating) if self.overlaps else reading + calculating
        return products + work.copied / self.copying


@dataclass(frozen=True)
class Costs:
    """Seconds of a cycle, or of its parts."""

    draft: float
    verify: float
    rest: float

    @property
    def cycle(self) -> float:
        return self.draft + self.verify + self.rest


@dataclass(frozen=True)
class CostModel:
    """Predicts cycles of one target and draft on one device.

    Args:
        plain_layer, verify_layer, draft_layer: fixed seconds for each layer that is run: of plain decoding (all of a
            step that is no layer's included), of verification, of the draft.
        rest: fixed seconds of a cycle beside.
    """

    text_config: Any
    draft_config: DraftConfig
    itemsize: int
    rates: Rates
    plain_layer: float
    verify_layer: float
    draft_layer: float
    rest: float

    def plain(self, context: int) -> float:
        """Seconds of a token, decoded plainly behind `context` others."""
        work = plain_work(self.text_config, context, self.itemsize)
        return self.rates.seconds(work) + work.layers * self.plain_layer

    def cycle(self, tree: TreeConfig, context: int, draft_context: int) -> Costs:
        """Of a cycle behind `context` tokens, of which the draft's cache holds `draft_context` rows."""
        verify = target_work(self.text_config, tree.num_nodes, context, self.itemsize)
        draft = draft_work(self.draft_config, tree, draft_context, self.itemsize)
        return Costs(
            self.rates.seconds(draft) + draft.layers * self.draft_layer,
            self.rates.seconds(verify) + verify.layers * self.verify_layer,
            self.rest,
        )

    def roofline(self, tree: TreeConfig, context: int, draft_context: int) -> float:
        """Seconds of a cycle without fixed costs."""
        verify = target_work(self.text_config, tree.num_nodes, context, self.itemsize)
        draft = draft_work(self.draft_config, tree, draft_context, self.itemsize)
        return self.rates.seconds(verify) + self.rates.seconds(draft)

    def speed_up(self, tree: TreeConfig, mean_accepted: float, context: int, draft_context: int) -> float:
        """Tokens a second over plain decoding's, behind the first token."""
        return (mean_accepted + 1) * self.plain(context) / self.cycle(tree, context, draft_context).cycle
