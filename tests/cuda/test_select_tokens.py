"""select_tokens on the host: argmax and draws equal to the reference's and the CPU's, every filter, odd rows."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from cuda_host import Schedule, run_kernel, same_in_every_schedule, sweep
from operator_cases import OPTION_DTYPES, random_case, random_logits
from vispec.ops import select_tokens, select_tokens_reference

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
POINTERS = ("tokens", "parents", "positions", "seen", *OPTION_DTYPES, "seed", "row")
CHUNK, GROUP = 8192, 64
VOCAB_SIZES = [1, 3, 63, 64, 65, 160, 1000, 8191, 8192, 8193, 8256]


def workspace_bytes(logits: Tensor, case: dict[str, Any]) -> int:
    """The arrays that a call needs: see SelectTokensScratch."""
    batch_size, num_nodes, vocab_size = logits.shape
    chunks, groups, words = (-(-vocab_size // part) for part in (CHUNK, GROUP, 32))
    per_row = 8 * chunks
    if "temperature" in case:
        per_row += 12 * chunks + 4 * groups
    per_row += 4 * chunks * ("top_p" in case) + 4 * ("top_k" in case or "top_p" in case)
    per_row += 4 * words * ("repetition_penalty" in case)
    return batch_size * num_nodes * per_row


def select(logits: Tensor, case: dict[str, Any], schedules: list[Schedule]) -> Tensor:
    batch_size, num_nodes, vocab_size = logits.shape
    element = logits.element_size()

    def run(schedule: Schedule) -> list[Tensor]:
        selected = torch.full((batch_size, num_nodes), -99)
        workspace = torch.full((workspace_bytes(logits, case),), 0xFF, dtype=torch.uint8)
        run_kernel(
            "select_tokens",
            schedule,
            workspace,
            logits=logits,
            logits_seq=logits.stride(0) * element,
            logits_node=logits.stride(1) * element,
            **{name: case.get(name) for name in POINTERS},
            selected=selected,
            batch=batch_size,
            num_nodes=num_nodes,
            vocab_size=vocab_size,
            dtype=logits.dtype,
        )
        return [selected]

    return same_in_every_schedule(run, schedules)[0]


def check(logits: Tensor, case: dict[str, Any], schedules: list[Schedule]) -> Tensor:
    """The reference's tokens, which are the CPU's too."""
    selected = select(logits, case, schedules)
    torch.testing.assert_close(selected, select_tokens_reference(logits, **case), rtol=0, atol=0)
    torch.testing.assert_close(selected, select_tokens(logits, **case), rtol=0, atol=0)
    return selected


# ---- Argmax ----


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("vocab_size", sweep([*VOCAB_SIZES, 32064], sanitized=[3, 8193]))
@pytest.mark.parametrize(("batch_size", "num_nodes"), sweep([(0, 3), (1, 1), (2, 9)], sanitized=[(0, 3), (1, 2)]))
def test_argmax(
    schedules: list[Schedule], batch_size: int, num_nodes: int, vocab_size: int, dtype: torch.dtype
) -> None:
    for wide in (False, True):
        check(random_logits(batch_size, num_nodes, vocab_size, dtype, wide=wide), {}, schedules)


def test_argmax_of_256_nodes(schedules: list[Schedule]) -> None:
    check(random_logits(1, 256, 50), {}, schedules)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("value", [-torch.inf, -1.0, 0.0, torch.inf, torch.nan])
def test_argmax_takes_the_first_of_equals(schedules: list[Schedule], dtype: torch.dtype, value: float) -> None:
    """In a thread, a warp, a block, across chunks."""
    logits = torch.full((1, 5, 9000), -torch.inf, dtype=dtype)
    for node, places in enumerate(([0, 1], [1023, 1024], [2047, 2048, 4096], [8191, 8192], [8999])):
        logits[0, node, places] = value
    expected = [0, 0, 0, 0, 0] if value == -torch.inf else [0, 1023, 2047, 8191, 8999]
    assert select(logits, {}, schedules)[0].tolist() == expected


def test_argmax_counts_nan_as_the_largest(schedules: list[Schedule]) -> None:
    logits = torch.randn(1, 1, 9000, generator=torch.Generator().manual_seed(0))
    logits[0, 0, [5, 2000]] = torch.inf
    logits[0, 0, [1500, 2500, 8900]] = torch.nan
    assert select(logits, {}, schedules).item() == 1500


def test_zeros_of_either_sign_are_equal(schedules: list[Schedule]) -> None:
    assert select(torch.tensor([[[-1.0, -0.0, 0.0]]]), {}, schedules).item() == 1


# ---- Draws ----


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("vocab_size", sweep(VOCAB_SIZES, sanitized=[3, 160]))
@pytest.mark.parametrize(("batch_size", "num_nodes"), sweep([(0, 3), (1, 1), (2, 3)], sanitized=[(0, 3), (1, 2)]))
def test_plain_draws(
    schedules: list[Schedule], batch_size: int, num_nodes: int, vocab_size: int, dtype: torch.dtype
) -> None:
    for temperature in (0.1, 1.0, 3.0):
        logits = random_logits(batch_size, num_nodes, vocab_size, dtype, wide=temperature == 1)
        check(logits, random_case(batch_size, num_nodes, vocab_size, temperature=temperature), schedules)


@pytest.mark.parametrize("num_nodes", sweep([63, 64, 65, 256], sanitized=[65]))
def test_tree_sizes(schedules: list[Schedule], num_nodes: int) -> None:
    case = random_case(1, num_nodes, 100, temperature=1, repetition_penalty=1.5)
    check(random_logits(1, num_nodes, 100), case, schedules[:1])


SOME_K, SOME_P, SOME_MIN_P = (0, 1, 20, 2000), (0.0, 0.5, 0.95, 1.0), (0.0, 0.1, 1.0)


@pytest.mark.parametrize(
    "filters",
    sweep(list(itertools.product(SOME_K, SOME_P, SOME_MIN_P)), sanitized=[(0, 0.95, 0.1), (20, 0.5, 0.0), (2, 1, 1)]),
)
@pytest.mark.parametrize(
    ("vocab_size", "temperature", "repetition_penalty"),
    [(65, 0.6, 1.3), (300, 0.0, 0.7), (1500, 1.0, 1.0), (1500, 0.6, 1.3)],
)
def test_filters_together(
    schedules: list[Schedule],
    vocab_size: int,
    temperature: float,
    repetition_penalty: float,
    filters: tuple[int, float, float],
) -> None:
    top_k, top_p, min_p = filters
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    case = random_case(1, 2, vocab_size, repetition_penalty=repetition_penalty, **options)
    check(random_logits(1, 2, vocab_size), case, schedules)


@pytest.mark.parametrize("dtype", sweep(DTYPES, sanitized=[torch.bfloat16]), ids=str)
@pytest.mark.parametrize("spread", [0.05, 3, 20])
@pytest.mark.parametrize(("top_k", "top_p"), [(50, 0.9), (5000, 1.0), (0, 0.9), (0, 0.999), (9999, 0.5)])
def test_filters_across_chunks(
    schedules: list[Schedule], top_k: int, top_p: float, spread: float, dtype: torch.dtype
) -> None:
    """Flat rows, where nearly all is kept, and peaked ones; in bf16 with ties everywhere."""
    case = random_case(1, 1, 10000, temperature=0.9, top_k=top_k, top_p=top_p)
    check(random_logits(1, 1, 10000, dtype, spread), case, schedules[:2])


@pytest.mark.parametrize("top_p", [0.3, 0.6, 0.9])
def test_top_p_of_many_small_masses(schedules: list[Schedule], top_p: float) -> None:
    """Each far below 2^32 steps, all together far above: sums carry from one word into the next."""
    logits = torch.linspace(-8.5, -8, 4000).expand(8, 1, 4000).clone()
    logits[:, :, 1234] = 0
    check(logits, random_case(8, 1, 4000, temperature=1, top_p=top_p), schedules[:1])


@pytest.mark.parametrize("absent", ["top_k", "top_p", "min_p", "repetition_penalty"])
def test_an_absent_option_is_off(schedules: list[Schedule], absent: str) -> None:
    off = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
    on = {"top_k": 30, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.2}
    logits = random_logits(1, 3, 500)
    case = random_case(1, 3, 500, temperature=1.5, **on | {absent: off[absent]})
    expected = check(logits, case, schedules[:1])
    del case[absent]
    assert torch.equal(check(logits, case, schedules[:1]), expected)


def test_each_sequence_has_its_own_options(schedules: list[Schedule]) -> None:
    logits = random_logits(4, 2, 300)
    case = random_case(4, 2, 300, temperature=1, top_k=0, top_p=1, min_p=0, repetition_penalty=1)
    case["temperature"] = torch.tensor([0.0, 0.5, 1.0, 2.0])
    case["top_k"] = torch.tensor([0, 5, 0, 7], dtype=torch.int32)
    case["top_p"] = torch.tensor([1.0, 0.5, 0.9, 1.0])
    case["min_p"] = torch.tensor([0.0, 0.0, 0.2, 0.1])
    case["repetition_penalty"] = torch.tensor([2.0, 1.0, 1.1, 0.5])
    case["row"] = torch.tensor([9, 0, -1, 3], dtype=torch.int32)
    check(logits, case, schedules)


@pytest.mark.parametrize("part", ["positions", "seed", "row"])
def test_each_part_of_the_key_matters(schedules: list[Schedule], part: str) -> None:
    keys = {
        "positions": torch.zeros(16, 1, dtype=torch.int32),
        "seed": torch.zeros(16, dtype=torch.int64),
        "row": torch.zeros(16, dtype=torch.int32),
    }
    keys[part] = torch.arange(16, dtype=keys[part].dtype).view_as(keys[part])
    flat = torch.zeros(16, 1, 1024)
    assert check(flat, keys | {"temperature": torch.ones(16)}, schedules[:1]).unique().numel() > 14


@pytest.mark.parametrize(
    "options", [{}, {"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.1}, {"top_k": 200, "top_p": 0.99}], ids=str
)
def test_odd_logits(schedules: list[Schedule], options: dict[str, float]) -> None:
    """In a draw NaN counts as minus infinity, plus infinity as the largest float; a row of nothing gives token 0."""
    logits = torch.randn(1, 6, 300, generator=torch.Generator().manual_seed(0))
    logits[0, 0, ::2] = torch.nan
    logits[0, 1] = -torch.inf
    logits[0, 2] = torch.nan
    logits[0, 3, [7, 9]] = torch.inf
    logits[0, 4, 1:] = -torch.inf
    logits[0, 5] *= 1e37
    selected = check(logits, random_case(1, 6, 300, temperature=0.5, **options), schedules)[0].tolist()
    assert selected[0] % 2 == 1
    assert selected[1:5] == [0, 0, 7, 0]
    assert selected[5] == logits[0, 5].argmax()


@pytest.mark.parametrize("top_k", sweep([1, 2, 10, 250], sanitized=[10]))
@pytest.mark.parametrize("top_p", sweep([0.0, 0.3, 1.0], sanitized=[0.3]))
def test_equal_logits_stay_or_go_together(schedules: list[Schedule], top_k: int, top_p: float) -> None:
    """Ties at every boundary."""
    logits = torch.randint(0, 4, (8, 2, 256), generator=torch.Generator().manual_seed(0)).float()
    check(logits, random_case(8, 2, 256, temperature=1, top_k=top_k, top_p=top_p), schedules[:1])
    flat = check(
        torch.ones(20, 1, 256), random_case(20, 1, 256, temperature=1, top_k=top_k, top_p=top_p), schedules[:1]
    )
    assert flat.unique().numel() > 10, "all 256 equal tokens are kept"


def test_a_token_is_penalised_once(schedules: list[Schedule]) -> None:
    """It may stand in the history and several times on the path; siblings do not count."""
    logits = torch.tensor([0.0, 0.0, 0.0, 4.0, -9.0, 3.0, 2.5, 2.1]).expand(1, 5, 8)
    for seen in (0, 1 << 3):
        case = {
            "tokens": torch.tensor([[3, 3, 5, 6, 3]]),
            "parents": torch.tensor([[-1, 0, 1, 0, 2]], dtype=torch.int32),
            "positions": torch.zeros(1, 5, dtype=torch.int32),
            "seen": torch.tensor([[seen]], dtype=torch.int32),
            "temperature": torch.zeros(1),
            "repetition_penalty": torch.tensor([2.0]),
            "seed": torch.zeros(1, dtype=torch.int64),
        }
        assert check(logits, case, schedules)[0].tolist() == [5, 5, 6, 5, 6]


@pytest.mark.parametrize("token", [-1, 40, 2**40, -(2**63)])
@pytest.mark.parametrize("parent", [1, 2, -7, 2**31 - 1])
def test_malformed_trees_are_walked_safely(schedules: list[Schedule], token: int, parent: int) -> None:
    """What the CPU refuses: tokens out of the vocabulary are not penalised, and every walk ends."""
    case = random_case(1, 3, 40, temperature=0, repetition_penalty=100)
    case["tokens"], case["parents"][0, 1:] = torch.tensor([[0, token, 2]]), parent
    case["seen"] = torch.zeros(1, 2, dtype=torch.int32)
    logits = torch.linspace(0.1, 4, 40).expand(1, 3, 40)
    assert select(logits, case, schedules)[0].tolist() == [39, 39, 39]


@pytest.mark.parametrize("seed", sweep(range(60), sanitized=range(2)))
def test_sweep(schedules: list[Schedule], seed: int) -> None:
    """Random sizes, dtypes, ties and options."""
    draw = torch.Generator().manual_seed(seed)
    batch_size, num_nodes, vocab_size, index = (
        int(torch.randint(1, limit, (), generator=draw)) for limit in (3, 4, 9000, 10**6)
    )
    logits = random_logits(batch_size, num_nodes, vocab_size, DTYPES[index % 3], 0.05 * 4 ** (index % 5), wide=True)
    if index % 2:
        logits.copy_((logits * 4).round() / 4)
    chance = torch.rand(5, generator=draw).tolist()
    options = {
        "temperature": 2 * chance[0],
        "top_k": int(vocab_size * chance[1] ** 3) * (index % 7 > 2),
        "top_p": 1.2 * chance[2],
        "min_p": chance[3] ** 3,
        "repetition_penalty": 0.5 + chance[4],
    }
    check(logits, random_case(batch_size, num_nodes, vocab_size, **options), schedules[:1])
