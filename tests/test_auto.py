"""`tree="auto"`: the decision by itself, then whole calls on a clock that counts passes instead of time."""

from __future__ import annotations

import gc
import itertools
import random
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import vispec
import vispec.decoding
from lossless import assert_same_text
from models import BUILDERS, VISION_FAMILIES, make_draft, make_prompt, make_target
from refusal import refused
from scripted import ScriptedDraft
from vispec import TreeConfig
from vispec.auto import CANDIDATES, FIRST_GAP, LAST_GAP, LEAST_TIMINGS, RENEWAL, Acceptance, AutoTree, auto_plan, choose
from vispec.draft.checkpoint import shorten_vocabulary
from vispec.draft.model import DraftModel
from vispec.pair.dataset import make_sample
from vispec.pair.pretrained import load_pair
from vispec.pair.write_requests import LONG
from vispec.target import Target

SMALL, LONG_CHAIN, WIDE = TreeConfig(1, 2, 4), TreeConfig(7, 1, 9), TreeConfig(3, 8, 30)
LEVELS = max(tree.max_accepted for tree in CANDIDATES)


def accepting(tree: TreeConfig, *counts: int) -> Acceptance:
    acceptance = Acceptance(LEVELS)
    for count in counts:
        acceptance.note(tree, [count])
    return acceptance


def test_candidates_are_few_and_in_order() -> None:
    assert len(CANDIDATES) + 1 <= 8, "each one is a graph on a GPU, and so is a cycle without a tree"
    sizes = [tree.num_nodes for tree in CANDIDATES]
    assert sizes == sorted(set(sizes))


def test_without_a_plain_cycle_that_comes_first() -> None:
    assert choose({}, Acceptance(LEVELS), CANDIDATES) is None
    assert choose({SMALL: 1.0}, Acceptance(LEVELS), CANDIDATES) is None


@pytest.mark.parametrize(
    ("small", "wide", "expected"),
    [(1.1, 1.2, WIDE), (1.1, 2.5, SMALL), (3.5, 6.0, None), (3.5, 2.0, WIDE)],
)
def test_most_tokens_a_second(small: float, wide: float, expected: TreeConfig | None) -> None:
    """A cycle yields 3 tokens with the small tree, 5 with the wide one."""
    acceptance = accepting(SMALL, *[2] * 100)
    for _ in range(100):
        acceptance.note(WIDE, [4])
    assert acceptance.expected_tokens(SMALL) == pytest.approx(3.0, abs=0.1)
    assert acceptance.expected_tokens(WIDE) == pytest.approx(5.0, abs=0.1)
    assert choose({None: 1.0, SMALL: small, WIDE: wide}, acceptance, (SMALL, WIDE)) == expected


def test_a_tree_is_measured_only_where_it_could_be_best() -> None:
    good, bad = accepting(SMALL, *[2] * 50), accepting(SMALL, *[0] * 50)
    assert choose({None: 1.0}, good, (SMALL, WIDE)) == SMALL
    assert choose({None: 1.0, SMALL: 1.1}, good, (SMALL, WIDE)) == WIDE
    assert choose({None: 1.0, SMALL: 1.1}, bad, (SMALL, WIDE)) is None, "it costs 1.1 at least and yields less"
    # a wide tree is no bound for a chain: it does not contain it
    assert choose({None: 1.0, WIDE: 99.0}, good, (LONG_CHAIN, WIDE)) == LONG_CHAIN


def test_a_draft_that_is_never_right_promises_nothing() -> None:
    for tree in CANDIDATES:
        acceptance = accepting(tree, *[0] * 100)
        assert all(acceptance.expected_tokens(other) < 1.25 for other in CANDIDATES)
        assert acceptance.expected_tokens(tree) < 1.1


def test_a_draft_that_is_always_right_promises_all() -> None:
    acceptance = accepting(CANDIDATES[2], *[CANDIDATES[2].max_accepted] * 200)
    for tree in CANDIDATES:
        assert acceptance.expected_tokens(tree) == pytest.approx(tree.max_accepted + 1, abs=0.5)
    assert acceptance.expected_tokens(None) == 1.0


@pytest.mark.parametrize("miss_rate", [0.1, 0.4, 0.8])
def test_what_a_chain_shows_is_carried_over_to_width(miss_rate: float) -> None:
    rng = random.Random(0)
    acceptance = Acceptance(LEVELS)
    for _ in range(2000):
        accepted = next((level for level in range(8) if rng.random() < miss_rate), 8)
        acceptance.note(LONG_CHAIN, [accepted])
    chain = sum((1 - miss_rate) ** level for level in range(9))
    assert acceptance.expected_tokens(LONG_CHAIN) == pytest.approx(chain, rel=0.3)
    narrow, wide = TreeConfig(3, 1, 5), TreeConfig(3, 8, 30)
    expected = 1 + sum((1 - miss_rate) ** level for level in range(1, 5))
    assert acceptance.expected_tokens(narrow) == pytest.approx(expected, rel=0.3)
    assert acceptance.expected_tokens(wide) > acceptance.expected_tokens(narrow)


def test_old_cycles_fade() -> None:
    acceptance = accepting(WIDE, *[4] * 500, *[0] * 100)
    assert acceptance.expected_tokens(WIDE) < 1.3
    for _ in range(100):
        acceptance.note(WIDE, [4])
    assert acceptance.expected_tokens(WIDE) > 4.5


def test_finished_sequences_say_nothing() -> None:
    one, three = Acceptance(LEVELS), Acceptance(LEVELS)
    for accepted in (2, 0, 4):
        one.note(WIDE, [accepted])
        three.note(WIDE, [-1, accepted, -1])
    assert one.miss_rates == three.miss_rates
    assert one.expected_tokens(WIDE) == three.expected_tokens(WIDE)


def play(plan: AutoTree, cost: Callable[[TreeConfig | None], float], accept: int, cycles: int) -> list[Any]:
    """The trees of so many cycles in a world where a cycle accepts `accept` tokens, or all that its tree can hold."""
    trees = []
    for _ in range(cycles):
        tree = plan.next_tree(100)
        plan.note(tree, [min(accept, tree.max_accepted) if tree else 0], cost(tree))
        trees.append(tree)
    return trees


def per_node(tree: TreeConfig | None) -> float:
    return 1.0 + 0.1 * tree.num_nodes + 0.05 * (tree.depth + 2) if tree else 1.0


def test_tries_after_giving_up_become_rare() -> None:
    plan = AutoTree()
    trees = play(plan, per_node, accept=0, cycles=2000)
    drafted = [index for index, tree in enumerate(trees) if tree]
    assert len([index for index in drafted if index >= 500]) <= 1500 / LAST_GAP + 1
    gaps = [later - earlier - 1 for earlier, later in itertools.pairwise(drafted)]
    assert gaps[-1] == LAST_GAP
    assert FIRST_GAP <= min(gap for gap in gaps if gap) <= 2 * FIRST_GAP


def test_a_text_that_becomes_easier_is_drafted_again() -> None:
    plan = AutoTree()
    play(plan, per_node, accept=0, cycles=1000)
    trees = play(plan, per_node, accept=8, cycles=LAST_GAP + 200)
    assert trees[-RENEWAL:].count(None) <= 1


def test_a_plain_cycle_now_and_then_while_drafting() -> None:
    """What it costs may have changed: if it is cheap now, drafting stops."""
    plan = AutoTree()
    trees = play(plan, per_node, accept=8, cycles=500)
    assert trees[-3 * RENEWAL :].count(None) in (2, 3)
    trees = play(plan, lambda tree: per_node(tree) if tree else 0.01, accept=8, cycles=6 * RENEWAL)
    assert trees[-FIRST_GAP - 1 :].count(None) >= FIRST_GAP


def test_other_sizes_of_text_are_measured_anew() -> None:
    plan = AutoTree()
    play(plan, per_node, accept=8, cycles=200)
    assert plan.next_tree(1000) is not None
    assert [plan.next_tree(50_000) for _ in range(3)] == [None] * 3


def test_asked_ahead_of_what_is_noted() -> None:
    """On a GPU the next cycle is asked for before the last one is noted."""
    plan, trees = AutoTree(), []
    waiting = plan.next_tree(100)
    for _ in range(2000):
        following = plan.next_tree(100)
        plan.note(waiting, [0], per_node(waiting))
        trees.append(waiting)
        waiting = following
    assert sum(tree is not None for tree in trees[500:]) <= 2 * (1500 / LAST_GAP + 1)


class PassClock:
    """Time by passes: one node of the target takes 1, each further one 0.1, a pass of the draft's layer 0.2."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(vispec.decoding, "time", SimpleNamespace(perf_counter=lambda: self.now))
        verify, forward = Target.verify, DraftModel.forward

        def counted_verify(target: Target, tree: Any, *args: Any) -> Any:
            self.now += 0.9 + 0.1 * tree.tokens.shape[1]
            return verify(target, tree, *args)

        def counted_forward(model: DraftModel, *args: Any) -> Any:
            self.now += 0.2
            return forward(model, *args)

        monkeypatch.setattr(Target, "verify", counted_verify)
        monkeypatch.setattr(DraftModel, "forward", counted_forward)

    def spent(self, call: Callable[[], Any]) -> tuple[float, Any]:
        start = self.now
        result = call()
        return self.now - start, result


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[PassClock]:
    return PassClock(monkeypatch)


def run(model: Any, draft: Any, inputs: Any, tree: Any, tokens: int) -> Any:
    return vispec.generate(
        model, draft, inputs, tree=tree, max_new_tokens=tokens, do_sample=False, return_dict_in_generate=True
    )


def test_a_random_draft_ends_up_undrafted(clock: PassClock) -> None:
    """No more than a few plain steps are lost in the first call, and next to none afterwards."""
    model = make_target("llava")
    inputs = make_prompt(model, "one image", random.Random(0))
    torch.manual_seed(1)
    draft = vispec.Draft(DraftModel(make_draft(model).config), model)
    tokens = 600
    first, output = clock.spent(lambda: run(model, draft, inputs, "auto", tokens))
    report = output.speculation
    assert report.mean_accepted < 0.05
    assert sum(tree is not None for tree in report.trees[200:]) <= 6
    assert first < 1.1 * tokens
    later, _ = clock.spent(lambda: run(model, draft, inputs, "auto", tokens))
    assert later < 1.03 * tokens


@pytest.mark.parametrize("fixed", [TreeConfig(), TreeConfig(7, 2, 12), TreeConfig(1, 2, 4)], ids=str)
def test_a_good_draft_loses_little_to_any_fixed_tree(clock: PassClock, fixed: TreeConfig) -> None:
    model = make_target("llama")
    inputs = make_prompt(model, "text", random.Random(0))
    tokens = 400
    script = model.generate(**inputs, do_sample=False, max_new_tokens=tokens + 20)[0, inputs["input_ids"].shape[1] :]
    draft = ScriptedDraft(model, script)
    run(model, draft, inputs, "auto", tokens)
    auto, output = clock.spent(lambda: run(model, draft, inputs, "auto", tokens))
    explicit, _ = clock.spent(lambda: run(model, draft, inputs, fixed, tokens))
    assert auto < 1.05 * explicit
    assert output.speculation.mean_accepted > 6


@pytest.mark.parametrize("family", BUILDERS)
def test_same_text(family: str) -> None:
    model = make_target(family)
    inputs = make_prompt(model, "two separate images" if family in VISION_FAMILIES else "text", random.Random(3))
    draft = make_draft(model)
    for _ in range(2):  # while it measures, and when it knows
        report = assert_same_text(model, draft, inputs, "auto", max_new_tokens=100).speculation
        drafted = [tree.num_nodes - 1 if tree else 0 for tree in report.trees]
        assert report.num_drafted.tolist() == [sum(drafted)]
        assert report.num_emitted.tolist() == [100]
        assert 0 <= 1 + int(report.num_accepted.sum()) + report.num_cycles - 100 <= LEVELS
    assert report.num_accepted.shape == (report.num_cycles, 1)


def test_same_text_of_the_pair_that_ships() -> None:
    pair = load_pair()
    report = None
    for index in range(2):
        sample = make_sample(4321, "test", index, LONG)
        inputs = dict(pair.inputs(sample.image, sample.question))
        report = assert_same_text(pair.model, pair.draft, inputs, "auto", max_new_tokens=64).speculation
    assert report is not None
    assert report.mean_accepted > 0


def test_accelerated() -> None:
    model = make_target("qwen2_5_vl")
    inputs = make_prompt(model, "one image", random.Random(5))
    plain = model.generate(**inputs, do_sample=False, max_new_tokens=40)
    with vispec.accelerate(model, make_draft(model), tree="auto"):
        for _ in range(2):
            output = model.generate(**inputs, do_sample=False, max_new_tokens=40, return_dict_in_generate=True)
            assert torch.equal(output.sequences, plain)
    assert len(output.speculation.trees) == output.speculation.num_cycles


def test_what_was_learned_serves_later_calls_and_dies_with_the_draft() -> None:
    model = make_target("llama")
    draft, target = make_draft(model), Target(model)
    run(model, draft, {"input_ids": torch.tensor([[5, 9, 14]])}, "auto", 40)
    plan = auto_plan(draft, target, 1)
    assert plan is auto_plan(draft, target, 1)
    assert plan is not auto_plan(draft, target, 2)
    assert len(plan.costs[0].timings[None]) >= LEAST_TIMINGS
    assert plan.acceptance.cycles
    alive = weakref.ref(plan), weakref.ref(draft)
    del plan, draft
    gc.collect()
    assert [reference() for reference in alive] == [None, None]


def test_no_tree_is_wider_than_the_vocabulary() -> None:
    model = make_target("llama")
    short = shorten_vocabulary(make_draft(model).model, Counter(), 9)
    trees = auto_plan(vispec.Draft(short, model), Target(model), 1).trees
    assert 0 < len(trees) < len(CANDIDATES)
    assert all(tree.top_k <= 9 for tree in trees)


def test_one_token_is_too_few_to_choose_from() -> None:
    model = make_target("llama")
    draft = vispec.Draft(shorten_vocabulary(make_draft(model).model, Counter(), 1), model)
    with refused(model, ValueError, 'tree: expected a draft of at least 2 tokens for "auto", got one of 1'):
        vispec.generate(model, draft, torch.tensor([[5, 9]]), tree="auto")
