"""How often the target itself cannot tell two tokens apart, by family and dtype.

`python -m families.ties 20`, with `tests` on the path, decodes so many random prompts of each and prints the table.
"""

from __future__ import annotations

import sys

import torch

from families import TABLE
from lossless import COMPARED, NEAR_TIES
from random_prompts import check_prompts

DTYPES = ("float32", "bfloat16", "float16")


def markdown() -> str:
    """Of all texts compared so far, those that part from the model's own at a near tie."""
    families = sorted({model_type for model_type, _ in COMPARED})
    lines = [f"| family | {' | '.join(DTYPES)} |", f"| --- | {' | '.join('---' for _ in DTYPES)} |"]
    for label, counted in (*((f"`{family}`", [family]) for family in families), ("all", families)):
        ties, texts = (
            [sum(counts[family, dtype] for family in counted) for dtype in DTYPES] for counts in (NEAR_TIES, COMPARED)
        )
        lines.append(f"| {label} | {' | '.join(f'{n} of {of}' for n, of in zip(ties, texts, strict=True))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for dtype in DTYPES:
        for name in TABLE:
            check_prompts(name, getattr(torch, dtype), count=int(sys.argv[1]), seed=0)
    print(markdown())
