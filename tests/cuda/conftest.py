"""Fixtures for the tests of CUDA kernels."""

from __future__ import annotations

import pytest

from cuda_host import DEFAULT_SCHEDULES, FULL_SCHEDULES, MissingToolsError, Schedule, check_tools


@pytest.fixture(autouse=True, scope="session")
def _tools() -> None:
    """Without a compiler there is nothing to run."""
    try:
        check_tools()
    except MissingToolsError as error:
        pytest.skip(str(error))


@pytest.fixture(params=["default", pytest.param("full", marks=pytest.mark.release)])
def schedules(request: pytest.FixtureRequest) -> list[Schedule]:
    """The schedules in which a case is run."""
    return DEFAULT_SCHEDULES if request.param == "default" else FULL_SCHEDULES
