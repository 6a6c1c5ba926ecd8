"""`expand_frontier`: log-softmax top-k of every frontier node, and the next frontier."""

import torch
from torch import Tensor


def expand_frontier(logits: Tensor, scores: Tensor, top_k: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Expand each of F frontier nodes by its `top_k` most probable tokens and choose the next frontier among them.

    A node's tokens are those of its `top_k` largest logits, descending; of equal logits the lower token id comes first.
    A candidate's score is its node's score plus its log-probability in fp32, a log-probability above 0 by rounding
    counting as 0: a child never outscores its parent. NaN counts as minus infinity, in logits and scores; a row whose
    log-sum-exp is not finite gives tokens `0 .. top_k - 1` with scores of minus infinity.

    Args:
        logits: `[B, F, V]`, fp32, fp16 or bf16. V contiguous, other strides free.
        scores: fp32 `[B, F]`, cumulative log-probabilities of the frontier nodes.
        top_k: K, tokens a node and nodes of the next frontier, `1 <= K <= V` and `F * K <= 65536`.

    Returns:
        The candidates' `tokens` int64 `[B, F, K]` and `scores` fp32 `[B, F, K]`; the next frontier as flat candidate
        indices `f * K + rank`, int32 `[B, K]`, descending by score (ties: lower index), with its tokens int64 `[B, K]`
        and scores fp32 `[B, K]`.

    Raises:
        ValueError: a shape, dtype, stride or device is not as above.
    """
    return torch.ops.vispec.expand_frontier(logits, scores, top_k)


@torch.library.register_fake("vispec::expand_frontier")
def _(logits: Tensor, scores: Tensor, top_k: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Five new contiguous tensors."""
    batch_size, num_nodes, _ = logits.shape
    return (
        logits.new_empty((batch_size, num_nodes, top_k), dtype=torch.int64),
        logits.new_empty((batch_size, num_nodes, top_k), dtype=torch.float32),
        logits.new_empty((batch_size, top_k), dtype=torch.int32),
        logits.new_empty((batch_size, top_k), dtype=torch.int64),
        logits.new_empty((batch_size, top_k), dtype=torch.float32),
    )


def expand_frontier_reference(
    logits: Tensor, scores: Tensor, top_k: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`expand_frontier` in plain torch: two stable sorts."""
    minus_infinity = torch.tensor(-torch.inf, device=logits.device)
    x = logits.float().where(~logits.isnan(), minus_infinity)
    x = x.where(x.logsumexp(-1, keepdim=True).isfinite(), minus_infinity)
    best, tokens = x.sort(dim=-1, descending=True, stable=True)
    log_probs = (best - x.logsumexp(-1, keepdim=True))[..., :top_k].clamp(max=0)
    tokens = tokens[..., :top_k].contiguous()
    candidates = scores.unsqueeze(-1) + log_probs
    candidates = candidates.where(~candidates.isnan(), minus_infinity)
    frontier = candidates.flatten(1).sort(dim=-1, descending=True, stable=True).indices[:, :top_k]
    return (
        tokens,
        candidates,
        frontier.int(),
        tokens.flatten(1).gather(1, frontier),
        candidates.flatten(1).gather(1, frontier),
    )
