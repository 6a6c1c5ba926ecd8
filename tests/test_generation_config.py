"""Every argument of transformers' GenerationConfig: supported, and acts as it does there, or refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GenerationConfig
from transformers.generation.configuration_utils import CompileConfig

import vispec
from models import Pair, make_pair
from refusal import refused

IDS = torch.tensor([[5, 9, 14, 20, 9, 14]])
ENDS = list(range(3, 90))

# greedy decoding with these writes the model's own text
GREEDY: dict[str, dict[str, Any]] = {
    "max_length": {"max_length": 20},
    "max_new_tokens": {"max_new_tokens": 7},
    "min_length": {"min_length": 20, "eos_token_id": ENDS},
    "min_new_tokens": {"min_new_tokens": 9, "eos_token_id": ENDS},
    "max_time": {"max_time": 1e-9},
    "do_sample": {"do_sample": False},
    "num_beams": {"num_beams": 1},
    "use_cache": {"use_cache": True},
    "cache_implementation": {"cache_implementation": "dynamic"},
    "repetition_penalty": {"repetition_penalty": 1.3},
    "encoder_repetition_penalty": {"encoder_repetition_penalty": 1.3},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 2},
    "encoder_no_repeat_ngram_size": {"encoder_no_repeat_ngram_size": 1},
    "bad_words_ids": {"bad_words_ids": [[7], [8, 9]]},
    "renormalize_logits": {"renormalize_logits": True},
    "forced_bos_token_id": {"forced_bos_token_id": 7},
    "forced_eos_token_id": {"forced_eos_token_id": 7},
    "remove_invalid_values": {"remove_invalid_values": True},
    "exponential_decay_length_penalty": {"exponential_decay_length_penalty": (2, 1.5), "eos_token_id": 2},
    "suppress_tokens": {"suppress_tokens": ENDS},
    "begin_suppress_tokens": {"begin_suppress_tokens": ENDS},
    "sequence_bias": {"sequence_bias": [[[token], -3.0] for token in ENDS]},
    "watermarking_config": {"watermarking_config": {"bias": 2.5}},
    "output_scores": {"output_scores": True},
    "output_logits": {"output_logits": True},
    "output_hidden_states": {"output_hidden_states": True},
    "return_dict_in_generate": {"return_dict_in_generate": True},
    "pad_token_id": {"pad_token_id": 3},
    "bos_token_id": {"bos_token_id": 3},
    "eos_token_id": {"eos_token_id": ENDS},
    "guidance_scale": {"guidance_scale": 1.0},
    "token_healing": {"token_healing": False},
    "penalty_alpha": {"penalty_alpha": 0.0},
    "disable_compile": {"disable_compile": True},
}
# ... and so it does with these, which act on beams, assistants, other caches and the like alone
IDLE: dict[str, Any] = {
    "early_stopping": True,
    "length_penalty": 2.0,
    "decoder_start_token_id": 3,
    "is_assistant": False,
    "num_assistant_tokens": 3,
    "num_assistant_tokens_schedule": "constant",
    "assistant_confidence_threshold": 0.3,
    "max_matching_ngram_size": 2,
    "assistant_lookbehind": 5,
    "target_lookbehind": 5,
    "assistant_ensemble_weight": 0.5,
    "low_memory": False,
    "diversity_penalty": 0.0,
    "num_beam_groups": 1,
    "compile_config": CompileConfig(),
    "cache_config": {"backend": "quanto"},
    "max_cache_len": 64,
    "speculation_type": "mtp",
    "continuous_batching_config": {},
}
# drawn with these, the text is that of plain decoding with the same draws
SAMPLED: dict[str, Any] = {
    "temperature": 0.6,
    "top_k": 4,
    "top_p": 0.6,
    "min_p": 0.2,
    "top_h": 0.4,
    "typical_p": 0.5,
    "epsilon_cutoff": 0.05,
    "eta_cutoff": 0.05,
    "num_return_sequences": 3,
}
REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "num_beams": (2, NotImplementedError, "num_beams=2 is not supported: "),
    "use_cache": (False, NotImplementedError, "use_cache=False is not supported: "),
    "cache_implementation": ("static", NotImplementedError, "cache_implementation='static' is not supported: "),
    "guidance_scale": (1.5, NotImplementedError, "guidance_scale=1.5 is not supported: "),
    "token_healing": (True, NotImplementedError, "token_healing=True is not supported: "),
    "penalty_alpha": (0.6, NotImplementedError, "penalty_alpha=0.6 is not supported: "),
    "output_attentions": (True, NotImplementedError, "output_attentions=True is not supported: "),
    "prompt_lookup_num_tokens": (3, NotImplementedError, "prompt_lookup_num_tokens=3 is not supported: "),
    "prefill_chunk_size": (2, NotImplementedError, "prefill_chunk_size=2 is not supported: "),
    "dola_layers": ("low", NotImplementedError, "dola_layers='low' is not supported: "),
    "force_words_ids": ([[3]], NotImplementedError, "force_words_ids=list is not supported: "),
    "constraints": ([object()], NotImplementedError, "constraints=list is not supported: "),
    "assistant_early_exit": (1, NotImplementedError, "assistant_early_exit=1 is not supported: "),
    "stop_strings": (["word"], ValueError, "stop_strings: expected the model's tokenizer, too"),  # test_outputs.py
    "use_mtp": (True, NotImplementedError, "use_mtp=True is not supported: "),
}
ARGUMENTS = [name for name in vars(GenerationConfig()) if not name.startswith("_") and name != "transformers_version"]


def known(*tables: dict[str, Any]) -> list[str]:
    """Names that this version of transformers has."""
    return [name for table in tables for name in table if name in ARGUMENTS]


@pytest.fixture(scope="module")
def llama() -> Pair:
    return make_pair("llama")


def test_there_is_no_third_kind() -> None:
    assert set(ARGUMENTS) <= {*GREEDY, *IDLE, *SAMPLED, *REFUSED}


def test_the_cases_show_something(llama: Pair) -> None:
    plain = draw(llama, {"temperature": 2.0, "top_k": 0}, drafts=False)
    for name in known(SAMPLED):
        drawn = draw(llama, {"temperature": 2.0, "top_k": 0, name: SAMPLED[name]}, drafts=False)
        assert not torch.equal(drawn, plain), name


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", known(GREEDY, IDLE))
def test_supported_greedy(llama: Pair, name: str) -> None:
    model, draft = llama
    options = GREEDY[name] if name in GREEDY else {name: IDLE[name]}
    options = options if "max_length" in options else {"max_new_tokens": 16, **options}
    plain, ours = model.generate(IDS, **options), vispec.generate(model, draft, IDS, **options)
    if name == "return_dict_in_generate":
        plain, ours = plain.sequences, ours.sequences
    assert torch.equal(ours, plain)
    config = GenerationConfig(**options)
    in_config = vispec.generate(model, draft, IDS, generation_config=config)
    assert torch.equal(in_config if isinstance(in_config, torch.Tensor) else in_config.sequences, plain)


def draw(pair: Pair, options: dict[str, Any], drafts: bool) -> torch.Tensor:
    model, draft = pair
    generator = torch.Generator().manual_seed(2)
    options = {"do_sample": True, "max_new_tokens": 16, "generator": generator, **options}
    return vispec.generate(model, draft if drafts else None, IDS, **options)


@pytest.mark.parametrize("name", known(SAMPLED))
def test_supported_sampling(llama: Pair, name: str) -> None:
    options = {name: SAMPLED[name]}
    assert torch.equal(draw(llama, options, drafts=True), draw(llama, options, drafts=False))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", known(REFUSED))
def test_refused(llama: Pair, name: str) -> None:
    value, error, words = REFUSED[name]
    with refused(llama[0], error, words):
        vispec.generate(*llama, IDS, **{name: value})
