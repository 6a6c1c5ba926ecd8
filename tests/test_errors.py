"""Wrong models, drafts and trees: a clear error, before the model runs and with nothing switched."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    Lfm2Config,
    LlamaForCausalLM,
    LlamaModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

import models
import vispec
from models import Pair, make_pair
from refusal import refused
from vispec import TreeConfig

IDS = torch.tensor([[5, 9, 14, 20]])


@pytest.fixture(scope="module")
def llama() -> Pair:
    return make_pair("llama")


@pytest.fixture(scope="module")
def llava() -> Pair:
    return make_pair("llava")


def small(config: type, **fields: Any) -> Any:
    return config(hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2, **fields)


UNSUPPORTED: dict[str, Callable[[], PreTrainedModel]] = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=50)),
    "t5": lambda: T5ForConditionalGeneration(T5Config(d_model=32, d_kv=16, d_ff=48, num_layers=1, vocab_size=50)),
    "llama without a head": lambda: LlamaModel(models.make_target("llama").config),
    "llava with another text model": lambda: LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=models.make_target("llava").config.vision_config,
            text_config=small(Lfm2Config, num_key_value_heads=1, vocab_size=200, layer_types=["conv"]),
        )
    ),
}


@pytest.mark.parametrize("family", UNSUPPORTED)
def test_unsupported_family(llama: Pair, family: str) -> None:
    model = UNSUPPORTED[family]().eval()
    words = ("model: ", type(model).__name__, "is not supported", "llava_next, llava_next_video", "own generate")
    with refused(model, NotImplementedError, *words):
        vispec.generate(model, llama[1], IDS)
    with refused(model, NotImplementedError, *words):
        vispec.accelerate(model, llama[1])
    with refused(model, NotImplementedError, *words):
        vispec.load_draft("anywhere", model)
    with refused(model, NotImplementedError, *words):
        vispec.Draft(llama[1].model, model)


@pytest.mark.parametrize("model", [None, "llama", torch.nn.Linear(2, 2), LlamaModel], ids=repr)
def test_no_model(llama: Pair, model: Any) -> None:
    with pytest.raises(TypeError, match=r"^model: expected a transformers PreTrainedModel, got "):
        vispec.generate(model, llama[1], IDS)


def test_training_mode() -> None:
    model, draft = make_pair("llama")
    model.train()
    with refused(model, ValueError, "model: expected eval mode, got training mode"):
        vispec.generate(model, draft, IDS)
    with vispec.accelerate(model, draft), refused(model, ValueError, "training mode"):
        model.generate(IDS)
    assert model.training
    model.eval()
    model.model.layers[1].self_attn.train()  # its dropout alone would change the text
    with refused(model, ValueError, "training mode in model.layers.1.self_attn"):
        vispec.generate(model, draft, IDS)


def test_device_without_operators() -> None:
    model, draft = make_pair("llama")
    model.to("meta")
    with refused(model, NotImplementedError, "model: expected it on cpu", "got meta"):
        vispec.generate(model, draft, IDS)


def test_dtype_without_operators() -> None:
    model = models.make_target("llama").double()
    with refused(model, NotImplementedError, "model: expected float32, float16 or bfloat16, got torch.float64"):
        vispec.load_draft("anywhere", model)
    model, draft = make_pair("llama")
    model.double()
    with refused(model, NotImplementedError, "model: expected float32, float16 or bfloat16, got torch.float64"):
        vispec.generate(model, draft, IDS)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "dynamic", "factor": 2.0},
        {"rope_type": "longrope", "factor": 4.0, "short_factor": [1.0] * 8, "long_factor": [4.0] * 8},
    ],
    ids=lambda rope: rope["rope_type"],
)
def test_rotary_positions_that_change_with_the_length(llama: Pair, rope: dict[str, Any]) -> None:
    config = copy.deepcopy(llama[0].config)
    config.rope_parameters = {**rope, "rope_theta": 10000.0, "original_max_position_embeddings": 16}
    model = LlamaForCausalLM(config).eval()
    with refused(model, NotImplementedError, "model: rotary positions of type", rope["rope_type"], "own generate"):
        vispec.generate(model, llama[1], IDS)


def test_autocast(llama: Pair) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with refused(llama[0], NotImplementedError, "torch.autocast is not supported: ", "load it in the dtype"):
            vispec.generate(*llama, IDS)
        with torch.autocast("cpu", enabled=False):
            assert vispec.generate(*llama, IDS, max_new_tokens=3).shape == (1, 7)


@pytest.mark.parametrize("draft", [False, "draft", 1, torch.nn.Linear(2, 2)], ids=repr)
def test_no_draft(llama: Pair, draft: Any) -> None:
    with refused(llama[0], TypeError, "draft: expected a draft from vispec.load_draft, got ", type(draft).__name__):
        vispec.generate(llama[0], draft, IDS)


def test_draft_of_another_target(llama: Pair, llava: Pair) -> None:
    model, _ = llama
    for other in (make_pair("llama")[1], llava[1], make_pair("qwen2")[1]):
        with refused(model, ValueError, "draft: it was loaded for another model"):
            vispec.generate(model, other, IDS)
    with refused(model, ValueError, "hidden_size: the draft has 48", "64"):
        vispec.Draft(models.make_draft(models.make_target("llama", (3, 1))).model, model)


def test_draft_moved_or_cast_afterwards() -> None:
    model, draft = make_pair("llama")
    draft.model.half()
    with refused(model, ValueError, "draft: ", "float32", "float16", "load it again"):
        vispec.generate(model, draft, IDS)
    draft.model.float().to("meta")
    with refused(model, ValueError, "draft: ", "cpu", "meta", "load it again"):
        vispec.generate(model, draft, IDS)
    model, draft = make_pair("llama")
    model.bfloat16()
    for _ in range(2):  # with the target alone, then with both: what was made of the weights was not cast with them
        with refused(model, ValueError, "draft: ", "bfloat16", "float32", "load it again"):
            vispec.generate(model, draft, IDS)
        draft.model.bfloat16()


def test_draft_whose_target_is_gone(llama: Pair) -> None:
    draft = models.make_draft(models.make_target("llama"))
    with refused(llama[0], ValueError, "draft: it was loaded for another model"):
        vispec.generate(llama[0], draft, IDS)


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ((3, 8, 2000), ValueError, "num_nodes (root included) from 2 to 256, got 2000"),
        ((3, 8, 257), ValueError, "num_nodes (root included) from 2 to 256, got 257"),
        ((3, 8, 1), ValueError, "num_nodes (root included) from 2 to 256, got 1"),
        ((3, 8, -5), ValueError, "num_nodes"),
        ((-1, 8, 5), ValueError, "depth >= 0, got -1"),
        ((3, 0, 5), ValueError, "top_k >= 1, got 0"),
        ((33, 8, 30), ValueError, "depth * top_k <= 256, got 33 * 8"),
        ((0, 8, 10), ValueError, "give only 8 candidates"),
        ((1, 2, 8), ValueError, "give only 6 candidates"),
        ((3.0, 8, 30), TypeError, "expected an int for depth, got 3.0"),
        ((3, True, 30), TypeError, "expected an int for top_k, got True"),
        ((3, 8, "30"), TypeError, "expected an int for num_nodes, got '30'"),
        ((3, None, 30), TypeError, "expected an int for top_k, got None"),
    ],
    ids=str,
)
def test_tree_that_cannot_be(fields: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=r"^tree: ") as caught:
        TreeConfig(*fields)
    assert words in str(caught.value)


def test_tree_at_its_limits(llama: Pair) -> None:
    trees = ((3, 8, 201), (32, 8, 256), (256, 1, 256), (255, 1, 256), (0, 159, 160), (0, 1, 2), (5, 8, 2), (9, 1, 4))
    for tree in (TreeConfig(*fields) for fields in trees):
        output = vispec.generate(*llama, IDS, tree=tree, max_new_tokens=4)
        assert torch.equal(output, llama[0].generate(IDS, max_new_tokens=4))


@pytest.mark.parametrize("tree", [None, (3, 8, 30), {"depth": 3}, 30, TreeConfig, "Auto", "fast", ""], ids=repr)
def test_tree_of_another_type(llama: Pair, tree: Any) -> None:
    error = ValueError if isinstance(tree, str) else TypeError
    words = f'tree: expected a vispec.TreeConfig or "auto", got {tree!r}'
    with refused(llama[0], error, words):
        vispec.generate(*llama, IDS, tree=tree)
    with refused(llama[0], error, words):
        vispec.accelerate(*llama, tree=tree)


def test_tree_wider_than_the_vocabulary(llama: Pair) -> None:
    with refused(llama[0], ValueError, "tree: expected top_k <= vocabulary (160), got 161"):
        vispec.generate(*llama, IDS, tree=TreeConfig(0, 161, 20))
