"""The pair's target before training: its shape, its first weights, and how it grows."""

from __future__ import annotations

import pytest
import torch

from vispec.pair.target import HIDDEN_SIZE, NEW_LAYERS, NUM_LAYERS, grow, make_target
from vispec.pair.tokenizer import load_tokenizer, make_processor
from vispec.target import Target


@pytest.fixture(scope="module")
def tokenizer():
    """The one that ships."""
    return load_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer):
    """Two layers."""
    torch.manual_seed(0)
    return make_target(tokenizer, 2).eval()


@pytest.fixture(scope="module")
def inputs():
    """A noisy image and a question."""
    pixels = torch.rand(3, 96, 96, generator=torch.Generator().manual_seed(0)).mul(255).byte()
    return make_processor()(images=pixels, text="<s><user><image>What is there?<assistant>", return_tensors="pt")


def test_shape(tokenizer, model):
    target = Target(model)
    assert target.placeholders["image"] == tokenizer.convert_tokens_to_ids("<image>")
    assert target.vocab_size == len(tokenizer)
    assert target.hidden_size == HIDDEN_SIZE
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert NUM_LAYERS % (1 + NEW_LAYERS) == 0


def test_embeddings_have_unit_length(model):
    lengths = model.get_input_embeddings().weight.detach().norm(dim=-1)
    assert 0.95 < lengths.mean() < 1.05
    assert lengths.min() > 0.7


def test_growing_changes_no_logit(tokenizer, model, inputs):
    torch.manual_seed(5)
    grown = grow(model, tokenizer).eval()
    assert grown.config.text_config.num_hidden_layers == 2 * (1 + NEW_LAYERS)
    with torch.no_grad():
        expected, logits = (m(**inputs).logits for m in (model, grown))
    assert torch.equal(expected, logits)
    layers = grown.model.language_model.layers
    assert not torch.equal(layers[1].self_attn.q_proj.weight, layers[2].self_attn.q_proj.weight)  # new, and different


def test_new_layers_learn(tokenizer, model, inputs):
    grown = grow(model, tokenizer)
    grown(**inputs).logits.square().mean().backward()
    for layer in grown.model.language_model.layers:
        assert layer.self_attn.o_proj.weight.grad.abs().max() > 0
        assert layer.mlp.down_proj.weight.grad.abs().max() > 0
