"""The ViSpec draft model (arXiv 2509.15235): one decoder layer that sees each image as slots and a global feature."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vispec.draft.config import DraftConfig

# q [B, Hq, M, D], k and v [B, Hkv, M, D] (rotated) to [B, M, Hq, D]; decides what the M rows see
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
Rotation = tuple[Tensor, Tensor]  # cosines and sines `[B, 1, M, head_dim]` of `rotary`; M is 1: of all rows


class DraftSequence(NamedTuple):
    """A prompt as the draft's layer sees it: text rows and image slots, in order."""

    hidden: Tensor  # [n, H]
    positions: Tensor  # int64 [n], with a gap before each image's slots
    global_feature: Tensor  # [H], of the last image; zeros without one, and in a draft that knows none


class VisionAdaptor(nn.Module):
    """Learned queries attend to one image's input embeddings, without mask or rotary positions (section 3.1)."""

    def __init__(self, config: DraftConfig) -> None:
        super().__init__()
        hidden, heads = config.hidden_size, config.num_attention_heads
        self.q = nn.Parameter(torch.empty(config.num_queries, heads, hidden // heads))
        self.k_proj = nn.Linear(hidden, hidden, bias=config.qkv_bias)
        self.v_proj = nn.Linear(hidden, hidden, bias=config.qkv_bias)
        self.o_proj = nn.Linear(hidden, hidden, bias=False)

    def forward(self, image_embeds: Tensor) -> Tensor:
        """`[B, L, H]` to `[B, num_queries, H]`; every image of a batch has the same L."""
        _, heads, head_dim = self.q.shape
        q = self.q.transpose(0, 1).expand(image_embeds.shape[0], -1, -1, -1)  # [B, heads, num_queries, head_dim]
        k, v = (p(image_embeds).unflatten(-1, (heads, head_dim)).transpose(1, 2) for p in (self.k_proj, self.v_proj))
        return self.o_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class DraftAttention(nn.Module):
    """LLaMA attention; the caller says how rows see each other and the cache."""

    def __init__(self, config: DraftConfig) -> None:
        super().__init__()
        hidden, kv_hidden = config.hidden_size, config.num_key_value_heads * config.head_dim
        self.head_dim = config.head_dim
        self.q_proj = nn.Linear(hidden, hidden, bias=config.qkv_bias)
        self.k_proj = nn.Linear(hidden, kv_hidden, bias=config.qkv_bias)
        self.v_proj = nn.Linear(hidden, kv_hidden, bias=config.qkv_bias)
        self.o_proj = nn.Linear(hidden, hidden, bias=False)

    def forward(self, hidden: Tensor, rotation: Rotation, attend: Attend) -> Tensor:
        """`[B, M, H]` to `[B, M, H]`."""
        q, k, v = (
            proj(hidden).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.o_proj(attend(rotate(q, rotation), rotate(k, rotation), v).flatten(2))


class DraftMLP(nn.Module):
    """LLaMA's gated MLP."""

    def __init__(self, config: DraftConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(hidden)) * self.up_proj(hidden))


class DraftLayer(nn.Module):
    """A LLaMA layer whose attention input is not normed."""

    def __init__(self, config: DraftConfig) -> None:
        super().__init__()
        self.self_attn = DraftAttention(config)
        self.mlp = DraftMLP(config)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, hidden: Tensor, rotation: Rotation, attend: Attend) -> Tensor:
        """`[B, M, H]` to `[B, M, H]`."""
        hidden = hidden + self.self_attn(hidden, rotation, attend)
        return hidden + self.mlp(self.post_attention_layernorm(hidden))


class DraftModel(nn.Module):
    """The draft's weights and its three steps: `fuse` inputs, `compress` images, run the layer (`forward`).

    Without queries it has no `imadpt`, without a global feature no `img_fc`: without both it is EAGLE-2's draft.
    Embedding and LM head are the target's. Parameters are named as in the released checkpoints.

    A shortlist of tokens is the buffer `draft_vocab`, int64 `[draft_vocab_size]`: the target's ids of those that are
    drafted, ascending.
    """

    draft_vocab: Tensor

    def __init__(self, config: DraftConfig) -> None:
        super().__init__()
        self.config = config
        self.fc = nn.Linear(2 * config.hidden_size, config.hidden_size, bias=config.bias)
        if config.global_feature:
            self.img_fc = nn.Linear(2 * config.hidden_size, config.hidden_size, bias=config.bias)
        if config.num_queries:
            self.imadpt = VisionAdaptor(config)
        self.layers = nn.ModuleList([DraftLayer(config)])
        if config.draft_vocab_size is not None:
            self.register_buffer("draft_vocab", torch.arange(config.draft_vocab_size))
        self.reset_parameters()

    @property
    def dtype(self) -> torch.dtype:
        return self.fc.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.fc.weight.device

    def reset_parameters(self) -> None:
        """Initial weights of a new draft: `img_fc` passes the feature through and ignores the global feature."""
        if self.config.num_queries:
            nn.init.normal_(self.imadpt.q, std=self.config.hidden_size**-0.5)
        if self.config.global_feature:
            with torch.no_grad():
                self.img_fc.weight.zero_()
                self.img_fc.weight[:, : self.config.hidden_size].fill_diagonal_(1.0)
                if self.img_fc.bias is not None:
                    self.img_fc.bias.zero_()

    def fuse(self, embeds: Tensor, features: Tensor, global_feature: Tensor) -> Tensor:
        """Layer inputs `[..., H]` from token embeddings and features `[..., H]`; the global feature broadcasts."""
        if self.config.global_feature:
            features = self.img_fc(torch.cat((features, global_feature.expand_as(features)), dim=-1))
        return self.fc(torch.cat((embeds, features), dim=-1))

    @torch.no_grad()
    def input_weight(self) -> Tensor:
        """`[H, 2H]`: `fuse(e, f, g)` is `F.linear(cat((e, f)), input_weight()) + fuse(0, 0, g)`, up to rounding.

        Two linear layers without anything between them are one: where g stays, no pass needs to read both.
        """
        if not self.config.global_feature:
            return self.fc.weight
        hidden = self.config.hidden_size
        of_embeds, of_features = self.fc.weight.float().split(hidden, dim=1)
        with torch.autocast(self.device.type, enabled=False):
            merged = of_features @ self.img_fc.weight[:, :hidden].float()
        return torch.cat((of_embeds, merged), dim=1).to(self.dtype)

    def compress(
        self,
        embeds: Tensor,
        features: Tensor,
        runs: Sequence[tuple[int, int]],
        global_feature: Tensor | None = None,
    ) -> DraftSequence:
        """Turn one prompt into the draft's short sequence (section 3.1).

        Args:
            embeds: `[L, H]`, at index i the input embedding of token i + 1.
            features: `[L, H]`, at index i the target's last hidden state of position i.
            runs: `(start, end)` of each image, in indices, ascending; an empty run (the image is one token at prompt
                position 0, whose embedding the shift drops) is passed over.
            global_feature: `[H]`, of the last image of a text that this one continues.

        Returns:
            The sequence. Text rows are fused with the global feature of the last image before them; an image's run is
            replaced by its slots, which sit at the run's last positions.
        """
        length, num_slots = embeds.shape[0], self.config.num_slots
        positions = torch.arange(length, device=embeds.device)
        if global_feature is None:
            global_feature = embeds.new_zeros(embeds.shape[1])
        rows: list[Tensor] = []
        kept: list[Tensor] = []
        text_start = 0
        images = [(start, end) for start, end in runs if end > start] if self.config.num_queries else []
        for start, end in [*images, (length, length)]:
            if start > text_start:
                text = slice(text_start, start)
                rows.append(self.fuse(embeds[text], features[text], global_feature))
                kept.append(positions[text])
            if end > start:
                compressed = self.imadpt(embeds[None, start:end])[0]
                rows.append(compressed[:num_slots])
                kept.append(torch.arange(end - num_slots, end, device=embeds.device).clamp_(min=0))
                global_feature = compressed[num_slots] if self.config.global_feature else global_feature
            text_start = end
        return DraftSequence(torch.cat(rows), torch.cat(kept), global_feature)

    def rotary(self, positions: Tensor, dtype: torch.dtype) -> Rotation:
        """`rotary` of integers `[B, M]` for this layer."""
        frequencies = rotary_frequencies(self.config.head_dim, self.config.rope_theta, positions.device)
        return rotary(positions, frequencies, dtype)

    def forward(self, hidden: Tensor, rotation: Rotation, attend: Attend) -> Tensor:
        """Run the decoder layer.

        Args:
            hidden: `[B, M, H]`, fused text rows and slots.
            rotation: `rotary` of the M rows' positions, or of one position for all.
            attend: attention among the rows (and the cache), on rotated queries and keys.

        Returns:
            `[B, M, H]`: what the target's LM head reads, and the feature of the next step.
        """
        return self.layers[0](hidden, rotation, attend)


def rotary_frequencies(head_dim: int, theta: float, device: torch.device) -> Tensor:
    """Angles from one position to the next, fp32 `[head_dim / 2]`."""
    return 1.0 / theta ** (torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim)


def rotary(positions: Tensor, frequencies: Tensor, dtype: torch.dtype) -> Rotation:
    """Cosines, and sines (of the first half negated), `[B, 1, M, head_dim]` for positions `[B, M]`.

    They are computed, not looked up, so without a limit.
    """
    angles = positions.to(torch.float32)[:, None, :, None] * frequencies
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), dim=-1).to(dtype), torch.cat((-sin, sin), dim=-1).to(dtype)


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotary embedding in LLaMA's layout (halves, not pairs) of `x` `[B, heads, M, head_dim]`."""
    cos, sin = rotation
    first, second = x.chunk(2, dim=-1)
    return torch.addcmul(x * cos, torch.cat((second, first), dim=-1), sin)
