"""The drafter against the published code: adaptor, prefill, trees and cycles."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import vispec.draft.drafter as drafter_module
from golden_data import ATOL, assert_close, cases, golden, golden_draft, golden_prompt, golden_target
from vispec import TreeConfig
from vispec.draft.drafter import ViSpecDrafter
from vispec.ops import accept_path, compact_kv, select_tokens
from vispec.target import Target
from vispec.tree import Tree


def make_drafter(draft: str, tree: TreeConfig) -> ViSpecDrafter:
    model = golden_target(draft)
    loaded = golden_draft(draft, model)
    return ViSpecDrafter(loaded.model, Target(model), [tree], budget=16)


def tree_mask(tree: Tree) -> Tensor:
    """`[N, N]`, 1 where the row's node sees the column's."""
    num_nodes = tree.tokens.shape[1]
    columns = torch.arange(num_nodes)
    return (tree.ancestors[0][:, columns // 64] >> (columns % 64)) & 1


def assert_same_rotation(drafter: ViSpecDrafter, ours: tuple[Tensor, Tensor], positions: Tensor) -> None:
    for part, expected in zip(ours, drafter.model.rotary(positions[None], torch.float32), strict=True):
        assert torch.equal(part, expected)


@pytest.mark.parametrize(("draft", "name"), cases("adaptor"))
def test_adaptor(draft: str, name: str) -> None:
    recorded = golden(draft, name)
    adaptor = golden_draft(draft, golden_target(draft)).model.imadpt
    for length in (1, 5, 37):
        assert_close(adaptor(recorded[f"input_{length}"][None])[0], recorded[f"output_{length}"], atol=1e-6)


@pytest.mark.parametrize(("draft", "name"), cases("prefill"))
def test_prefill(draft: str, name: str) -> None:
    recorded = golden(draft, name)
    drafter = make_drafter(draft, TreeConfig())
    prompt, root_tokens = golden_prompt(recorded)
    seen: list[tuple[Any, Any]] = []
    drafter.model.register_forward_hook(lambda module, args, output: seen.append((args, output)))
    with torch.no_grad():
        drafter.prefill(prompt, root_tokens)

    (hidden, rotation, _), output = seen[0]
    rows = int(recorded["kv_len"])
    assert_close(hidden[0], recorded["layer_input"])
    assert_same_rotation(drafter, rotation, recorded["new_positions"])
    assert_close(output[0], recorded["layer_output"])
    assert_close(drafter.hidden[0], recorded["last_hidden"])
    assert_close(drafter.target.logits(drafter.hidden)[0], recorded["root_logits"])
    assert_close(drafter.k_cache[0, :, :rows], recorded["cache_k"])
    assert_close(drafter.v_cache[0, :, :rows], recorded["cache_v"])
    assert drafter.cache_len.tolist() == [rows]
    assert drafter.next_position.tolist() == [int(recorded["next_position"])]
    assert_close(drafter.global_feature[0, 0], recorded["global_feature"])


@pytest.mark.parametrize(("draft", "name"), cases("tree"))
def test_tree(draft: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = golden(draft, name)
    config = TreeConfig(int(recorded["depth"]), int(recorded["top_k"]), int(recorded["total_tokens"]))
    drafter = make_drafter(draft, config)
    prompt, root_tokens = golden_prompt(golden(draft, "prefill_" + name.removeprefix("tree_").rsplit("_", 1)[0]))
    candidates: list[tuple[Any, ...]] = []
    build_tree = drafter_module.build_tree

    def recording_build_tree(*args: Any) -> Any:
        candidates.append(args)
        return build_tree(*args)

    monkeypatch.setattr(drafter_module, "build_tree", recording_build_tree)
    passes: list[tuple[Any, Tensor]] = []
    with torch.no_grad():
        drafter.prefill(prompt, root_tokens)
        drafter.model.register_forward_hook(lambda module, args, output: passes.append((args[1], output)))
        tree = drafter.propose(root_tokens, config)

    assert tree.tokens[0].tolist() == recorded["tree_tokens"].tolist()
    assert tree.parents[0].tolist() == recorded["tree_parents"].tolist()
    assert tree.depths[0].tolist() == recorded["tree_depths"].tolist()
    assert tree_mask(tree).tolist() == recorded["tree_mask"].tolist()
    _, tokens, scores, parents, num_nodes = candidates[0]
    assert tokens[0].tolist() == recorded["candidate_tokens"].tolist()
    assert parents[0].tolist() == recorded["candidate_parents"].tolist()
    # a score is a sum of up to depth + 1 log-probabilities; recorded sums of six lie up to 1.1e-5 from exact ones
    atol = ATOL * max(1.0, (config.depth + 1) / 3)
    assert_close(scores[0], recorded["candidate_scores"], atol)
    assert_close(scores[0][recorded["selected_candidates"].long()], recorded["node_scores"][1:], atol)
    assert num_nodes == config.num_nodes
    for (rotation, _), positions in zip(passes, recorded["frontier_positions"], strict=True):
        assert_same_rotation(drafter, rotation, positions.unique())  # one for all nodes of a level
    assert_close(torch.stack([hidden[0] for _, hidden in passes]), recorded["frontier_hidden"])


@pytest.mark.parametrize("draft", ["llava_like", "qwen_like", "nobias_q1"])
def test_cycles(draft: str) -> None:
    drafter = make_drafter(draft, TreeConfig())
    prompt, root_tokens = golden_prompt(golden(draft, "prefill_one_image"))
    with torch.no_grad():
        drafter.prefill(prompt, root_tokens)
        for _, name in (case for case in cases("cycle") if case[0] == draft):
            recorded = golden(draft, name)
            tree = drafter.propose(root_tokens, TreeConfig())
            assert tree.tokens[0].tolist() == recorded["tree_tokens"].tolist()
            assert tree.parents[0].tolist() == recorded["tree_parents"].tolist()
            prefix = len(recorded["prefix_ids"])
            assert (prefix + tree.depths[0]).tolist() == recorded["verify_positions"].tolist()

            target_tokens = select_tokens(recorded["target_logits"][None])
            nodes, num_accepted, root_tokens = accept_path(tree.tokens, tree.parents, target_tokens, 4)
            accepted = int(recorded["accept_length"])
            assert num_accepted.tolist() == [accepted]
            assert nodes[0, : accepted + 1].tolist() == recorded["accepted_nodes"].tolist()
            assert root_tokens.tolist() == [int(recorded["bonus_token"])]

            emitted = target_tokens.gather(1, nodes.long())
            features = recorded["target_hidden"][None].gather(
                1, nodes.long()[..., None].expand(-1, -1, recorded["target_hidden"].shape[1])
            )
            assert emitted[0, : accepted + 1].tolist() == recorded["drafter_new_tokens"].tolist()
            assert_close(features[0, : accepted + 1], recorded["drafter_new_features"], atol=0)
            assert drafter.cache_len.tolist() == [int(recorded["drafter_old_kv_len"])]
            assert drafter.next_position.tolist() == [int(recorded["drafter_old_next_position"])]

            seen: list[tuple[Any, Any]] = []
            hook = drafter.model.register_forward_hook(lambda module, args, output: seen.append((args, output)))  # noqa: B023
            drafter.reserve(prefix + accepted + 1)
            drafter.update(emitted, features, num_accepted)
            hook.remove()
            (hidden, rotation, _), output = seen[0]
            assert_close(hidden[0, : accepted + 1], recorded["drafter_layer_input"])
            here = tuple(part[:, :, : accepted + 1] for part in rotation)
            assert_same_rotation(drafter, here, recorded["drafter_new_positions"])
            assert_close(output[0, : accepted + 1], recorded["drafter_layer_output"])
            assert drafter.cache_len.tolist() == [int(recorded["drafter_kv_len"])]
            assert drafter.next_position.tolist() == [int(recorded["drafter_next_position"])]

            following = drafter.propose(root_tokens, TreeConfig())
            assert following.tokens[0].tolist() == recorded["next_tree_tokens"].tolist()
            assert following.parents[0].tolist() == recorded["next_tree_parents"].tolist()
            assert following.depths[0].tolist() == recorded["next_tree_depths"].tolist()


@pytest.mark.parametrize("draft", ["llava_like", "qwen_like", "nobias_q1"])
def test_compaction_of_a_target_cache(draft: str) -> None:
    recorded = golden(draft, "cycle_0")
    before, after = recorded["kv_before"], recorded["kv_after"]  # K and V of layer 0, then of layer 1
    caches = [cache.clone() for cache in before]
    prefix, length = len(recorded["prefix_ids"]), int(recorded["kv_length_after"])
    cache_len = torch.tensor([prefix], dtype=torch.int32)
    nodes = recorded["accepted_nodes"][None].int()
    compact_kv(caches[0::2], caches[1::2], cache_len, nodes, torch.tensor([nodes.shape[1] - 1], dtype=torch.int32))
    assert cache_len.tolist() == [length]
    for ours, expected in zip(caches, after, strict=True):
        assert torch.equal(ours[:, :, :length], expected[:, :, :length])
