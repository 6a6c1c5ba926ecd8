"""select_tokens: argmax and draws equal to the reference, the keys of the draw, odd rows, errors."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from numerics import assert_equal_on
from operator_cases import OPTION_DTYPES, copy_of, random_case
from operator_cases import random_logits as logits_of
from vispec import _C
from vispec.ops import select_tokens, select_tokens_reference
from vispec.ops.select_tokens import philox

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
VOCAB_SIZES = [1, 3, 63, 64, 65, 160, 1000, 4099]  # around blocks of 64 tokens and words of 32 bits

Check = Callable[[Tensor, dict[str, Any]], Tensor]

random_logits = partial(logits_of, wide=True)


@pytest.fixture
def check(device: torch.device) -> Check:
    """The operator on the device against its reference on the CPU; returns what both say."""

    def run(logits: Tensor, case: dict[str, Any]) -> Tensor:
        selected = select_tokens(**copy_of({"logits": logits, **case}, device))
        reference = select_tokens_reference(logits, **case)
        assert_equal_on(device, [selected], [reference])
        return reference

    return run


# ---- Argmax ----


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("vocab_size", [*VOCAB_SIZES, 1023, 1024, 1025, 32064])
@pytest.mark.parametrize(("batch_size", "num_nodes"), [(0, 3), (1, 1), (3, 30), (1, 256)])
def test_argmax(check: Check, batch_size: int, num_nodes: int, vocab_size: int, dtype: torch.dtype) -> None:
    logits = random_logits(batch_size, num_nodes, vocab_size, dtype)
    assert torch.equal(check(logits, {}), logits.argmax(-1))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("value", [-torch.inf, -1.0, 0.0, torch.inf, torch.nan])
def test_argmax_takes_the_first_of_equals(dtype: torch.dtype, value: float) -> None:
    logits = torch.full((1, 4, 3000), -torch.inf, dtype=dtype)
    for node, places in enumerate(([0, 1], [1023, 1024], [1024, 2048], [2999])):
        logits[0, node, places] = value
    expected = [0, 0, 0, 0] if value == -torch.inf else [0, 1023, 1024, 2999]
    assert select_tokens(logits)[0].tolist() == expected


def test_argmax_counts_nan_as_the_largest() -> None:
    logits = torch.randn(1, 1, 3000)
    logits[0, 0, [5, 2000]] = torch.inf
    logits[0, 0, [1500, 2500]] = torch.nan
    assert select_tokens(logits).item() == 1500 == logits.argmax()


def test_zeros_of_either_sign_are_equal() -> None:
    assert select_tokens(torch.tensor([[[-1.0, -0.0, 0.0]]])).item() == 1


# ---- Draws ----


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("vocab_size", VOCAB_SIZES)
@pytest.mark.parametrize(("batch_size", "num_nodes"), [(0, 3), (1, 1), (3, 5)])
def test_plain_draws(check: Check, batch_size: int, num_nodes: int, vocab_size: int, dtype: torch.dtype) -> None:
    for temperature in (0.1, 1.0, 3.0):
        logits = random_logits(batch_size, num_nodes, vocab_size, dtype)
        check(logits, random_case(batch_size, num_nodes, vocab_size, temperature=temperature))


@pytest.mark.parametrize("num_nodes", [63, 64, 65, 256])
def test_tree_sizes(check: Check, num_nodes: int) -> None:
    check(random_logits(1, num_nodes, 100), random_case(1, num_nodes, 100, temperature=1, repetition_penalty=1.5))


@pytest.mark.parametrize(("temperature", "repetition_penalty"), [(0.0, 0.7), (0.0, 1.3), (0.6, 1.3), (1.0, 1.0)])
@pytest.mark.parametrize("vocab_size", [65, 300])
def test_filters_together(check: Check, vocab_size: int, temperature: float, repetition_penalty: float) -> None:
    logits = random_logits(2, 3, vocab_size)
    for top_k, top_p, min_p in itertools.product((0, 1, 20, 2000), (0.0, 0.5, 0.95, 1.0), (0.0, 0.1, 1.0)):
        options = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
        check(logits, random_case(2, 3, vocab_size, repetition_penalty=repetition_penalty, **options))


@pytest.mark.parametrize("absent", ["top_k", "top_p", "min_p", "repetition_penalty"])
def test_an_absent_option_is_off(check: Check, absent: str) -> None:
    off = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
    on = {"top_k": 30, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.2}
    logits = random_logits(2, 5, 500)
    case = random_case(2, 5, 500, temperature=1.5, **on | {absent: off[absent]})
    expected = check(logits, case)
    del case[absent]
    assert torch.equal(check(logits, case), expected)


def test_each_sequence_has_its_own_options(check: Check) -> None:
    logits = random_logits(4, 3, 300)
    case = random_case(4, 3, 300, temperature=1, top_k=0, top_p=1, min_p=0, repetition_penalty=1)
    case["temperature"] = torch.tensor([0.0, 0.5, 1.0, 2.0])
    case["top_k"] = torch.tensor([0, 5, 0, 7], dtype=torch.int32)
    case["top_p"] = torch.tensor([1.0, 0.5, 0.9, 1.0])
    case["min_p"] = torch.tensor([0.0, 0.0, 0.2, 0.1])
    case["repetition_penalty"] = torch.tensor([2.0, 1.0, 1.1, 0.5])
    together = check(logits, case)
    for seq in range(4):
        alone = {name: value[seq : seq + 1] for name, value in case.items()} | {"row": torch.tensor([seq]).int()}
        assert torch.equal(check(logits[seq : seq + 1], alone)[0], together[seq])


def test_a_draw_depends_on_seed_row_position_and_logits_alone() -> None:
    logits = random_logits(3, 6, 200, spread=1)
    case = random_case(3, 6, 200, temperature=1)
    together = select_tokens(logits, **case)
    for seq, node in itertools.product(range(3), range(6)):
        alone = select_tokens(
            logits[seq : seq + 1, node : node + 1],
            positions=case["positions"][seq : seq + 1, node : node + 1].contiguous(),
            temperature=torch.ones(1),
            seed=case["seed"][seq : seq + 1],
            row=torch.tensor([seq], dtype=torch.int32),
        )
        assert alone.item() == together[seq, node]


@pytest.mark.parametrize("part", ["positions", "seed", "row"])
def test_each_part_of_the_key_matters(check: Check, part: str) -> None:
    keys = {
        "positions": torch.zeros(64, 1, dtype=torch.int32),
        "seed": torch.zeros(64, dtype=torch.int64),
        "row": torch.zeros(64, dtype=torch.int32),
    }
    keys[part] = torch.arange(64, dtype=keys[part].dtype).view_as(keys[part])
    flat = torch.zeros(64, 1, 4096)
    assert check(flat, keys | {"temperature": torch.ones(64)}).unique().numel() > 60
    high = keys | {"seed": torch.arange(64) << 32}
    assert check(flat, high | {"temperature": torch.ones(64)}).unique().numel() > 60


def test_row_defaults_to_the_place_in_the_batch(check: Check) -> None:
    logits = random_logits(5, 2, 300)
    case = random_case(5, 2, 300, temperature=1)
    assert torch.equal(select_tokens(logits, **case), check(logits, case | {"row": torch.arange(5).int()}))


def test_odd_logits(check: Check) -> None:
    """In a draw NaN counts as minus infinity, plus infinity as the largest float; a row of nothing gives token 0."""
    logits = torch.randn(1, 6, 300, generator=torch.Generator().manual_seed(0))
    logits[0, 0, ::2] = torch.nan
    logits[0, 1] = -torch.inf
    logits[0, 2] = torch.nan
    logits[0, 3, [7, 9]] = torch.inf
    logits[0, 4, 1:] = -torch.inf
    logits[0, 5] *= 1e37
    for options in ({}, {"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.1}, {"top_k": 200, "top_p": 0.99}):
        selected = check(logits, random_case(1, 6, 300, temperature=0.5, **options))[0].tolist()
        assert selected[0] % 2 == 1
        assert selected[1:5] == [0, 0, 7, 0]
        assert selected[5] == logits[0, 5].argmax()


@pytest.mark.parametrize("top_k", [1, 2, 10, 250])
@pytest.mark.parametrize("top_p", [0.0, 0.3, 1.0])
def test_equal_logits_stay_or_go_together(check: Check, top_k: int, top_p: float) -> None:
    """Ties at every boundary."""
    logits = torch.randint(0, 4, (40, 2, 256), generator=torch.Generator().manual_seed(0)).float()
    check(logits, random_case(40, 2, 256, temperature=1, top_k=top_k, top_p=top_p))
    flat = check(torch.ones(200, 1, 256), random_case(200, 1, 256, temperature=1, top_k=top_k, top_p=top_p))
    assert flat.unique().numel() > 100, "all 256 equal tokens are kept"


def test_a_token_is_penalised_once(check: Check) -> None:
    """It may stand in the history and several times on the path; siblings do not count."""
    tokens = torch.tensor([[3, 3, 5, 6, 3]])
    parents = torch.tensor([[-1, 0, 1, 0, 2]], dtype=torch.int32)
    logits = torch.tensor([0.0, 0.0, 0.0, 4.0, -9.0, 3.0, 2.5, 2.1]).expand(1, 5, 8)
    for seen in (0, 1 << 3):
        case = {
            "tokens": tokens,
            "parents": parents,
            "positions": torch.zeros(1, 5, dtype=torch.int32),
            "seen": torch.tensor([[seen]], dtype=torch.int32),
            "temperature": torch.zeros(1),
            "repetition_penalty": torch.tensor([2.0]),
            "seed": torch.zeros(1, dtype=torch.int64),
        }
        assert check(logits, case)[0].tolist() == [5, 5, 6, 5, 6]


def test_equal_bits_at_any_number_of_threads(set_threads) -> None:
    logits = random_logits(3, 9, 20000)
    case = random_case(3, 9, 20000, temperature=1, top_k=5000, top_p=0.9, repetition_penalty=1.1)
    runs = []
    for threads in (1, 2, 3, 1):
        set_threads(threads)
        runs.append(select_tokens(logits, **case))
    assert all(torch.equal(run, runs[0]) for run in runs[1:])


def test_opcheck_and_compile(device: torch.device) -> None:
    logits = random_logits(2, 3, 100).to(device)
    case = random_case(2, 3, 100, temperature=1, top_k=5, top_p=0.9, min_p=0.1, repetition_penalty=1.1)
    case = copy_of(case, device)
    names = ("tokens", "parents", "positions", "seen", *OPTION_DTYPES, "seed", "row")
    compiled = torch.compile(select_tokens, fullgraph=True, backend="aot_eager")
    for arguments in (case, {}):
        torch.library.opcheck(
            torch.ops.vispec.select_tokens.default, (logits, *(arguments.get(name) for name in names))
        )
        ours, eager = compiled(logits, **arguments), select_tokens(logits, **arguments)
        assert torch.equal(ours, eager)
        assert ours.stride() == eager.stride()


# ---- Philox ----

# Known answers published with Random123 (kat_vectors, "philox4x32 10"): counter, key, words.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN_ANSWERS, ids=["zeros", "ones", "pi"])
def test_philox_known_answers(counter: str, key: str, words: str) -> None:
    counter_words, key_words, expected = ([int(word, 16) for word in text.split()] for text in (counter, key, words))
    assert philox(torch.tensor(counter_words)[:, None], tuple(key_words))[:, 0].tolist() == expected
    assert _C.philox(counter_words, key_words[0] | key_words[1] << 32) == expected


# ---- Errors ----


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("logits", torch.zeros(2, 9), "float32, float16 or bfloat16 [B, N, V], got float32 [2, 9] on cpu"),
        ("logits", torch.zeros(2, 3, 0), "at least one node and one token, got float32 [2, 3, 0] on cpu"),
        ("logits", torch.zeros(2, 257, 9), "at most 256 nodes, got float32 [2, 257, 9] on cpu"),
        ("logits", torch.zeros(2, 9, 3).mT, "the last dimension contiguous, got strides [27, 1, 3]"),
        ("tokens", None, "a tensor with repetition_penalty, got None"),
        ("parents", None, "a tensor with repetition_penalty, got None"),
        ("seen", None, "a tensor with repetition_penalty, got None"),
        ("positions", None, "a tensor with temperature, got None"),
        ("seed", None, "a tensor with temperature, got None"),
        ("temperature", None, "a tensor with top_k, top_p, min_p, repetition_penalty or seed, got None"),
        ("tokens", torch.zeros(2, 3).int(), "int64 [2, 3] on cpu, got int32 [2, 3] on cpu"),
        ("parents", torch.zeros(2, 4).int(), "int32 [2, 3] on cpu, got int32 [2, 4] on cpu"),
        ("positions", torch.zeros(2, 3).long(), "int32 [2, 3] on cpu, got int64 [2, 3] on cpu"),
        ("positions", torch.zeros(3, 2).int().mT, "a contiguous tensor, got strides [1, 2]"),
        ("seen", torch.zeros(2, 1).int(), "int32 [2, 2] on cpu, got int32 [2, 1] on cpu"),
        ("temperature", torch.ones(1), "float32 [2] on cpu, got float32 [1] on cpu"),
        ("top_k", torch.ones(2), "int32 [2] on cpu, got float32 [2] on cpu"),
        ("top_p", torch.ones(2).half(), "float32 [2] on cpu, got float16 [2] on cpu"),
        ("min_p", torch.ones(2, 1), "float32 [2] on cpu, got float32 [2, 1] on cpu"),
        ("repetition_penalty", torch.ones(3), "float32 [2] on cpu, got float32 [3] on cpu"),
        ("seed", torch.ones(2).int(), "int64 [2] on cpu, got int32 [2] on cpu"),
        ("row", torch.ones(2).long(), "int32 [2] on cpu, got int64 [2] on cpu"),
        ("temperature", torch.tensor([1, -1.0]), "a finite number from 0 on, got -1 for sequence 1"),
        ("temperature", torch.tensor([1, torch.inf]), "a finite number from 0 on, got inf for sequence 1"),
        ("temperature", torch.tensor([torch.nan, 1]), "a finite number from 0 on, got nan for sequence 0"),
        ("top_k", torch.tensor([-1, 1]).int(), "a number from 0 on, got -1 for sequence 0"),
        ("top_p", torch.tensor([1, -0.5]), "a number from 0 on, got -0.5 for sequence 1"),
        ("min_p", torch.tensor([1, 1.5]), "a number from 0 to 1, got 1.5 for sequence 1"),
        ("repetition_penalty", torch.tensor([1.0, 0]), "a finite number above 0, got 0 for sequence 1"),
        ("tokens", torch.tensor([[0, 1, 2], [0, 40, 1]]), "ids from 0 to 39, got 40 at node 1 of sequence 1"),
        ("tokens", torch.tensor([[-1, 1, 2], [0, 4, 1]]), "ids from 0 to 39, got -1 at node 0 of sequence 0"),
        ("parents", torch.tensor([[-1, 0, 1], [-1, 2, 1]]).int(), "-1 or a lower node, got 2 at node 1 of sequence 1"),
        ("parents", torch.tensor([[-1, 1, 1], [-1, 0, 1]]).int(), "-1 or a lower node, got 1 at node 1 of sequence 0"),
        (
            "parents",
            torch.tensor([[-1, 0, -2], [-1, 0, 1]]).int(),
            "-1 or a lower node, got -2 at node 2 of sequence 0",
        ),
    ],
)
def test_errors(argument: str, value: Tensor | None, message: str) -> None:
    case = random_case(2, 3, 40, temperature=1, top_k=5, top_p=0.9, min_p=0.1, repetition_penalty=1.1)
    with pytest.raises(ValueError, match=f"^{re.escape(argument)}: expected {re.escape(message)}$"):
        select_tokens(**{"logits": torch.zeros(2, 3, 40)} | case | {argument: value})


@pytest.mark.parametrize("option", ["top_k", "top_p", "min_p", "repetition_penalty", "seed"])
def test_no_option_without_temperature(option: str) -> None:
    case = random_case(2, 3, 40, top_k=5, top_p=0.9, min_p=0.1, repetition_penalty=1.1)
    with pytest.raises(ValueError, match="temperature: expected a tensor with"):
        select_tokens(torch.zeros(2, 3, 40), **{option: case[option]})


@pytest.mark.release
@pytest.mark.parametrize("seed", range(200))
def test_sweep(check: Check, seed: int) -> None:
    """Random sizes, dtypes, ties and options."""
    draw = torch.Generator().manual_seed(seed)
    batch_size, num_nodes, vocab_size, index = (
        int(torch.randint(1, limit, (), generator=draw)) for limit in (4, 6, 9000, 10**6)
    )
    logits = random_logits(batch_size, num_nodes, vocab_size, DTYPES[index % 3], spread=0.05 * 4 ** (index % 5))
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
    check(logits, random_case(batch_size, num_nodes, vocab_size, **options))
