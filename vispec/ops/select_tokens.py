"""`select_tokens`: the target's own token at every node of a tree, by argmax or by a keyed draw."""

import torch
from torch import Tensor

PHILOX_ROUNDS = 10
PHILOX_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
PHILOX_WEYL = (0x9E3779B9, 0xBB67AE85)
WORD = 0xFFFFFFFF


def select_tokens(
    logits: Tensor,
    tokens: Tensor | None = None,
    parents: Tensor | None = None,
    positions: Tensor | None = None,
    seen: Tensor | None = None,
    *,
    temperature: Tensor | None = None,
    top_k: Tensor | None = None,
    top_p: Tensor | None = None,
    min_p: Tensor | None = None,
    repetition_penalty: Tensor | None = None,
    seed: Tensor | None = None,
    row: Tensor | None = None,
) -> Tensor:
    """Choose one token after each of the N nodes of each tree.

    Without `temperature` (then no other option may be given): the lowest index of the largest logit, NaN counting as
    the largest, as `torch.argmax`. Otherwise, in the order of transformers' processors: `repetition_penalty` for tokens
    of the history or of the path from the root to the node, division by `temperature`, `top_k`, `top_p`, `min_p`, then
    a draw from the softmax of what is kept. Every filter keeps what is at least as large as its boundary, so equal
    logits stay or go together: top_k keeps all that equal the k-th largest; top_p keeps a token if the tokens strictly
    above it have less than `top_p` of the mass left by top_k.

    The draw is a Gumbel-max: the largest `x - log(-log(u))`, ties to the lower id, in fp64 (so every device and the
    reference choose alike) where u = (word + 0.5) / 2^32 is keyed by (seed, row, position, token) alone. A
    node's token depends neither on N, on the batch, nor on the tree around it. In a draw a NaN logit counts as minus
    infinity, and a row of those gives token 0.

    Args:
        logits: `[B, N, V]`, fp32, fp16 or bf16, `1 <= N <= 256`. V contiguous, other strides free.
        tokens: int64 `[B, N]`, the trees; needed with `repetition_penalty`.
        parents: int32 `[B, N]`, node indices lower than the node's own, -1 for the root; needed with
            `repetition_penalty`.
        positions: int32 `[B, N]`, each node's position in its sequence; needed with `temperature`.
        seen: int32 `[B, ceil(V / 32)]`, bit `t % 32` of word `t // 32` set if token t is in the history; needed with
            `repetition_penalty`.
        temperature: fp32 `[B]`; 0 takes the argmax after the penalty.
        top_k: int32 `[B]`; 0 is off.
        top_p: fp32 `[B]`; 1 and more is off.
        min_p: fp32 `[B]`, tokens less probable than `min_p` times the best one are dropped; 0 is off.
        repetition_penalty: fp32 `[B]`, positive; 1 is off.
        seed: int64 `[B]`, the key of the random stream; needed with `temperature`.
        row: int32 `[B]`, the sequence number in the key; default `arange(B)`.

    Returns:
        int64 `[B, N]`.

    Raises:
        ValueError: a shape, dtype, stride or device is not as above, an argument is missing; on CPU also an option out
            of its range, a node's token out of the vocabulary or a parent that does not come before its node.
    """
    options = (temperature, top_k, top_p, min_p, repetition_penalty, seed, row)
    return torch.ops.vispec.select_tokens(logits, tokens, parents, positions, seen, *options)


@torch.library.register_fake("vispec::select_tokens")
def _(logits: Tensor, *_: Tensor | None) -> Tensor:
    """One new contiguous tensor."""
    return logits.new_empty(logits.shape[:2], dtype=torch.int64)


def select_tokens_reference(
    logits: Tensor,
    tokens: Tensor | None = None,
    parents: Tensor | None = None,
    positions: Tensor | None = None,
    seen: Tensor | None = None,
    *,
    temperature: Tensor | None = None,
    top_k: Tensor | None = None,
    top_p: Tensor | None = None,
    min_p: Tensor | None = None,
    repetition_penalty: Tensor | None = None,
    seed: Tensor | None = None,
    row: Tensor | None = None,
) -> Tensor:
    """`select_tokens` in plain torch, one node at a time, with full sorts."""
    if temperature is None:
        return logits.argmax(-1)
    assert positions is not None
    assert seed is not None
    batch_size, num_nodes, _ = logits.shape
    chosen = torch.zeros(batch_size, num_nodes, dtype=torch.int64, device=logits.device)
    for seq in range(batch_size):
        for node in range(num_nodes):
            x = logits[seq, node].float()
            if repetition_penalty is not None:
                assert tokens is not None
                assert parents is not None
                assert seen is not None
                used = used_tokens(seen[seq], tokens[seq], parents[seq], node, x.numel())
                penalty = repetition_penalty[seq]
                x = torch.where(used, torch.where(x < 0, x * penalty, x / penalty), x)
            if temperature[seq] == 0:
                chosen[seq, node] = x.argmax()
                continue
            x = (x / temperature[seq]).nan_to_num(nan=-torch.inf, neginf=-torch.inf)
            x = keep_top_k(x, int(top_k[seq])) if top_k is not None else x
            x = keep_top_p(x, float(top_p[seq])) if top_p is not None else x
            x = keep_min_p(x, float(min_p[seq])) if min_p is not None else x
            sequence = seq if row is None else int(row[seq])
            u = uniforms(x.numel(), int(seed[seq]), sequence, int(positions[seq, node])).to(x.device)
            chosen[seq, node] = (x.double() - (-u.log()).log()).argmax()
    return chosen


def used_tokens(seen: Tensor, tokens: Tensor, parents: Tensor, node: int, vocab_size: int) -> Tensor:
    """`[vocab_size]` booleans: the token is in the history `seen` or on the path from the root to `node`."""
    used = ((seen.unsqueeze(-1) >> torch.arange(32, device=seen.device)) & 1).flatten()[:vocab_size].bool()
    while node >= 0:
        used[tokens[node]] = True
        node = int(parents[node])
    return used


def keep_top_k(x: Tensor, top_k: int) -> Tensor:
    """Minus infinity for what is below the `top_k`-th largest."""
    if top_k == 0:
        return x
    boundary = x.sort(descending=True).values[min(top_k, x.numel()) - 1]
    return x.masked_fill(x < boundary, -torch.inf)


def keep_top_p(x: Tensor, top_p: float) -> Tensor:
    """Minus infinity for what has `top_p` or more of the mass strictly above it; the largest always stays."""
    if top_p >= 1:
        return x
    values, order = x.double().sort(descending=True)
    probs = values.softmax(0)
    through = probs.cumsum(0)
    first_equal = torch.searchsorted(-values, -values)  # of each value: how many are strictly above it
    above = torch.where(first_equal > 0, through[first_equal - 1], 0.0)
    dropped = (above >= top_p) & (first_equal > 0)
    return x.masked_fill(dropped[order.argsort()], -torch.inf)


def keep_min_p(x: Tensor, min_p: float) -> Tensor:
    """Minus infinity for what is less probable than `min_p` times the best."""
    return x.masked_fill((x.double() - x.max()).exp() < min_p, -torch.inf)


def uniforms(vocab_size: int, seed: int, row: int, position: int) -> Tensor:
    """fp64 `[vocab_size]` in (0, 1): word `token % 4` of Philox under counter `(token // 4, position, row, 0)`."""
    blocks = torch.arange((vocab_size + 3) // 4)
    counter = torch.stack([blocks, *(torch.full_like(blocks, word & WORD) for word in (position, row, 0))])
    words = philox(counter, (seed & WORD, seed >> 32 & WORD))
    return (words.T.flatten()[:vocab_size].double() + 0.5) / 2**32


def philox(counter: Tensor, key: tuple[int, int]) -> Tensor:
    """Philox4x32-10 (Salmon et al., SC 2011): int64 `[4, n]` counters below 2^32 to as many random words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(PHILOX_ROUNDS):
        product0, product1 = c0 * PHILOX_MULTIPLIERS[0], c2 * PHILOX_MULTIPLIERS[1]  # wraps: only the bits count
        c0, c1, c2, c3 = (
            (product1 >> 32 & WORD) ^ c1 ^ k0,
            product1 & WORD,
            (product0 >> 32 & WORD) ^ c3 ^ k1,
            product0 & WORD,
        )
        k0, k1 = (k0 + PHILOX_WEYL[0]) & WORD, (k1 + PHILOX_WEYL[1]) & WORD
    return torch.stack([c0, c1, c2, c3])
