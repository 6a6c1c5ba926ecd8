"""Calls of `generate` that any model takes, as options: what they return, what is said about them, what is refused."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import (
    EosTokenCriteria,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MaxLengthCriteria,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
)

ENDS = list(range(3, 60))
SHORT = {"max_new_tokens": 8}
DICT = {**SHORT, "return_dict_in_generate": True}
ALL = {**DICT, "output_scores": True, "output_logits": True, "output_hidden_states": True}


class Swings(LogitsProcessor):
    """Adds what hangs on the step."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores + 3 * torch.sin(torch.arange(scores.shape[1]) * input_ids.shape[1])


class EveryFifth(StoppingCriteria):
    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        return torch.full((len(input_ids),), input_ids.shape[1] % 5 == 0)


OUTPUTS: dict[str, dict[str, Any]] = {
    "a tensor": SHORT,
    "a dict": DICT,
    "a dict of everything": ALL,
    "everything, processed": {
        **ALL,
        "min_new_tokens": 8,
        "eos_token_id": ENDS,
        "no_repeat_ngram_size": 2,
        "repetition_penalty": 1.2,
        "bad_words_ids": [[7], [8, 9]],
        "remove_invalid_values": True,
    },
    "one token": {**ALL, "max_new_tokens": 1},
}
OPTIONS: dict[str, dict[str, Any]] = {
    "no length": {},
    "max_length": {"max_length": 70},
    "an end": {**DICT, "eos_token_id": 5},
    "ends": {**SHORT, "eos_token_id": ENDS},
    "ends in a tensor": {**SHORT, "eos_token_id": torch.tensor(ENDS)},
    "an end in a tensor": {**SHORT, "eos_token_id": torch.tensor(5)},
    "ends and their padding": {**DICT, "eos_token_id": ENDS, "pad_token_id": 1},
    "ends without padding": {**SHORT, "eos_token_id": ENDS, "pad_token_id": None},
    "early ends forbidden": {**SHORT, "eos_token_id": ENDS, "min_new_tokens": 5},
    "min_length": {**SHORT, "eos_token_id": ENDS, "min_length": 60},
    "several processors": {**SHORT, "suppress_tokens": ENDS[::2], "begin_suppress_tokens": ENDS, "top_k": None},
    "forced tokens": {**SHORT, "forced_bos_token_id": 5, "forced_eos_token_id": 6},
    "a processor of the user": {**SHORT, "logits_processor": [Swings()]},
    "criteria of the user": {"max_new_tokens": 30, "stopping_criteria": [EveryFifth(), EosTokenCriteria(ENDS[:9])]},
    "a prefix function": {**SHORT, "prefix_allowed_tokens_fn": lambda row, ids: [3 + row, 9, 10, 11]},
    "a generation config": {"generation_config": GenerationConfig(max_new_tokens=6, eos_token_id=ENDS, pad_token_id=2)},
    "a generation config and more": {"generation_config": GenerationConfig(**DICT), "max_new_tokens": 3},
    "no time": {**SHORT, "max_time": 0.0},
    "spelt as off": {**SHORT, "do_sample": None, "num_beams": 1, "guidance_scale": None, "synced_gpus": False},
    "of no use": {**SHORT, "trust_remote_code": True, "tokenizer": "none", "use_cache": True, "logits_to_keep": 3},
}
# transformers has something to say about these
WARNED: dict[str, dict[str, Any]] = {
    "no length": {},
    "two lengths": {**SHORT, "max_length": 70},
    "two least lengths": {**SHORT, "min_length": 4, "min_new_tokens": 3, "eos_token_id": 5},
    "a least length past the end": {**SHORT, "min_length": 1000, "eos_token_id": 5},
    "least new tokens past the end": {**SHORT, "min_new_tokens": 1000, "eos_token_id": 5},
    "sampling options": {**SHORT, "temperature": 0.5, "top_p": 0.3, "top_k": 4},
    "scores without a dict": {**SHORT, "output_scores": True},
    "a negative end": {**SHORT, "eos_token_id": [-1, 5]},
    "a processor twice": {
        **SHORT,
        "repetition_penalty": 1.2,
        "logits_processor": LogitsProcessorList([RepetitionPenaltyLogitsProcessor(1.5)]),
    },
    "a criterion twice": {**SHORT, "stopping_criteria": StoppingCriteriaList([MaxLengthCriteria(9)])},
    "an option of beams": {**SHORT, "early_stopping": True},
}
# ... and does not accept these
WRONG: dict[str, dict[str, Any]] = {
    "no such option": {"no_such_option": 1},
    "no room": {"max_length": 1},
    "no new token": {"max_new_tokens": 0},
    "length of text": {"max_new_tokens": "5"},
    "several of the same": {**SHORT, "num_return_sequences": 2},
    "hotter than never": {**SHORT, "do_sample": True, "temperature": 0.0},
    "best of none": {**SHORT, "do_sample": True, "top_k": -1},
    "negative penalty": {**SHORT, "repetition_penalty": -1.0},
    "whole penalty": {**SHORT, "repetition_penalty": 2},
    "no bad words": {**SHORT, "bad_words_ids": []},
    "nothing allowed": {**SHORT, "prefix_allowed_tokens_fn": lambda row, ids: []},
    "a criterion for a list": {**SHORT, "stopping_criteria": EveryFifth()},
    "a processor for a list": {**SHORT, "logits_processor": Swings()},
    "positional twice": {**SHORT, "inputs": torch.tensor([[5, 6]])},
}
SAMPLED: dict[str, dict[str, Any]] = {
    "drawn": {**SHORT, "do_sample": True},
    "everything, drawn": {**ALL, "do_sample": True, "top_k": 10, "top_p": 0.7, "temperature": 0.7},
    "several of each": {**ALL, "do_sample": True, "num_return_sequences": 2, "no_repeat_ngram_size": 2},
}
