"""tree_attention's kernels on the host: exact as plain torch in every tile, split and schedule; masks, odd memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from cuda_host import Schedule, sweep
from kv_cases import Case, ancestor_bits, in_float64, paths
from numerics import assert_error_ratio, assert_same_bits
from planned_tree_attention import (
    H100,
    RTX_5090,
    Plan,
    attend,
    make_plan,
    tree_case,
    with_tile,
)
from vispec.ops import tree_attention_reference

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
HALVES = DTYPES[1:]
OPTIONS: list[dict[str, Any]] = [
    {"scale": 0.5},
    {"scale": -0.1},
    {"scale": 0.0},
    {"softcap": 1.5},
    {"softcap": 50.0, "scale": 1.0},
    {"sliding_window": 1},
    {"sliding_window": 3},
    {"sliding_window": 70},
    {"sliding_window": 10**12},
    {"sliding_window": 20, "softcap": 5.0, "scale": 0.2},
]


def check(case: Case, schedules: list[Schedule], plan: Plan | None = None, **options: Any) -> Tensor:
    out = attend(case, schedules, plan, **options)
    baseline = tree_attention_reference(**case, **options)
    assert_error_ratio(out, baseline, tree_attention_reference(**in_float64(case), **options))
    return out


@pytest.mark.parametrize("prefix", sweep([0, 1, 63, 64, 65, 300], [0, 65]))
@pytest.mark.parametrize("heads", sweep([(1, 1), (4, 2), (7, 1)], [(4, 2)]))
@pytest.mark.parametrize("dtype", DTYPES)
def test_error(schedules: list[Schedule], dtype: torch.dtype, heads: tuple[int, int], prefix: int) -> None:
    check(tree_case(dtype, heads, prefix, num_nodes=9), schedules)


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("rows", [16, 32, 64, 128])
@pytest.mark.parametrize("head_dim", sweep([8, 64, 72, 80, 96, 128, 136, 256], [72, 96, 256]))
def test_every_tile(schedules: list[Schedule], head_dim: int, rows: int, splits: int) -> None:
    """Every kernel there is, with rows left over and keys left over."""
    if head_dim > 128 and rows == 128:
        return  # there is none
    dtype = HALVES[splits % 2]
    case = tree_case(dtype, (3, 1), 150, num_nodes=rows // 2 - 3, head_dim=head_dim)
    check(case, schedules, with_tile(case, rows, splits))


@pytest.mark.parametrize("num_nodes", sweep([1, 15, 16, 17, 63, 64, 65, 128, 256], [1, 65]))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_numbers_of_nodes(schedules: list[Schedule], dtype: torch.dtype, num_nodes: int) -> None:
    check(tree_case(dtype, (1, 1), 70, num_nodes, head_dim=16), schedules)


@pytest.mark.parametrize(
    "options",
    sweep(OPTIONS, [OPTIONS[0], OPTIONS[3], OPTIONS[-1]]),
    ids=str,
)
@pytest.mark.parametrize("starts", sweep([(0, 0), (3, 90), (200, 100)], [(3, 90)]), ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_options(
    schedules: list[Schedule], dtype: torch.dtype, starts: tuple[int, int], options: dict[str, Any]
) -> None:
    check(tree_case(dtype, (4, 2), 200, num_nodes=20, starts=starts), schedules, **options)


@pytest.mark.parametrize(
    ("num_nodes", "num_rows"), sweep([(1, 2), (8, 24), (8, 72), (1, 256), (10, 130)], [(8, 72), (1, 256)])
)
@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_queries_at_the_end_of_a_longer_tree(
    schedules: list[Schedule], dtype: torch.dtype, num_nodes: int, num_rows: int, window: int | None
) -> None:
    """A drafting pass: the tree's earlier rows are seen but do not ask."""
    check(tree_case(dtype, (2, 2), 50, num_nodes, num_rows=num_rows), schedules, sliding_window=window)


@pytest.mark.parametrize("spare", [0, 1])
@pytest.mark.parametrize("dtype", DTYPES)
def test_no_spare_rows(schedules: list[Schedule], dtype: torch.dtype, spare: int) -> None:
    """The cache ends with the tree: nothing behind it is read."""
    for num_nodes in (1, 40):
        check(tree_case(dtype, (2, 1), 60, num_nodes, spare=spare), schedules)


@pytest.mark.parametrize("stages", sweep([2, 3, 4], [2, 4]))
@pytest.mark.parametrize("splits", sweep([1, 2, 5, 128], [2, 128]))
def test_plans(schedules: list[Schedule], splits: int, stages: int) -> None:
    """Any number of splits and stages, more than there are tiles too."""
    case = tree_case(torch.bfloat16, (4, 2), 700, num_nodes=5, head_dim=64)
    check(case, schedules, with_tile(case, 16, splits, stages))


@pytest.mark.parametrize("dtype", DTYPES)
def test_stages_do_not_change_the_bits(schedules: list[Schedule], dtype: torch.dtype) -> None:
    case = tree_case(dtype, (4, 2), 400, num_nodes=9)
    two, four = (attend(case, schedules[:1], with_tile(case, 32, 2, stages)) for stages in (2, 4))
    assert_same_bits(two, four)


@pytest.mark.parametrize("splits", [1, 4])
@pytest.mark.parametrize("dtype", DTYPES)
def test_lengths_grow_under_a_plan(schedules: list[Schedule], dtype: torch.dtype, splits: int) -> None:
    """A captured launch is replayed with other lengths: the plan knows the capacity alone."""
    case = tree_case(dtype, (4, 2), 300, num_nodes=11)
    for cache in (case["k_cache"], case["v_cache"]):
        cache.copy_(torch.randn(cache.shape, generator=torch.Generator().manual_seed(1)))
    plan = with_tile(case, 32, splits)
    for length in (0, 1, 53, 64, 128, 255, 300):
        case["cache_len"] = torch.tensor([length, 300 - length], dtype=torch.int32)
        check(case, schedules[:1], plan)


def test_a_query_that_sees_nothing(schedules: list[Schedule]) -> None:
    """Zeros, beside queries that see something, in one split and in many."""
    for dtype in DTYPES:
        case = tree_case(dtype, (4, 2), 100, num_nodes=20, starts=(100, 50))
        case["ancestors"][:, ::3] = 0
        for splits in (1, 4):
            out = check(case, schedules, with_tile(case, 64, splits))
            assert not out[:, ::3].any()
        case["ancestors"].zero_()
        for splits in (1, 4):
            assert not attend(case, schedules, with_tile(case, 64, splits)).any()


@pytest.mark.parametrize("splits", [1, 2])
def test_a_window_that_shows_the_prefix_to_some(schedules: list[Schedule], splits: int) -> None:
    """Siblings near the root still see the prefix's end when deep nodes see none of it."""
    case = tree_case(torch.float16, (2, 1), 90, num_nodes=30)
    case["ancestors"] = ancestor_bits(paths(range(-1, 29)), 1).expand(2, 30, 1).contiguous()
    case["k_cache"][:, :, :35] = torch.nan  # 10 rows before the second sequence's tree must be enough
    case["k_cache"][0, :, 40:80] = torch.nan
    case["v_cache"][0, :, :80] = torch.nan
    case["v_cache"][1, :, :35] = torch.nan
    check(case, schedules, with_tile(case, 64, splits), sliding_window=10)


@pytest.mark.parametrize("dtype", DTYPES)
def test_queries_of_any_strides(schedules: list[Schedule], dtype: torch.dtype) -> None:
    """Strided elements, and rows that begin anywhere."""
    case = tree_case(dtype, (4, 2), 70, num_nodes=12)
    wide = torch.randn(2, 64, 4, 12, 2).to(dtype)
    case["q"] = wide[..., 1].permute(0, 2, 3, 1)
    plain = attend(case | {"q": case["q"].contiguous()}, schedules)
    assert_same_bits(attend(case, schedules), plain)
    shifted = torch.zeros(2, 4, 12, 67, dtype=dtype)[..., 3:]
    assert_same_bits(attend(case | {"q": shifted.copy_(case["q"])}, schedules), plain)


@pytest.mark.parametrize("value", sweep([torch.inf, -torch.inf, torch.nan], [torch.nan]))
@pytest.mark.parametrize("rows", sweep([16, 32, 64, 128], [16, 128]))
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_node_that_overflowed_reaches_only_those_that_see_it(
    schedules: list[Schedule], dtype: torch.dtype, rows: int, value: float
) -> None:
    """Drafted tokens may be absurd, and in half precision their K and V infinite; their siblings go on as without."""
    case = tree_case(dtype, (4, 2), prefix=70, num_nodes=40)
    plan = with_tile(case, rows, 2)
    clean = check(case, schedules[:1], plan)
    node = 9
    for where in ("v_cache", "k_cache"):  # V alone first: its weights are then finite
        for seq, length in enumerate(case["cache_len"].tolist()):
            case[where][seq, :, length + node, :: 3 if where == "v_cache" else 1] = value
        out = attend(case, schedules, plan)
        sees = (case["ancestors"][..., 0] >> node & 1).bool()
        assert sees.any(dim=1).all()
        assert not sees.all(dim=1).any()
        assert_same_bits(out[~sees], clean[~sees])
        assert not out[sees].isfinite().all(dim=-1).any()
        if where == "v_cache":
            assert_same_bits(out[sees][..., 1::3], clean[sees][..., 1::3])
            there = out[sees][..., ::3]
            torch.testing.assert_close(there, torch.full_like(there, value), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", HALVES)
def test_an_overflow_of_one_tile_is_no_matter_of_the_next(schedules: list[Schedule], dtype: torch.dtype) -> None:
    """Of three tiles the window masks the first and the tree the last: there its place is behind the cache."""
    case = tree_case(dtype, (1, 1), prefix=200, num_nodes=9, spare=0)
    case["cache_len"] = torch.tensor([200, 200], dtype=torch.int32)
    for name in ("k_cache", "v_cache"):
        values = torch.randn(case[name].shape, generator=torch.Generator().manual_seed(2))
        case[name] = values.to(dtype)  # an allocation of its own: a sanitizer sees its end
    window, tile = 130, 64
    row = 200 + 9 - 2 * tile  # the last tile has as many rows up to the cache's end as lie before this one in the first
    case["v_cache"][:, :, row] = torch.inf
    assert (attend(case, schedules, with_tile(case, 16, 1), sliding_window=window) == torch.inf).all()


@pytest.mark.parametrize("lengths", [(-5, 10_000), (2**31 - 1, -(2**31))], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_never_outside_the_cache(schedules: list[Schedule], dtype: torch.dtype, lengths: tuple[int, int]) -> None:
    """Nothing checks lengths on the device: they are cut to the cache, and bits behind it name no row."""
    case = tree_case(dtype, (2, 1), 50, num_nodes=9)
    for name in ("k_cache", "v_cache"):
        values = torch.randn(case[name].shape, generator=torch.Generator().manual_seed(2))
        case[name] = values.to(dtype)  # an allocation of its own: a sanitizer sees its end
    capacity = case["k_cache"].shape[2]
    cut = case | {"cache_len": torch.tensor([min(max(length, 0), capacity) for length in lengths]).int()}
    for kv_start in (None, torch.tensor([-7, 2**31 - 1], dtype=torch.int32)):
        wrong: Case = case | {"cache_len": torch.tensor(lengths).int()}
        right = dict(cut)
        if kv_start is not None:
            wrong["kv_start"] = kv_start
            right["kv_start"] = torch.minimum(kv_start.clamp(min=0), cut["cache_len"])
        out = attend(wrong, schedules)
        exact = tree_attention_reference(**in_float64(right))
        assert_error_ratio(out, tree_attention_reference(**right), exact)


@pytest.mark.parametrize("dtype", HALVES)
def test_every_half_value_passes_unchanged(dtype: torch.dtype) -> None:
    """One key: the weight is 1 and the output is V. All 65536 bit patterns."""
    values = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype).view(256, 1, 1, 256)
    zero = torch.zeros_like(values)
    lengths = torch.zeros(256, dtype=torch.int32)
    ones = torch.ones(256, 1, 1, dtype=torch.int64)
    case = {"q": zero, "k_cache": zero, "v_cache": values, "cache_len": lengths, "ancestors": ones}
    out = attend(case, [Schedule("forward", "wait")]).view(256, 1, 1, 256)
    number = ~values.isnan()
    assert torch.equal(out[number], values[number])
    assert out[~number].isnan().all()


def test_empty_sizes(schedules: list[Schedule]) -> None:
    case = tree_case(torch.float16, (4, 2), 10, num_nodes=5)
    assert attend({name: tensor[:0] for name, tensor in case.items()}, schedules).shape == (0, 5, 4, 64)
    no_queries = case | {"q": case["q"][:, :, :0], "ancestors": case["ancestors"][:, :0]}
    assert attend(no_queries, schedules).shape == (2, 0, 4, 64)


# ---- The plan ----


def shape_case(heads: tuple[int, int], num_nodes: int, capacity: int, head_dim: int = 128, batch: int = 1) -> Case:
    """Sizes alone."""
    cache = torch.empty(1, dtype=torch.bfloat16).expand(batch, heads[1], capacity, head_dim)
    q = torch.empty(1, dtype=torch.bfloat16).expand(batch, heads[0], num_nodes, head_dim)
    ancestors = torch.empty(1, dtype=torch.int64).expand(batch, num_nodes, -(-num_nodes // 64) or 1)
    return {"q": q, "k_cache": cache, "v_cache": cache, "cache_len": torch.empty(0), "ancestors": ancestors}


@pytest.mark.parametrize("device", sweep([H100, RTX_5090, (108, 163 << 10), (16, 99 << 10)], [RTX_5090]), ids=str)
@pytest.mark.parametrize("heads", [(28, 4), (32, 32), (32, 8), (8, 1), (96, 8)])
@pytest.mark.parametrize("head_dim", [64, 72, 96, 128, 256])
def test_plan_fits_the_device(device: tuple[int, int], heads: tuple[int, int], head_dim: int) -> None:
    for num_nodes in (1, 8, 16, 32, 64, 256):
        for capacity in (1, 300, 4096, 40_000):
            plan, _ = make_plan(shape_case(heads, num_nodes, capacity, head_dim), device)
            rows = heads[0] // heads[1] * num_nodes
            assert (plan["row_blocks"] - 1) * plan["rows"] < rows <= plan["row_blocks"] * plan["rows"]
            keys = 32 if head_dim == 256 else 64 if plan["rows"] < 128 else 96 if head_dim >= 96 else 128
            assert 2 <= plan["stages"] <= 4
            assert 1 <= plan["splits"] <= min(128, -(-capacity // keys))
            row_bytes = {64: 128, 72: 176, 96: 208, 128: 256, 256: 512}[head_dim]
            assert (plan["rows"] + 2 * plan["stages"] * keys) * row_bytes < device[1]


def test_plan_fills_the_device_when_the_context_is_long() -> None:
    """And leaves one tile to one block."""
    for heads, num_nodes in [((28, 4), 16), ((32, 32), 16), ((32, 32), 64), ((32, 8), 32)]:
        plan, size = make_plan(shape_case(heads, num_nodes, 33_000), H100)
        assert 100 <= plan["splits"] * plan["row_blocks"] * heads[1] <= 3 * 132
        assert size > 0
    plan, size = make_plan(shape_case((32, 32), 8, 60), H100)
    assert plan["splits"] == 1
    assert size == 0


@pytest.mark.release
@pytest.mark.parametrize("seed", range(1000))
def test_sweep(schedules: list[Schedule], seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)

    def pick(*values: Any) -> Any:
        return values[int(torch.randint(len(values), (), generator=draw))]

    num_nodes = pick(1, 2, 7, 8, 30, 33, 64, 100, 256)
    kv_heads, group = pick(1, 2, 3), pick(1, 2, 3, 4, 7)
    prefix = pick(0, 1, 2, 17, 63, 64, 65, 127, 128, 255, 256, 257, 700)
    head_dim = 8 * pick(*range(1, 33))
    starts = pick((0, 0), (1, 1), (prefix // 2, prefix // 3), (prefix, prefix // 2))
    rows = pick(num_nodes, min(256, num_nodes + 40))
    case = tree_case(pick(*DTYPES), (kv_heads * group, kv_heads), prefix, num_nodes, head_dim, rows, starts, seed)
    plan = with_tile(case, pick(16, 32, 64, 128 if head_dim <= 128 else 64), pick(1, 2, 3, 7), pick(2, 3, 4))
    check(
        case,
        schedules[:2],
        plan,
        scale=pick(None, 0.05, 2 * head_dim**-0.5),
        softcap=pick(None, None, 2.0, 30.0),
        sliding_window=pick(None, None, 1, 6, 100),
    )
