"""Fixtures for all tests."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import lossless

DEVICES = [pytest.param("cpu"), *([pytest.param("cuda", marks=pytest.mark.gpu)] if torch.cuda.is_available() else [])]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    """Every device that operators are built for and that this machine has."""
    return torch.device(request.param)


torch.set_num_threads(1)  # tiny models gain nothing from more, and on a busy machine threads wait for each other


@pytest.fixture(autouse=True)
def seeded() -> None:
    """What a test draws hangs on no other test."""
    torch.manual_seed(0)


@pytest.fixture
def no_warnings() -> Iterator[None]:
    """Ours are errors: the draft knows all turns, say, unless a test expects otherwise."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="vispec:")
        yield


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """`torch.set_num_threads` until the end of the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of `pytest -n` hands its counts on."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["counts"] = [[*key, lossless.COMPARED[key], lossless.NEAR_TIES[key]] for key in lossless.COMPARED]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: Any) -> None:
    """The counts of a worker that has finished."""
    for family, dtype, compared, near_ties in getattr(node, "workeroutput", {}).get("counts", ()):
        lossless.COMPARED[family, dtype] += compared
        lossless.NEAR_TIES[family, dtype] += near_ties


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Texts compared with the target's own, and those where it could not tell two tokens apart; -v: by family."""
    for dtype in sorted({dtype for _, dtype in lossless.COMPARED}):
        families = sorted(family for family, of in lossless.COMPARED if of == dtype)
        told = {family: (lossless.COMPARED[family, dtype], lossless.NEAR_TIES[family, dtype]) for family in families}
        texts, ties = (sum(counts) for counts in zip(*told.values(), strict=True))
        terminalreporter.write_line(f"{dtype}: {texts} texts as model.generate's, {ties} of them up to a near tie")
        if terminalreporter.verbosity > 0:
            for family, (texts, ties) in told.items():
                terminalreporter.write_line(f"  {family}: {texts}, {ties}")
