"""What a run reports, and what happens when drafts are always or never right."""

from __future__ import annotations

import random

import pytest
import torch

import vispec
from lossless import assert_same_text, plain_text
from models import make_draft, make_prompt, make_target
from scripted import ScriptedDraft
from vispec import TreeConfig
from vispec.cache import TreeLayer


@pytest.mark.parametrize("family", ["llama", "llava", "llava_next", "qwen2", "qwen2_5_vl"])
@pytest.mark.parametrize("tree", [TreeConfig(), TreeConfig(1, 2, 5), TreeConfig(6, 8, 100)], ids=str)
def test_the_truth_is_accepted_in_full(family: str, tree: TreeConfig) -> None:
    model = make_target(family)
    inputs = make_prompt(model, "text" if family in ("llama", "qwen2") else "two separate images", random.Random(0))
    length = 1 + 5 * (tree.max_accepted + 1)
    script = plain_text(model, inputs, max_new_tokens=length + tree.max_accepted)[0, inputs["input_ids"].shape[1] :]
    output = assert_same_text(model, ScriptedDraft(model, script), inputs, tree, max_new_tokens=length)
    assert output.speculation.num_accepted.tolist() == [[tree.max_accepted]] * 5
    assert output.speculation.mean_accepted == tree.max_accepted


def test_a_draft_that_is_never_right_yields_one_token_a_cycle() -> None:
    model = make_target("llava")
    inputs = make_prompt(model, "one image", random.Random(0))
    plain = plain_text(model, inputs, max_new_tokens=32)[0, inputs["input_ids"].shape[1] :]
    unused = next(token for token in range(150) if token not in plain)
    script = torch.full((64,), unused)  # siblings of it: unused + 1 to unused + 6
    wrong = ScriptedDraft(model, script)
    model.get_output_embeddings().weight.data[unused : unused + 7] = 0.0  # and now surely never the argmax
    output = assert_same_text(model, wrong, inputs, TreeConfig(), max_new_tokens=20)
    assert output.speculation.num_accepted.tolist() == [[0]] * 19
    assert output.speculation.num_emitted.tolist() == [20]


def test_report_adds_up() -> None:
    model = make_target("llava")
    inputs = make_prompt(model, "one image", random.Random(1))
    tree = TreeConfig()
    output = vispec.generate(
        model, make_draft(model), inputs, tree=tree, max_new_tokens=40, return_dict_in_generate=True
    )
    report = output.speculation
    assert report.num_accepted.shape == (report.num_cycles, 1)
    assert report.num_accepted.dtype == report.num_drafted.dtype == report.num_emitted.dtype == torch.int32
    assert report.num_drafted.tolist() == [report.num_cycles * (tree.num_nodes - 1)]
    assert report.num_emitted.tolist() == [output.sequences.shape[1] - inputs["input_ids"].shape[1]] == [40]
    emitted = 1 + int(report.num_accepted.sum()) + report.num_cycles
    assert 0 <= emitted - 40 <= tree.max_accepted, "all but the last cycle's tokens were returned"
    assert report.mean_accepted == pytest.approx(report.num_accepted.float().mean().item())
    assert report.seconds.pop("captured") == 0.0  # CPUs have no graphs
    assert set(report.seconds) == {"prefill", "draft", "verify", "accept", "other"}
    assert all(seconds > 0 for seconds in report.seconds.values())


def test_one_token_needs_no_cycle() -> None:
    model = make_target("llama")
    inputs = make_prompt(model, "text", random.Random(2))
    output = assert_same_text(model, make_draft(model), inputs, TreeConfig(), max_new_tokens=1)
    assert output.speculation.num_cycles == 0
    assert output.speculation.num_accepted.shape == (0, 1)
    assert output.speculation.mean_accepted == 0.0
    assert output.speculation.num_emitted.tolist() == [1]


def test_two_equal_calls_give_equal_bits() -> None:
    model = make_target("qwen2_5_vl")
    inputs = make_prompt(model, "two separate images", random.Random(3))
    draft = make_draft(model)
    first, second = (
        vispec.generate(model, draft, inputs, max_new_tokens=40, return_dict_in_generate=True) for _ in range(2)
    )
    assert torch.equal(first.sequences, second.sequences)
    assert torch.equal(first.speculation.num_accepted, second.speculation.num_accepted)
    for ours, theirs in zip(first.past_key_values.layers, second.past_key_values.layers, strict=True):
        assert torch.equal(ours.keys, theirs.keys)
        assert torch.equal(ours.values, theirs.values)


def test_caches_grow_past_their_first_allocation(monkeypatch: pytest.MonkeyPatch) -> None:
    """More new tokens than rows were allocated for, in the target's cache and in the draft's."""
    capacities: list[int] = []
    grow = TreeLayer.grow
    monkeypatch.setattr(TreeLayer, "grow", lambda layer, capacity: capacities.append(capacity) or grow(layer, capacity))
    model = make_target("llama")
    inputs = make_prompt(model, "text", random.Random(4))
    output = assert_same_text(model, make_draft(model), inputs, TreeConfig(), max_new_tokens=1300)
    assert output.past_key_values.get_seq_length() == output.sequences.shape[1] - 1
    assert max(capacities) > inputs["input_ids"].shape[1] + 1024 + 30


def test_cache_holds_what_plain_decoding_would_have() -> None:
    """Keys and values of all tokens but the last, as a prefill of the text computes them."""
    model = make_target("llama")
    inputs = make_prompt(model, "text", random.Random(5))
    output = assert_same_text(model, make_draft(model), inputs, TreeConfig(), max_new_tokens=40)
    with torch.no_grad():
        expected = model(output.sequences[:, :-1]).past_key_values
    for ours, theirs in zip(output.past_key_values.layers, expected.layers, strict=True):
        torch.testing.assert_close(ours.keys, theirs.keys, rtol=0, atol=1e-5)
        torch.testing.assert_close(ours.values, theirs.values, rtol=0, atol=1e-5)
