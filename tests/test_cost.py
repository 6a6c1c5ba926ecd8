"""The cost model: bytes and flops of real modules, and predictions that follow from its numbers."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from torch import nn
from transformers import PreTrainedModel

from models import make_draft, make_prompt, make_target
from vispec import TreeConfig
from vispec.calibration import calibrate
from vispec.cost import CostModel, Rates, Work, draft_work, plain_work, target_layer, target_work
from vispec.draft.model import DraftModel

TREE = TreeConfig(2, 3, 8)


def linear_weights(module: nn.Module) -> int:
    return sum(part.weight.numel() for part in module.modules() if isinstance(part, nn.Linear))


@pytest.mark.parametrize("family", ["llama", "llava", "qwen2", "qwen2_5_vl", "gemma3"])
def test_weights_of_the_target(family: str) -> None:
    """One row without a past reads each matrix of decoder and head once, and its own keys and values."""
    model: PreTrainedModel = make_target(family)
    config = model.config.get_text_config()
    work = target_work(config, rows=1, context=0, itemsize=4)
    weights = linear_weights(model.get_decoder()) + model.get_output_embeddings().weight.numel()
    kv = config.num_hidden_layers * target_layer(config).kv_size
    assert work.bytes == 4 * (weights + kv + config.vocab_size)
    assert work.layers == config.num_hidden_layers
    assert work.flops == 2 * weights + 4 * config.num_hidden_layers * target_layer(config).q_size


def test_context_and_rows() -> None:
    config = make_target("llama").config
    layer, layers = target_layer(config), config.num_hidden_layers
    short, long = (target_work(config, 8, context, 2) for context in (100, 300))
    assert long.bytes - short.bytes == 2 * layers * 200 * layer.kv_size
    assert long.flops - short.flops == layers * 4 * 8 * 200 * layer.q_size
    assert plain_work(config, 100, 2) == replace(
        target_work(config, 1, 100, 2), copied=2 * layers * 100 * layer.kv_size
    )


def test_weights_of_the_draft() -> None:
    """Every pass reads the layer and its inputs' one matrix, and all but the update the head."""
    target = make_target("llava")
    config = make_draft(target).config
    model = DraftModel(config)
    layer = linear_weights(model) - linear_weights(model.imadpt) - linear_weights(model.img_fc)
    head = config.vocab_size * config.hidden_size
    work = draft_work(config, TREE, context=0, itemsize=1)
    kv_size = 2 * config.num_key_value_heads * config.head_dim
    rows = (TREE.max_accepted + 1) + 3 + 6  # of the update, and of both passes with those before
    logits = (1 + 2 * TREE.top_k) * config.vocab_size
    assert work.bytes == 3 * layer + 3 * head + kv_size * rows + logits
    assert work.layers == 3
    short = replace(config, draft_vocab_size=10)
    assert work.bytes - draft_work(short, TREE, 0, 1).bytes == (config.vocab_size - 10) * (3 * config.hidden_size + 7)


def test_experts_are_refused() -> None:
    with pytest.raises(NotImplementedError, match=r"costs of a model with experts \((moe_num_experts|num_\w+)\)"):
        target_layer(make_target("qwen3_vl_moe").config.get_text_config())


def test_rates() -> None:
    work = Work(bytes=200.0, flops=30.0, layers=1)
    assert Rates(bandwidth=100.0, copying=1.0, flops=10.0, overlaps=True).seconds(work) == 3.0
    assert Rates(bandwidth=100.0, copying=1.0, flops=10.0, overlaps=False).seconds(work) == 5.0
    copies = replace(work, copied=20.0)
    assert Rates(bandwidth=100.0, copying=10.0, flops=10.0, overlaps=True).seconds(copies) == 5.0
    assert (copies + copies).copied == (copies * 2).copied == 40.0


def test_predictions_follow_from_the_numbers() -> None:
    model = make_target("llama")
    config = make_draft(model).config
    rates = Rates(bandwidth=1e9, copying=1e8, flops=1e15, overlaps=True)
    costs = CostModel(model.config, config, 4, rates, plain_layer=2.0, verify_layer=3.0, draft_layer=5.0, rest=7.0)
    layers = model.config.num_hidden_layers
    plain, cycle = costs.plain(50), costs.cycle(TREE, 50, 20)
    work = plain_work(model.config, 50, 4)
    assert plain == pytest.approx(work.bytes / 1e9 + work.copied / 1e8 + 2.0 * layers)
    assert cycle.verify == pytest.approx(target_work(model.config, 8, 50, 4).bytes / 1e9 + 3.0 * layers)
    assert cycle.draft == pytest.approx(draft_work(config, TREE, 20, 4).bytes / 1e9 + 5.0 * 3)
    assert cycle.cycle == cycle.draft + cycle.verify + 7.0
    assert costs.roofline(TREE, 50, 20) == pytest.approx(cycle.cycle - 3.0 * layers - 15.0 - 7.0)
    assert costs.speed_up(TREE, 1.5, 50, 20) == pytest.approx(2.5 * plain / cycle.cycle)


def test_calibration_reproduces_what_it_measured() -> None:
    """On the machine of the test; no number is expected, but that all are there and a larger tree costs more."""
    model = make_target("llava")
    inputs = make_prompt(model, "one image", random.Random(0))
    costs = calibrate(model, make_draft(model), inputs, draft_context=5)
    assert costs.rates.bandwidth > 0
    assert costs.rates.copying > 0
    assert costs.rates.flops > 0
    assert costs.plain(50) > 0
    small, large = costs.cycle(TREE, 50, 10), costs.cycle(TreeConfig(4, 8, 60), 50, 10)
    assert large.draft >= small.draft > 0
    assert large.verify >= small.verify > 0
