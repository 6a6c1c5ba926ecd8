"""The pair's tokenizer, a byte-level BPE, and its LLaVA processor: `python -m vispec.pair.tokenizer` trains it.

Training sees the texts of the training split alone and is deterministic: the same number of samples gives the same
file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import CLIPImageProcessorPil, LlavaProcessor, PreTrainedTokenizerFast

from vispec.pair.dataset import make_turns
from vispec.pair.scenes import IMAGE_SIZE

VOCAB_SIZE = 4096  # at most: merging ends earlier, at MIN_COUNT
MIN_COUNT = 20  # a piece of a made-up name that comes less often is no token: the model could not learn to read it
NUM_SAMPLES = 120_000
PATCH_SIZE = 8
SPECIAL = {
    "pad": "<pad>",
    "bos": "<s>",
    "eos": "</s>",
    "image": "<image>",
    "user": "<user>",
    "assistant": "<assistant>",
}
WORDS = r" ?\d| ?\p{Lu}(?![\p{Ll}-])| ?\p{L}+(?:-\p{L}+)*| ?[^\s\p{L}\d]+|\s+"  # capitals are read one by one
TOKENIZER_DIR = Path(__file__).with_name("vocabulary")
CHAT_TEMPLATE = """\
{{ bos_token }}
{%- for message in messages -%}
{{ '<user>' if message['role'] == 'user' else '<assistant>' }}
{%- if message['content'] is string -%}
{{ message['content'] }}
{%- else -%}
{%- for part in message['content'] -%}
{{ '<image>' if part['type'] == 'image' else part['text'] }}
{%- endfor -%}
{%- endif -%}
{%- if message['role'] == 'assistant' -%}
{{ eos_token }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<assistant>' }}
{%- endif -%}"""
MEAN = STD = [0.5, 0.5, 0.5]  # pixels from -1 to 1


def training_texts(count: int) -> Iterator[str]:
    """Questions and answers of the training split."""
    for index in range(count):
        _, turns, _ = make_turns(0, "train", index)
        yield turns[0].question
        yield turns[0].answer


def train_tokenizer(num_samples: int = NUM_SAMPLES) -> PreTrainedTokenizerFast:
    """Train on the texts of `num_samples` samples. Each digit and each capital of a word in capitals is a token."""
    tokenizer = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(WORDS), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        min_frequency=MIN_COUNT,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=list(SPECIAL.values()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(training_texts(num_samples), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=SPECIAL["bos"],
        eos_token=SPECIAL["eos"],
        pad_token=SPECIAL["pad"],
        additional_special_tokens=[SPECIAL["image"], SPECIAL["user"], SPECIAL["assistant"]],
        extra_special_tokens={"image_token": SPECIAL["image"]},
        model_max_length=1024,
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
    )


def load_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer that ships with the package."""
    return PreTrainedTokenizerFast.from_pretrained(TOKENIZER_DIR)


def make_processor(tokenizer: PreTrainedTokenizerFast | None = None) -> LlavaProcessor:
    """Images to 96x96 pixels, `<image>` to its 144 tokens; `save_pretrained` stores all that AutoProcessor needs."""
    side = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    images = CLIPImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE}, crop_size=side, image_mean=MEAN, image_std=STD, do_convert_rgb=True
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer or load_tokenizer(),
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",  # the tower's class token is dropped
        num_additional_image_tokens=1,
        image_token=SPECIAL["image"],
        chat_template=CHAT_TEMPLATE,
    )


if __name__ == "__main__":
    train_tokenizer().save_pretrained(TOKENIZER_DIR)
