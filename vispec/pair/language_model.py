"""The larger recipe: a pretrained language model, such as SmolLM2-135M-Instruct, and the pair's vision tower.

The tower first learns to write the words of what each patch shows in the language model's own embeddings, so that an
image reads like words; then answers are learnt end to end.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from vispec.pair.dataset import SHARES
from vispec.pair.recipe import Recipe, Stage, align_stage
from vispec.pair.target import make_generation_config, make_vision_config
from vispec.pair.tokenizer import SPECIAL, make_processor

TUNE = ("frozen", "lora", "all")
TEXT_MODELS = ("llama", "qwen2")  # that vispec decodes as part of a Llava
LORA_RANK = 16
IMAGE_SLOT = """\
{%- set flat = namespace(messages=[], text='') -%}
{%- for message in messages -%}
{%- set flat.text = '' -%}
{%- if message['content'] is string -%}
{%- set flat.text = message['content'] -%}
{%- else -%}
{%- for part in message['content'] -%}
{%- set flat.text = flat.text + ('<image>' if part['type'] == 'image' else part['text']) -%}
{%- endfor -%}
{%- endif -%}
{%- set flat.messages = flat.messages + [dict(role=message['role'], content=flat.text)] -%}
{%- endfor -%}
{%- set messages = flat.messages -%}
"""  # put before a language model's template, which knows contents that are strings


def default_stages(tune: str) -> tuple[Stage, ...]:
    """As many pictures as the pair's target sees. Pretrained weights move less, and not by Muon."""
    return (
        align_stage(SHARES),
        Stage(
            name="tune",
            num_pools=330,
            pool_size=160,
            tokens=4096,
            learning_rate={"frozen": 1e-3, "lora": 5e-4, "all": 2e-4}[tune],
            warm_up=0.03,
            final=0.0,
            shares=SHARES,
            num_turns=3,
            muon=tune == "frozen",
        ),
    )


class LanguageModelRecipe(Recipe):
    """A language model that learns to see.

    Args:
        name: a folder, a name on the Hub, or a .gguf file.
        tune: "frozen": the model stays as it is; "lora": low-rank adapters of its layers are trained and merged into
            it in the end; "all": its weights are trained.
        stages: None: `default_stages(tune)`.

    Raises:
        ImportError: "lora" without peft.
        OSError: no such model.
        ValueError: an unknown `tune`, or a model of another family or without a chat template.
    """

    def __init__(self, name: str, tune: str = "frozen", stages: tuple[Stage, ...] | None = None) -> None:
        if tune not in TUNE:
            raise ValueError(f"tune: expected one of {', '.join(TUNE)}, got {tune!r}")
        if tune == "lora":
            _import_peft()
        self.name, self.tune = name, tune
        tokenizer = AutoTokenizer.from_pretrained(**_place(name))
        _add_image_slot(tokenizer, name)
        lengths = self._read().get_input_embeddings().weight.detach().norm(dim=-1)
        processor = make_processor(tokenizer)
        processor.chat_template = tokenizer.chat_template
        super().__init__(processor, stages or default_stages(tune), float(lengths.mean()))

    def make_model(self, stage: Stage) -> LlavaForConditionalGeneration:
        model = self._make_plain()
        if self.tune == "lora":
            peft = _import_peft()
            config = peft.LoraConfig(r=LORA_RANK, lora_alpha=2 * LORA_RANK, target_modules=r".*layers\..*_proj")
            peft.inject_adapter_in_model(config, model.model.language_model)
        return model

    def trains(self, name: str, stage: Stage) -> bool:
        is_vision = name.startswith(("model.vision_tower.", "model.multi_modal_projector."))
        is_tuned = self.tune == "all" or (self.tune == "lora" and ".lora_" in name)
        return super().trains(name, stage) and (is_vision or is_tuned)

    def finished(self, model: LlavaForConditionalGeneration, stage: Stage) -> LlavaForConditionalGeneration:
        """With the adapters merged into the weights."""
        if self.tune != "lora":
            return super().finished(model, stage)
        merged = super().finished(model, stage)
        for module in merged.modules():
            if isinstance(module, _import_peft().tuners.lora.LoraLayer):
                module.merge()
        state = {k.replace(".base_layer.", "."): v for k, v in merged.state_dict().items() if ".lora_" not in k}
        plain = self._make_plain()
        plain.load_state_dict(state)
        return plain

    def _read(self) -> PreTrainedModel:
        model = AutoModelForCausalLM.from_pretrained(**_place(self.name), dtype=torch.float32)
        if model.config.model_type not in TEXT_MODELS:
            raise ValueError(
                f"language_model: expected one of the families {', '.join(TEXT_MODELS)}, got {model.config.model_type}"
            )
        return model

    def _make_plain(self) -> LlavaForConditionalGeneration:
        """The tower is new, the language model as it was read, with a row for the image token."""
        source = self._read()
        tokenizer = self.processor.tokenizer
        image_id: int = tokenizer.convert_tokens_to_ids(SPECIAL["image"])
        text = copy.deepcopy(source.config)
        text.vocab_size = max(text.vocab_size, image_id + 1)
        tied = bool(text.tie_word_embeddings)
        config = LlavaConfig(
            vision_config=make_vision_config(),
            text_config=text,
            image_token_index=image_id,
            vision_feature_layer=-1,
            tie_word_embeddings=tied,
        )
        model = LlavaForConditionalGeneration(config)
        weights = source.get_decoder().state_dict()
        weights["embed_tokens.weight"] = _with_image_row(weights["embed_tokens.weight"], text.vocab_size, image_id)
        model.model.language_model.load_state_dict(weights)
        if not tied:
            head = source.get_output_embeddings().weight.detach()
            model.lm_head.load_state_dict({"weight": _with_image_row(head, text.vocab_size, image_id)})
        model.generation_config = make_generation_config(tokenizer)
        return model


def _import_peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise ImportError('tune: "lora" needs peft; `pip install ".[lora]"` brings it') from error
    return peft


def _place(name: str) -> dict[str, str]:
    """Arguments of `from_pretrained`."""
    path = Path(name)
    if path.suffix == ".gguf":
        return {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    return {"pretrained_model_name_or_path": name}


def _add_image_slot(tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    """A token for images, and the model's own chat template with a place for it."""
    template = tokenizer.chat_template
    if not isinstance(template, str) or tokenizer.eos_token is None:
        raise ValueError(f"language_model: expected one with a chat template and an end of sequence, got {name}")
    tokenizer.add_tokens([SPECIAL["image"]], special_tokens=True)
    tokenizer.chat_template = IMAGE_SLOT + template
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token


def _with_image_row(weight: Tensor, num_rows: int, image_id: int) -> Tensor:
    """`[num_rows, H]`; the image token's row is the mean, so that its logit is never the greatest."""
    rows = weight.new_zeros(num_rows, weight.shape[1])
    rows[: len(weight)] = weight
    rows[image_id] = weight.mean(0)
    return rows
