"""Numbers recorded from the published ViSpec code (KangJialiang/ViSpec, commit d0240c8), see golden/."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

import vispec
from vispec.target import Prompt

GOLDEN = Path(__file__).parent / "golden"
DRAFTS = ("llava_like", "qwen_like", "nobias_q1")
ATOL = 1e-5  # what an independent fp32 implementation reaches


def golden(draft: str, name: str) -> dict[str, Tensor]:
    """The tensors of `golden/DRAFT/NAME.safetensors`."""
    return load_file(GOLDEN / draft / f"{name}.safetensors")


def cases(prefix: str) -> list[tuple[str, str]]:
    """`(draft, name)` of all recorded files whose name starts with `prefix`."""
    return [(draft, file.stem) for draft in DRAFTS for file in sorted((GOLDEN / draft).glob(f"{prefix}*"))]


def golden_target(draft: str) -> LlamaForCausalLM:
    """A model with the recorded embedding and LM head; its layers are not used."""
    weights = golden(draft, "target")
    embedding = weights.get("embed_tokens.weight")
    if embedding is None:
        embedding = load_file(GOLDEN / "drafters" / draft / "model.safetensors")["embed_tokens.weight"]
    vocab_size, hidden_size = embedding.shape
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    model = LlamaForCausalLM(config).eval()
    model.get_input_embeddings().weight.data = embedding
    model.get_output_embeddings().weight.data = weights["lm_head.weight"]
    return model


def golden_draft(draft: str, target: LlamaForCausalLM) -> vispec.Draft:
    return vispec.load_draft(GOLDEN / "drafters" / draft, target)


def golden_prompt(recorded: dict[str, Tensor]) -> tuple[Prompt, Tensor]:
    """The recorded prompt and root token. Images are the runs of the recorded mask."""
    mask = recorded["image_mask"].tolist()
    starts = [i for i, bit in enumerate(mask) if bit and not (i and mask[i - 1])]
    ends = [i + 1 for i, bit in enumerate(mask) if bit and not (i + 1 < len(mask) and mask[i + 1])]
    prompt = Prompt(
        logits=torch.empty(1, 0),
        embeds=recorded["inputs_embeds"][None],
        features=recorded["target_hidden"][None],
        images=[list(zip(starts, ends, strict=True))],
        starts=[0],
    )
    return prompt, recorded["input_ids"][-1:].long()


def assert_close(ours: Tensor, recorded: Tensor, atol: float = ATOL) -> None:
    torch.testing.assert_close(ours, recorded, rtol=0, atol=atol)
