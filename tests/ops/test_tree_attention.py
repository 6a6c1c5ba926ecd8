"""tree_attention against fp64, as exact as plain torch; trees against their paths; masks, windows."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from vispec._C import cut_tree_attention

import kv_cases
from kv_cases import Case, ancestor_bits, in_float64, paths, random_parents
from numerics import assert_error_ratio, assert_same_bits
from vispec.ops import tree_attention, tree_attention_reference

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def tree_case(device: torch.device, *args: Any, **kwargs: Any) -> Case:
    return {name: tensor.to(device) for name, tensor in kv_cases.tree_case(*args, **kwargs).items()}


def check(case: dict[str, Any], **options: Any) -> Tensor:
    out = tree_attention(**case, **options)
    batch_size, num_heads, num_queries, head_dim = case["q"].shape
    assert out.shape == (batch_size, num_queries, num_heads, head_dim)
    assert out.is_contiguous()
    baseline = tree_attention_reference(**case, **options)
    assert_error_ratio(out, baseline, tree_attention_reference(**in_float64(case), **options))
    return out


@pytest.mark.parametrize("prefix", [0, 1, 63, 64, 65, 1000])
@pytest.mark.parametrize("heads", [(1, 1), (8, 2), (7, 1)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_error(device: torch.device, dtype: torch.dtype, heads: tuple[int, int], prefix: int) -> None:
    check(tree_case(device, dtype, heads, prefix, num_nodes=65))


@pytest.mark.parametrize("head_dim", [1, 2, 3, 7, 8, 31, 33, 80, 96, 128, 255, 256])
@pytest.mark.parametrize("dtype", DTYPES)
def test_head_dims(device: torch.device, dtype: torch.dtype, head_dim: int) -> None:
    if device.type == "cuda":
        head_dim = -(-head_dim // 8) * 8  # all that the CUDA kernels take
    check(tree_case(device, dtype, (6, 2), 100, num_nodes=21, head_dim=head_dim))


@pytest.mark.parametrize("num_nodes", [1, 2, 5, 8, 15, 16, 17, 24, 48, 49, 64, 128, 256])
@pytest.mark.parametrize("heads", [(1, 1), (3, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_numbers_of_nodes(device: torch.device, dtype: torch.dtype, heads: tuple[int, int], num_nodes: int) -> None:
    check(tree_case(device, dtype, heads, 130, num_nodes, head_dim=32))


@pytest.mark.parametrize(
    "options",
    [
        {"scale": 0.5},
        {"scale": -0.1},
        {"softcap": 1.5},
        {"softcap": 50.0, "scale": 1.0},
        {"sliding_window": 1},
        {"sliding_window": 3},
        {"sliding_window": 70},
        {"sliding_window": 10**12},
        {"sliding_window": 20, "softcap": 5.0, "scale": 0.2},
    ],
    ids=str,
)
@pytest.mark.parametrize("starts", [(0, 0), (3, 90), (200, 100)], ids=["from 0", "padded", "empty prefix"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_options(device: torch.device, dtype: torch.dtype, starts: tuple[int, int], options: dict[str, Any]) -> None:
    check(tree_case(device, dtype, (6, 2), 200, num_nodes=40, starts=starts), **options)


@pytest.mark.parametrize(("num_nodes", "num_rows"), [(1, 2), (8, 24), (8, 72), (1, 256), (10, 130)])
@pytest.mark.parametrize("window", [None, 4])
def test_queries_at_the_end_of_a_longer_tree(
    device: torch.device, num_nodes: int, num_rows: int, window: int | None
) -> None:
    """A drafting pass: the tree's earlier rows are seen but do not ask."""
    check(tree_case(device, torch.float32, (4, 4), 50, num_nodes, num_rows=num_rows), sliding_window=window)


@pytest.mark.parametrize("prefix", [0, 1, 150])
@pytest.mark.parametrize("arity", [1, 3, 100], ids=["deep", "tree", "flat"])
@pytest.mark.parametrize("window", [None, 5, 60])
def test_a_tree_is_its_paths(device: torch.device, arity: int, prefix: int, window: int | None) -> None:
    """Attention of a random tree equals running each root-to-node path alone, as a chain behind the prefix."""
    draw = torch.Generator().manual_seed(prefix + arity)
    num_nodes, heads, head_dim = 37, (6, 2), 24
    case = tree_case(device, torch.float32, heads, 2 * prefix, num_nodes, head_dim)
    trees = [paths(random_parents(num_nodes, draw, arity)) for _ in range(2)]
    case["ancestors"] = torch.stack([ancestor_bits(tree, 1) for tree in trees]).to(device)
    out = tree_attention(**case, sliding_window=window)
    alone = torch.empty_like(out)
    exact = torch.empty_like(out, dtype=torch.float64)
    for seq, node in itertools.product(range(2), range(num_nodes)):
        length = int(case["cache_len"][seq])
        rows = torch.tensor([*range(length), *(length + j for j in trees[seq][node])], device=device)[-(window or 0) :]
        for result in (alone, exact):
            q, k, v = (case[name][seq].to(result.dtype) for name in ("q", "k_cache", "v_cache"))
            k, v = (rows_of.repeat_interleave(heads[0] // heads[1], dim=0) for rows_of in (k[:, rows], v[:, rows]))
            result[seq, node] = F.scaled_dot_product_attention(q[:, node, None], k, v)[:, 0]
    assert_error_ratio(out, alone, exact)


def test_default_scale(device: torch.device) -> None:
    case = tree_case(device, torch.float32, (4, 2), 100, num_nodes=9, head_dim=48)
    assert_same_bits(tree_attention(**case), tree_attention(**case, scale=48**-0.5))


def test_scale_is_a_factor_of_the_queries(device: torch.device) -> None:
    """Exactly, where the factor is a power of two."""
    case = tree_case(device, torch.float32, (4, 2), 100, num_nodes=9)
    larger = case | {"q": case["q"] * 8}
    assert_same_bits(tree_attention(**case, scale=0.25), tree_attention(**larger, scale=0.25 / 8))


def test_a_query_that_sees_nothing(device: torch.device) -> None:
    """Zeros, beside queries that see something; also where the prefix ends before it begins."""
    case = tree_case(device, torch.float32, (4, 2), 100, num_nodes=20, starts=(100, 50))
    case["ancestors"][:, ::3] = 0
    out = check(case)
    assert not out[:, ::3].any()
    assert out[:, 1::3].any(dim=-1).all()
    case["ancestors"].zero_()
    assert not tree_attention(**case).any()


def test_a_window_that_shows_the_prefix_to_some(device: torch.device) -> None:
    """Siblings near the root still see the prefix's end when deep nodes see none of it."""
    case = tree_case(device, torch.float32, (2, 1), 90, num_nodes=30)
    case["ancestors"] = ancestor_bits(paths(range(-1, 29)), 1).expand(2, 30, 1).contiguous().to(device)
    case["k_cache"][:, :, :40] = torch.nan  # 10 rows before the second sequence's tree must be enough
    case["k_cache"][0, :, 40:80] = torch.nan
    case["v_cache"][0, :, :80] = torch.nan
    case["v_cache"][1, :, :35] = torch.nan
    case["k_cache"][1, :, 35:45] = 0.5
    check(case, sliding_window=10)


def test_queries_with_strided_elements(device: torch.device) -> None:
    case = tree_case(device, torch.bfloat16, (4, 2), 70, num_nodes=12)
    wide = torch.randn(2, 64, 4, 12, 2, device=device).bfloat16()
    case["q"] = wide[..., 1].permute(0, 2, 3, 1)
    assert_same_bits(tree_attention(**case), tree_attention(**case | {"q": case["q"].contiguous()}))


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_node_that_overflowed_reaches_only_those_that_see_it(
    device: torch.device, dtype: torch.dtype, value: float
) -> None:
    """Drafted tokens may be absurd, and in half precision their K and V infinite; their siblings go on as without."""
    case = tree_case(device, dtype, (4, 2), prefix=70, num_nodes=40)
    clean = check(case)
    node = 9
    for seq, length in enumerate(case["cache_len"].tolist()):
        case["k_cache"][seq, :, length + node] = value
        case["v_cache"][seq, :, length + node, ::3] = value
    out = tree_attention(**case)
    reference = tree_attention_reference(**in_float64(case))  # torch's bfloat16 product leaks NaN to the row before
    sees = (case["ancestors"][..., 0] >> node & 1).bool()
    assert sees.any(dim=1).all()
    assert not sees.all(dim=1).any()
    assert_same_bits(out[~sees], clean[~sees])
    assert reference[~sees].isfinite().all()
    assert not out[sees].isfinite().all(dim=-1).any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_half_value_passes_unchanged(device: torch.device, dtype: torch.dtype) -> None:
    """One key: the weight is 1 and the output is V. All 65536 bit patterns."""
    values = (
        torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype).view(256, 1, 1, 256).to(device)
    )
    zero = torch.zeros_like(values)
    lengths = torch.zeros(256, dtype=torch.int32, device=device)
    ones = torch.ones(256, 1, 1, dtype=torch.int64, device=device)
    out = tree_attention(zero, zero, values, lengths, ones).view(256, 1, 1, 256)
    number = ~values.isnan()
    # 0 * weight + -0.0 is 0.0: a sum has no sign of zero to keep
    assert_same_bits(
        out[number].where(out[number] != 0, zero[number]), values[number].where(values[number] != 0, zero[number])
    )
    assert out[~number].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_outputs_round_to_the_nearest(device: torch.device, dtype: torch.dtype) -> None:
    """Two equal keys: the output is the mean of two V, which torch rounds too; ties and subnormals among them."""
    draw = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**15), 2**15, (512, 1, 2, 256), generator=draw, dtype=torch.int32).to(torch.int16)
    bits[:, :, 1] = torch.where(torch.rand(bits[:, :, 1].shape, generator=draw) < 0.7, bits[:, :, 0] + 1, bits[:, :, 1])
    v_cache = bits.view(dtype).to(device)
    expected = ((v_cache[:, :, 0].float() + v_cache[:, :, 1].float()) / 2).to(dtype)[:, :, None]
    zero = torch.zeros_like(v_cache)
    lengths = torch.full((512,), 1, dtype=torch.int32, device=device)
    out = tree_attention(
        zero[:, :, :1], zero, v_cache, lengths, torch.ones(512, 1, 1, dtype=torch.int64, device=device)
    )
    number = ~expected.isnan()
    assert torch.equal(out[number], expected[number])
    assert out[~number].isnan().all()


def test_equal_bits_at_any_number_of_threads(device: torch.device, set_threads: Callable[[int], None]) -> None:
    for dtype, heads, prefix in [(torch.float32, (6, 2), 1500), (torch.bfloat16, (28, 4), 600)]:
        case = tree_case(device, dtype, heads, prefix, num_nodes=40)
        results = []
        for threads in (1, 1, 2, 3):
            set_threads(threads)
            results.append(tree_attention(**case))
        for other in results[1:]:
            assert_same_bits(other, results[0])


def test_empty_sizes(device: torch.device) -> None:
    case = tree_case(device, torch.float32, (4, 2), 10, num_nodes=5)
    assert tree_attention(**{name: tensor[:0] for name, tensor in case.items()}).shape == (0, 5, 4, 64)
    no_queries = case | {"q": case["q"][:, :, :0], "ancestors": case["ancestors"][:, :0]}
    assert tree_attention(**no_queries).shape == (2, 0, 4, 64)


def test_opcheck_and_compile(device: torch.device) -> None:
    case = tree_case(device, torch.float16, (4, 2), 10, num_nodes=5)
    options = {"scale": 0.3, "softcap": 20.0, "sliding_window": 9}
    compiled = torch.compile(tree_attention, backend="aot_eager", fullgraph=True)
    assert_same_bits(compiled(**case, **options), tree_attention(**case, **options))
    # opcheck compares the inputs too, and to it NaN differs from NaN
    tensors = [t.nan_to_num() if t.is_floating_point() else t for t in case.values()]
    operator = torch.ops.vispec.tree_attention.default
    torch.library.opcheck(operator, (*tensors, None, None, None, None))
    torch.library.opcheck(operator, (*tensors, torch.ones_like(case["cache_len"]), *options.values()))


def test_under_every_grad_mode() -> None:
    case = tree_case(torch.device("cpu"), torch.float32, (4, 2), 10, num_nodes=5)
    expected = tree_attention(**case)
    case["q"].requires_grad_()
    for mode in (torch.enable_grad, torch.inference_mode, torch.no_grad):
        with mode():
            assert_same_bits(tree_attention(**case).detach(), expected)


@pytest.mark.parametrize("isa", ["base", "v3"])
def test_lesser_instruction_sets(isa: str) -> None:
    """The same tests in a process that may not use the machine's best."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        __file__,
        "-k",
        "(test_error and 65) or test_head_dims or test_options or half_value or round_to",
    ]
    here = Path(__file__).parent  # and not the root, which -m would put before the installed package
    environ = os.environ | {"VISPEC_ISA": isa}
    run = subprocess.run(command, env=environ, cwd=here, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout
    assert " passed" in run.stdout


@pytest.mark.parametrize("kv_heads", [1, 3, 32, 200])
@pytest.mark.parametrize("rows", [1, 48, 49, 64, 96, 448, 2048])
@pytest.mark.parametrize("keys", [0, 1, 255, 256, 511, 4096, 10**6])
def test_cut_covers_the_work(kv_heads: int, rows: int, keys: int) -> None:
    blocks, rows_per_block, splits = cut_tree_attention(kv_heads, rows, keys)
    assert 1 <= rows_per_block <= 48
    assert (blocks - 1) * rows_per_block < rows <= blocks * rows_per_block
    assert splits == 1 or keys / splits >= 256, "a split too short for its merge"
    assert splits == 1 or (splits - 1) * blocks * kv_heads < 32, "more splits than threads can use"


def test_cut_of_nothing() -> None:
    assert cut_tree_attention(0, 5, 100) == cut_tree_attention(2, 0, 100) == (0, 0, 0)


@pytest.mark.release
@pytest.mark.parametrize("seed", range(1000))
def test_sweep(device: torch.device, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)

    def pick(*values: Any) -> Any:
        return values[int(torch.randint(len(values), (), generator=draw))]

    num_nodes = pick(1, 2, 7, 8, 30, 33, 64, 100, 256)
    kv_heads, group = pick(1, 2, 3, 5), pick(1, 2, 3, 4, 7, 12)
    prefix = pick(0, 1, 2, 17, 63, 64, 65, 127, 128, 255, 256, 257, 700, 1500)
    head_dim = pick(*range(1, 257)) if device.type == "cpu" else 8 * pick(*range(1, 33))
    starts = pick((0, 0), (1, 1), (prefix // 2, prefix // 3), (prefix, prefix // 2))
    rows = pick(num_nodes, min(256, num_nodes + 40))
    case = tree_case(
        device, pick(*DTYPES), (kv_heads * group, kv_heads), prefix, num_nodes, head_dim, rows, starts, seed
    )
    check(  # a larger scale leaves one key's weight, and the error to the luck of rounding one score
        case,
        scale=pick(None, 0.05, 2 * head_dim**-0.5),
        softcap=pick(None, None, 2.0, 30.0),
        sliding_window=pick(None, None, 1, 6, 100),
    )
