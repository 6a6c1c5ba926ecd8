"""Decoding on a GPU: `python benchmarks/gpu/end_to_end.py OUTPUT.json`.

The pair that ships, with its real acceptance; then the text decoders of Qwen2.5-VL-7B and LLaVA-1.6-7B with random
weights and simulated acceptance (`simulated.py`), behind 2,048 tokens: tokens a second against transformers' `generate`
(dynamic cache; static cache, compiled), and a cycle's time over its byte floor.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from simulated import GEOMETRIES, SimulatedDraft, make_target
from timing import copy_bandwidth, machine, write
from torch import Tensor
from transformers import PreTrainedModel

import vispec
from vispec.pair import make_sample
from vispec.pair.pretrained import DRAFT, WEIGHTS, load_pair

DEVICE, DTYPE = torch.device("cuda"), torch.bfloat16
PROMPT, NEW_TOKENS, ROUNDS = 2048, 256, 3
MEANS = (2.24, 2.98)  # accepted draft tokens a cycle, as the paper has them for two of its targets
TREE = vispec.TreeConfig()
PAIR_TREES = (vispec.TreeConfig(), vispec.TreeConfig(5, 4, 16))
DESCRIPTIONS = {"scene/describe": 1.0}


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Median seconds of ROUNDS calls after a warm-up, and the last result."""
    call()
    times = []
    for _ in range(ROUNDS):
        torch.cuda.synchronize()
        start = time.perf_counter()
        result = call()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times), result


def measure_pair(dtype: torch.dtype, images: int) -> dict[str, Any]:
    """All pictures one after the other; answers compared token for token."""
    pair = load_pair(dtype=dtype)
    pair.model.to(DEVICE)
    draft = vispec.load_draft(WEIGHTS / DRAFT, target=pair.model)
    samples = [make_sample(5, "test", index, DESCRIPTIONS) for index in range(images)]
    prompts = [pair.inputs(sample.image, sample.question).to(DEVICE) for sample in samples]
    for prompt in prompts:
        prompt["pixel_values"] = prompt["pixel_values"].to(dtype)
    options = {"do_sample": False, "max_new_tokens": 200}

    def plain(**more: Any) -> list[Tensor]:
        return [pair.model.generate(**prompt, **options, **more) for prompt in prompts]

    seconds, expected = timed(plain)
    tokens = sum(text.shape[1] - prompt["input_ids"].shape[1] for text, prompt in zip(expected, prompts, strict=True))
    rows = [{"decoder": "generate", "tokens_per_second": tokens / seconds}]
    lookup_seconds, _ = timed(lambda: plain(prompt_lookup_num_tokens=4))
    rows.append({"decoder": "generate, prompt lookup", "tokens_per_second": tokens / lookup_seconds})
    for tree in (*PAIR_TREES, "auto"):

        def ours(tree: Any = tree) -> list[vispec.SpeculativeOutput]:
            more = {"tree": tree, "return_dict_in_generate": True}
            return [vispec.generate(pair.model, draft, prompt, **options, **more) for prompt in prompts]

        seconds, outputs = timed(ours)
        same = sum(torch.equal(a, b.sequences) for a, b in zip(expected, outputs, strict=True))
        accepted = torch.cat([output.speculation.num_accepted for output in outputs]).float().mean().item()
        row = {"decoder": str(tree), "tokens_per_second": tokens / seconds, "mean_accepted": accepted}
        rows.append({**row, "identical": f"{same} of {images}"})
    return {"dtype": str(dtype), "images": images, "rows": rows}


def byte_floor(model: PreTrainedModel, draft: vispec.Draft, bandwidth: float) -> float:
    """Seconds to read once a cycle what it needs: weights and cached rows of both, the head once a draft pass more."""
    config = model.config
    size = DTYPE.itemsize
    weights = sum(p.numel() for p in model.parameters()) - model.get_input_embeddings().weight.numel()
    rows = (
        (PROMPT + NEW_TOKENS // 2) * 2 * config.num_key_value_heads * config.hidden_size // config.num_attention_heads
    )
    passes = TREE.depth + 1  # of the draft's layer: one a level below the first, and the update
    layer = sum(p.numel() for name, p in draft.model.named_parameters() if "imadpt" not in name)
    head = model.get_output_embeddings().weight.numel()
    moved = weights + rows * config.num_hidden_layers + passes * (layer + rows) + passes * head
    return moved * size / bandwidth


def measure_geometry(name: str, bandwidth: float, compiled: bool) -> dict[str, Any]:
    model = make_target(name, DEVICE, DTYPE)
    prompt = torch.randint(1, model.config.vocab_size, (1, PROMPT), device=DEVICE)
    options = {"max_new_tokens": NEW_TOKENS, "do_sample": False}
    seconds, expected = timed(lambda: model.generate(prompt, **options))
    rows = [{"decoder": "generate, dynamic cache", "tokens_per_second": NEW_TOKENS / seconds}]
    if compiled:
        compiled_seconds, _ = timed(lambda: model.generate(prompt, cache_implementation="static", **options))
        rows.append({"decoder": "generate, static compiled", "tokens_per_second": NEW_TOKENS / compiled_seconds})
    result: dict[str, Any] = {"target": name, "acceptance": "simulated", "rows": rows}
    for mean in MEANS:
        draft = SimulatedDraft(model, mean)

        def ours(draft: vispec.Draft = draft) -> vispec.SpeculativeOutput:
            return vispec.generate(model, draft, prompt, tree=TREE, return_dict_in_generate=True, **options)

        seconds, output = timed(ours)
        report = output.speculation
        cycle = (seconds - report.seconds["prefill"]) / report.num_cycles
        floor = byte_floor(model, draft, bandwidth)
        rows.append(
            {
                "decoder": f"vispec {TREE}",
                "tokens_per_second": NEW_TOKENS / seconds,
                "mean_accepted": report.mean_accepted,
                "cycle_ms": cycle * 1e3,
                "floor_ms": floor * 1e3,
                "cycle_over_floor": cycle / floor,
                "seconds": {stage: round(value, 4) for stage, value in report.seconds.items()},
                "identical": bool(torch.equal(expected, output.sequences)),
            }
        )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--images", type=int, default=20, help="for the pair (default %(default)s)")
    parser.add_argument("--compiled", action="store_true", help="the compiled static cache too: minutes of compiling")
    arguments = parser.parse_args()
    bandwidth = copy_bandwidth()
    result: dict[str, Any] = {"machine": machine(), "copy_bytes_per_second": bandwidth, "pair": [], "simulated": []}
    for dtype in (torch.float32, DTYPE):
        result["pair"].append(measure_pair(dtype, arguments.images))
        write(arguments.output, result)
        print(result["pair"][-1], flush=True)
    for name in GEOMETRIES:
        result["simulated"].append(measure_geometry(name, bandwidth, arguments.compiled))
        write(arguments.output, result)
        print(result["simulated"][-1], flush=True)
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
