"""The pair's target: a small, deep and thin LLaVA in transformers' own classes, with its first weights."""

from __future__ import annotations

import math

import torch
from torch import nn
from transformers import (
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from vispec.pair.scenes import IMAGE_SIZE
from vispec.pair.tokenizer import PATCH_SIZE

HIDDEN_SIZE = 192
NUM_LAYERS = 24
HEAD_DIM = 64
NEW_LAYERS = 3  # behind each layer when the model grows
OUTPUT_PROJECTIONS = ("self_attn.o_proj.weight", "mlp.down_proj.weight")


def make_vision_config() -> CLIPVisionConfig:
    """144 image tokens a picture."""
    return CLIPVisionConfig(
        hidden_size=HIDDEN_SIZE,
        intermediate_size=4 * HIDDEN_SIZE,
        num_hidden_layers=6,
        num_attention_heads=HIDDEN_SIZE // HEAD_DIM,
        hidden_act="gelu_pytorch_tanh",
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
    )


def make_generation_config(tokenizer: PreTrainedTokenizerFast) -> GenerationConfig:
    """Greedy, with the tokenizer's special tokens."""
    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )


def make_config(tokenizer: PreTrainedTokenizerFast, num_layers: int = NUM_LAYERS) -> LlavaConfig:
    """One key-value head for three query heads."""
    text = LlamaConfig(
        hidden_size=HIDDEN_SIZE,
        intermediate_size=512,
        num_hidden_layers=num_layers,
        num_attention_heads=HIDDEN_SIZE // HEAD_DIM,
        num_key_value_heads=1,
        head_dim=HEAD_DIM,
        vocab_size=len(tokenizer),
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlavaConfig(
        vision_config=make_vision_config(),
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(IMAGE_SIZE // PATCH_SIZE) ** 2,
        vision_feature_layer=-1,
        tie_word_embeddings=True,
    )


def make_target(tokenizer: PreTrainedTokenizerFast, num_layers: int) -> LlavaForConditionalGeneration:
    """New weights from torch's default generator.

    Embeddings have about unit length, so that an aligned tower can write words into image tokens; projections into the
    residual stream start smaller by the root of their number.
    """
    model = LlavaForConditionalGeneration(make_config(tokenizer, num_layers))
    model.generation_config = make_generation_config(tokenizer)
    text = model.model.language_model
    with torch.no_grad():
        text.embed_tokens.weight.normal_(std=HIDDEN_SIZE**-0.5)
        for name, weight in text.layers.named_parameters():
            if name.endswith(OUTPUT_PROJECTIONS):
                weight.div_(math.sqrt(2 * num_layers))
    return model


def grow(model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    """A model with `NEW_LAYERS` new layers behind each of `model`'s; they start as the identity, so both agree."""
    num_layers = model.config.text_config.num_hidden_layers
    grown = make_target(tokenizer, num_layers * (1 + NEW_LAYERS))
    layers: nn.ModuleList = grown.model.language_model.layers
    weights = {k: v for k, v in model.state_dict().items() if ".language_model.layers." not in k}
    grown.load_state_dict(weights, strict=False)
    with torch.no_grad():
        for index, layer in enumerate(layers):
            source, place = divmod(index, 1 + NEW_LAYERS)
            if place == 0:
                layer.load_state_dict(model.model.language_model.layers[source].state_dict())
            else:
                for name, weight in layer.named_parameters():
                    if name.endswith(OUTPUT_PROJECTIONS):
                        weight.zero_()
    return grown
