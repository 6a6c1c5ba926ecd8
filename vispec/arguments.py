"""What `generate` is called with: all that is wrong or not supported is said before work starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel
from transformers.generation.logits_process import (
    ClassifierFreeGuidanceLogitsProcessor,
    LogitsProcessorList,
    UnbatchedClassifierFreeGuidanceLogitsProcessor,
)

from vispec.draft.checkpoint import Draft
from vispec.media import PIXELS
from vispec.target import Target

GUIDANCE = (ClassifierFreeGuidanceLogitsProcessor, UnbatchedClassifierFreeGuidanceLogitsProcessor)
# the way out where there is no other
OWN = "the model's own generate does it (where vispec.accelerate replaced that: after its remove())"
_ONE_GUESSER = f"the draft guesses already, and its guesses are checked as trees; leave it out, or {OWN}"
_ONE_TEXT = f"a cycle goes on with one text a sequence; {OWN}"
_GUIDANCE = f"guidance runs the model twice for a token, the second time on another prompt; {OWN}"
# options of `generate` that change the result or how it comes about: the values that are supported, and why no other
# is and what to do instead
SUPPORTED_VALUES: dict[str, tuple[tuple[Any, ...], str]] = {
    "assistant_early_exit": ((None,), _ONE_GUESSER),
    "assistant_model": ((None,), _ONE_GUESSER),
    "assistant_tokenizer": ((None,), _ONE_GUESSER),
    "cache_implementation": (
        (None, "dynamic"),
        "trees are verified in a cache of vispec's own, which is static already; leave it out, the text is the same",
    ),
    "constraints": ((None,), _ONE_TEXT),
    "dola_layers": ((None,), f"a token's logits would hang on those of other layers; {OWN}"),
    "force_words_ids": ((None,), _ONE_TEXT),
    "guidance_scale": ((None, 1, 1.0), _GUIDANCE),
    "inputs_embeds": (
        (None,),
        f"the draft reads tokens, and where images are among them; pass input_ids and pixel_values, or {OWN}",
    ),
    "negative_prompt_ids": ((None,), _GUIDANCE),
    "num_beams": ((None, 1), _ONE_TEXT),
    "output_attentions": (
        (None, False),
        "trees are verified without ever writing attention weights down; run the model's forward over the finished "
        "text for them",
    ),
    "penalty_alpha": (
        (None, 0, 0.0),
        f"contrastive search compares a token's hidden state with all before it; {OWN}",
    ),
    "prefill_chunk_size": ((None,), "a prompt is read in one pass; leave it out, the text is the same"),
    "prompt_lookup_num_tokens": ((None,), _ONE_GUESSER),
    "synced_gpus": (
        (None, False),
        "processes that hold shards by ZeRO-3 or FSDP would all have to run as many cycles; hold all weights in each "
        f"process, or {OWN}",
    ),
    "token_healing": (
        (None, False),
        "it rewrites the prompt after images and draft have seen it; pass input_ids from "
        "model.heal_tokens(input_ids, tokenizer)",
    ),
    "use_cache": ((None, True), "a cycle reads the text from a cache; leave it out, the text is the same"),
    "use_mtp": ((None, False), _ONE_GUESSER),
}


def check_draft(draft: Any) -> None:
    if not isinstance(draft, Draft):
        raise TypeError(f"draft: expected a draft from vispec.load_draft, got {type(draft).__name__}")


def as_keywords(inputs: Mapping[str, Any] | Tensor, generate_kwargs: dict[str, Any]) -> dict[str, Any]:
    if isinstance(inputs, Tensor):
        inputs = {"input_ids": inputs}
    if not isinstance(inputs, Mapping):
        raise TypeError(f"inputs: expected a mapping or a tensor of token ids, got {type(inputs).__name__}")
    twice = sorted(inputs.keys() & generate_kwargs.keys())
    if twice:
        raise TypeError(f"{twice[0]}: given in inputs and as a keyword")
    return {**inputs, **generate_kwargs}


def check_mode(target: Target) -> None:
    training = next((name for name, module in target.model.named_modules() if module.training), None)
    if training is not None:
        where = f" in {training}" if training else ""
        raise ValueError(f"model: expected eval mode, got training mode{where} (dropout would change the text)")
    if torch.is_autocast_enabled(target.device.type):
        raise NotImplementedError(
            "torch.autocast is not supported: draft and caches have the model's own dtype; load it in the dtype "
            "that it is to run in"
        )


def option(model: PreTrainedModel, keywords: Mapping[str, Any], name: str) -> Any:
    """Of the call, else of its generation config, else of the model's; None: nowhere."""
    value = keywords.get(name)
    for source in (keywords.get("generation_config"), model.generation_config):
        value = getattr(source, name, None) if value is None else value
    return value


def check_options(model: PreTrainedModel, keywords: Mapping[str, Any]) -> None:
    if keywords.get("custom_generate") is not None:
        raise NotImplementedError(
            f"custom_generate: vispec is one itself, and only one can decode; leave it out, or {OWN}"
        )
    generator = keywords.get("generator")
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator: expected a torch.Generator, got {type(generator).__name__}")
    config = keywords.get("generation_config")
    if config is not None and not isinstance(config, GenerationConfig):
        raise TypeError(f"generation_config: expected a GenerationConfig, got {type(config).__name__}")
    for name, (supported, otherwise) in SUPPORTED_VALUES.items():
        value = option(model, keywords, name)
        is_plain = isinstance(value, (bool, int, float, str))
        if not any(value is option or (is_plain and value == option) for option in supported):
            shown = repr(value) if is_plain else type(value).__name__
            raise NotImplementedError(f"{name}={shown} is not supported: {otherwise}")


def check_processors(processors: LogitsProcessorList) -> None:
    for processor in processors:
        if isinstance(processor, GUIDANCE):
            raise NotImplementedError(
                f"logits_processor: {type(processor).__name__} runs the model beside it or on twice the batch, "
                f"which is not supported; {OWN}"
            )


def ids_of(keywords: Mapping[str, Any]) -> Any:
    """The token ids, by either of their names."""
    return keywords.get("inputs") if keywords.get("input_ids") is None else keywords["input_ids"]


def check_inputs(target: Target, keywords: Mapping[str, Any]) -> None:
    """What transformers would find late, or not at all."""
    ids = ids_of(keywords)
    if ids is None and option(target.model, keywords, "bos_token_id") is not None:
        return  # `generate` itself begins with that token
    if not isinstance(ids, Tensor):
        raise TypeError(f"input_ids: expected a tensor of token ids, got {type(ids).__name__}")
    if ids.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"input_ids: expected int64 token ids, got {ids.dtype}")
    if ids.ndim != 2 or not ids.numel():
        raise ValueError(f"input_ids: expected prompts of at least one token, [B, L], got {list(ids.shape)}")
    for name in ("input_ids", "inputs", "attention_mask", "position_ids", *PIXELS.values()):
        value = keywords.get(name)
        if isinstance(value, Tensor) and value.device != target.device:
            raise ValueError(f"{name}: expected the model's device {target.device}, got {value.device}")
    if ids.min() < 0 or ids.max() >= target.vocab_size:
        bad = ids[(ids < 0) | (ids >= target.vocab_size)][0].item()
        raise ValueError(f"input_ids: expected ids from 0 to {target.vocab_size - 1}, got {bad}")


def check_prompt(target: Target, keywords: Mapping[str, Any], num_cached: int = 0, unseen: int = 0) -> None:
    """Mask, images and videos.

    Args:
        num_cached: leading tokens that a cache holds.
        unseen: tokens before the ids, which a cache holds.
    """
    ids = ids_of(keywords)
    if ids is None:
        return
    check_mask(ids, keywords.get("attention_mask"), unseen)
    _check_placeholders(target, ids[:, num_cached:], keywords)


def check_mask(ids: Tensor, mask: Tensor | None, unseen: int = 0) -> None:
    if mask is None:
        return
    if not isinstance(mask, Tensor):
        raise TypeError(f"attention_mask: expected a tensor, got {type(mask).__name__}")
    shape = [ids.shape[0], unseen + ids.shape[1]]
    if list(mask.shape) != shape:
        raise ValueError(f"attention_mask: expected the shape of input_ids {shape}, got {list(mask.shape)}")
    is_token = mask == 1
    if not ((is_token | (mask == 0)).all() and (is_token[:, :-1] <= is_token[:, 1:]).all() and is_token[:, -1].all()):
        raise ValueError(
            "attention_mask: expected padding on the left alone: zeros and then ones in each row, with a one at its "
            "end; without a mask, generate takes tokens with pad_token_id for padding"
        )


def _check_placeholders(target: Target, ids: Tensor, keywords: Mapping[str, Any]) -> None:
    """Positions of images and videos that are not there."""
    for name, token in target.placeholders.items():
        if token is None or not (ids == token).any():
            continue
        pixels = [PIXELS[other] for other, stands_for in target.placeholders.items() if stands_for == token]
        if all(keywords.get(option) is None for option in (*pixels, "mm_encoder_outputs")):
            raise ValueError(f"input_ids: holds {name} tokens (id {token}), but there are no {' or '.join(pixels)}")
