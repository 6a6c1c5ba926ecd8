"""Language models alone."""

from __future__ import annotations

from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from families.common import WINDOW, Family, Heads, text_fields


def _llama(heads: Heads) -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**text_fields(heads)))


def _qwen2(heads: Heads) -> PreTrainedModel:
    window = {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 2}  # the last layer slides
    return Qwen2ForCausalLM(Qwen2Config(**text_fields(heads), **window))


FAMILIES = {"llama": Family(_llama, "llama"), "qwen2": Family(_qwen2, "qwen2", special="sliding windows")}
