"""Runs tree_attention's kernels on the host by plans of one's own, through `planned_tree_attention.cpp`; its cases."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cuda_host import Schedule, byte_strides, make_struct, same_in_every_schedule
from cuda_host.run import run_file
from kv_cases import poison, random_ancestors

SOURCE = Path(__file__).with_suffix(".cpp")
HEADER = SOURCE.with_suffix(".h")
H100 = (132, 227 << 10)
RTX_5090 = (170, 99 << 10)
Case = dict[str, Any]
Plan = dict[str, int]


def tree_case(
    dtype: torch.dtype,
    heads: tuple[int, int],
    prefix: int,
    num_nodes: int,
    head_dim: int = 64,
    num_rows: int | None = None,
    starts: tuple[int, int] = (0, 0),
    seed: int = 0,
    spare: int = 3,
) -> Case:
    """Two sequences, the second with half the prefix; q as a model makes it; rows that nobody may see are NaN.

    Of a tree of `num_rows` (default: `num_nodes`) rows the last `num_nodes` are queries. K and V are cut out of one
    buffer, in rows of a multiple of 16 bytes.
    """
    draw = torch.Generator().manual_seed(seed)
    rows = num_rows or num_nodes
    capacity = prefix + rows + spare
    q = torch.randn(2, num_nodes, heads[0] + 1, head_dim, generator=draw).to(dtype)[:, :, 1:].transpose(1, 2)
    buffer = torch.full((2, capacity, 2, heads[1] + 1, head_dim + 16), torch.nan, dtype=dtype)
    cut = buffer[:, :, :, : heads[1], 8 : head_dim + 8]
    k_cache, v_cache = cut.copy_(torch.randn(cut.shape, generator=draw)).permute(2, 0, 3, 1, 4)
    cache_len = torch.tensor([prefix, prefix // 2], dtype=torch.int32)
    first = [min(start, length) for start, length in zip(starts, cache_len.tolist(), strict=True)]
    poison((k_cache, v_cache), first, [length + rows for length in cache_len.tolist()])
    ancestors = random_ancestors(2, rows, draw)[:, rows - num_nodes :].contiguous()
    case: Case = {"q": q, "k_cache": k_cache, "v_cache": v_cache, "cache_len": cache_len, "ancestors": ancestors}
    if any(starts):
        case["kv_start"] = torch.tensor(first, dtype=torch.int32)
    return case


def in_float64(case: Case) -> Case:
    return {
        name: value.double() if torch.is_tensor(value) and value.is_floating_point() else value
        for name, value in case.items()
    }


def params(case: Case, out: Tensor, options: dict[str, Any]) -> ctypes.Structure:
    q, k_cache = case["q"], case["k_cache"]
    scale = options.get("scale")
    return make_struct(
        "TreeAttentionParams",
        HEADER,
        q=q,
        k_cache=k_cache,
        v_cache=case["v_cache"],
        out=out,
        cache_len=case["cache_len"],
        kv_start=case.get("kv_start"),
        ancestors=case["ancestors"],
        q_strides=byte_strides(q),
        q_element=q.stride(3) * q.element_size(),
        cache=byte_strides(k_cache),
        batch=q.shape[0],
        num_heads=q.shape[1],
        num_kv_heads=k_cache.shape[1],
        num_queries=q.shape[2],
        capacity=k_cache.shape[2],
        head_dim=q.shape[3],
        mask_words=case["ancestors"].shape[2],
        scale=q.shape[3] ** -0.5 if scale is None else scale,
        softcap=options.get("softcap") or 0,
        sliding_window=options.get("sliding_window") or 0,
        dtype=q.dtype,
    )


def call(struct: ctypes.Structure, schedule: Schedule, **fields: Any) -> int:
    """Workspace bytes of the plan."""
    no_plan = make_struct("TreeAttentionPlan", HEADER, rows=0, row_blocks=0, splits=0, stages=0)
    needed = (ctypes.c_int64 * 1)()
    values = {"plan": no_plan, "workspace": None, "num_sms": 0, "shared_bytes": 0, "made": None, **fields}
    run_file(
        SOURCE,
        "planned_tree_attention",
        "PlannedTreeAttention",
        schedule,
        p=struct,
        workspace_bytes=needed,
        **values,
    )
    return needed[0]


def make_plan(case: Case, device: tuple[int, int], **options: Any) -> tuple[Plan, int]:
    """The plan for a device of so many multiprocessors and so much shared memory, and its workspace."""
    made = (ctypes.c_int * 4)()
    out = torch.empty(0)
    size = call(
        params(case, out, options), Schedule("forward", "issue"), num_sms=device[0], shared_bytes=device[1], made=made
    )
    return dict(zip(["rows", "row_blocks", "splits", "stages"], made, strict=True)), size


def with_tile(case: Case, rows: int, splits: int, stages: int = 2) -> Plan:
    """A plan that nobody would make for these sizes, but may."""
    all_rows = case["q"].shape[1] // case["k_cache"].shape[1] * case["q"].shape[2]
    rows = rows if case["q"].dtype != torch.float32 else 4
    return {"rows": rows, "row_blocks": -(-all_rows // rows), "splits": splits, "stages": stages}


def attend(case: Case, schedules: list[Schedule], plan: Plan | None = None, **options: Any) -> Tensor:
    """The kernels' output, the same in every schedule; the workspace holds NaN before and is filled to the byte."""
    q = case["q"]
    plan = plan or make_plan(case, H100, **options)[0]

    def run(schedule: Schedule) -> list[Tensor]:
        out = torch.full((q.shape[0], q.shape[2], q.shape[1], q.shape[3]), torch.nan, dtype=q.dtype)
        struct = params(case, out, options)
        rows = out.numel() // q.shape[3]
        states = -(-rows * plan["splits"] * 8 // 16) * 16
        size = states + rows * plan["splits"] * q.shape[3] * 4 if plan["splits"] > 1 else 0
        workspace = torch.full((size // 4,), torch.nan)
        planned = make_struct("TreeAttentionPlan", HEADER, **plan)
        assert call(struct, schedule, plan=planned, workspace=workspace if size else None) == size
        return [out]

    return same_in_every_schedule(run, schedules)[0]
