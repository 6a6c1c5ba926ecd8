"""What a cycle costs beside the target's own pass over the same nodes, and whether memory stays flat.

    python benchmarks/cycle_overhead.py [--threads 1] [--output benchmarks/results/cycle_overhead.json]

The target is a random LLaVA text decoder of 24 layers and hidden size 192: deep and thin, so that the host's share is
as large as it gets. The floor of a cycle is one pass of that decoder, under transformers' own SDPA, over as many tokens
as the tree has nodes. Both are timed in turn in one process; medians after warm-up.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

import vispec
from vispec.draft.model import DraftModel

HIDDEN_SIZE, HEADS, LAYERS, INTERMEDIATE, VOCAB = 192, 3, 24, 512, 4096
PROMPT, NEW_TOKENS = 200, 64


def make_pair() -> tuple[LlamaForCausalLM, vispec.Draft]:
    """The target and a draft of its geometry, both random."""
    torch.manual_seed(0)
    sizes = {"hidden_size": HIDDEN_SIZE, "intermediate_size": INTERMEDIATE, "vocab_size": VOCAB}
    heads = {"num_attention_heads": HEADS, "num_key_value_heads": HEADS}
    model = LlamaForCausalLM(LlamaConfig(**sizes, **heads, num_hidden_layers=LAYERS)).eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model, vispec.Draft(DraftModel(vispec.DraftConfig(**sizes, **heads)), model)


@torch.no_grad()
def time_forward(model: LlamaForCausalLM, rows: int, prefix: int) -> float:
    """Seconds of the target's own pass over `rows` tokens behind `prefix` cached ones."""
    cache = DynamicCache(config=model.config)
    model(torch.randint(0, VOCAB, (1, prefix)), past_key_values=cache)
    nodes = torch.randint(0, VOCAB, (1, rows))
    mask = torch.ones(1, 1, rows, prefix + rows, dtype=torch.bool).tril(prefix)
    start = time.perf_counter()
    model(nodes, past_key_values=cache, attention_mask=mask)
    return time.perf_counter() - start


def time_cycle(model: LlamaForCausalLM, draft: vispec.Draft, tree: vispec.TreeConfig) -> dict[str, float]:
    """Seconds of a cycle by stage, mean over one call."""
    prompt = torch.randint(1, VOCAB, (1, PROMPT))  # 0 pads
    start = time.perf_counter()
    output = vispec.generate(
        model, draft, prompt, tree=tree, max_new_tokens=NEW_TOKENS, do_sample=False, return_dict_in_generate=True
    )
    report = output.speculation
    total = time.perf_counter() - start - report.seconds["prefill"]
    stages = {name: report.seconds[name] / report.num_cycles for name in ("draft", "verify", "accept")}
    return {**stages, "rest": total / report.num_cycles - sum(stages.values())}


def resident_mib() -> float:
    """This process's resident memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure(rounds: int, generations: int) -> dict[str, Any]:
    model, draft = make_pair()
    trees = {}
    for tree in (vispec.TreeConfig(3, 8, 8), vispec.TreeConfig(3, 8, 16), vispec.TreeConfig(3, 8, 30)):
        forwards, steps, cycles = [], [], []
        for index in range(rounds + 2):
            forward = [time_forward(model, tree.num_nodes, PROMPT + NEW_TOKENS // 2) for _ in range(8)]
            step = [time_forward(model, 1, PROMPT + NEW_TOKENS // 2) for _ in range(8)]
            cycle = time_cycle(model, draft, tree)
            if index >= 2:  # warm
                forwards += forward
                steps += step
                cycles.append(cycle)
        stages = {name: statistics.median(cycle[name] for cycle in cycles) for name in cycles[0]}
        cycle_seconds = statistics.median(sum(cycle.values()) for cycle in cycles)
        forward_seconds = statistics.median(forwards)
        trees[f"depth {tree.depth}, top_k {tree.top_k}, {tree.num_nodes} nodes"] = {
            "plain_step_ms": 1e3 * statistics.median(steps),
            "forward_ms": 1e3 * forward_seconds,
            "cycle_ms": 1e3 * cycle_seconds,
            "cycle_over_forward": cycle_seconds / forward_seconds,
            **{f"{name}_ms": 1e3 * seconds for name, seconds in stages.items()},
        }
    memory = []
    for index in range(generations):
        vispec.generate(model, draft, torch.randint(1, VOCAB, (1, 32)), max_new_tokens=12, do_sample=False)
        if index % (generations // 10) == generations // 10 - 1:
            memory.append(round(resident_mib(), 1))
    return {"trees": trees, "resident_mib_every_tenth": memory, "generations": generations}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--generations", type=int, default=200)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    result = {
        "command": f"python benchmarks/cycle_overhead.py --threads {arguments.threads} --rounds {arguments.rounds}",
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "threads": arguments.threads,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "target": f"random Llama, {LAYERS} layers, hidden {HIDDEN_SIZE}, vocabulary {VOCAB}, fp32, prompt {PROMPT}",
        **measure(arguments.rounds, arguments.generations),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
