"""What a call leaves in memory: nothing but its output."""

from __future__ import annotations

import gc
import random
import weakref
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import models
import vispec
from vispec.cache import TreeCache
from vispec.draft.drafter import ViSpecDrafter


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Only reference counts free anything: a cycle would stay."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def make_case(family: str) -> tuple[Any, vispec.Draft, dict[str, Tensor]]:
    model = models.make_target(family)
    layout = "two separate images" if family in models.VISION_FAMILIES else "text"
    return model, models.make_draft(model), models.make_prompt(model, layout, random.Random(0))


class Watched:
    """Weak references to every cache and drafter that calls inside make."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.references: list[weakref.ref[Any]] = []
        for kind in (TreeCache, ViSpecDrafter):
            monkeypatch.setattr(kind, "__init__", self._watching(kind.__init__))

    def _watching(self, init: Any) -> Any:
        def watched_init(made: Any, *args: Any, **kwargs: Any) -> None:
            self.references.append(weakref.ref(made))
            init(made, *args, **kwargs)

        return watched_init

    def alive(self) -> list[str]:
        return [type(made).__name__ for made in (reference() for reference in self.references) if made is not None]


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("family", models.BUILDERS)
def test_nothing_waits_for_the_collector(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, draft, inputs = make_case(family)
    watched = Watched(monkeypatch)
    vispec.generate(model, draft, inputs, max_new_tokens=12)
    assert len(watched.references) == 2
    assert not watched.alive()

    output = vispec.generate(model, draft, inputs, max_new_tokens=12, return_dict_in_generate=True)
    assert not watched.alive()
    layer = weakref.ref(output.past_key_values.layers[0].keys)
    del output
    assert layer() is None


class Fails:
    def put(self, value: Tensor) -> None:
        if value.ndim == 1:  # a token, not the prompt
            raise KeyboardInterrupt

    def end(self) -> None:
        pass


@pytest.mark.usefixtures("no_collector")
def test_nothing_stays_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    model, draft, inputs = make_case("llava")
    watched = Watched(monkeypatch)

    def failing_call() -> None:
        with pytest.raises(KeyboardInterrupt):
            vispec.generate(model, draft, inputs, max_new_tokens=12, streamer=Fails())

    failing_call()
    gc.collect()  # pytest's own record of the traceback is a cycle
    assert len(watched.references) == 2
    assert not watched.alive()


@pytest.mark.usefixtures("no_collector")
def test_model_and_draft_die_with_their_last_name() -> None:
    model, draft, inputs = make_case("llama")
    vispec.generate(model, draft, inputs, max_new_tokens=5)
    with vispec.accelerate(model, draft):
        model.generate(**inputs, max_new_tokens=5)
    alive = weakref.ref(model), weakref.ref(draft), weakref.ref(model.config)
    del model, draft
    gc.collect()  # the models themselves may hold cycles
    assert [reference() for reference in alive] == [None, None, None]


def objects() -> Counter[str]:
    gc.collect()
    return Counter(type(made).__name__ for made in gc.get_objects())


@pytest.mark.parametrize("family", ["llama", "llava", "qwen2_5_vl"])
def test_objects_do_not_pile_up(family: str) -> None:
    model, draft, inputs = make_case(family)

    def calls(count: int) -> None:
        for seed in range(count):
            vispec.generate(model, draft, inputs, max_new_tokens=5 + seed % 3, return_dict_in_generate=seed % 2 == 0)

    calls(5)
    objects()  # counting, and the first calls, fill caches of Python's own
    calls(5)
    before = objects()
    calls(20)
    grown = {name: count - before[name] for name, count in objects().items() if count - before[name] >= 10}
    assert not grown
    assert objects()["Parameter"] + objects()["Tensor"] <= before["Parameter"] + before["Tensor"]


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


@pytest.mark.release
@pytest.mark.parametrize("family", models.BUILDERS)
def test_memory_is_flat_over_200_generations(family: str) -> None:
    model, draft, inputs = make_case(family)

    def calls(count: int) -> int:
        for seed in range(count):
            vispec.generate(model, draft, inputs, max_new_tokens=40 + seed % 30)
        gc.collect()
        return resident_bytes()

    calls(30)
    torch.set_num_threads(1)
    before = calls(30)
    assert calls(200) - before < 4 * 2**20
