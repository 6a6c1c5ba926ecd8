"""The drafter's cached passes against uncached ones, and batches against single prompts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

import models
from drafter_cases import (
    DRAFTS,
    IMAGES,
    LENGTH,
    TREES_AND_DRAFTS,
    Runs,
    Text,
    assert_same_state,
    drafter_after,
    make_model,
    prompt_of,
    update,
)
from vispec import TreeConfig
from vispec.draft.drafter import ViSpecDrafter
from vispec.draft.model import DraftModel
from vispec.target import Target


@pytest.fixture(scope="module")
def target() -> Target:
    return Target(models.make_target("llama", (4, 2)))


@torch.no_grad()
@pytest.mark.parametrize("images", IMAGES.values(), ids=list(IMAGES))
@pytest.mark.parametrize(("tree", "kind"), TREES_AND_DRAFTS, ids=str)
def test_updates_equal_one_prefill(target: Target, tree: TreeConfig, kind: tuple[int, int, bool], images: Runs) -> None:
    model, text = make_model(target, kind), Text(target, images)
    length = max((end for _, end in images), default=0) + 1
    drafter = drafter_after(model, target, tree, [text], length, budget=3)
    step = 0
    while length < LENGTH:
        num_accepted = min(step % (tree.max_accepted + 1), LENGTH - length - 1)
        drafter.propose(text.ids[length : length + 1], tree)  # leaves rows behind that no later pass may see
        drafter.reserve(length + num_accepted + 1)
        update(drafter, tree, text, length, num_accepted)
        length, step = length + num_accepted + 1, step + 1

    whole = drafter_after(model, target, tree, [text], LENGTH)
    assert_same_state(drafter, whole)
    roots = text.ids[-1:]
    for ours, expected in zip(drafter.propose(roots, tree), whole.propose(roots, tree), strict=True):
        assert torch.equal(ours, expected)


def expand(model: DraftModel, target: Target, text: Text, tree: TreeConfig) -> tuple[list[int], list[int]]:
    """EAGLE-2's expansion in lists: each node's whole path is run again, without a cache. Tokens and parents."""
    one = ViSpecDrafter(model, target, [TreeConfig(0, 1, 2)], budget=1)

    def run(path: list[int], outputs: list[Tensor]) -> Tensor:
        """The output after the text, its next token, and `path`."""
        one.prefill(*prompt_of([text], LENGTH))
        for token, feature in zip(path, outputs, strict=True):
            one.reserve(LENGTH + len(path))
            accepted = torch.zeros(1, dtype=torch.int32)
            one.update(torch.tensor([[token] * 2]), feature.expand(1, 2, -1), accepted)
        return one.hidden[0]

    def best(hidden: Tensor) -> list[tuple[int, float]]:
        top = target.logits(hidden).log_softmax(-1).topk(tree.top_k)
        return list(zip(top.indices.tolist(), top.values.tolist(), strict=True))

    first = run([], [])
    candidates = [(token, score, -1) for token, score in best(first)]  # token, score, parent
    paths = [([token], [first]) for token, _, _ in candidates]
    frontier = list(range(len(candidates)))
    for _ in range(tree.depth):
        children = []
        for node in frontier:
            path, outputs = paths[node]
            hidden = run(path, outputs)
            for token, score in best(hidden):
                children.append(len(candidates))
                candidates.append((token, candidates[node][1] + score, node))
                paths.append(([*path, token], [*outputs, hidden]))
        frontier = sorted(children, key=lambda node: -candidates[node][1])[: tree.top_k]
    kept = sorted(sorted(range(len(candidates)), key=lambda node: -candidates[node][1])[: tree.num_nodes - 1])
    parents = [1 + kept.index(candidates[node][2]) if candidates[node][2] >= 0 else 0 for node in kept]
    return [candidates[node][0] for node in kept], parents


@torch.no_grad()
@pytest.mark.parametrize("images", [IMAGES["text only"], IMAGES["two images"]], ids=str)
@pytest.mark.parametrize("tree", [TreeConfig(2, 3, 14), TreeConfig(3, 2, 12), TreeConfig(0, 5, 6)], ids=str)
def test_tree_equals_running_each_path_alone(target: Target, tree: TreeConfig, images: Runs) -> None:
    model, text = make_model(target, DRAFTS[0]), Text(target, images)
    proposal = drafter_after(model, target, tree, [text], LENGTH).propose(text.ids[-1:], tree)
    tokens, parents = expand(model, target, text, tree)
    assert proposal.tokens[0].tolist() == [int(text.ids[-1]), *tokens]
    assert proposal.parents[0].tolist() == [-1, *parents]


@torch.no_grad()
@pytest.mark.parametrize("kind", DRAFTS, ids=str)
def test_ragged_batch_equals_one_by_one(target: Target, kind: tuple[int, int, bool]) -> None:
    tree, length = TreeConfig(2, 3, 14), 20
    model = make_model(target, kind)
    texts = [Text(target, images, seed) for seed, images in enumerate(IMAGES.values())]
    batch = drafter_after(model, target, tree, texts, length, budget=2)
    assert len(set(batch.cache_len.tolist())) > 2
    singles = [drafter_after(model, target, tree, [text], length, budget=2) for text in texts]
    num_accepted = torch.tensor([0, 1, 2, 3, 2, 1], dtype=torch.int32)
    for _ in range(3):
        roots = torch.stack([text.ids[length] for text in texts])
        proposal = batch.propose(roots, tree)
        for row, single in enumerate(singles):
            for ours, expected in zip(single.propose(roots[row : row + 1], tree), proposal, strict=True):
                assert torch.equal(ours[0], expected[row])
        span = torch.arange(length, length + tree.max_accepted + 1)
        ids = torch.stack([text.ids[span + 1] for text in texts])
        features = torch.stack([text.features[span] for text in texts])
        batch.reserve(length + 4)
        batch.update(ids, features, num_accepted)
        for row, single in enumerate(singles):
            single.reserve(length + 4)
            single.update(ids[row : row + 1], features[row : row + 1], num_accepted[row : row + 1])
            assert_same_state(single, batch, row)
        length += 4


@torch.no_grad()
def test_finished_sequence_stays_where_it_is(target: Target) -> None:
    model = make_model(target, DRAFTS[0])
    texts = [Text(target, [], seed) for seed in range(2)]
    drafter = drafter_after(model, target, TreeConfig(), texts, 20)
    tokens, features = torch.zeros(2, 5, dtype=torch.int64), torch.zeros(2, 5, target.hidden_size)
    drafter.update(tokens, features, torch.tensor([-1, 2], dtype=torch.int32))
    assert drafter.cache_len.tolist() == [20, 23]
    assert drafter.next_position.tolist() == [20, 23]


@torch.no_grad()
def test_cache_grows_without_losing_rows(target: Target) -> None:
    drafter = drafter_after(make_model(target, DRAFTS[0]), target, TreeConfig(), [Text(target, [])], 20, budget=0)
    capacity, before = drafter.k_cache.shape[2], drafter.k_cache[:, :, :20].clone()
    drafter.reserve(20)
    assert drafter.k_cache.shape[2] == capacity == 20 + drafter.spare_rows
    drafter.reserve(21)
    assert drafter.k_cache.shape[2] == capacity + capacity // 2
    drafter.reserve(1000)
    assert drafter.k_cache.shape[2] == drafter.v_cache.shape[2] == 1000 + drafter.spare_rows
    assert torch.equal(drafter.k_cache[:, :, :20], before)


@torch.no_grad()
def test_room_for_the_rows_that_images_save(target: Target) -> None:
    """Short texts after long images are no reason to grow."""
    text = Text(target, [(2, 30)])
    drafter = drafter_after(make_model(target, DRAFTS[0]), target, TreeConfig(), [text], 32, budget=4)
    capacity = drafter.k_cache.shape[2]
    assert capacity == 32 - 28 + 1 + 4 + drafter.spare_rows
    drafter.reserve(36)
    assert drafter.k_cache.shape[2] == capacity


def test_propose_leaves_the_cache_in_use_alone(target: Target) -> None:
    text = Text(target, IMAGES["one image"])
    with torch.no_grad():
        drafter = drafter_after(make_model(target, DRAFTS[0]), target, TreeConfig(), [text], 30)
        rows = int(drafter.cache_len[0])
        before = drafter.k_cache[:, :, :rows].clone(), drafter.v_cache[:, :, :rows].clone(), drafter.hidden.clone()
        first, second = drafter.propose(text.ids[30:31], TreeConfig()), drafter.propose(text.ids[30:31], TreeConfig())
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(drafter.k_cache[:, :, :rows], before[0])
    assert torch.equal(drafter.v_cache[:, :, :rows], before[1])
    assert torch.equal(drafter.hidden, before[2])


@torch.no_grad()
def test_state_is_changed_in_place(target: Target) -> None:
    """So that a captured pass finds it where it was."""
    model, text, other = make_model(target, DRAFTS[0]), *(Text(target, IMAGES["one image"], seed) for seed in range(2))
    drafter = drafter_after(model, target, TreeConfig(), [text], 20)
    state = {name: value for name, value in vars(drafter).items() if isinstance(value, Tensor)}
    drafter.propose(text.ids[20:21], TreeConfig())
    drafter.reserve(21)
    update(drafter, TreeConfig(), text, 20, 2)
    drafter.prefill(*prompt_of([other], 20))
    assert_same_state(drafter, drafter_after(model, target, TreeConfig(), [other], 20))
    assert all(getattr(drafter, name) is value for name, value in state.items())
    assert {"cache_len", "next_position", "hidden", "k_cache", "v_cache", "input_bias"} < state.keys()


def test_target_lends_its_own_modules(target: Target) -> None:
    """Embedding and logits go through the target's modules, hooks included, never through bare weights."""
    model: PreTrainedModel = target.model
    calls: list[str] = []
    hooks = [
        model.get_input_embeddings().register_forward_hook(lambda *args: calls.append("embed")),
        model.get_output_embeddings().register_forward_hook(lambda *args: calls.append("logits")),
    ]
    text = Text(target, [])
    calls.clear()
    with torch.no_grad():
        drafter = drafter_after(make_model(target, DRAFTS[0]), target, TreeConfig(3, 2, 8), [text], 20)
        drafter.propose(text.ids[20:21], TreeConfig(3, 2, 8))
    for hook in hooks:
        hook.remove()
    assert calls == ["embed", "logits", *["embed", "logits"] * 3]
