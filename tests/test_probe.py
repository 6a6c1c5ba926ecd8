"""Models outside the tested families: tried once and then decoded, or refused with the reason."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    GemmaConfig,
    GemmaForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

import vispec
import vispec.probe
from families.common import HEAD_DIM, WINDOW, text_fields
from families.refused import REFUSED
from lossless import assert_same_text
from models import make_draft, make_target
from refusal import refused
from vispec import TreeConfig
from vispec.target import Target

HEADS = (4, 2)
IDS = torch.tensor([[5, 9, 14, 20]])


class LlamaOfPairs(LlamaForCausalLM):
    """Each token's embedding is mixed with that of the row before it, which in a tree may be a sibling's."""

    def forward(self, input_ids: Tensor, **kwargs: Any) -> Any:
        embeds = self.get_input_embeddings()(input_ids)
        return super().forward(inputs_embeds=embeds + 0.5 * embeds.roll(1, dims=1), **kwargs)


def _qwen3() -> PreTrainedModel:
    layers = ["full_attention", "sliding_attention", "full_attention"]
    window = {"use_sliding_window": True, "sliding_window": WINDOW, "layer_types": layers}
    return Qwen3ForCausalLM(Qwen3Config(**text_fields(HEADS), head_dim=HEAD_DIM, **window))


def _gemma() -> PreTrainedModel:
    return GemmaForCausalLM(GemmaConfig(**text_fields(HEADS), head_dim=HEAD_DIM))


def _mistral() -> PreTrainedModel:
    return MistralForCausalLM(MistralConfig(**text_fields(HEADS), sliding_window=WINDOW))


def _of_windows_that_are_not_told() -> PreTrainedModel:
    model = _qwen3()
    model.model.layers[1].self_attn.sliding_window = None
    return model


def _gpt_oss() -> PreTrainedModel:
    fields = text_fields(HEADS, head_dim=HEAD_DIM, num_local_experts=2, num_experts_per_tok=1)
    return GptOssForCausalLM(GptOssConfig(**fields, layer_types=["full_attention"] * 3))


def _of_pairs() -> PreTrainedModel:
    model = LlamaOfPairs(LlamaConfig(**text_fields(HEADS)))
    model.config.model_type = "llama_of_pairs"
    return model


PASS: dict[str, Callable[[], PreTrainedModel]] = {"qwen3": _qwen3, "gemma": _gemma, "mistral": _mistral}
FAIL: dict[str, tuple[Callable[[], PreTrainedModel], str]] = {
    "sinks": (_gpt_oss, "tree attention does not know"),
    "windows": (_of_windows_that_are_not_told, "its attention gets the sliding windows"),
    "pairs": (_of_pairs, "its logits for a tree of tokens differ"),
    "a scaled head": (
        lambda: CohereForCausalLM(CohereConfig(**text_fields(HEADS))),
        "its logits are not the output of its LM head alone",
    ),
}


def _made(build: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    torch.manual_seed(0)
    model = build().eval()
    torch.nn.init.normal_(model.get_input_embeddings().weight)
    torch.nn.init.normal_(model.get_output_embeddings().weight)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model


@pytest.mark.parametrize("name", PASS)
def test_a_model_that_passes_is_decoded_and_not_tried_again(name: str) -> None:
    model, rng = _made(PASS[name]), random.Random(0)
    draft = make_draft(model)
    for trials in (1, 0):
        ids = torch.tensor([[rng.randrange(3, 150) for _ in range(30)]])
        with patch.object(vispec.probe, "_why_not", wraps=vispec.probe._why_not) as spy:
            output = assert_same_text(model, draft, {"input_ids": ids}, TreeConfig(2, 4, 12), max_new_tokens=24)
        assert spy.call_count == trials
        assert output.speculation.num_cycles > 0


def test_generation_settings_do_not_enter_the_trial() -> None:
    """The padding token may be one of the trial's."""
    model = _made(_mistral)
    model.config.pad_token_id = None
    model.generation_config.update(pad_token_id=0, stop_strings=["end"], do_sample=True, num_return_sequences=2)
    vispec.probe.check_verification(Target(model))


@pytest.mark.parametrize("name", FAIL)
def test_a_model_that_fails_is_refused_each_time_and_left_as_it_was(name: str) -> None:
    build, words = FAIL[name]
    model = _made(build)
    draft = make_draft(model)
    plain = model.generate(IDS, do_sample=False, max_new_tokens=8)
    attention = model.config._attn_implementation
    for _ in range(2):
        with pytest.raises(NotImplementedError, match=words):
            vispec.generate(model, draft, IDS, max_new_tokens=8)
    assert model.config._attn_implementation == attention
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.equal(model.generate(IDS, do_sample=False, max_new_tokens=8), plain)


def test_a_tested_family_is_not_tried() -> None:
    model = make_target("llama")
    with patch.object(vispec.probe, "_why_not") as spy:
        vispec.generate(model, make_draft(model), IDS, max_new_tokens=8)
    spy.assert_not_called()


@pytest.mark.parametrize("name", REFUSED)
def test_other_layers_are_refused_by_name(name: str) -> None:
    build, reason = REFUSED[name]
    model = build().eval()
    llama = make_target("llama")
    with refused(model, NotImplementedError, "model: ", type(model).__name__, "is not supported", reason):
        vispec.generate(model, make_draft(llama), IDS)
