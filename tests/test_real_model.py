"""Greedy decoding of a real language model: SmolLM2-135M-Instruct, 20 real prompts of 128 new tokens."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from fetch_smollm2 import GGUF, fetch
from lossless import assert_same_text, plain_text
from models import make_draft
from scripted import ScriptedDraft
from vispec import TreeConfig

pytestmark = pytest.mark.release

NEW_TOKENS = 128
PROMPTS = (
    "Describe a busy street market at noon in one paragraph.",
    "Write a Python function that checks whether a string is a palindrome, and explain it.",
    "What are the main differences between TCP and UDP?",
    "Summarise the water cycle for a ten-year-old.",
    "Translate into French: The train to Lyon leaves at a quarter past nine.",
    "List five uses of vinegar in the household.",
    "A shop sells pens at 3 for 2 euros. How much do 12 pens cost? Show each step.",
    "Write a short story about a lighthouse keeper who finds a letter in a bottle.",
    "Explain speculative decoding of language models.",
    "Give me a recipe for lentil soup with quantities.",
    "Why is the sky blue and the sunset red?",
    "Write a polite e-mail that asks for a deadline to be moved by two days.",
    "Compare electric and diesel buses for a small town.",
    "What happened in the year 1969? Name three events.",
    "Continue: It was the best of times, it was the worst of times,",
    "Turn this into JSON: Ana, 31, engineer, Lisbon; Ben, 27, nurse, Oslo.",
    "What should I check before buying a used bicycle?",
    "Write a haiku about autumn rain, then explain its images.",
    "How does a refrigerator move heat from cold to warm?",
    "Count from one to thirty in words.",
)


@pytest.fixture(scope="module")
def smollm2() -> tuple[Any, Any]:
    folder = fetch()
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=GGUF)
    return AutoModelForCausalLM.from_pretrained(folder, gguf_file=GGUF, dtype=torch.float32).eval(), tokenizer


@pytest.mark.parametrize("index", range(len(PROMPTS)))
def test_real_prompt(smollm2: tuple[Any, Any], index: int) -> None:
    """By a draft that knows the text but errs at one token in 6, and by an untrained ViSpec draft."""
    model, tokenizer = smollm2
    chat = [{"role": "user", "content": PROMPTS[index]}]
    inputs = dict(
        tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    )
    text = plain_text(model, inputs, max_new_tokens=NEW_TOKENS)[0, inputs["input_ids"].shape[1] :]
    rng = random.Random(index)
    script = torch.tensor([int(t) if rng.randrange(6) else (int(t) + 1) % model.config.vocab_size for t in text])
    output = assert_same_text(model, ScriptedDraft(model, script), inputs, TreeConfig(), max_new_tokens=NEW_TOKENS)
    assert output.speculation.mean_accepted > 1
    assert_same_text(model, make_draft(model), inputs, TreeConfig(2, 4, 12), max_new_tokens=NEW_TOKENS)
