"""Recipes of the target's training, shrunk to seconds, and a random language model that has its own chat template."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from vispec.pair.batches import PatchWords
from vispec.pair.language_model import default_stages
from vispec.pair.recipe import Recipe, Stage
from vispec.pair.tokenizer import training_texts
from vispec.pair.train_target import STAGES, PairRecipe
from vispec.pair.trainer import SEED, Trainer

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def small_pair() -> PairRecipe:
    """The pair's recipe: one layer that grows to four, few pictures."""
    align, small, grown = (replace(stage, num_layers=layers) for stage, layers in zip(STAGES, (1, 1, 4), strict=True))
    return PairRecipe(
        (
            replace(align, num_pools=2, pool_size=8, tokens=4),
            replace(small, num_pools=2, pool_size=3, tokens=1024, num_turns=2),
            replace(grown, num_pools=2, pool_size=3, tokens=1024, num_turns=2),
        )
    )


def small_stages(tune: str) -> tuple[Stage, ...]:
    """Those of a language model, few pictures."""
    align, answers = default_stages(tune)
    return (
        replace(align, num_pools=2, pool_size=8, tokens=4),
        replace(answers, num_pools=2, pool_size=3, tokens=1024, num_turns=2),
    )


def make_trainer(recipe: Recipe, folder: Path, **options: Any) -> Trainer:
    """In fp32, with a checkpoint behind each pool, and the alignment's words of fewer pictures."""
    trainer = Trainer(recipe, folder, half=False, save_every=0.0, **options)
    if trainer.current.align:
        trainer.words = PatchWords(trainer.chat.tokenizer, recipe.stages[0].shares, SEED, count=60)
    return trainer


def save_language_model(folder: Path, *, tied: bool = True, template: str | None = CHAT_TEMPLATE) -> Path:
    """A random Llama with a tokenizer trained on the spot, as `from_pretrained` reads them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(training_texts(300), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|im_start|>", eos_token="<|im_end|>", chat_template=template
    )
    fast.save_pretrained(folder)
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=len(fast),
        tie_word_embeddings=tied,
        bos_token_id=fast.bos_token_id,
        eos_token_id=fast.eos_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
        torch.nn.init.normal_(model.get_input_embeddings().weight, std=0.3)
    model.save_pretrained(folder)
    return folder
