"""transformers' own processors that need torchvision: those of videos, and some of images alone."""

from __future__ import annotations

from transformers import (
    Cohere2VisionImageProcessor,
    Cohere2VisionProcessor,
    Glm4vProcessor,
    Glm4vVideoProcessor,
    InternVLProcessor,
    InternVLVideoProcessor,
    LlavaNextVideoProcessor,
    LlavaNextVideoVideoProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    PerceptionLMImageProcessor,
    PerceptionLMProcessor,
    PerceptionLMVideoProcessor,
    PixtralProcessor,
    ProcessorMixin,
    Qwen2_5_VLProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
    VideoLlama3Processor,
    VideoLlama3VideoProcessor,
)
from transformers.models.glm4v.image_processing_pil_glm4v import Glm4vImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil
from transformers.models.video_llama_3.image_processing_pil_video_llama_3 import VideoLlama3ImageProcessorPil
from transformers.utils import is_num2words_available

from families.common import BREAK_TOKEN, END_TOKEN, IMAGE_TOKEN, START_TOKEN, VIDEO_END, VIDEO_START, VIDEO_TOKEN
from families.llava import PINPOINTS
from families.processors import PICTURE, TILE, Processing, pixtral, tokenizer_of

PATCHES = {"patch_size": 4, "merge_size": 2, "size": {"shortest_edge": 16 * 16, "longest_edge": 64 * 64}}
BOTH = {"<image>": IMAGE_TOKEN, "<video>": VIDEO_TOKEN}
NAMED = {"image_token": "<image>", "video_token": "<video>"}
QWEN = {
    "<|image_pad|>": IMAGE_TOKEN,
    "<|video_pad|>": VIDEO_TOKEN,
    "<|vision_start|>": START_TOKEN,
    "<|vision_end|>": END_TOKEN,
}
GLM = {
    "<|image|>": IMAGE_TOKEN,
    "<|video|>": VIDEO_TOKEN,
    "<|begin_of_image|>": START_TOKEN,
    "<|end_of_image|>": END_TOKEN,
    "<|begin_of_video|>": VIDEO_START,
    "<|end_of_video|>": VIDEO_END,
}


def _qwen2_vl() -> ProcessorMixin:
    parts = Qwen2VLImageProcessorPil(**PATCHES), tokenizer_of(QWEN), Qwen2VLVideoProcessor(**PATCHES)
    return Qwen2VLProcessor(*parts)


def _qwen2_5_vl() -> ProcessorMixin:
    parts = Qwen2VLImageProcessorPil(**PATCHES), tokenizer_of(QWEN), Qwen2VLVideoProcessor(**PATCHES)
    return Qwen2_5_VLProcessor(*parts)


def _qwen3_vl() -> ProcessorMixin:
    videos = Qwen3VLVideoProcessor(**PATCHES, do_sample_frames=False)
    return Qwen3VLProcessor(Qwen2VLImageProcessorPil(**PATCHES), tokenizer_of(QWEN), videos)


def _glm4v() -> ProcessorMixin:
    videos = Glm4vVideoProcessor(**PATCHES, do_sample_frames=False)
    return Glm4vProcessor(Glm4vImageProcessorPil(**PATCHES), tokenizer_of(GLM), videos)


def _video_llama_3() -> ProcessorMixin:
    pictures = VideoLlama3ImageProcessorPil(**{**PATCHES, "merge_size": 1})
    tokens = {"<|image_pad|>": IMAGE_TOKEN, "<|video_pad|>": VIDEO_TOKEN}
    return VideoLlama3Processor(pictures, tokenizer_of(tokens), VideoLlama3VideoProcessor(**PATCHES))


def _llava_next_video() -> ProcessorMixin:
    layout = {"patch_size": 4, "num_additional_image_tokens": 1, "vision_feature_select_strategy": "default"}
    pictures = LlavaNextImageProcessorPil(size=TILE, crop_size=TILE, image_grid_pinpoints=PINPOINTS)
    videos = LlavaNextVideoVideoProcessor(size=TILE, crop_size=TILE)
    return LlavaNextVideoProcessor(videos, pictures, tokenizer_of(BOTH), **layout)


def _llava_onevision() -> ProcessorMixin:
    pictures = LlavaOnevisionImageProcessorPil(size=TILE, image_grid_pinpoints=PINPOINTS)
    videos = LlavaOnevisionVideoProcessor(size=TILE)
    layout = {"num_image_tokens": 16, "vision_feature_select_strategy": "full"}
    return LlavaOnevisionProcessor(pictures, tokenizer_of(BOTH), videos, **layout)


def _perception_lm() -> ProcessorMixin:
    pictures = PerceptionLMImageProcessor(tile_size=32, max_num_tiles=1, vision_input_type="vanilla", size=PICTURE)
    videos = PerceptionLMVideoProcessor(size=PICTURE)
    return PerceptionLMProcessor(videos, pictures, tokenizer_of(BOTH, **NAMED), patch_size=8, pooling_ratio=2)


def _internvl() -> ProcessorMixin:
    tokens = {"<context>": IMAGE_TOKEN, "<video>": VIDEO_TOKEN, "<start>": START_TOKEN, "<end>": END_TOKEN}
    named = {"start_image_token": "<start>", "end_image_token": "<end>", "context_image_token": "<context>"}
    tokenizer = tokenizer_of(tokens, **named, video_token="<video>")
    pictures = GotOcr2ImageProcessorPil(size=PICTURE, crop_to_patches=True, min_patches=1, max_patches=3)
    return InternVLProcessor(pictures, tokenizer, InternVLVideoProcessor(size=PICTURE), image_seq_length=4)


def _smolvlm() -> ProcessorMixin:
    tokens = {**BOTH, "<fake_token_around_image>": START_TOKEN, "<global-img>": BREAK_TOKEN}
    tile = {"longest_edge": 32}
    pictures = SmolVLMImageProcessorPil(size={"longest_edge": 64}, max_image_size=tile)
    videos = SmolVLMVideoProcessor(size=tile, max_image_size=tile, do_sample_frames=False)
    return SmolVLMProcessor(pictures, tokenizer_of(tokens), videos, image_seq_len=4)


def _cohere2_vision() -> ProcessorMixin:
    tokens = {"<image>": IMAGE_TOKEN, "<start>": START_TOKEN, "<end>": END_TOKEN}
    named = {"image_token": "<image>", "boi_token": "<start>", "eoi_token": "<end>", "img_line_break_token": "<end>"}
    pictures = Cohere2VisionImageProcessor(size=PICTURE, patch_size=2, max_patches=3)  # 2 positions a side
    return Cohere2VisionProcessor(pictures, tokenizer_of(tokens, **named))


def _mistral3() -> ProcessorMixin:
    tokens = {"[IMG]": IMAGE_TOKEN, "[IMG_BREAK]": BREAK_TOKEN, "[IMG_END]": END_TOKEN}
    return PixtralProcessor(pixtral(), tokenizer_of(tokens), patch_size=4, spatial_merge_size=2)


IN_QWEN = {
    "image": "<|vision_start|><|image_pad|><|vision_end|>",
    "video": "<|vision_start|><|video_pad|><|vision_end|>",
}
IN_GLM = {
    "image": "<|begin_of_image|><|image|><|end_of_image|>",
    "video": "<|begin_of_video|><|video|><|end_of_video|>",
}
VIDEO = {"video": "<video>"}
PROCESSORS: dict[str, Processing] = {
    "qwen2_vl": Processing(_qwen2_vl, **IN_QWEN),
    "qwen2_5_vl": Processing(_qwen2_5_vl, **IN_QWEN),
    "qwen3_vl": Processing(_qwen3_vl, **IN_QWEN),
    "qwen3_vl_moe": Processing(_qwen3_vl, **IN_QWEN),
    "glm4v": Processing(_glm4v, **IN_GLM),
    "glm_ocr": Processing(_glm4v, **IN_GLM),
    "video_llama_3": Processing(_video_llama_3, image="<|image_pad|>", video="<|video_pad|>"),
    "llava_next_video": Processing(_llava_next_video, **VIDEO),
    "llava_onevision": Processing(_llava_onevision, **VIDEO),
    "perception_lm": Processing(_perception_lm, **VIDEO),
    "internvl": Processing(_internvl, image="<context>", **VIDEO),
    "cohere2_vision": Processing(_cohere2_vision),
    "mistral3": Processing(_mistral3, image="[IMG]"),
}
if is_num2words_available():  # it writes numbers of frames as words
    PROCESSORS["smolvlm"] = Processing(_smolvlm, **VIDEO)
