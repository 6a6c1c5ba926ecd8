"""Options of `generate` that are not supported: refused by name, whichever way they come, before the model runs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel
from transformers.generation.configuration_utils import GenerationMode

import models
import vispec
from refusal import refused
from vispec.arguments import OWN, SUPPORTED_VALUES

IDS = torch.tensor([[5, 9, 14, 20]])
Pair = tuple[PreTrainedModel, vispec.Draft]


# for each option of the table, values that must be refused
VALUES: dict[str, tuple[Any, ...]] = {
    "assistant_early_exit": (1,),
    "assistant_model": (models.make_target("llama"),),
    "assistant_tokenizer": (object(),),
    "cache_implementation": (
        "static",
        "offloaded",
        "offloaded_static",
        "quantized",
        "hybrid",
        "paged",
        "no such cache",
    ),
    "constraints": (["a constraint"],),
    "dola_layers": ("low", [0, 1]),
    "force_words_ids": ([[3]],),
    "guidance_scale": (1.5, 0, torch.tensor([1.0, 2.0])),
    "inputs_embeds": (torch.zeros(1, 4, 64), torch.zeros(1, 4, 64).numpy()),
    "negative_prompt_ids": (IDS,),
    "num_beams": (2, 5, torch.tensor([1, 2])),
    "output_attentions": (True,),
    "penalty_alpha": (0.6,),
    "prefill_chunk_size": (2, 0),
    "prompt_lookup_num_tokens": (3, 0),
    "synced_gpus": (True,),
    "token_healing": (True,),
    "use_cache": (False,),
    "use_mtp": (True,),
}
# arguments of the call itself or of the model's forward, which a GenerationConfig does not hold
CALL_ONLY = {
    "assistant_model",
    "assistant_tokenizer",
    "inputs_embeds",
    "negative_prompt_ids",
    "synced_gpus",
}
IS_KNOWN = [name for name in VALUES if name in CALL_ONLY or hasattr(GenerationConfig(), name)]  # to this transformers
CASES = [(name, value) for name, values in VALUES.items() for value in values]
IN_CONFIG = [(name, value) for name, value in CASES if name not in CALL_ONLY and not isinstance(value, Tensor)]


def refused_by_name(model: PreTrainedModel, name: str) -> Callable[[], AbstractContextManager[None]]:
    """The error names the option, says why, and what to do instead."""
    reason, way_out = SUPPORTED_VALUES[name][1].split("; ")
    return partial(refused, model, NotImplementedError, f"{name}=", f" is not supported: {reason}; {way_out}")


def name_of(value: Any) -> str:
    return repr(value)[:20] if isinstance(value, (str, int, float)) else type(value).__name__


@pytest.fixture(scope="module")
def llama() -> Pair:
    model = models.make_target("llama")
    return model, models.make_draft(model)


def test_every_option_is_tried() -> None:
    assert VALUES.keys() == SUPPORTED_VALUES.keys()


@pytest.mark.parametrize(("name", "value"), CASES, ids=name_of)
def test_as_a_keyword(llama: Pair, name: str, value: Any) -> None:
    model, draft = llama
    refusal = refused_by_name(model, name)
    with refusal():
        vispec.generate(model, draft, IDS, **{name: value})
    with refusal():
        vispec.generate(model, draft, {"input_ids": IDS, name: value})
    with vispec.accelerate(model, draft), refusal():
        model.generate(IDS, **{name: value})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "value"), IN_CONFIG, ids=name_of)
def test_in_a_generation_config(llama: Pair, name: str, value: Any) -> None:
    model, draft = llama
    config = GenerationConfig(max_new_tokens=5)
    setattr(config, name, value)
    refusal = refused_by_name(model, name)
    with refusal():
        vispec.generate(model, draft, IDS, generation_config=config)
    own = model.generation_config
    model.generation_config = config
    try:
        with refusal():
            vispec.generate(model, draft, IDS)
        with refusal():
            vispec.generate(model, draft, IDS, generation_config=GenerationConfig())
    finally:
        model.generation_config = own


@pytest.mark.parametrize("name", IS_KNOWN)
def test_values_that_say_off(llama: Pair, name: str) -> None:
    """All but None for the one that plain generate compares with a number."""
    model, draft = llama
    plain = model.generate(IDS, max_new_tokens=5)
    for value in set(SUPPORTED_VALUES[name][0]) - ({None} if name == "num_beams" else set()):
        assert torch.equal(vispec.generate(model, draft, IDS, max_new_tokens=5, **{name: value}), plain)


@pytest.mark.filterwarnings("ignore")
def test_call_wins_over_the_config_of_the_model(llama: Pair) -> None:
    """As in transformers."""
    model = copy.deepcopy(llama[0])
    draft = models.make_draft(model)
    model.generation_config.use_cache = False
    with refused(model, NotImplementedError, "use_cache=False is not supported: "):
        vispec.generate(model, draft, IDS)
    options = {"use_cache": True, "max_new_tokens": 7}
    plain = model.generate(IDS, **options)
    assert torch.equal(vispec.generate(model, draft, IDS, **options), plain)
    config = GenerationConfig(**options)
    assert torch.equal(vispec.generate(model, draft, IDS, generation_config=config), plain)


class AnotherMode(GenerationConfig):
    """What a later transformers may bring."""

    def get_generation_mode(self, assistant_model: Any = None) -> GenerationMode:
        return GenerationMode.DOLA_GENERATION


def test_other_ways_to_decode(llama: Pair) -> None:
    words = ("expected greedy search or sampling, got GenerationMode.DOLA_GENERATION", OWN)
    with refused(llama[0], NotImplementedError, *words):
        vispec.generate(*llama, IDS, generation_config=AnotherMode(max_new_tokens=5))


UNKNOWN: dict[str, Any] = {
    "no_such_option": 1,
    "max_new_token": 5,
    "use_model_defaults": True,
    "head_mask": torch.ones(2),
    "cache_position": torch.arange(4),
    "token_type_ids": torch.zeros_like(IDS),
    "pixel_values": torch.zeros(1, 3, 8, 8),
    "encoder_outputs": (torch.zeros(1),),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_arguments(llama: Pair, name: str) -> None:
    model, draft = llama
    with refused(model, ValueError, name):
        vispec.generate(model, draft, IDS, max_new_tokens=5, **{name: UNKNOWN[name]})
    with refused(model, ValueError, name):
        vispec.generate(model, draft, {"input_ids": IDS, name: UNKNOWN[name]}, max_new_tokens=5)
    with vispec.accelerate(model, draft), refused(model, ValueError, name):
        model.generate(IDS, max_new_tokens=5, **{name: UNKNOWN[name]})


@pytest.mark.parametrize("custom", ["some/repository", lambda *args, **kwargs: None], ids=["name", "callable"])
def test_custom_generate(llama: Pair, custom: Any) -> None:
    with refused(llama[0], NotImplementedError, "custom_generate: "):
        vispec.generate(*llama, IDS, custom_generate=custom)


@pytest.mark.parametrize("config", [{"max_new_tokens": 5}, "greedy", 3], ids=repr)
def test_generation_config_of_another_type(llama: Pair, config: Any) -> None:
    with refused(llama[0], TypeError, "generation_config: expected a GenerationConfig, got "):
        vispec.generate(*llama, IDS, generation_config=config)


@pytest.mark.parametrize(
    "budget", [{"max_new_tokens": 0}, {"max_new_tokens": -3}, {"max_length": 4}, {"max_length": 1}]
)
def test_no_room_for_a_token(llama: Pair, budget: dict[str, int]) -> None:
    with refused(llama[0], ValueError, next(iter(budget))):
        vispec.generate(*llama, IDS, **budget)
