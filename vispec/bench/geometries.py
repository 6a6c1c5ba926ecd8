"""Sizes of real models' text decoders: the one table for geometry mode, kernel benchmarks and predictions."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from transformers import AutoConfig, PretrainedConfig


@dataclass(frozen=True)
class Geometry:
    """A text decoder as its config has it.

    Args:
        model_type: transformers' own, of a language model that can be built alone.
    """

    model_type: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int

    def config(self) -> PretrainedConfig:
        """For `AutoModelForCausalLM.from_config`; embedding and head are apart, so that the text can be chosen."""
        sizes = {name: value for name, value in asdict(self).items() if name != "model_type"}
        return AutoConfig.for_model(self.model_type, **sizes, max_position_embeddings=131072, tie_word_embeddings=False)


GEOMETRIES = {
    "Qwen2.5-VL-3B": Geometry("qwen2", 2048, 11008, 36, 16, 2, 128, 151936),
    "Qwen2.5-VL-7B": Geometry("qwen2", 3584, 18944, 28, 28, 4, 128, 152064),
    "Qwen3-VL-8B": Geometry("qwen3", 4096, 12288, 36, 32, 8, 128, 151936),
    "LLaVA-1.6-7B": Geometry("llama", 4096, 11008, 32, 32, 32, 128, 32064),
    "LLaVA-1.6-13B": Geometry("llama", 5120, 13824, 40, 40, 40, 128, 32064),
    "tiny": Geometry("llama", 192, 512, 4, 3, 3, 64, 4096),  # for CPUs
}
