"""A drafter that goes on from what another one remembered of a text."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

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
from vispec.draft.drafter import MAX_CHAIN, Memory, ViSpecDrafter
from vispec.target import Prompt, Target


@pytest.fixture(scope="module")
def target() -> Target:
    return Target(models.make_target("llama", (4, 2)))


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
