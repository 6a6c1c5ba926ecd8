"""What one call of `generate` returns, raises and says, held against another's."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache
from transformers.utils import ModelOutput
from transformers.utils.logging import warning_once

TOLERANCE = 1e-4  # of scores, hidden states and cache rows in fp32


@dataclass
class Outcome:
    """What a call returned or raised, and its warnings: Python's by category, and those of transformers' log."""

    result: Any
    said: list[tuple[str, str]]


def outcome_of(call: Callable[[], Any]) -> Outcome:
    warning_once.cache_clear()  # what transformers says once is said in both calls
    with _log() as records, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = call()
        except Exception as error:
            result = error
    said = [(warning.category.__name__, str(warning.message)) for warning in caught]
    return Outcome(result, said + [(record.levelname, record.getMessage()) for record in records])


@contextmanager
def _log() -> Iterator[list[logging.LogRecord]]:
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    try:
        yield records
    finally:
        logger.removeHandler(handler)


def assert_alike(ours: Any, plain: Any, values: bool = True, where: str = "result") -> None:
    """Of the same types, shapes and dtypes all the way down; with `values` also the same numbers."""
    if isinstance(plain, Tensor):
        assert isinstance(ours, Tensor), where
        for fact in ("shape", "dtype", "device", "requires_grad"):
            assert getattr(ours, fact) == getattr(plain, fact), f"{where}: {fact}"
        assert ours.is_inference() == plain.is_inference(), where
        if values and plain.is_floating_point():
            torch.testing.assert_close(ours, plain, rtol=0, atol=TOLERANCE, msg=lambda text: f"{where}: {text}")
        elif values:
            assert torch.equal(ours, plain), f"{where}: {ours.tolist()} and {plain.tolist()}"
    elif isinstance(plain, ModelOutput):
        assert isinstance(ours, type(plain)), where
        assert list(ours.keys()) == list(plain.keys()), where
        for name in plain:
            assert_alike(ours[name], plain[name], values, f"{where}.{name}")
    elif isinstance(plain, Cache):
        assert type(ours) is type(plain), where
        assert ours.get_seq_length() == plain.get_seq_length(), where
        assert [type(layer) for layer in ours.layers] == [type(layer) for layer in plain.layers], where
        rows, plain_rows = ([(layer.keys, layer.values) for layer in cache.layers] for cache in (ours, plain))
        assert_alike(rows, plain_rows, values, where)
    elif isinstance(plain, (tuple, list)):
        assert type(ours) is type(plain), where
        assert len(ours) == len(plain), where
        for index, (one, other) in enumerate(zip(ours, plain, strict=True)):
            assert_alike(one, other, values, f"{where}[{index}]")
    else:
        assert (type(ours), str(ours)) == (type(plain), str(plain)), where
