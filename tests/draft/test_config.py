"""The draft's config: what is read, what is written, and what is refused by name."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from golden_data import DRAFTS, GOLDEN
from vispec import DraftConfig

FIELDS: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "vocab_size": 160}
NUM_QUERIES = {"llava_like": 2, "qwen_like": 3, "nobias_q1": 1}


def read(**changes: Any) -> DraftConfig:
    return DraftConfig.from_dict({**FIELDS, **changes}, num_queries=2)


@pytest.mark.parametrize("draft", DRAFTS)
def test_released_config(draft: str) -> None:
    fields = json.loads((GOLDEN / "drafters" / draft / "config.json").read_text())
    config = DraftConfig.from_dict(fields, num_queries=NUM_QUERIES[draft])
    for name in FIELDS:
        assert getattr(config, name) == fields[name]
    assert config.num_key_value_heads == fields["num_key_value_heads"]
    assert config.num_queries == NUM_QUERIES[draft]
    assert config.num_slots == NUM_QUERIES[draft] - 1
    assert config.rope_theta == {"llava_like": 10000.0, "qwen_like": 1e6, "nobias_q1": 10000.0}[draft]
    assert config.rms_norm_eps == (1e-6 if draft == "qwen_like" else 1e-5)
    assert config.bias is (draft != "nobias_q1")
    assert config.qkv_bias is (draft == "qwen_like")
    assert DraftConfig.from_dict(config.to_dict(), config.num_queries) == config


def test_defaults() -> None:
    config = read()
    assert config == DraftConfig(64, 96, 4, 4, 160, num_queries=2)
    assert config.rope_theta == 10000.0
    assert config.bias is True
    assert config.qkv_bias is False
    assert config.head_dim == 16


def test_round_trip_through_json() -> None:
    config = DraftConfig(96, 40, 6, 3, 50, num_queries=4, rms_norm_eps=3e-7, rope_theta=5e5, bias=False, qkv_bias=True)
    written = json.loads(json.dumps(config.to_dict()))
    assert DraftConfig.from_dict(written, num_queries=4) == config


def test_unused_fields_are_passed_over() -> None:
    assert read(architectures=["X"], max_position_embeddings=3, use_cache=True, sliding_window=None) == read()


SIZES = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "vocab_size")
WRONG_SIZES = (0, -4, True, 64.0, "64", None, [64], math.nan, 10**30)


@pytest.mark.parametrize("value", WRONG_SIZES, ids=repr)
@pytest.mark.parametrize("name", SIZES)
def test_wrong_size(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: expected a positive int"):
        read(**{name: value})


@pytest.mark.parametrize("value", [-1, True, 2.0, "2", None], ids=repr)
def test_wrong_number_of_queries(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^num_queries: expected a count from 0"):
        DraftConfig(64, 96, 4, 4, 160, num_queries=value)


NO_NUMBERS = (0, -1.0, True, "1e-5", None, math.nan, math.inf, -math.inf, [1.0], 10**400)


@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda value: str(value)[:9])
@pytest.mark.parametrize("name", ["rms_norm_eps", "rope_theta"])
def test_wrong_number(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: expected a positive number"):
        read(**{name: value})


@pytest.mark.parametrize("value", [1, 0, "true", None, 1.0, []], ids=repr)
@pytest.mark.parametrize("name", ["bias", "qkv_bias"])
def test_wrong_flag(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: expected true or false"):
        read(**{name: value})


@pytest.mark.parametrize("name", ["hidden_size", "intermediate_size", "num_attention_heads", "vocab_size"])
def test_missing_field(name: str) -> None:
    fields = {key: value for key, value in FIELDS.items() if key != name}
    with pytest.raises(ValueError, match=rf"^{name}: missing from the config"):
        DraftConfig.from_dict(fields, num_queries=2)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("hidden_size", {"hidden_size": 66}),  # not a multiple of the heads
        ("hidden_size", {"hidden_size": 60}),  # head size 15 has no halves to rotate
        ("num_key_value_heads", {"num_key_value_heads": 3}),
        ("num_key_value_heads", {"num_key_value_heads": 8}),
        ("head_dim", {"head_dim": 32}),
        ("head_dim", {"head_dim": "16"}),
        ("num_hidden_layers", {"num_hidden_layers": 2}),
        ("num_hidden_layers", {"num_hidden_layers": True}),
        ("hidden_act", {"hidden_act": "gelu"}),
        ("hidden_act", {"hidden_act": None}),
        ("rope_scaling", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
        ("rope_parameters", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
        ("num_q", {"num_q": 3}),
        ("num_q", {"num_q": "2"}),
    ],
    ids=str,
)
def test_what_a_draft_cannot_be(name: str, changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: ") as error:
        read(**changes)
    assert str(next(iter(changes.values()))) in str(error.value) or name in ("hidden_size", "num_q")


@pytest.mark.parametrize(
    "changes", [{"head_dim": 16}, {"head_dim": None}, {"num_q": 2}, {"rope_scaling": None}, {"num_hidden_layers": 1}]
)
def test_what_says_the_same_is_fine(changes: dict[str, Any]) -> None:
    assert read(**changes) == read()


def test_config_cannot_change() -> None:
    with pytest.raises(AttributeError):
        read().hidden_size = 32
