"""Logits processors of any kind, called along the accepted path alone: as plain decoding would call them."""

from __future__ import annotations

import itertools
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
    state (grammars, counters) are right, and nothing is called past a stop. It gets all sequences of a batch at one
    step, as in plain decoding, so the walks end where the first of them leaves its tree. Of a finished sequence, which
    plain decoding feeds with padding, it gets what followed the last node.

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
        self.most_accepted = 0

    def choose(self, logits: Tensor, tree: Tree, positions: Tensor) -> Tensor:
        """As `Chooser.choose`. Nodes off the path get a token that none of their children carries."""
        tokens, parents = tree.tokens.tolist(), tree.parents.tolist()
        off_path = [min(set(range(len(row) + 1)) - set(row)) % logits.shape[2] for row in tokens]
        chosen = torch.tensor(off_path, device=logits.device)[:, None].repeat(1, logits.shape[1])
        rows = torch.arange(len(tokens), device=logits.device)
        nodes: list[int] = [0] * len(tokens)
        for steps in itertools.count():
            last = (rows, torch.tensor(nodes, device=rows.device))
            step = self._next_tokens(logits[last], tree.tokens[last], positions[last][:, None])
            chosen[last] = step
            self.most_accepted = steps
            children = [
                _child_with(token, *place) if is_open else place[0]
                for token, is_open, *place in zip(step.tolist(), self.text.is_open, nodes, tokens, parents, strict=True)
            ]
            if self.text.has_ended or None in children:
                break
            nodes = [child for child in children if child is not None]
        return chosen

    def _next_tokens(self, logits: Tensor, last: Tensor, positions: Tensor) -> Tensor:
        """Choose what follows the tokens `last` `[B]`, by logits `[B, V]`, and emit it."""
        raw = logits.to(torch.float32, copy=True)
        is_asked = self.rules is None or self.text.keeps_scores
        scores = self.processors(self.text.so_far, raw) if is_asked else raw
        chosen = self.choice.choose((scores if self.rules is None else logits)[:, None], root_alone(last), positions)
        self.choice.note(chosen, torch.zeros_like(positions[:, 0]))
        self.text.keep(scores, raw)
        self.text.emit(chosen.tolist())
        return chosen[:, 0]

    def note(self, tokens: Tensor, num_accepted: Tensor) -> None:
        """Noted as they were emitted."""


def _child_with(token: int, node: int, tokens: Sequence[int], parents: Sequence[int]) -> int | None:
    """The first child of `node` that carries `token`."""
    children = (child for child in range(node + 1, len(tokens)) if parents[child] == node and tokens[child] == token)
    return next(children, None)
