"""Cycles of changing trees, and cycles without one: the text, the report and what the drafter knows stay right."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import vispec
from lossless import assert_same_text
from models import BUILDERS, VISION_FAMILIES, make_draft, make_prompt, make_target
from scripted import ScriptedDraft
from vispec import TreeConfig
from vispec.draft.drafter import MAX_CHAIN, ViSpecDrafter

TREES = (TreeConfig(), TreeConfig(1, 2, 4), TreeConfig(7, 2, 12), TreeConfig(7, 12, 130))


class Script:
    """The plan that follows a list of trees, over and over."""

    def __init__(self, steps: Sequence[TreeConfig | None]) -> None:
        self.steps, self.index = steps, 0
        self.trees = [tree for tree in steps if tree is not None]
        self.seconds: list[float] = []

    def next_tree(self, length: int) -> TreeConfig | None:
        self.index += 1
        return self.steps[(self.index - 1) % len(self.steps)]

    def note(self, tree: TreeConfig | None, num_accepted: Sequence[int], seconds: float) -> None:
        self.seconds.append(seconds)


def follow(monkeypatch: pytest.MonkeyPatch, steps: Sequence[TreeConfig | None]) -> Script:
    """`vispec.generate` with an explicit tree follows these steps instead."""
    script = Script(steps)
    monkeypatch.setattr(sys.modules["vispec.generate"], "SameTree", lambda tree: script)
    return script


@pytest.mark.parametrize("family", BUILDERS)
def test_trees_come_and_go(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_target(family)
    rng = random.Random(0)
    inputs = make_prompt(model, "two separate images" if family in VISION_FAMILIES else "text", rng)
    steps = [rng.choice((*TREES, None, None)) for _ in range(40)]
    script = follow(monkeypatch, steps)
    output = assert_same_text(model, make_draft(model), inputs, TreeConfig(), max_new_tokens=80)
    report = output.speculation
    assert report.trees == [steps[index % len(steps)] for index in range(report.num_cycles)]
    assert {None, *TREES} == set(report.trees)
    assert report.num_drafted.tolist() == [sum(tree.num_nodes - 1 for tree in report.trees if tree)]
    assert len(script.seconds) == report.num_cycles
    for tree, accepted in zip(report.trees, report.num_accepted[:, 0].tolist(), strict=True):
        assert 0 <= accepted <= (tree.max_accepted if tree else 0)
    assert report.num_accepted.sum() > 0


@pytest.mark.parametrize("undrafted", [1, 2, MAX_CHAIN - 1, MAX_CHAIN, MAX_CHAIN + 1, 3 * MAX_CHAIN])
def test_a_drafter_that_missed_tokens_reads_them(undrafted: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends where a drafter is that saw everything cycle by cycle, in few passes."""
    model = make_target("llava")
    inputs = make_prompt(model, "one image", random.Random(1))
    drafters: list[ViSpecDrafter] = []
    widths: list[int] = []
    prefill, update = ViSpecDrafter.prefill, ViSpecDrafter.update

    def recording_prefill(self: ViSpecDrafter, *args: Any) -> None:
        drafters.append(self)
        prefill(self, *args)

    def recording_update(self: ViSpecDrafter, tokens: Tensor, *args: Any) -> None:
        widths.append(tokens.shape[1])
        update(self, tokens, *args)

    monkeypatch.setattr(ViSpecDrafter, "prefill", recording_prefill)
    monkeypatch.setattr(ViSpecDrafter, "update", recording_update)
    draft, smallest = make_draft(model), TreeConfig(0, 1, 2)
    for steps in ([None] * undrafted + [smallest], [smallest]):
        follow(monkeypatch, steps)
        plain = vispec.generate(model, draft, inputs, max_new_tokens=undrafted + 2, return_dict_in_generate=True)
        if steps[0] is None:
            assert plain.speculation.trees == steps
            assert widths == [MAX_CHAIN] * -(-undrafted // MAX_CHAIN) + [2]
    ours, expected = drafters
    # the last cycle may have accepted a token more than was asked for
    rows = min(int(ours.cache_len), int(expected.cache_len))
    torch.testing.assert_close(ours.k_cache[:, :, :rows], expected.k_cache[:, :, :rows], rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.v_cache[:, :, :rows], expected.v_cache[:, :, :rows], rtol=0, atol=1e-5)


def test_a_plan_without_a_guess_writes_token_by_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """A draft that knows everything is asked for nothing."""
    model = make_target("llama")
    inputs = make_prompt(model, "text", random.Random(2))
    script = torch.zeros(64, dtype=torch.int64)
    draft = ScriptedDraft(model, script)
    steps = follow(monkeypatch, [None])
    steps.trees = [TreeConfig()]
    output = assert_same_text(model, draft, inputs, TreeConfig(), max_new_tokens=150)
    assert output.speculation.num_accepted.tolist() == [[0]] * 149
    assert output.speculation.num_drafted.tolist() == [0]
