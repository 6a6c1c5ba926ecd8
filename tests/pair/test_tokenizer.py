"""The tokenizer and the processor that ship, and how they came about."""

from __future__ import annotations

import string

import numpy as np
import pytest
from transformers import AutoProcessor

from vispec.pair import make_sample, make_turns
from vispec.pair.data_report import ngram_agreement
from vispec.pair.tokenizer import SPECIAL, VOCAB_SIZE, load_tokenizer, make_processor, train_tokenizer
from vispec.pair.words import BACKGROUNDS, COLOURS, ITEMS, NOUNS, SIZES


@pytest.fixture(scope="module")
def tokenizer():
    """The one that ships."""
    return load_tokenizer()


def test_texts_survive_a_round_trip(tokenizer):
    for index in range(500):
        _, (turn,), _ = make_turns(8, "test", index)
        for text in (turn.question, turn.answer):
            ids = tokenizer(text)["input_ids"]
            assert tokenizer.decode(ids) == text
            assert len(ids) < 0.5 * len(text)


@pytest.mark.parametrize("text", [string.printable, "café, déjà vu ~ {x} <y> €5 \u2603", "  two  spaces\n\n", ""])
def test_any_text_survives_a_round_trip(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_words_of_the_pictures_are_single_tokens(tokenizer):
    for word in (*COLOURS, *BACKGROUNDS, *NOUNS, *SIZES, *ITEMS, "left", "right", "above", "northwest"):
        assert len(tokenizer(" " + word)["input_ids"]) == 1, word
    assert len(tokenizer(" 3.50")["input_ids"]) == 4
    assert 2048 <= len(tokenizer) <= VOCAB_SIZE
    assert [tokenizer.pad_token, tokenizer.bos_token, tokenizer.eos_token] == list(SPECIAL.values())[:3]


def test_answers_have_the_lengths_promised(tokenizer):
    lengths = sorted(len(tokenizer(make_turns(6, "train", i)[1][0].answer)["input_ids"]) for i in range(2000))
    assert lengths[0] >= 12
    assert lengths[20] >= 15
    assert 200 <= lengths[-1] <= 280
    assert sum(length >= 50 for length in lengths) > 1000
    assert sum(length for length in lengths if length >= 50) > 0.75 * sum(lengths)


def test_training_is_deterministic():
    first, second = (train_tokenizer(num_samples=400).backend_tokenizer.to_str() for _ in range(2))
    assert first == second


def test_processor(tokenizer, tmp_path):
    make_processor().save_pretrained(tmp_path)
    processor = AutoProcessor.from_pretrained(tmp_path)
    sample = make_sample(0, "test", 0)
    content = [{"type": "image"}, {"type": "text", "text": sample.question}]
    messages = [{"role": "user", "content": content}]
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
    assert prompt == f"<s><user><image>{sample.question}<assistant>"
    inputs = processor(images=sample.image, text=prompt, return_tensors="pt")
    assert (inputs["input_ids"] == tokenizer.convert_tokens_to_ids("<image>")).sum() == 144
    assert inputs["pixel_values"].shape == (1, 3, 96, 96)
    pixels = np.asarray(sample.image, dtype=np.float32).transpose(2, 0, 1) / 127.5 - 1
    np.testing.assert_allclose(inputs["pixel_values"][0].numpy(), pixels, atol=1e-5)
    answered = [*messages, {"role": "assistant", "content": sample.answer}]
    assert processor.apply_chat_template(answered) == f"{prompt}{sample.answer}</s>"


def test_ngram_agreement():
    wheel = [np.arange(50) % 5] * 2
    assert ngram_agreement(wheel, wheel[:1], orders=(2,)) == {2: (1.0, 1.0)}
    noise = [np.random.default_rng(i).integers(0, 100, 2000) for i in range(2)]
    assert ngram_agreement(noise[:1], noise[1:], orders=(4,))[4][1] < 0.05
    known, _ = ngram_agreement([np.array([1, 2, 3])], [np.array([9, 2, 3])], orders=(1,))[1]
    assert known == pytest.approx(1 / 3)
