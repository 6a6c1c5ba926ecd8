"""The target and the draft that `vispec demo` runs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    BatchFeature,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
)

# CLIPImageProcessor itself needs torchvision
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from vispec import Draft, DraftConfig
from vispec.draft.model import DraftModel

SEED = 9
IMAGE_SIZE, PATCH_SIZE = 96, 8
VOCAB_SIZE = 512  # 256 bytes, the special tokens, and pieces of the words below
SPECIAL_TOKENS = ("<pad>", "</s>", "<image>")
PAD, END, IMAGE = SPECIAL_TOKENS
WORDS = """
The picture shows a house with a red roof by a blue lake, and a boat with white sails is on the water.
What is in the picture? How many clouds are there? Which colour is the boat? Where is the tree?
There is a large yellow sun above two grey mountains; one of them has snow on its top.
The small square is left of the green circle. The tree stands right of the house, near the shore.
A question about an image gets a short answer in plain words: what it shows, how much, where and in which colour.
"""


@dataclass(frozen=True)
class Pair:
    """A target with its processor and draft, and what a user must know about them."""

    model: PreTrainedModel
    draft: Draft
    processor: ProcessorMixin
    note: str

    def inputs(self, image: Image.Image, question: str) -> BatchFeature:
        """What `generate` takes.

        Raises:
            ValueError: the question holds the token that stands for the image.
        """
        if IMAGE in question:
            raise ValueError(f"expected words alone, got a question with {IMAGE} in it")
        text = f"USER: {IMAGE}\n{question} ASSISTANT:"
        return self.processor(images=image, text=text, return_tensors="pt")


def load_pair() -> Pair:
    """A small LLaVA and a draft, both with random weights, made in memory; the same ones every time."""
    processor = _make_processor()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = _make_target(processor.tokenizer)
        text = model.config.text_config
        config = DraftConfig(
            hidden_size=text.hidden_size,
            intermediate_size=text.intermediate_size,
            num_attention_heads=text.num_attention_heads,
            num_key_value_heads=text.num_key_value_heads,
            vocab_size=text.vocab_size,
        )
        draft = Draft(DraftModel(config), model)
    note = (
        "No trained models come with this version yet: a small LLaVA and a draft,\n"
        "both with random weights, stand in. So the text is noise, the draft has\n"
        "nothing to go by, and the speed-up means nothing: expect a slow-down.\n"
        "Real are the image's way through processor and model, every step of\n"
        "decoding, and the comparison of both answers."
    )
    return Pair(model, draft, processor, note)


def _make_processor() -> LlavaProcessor:
    """A tokenizer of bytes and pieces of `WORDS`, and CLIP's treatment of images."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(WORDS.splitlines(), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=PAD, eos_token=END, additional_special_tokens=[IMAGE]
    )
    square = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}  # the whole picture, squeezed
    return LlavaProcessor(
        CLIPImageProcessorPil(size=square, crop_size=square),
        tokenizer,
        patch_size=PATCH_SIZE,
        num_additional_image_tokens=1,
        vision_feature_select_strategy="default",
        image_token=IMAGE,
    )


def _make_target(tokenizer: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    vision = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
    )
    text = LlamaConfig(
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=24,
        num_attention_heads=6,
        num_key_value_heads=2,
        vocab_size=len(tokenizer),
        max_position_embeddings=4096,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=None,  # random weights know no end
        initializer_range=0.2,  # wide enough that the noise differs from image to image and does not repeat
    )
    image_token = tokenizer.convert_tokens_to_ids(IMAGE)
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=image_token, vision_feature_layer=-1)
    model = LlavaForConditionalGeneration(config).eval()
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model
