"""The ablation harness in small: every row is trained and measured, and a second run finds all of it done."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from killing import PATIENCE
from tiny_pair import save_tiny_pair

SCRIPT = Path(__file__).parents[2] / "benchmarks/ablation.py"
SIZES = (
    "--samples 8 --share 0.5 --text-samples 4 --epochs 1 --text-epochs 1 --batch-size 4 --max-new-tokens 8 --seeds 2 "
    "--images 1 --new-tokens 6 --trees 2,2,4 1,2,3"
)
ROWS = {
    "vispec": 2 * 2 + 1,
    "eagle-2": 2 * 2,
    "without global feature": 1,
    "without slots": 1,
    "without long answers": 1,
    "without multi-token pass": 1,
}


def test_ablation_in_small(tmp_path: Path) -> None:
    pair = save_tiny_pair(tmp_path / "pair")
    command = [sys.executable, str(SCRIPT), str(tmp_path / "work"), "--pair", str(pair), *SIZES.split()]
    first = subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE)
    result = json.loads((tmp_path / "work/ablation.json").read_text())
    rows = result["rows"]
    for name, count in ROWS.items():
        found = [row for row in rows if row["row"] == name]
        assert len(found) == count
        assert f"| {name} | " in first.stdout
        for row in found:
            assert row["identical"] == row["images"] == 1
            assert row["samples"] == (4 if row["part"] == 0.5 else 8)
            assert 0 <= row["tau"] <= 3
            assert row["speed_up"] > 0
    assert {row["answer_tokens"] for row in rows if row["part"] == 1.0} == {8 * 8}
    assert str(tmp_path) not in result["command"]
    sizes = {row["row"]: row["trainable_parameters"] for row in rows}
    assert sizes["eagle-2"] < sizes["without global feature"] < sizes["vispec"]
    second = subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE)
    assert "step 0 of" not in second.stdout
    assert json.loads((tmp_path / "work/ablation.json").read_text())["rows"] == rows
