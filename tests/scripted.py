"""Another drafter behind the cycle's seam: it proposes what it was told, right or wrong."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from models import make_draft
from vispec import Draft, TreeConfig
from vispec.draft.drafter import Drafter
from vispec.ops import build_tree
from vispec.target import Prompt, Target
from vispec.tree import Tree


class ScriptedDrafter:
    """Proposes trees whose deepest path is a given continuation: another drafter behind the same seam."""

    def __init__(self, script: Tensor, vocab_size: int) -> None:
        self.script, self.vocab_size = script, vocab_size
        self.emitted = 0

    def prefill(self, prompt: Prompt, root_tokens: Tensor) -> None:
        self.emitted = 1

    def propose(self, root_tokens: Tensor, tree: TreeConfig) -> Tree:
        """A path of `depth + 1` script tokens; every other candidate is a sibling of a path node."""
        levels = tree.max_accepted
        path = self.script[self.emitted : self.emitted + levels].tolist()
        path += [0] * (levels - len(path))
        tokens, parents, scores = [], [], []
        for level, token in enumerate(path):
            parents += [level - 1 if level else -1]
            tokens += [token]
            scores += [-0.01 * level]
        for spare in range(tree.num_nodes - 1 - levels):
            level = spare % levels
            parents += [level - 1 if level else -1]
            tokens += [(path[level] + 1 + spare // levels) % self.vocab_size]
            scores += [-1.0 - 0.01 * spare]
        return Tree(
            *build_tree(
                root_tokens,
                torch.tensor([tokens]),
                torch.tensor([scores]),
                torch.tensor([parents], dtype=torch.int32),
                tree.num_nodes,
            )
        )

    def update(self, tokens: Tensor, features: Tensor, num_accepted: Tensor) -> None:
        self.emitted += int(num_accepted) + 1

    def reserve(self, num_tokens: int) -> None:
        """No rows of its own."""

    def remember(self, num_indices: int) -> None:
        """It knows the script."""


class ScriptedDraft(Draft):
    """A draft that hands out scripted drafters."""

    def __init__(self, model: PreTrainedModel, script: Tensor) -> None:
        super().__init__(make_draft(model).model, model)
        self.script = script

    def new_drafter(self, target: Target, trees: Sequence[TreeConfig], budget: int) -> Drafter:
        return ScriptedDrafter(self.script, target.vocab_size)
