"""A tokenizer for the tiny models: token n is the word "wn"."""

from __future__ import annotations

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from models import VOCAB_SIZE


def make_tokenizer() -> PreTrainedTokenizerFast:
    """But for the last token, which StopStringCriteria needs to read tokens by."""
    vocabulary = {f"w{token}": token for token in range(VOCAB_SIZE - 1)} | {"abcdef": VOCAB_SIZE - 1}
    built = Tokenizer(WordLevel(vocabulary, unk_token="w0"))
    built.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=built, unk_token="w0", pad_token="w0", padding_side="left")
