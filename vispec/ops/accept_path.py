"""`accept_path`: the path of a tree that the target agrees with."""

import torch
from torch import Tensor


def accept_path(
    tokens: Tensor, parents: Tensor, target_tokens: Tensor, max_depth: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Walk each tree from its root to the child that carries the target's token, until there is none.

    Of several such children the one with the lowest index is taken. Only children behind their parent count, and the
    walk ends after `max_depth` steps, so a malformed tree gives a short path, never a hang.

    Args:
        tokens: int64 `[B, N]`, the trees, `1 <= N <= 256`; node 0 is the root.
        parents: int32 `[B, N]`, node indices, -1 for the root.
        target_tokens: int64 `[B, N]`, what the target chose after each node.
        max_depth: levels of the tree below its root, at least 0.

    Returns:
        `nodes` int32 `[B, max_depth + 1]`: the path, root first, its last node repeated to the end; `num_accepted`
        int32 `[B]`, the path's length without the root; `bonus` int64 `[B]`, the target's token after its last node.

    Raises:
        ValueError: a shape, dtype, stride or device is not as above.
    """
    return torch.ops.vispec.accept_path(tokens, parents, target_tokens, max_depth)


@torch.library.register_fake("vispec::accept_path")
def _(tokens: Tensor, parents: Tensor, target_tokens: Tensor, max_depth: int) -> tuple[Tensor, Tensor, Tensor]:
    """Three new contiguous tensors."""
    batch_size = tokens.shape[0]
    return (
        parents.new_empty((batch_size, max_depth + 1)),
        parents.new_empty((batch_size,)),
        tokens.new_empty((batch_size,)),
    )


def accept_path_reference(
    tokens: Tensor, parents: Tensor, target_tokens: Tensor, max_depth: int
) -> tuple[Tensor, Tensor, Tensor]:
    """`accept_path` in plain torch, one sequence and one step at a time."""
    batch_size, num_nodes = tokens.shape
    nodes = parents.new_zeros(batch_size, max_depth + 1)
    num_accepted = parents.new_zeros(batch_size)
    bonus = tokens.new_zeros(batch_size)
    for seq in range(batch_size):
        path = [0]
        while len(path) <= max_depth:
            node = path[-1]
            token = target_tokens[seq, node]
            child = [c for c in range(node + 1, num_nodes) if parents[seq, c] == node and tokens[seq, c] == token]
            if not child:
                break
            path.append(child[0])
        num_accepted[seq] = len(path) - 1
        bonus[seq] = target_tokens[seq, path[-1]]
        nodes[seq] = torch.tensor(path + path[-1:] * (max_depth + 1 - len(path)))
    return nodes, num_accepted, bonus
