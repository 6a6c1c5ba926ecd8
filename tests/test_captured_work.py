"""What a CUDA graph records of a cycle, gone through on torch's meta device.

A meta tensor has no values, so nothing can wait for one; and here nothing may be made from the host's numbers or touch
a tensor of the CPU, which would be a copy that a graph cannot record. What kernels do is shown elsewhere.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import vispec
from families import TABLE
from kept_cycles import kept_cycles
from models import family_of, make_batch, make_draft, make_prompt, make_target
from vispec import cycles
from vispec.auto import CANDIDATES
from vispec.decoding import Cycle
from vispec.graphs import why_not
from vispec.sampling import Rules
from vispec.target import Target

TREES = (CANDIDATES[0], CANDIDATES[-1], None)
RULES = (Rules(), Rules(samples=True, temperature=0.7, top_p=0.9, repetition_penalty=1.2))
FROM_NUMBERS = {torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy, Tensor.new_tensor}


class NothingFromNumbers(TorchFunctionMode):
    """No tensor is made of Python's numbers, other than a constant that fills it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        is_item = func in (Tensor.__getitem__, Tensor.__setitem__)
        if func in FROM_NUMBERS or (is_item and any(isinstance(leaf, list) for leaf in _items(args[1]))):
            raise AssertionError(f"{func.__name__} copies numbers of the host")
        return func(*args, **(kwargs or {}))


class NothingOnCPU(TorchDispatchMode):
    """No operation reads or writes a tensor of the CPU."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        output = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, output)) if isinstance(leaf, Tensor)]
        if any(tensor.device.type == "cpu" for tensor in tensors):
            raise AssertionError(f"{func} has a tensor of the CPU")
        self.count += 1
        return output


def _items(index: Any) -> tuple[Any, ...]:
    return index if isinstance(index, tuple) else (index,)


@contextmanager
def captured() -> Iterator[NothingOnCPU]:
    with NothingFromNumbers(), NothingOnCPU() as seen:
        yield seen


def moved(value: Any) -> Any:
    """The same on the meta device: tensors, modules, and our own objects that hold some, changed in place."""
    if isinstance(value, (Tensor, nn.Module)):
        return value.to("meta")
    if isinstance(value, dict):
        return {key: moved(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [moved(item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if type(value).__module__.startswith("vispec."):
        for name, item in vars(value).items():
            if name != "target":
                setattr(value, name, moved(item))
    return value


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Calls keep their cycles; nothing is captured."""
    with kept_cycles(monkeypatch, lambda: refuse):
        yield


def refuse(work: Callable[[], Tensor]) -> Any:
    raise RuntimeError("not here")


@contextmanager
def cycle_of(family: str) -> Iterator[Cycle]:
    """One that has decoded two prompts, with images where the family reads some; then moved to the meta device."""
    model = make_target(family)
    draft = make_draft(model)
    layout = "text" if family_of(model).images is None else "one image"
    inputs = make_batch([make_prompt(model, layout, random.Random(seed)) for seed in range(2)])
    with pytest.warns(UserWarning, match="not here"):
        vispec.generate(model, draft, inputs, tree="auto", max_new_tokens=20)
    _, cycle = cycles._kept[draft]
    target = Target(model.to("meta"))
    moved(cycle)
    cycle.target = cycle.drafter.target = target
    cycle.cache.start_verifying()
    with torch.no_grad(), target.attached(), target.verification():
        yield cycle


@pytest.mark.parametrize("family", TABLE)
def test_a_cycle_asks_nothing_of_the_host(family: str, kept: None) -> None:
    reason = why_not(make_target(family))
    if reason is not None:  # then it is not captured either
        assert "experts" in reason
        return
    with cycle_of(family) as cycle:
        texts = torch.zeros(2, 8, dtype=torch.int64, device="meta")
        for rules in RULES:
            cycle.choice.begin(rules, 7, texts)
            for tree in TREES:
                with captured() as seen:
                    record = cycle._work(tree)
                assert record.shape == (2, 2 + (0 if tree is None else tree.max_accepted))
                assert seen.count > 100


WRONG: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "a value is read": (lambda x: x[0].item(), "item"),
    "a decision hangs on one": (lambda x: bool((x > 0).any()), "item"),
    "a size hangs on one": (lambda x: x[x > 0], "nonzero"),
    "it is copied to the host": (lambda x: x.cpu(), "no data"),
    "a tensor of numbers": (lambda x: x + torch.tensor([1.0], device=x.device), "copies numbers"),
    "one like another": (lambda x: x + x.new_tensor([1.0]), "copies numbers"),
    "rows by number": (lambda x: x[[0, 2]], "copies numbers"),
    "a tensor of the CPU": (lambda x: x.copy_(torch.ones(4)), "of the CPU"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_no_graph_can_record_is_seen(wrong: str) -> None:
    work, words = WRONG[wrong]
    with pytest.raises((AssertionError, RuntimeError, NotImplementedError), match=words), captured():
        work(torch.zeros(4, device="meta"))
