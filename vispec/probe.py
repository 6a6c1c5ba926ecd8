"""A model that no test knows is tried once: a small tree in one pass against the same tokens one path at a time."""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor
from transformers import PreTrainedModel

from vispec.attention import WINDOWS
from vispec.cache import CACHE_NAME
from vispec.families import FAMILIES
from vispec.target import Target, rope_delta
from vispec.tree import Tree

PROMPT_LENGTH = 7
PATHS = ((0,), (0, 1), (0, 2), (0, 1, 3))  # of each node from the root: two siblings, and a child of the first

_passed: WeakSet[PreTrainedModel] = WeakSet()


def check_verification(target: Target) -> None:
    """Try a target that is not among the tested ones, once; the caller holds it alone (`Target.exclusive`).

    Raises:
        NotImplementedError: a tree's logits are not those of its paths, or its attention or LM head is more than
            tree attention, or `Target.logits`, knows.
    """
    if target.is_tested or target.model in _passed:
        return
    reason = _why_not(Target(target.model))  # not compiled
    if reason is not None:
        raise NotImplementedError(
            f"model: {type(target.model).__name__} was never tested with vispec, and a trial shows why it cannot be "
            f"used: {reason}; expected a model of the families {', '.join(FAMILIES)}, or one that passes the trial"
        )
    _passed.add(target.model)


@torch.no_grad()
def _why_not(target: Target) -> str | None:
    tokens = _plain_tokens(target, PROMPT_LENGTH + len(PATHS))
    prompt, nodes = tokens[:, :PROMPT_LENGTH], tokens[:, PROMPT_LENGTH:]
    try:
        with WINDOWS.holding([]) as windows:
            logits, features = _verified(target, prompt, _tree(nodes))
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, NotImplementedError):
            raise
        return f"its pass over a tree fails ({type(error).__name__}: {error})"
    if windows != _expected_windows(target):
        return f"its attention gets the sliding windows {windows}, expected {_expected_windows(target)}"
    for node, path in enumerate(PATHS):
        alone = target.model(input_ids=torch.cat((prompt, nodes[:, path]), dim=1)).logits[:, -1]
        if not _is_close(logits[:, node], alone):
            return "its logits for a tree of tokens differ from those for the same tokens in sequence"
    if not _is_close(target.logits(features), logits):
        return "its logits are not the output of its LM head alone"
    return None


def _verified(target: Target, prompt: Tensor, tree: Tree) -> tuple[Tensor, Tensor]:
    """The tree's logits and features behind the prompt, with all that `model.generate` prepares for the model."""
    outputs: list[tuple[Tensor, Tensor]] = []

    def verify_once(model: PreTrainedModel, input_ids: Tensor, *args: Any, **model_kwargs: Any) -> Tensor:
        for name in ("logits_processor", "stopping_criteria", "generation_config", CACHE_NAME):
            model_kwargs.pop(name, None)
        cache = target.new_cache(PROMPT_LENGTH + len(PATHS), batch_size=1)
        with target.attached():
            target.prefill(input_ids, model_kwargs, cache)
            cache.start_verifying()
            with target.verification():
                delta = rope_delta(model_kwargs.get("position_ids"), PROMPT_LENGTH)
                outputs.append(target.verify(tree, cache, delta)[:2])
        return input_ids

    options = {"max_new_tokens": 1, "do_sample": False, "num_beams": 1, "num_return_sequences": 1, "stop_strings": None}
    mask = torch.ones_like(prompt)  # else what generation_config takes for padding is masked
    type(target.model).generate(target.model, prompt, attention_mask=mask, custom_generate=verify_once, **options)
    return outputs[0]


def _plain_tokens(target: Target, count: int) -> Tensor:
    """Ids `[1, count]` that the config gives no meaning to: no images, no padding."""
    fields = {**target.text_config.to_dict(), **target.model.config.to_dict()}
    special = {value for name, value in fields.items() if name.endswith(("_token_id", "_token_index"))}
    ids = [token for token in range(target.vocab_size) if token not in special][:count]
    return torch.tensor([ids], device=target.device)


def _tree(nodes: Tensor) -> Tree:
    parents = torch.tensor([[path[-2] if len(path) > 1 else -1 for path in PATHS]], device=nodes.device)
    depths = torch.tensor([[len(path) - 1 for path in PATHS]], device=nodes.device)
    ancestors = torch.tensor([[sum(1 << node for node in path) for path in PATHS]], device=nodes.device)
    return Tree(nodes, parents.int(), depths.int(), ancestors[..., None])


def _expected_windows(target: Target) -> list[int | None]:
    config = target.text_config
    window = getattr(config, "sliding_window", None)
    layer_types = getattr(config, "layer_types", None) or ["sliding_attention"] * config.num_hidden_layers
    return [window if layer_type == "sliding_attention" else None for layer_type in layer_types]


def _is_close(logits: Tensor, expected: Tensor) -> bool:
    """Far apart beside rounding is what rounding of half a format's digits would not explain."""
    spread = expected.float() - expected.float().mean(-1, keepdim=True)
    error = (logits.float() - expected.float()).norm(dim=-1) / spread.norm(dim=-1)
    return bool((error <= torch.finfo(logits.dtype).eps ** 0.5).all())
