"""What the cycle asks of a drafter (`Drafter`), and ViSpec's answer (`ViSpecDrafter`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from vispec.cache import grow_rows, grown_capacity
from vispec.draft.model import DraftModel, Rotation, rotary, rotary_frequencies
from vispec.ops import append_kv, build_tree, expand_frontier, tree_attention
from vispec.target import Prompt, Target
from vispec.tree import Tree, TreeConfig

WORD_BITS = 64
MAX_CHAIN = 64  # new tokens that one update reads at least: a word of ancestor bits, and a small pass on any device


class Drafter(Protocol):
    """What the decoding cycle asks: read the prompt, guess, read what was kept. It serves one `generate` at a time.

    After `prefill` its state lives in tensors that `propose` and `update` change in place, so that both can be captured
    in graphs, one a tree. Another prompt may follow.

    Attributes:
        target: The one that it drafts for.
        version: Counts how often `prefill` and `reserve` replaced tensors: graphs that were captured before are void.
    """

    target: Target
    version: int

    def prefill(self, prompt: Prompt, root_tokens: Tensor) -> None:
        """Read the prompt. `root_tokens` int64 `[B]`: the target's first token.

        Where the prompt continues a text, `prompt.memory` is what some drafter of the same draft remembered of it, up
        to its end or somewhat less, or None.
        """

    def propose(self, root_tokens: Tensor, tree: TreeConfig) -> Tree:
        """Guess what follows `root_tokens` int64 `[B]`; `tree` is one that the drafter was made for."""

    def update(self, tokens: Tensor, features: Tensor, num_accepted: Tensor) -> None:
        """Read what a cycle kept, or what came since the last update in cycles without a draft.

        Args:
            tokens: int64 `[B, P]`, the accepted tokens and then the bonus token; padded. P is at most `MAX_CHAIN` or
                one more than a tree can have accepted.
            features: `[B, P, H]`, the target's features of the tokens before those: the root and the accepted nodes;
                padded.
            num_accepted: int32 `[B]`, a: `a + 1` entries of both are real. -1 for a finished sequence.
        """

    def reserve(self, num_tokens: int) -> None:
        """Make room for a text of `num_tokens` and the rows of one cycle. Called by the host between cycles."""

    def remember(self, num_indices: int) -> Any:
        """What a later prefill continues from, of one sequence: a `Memory`, or None where there is nothing.

        Args:
            num_indices: What was read past them does not count.
        """


class Memory(Protocol):
    """What a drafter keeps of a text beyond its call. Holds no tensor that a drafter works on."""

    @property
    def num_indices(self) -> int:
        """Indices of the text that were read."""

    def cut(self, num_indices: int) -> Memory | None:
        """Of no more indices than these; None: it does not reach back so far."""


class ViSpecMemory(NamedTuple):
    """The draft layer's keys and values of one text, `[1, Hkv, rows, D]`.

    From index `first_cut` on there is a row for each; before it lies an image in its slots, and nothing can be cut.
    """

    k: Tensor
    v: Tensor
    global_feature: Tensor  # [H]
    num_indices: int
    first_cut: int

    def cut(self, num_indices: int) -> ViSpecMemory | None:
        surplus = max(0, self.num_indices - num_indices)
        if self.num_indices - surplus < self.first_cut:
            return None
        rows = self.k.shape[2] - surplus
        return self._replace(k=self.k[:, :, :rows], v=self.v[:, :, :rows], num_indices=self.num_indices - surplus)


class ShortHead:
    """The rows of the target's LM head that belong to the tokens that are drafted; a copy, made once.

    Args:
        target: Its head must be a plain `nn.Linear`.
        token_ids: int64 `[n]`, on the target's device.
    """

    def __init__(self, target: Target, token_ids: Tensor) -> None:
        self.token_ids = token_ids
        self.weight, self.bias = target.head_rows(token_ids)
        self.family, self.text_config = target.family, target.text_config

    def logits(self, hidden: Tensor) -> Tensor:
        """Features `[..., H]` to logits `[..., n]`."""
        return self.family.logits(F.linear(hidden, self.weight, self.bias), self.text_config)


class ViSpecDrafter:
    """Drafts EAGLE-2 trees with a ViSpec draft (arXiv 2509.15235).

    All state is on the device; shapes do not depend on what was accepted.

    Args:
        model: The draft's weights, on the device and in the dtype of the target's LM head.
        target: Lends its embedding and its LM head.
        trees: Sizes of the trees that will be asked for.
        budget: Tokens that will probably be generated, for the first allocation.
        short_head: Of the tokens that are drafted; None: all, by the target's own head.
        input_weight: The model's, where it is there already.
    """

    def __init__(
        self,
        model: DraftModel,
        target: Target,
        trees: Sequence[TreeConfig],
        budget: int,
        short_head: ShortHead | None = None,
        input_weight: Tensor | None = None,
    ) -> None:
        self.model, self.target, self.budget, self.short_head = model, target, budget, short_head
        self.version, self.batch_size = 0, 0
        self.k_cache: Tensor
        self.v_cache: Tensor
        self.cache_len: Tensor  # int32 [B], rows in use
        self.next_position: Tensor  # int32 [B]
        self.global_feature: Tensor  # [B, 1, H]
        self.input_bias: Tensor  # [B, 1, H], what it and the biases add to the layer's inputs
        self.hidden: Tensor  # [B, H], the layer's output at the last index read
        self.first_cut = 0  # see `ViSpecMemory`; of a single sequence
        config, device = model.config, model.device
        self.scale = config.head_dim**-0.5
        self.input_weight = model.input_weight() if input_weight is None else input_weight
        self.frequencies = rotary_frequencies(config.head_dim, config.rope_theta, device)
        self.frontier_bits = {tree: _frontier_bits(tree, device) for tree in trees}
        self.first_candidates = {tree: _first_candidates(tree, device) for tree in trees}
        widest = max(MAX_CHAIN, *(tree.max_accepted + 1 for tree in trees))
        chain = _bits(torch.arange(widest, device=device), widest)
        self.chain = chain.cumsum(0)  # distinct powers of two: the running sum is the running union
        longest = max(widest, *(tree.depth for tree in trees))
        self.steps = torch.arange(longest, dtype=torch.int32, device=device)
        self.spare_rows = max(widest, *(tree.depth * tree.top_k for tree in trees))

    def prefill(self, prompt: Prompt, root_tokens: Tensor) -> None:
        """Run the layer over every prompt's short sequence and keep its keys and values."""
        device = self.model.device
        memory: ViSpecMemory | None = prompt.memory
        embeds = torch.cat((prompt.embeds[:, 1:], self.target.embed(root_tokens)[:, None]), dim=1)
        # an image at prompt positions s..e-1 is the run s-1..e-2 of indices; a shift past 0 drops an embedding
        starts = [max(start - prompt.past, 0) for start in prompt.starts]
        firsts = [max(prompt.past - start, 0) for start in prompt.starts]  # index of what comes first here
        runs = [
            [(max(s - start - 1, 0), e - start - 1) for s, e in images]
            for images, start in zip(prompt.images, starts, strict=True)
        ]
        feature = None if memory is None else memory.global_feature
        sequences = [
            self.model.compress(embeds[row, start:], prompt.features[row, start:], runs[row], feature)
            for row, start in enumerate(starts)
        ]
        lengths = [sequence.hidden.shape[0] for sequence in sequences]
        padded = max(lengths)
        hidden = torch.stack([F.pad(s.hidden, (0, 0, 0, padded - s.hidden.shape[0])) for s in sequences])
        positions = torch.stack([F.pad(s.positions, (0, padded - s.positions.shape[0])) for s in sequences])
        positions += torch.tensor(firsts, device=device)[:, None]

        remembered = 0 if memory is None else memory.k.shape[2]
        self._allocate(len(sequences), remembered + padded)
        total = prompt.past + prompt.embeds.shape[1]
        self.rows_saved = total - remembered - padded  # prompt positions that take no row
        self.indices_saved = total - prompt.starts[0] - remembered - lengths[0]  # the same without padding
        if runs[0] and self.model.config.num_queries:
            self.first_cut = firsts[0] + runs[0][-1][1]
        else:
            is_whole = memory is not None and memory.num_indices == firsts[0]
            self.first_cut = memory.first_cut if memory is not None and is_whole else firsts[0]
        self.next_position.copy_(total - torch.tensor(prompt.starts))
        self.global_feature.copy_(torch.stack([s.global_feature for s in sequences])[:, None])
        nothing = torch.zeros_like(self.global_feature)
        self.input_bias.copy_(self.model.fuse(nothing, nothing, self.global_feature))
        if memory is not None:
            self._continue(memory, hidden, positions)
            return
        self.cache_len.copy_(torch.tensor(lengths))
        output = self.model(hidden, self._rotary(positions), self._attend_prompt)
        self.hidden.copy_(output[torch.arange(len(sequences), device=device), self.cache_len - 1])

    def _continue(self, memory: ViSpecMemory, hidden: Tensor, positions: Tensor) -> None:
        """Run the layer over one prompt that continues a text: piece by piece, each a chain behind what is there."""
        remembered, width = memory.k.shape[2], self.chain.shape[0]
        self.k_cache[:, :, :remembered], self.v_cache[:, :, :remembered] = memory.k, memory.v
        self.cache_len.fill_(remembered)
        for piece, places in zip(hidden.split(width, dim=1), positions.split(width, dim=1), strict=True):
            length = piece.shape[1]
            ancestors = self.chain[:length, : num_words(length)].contiguous()[None]
            output = self._run_rows(piece, self._rotary(places), ancestors, self.cache_len)
            self.hidden.copy_(output[:, -1])
            self.cache_len += length

    def remember(self, num_indices: int) -> ViSpecMemory | None:
        """Copies: the next call writes into the same cache."""
        if self.batch_size != 1 or num_indices < self.first_cut:
            return None
        rows = num_indices - self.indices_saved
        k, v, feature = self.k_cache[:, :, :rows], self.v_cache[:, :, :rows], self.global_feature[0, 0]
        return ViSpecMemory(k.clone(), v.clone(), feature.clone(), num_indices, self.first_cut)

    def _allocate(self, batch_size: int, prompt_rows: int) -> None:
        """All persistent tensors, unless those of the prompt before will do."""
        needed = prompt_rows + self.spare_rows
        if self.batch_size == batch_size and self.k_cache.shape[2] >= needed:
            return
        self.batch_size = batch_size
        config = self.model.config
        shape = (batch_size, config.num_key_value_heads, needed + self.budget, config.head_dim)
        weight = self.model.fc.weight
        self.k_cache, self.v_cache = weight.new_zeros(shape), weight.new_zeros(shape)
        self.cache_len = weight.new_zeros(batch_size, dtype=torch.int32)
        self.next_position = torch.zeros_like(self.cache_len)
        self.global_feature = weight.new_zeros(batch_size, 1, config.hidden_size)
        self.input_bias = torch.zeros_like(self.global_feature)
        self.hidden = weight.new_zeros(batch_size, config.hidden_size)
        self.version += 1

    def propose(self, root_tokens: Tensor, tree: TreeConfig) -> Tree:
        """Expand the frontier `depth` times, keep the best candidates (section 3.3, EAGLE-2)."""
        top_k, batch_size = tree.top_k, root_tokens.shape[0]
        bits, steps = self.frontier_bits[tree], self.steps[: tree.depth]
        cos, sin = self._rotary(self.next_position[:, None] + steps)  # all nodes of a level have one position
        write_at = self.cache_len + (steps * top_k)[:, None]
        hidden, ancestors = self.hidden[:, None], bits.new_zeros(batch_size, 1, bits.shape[-1])
        scores = torch.zeros(batch_size, 1, dtype=torch.float32, device=root_tokens.device)
        tokens, scores, frontier, frontier_tokens, frontier_scores = self._expand(hidden, scores, top_k)
        all_tokens, all_scores, frontiers = [tokens.flatten(1)], [scores.flatten(1)], []
        for level in range(tree.depth):
            index = (frontier // top_k).long()[..., None]  # of the parent in the level before
            features = hidden.gather(1, index.expand(-1, -1, hidden.shape[2]))
            ancestors = ancestors.gather(1, index.expand(-1, -1, ancestors.shape[2])) | bits[level]
            here = slice(level, level + 1)
            inputs = self._inputs(frontier_tokens, features)
            hidden = self._run_rows(inputs, (cos[:, :, here], sin[:, :, here]), ancestors, write_at[level])
            frontiers.append(frontier)
            tokens, scores, frontier, frontier_tokens, frontier_scores = self._expand(hidden, frontier_scores, top_k)
            all_tokens.append(tokens.flatten(1))
            all_scores.append(scores.flatten(1))
        parents = torch.cat([torch.full_like(frontier[:, :1], -1), *frontiers], dim=1) + self.first_candidates[tree]
        return Tree(
            *build_tree(
                root_tokens,
                torch.cat(all_tokens, dim=1),
                torch.cat(all_scores, dim=1),
                parents.repeat_interleave(top_k, dim=1),
                tree.num_nodes,
            )
        )

    def update(self, tokens: Tensor, features: Tensor, num_accepted: Tensor) -> None:
        """Run the layer over the new indices as a causal chain; rows past `num_accepted` are overwritten later."""
        width = tokens.shape[1]
        rotation = self._rotary(self.next_position[:, None] + self.steps[:width])
        ancestors = self.chain[:width, : num_words(width)].repeat(tokens.shape[0], 1, 1)
        output = self._run_rows(self._inputs(tokens, features), rotation, ancestors, self.cache_len)
        last = num_accepted.clamp(min=0).long()[:, None, None].expand(-1, -1, output.shape[2])
        self.hidden.copy_(output.gather(1, last)[:, 0])
        self.cache_len += num_accepted + 1
        self.next_position += num_accepted + 1

    def reserve(self, num_tokens: int) -> None:
        """Grow the cache by half where `num_tokens` and one cycle's rows would not fit."""
        capacity, needed = self.k_cache.shape[2], num_tokens - self.rows_saved + self.spare_rows
        if needed > capacity:
            capacity = grown_capacity(capacity, needed)
            self.version += 1
            self.k_cache, self.v_cache = grow_rows(self.k_cache, capacity), grow_rows(self.v_cache, capacity)

    def _expand(self, hidden: Tensor, scores: Tensor, top_k: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """`expand_frontier` of the outputs `hidden` `[B, F, H]`, in the target's token ids."""
        if self.short_head is None:
            return expand_frontier(self.target.logits(hidden), scores, top_k)
        tokens, scores, frontier, frontier_tokens, frontier_scores = expand_frontier(
            self.short_head.logits(hidden), scores, top_k
        )
        ids = self.short_head.token_ids
        return ids[tokens], scores, frontier, ids[frontier_tokens], frontier_scores

    def _rotary(self, positions: Tensor) -> Rotation:
        return rotary(positions, self.frequencies, self.model.dtype)

    def _inputs(self, tokens: Tensor, features: Tensor) -> Tensor:
        """`fuse` of tokens int64 `[B, M]` and features `[B, M, H]`, behind the prompt."""
        return F.linear(torch.cat((self.target.embed(tokens), features), dim=-1), self.input_weight) + self.input_bias

    def _run_rows(self, hidden: Tensor, rotation: Rotation, ancestors: Tensor, write_at: Tensor) -> Tensor:
        """Rows `[B, M, H]` that see the cache and, of the rows behind it, those whose bits are set in `ancestors`."""

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            append_kv(k, v, self.k_cache, self.v_cache, write_at)
            return tree_attention(q, self.k_cache, self.v_cache, self.cache_len, ancestors, scale=self.scale)

        return self.model(hidden, rotation, attend)

    def _attend_prompt(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.k_cache[:, :, : k.shape[2]] = k
        self.v_cache[:, :, : v.shape[2]] = v
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scale, enable_gqa=True)
        return out.transpose(1, 2)


def num_words(rows: int) -> int:
    """Words of ancestor bits for so many rows."""
    return max(1, -(-rows // WORD_BITS))


def _frontier_bits(tree: TreeConfig, device: torch.device) -> Tensor:
    """The own bit of every frontier node of a tree, int64 `[depth, top_k, words]`."""
    rows = torch.arange(tree.depth * tree.top_k, device=device)
    return _bits(rows, rows.numel()).unflatten(0, (tree.depth, tree.top_k))


def _first_candidates(tree: TreeConfig, device: torch.device) -> Tensor:
    """The first of the candidates that each frontier node is chosen from, int32 `[1 + depth * top_k]`; 0 for the root.

    The root has `top_k` children, each level of the frontier `top_k` times as many.
    """
    levels = [0, *(tree.top_k + level * tree.top_k**2 for level in range(tree.depth - 1))][: tree.depth]
    return torch.tensor([0, *(first for first in levels for _ in range(tree.top_k))], dtype=torch.int32, device=device)


def _bits(rows: Tensor, num_rows: int) -> Tensor:
    """One set bit a row: int64 `[len(rows), ceil(num_rows / 64)]`, bit `rows[i]` of row i."""
    words = torch.arange(num_words(num_rows), device=rows.device)
    bits = torch.ones_like(rows) << (rows % WORD_BITS)
    return torch.where(rows[:, None] // WORD_BITS == words, bits[:, None], 0)
