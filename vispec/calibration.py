"""What the cost model does not know by sizes: a device's rates, and the fixed costs of a target and its draft there."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

import vispec
from vispec.arrivals import Arrivals
from vispec.cost import CostModel, Rates, draft_work, plain_work, target_layer, target_work
from vispec.draft.checkpoint import Draft
from vispec.tree import TreeConfig

SMALLEST = TreeConfig(1, 2, 4)  # the tree that is calibrated with
CALIBRATION_TOKENS, ROUNDS, CALLS = 24, 4, 15
MOST_BYTES = 1 << 30  # of the matrices that rates are measured with: those of a small model stay in a cache
CACHED_ROWS = 1024  # that the rate of copying is measured with
ROWS = {"cpu": 32, "cuda": 4096}  # that the rate of calculating is measured with: see `Rates`


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


@torch.no_grad()
def measure_rates(model: PreTrainedModel) -> Rates:
    """Of the model's device, by matrices and caches of its own sizes and dtype, as many as the model has."""
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
    copying = _measure_copying(config, device, dtype)
    return Rates(bandwidth, copying, flops / (calculating if overlaps else max(calculating - reading, 1e-9)), overlaps)


def _measure_copying(text_config: Any, device: torch.device, dtype: torch.dtype) -> float:
    """Bytes of keys and values a second that a cache is copied with when it grows."""
    kv_size = target_layer(text_config).kv_size
    size = CACHED_ROWS * kv_size * dtype.itemsize
    count = max(1, min(text_config.num_hidden_layers, MOST_BYTES // size))
    row = torch.zeros(1, kv_size // 2, device=device, dtype=dtype)
    caches = [torch.zeros(CACHED_ROWS, kv_size // 2, device=device, dtype=dtype) for _ in range(2 * count)]

    def grow() -> None:
        for index, cache in enumerate(caches):
            caches[index] = torch.cat((cache[:CACHED_ROWS], row))

    return count * size / _seconds(grow, device)


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
