"""Targets of real geometry with known text, and a drafter whose acceptance is simulated.

No trained weights of that size come with vispec, so what a cycle costs is measured on random ones. Two things are made
up, and every result says so: the target's layers add next to nothing to the residual stream, so that its text is known
beforehand (a walk along a permutation of the vocabulary); and the drafter, after it has done all of its work, puts that
text into its tree, right for as many tokens as a table says.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from vispec.bench.geometries import Geometry
from vispec.draft.checkpoint import Draft
from vispec.draft.config import DraftConfig
from vispec.draft.drafter import Drafter, ViSpecDrafter
from vispec.draft.model import DraftModel
from vispec.target import Prompt, Target
from vispec.tree import Tree, TreeConfig

STEP = 7919  # a prime: token t is followed by t + STEP, so that a walk meets its first token late
CYCLES = 50  # of the table of acceptances, which then starts again


@torch.no_grad()
def make_target(geometry: Geometry, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """A decoder of that size, whose greedy text after token t is t + STEP, t + 2 * STEP, ..."""
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(geometry.config(), dtype=dtype).eval()
    for layer in model.model.layers:
        for projection in (layer.self_attn.o_proj, layer.mlp.down_proj):
            projection.weight.mul_(1e-4)
    embedding: Tensor = model.get_input_embeddings().weight.normal_()
    model.lm_head.weight.copy_(embedding.roll(STEP, 0))
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model


def acceptances(mean: float, most: int) -> Tensor:
    """`[CYCLES]` counts from 0 to `most`, int64, of this mean: each further token is accepted with one probability."""
    low, high = 0.0, 1.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if sum(middle**i for i in range(1, most + 1)) < mean else (low, middle)
    quantiles = (torch.randperm(CYCLES, generator=torch.Generator().manual_seed(0)) + 0.5) / CYCLES
    return (quantiles[:, None] < low ** torch.arange(1, most + 1)).sum(1)


class SimulatedDrafter(ViSpecDrafter):
    """Does the work of its draft, then proposes the target's known text."""

    def __init__(self, draft: Draft, target: Target, tree: TreeConfig, budget: int, counts: Tensor) -> None:
        model = draft.model
        super().__init__(model, target, (tree,), budget, draft.short_head, draft.input_weight)
        self.counts = counts.to(model.device)
        levels = tree.max_accepted
        self.cycle = torch.zeros(1, dtype=torch.int64, device=model.device)
        parents = torch.tensor([-1, *range(levels), *[0] * (tree.num_nodes - 1 - levels)], dtype=torch.int32)
        depths = torch.tensor([0, *range(1, levels + 1), *[1] * (tree.num_nodes - 1 - levels)], dtype=torch.int32)
        bits = torch.zeros(tree.num_nodes, -(-tree.num_nodes // 64) * 64, dtype=torch.int64)
        for node, parent in enumerate(parents.tolist()):
            bits[node] = bits[parent] if node else 0
            bits[node, node] = 1
        words = (bits.view(tree.num_nodes, -1, 64) << torch.arange(64)).sum(-1)
        self.parents, self.depths, self.ancestors = (x[None].to(model.device) for x in (parents, depths, words))
        self.levels = torch.arange(tree.num_nodes, device=model.device)

    def prefill(self, prompt: Prompt, root_tokens: Tensor) -> None:
        self.cycle.zero_()
        super().prefill(prompt, root_tokens)

    def propose(self, root_tokens: Tensor, tree: TreeConfig) -> Tree:
        drafted = super().propose(root_tokens, tree)
        right = self.counts.gather(0, self.cycle % len(self.counts))
        self.cycle.add_(1)
        off = ((self.levels > right) & (self.levels > 0)).long() * (1 + self.levels)
        tokens = (root_tokens[:, None] + self.depths * STEP + off) % self.target.vocab_size
        # a sum with zero times the drafted tokens, so that nothing of the draft's work is left out
        return Tree(tokens + 0 * drafted.tokens, self.parents, self.depths, self.ancestors)


def random_draft(target: PreTrainedModel) -> DraftModel:
    """Random weights of the size that a draft of this target has."""
    config = target.config
    names = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "vocab_size")
    with torch.device(target.device):
        model = DraftModel(DraftConfig(**{name: getattr(config, name) for name in names}))
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.02)
    return model


class SimulatedDraft(Draft):
    """A random draft that accepts `mean` tokens a cycle."""

    def __init__(self, model: DraftModel, target: PreTrainedModel, mean: float) -> None:
        super().__init__(model, target)
        self.mean = mean

    def new_drafter(self, target: Target, trees: Sequence[TreeConfig], budget: int) -> Drafter:
        """Of one tree: nothing is known about how acceptance changes with it."""
        (tree,) = trees
        return SimulatedDrafter(self, target, tree, budget, acceptances(self.mean, tree.max_accepted))
