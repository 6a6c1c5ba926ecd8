"""Every operator on a GPU beside its floor and torch: `python benchmarks/gpu/operators.py FILE --mma-tflops X`.

Times are of one call inside a CUDA graph, inputs cold. The floor of a call is the larger of its bytes over the measured
copy bandwidth and its flops over the measured rate of the tensor-core instruction used.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from timing import copy_bandwidth, graph_seconds, machine, num_copies, write
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from vispec.ops import accept_path, append_kv, build_tree, compact_kv, expand_frontier, select_tokens, tree_attention

GEOMETRIES = ((28, 4, 128), (32, 32, 128), (32, 8, 128))  # query heads, key-value heads, head size
NODES, CONTEXTS = (16, 32, 64), (1024, 4096, 16384, 32768)
FLEX_NODES = 32  # it compiles for seconds a shape: one tree size
DEVICE, DTYPE = torch.device("cuda"), torch.bfloat16

Case = dict[str, Tensor]
Note = Callable[[dict[str, Any]], None]  # keeps a result


def make_tree(num_nodes: int) -> tuple[Tensor, Tensor]:
    """Mask words int64 `[1, N, W]` and the visible nodes bool `[N, N]` of a random tree."""
    draw = torch.Generator().manual_seed(0)
    seen = torch.zeros(num_nodes, -(-num_nodes // 64) * 64, dtype=torch.int64)
    for node in range(num_nodes):
        if node:
            seen[node] = seen[int(torch.randint((node - 1) // 4, node, (), generator=draw))]
        seen[node, node] = 1
    words = (seen.view(1, num_nodes, -1, 64) << torch.arange(64)).sum(-1)
    return words.to(DEVICE), seen[:, :num_nodes].bool().to(DEVICE)


def attention_cases(geometry: tuple[int, int, int], num_nodes: int, context: int) -> list[Case]:
    """Copies of one call's inputs, enough that each is cold."""
    heads, kv_heads, head_dim = geometry
    words, visible = make_tree(num_nodes)
    mask = torch.ones(num_nodes, context + num_nodes, dtype=torch.bool, device=DEVICE)
    mask[:, context:] = visible
    rows = context + num_nodes
    cases = []
    for _ in range(num_copies(4 * kv_heads * rows * head_dim)):
        cache = torch.randn(2, 1, kv_heads, rows, head_dim, dtype=DTYPE, device=DEVICE)
        q = torch.randn(1, num_nodes, heads, head_dim, dtype=DTYPE, device=DEVICE).transpose(1, 2)
        length = torch.tensor([context], dtype=torch.int32, device=DEVICE)
        case = {"q": q, "k": cache[0], "v": cache[1], "cache_len": length}
        cases.append({**case, "ancestors": words, "mask": mask})
    return cases


def ours(case: Case) -> Tensor:
    return tree_attention(case["q"], case["k"], case["v"], case["cache_len"], case["ancestors"])


def sdpa(case: Case) -> Tensor:
    """torch's own grouping of heads."""
    grouped = case["q"].shape[1] != case["k"].shape[1]
    return F.scaled_dot_product_attention(case["q"], case["k"], case["v"], attn_mask=case["mask"], enable_gqa=grouped)


def sdpa_packed(case: Case) -> Tensor:
    """The query heads of a key-value head as further rows: fused kernels take the mask then, and read K and V once."""
    q, k = case["q"], case["k"]
    group = q.shape[1] // k.shape[1]
    packed = q.reshape(1, k.shape[1], group * q.shape[2], q.shape[3])
    return F.scaled_dot_product_attention(packed, k, case["v"], attn_mask=case["packed_mask"])


def flex(num_nodes: int, context: int, words: Tensor) -> Callable[[Case], Tensor]:
    """FlexAttention compiled for this shape, its block mask made beforehand."""
    seen = words[0, :, 0]

    def sees(b: Tensor, h: Tensor, row: Tensor, key: Tensor) -> Tensor:
        return (key < context) | ((seen[row] >> (key - context).clamp(min=0)) & 1).bool()

    block_mask = create_block_mask(sees, None, None, num_nodes, context + num_nodes, device="cuda")
    compiled = torch.compile(flex_attention, dynamic=False)
    return lambda case: compiled(case["q"], case["k"], case["v"], block_mask=block_mask, enable_gqa=True)


def measure_attention(bandwidth: float, mma_rate: float, with_flex: bool, note: Note) -> None:
    for geometry in GEOMETRIES:
        heads, kv_heads, head_dim = geometry
        for num_nodes in NODES:
            for context in CONTEXTS:
                cases = attention_cases(geometry, num_nodes, context)
                rows = context + num_nodes
                moved = 2 * head_dim * (2 * kv_heads * rows + 2 * heads * num_nodes)
                flops = 4 * heads * num_nodes * rows * head_dim
                entry: dict[str, Any] = {
                    "heads": geometry,
                    "nodes": num_nodes,
                    "context": context,
                    "copies": len(cases),
                }
                floor = max(moved / bandwidth, flops / mma_rate)
                entry |= {"floor_us": floor * 1e6, "bound_by": "bytes" if moved / bandwidth >= floor else "flops"}
                entry["vispec_us"] = graph_seconds([partial(ours, case) for case in cases]) * 1e6
                for case in cases:
                    case["packed_mask"] = case["mask"].repeat(heads // kv_heads, 1)
                peers = {"sdpa": sdpa, "sdpa_packed": sdpa_packed}
                if with_flex and num_nodes == FLEX_NODES:
                    peers["flex"] = flex(num_nodes, context, cases[0]["ancestors"])
                for name, peer in peers.items():
                    entry[f"{name}_us"] = peer_us(peer, cases)
                note(entry)


def peer_us(peer: Callable[[Case], Tensor], cases: list[Case]) -> float | str:
    """Microseconds, or why it does not run."""
    try:
        return graph_seconds([partial(peer, case) for case in cases]) * 1e6
    except (RuntimeError, NotImplementedError) as error:
        return f"{type(error).__name__}: {str(error)[:200]}"


def measure_rest(bandwidth: float, note: Note) -> None:
    """The operators beside attention; select, accept and compact also as the cycle has them, together."""
    tree, levels = 64, 5
    parents = torch.tensor([[-1, *[n // 2 for n in range(tree - 1)]]], dtype=torch.int32, device=DEVICE)
    tokens = torch.arange(tree, device=DEVICE)[None]
    scores = -torch.arange(8 + 3 * 64, device=DEVICE, dtype=torch.float32)[None]  # parents come before their children
    candidate_parents = torch.tensor([[-1] * 8 + [i // 8 for i in range(3 * 64)]], dtype=torch.int32, device=DEVICE)

    def entry(name: str, calls: list[Callable[[], Any]], moved: int) -> None:
        note({"operator": name, "vispec_us": graph_seconds(calls) * 1e6, "floor_us": moved / bandwidth * 1e6})

    for vocab, layers, kv_heads in ((152064, 28, 4), (32064, 32, 32)):
        logits = torch.randn(num_copies(2 * tree * vocab), 1, tree, vocab, dtype=DTYPE, device=DEVICE)
        caches = [torch.randn(1, kv_heads, 4096, 128, dtype=DTYPE, device=DEVICE) for _ in range(2 * layers)]
        length = torch.tensor([2048], dtype=torch.int32, device=DEVICE)

        def judge(rows: Tensor, caches: list[Tensor] = caches, length: Tensor = length) -> None:
            nodes, accepted, _ = accept_path(tokens, parents, select_tokens(rows), levels)
            compact_kv(caches[::2], caches[1::2], length.clone(), nodes, accepted)

        entry(f"select_tokens V={vocab} N={tree}", [partial(select_tokens, x) for x in logits], 2 * tree * vocab)
        torch_us = graph_seconds([partial(torch.argmax, x, -1) for x in logits]) * 1e6
        note({"operator": f"torch.argmax V={vocab} N={tree}", "torch_us": torch_us})
        judged = 2 * tree * vocab + 4 * layers * kv_heads * 256 * levels
        entry(f"select + accept + compact V={vocab} L={layers}", [partial(judge, x) for x in logits], judged)
        frontier = logits[:, :, :8]
        zero = torch.zeros(1, 8, device=DEVICE)
        entry(f"expand_frontier V={vocab} F=8", [partial(expand_frontier, x, zero, 8) for x in frontier], 16 * vocab)
        k = torch.randn(1, kv_heads, tree, 128, dtype=DTYPE, device=DEVICE)
        copies = [partial(append_kv, k, k, caches[2 * i], caches[2 * i + 1], length) for i in range(layers)]
        entry(f"append_kv Hkv={kv_heads} N={tree}", copies, 4 * 256 * kv_heads * tree)
    candidates = torch.arange(200, device=DEVICE)[None]
    grown = [partial(build_tree, tokens[:, 0].contiguous(), candidates, scores, candidate_parents, tree)]
    entry(f"build_tree C=200 N={tree}", grown * 8, 0)
    walk = [partial(accept_path, tokens, parents, tokens + 1, levels)]
    entry(f"accept_path N={tree}", walk * 8, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--mma-tflops", type=float, required=True, help="as benchmarks/gpu/mma_rate.cu prints it")
    parser.add_argument("--flex", action="store_true", help="FlexAttention too, which compiles for each shape")
    arguments = parser.parse_args()
    bandwidth = copy_bandwidth()
    result: dict[str, Any] = {"machine": machine(), "copy_bytes_per_second": bandwidth, "results": []}
    result["mma_tflops"] = arguments.mma_tflops

    def note(entry: dict[str, Any]) -> None:
        result["results"].append({k: round(v, 2) if isinstance(v, float) else v for k, v in entry.items()})
        write(arguments.output, result)
        print(result["results"][-1], flush=True)

    with torch.inference_mode():
        measure_rest(bandwidth, note)
        measure_attention(bandwidth, arguments.mma_tflops * 1e12, arguments.flex, note)


if __name__ == "__main__":
    main()
