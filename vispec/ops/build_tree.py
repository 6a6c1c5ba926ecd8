"""`build_tree`: the best candidates of a draft as one tree."""

import torch
from torch import Tensor


def build_tree(
    root_tokens: Tensor, tokens: Tensor, scores: Tensor, parents: Tensor, num_nodes: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Keep the `num_nodes - 1` best candidates, in candidate order, as nodes 1 .. N-1 below the root.

    Of equal scores the lower candidate index is kept; NaN counts as minus infinity. Since no candidate outscores its
    parent and a parent comes before its children, what is kept is a tree in topological order.

    Args:
        root_tokens: int64 `[B]`, node 0 of each tree.
        tokens, scores, parents: int64, fp32, int32 `[B, C]`. `parents` are candidate indices lower than the
            candidate's own, -1 for a child of the root.
        num_nodes: N, root included, `1 <= N <= 256` and `N - 1 <= C`.

    Returns:
        `tokens` int64 `[B, N]`; `parents` int32 `[B, N]`, node indices, -1 for the root; `depths` int32 `[B, N]`, 0 for
        the root; `ancestors` int64 `[B, N, ceil(N / 64)]`: bit `j % 64` of word `j // 64` of row i is set if node j is
        i or an ancestor of i.

    Raises:
        ValueError: a shape, dtype, stride or device is not as above; on CPU also where the parent of a kept candidate
            is not kept or does not come before it.
    """
    return torch.ops.vispec.build_tree(root_tokens, tokens, scores, parents, num_nodes)


@torch.library.register_fake("vispec::build_tree")
def _(
    root_tokens: Tensor, tokens: Tensor, scores: Tensor, parents: Tensor, num_nodes: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four new contiguous tensors."""
    batch_size = tokens.shape[0]
    return (
        tokens.new_empty((batch_size, num_nodes)),
        parents.new_empty((batch_size, num_nodes)),
        parents.new_empty((batch_size, num_nodes)),
        tokens.new_empty((batch_size, num_nodes, (num_nodes + 63) // 64)),
    )


def build_tree_reference(
    root_tokens: Tensor, tokens: Tensor, scores: Tensor, parents: Tensor, num_nodes: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`build_tree` in plain torch, one node at a time."""
    batch_size = root_tokens.shape[0]
    node_tokens = root_tokens.new_zeros(batch_size, num_nodes)
    node_parents = parents.new_full((batch_size, num_nodes), -1)
    depths = parents.new_zeros(batch_size, num_nodes)
    sees = torch.eye(num_nodes, dtype=torch.bool, device=tokens.device).repeat(batch_size, 1, 1)
    node_tokens[:, 0] = root_tokens
    ranked = scores.masked_fill(scores.isnan(), -torch.inf).sort(dim=-1, descending=True, stable=True).indices
    for seq in range(batch_size):
        kept = sorted(ranked[seq, : num_nodes - 1].tolist())
        node_of = {-1: 0}
        for node, candidate in enumerate(kept, start=1):
            parent_candidate = int(parents[seq, candidate])
            if parent_candidate not in node_of:
                raise ValueError(f"parents: candidate {candidate} is kept without its parent {parent_candidate}")
            parent = node_of[parent_candidate]
            node_of[candidate] = node
            node_tokens[seq, node] = tokens[seq, candidate]
            node_parents[seq, node] = parent
            depths[seq, node] = depths[seq, parent] + 1
            sees[seq, node] |= sees[seq, parent]
    return node_tokens, node_parents, depths, pack_bits(sees)


def pack_bits(rows: Tensor) -> Tensor:
    """`[..., n]` booleans as int64 words `[..., ceil(n / 64)]`, the first in the lowest bit."""
    padded = torch.nn.functional.pad(rows, (0, -rows.shape[-1] % 64)).unflatten(-1, (-1, 64))
    return (padded.long() << torch.arange(64, device=rows.device)).sum(-1)  # distinct bits: the sum is an or
