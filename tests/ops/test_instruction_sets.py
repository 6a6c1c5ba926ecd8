"""The loops over logits on a machine with a lesser instruction set: their tests in a process that may use no better."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = [
    "test_expand_frontier.py::test_expand_frontier",
    "test_expand_frontier.py::test_equal_logits_come_in_token_order",
    "test_select_tokens.py::test_argmax",
    "test_select_tokens.py::test_plain_draws",
    "test_select_tokens.py::test_equal_logits_stay_or_go_together",
]


@pytest.mark.parametrize("isa", ["base", "v3"])
def test_lesser_instruction_sets(isa: str) -> None:
    tests = [str(Path(__file__).parent / test) for test in TESTS]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    here = Path(__file__).parent  # and not the root, which -m would put before the installed package
    environ = os.environ | {"VISPEC_ISA": isa}
    run = subprocess.run(command, env=environ, cwd=here, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout
    assert " passed" in run.stdout
