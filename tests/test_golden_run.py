"""The published generation loop, recorded on a tiny LLaVA-NeXT and a draft trained for it."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForImageTextToText

import vispec
from golden_data import ATOL, GOLDEN
from vispec.draft.drafter import ViSpecDrafter
from vispec.tree import Tree, TreeConfig


def test_run_of_the_published_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = GOLDEN / "e2e_llava_next"
    recorded = load_file(folder / "run.safetensors")
    model = AutoModelForImageTextToText.from_pretrained(folder / "target", dtype=torch.float32).eval()
    draft = vispec.load_draft(folder / "drafter", model)
    inputs = {
        "input_ids": recorded["input_ids"].long(),
        "pixel_values": recorded["pixel_values"],
        "image_sizes": recorded["image_sizes"].long(),
    }
    trees: list[Tree] = []
    states: list[tuple[int, int]] = []
    fed: list[Tensor] = []
    propose, update = ViSpecDrafter.propose, ViSpecDrafter.update

    def recording_propose(self: ViSpecDrafter, root_tokens: Tensor, tree: TreeConfig) -> Tree:
        states.append((int(self.cache_len), int(self.next_position)))
        trees.append(propose(self, root_tokens, tree))
        return trees[-1]

    def recording_update(self: ViSpecDrafter, tokens: Tensor, features: Tensor, num_accepted: Tensor) -> None:
        fed.append(features[0, : int(num_accepted) + 1])
        update(self, tokens, features, num_accepted)

    monkeypatch.setattr(ViSpecDrafter, "propose", recording_propose)
    monkeypatch.setattr(ViSpecDrafter, "update", recording_update)
    # the published loop ends a cycle late and returns all of its last path
    written = len(recorded["output_ids"])
    output = vispec.generate(
        model, draft, inputs, max_new_tokens=written, do_sample=False, eos_token_id=None, return_dict_in_generate=True
    )

    prompt_length = inputs["input_ids"].shape[1]
    assert output.sequences[0, prompt_length:].tolist() == recorded["output_ids"].tolist()
    cycles = len(recorded["acceptance_length"])
    assert output.speculation.num_accepted[:cycles, 0].tolist() == recorded["acceptance_length"].tolist()
    for name, ours in (
        ("tree_tokens", [tree.tokens[0] for tree in trees]),
        ("tree_parents", [tree.parents[0] for tree in trees]),
        ("tree_depths", [tree.depths[0] for tree in trees]),
    ):
        assert torch.stack(ours)[:cycles].tolist() == recorded[name].tolist(), name
    assert [rows for rows, _ in states[:cycles]] == recorded["drafter_kv_len"].tolist()
    assert [position for _, position in states[:cycles]] == recorded["drafter_next_position"].tolist()
    hidden = torch.cat(fed)
    torch.testing.assert_close(hidden, recorded["accepted_hidden"][: len(hidden)], rtol=0, atol=ATOL)
