"""The drafter's cached passes against uncached ones, and batches against single prompts."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

import models
from vispec import DraftConfig, TreeConfig
from vispec.draft.drafter import MAX_CHAIN, Memory, ViSpecDrafter
from vispec.draft.model import DraftModel
from vispec.target import Prompt, Target

LENGTH = 32
# (key/value heads, queries, biases)
DRAFTS = ((4, 2, True), (2, 4, False), (1, 1, True))
TREES = (
    TreeConfig(),
    TreeConfig(1, 2, 5),
    TreeConfig(0, 4, 5),
    TreeConfig(5, 10, 60),
    TreeConfig(2, 1, 4),
    TreeConfig(70, 1, 5),  # more passes than an update has rows
)
TREES_AND_DRAFTS = list(zip(TREES, (DRAFTS * 2)[: len(TREES)], strict=True))
Runs = list[tuple[int, int]]
IMAGES: dict[str, Runs] = {
    "text only": [],
    "one image": [(4, 15)],
    "image first": [(0, 9)],
    "image of one token first": [(0, 1)],
    "two images": [(2, 8), (11, 20)],
    "adjacent images": [(3, 9), (9, 18)],
}


@pytest.fixture(scope="module")
def target() -> Target:
    return Target(models.make_target("llama", (4, 2)))


def make_model(target: Target, kind: tuple[int, int, bool], seed: int = 0) -> DraftModel:
    kv_heads, num_queries, bias = kind
    config = DraftConfig(
        target.hidden_size, 48, 4, kv_heads, target.vocab_size, num_queries=num_queries, bias=bias, qkv_bias=bias
    )
    torch.manual_seed(seed)
    model = DraftModel(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    return model.requires_grad_(False)


class Text:
    """A text of random tokens and features with images in it, that a drafter reads whole or piece by piece."""

    def __init__(self, target: Target, images: Runs, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.ids = torch.randint(0, target.vocab_size, (LENGTH + 1,), generator=generator)
        with torch.no_grad():
            self.embeds = target.embed(self.ids)
        for start, end in images:
            self.embeds[start:end] = torch.randn(end - start, target.hidden_size, generator=generator)
        self.features = torch.randn(LENGTH, target.hidden_size, generator=generator)
        self.images = images


def prompt_of(texts: Sequence[Text], length: int) -> tuple[Prompt, Tensor]:
    """The first `length` positions of each text, and the tokens that follow."""
    prompt = Prompt(
        logits=torch.empty(len(texts), 0),
        embeds=torch.stack([text.embeds[:length] for text in texts]),
        features=torch.stack([text.features[:length] for text in texts]),
        images=[text.images for text in texts],
        starts=[0] * len(texts),
    )
    return prompt, torch.stack([text.ids[length] for text in texts])


def drafter_after(
    model: DraftModel, target: Target, tree: TreeConfig, texts: Sequence[Text], length: int, budget: int = 50
) -> ViSpecDrafter:
    drafter = ViSpecDrafter(model, target, [tree], budget)
    drafter.prefill(*prompt_of(texts, length))
    return drafter


def update(drafter: ViSpecDrafter, tree: TreeConfig, text: Text, start: int, num_accepted: int) -> None:
    """Feed indices `start` to `start + num_accepted`, padded as in a cycle."""
    width = tree.max_accepted + 1
    indices = torch.arange(start, start + width).clamp(max=start + num_accepted)
    features = text.features[indices].clone()
    features[num_accepted + 1 :] = 1e3  # padding is read by nothing that counts
    accepted = torch.tensor([num_accepted], dtype=torch.int32)
    drafter.update(text.ids[indices + 1][None], features[None], accepted)


def assert_same_state(ours: ViSpecDrafter, expected: ViSpecDrafter, row: int = 0) -> None:
    """`ours` (one sequence) is where sequence `row` of `expected` is."""
    rows = int(expected.cache_len[row])
    assert ours.cache_len.tolist() == [rows]
    assert ours.next_position.tolist() == [int(expected.next_position[row])]
    for ours_state, expected_state in (
        (ours.hidden[0], expected.hidden[row]),
        (ours.k_cache[0, :, :rows], expected.k_cache[row, :, :rows]),
        (ours.v_cache[0, :, :rows], expected.v_cache[row, :, :rows]),
        (ours.global_feature[0], expected.global_feature[row]),
        (ours.input_bias[0], expected.input_bias[row]),
    ):
        torch.testing.assert_close(ours_state, expected_state, rtol=1e-5, atol=2e-5)


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


@torch.no_grad()
@pytest.mark.parametrize("images", IMAGES.values(), ids=list(IMAGES))
@pytest.mark.parametrize("length", [1, 12, 20, LENGTH - 1])
@pytest.mark.parametrize(("tree", "kind"), TREES_AND_DRAFTS[1:3], ids=str)
def test_a_text_that_is_continued(
    target: Target, tree: TreeConfig, kind: tuple[int, int, bool], length: int, images: Runs
) -> None:
    """What another drafter remembered, and then the rest, equals one prefill."""
    model, text = make_model(target, kind), Text(target, images)
    length = next((end for start, end in images if start < length < end), length)  # images come whole
    first = Text(target, images)
    first.images = [run for run in images if run[1] <= length]
    earlier = drafter_after(model, target, tree, [first], length)
    earlier.propose(text.ids[length : length + 1], tree)
    memory = earlier.remember(length)
    earlier.prefill(*prompt_of([Text(target, [], seed=1)], LENGTH))  # it works on, and the memory stays
    later = ViSpecDrafter(model, target, [tree], budget=50)
    later.prefill(*rest_of(text, length, memory))
    whole = drafter_after(model, target, tree, [text], LENGTH)
    assert_same_state(later, whole)
    assert later.remember(LENGTH).num_indices == LENGTH


def rest_of(text: Text, length: int, memory: Memory | None, padding: int = 0) -> tuple[Prompt, Tensor]:
    """What comes behind the first `length` positions, and the token that follows."""
    prompt = Prompt(
        logits=torch.empty(1, 0),
        embeds=text.embeds[None, length:LENGTH],
        features=text.features[None, length:],
        images=[[(start - length, end - length) for start, end in text.images if start >= length]],
        starts=[padding],
        past=padding + length,
        memory=memory,
    )
    return prompt, text.ids[-1:]


@torch.no_grad()
@pytest.mark.parametrize("num_accepted", [0, 3])
def test_what_was_read_too_far_is_cut(target: Target, num_accepted: int) -> None:
    """A stop inside an accepted path, another next token: a memory reaches back to its last image."""
    tree, text = TreeConfig(), Text(target, IMAGES["one image"])
    model = make_model(target, DRAFTS[0])
    drafter = drafter_after(model, target, tree, [text], 20)
    update(drafter, tree, text, 20, num_accepted)
    read = 21 + num_accepted
    memory = drafter.remember(read)
    for length in range(14, read + 2):
        cut = memory.cut(length)
        assert cut.num_indices == min(length, read)
        if 15 <= length <= read:  # there, and not with the image's last token before it
            later = ViSpecDrafter(model, target, [tree], budget=50)
            later.prefill(*rest_of(text, length, cut))
            assert_same_state(later, drafter_after(model, target, tree, [text], LENGTH))
    assert memory.cut(13) is None
    assert drafter.remember(14).num_indices == 14
    assert drafter.remember(13) is None


@torch.no_grad()
def test_the_end_of_a_text_alone(target: Target) -> None:
    """Without a memory the draft reads what is there, at the positions where it stands; padding is no position."""
    tree, model = TreeConfig(), make_model(target, DRAFTS[1])
    text = Text(target, [(21, 27)])
    for padding in (0, 7):
        drafter = ViSpecDrafter(model, target, [tree], budget=50)
        drafter.prefill(*rest_of(text, 18, None, padding))
        assert drafter.next_position.tolist() == [LENGTH]
        assert drafter.cache_len.tolist() == [LENGTH - 18 - 6 + model.config.num_slots]
        part = model.compress(
            torch.cat((text.embeds[19:LENGTH], target.embed(text.ids[-1:]))), text.features[18:], [(2, 8)]
        )
        rows = part.hidden.shape[0]
        mask = torch.ones(rows, rows, dtype=torch.bool).tril()

        def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor = mask) -> Tensor:
            out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
            return out.transpose(1, 2)

        rotation = model.rotary(part.positions[None] + 18, torch.float32)
        expected = model(part.hidden[None], rotation, attend)[:, -1]
        torch.testing.assert_close(drafter.hidden, expected, rtol=1e-5, atol=2e-5)
        drafter.reserve(2 * LENGTH + padding)


@torch.no_grad()
def test_a_long_rest(target: Target) -> None:
    """Of more rows than one pass reads."""
    tree, model = TreeConfig(), make_model(target, DRAFTS[0])
    generator = torch.Generator().manual_seed(3)
    length = 3 * MAX_CHAIN + 5
    embeds, features = torch.randn(2, 1, length, target.hidden_size, generator=generator)
    root = torch.tensor([4])

    def prompt(start: int, end: int, memory: Memory | None) -> Prompt:
        empty = torch.empty(1, 0)
        return Prompt(empty, embeds[:, start:end], features[:, start:end], [[]], [0], past=start, memory=memory)

    whole, earlier, later = (ViSpecDrafter(model, target, [tree], budget=9) for _ in range(3))
    whole.prefill(prompt(0, length, None), root)
    for start in (1, MAX_CHAIN, 2 * MAX_CHAIN + 4):
        earlier.prefill(prompt(0, start + 1, None), root)
        memory = earlier.remember(start + 1)
        rows = memory.k[:, :, :start], memory.v[:, :, :start]  # the last one has read `root`
        later.prefill(prompt(start, length, memory._replace(k=rows[0], v=rows[1], num_indices=start)), root)
        assert_same_state(later, whole)


def test_several_sequences_are_not_remembered(target: Target) -> None:
    drafter = drafter_after(make_model(target, DRAFTS[0]), target, TreeConfig(), [Text(target, [])] * 2, LENGTH)
    assert drafter.remember(LENGTH) is None
