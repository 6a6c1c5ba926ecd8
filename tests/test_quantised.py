"""Targets with 8-bit and 4-bit weights.

Where weights alone are quantised, a pass over many tokens differs from one over each by a rounding, as without it.
Where activations are quantised too, a rounding may push a value to the next of 255 steps, and bitsandbytes' 8-bit
layers keep those columns exact in which any token of the pass is large: such a pass differs by about a step.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, PreTrainedModel, TorchAoConfig

import vispec
from lossless import assert_same_text
from models import make_batch, make_draft, make_prompt, make_target
from vispec import TreeConfig
from vispec.draft.checkpoint import save_model, shorten_vocabulary
from vispec.graphs import why_not

pytestmark = pytest.mark.release  # for its packages
WIDTH = 128  # bitsandbytes' 4-bit layers take multiples of 64
NOT_QUANTISED = ["lm_head", "model.vision_tower", "model.visual", "model.multi_modal_projector"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def torchao(name: str, **options: Any) -> Callable[[torch.dtype], TorchAoConfig]:
    def config(dtype: torch.dtype) -> TorchAoConfig:
        from torchao import quantization

        embeddings = options.get("include_input_output_embeddings", False)
        if name == "4-bit weights":
            kind = quantization.IntxWeightOnlyConfig(weight_dtype=torch.int4)
        elif name == "8-bit weights":
            kind = quantization.Int8WeightOnlyConfig()
        else:
            kind = quantization.Int8DynamicActivationInt8WeightConfig()
        return TorchAoConfig(kind, include_input_output_embeddings=embeddings)

    return config


def bitsandbytes(**options: Any) -> Callable[[torch.dtype], BitsAndBytesConfig]:
    return lambda dtype: BitsAndBytesConfig(
        llm_int8_skip_modules=NOT_QUANTISED, bnb_4bit_compute_dtype=dtype, **options
    )


TORCHAO = {name: torchao(name) for name in ("8-bit weights", "4-bit weights", "8-bit weights and activations")}
BITSANDBYTES = {
    "8-bit": bitsandbytes(load_in_8bit=True),
    "4-bit, fp4": bitsandbytes(load_in_4bit=True, bnb_4bit_quant_type="fp4"),
    "4-bit, nf4": bitsandbytes(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Targets whose layers' inner width can be quantised."""
    found = {}
    for family in ("llava", "qwen2_5_vl"):
        model, generator = make_target(family), torch.Generator().manual_seed(0)
        text = model.config.get_text_config()
        text.intermediate_size = WIDTH
        for layer in model.get_decoder().layers:
            for name in ("gate_proj", "up_proj"):
                setattr(layer.mlp, name, drawn(text.hidden_size, WIDTH, 1.0, generator))
            layer.mlp.down_proj = drawn(WIDTH, text.hidden_size, 0.35, generator)
        found[family] = tmp_path_factory.mktemp(family)
        model.save_pretrained(found[family])
    return found


def drawn(inputs: int, outputs: int, std: float, generator: torch.Generator) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.normal_(layer.weight, std=std * inputs**-0.5, generator=generator)
    return layer


def load(folder: Path, family: str, config: Callable[[torch.dtype], Any], dtype: torch.dtype) -> PreTrainedModel:
    kind = type(make_target(family))
    model = kind.from_pretrained(folder, quantization_config=config(dtype), dtype=dtype, device_map="cpu").eval()
    model.generation_config.pad_token_id = 0
    return model


def draft_for(model: PreTrainedModel, family: str) -> vispec.Draft:
    return vispec.Draft(make_draft(make_target(family)).model, model)


def prompts(model: PreTrainedModel, count: int, seed: int) -> list[dict[str, Tensor]]:
    rng = random.Random(seed)
    found = [make_prompt(model, ("one image", "text", "two separate images")[index % 3], rng) for index in range(count)]
    return [{k: x.to(model.dtype) if x.is_floating_point() else x for k, x in prompt.items()} for prompt in found]


def check(folders: dict[str, Path], family: str, config: Callable[[torch.dtype], Any], dtype: str, count: int) -> None:
    """Single prompts, a batch of ragged ones, and drawn tokens."""
    model = load(folders[family], family, config, DTYPES[dtype])
    draft = draft_for(model, family)
    assert (draft.model.dtype, draft.model.device) == (DTYPES[dtype], torch.device("cpu"))
    assert why_not(model) == "the target is quantised, which was never tried"
    accepted = 0
    for inputs in (*prompts(model, count, seed=0), make_batch(prompts(model, 3, seed=1))):
        output = assert_same_text(model, draft, inputs, TreeConfig(), max_new_tokens=32)
        accepted += int(output.speculation.num_accepted.clamp(min=0).sum())
    assert accepted > 0


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
@pytest.mark.parametrize("method", TORCHAO)
def test_torchao(method: str, family: str, folders: dict[str, Path]) -> None:
    check(folders, family, TORCHAO[method], "float32", count=3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
@pytest.mark.parametrize("method", [*TORCHAO, *BITSANDBYTES])
def test_60_prompts(method: str, family: str, dtype: str, folders: dict[str, Path]) -> None:
    check(folders, family, {**TORCHAO, **BITSANDBYTES}[method], dtype, count=60)


def test_the_same_draws_as_without_a_draft(folders: dict[str, Path]) -> None:
    model = load(folders["llava"], "llava", TORCHAO["8-bit weights"], torch.float32)
    draft, texts = draft_for(model, "llava"), []
    inputs = prompts(model, 1, seed=2)[0]
    for drafted in (None, draft):
        torch.manual_seed(0)
        texts.append(vispec.generate(model, drafted, inputs, do_sample=True, max_new_tokens=32))
    assert torch.equal(*texts)


def test_a_quantised_head(folders: dict[str, Path], tmp_path: Path) -> None:
    """Its rows cannot be taken out; whole, it serves the draft."""
    config = torchao("8-bit weights", include_input_output_embeddings=True)
    model = load(folders["llava"], "llava", config, torch.float32)
    save_model(shorten_vocabulary(make_draft(make_target("llava")).model, {}, 40), tmp_path)
    words = r"^draft: its shortlist .* got Linear, Int8Tensor on cpu; load it with full_vocabulary=True$"
    with pytest.raises(NotImplementedError, match=words):
        vispec.load_draft(tmp_path, model)
    draft = vispec.load_draft(tmp_path, model, full_vocabulary=True)
    assert_same_text(model, draft, prompts(model, 1, seed=3)[0], TreeConfig(), max_new_tokens=32)
