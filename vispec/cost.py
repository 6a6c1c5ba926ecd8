"""What decoding costs: bytes and flops of draft and verification by their sizes, and the seconds that a device needs.

A pass over few rows reads each weight and each cached key and value once, whatever the rows are, and calculates with
all of them for each row. To the time of both comes a fixed cost for each layer that is run: the host's, or a kernel's
launch. Rates are measured by products of matrices; fixed costs are what is left over in two short texts, one decoded
plainly and one with the smallest tree (`calibrate`). All else is predicted: other trees, other lengths of text.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

import vispec
from vispec.arrivals import Arrivals
from vispec.draft.checkpoint import Draft
from vispec.draft.config import DraftConfig
from vispec.graphs import EXPERT_FIELDS
from vispec.tree import TreeConfig

SMALLEST = TreeConfig(1, 2, 4)  # the tree that is calibrated with
CALIBRATION_TOKENS, ROUNDS, CALLS = 24, 4, 15
MOST_BYTES = 1 << 30  # of the matrices that rates are measured with: those of a small model stay in a cache
ROWS = {"cpu": 32, "cuda": 4096}  # that the rate of calculating is measured with: see `Rates`


@dataclass(frozen=True)
class Work:
    """What some passes read and calculate; `layers` counts layers that are run, each pass anew."""

    bytes: float = 0.0
    flops: float = 0.0
    layers: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.bytes + other.bytes, self.flops + other.flops, self.layers + other.layers)

    def __mul__(self, times: int) -> Work:
        return Work(self.bytes * times, self.flops * times, self.layers * times)


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
    """A step of transformers' own decoding: its cache is copied for each token, which is read and written."""
    copied = 2 * target_layer(text_config).kv_size * context * text_config.num_hidden_layers
    return target_work(text_config, 1, context, itemsize) + Work(copied * itemsize)


def target_work(text_config: Any, rows: int, context: int, itemsize: int) -> Work:
    """A pass of the target over `rows` behind `context` cached positions, the LM head included."""
    layers = target_layer(text_config).work(rows, context, itemsize) * text_config.num_hidden_layers
    return layers + head_work(text_config.vocab_size, text_config.hidden_size, rows, itemsize)


def draft_work(config: DraftConfig, tree: TreeConfig, context: int, itemsize: int) -> Work:
    """All of the draft in one cycle: the update, and its passes with the LM head; `context`: its own cached rows."""
    hidden, kv_hidden = config.hidden_size, config.num_key_value_heads * config.head_dim
    inputs = 2 * hidden * hidden * (1 + config.global_feature)  # fc, img_fc
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
    """What a device reads and calculates in a second.

    Args:
        bandwidth: bytes, of weights that a single row is multiplied with.
        flops: on a CPU what rows cost beyond the first, as many as a tree has; on a GPU, which so few do not keep busy,
            what many need in all.
        overlaps: a GPU calculates while it reads; on a CPU one comes to the other, nearly.
    """

    bandwidth: float
    flops: float
    overlaps: bool

    def seconds(self, work: Work) -> float:
        """Without fixed costs."""
        reading, calculating = work.bytes / self.bandwidth, work.flops / self.flops
        return max(reading, calculating) if self.overlaps else reading + calculating


@torch.no_grad()
def measure_rates(model: PreTrainedModel) -> Rates:
    """Of the model's device, by matrices of its own sizes and dtype, as many as its weights take."""
    config, device, dtype = model.config.get_text_config(), model.device, model.dtype
    hidden, inner = config.hidden_size, config.intermediate_size
    size = min(MOST_BYTES, model.num_parameters() * dtype.itemsize)
    count = max(1, size // (hidden * inner * dtype.itemsize))
    matrices = torch.randn(count, inner, hidden, device=device, dtype=dtype)
    rows = torch.randn(ROWS[device.type], hidden, device=device, dtype=dtype)

    def multiply(x: Tensor) -> None:
        for matrix in matrices:
            F.linear(x, matrix)

    reading, calculating = (_seconds(partial(multiply, x), device) for x in (rows[:1], rows))
    overlaps = device.type == "cuda"
    flops = 2 * count * hidden * inner * (len(rows) if overlaps else len(rows) - 1)
    bandwidth = matrices.numel() * dtype.itemsize / reading
    return Rates(bandwidth, flops / (calculating if overlaps else max(calculating - reading, 1e-9)), overlaps)


def _seconds(call: Callable[[], Any], device: torch.device) -> float:
    """Median of some calls after two."""
    times = []
    for index in range(CALLS + 2):
        _wait(device)
        start = time.perf_counter()
        call()
        _wait(device)
        if index >= 2:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


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


def calibrate(model: PreTrainedModel, draft: Draft, inputs: Mapping[str, Any], draft_context: int) -> CostModel:
    """Measure the device's rates and the fixed costs, in about a second of decoding behind one prompt.

    Args:
        inputs: of one prompt, as `generate` takes them.
        draft_context: rows of the draft's cache that the prompt takes.

    Raises:
        NotImplementedError: see `target_layer`.
    """
    text_config, itemsize = model.config.get_text_config(), model.dtype.itemsize
    context = inputs["input_ids"].shape[1] + CALIBRATION_TOKENS // 2
    step = plain_work(text_config, context, itemsize)
    verify = target_work(text_config, SMALLEST.num_nodes, context, itemsize)
    drafting = draft_work(draft.config, SMALLEST, draft_context + CALIBRATION_TOKENS // 2, itemsize)
    rates = measure_rates(model)
    plain = _plain_step(model, inputs)
    stages = _cycle_stages(model, draft, inputs)
    plain_layer = max(0.0, plain - rates.seconds(step)) / step.layers
    if stages["captured"]:  # one number for all layers: a graph does not tell them apart
        left = stages["captured"] + stages["other"] - rates.seconds(verify) - rates.seconds(drafting)
        layer = max(0.0, left) / (verify.layers + drafting.layers)
        return CostModel(text_config, draft.config, itemsize, rates, plain_layer, layer, layer, 0.0)
    return CostModel(
        text_config,
        draft.config,
        itemsize,
        rates,
        plain_layer,
        max(0.0, stages["verify"] - rates.seconds(verify)) / verify.layers,
        max(0.0, stages["draft"] - rates.seconds(drafting)) / drafting.layers,
        stages["accept"] + stages["other"],
    )


def _options(model: PreTrainedModel) -> dict[str, Any]:
    """Of a greedy text that no token ends."""
    no_token = model.config.get_text_config().vocab_size
    return {"do_sample": False, "max_new_tokens": CALIBRATION_TOKENS, "eos_token_id": no_token}


def _plain_step(model: PreTrainedModel, inputs: Mapping[str, Any]) -> float:
    """Seconds of a token behind the first one."""
    gaps = []
    for index in range(ROUNDS + 1):
        arrivals = Arrivals()
        model.generate(**inputs, streamer=arrivals, **_options(model))
        gaps += _gaps(arrivals.times) if index else []
    return statistics.median(gaps)


def _cycle_stages(model: PreTrainedModel, draft: Draft, inputs: Mapping[str, Any]) -> dict[str, float]:
    """Seconds of a cycle with the smallest tree, by stage, without the prompt's."""
    gaps = []
    stages: dict[str, float] = {}
    for index in range(ROUNDS + 1):
        arrivals = Arrivals()
        output: Any = vispec.generate(
            model, draft, inputs, tree=SMALLEST, streamer=arrivals, return_dict_in_generate=True, **_options(model)
        )
        if index:
            cycles = output.speculation.num_accepted[:, 0].tolist()
            last = accumulate([accepted + 1 for accepted in cycles])  # token of each cycle, behind the prompt's own one
            # not the first cycle: before it the draft read the prompt; nor the last, which may have been cut
            gaps += _gaps([arrivals.times[token] for token in list(last)[:-1]])
            for name, value in output.speculation.seconds.items():
                stages[name] = stages.get(name, 0.0) + value
    del stages["prefill"]
    cycle = statistics.median(gaps)
    return {name: cycle * value / sum(stages.values()) for name, value in stages.items()}


def _gaps(times: Sequence[float]) -> list[float]:
    return [after - before for before, after in pairwise(times)]
