"""transformers' own processors, sized for the tiny models: those that can be made without a download.

Videos, and images of some families, need torchvision.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AyaVisionProcessor,
    DeepseekVLProcessor,
    Gemma3Processor,
    Granite4VisionProcessor,
    Idefics2Processor,
    Idefics3Processor,
    LightOnOcrProcessor,
    LlavaNextProcessor,
    LlavaProcessor,
    Ovis2Processor,
    PaliGemmaProcessor,
    PreTrainedTokenizerFast,
    ProcessorMixin,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.deepseek_vl.image_processing_pil_deepseek_vl import DeepseekVLImageProcessorPil
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics2.image_processing_pil_idefics2 import Idefics2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.ovis2.image_processing_pil_ovis2 import Ovis2ImageProcessorPil
from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from families.common import (
    BREAK_TOKEN,
    END_TOKEN,
    IMAGE_TOKEN,
    START_TOKEN,
    VOCAB_SIZE,
)
from families.llava import PINPOINTS

TILE, PICTURE = {"height": 16, "width": 16}, {"height": 32, "width": 32}


def tokenizer_of(tokens: dict[str, int], **named: str) -> PreTrainedTokenizerFast:
    """Characters, and special tokens at the ids that the tiny models use; `named`: which of them has what role."""
    words = [chr(32 + i) for i in range(95)] + [f"<{i}>" for i in range(95, VOCAB_SIZE)]
    for token, token_id in tokens.items():
        words[token_id] = token
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<95>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<95>",
        bos_token="<96>",
        pad_token="<99>",
        padding_side="left",
        extra_special_tokens=named,
    )
    tokenizer.add_tokens(list(tokens), special_tokens=True)
    return tokenizer


def _llava() -> ProcessorMixin:
    layout = {"patch_size": 8, "num_additional_image_tokens": 1, "vision_feature_select_strategy": "default"}
    pictures = CLIPImageProcessorPil(size=PICTURE, crop_size=PICTURE)
    return LlavaProcessor(pictures, tokenizer_of({"<image>": IMAGE_TOKEN}), **layout)


def _llava_next() -> ProcessorMixin:
    layout = {"patch_size": 4, "num_additional_image_tokens": 1, "vision_feature_select_strategy": "default"}
    pictures = LlavaNextImageProcessorPil(size=TILE, crop_size=TILE, image_grid_pinpoints=PINPOINTS)
    return LlavaNextProcessor(pictures, tokenizer_of({"<image>": IMAGE_TOKEN}), **layout)


def _granite4_vision() -> ProcessorMixin:
    layout = {"patch_size": 4, "downsample_rate": "1/2", "vision_feature_select_strategy": "full"}
    pictures = LlavaNextImageProcessorPil(size=TILE, crop_size=TILE, image_grid_pinpoints=PINPOINTS)
    return Granite4VisionProcessor(pictures, tokenizer_of({"<image>": IMAGE_TOKEN}), **layout)


def _gemma3() -> ProcessorMixin:
    tokens = {"<image>": IMAGE_TOKEN, "<start>": START_TOKEN, "<end>": END_TOKEN}
    tokenizer = tokenizer_of(tokens, image_token="<image>", boi_token="<start>", eoi_token="<end>")
    return Gemma3Processor(Gemma3ImageProcessorPil(size=PICTURE), tokenizer, image_seq_length=4)


def _paligemma() -> ProcessorMixin:
    pictures = SiglipImageProcessorPil(size=PICTURE)
    pictures.image_seq_length = 16
    return PaliGemmaProcessor(pictures, tokenizer_of({"<image>": IMAGE_TOKEN}))


def _idefics2() -> ProcessorMixin:
    pictures = Idefics2ImageProcessorPil(size={"shortest_edge": 16, "longest_edge": 32})
    tokens = {"<image>": IMAGE_TOKEN, "<fake_token_around_image>": START_TOKEN, "<end_of_utterance>": END_TOKEN}
    return Idefics2Processor(pictures, tokenizer_of(tokens), image_seq_len=3)


def _idefics3() -> ProcessorMixin:
    pictures = Idefics3ImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    tokens = {"<image>": IMAGE_TOKEN, "<fake_token_around_image>": START_TOKEN, "<end_of_utterance>": END_TOKEN}
    return Idefics3Processor(pictures, tokenizer_of({**tokens, "<global-img>": BREAK_TOKEN}), image_seq_len=4)


def _aya_vision() -> ProcessorMixin:
    pictures = GotOcr2ImageProcessorPil(size=PICTURE, crop_to_patches=True, min_patches=1, max_patches=3)
    tokens = {"<|IMG_PATCH|>": IMAGE_TOKEN, "<|START_OF_IMG|>": START_TOKEN, "<|END_OF_IMG|>": END_TOKEN}
    return AyaVisionProcessor(pictures, tokenizer_of(tokens), patch_size=8, img_size=32, downsample_factor=2)


def _ovis2() -> ProcessorMixin:
    pictures = Ovis2ImageProcessorPil(size=PICTURE, crop_to_patches=True, min_patches=1, max_patches=3)
    tokens = {"<IMG_ATOM>": IMAGE_TOKEN, "<IMG_START>": START_TOKEN, "<IMG_GRID>": END_TOKEN, "<IMG_END>": BREAK_TOKEN}
    return Ovis2Processor(pictures, tokenizer_of(tokens), image_seq_length=4)


def pixtral() -> PixtralImageProcessorPil:
    return PixtralImageProcessorPil(size={"longest_edge": 32}, patch_size={"height": 4, "width": 4})


def _lighton_ocr() -> ProcessorMixin:
    tokens = {"<image>": IMAGE_TOKEN, "<break>": BREAK_TOKEN, "<end>": END_TOKEN}
    named = {"image_token": "<image>", "image_break_token": "<break>", "image_end_token": "<end>"}
    return LightOnOcrProcessor(pixtral(), tokenizer_of(tokens, **named), patch_size=4, spatial_merge_size=2)


def _deepseek_vl() -> ProcessorMixin:
    tokenizer = tokenizer_of({"<image>": IMAGE_TOKEN}, image_token="<image>")
    return DeepseekVLProcessor(DeepseekVLImageProcessorPil(size=PICTURE, min_size=8), tokenizer, num_image_tokens=16)


@dataclass(frozen=True)
class Processing:
    """How to call a family's processor.

    Attributes:
        build: Makes it.
        image, video: What stands for one in a prompt's text; "": it takes none.
        needs_images: It takes no prompt without.
    """

    build: Callable[[], ProcessorMixin]
    image: str = "<image>"
    video: str = ""
    needs_images: bool = False


PROCESSORS: dict[str, Processing] = {
    "llava": Processing(_llava),
    "vipllava": Processing(_llava),
    "llava_next": Processing(_llava_next),
    "granite4_vision": Processing(_granite4_vision),
    "gemma3": Processing(_gemma3, image="<start>"),
    "paligemma": Processing(_paligemma, needs_images=True),
    "idefics2": Processing(_idefics2),
    "idefics3": Processing(_idefics3),
    "aya_vision": Processing(_aya_vision),
    "ovis2": Processing(_ovis2),
    "lighton_ocr": Processing(_lighton_ocr),
    "deepseek_vl": Processing(_deepseek_vl),
}
