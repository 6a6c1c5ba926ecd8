"""Runs tree_attention's kernels on the host by plans of one's own, through `planned_tree_attention.cpp`; its cases."""

from __future__ import annotations

import ctypes
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import kv_cases
from cuda_host import Schedule, byte_strides, make_struct, same_in_every_schedule
from cuda_host.run import run_file
from kv_cases import Case

SOURCE = Path(__file__).with_suffix(".cpp")
HEADER = SOURCE.with_suffix(".h")
H100 = (132, 227 << 10)
RTX_5090 = (170, 99 << 10)
Plan = dict[str, int]
tree_case = partial(kv_cases.tree_case, margins=(8, 8))  # rows of a multiple of 16 bytes


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
