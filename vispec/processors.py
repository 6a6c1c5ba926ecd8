"""Logits processors of any kind, called along the accepted path alone: as plain decoding would call them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor
from transformers.generation.logits_process import LogitsProcessorList

from vispec.sampling import Choice, Rules
from vispec.text import Text
from vispec.tree import Tree, root_alone


class PathChoice:
    """Walks each tree from its root to where the target leaves it, and emits every token before the next is chosen.

    A processor is called once for a token that is emitted, in their order, with the ids before it: those that keep a
    state (grammars, counters) are right, and nothing is called past a stop.

    Args:
        processors: in their order.
        rules: what `choice` does with the target's logits for the same tokens, if it can: then the processors are asked
            for scores that are kept, if any. None: `choice` has the processors' scores to choose by.
        choice: it has begun with this text.
        text: hears of the tokens, and keeps scores and logits.
    """

    emits = True
    mode: Hashable = "path"

    def __init__(self, processors: LogitsProcessorList, rules: Rules | None, choice: Choice, text: Text) -> None:
        self.processors, self.rules, self.choice, self.text = processors, rules, choice, text

    def choose(self, logits: Tensor, tree: Tree, positions: Tensor) -> Tensor:
        """As `Chooser.choose`, of one sequence. Nodes off the path get a token that none of their children carries."""
        tokens, parents = tree.tokens[0].tolist(), tree.parents[0].tolist()
        off_path = min(set(range(len(tokens) + 1)) - set(tokens)) % logits.shape[2]
        chosen = torch.full_like(tree.tokens, off_path)
        node: int | None = 0
        while node is not None and not self.text.has_ended:
            token = self._next_token(logits[:, node], tree.tokens[:, node], positions[:, node : node + 1])
            chosen[0, node] = token
            node = _child_with(token, node, tokens, parents)
        return chosen

    def _next_token(self, logits: Tensor, last: Tensor, positions: Tensor) -> int:
        """Choose what follows the token `last` `[1]`, by logits `[1, V]`, and emit it."""
        raw = logits.to(torch.float32, copy=True)
        is_asked = self.rules is None or self.text.keeps_scores
        scores = self.processors(self.text.so_far, raw) if is_asked else raw
        chosen = self.choice.choose((scores if self.rules is None else logits)[:, None], root_alone(last), positions)
        self.choice.note(chosen, torch.zeros_like(positions[:, 0]))
        self.text.keep(scores, raw)
        token = int(chosen)
        self.text.emit([token])
        return token

    def note(self, tokens: Tensor, num_accepted: Tensor) -> None:
        """Noted as they were emitted."""


def _child_with(token: int, node: int, tokens: Sequence[int], parents: Sequence[int]) -> int | None:
    """The first child of `node` that carries `token`."""
    children = (child for child in range(node + 1, len(tokens)) if parents[child] == node and tokens[child] == token)
    return next(children, None)
