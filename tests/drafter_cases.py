"""Texts that a drafter reads whole or piece by piece, drafts that read them, and what they have read compared."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vispec import DraftConfig, TreeConfig
from vispec.draft.drafter import ViSpecDrafter
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
