"""What the kernel of `tests/cuda/vocabulary.cu` must answer, worked out from the manuals in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

NUM_ANSWERS = 49  # kAnswers
LANES = torch.arange(32)


def vocabulary_case() -> dict[str, Tensor]:
    """Parameters of the kernel: whole numbers in the matrices, so that every product is exact in any order."""
    draw = torch.Generator().manual_seed(0)
    matrix = torch.randint(-8, 9, (16, 16), generator=draw)
    floats = torch.randn(32, generator=draw) * 3
    return {
        "fp16": matrix.half(),
        "bf16": matrix.bfloat16(),
        "floats": floats,
        "answers": torch.full((NUM_ANSWERS, 32), -1, dtype=torch.int32),
        "counters": torch.zeros(6, dtype=torch.int32),
    }


def expected_answers(case: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rows of int32 `[n, 32]`, in the kernel's order."""
    x = case["floats"]
    rows = torch.stack([x[4 * (lane % 8) : 4 * (lane % 8) + 4] for lane in range(32)])
    low = torch.where(LANES % 3 != 0, rows[LANES, LANES % 4], 0)
    bits = [int(word) & 0xFFFFFFFF for word in x.view(torch.int32)]
    counts = [word.bit_count() + 64 * (32 - word.bit_length()) + 4096 * ((word & -word).bit_length()) for word in bits]
    expected = {
        **products(case["fp16"], "fp16"),
        **products(case["bf16"], "bf16"),
        "cp.async": low,
        "load_16_once": rows[:, 2],
        "exp2": (x.double() * 0.6931471805599453).exp().float(),
        "pack2 fp16": pairs(x.half(), (2 * x).half()),
        "pack2 bf16": pairs(x.bfloat16(), (2 * x).bfloat16()),
        "shfl": x[(LANES + 3) % 32],
        "shfl 8": x[LANES // 8 * 8 + 5],
        "shfl_up 16": x[torch.where(LANES % 16 < 3, LANES, LANES - 3)],
        "shfl_down 16": x[torch.where(LANES % 16 < 13, LANES + 3, LANES)],
        "shfl_xor": x[LANES ^ 9],
        "shfl_xor 8": x[torch.where((LANES ^ 12) < LANES // 8 * 8 + 8, LANES ^ 12, LANES)],
        "shfl halves": x[torch.where(LANES < 16, 7, 20)],
        "ballot": ((x > 0).long() << LANES).sum().int().expand(32),
        "any, all": torch.tensor(2 * bool((x > 2).any()) + 1, dtype=torch.int32).expand(32),
        "popc, clz, ffs": torch.tensor(counts, dtype=torch.int32),
        "barriers": torch.tensor(27 + 1000, dtype=torch.int32).expand(32),  # of 0, 3 .. 78; bool(thread 79)
        "thread": LANES.int(),
    }
    return {name: words(rows) for name, rows in expected.items()}


def products(matrix: Tensor, name: str) -> dict[str, Tensor]:
    """ldmatrix of the four quarters, straight and transposed, and two mma."""
    quarters = [matrix[8 * (i % 2) :][:8, 8 * (i // 2) :][:, :8] for i in range(4)]
    group, two = LANES // 4, 2 * (LANES % 4)
    exact = matrix.float()
    start = torch.tensor([1.0, 2.0, 3.0, 4.0])
    with_rows, with_columns = exact @ exact[:8].T, exact @ exact[:, :8]

    def fragments(product: Tensor) -> Tensor:
        return torch.stack([product[group + 8 * (i // 2), two + i % 2] for i in range(4)])

    return {
        f"ldmatrix {name}": torch.stack([pairs(q[group, two], q[group, two + 1]) for q in quarters]),
        f"ldmatrix.trans {name}": torch.stack([pairs(q[two, group], q[two + 1, group]) for q in quarters]),
        f"mma {name}, rows": fragments(with_rows) + start[:, None],
        f"mma {name}, columns": fragments(with_columns),
    }


def pairs(low: Tensor, high: Tensor) -> Tensor:
    """16-bit values, packed as int32."""
    return torch.stack([low, high], dim=-1).view(torch.int32)[..., 0]


def words(rows: Tensor) -> Tensor:
    """int32 `[n, 32]` of floats or integers."""
    return rows.contiguous().view(torch.int32).reshape(-1, 32)


def check_answers(case: dict[str, Tensor]) -> None:
    """Every answer bit for bit, but for exp2: within the 2 units in the last place that the PTX manual promises."""
    answers, at = case["answers"].cpu(), 0
    for name, expected in expected_answers({key: tensor.cpu() for key, tensor in case.items()}).items():
        got = answers[at : at + len(expected)]
        at += len(expected)
        allowed = 2 if name == "exp2" else 0
        assert (got - expected).abs().max() <= allowed, f"{name}: {got.tolist()}, expected {expected.tolist()}"
    assert (answers[at:] == -1).all()
    assert case["counters"].tolist() == [160, 79, -1, -79, 7, 0]
