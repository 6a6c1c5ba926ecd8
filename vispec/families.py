"""What differs from one family of models to the next, as data; the adapter that reads it is `vispec.target`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from packaging.version import Version
from torch import Tensor
from transformers import PreTrainedModel


def _lengths(encoded: Any) -> list[int]:
    """Features of each image or video, which may be a row, a map or several tiles of them."""
    return [features.shape[:-1].numel() for features in encoded.pooler_output]


def _lengths_of_equals(encoded: Any) -> list[int]:
    """All images of a prompt come in one piece; each has as many features."""
    count = encoded.last_hidden_state.shape[0]
    total = sum(_lengths(encoded))
    return [total // count] * count


def _lengths_of_layers(encoded: Any) -> list[int]:
    """Each layer that gets features of the images gets as many."""
    _, features = encoded.deepstack_features[0]
    return [len(image) for image in features]


def _all_kept(encoded: Any, inputs: Mapping[str, Any]) -> list[int]:
    return _lengths(encoded)


def _lengths_with_newline(encoded: Any, inputs: Mapping[str, Any]) -> list[int]:
    return [length + 1 for length in _lengths(encoded)]


def _lengths_of_kept(encoded: Any, inputs: Mapping[str, Any]) -> list[int]:
    """The processor leaves out what hardly differs from the frame before."""
    lengths, is_kept = _lengths(encoded), inputs.get("video_compression_mask")
    return lengths if is_kept is None else [int(of_video.sum()) for of_video in is_kept.split(lengths)]


def without_first(encoded: Any, num_positions: int) -> Any:
    """What a model made of images or videos, without the features of the first `num_positions` placeholders."""

    def rest(features: Any) -> Any:
        if isinstance(features, Tensor):
            rows = features.flatten(0, -2)[num_positions:]
            return rows if features.ndim == 2 else rows[None]
        if isinstance(features[0], Tensor):
            return [torch.cat([image.flatten(0, -2) for image in features])[num_positions:]]
        return (features[0], rest(features[1]))  # of granite4_vision: a layer, and what it gets

    shortened = copy.copy(encoded)
    if getattr(encoded, "pooler_output", None) is not None:  # in transformers 5.17 no field of some outputs
        shortened.pooler_output = rest(encoded.pooler_output)
    if getattr(encoded, "deepstack_features", None) is not None:
        shortened.deepstack_features = [rest(layer) for layer in encoded.deepstack_features]
    return shortened


def _unchanged(tensor: Tensor, text_config: Any) -> Tensor:
    return tensor


def _multiplied(embeds: Tensor, text_config: Any) -> Tensor:
    return embeds * text_config.embedding_multiplier


def _divided(logits: Tensor, text_config: Any) -> Tensor:
    return logits / text_config.logits_scaling


def _capped(logits: Tensor, text_config: Any) -> Tensor:
    cap = getattr(text_config, "final_logit_softcapping", None)
    return logits if cap is None else (logits / cap).tanh() * cap


@dataclass(frozen=True)
class Family:
    """What the adapter cannot ask a model itself.

    Attributes:
        image_lengths: How many positions each encoded image takes, from the output of `get_image_features`.
        video_lengths: The same of videos, from the output of the model's own encoding and the prompt's inputs.
        video_token: Field of the config: the id that stands for the positions of a video.
        embeds: From the embedding module's output, with the text config, to what the decoder's first layer reads.
        logits: From the LM head's output, with the text config, to the model's logits.
        embeds_at: Module of the decoder whose input the draft reads; "": the decoder itself.
        first_position: Of a text.
    """

    image_lengths: Callable[[Any], list[int]] = _lengths
    video_lengths: Callable[[Any, Mapping[str, Any]], list[int]] = _all_kept
    video_token: str = "video_token_id"
    embeds: Callable[[Tensor, Any], Tensor] = _unchanged
    logits: Callable[[Tensor, Any], Tensor] = _unchanged
    embeds_at: str = ""
    first_position: int = 0

    def lengths(self, name: str, encoded: Any, inputs: Mapping[str, Any]) -> list[int]:
        """Positions of each "image" or of each "video"."""
        return self.image_lengths(encoded) if name == "image" else self.video_lengths(encoded, inputs)


PLAIN = Family()
FRAMES_AS_IMAGES = Family(video_token="image_token_id")
# in earlier releases its final_logit_softcapping had no effect
PALIGEMMA_CAPS = Version(transformers.__version__) >= Version("5.23")
# in earlier releases the newline after a video was added later
ONEVISION_NEWLINE = Version(transformers.__version__) >= Version("5.18")
# by config.model_type: models whose verification is tested token for token against their own `generate`
FAMILIES: dict[str, Family] = {
    "aria": PLAIN,
    "aya_vision": PLAIN,
    "cohere2_vision": PLAIN,
    "deepseek_vl": PLAIN,
    "fast_vlm": PLAIN,
    "gemma3": PLAIN,
    "glm4v": FRAMES_AS_IMAGES,
    "glm_ocr": FRAMES_AS_IMAGES,
    "got_ocr2": PLAIN,
    # images enter between the layers, the first one included; until then their embeddings are zero
    "granite4_vision": Family(
        image_lengths=_lengths_of_layers, embeds=_multiplied, logits=_divided, embeds_at="layers.0"
    ),
    "idefics2": Family(image_lengths=_lengths_of_equals),
    "idefics3": Family(image_lengths=_lengths_of_equals),
    "internvl": PLAIN,
    "lighton_ocr": PLAIN,
    "llama": PLAIN,
    "llava": PLAIN,
    "llava_next": PLAIN,
    "llava_next_video": PLAIN,
    "llava_onevision": Family(video_lengths=_all_kept if ONEVISION_NEWLINE else _lengths_with_newline),
    "mistral3": PLAIN,
    "ovis2": PLAIN,
    "paligemma": Family(logits=_capped if PALIGEMMA_CAPS else _unchanged, first_position=1),
    "perception_lm": PLAIN,
    "qwen2": PLAIN,
    "qwen2_5_vl": PLAIN,
    "qwen2_vl": PLAIN,
    "qwen3_vl": PLAIN,
    "qwen3_vl_moe": PLAIN,
    "smolvlm": Family(image_lengths=_lengths_of_equals),
    "video_llama_3": Family(video_lengths=_lengths_of_kept),
    "vipllava": PLAIN,
}
# model_type of the text configs that the tests of these have
TEXT_MODELS = (
    "aria_text",
    "cohere2",
    "gemma",
    "gemma2",
    "gemma3_text",
    "glm4v_text",
    "glm_ocr_text",
    "granite4_vision_text",
    "llama",
    "mistral",
    "qwen2",
    "qwen2_5_vl_text",
    "qwen2_vl_text",
    "qwen3",
    "qwen3_vl_moe_text",
    "qwen3_vl_text",
)

# fields of a text config that cache and draft are sized by
SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "vocab_size",
)


def why_unsupported(model: PreTrainedModel) -> str | None:
    """What in a model's build tree attention or its cache cannot do, or None."""
    config = model.config.get_text_config()
    layer_types = set(getattr(config, "layer_types", None) or ())
    others = sorted(layer_types - {"full_attention", "sliding_attention"})
    if model.get_output_embeddings() is None:
        return "it has no LM head"
    if model.config.is_encoder_decoder:
        return "it is an encoder-decoder"
    missing = [name for name in SIZES if getattr(config, name, None) is None]
    if missing:
        return f"its config does not tell {', '.join(missing)}"
    if others:
        return f"it has layers of the type {', '.join(others)}, of which one pass cannot check a tree"
    if model._is_stateful:
        return "it is recurrent, and a state cannot be taken back"
    if getattr(config, "kv_lora_rank", None) is not None:
        return "it compresses keys and values (MLA)"
    if getattr(config, "num_kv_shared_layers", None):
        return "its layers share keys and values"
    if any("CrossAttention" in type(module).__name__ for module in model.get_decoder().modules()):
        return "it has cross-attention"
    if not getattr(model.get_decoder(), "_supports_attention_backend", False):
        return "its attention does not follow transformers' AttentionInterface"
    return None
