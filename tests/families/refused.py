"""Models whose layers are more, or other, than self-attention over all tokens."""

from __future__ import annotations

from collections.abc import Callable

from transformers import (
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    Lfm2Config,
    Lfm2VlConfig,
    Lfm2VlForConditionalGeneration,
    MllamaConfig,
    MllamaForConditionalGeneration,
    PreTrainedModel,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Siglip2VisionConfig,
)

from families.common import IMAGE_TOKEN, VISION, text_fields

HEADS = (4, 2)


def _lfm2_vl() -> PreTrainedModel:
    text = Lfm2Config(**text_fields(HEADS), layer_types=["conv", "full_attention", "conv"])
    vision = Siglip2VisionConfig(**VISION, patch_size=4, num_patches=16)
    return Lfm2VlForConditionalGeneration(
        Lfm2VlConfig(text_config=text, vision_config=vision, image_token_id=IMAGE_TOKEN)
    )


def _qwen3_5() -> PreTrainedModel:
    linear = {"linear_num_key_heads": 2, "linear_num_value_heads": 2}
    text = text_fields(HEADS, **linear, layer_types=["linear_attention", "linear_attention", "full_attention"])
    vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 64}
    return Qwen3_5ForConditionalGeneration(Qwen3_5Config(text_config=text, vision_config=vision))


def _mllama() -> PreTrainedModel:
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_global_layers": 1}
    vision |= {"attention_heads": 2, "image_size": 32, "patch_size": 8, "vision_output_dim": 64}
    text = text_fields(HEADS, cross_attention_layers=[1])
    return MllamaForConditionalGeneration(
        MllamaConfig(
            text_config=text,
            vision_config={**vision, "intermediate_layers_indices": [0], "supported_aspect_ratios": [[1, 1]]},
        )
    )


def _deepseek_v3() -> PreTrainedModel:
    latent = {"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16}
    return DeepseekV3ForCausalLM(DeepseekV3Config(**text_fields(HEADS), **latent, first_k_dense_replace=3))


# builder, and a word of the reason
REFUSED: dict[str, tuple[Callable[[], PreTrainedModel], str]] = {
    "lfm2_vl": (_lfm2_vl, "layers of the type conv"),
    "qwen3_5": (_qwen3_5, "layers of the type linear_attention"),
    "mllama": (_mllama, "cross-attention"),
    "deepseek_v3": (_deepseek_v3, "MLA"),
}
