"""Small real targets, prompts for them, and drafts that agree with them now and then.

The families are in `families`, those that nearly every test runs in `BUILDERS`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from families import TABLE
from families.common import (
    FIRST_SPECIAL,
    HEAD_DIM,
    IMAGE_TOKEN,
    LAST_SPECIAL,
    VIDEO_TOKEN,
    VOCAB_SIZE,
    Family,
    OfRows,
    Visuals,
    concatenated,
)
from vispec import Draft, DraftConfig
from vispec.draft.model import DraftModel

__all__ = ["HEAD_DIM", "IMAGE_TOKEN", "VOCAB_SIZE"]  # from `families`

# query heads, key/value heads: grouped, odd, all alike
HEADS = ((4, 2), (3, 1), (3, 3))
# what stands in a prompt: text of random length, an image or a video
LAYOUTS = {
    "text": "t",
    "one image": "tit",
    "image first": "it",
    "two adjacent images": "tiit",
    "two separate images": "titit",
}
VIDEO_LAYOUTS = {"one video": "tvt", "two videos": "vtvt"}
MIXED_LAYOUTS = {"image and video": "titvt", "video and images": "vitit"}
ALL_LAYOUTS = {**LAYOUTS, **VIDEO_LAYOUTS, **MIXED_LAYOUTS}
BY_TOKEN = {"input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids"}  # inputs as long as the prompt
BUILDERS = {name: TABLE[name].build for name in ("llama", "llava", "llava_next", "qwen2", "qwen2_5_vl")}
VISION_FAMILIES = ("llava", "llava_next", "qwen2_5_vl")


def make_target(
    family: str, heads: tuple[int, int] = (4, 2), dtype: torch.dtype = torch.float32, seed: int = 0
) -> PreTrainedModel:
    """A random target whose next token hangs on the last one much, and on everything before it a little."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = TABLE[family].build(heads).eval()
        if not TABLE[family].has_sdpa:
            model.set_attn_implementation("eager")
        for name, parameter in model.get_decoder().named_parameters():
            if parameter.ndim == 2:
                std = 1.0 if "embed_tokens" in name else (0.35 if "o_proj" in name or "down_proj" in name else 1.0)
                torch.nn.init.normal_(parameter, std=std * parameter.shape[1] ** -0.5)
        torch.nn.init.normal_(model.get_input_embeddings().weight, std=1.0)
        head = torch.nn.init.normal_(model.get_output_embeddings().weight, std=1.0)
        head.data[FIRST_SPECIAL : LAST_SPECIAL + 1] = (
            0.0  # never written: a text with placeholders cannot be read again
        )
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model.to(dtype)


def make_draft(model: PreTrainedModel, num_queries: int = 2, seed: int = 0) -> Draft:
    """A random draft that guesses by the last token, as the target mostly does: some cycles accept, others do not."""
    text = model.config.get_text_config()
    config = DraftConfig(
        hidden_size=text.hidden_size,
        intermediate_size=64,
        num_attention_heads=text.num_attention_heads,
        num_key_value_heads=text.num_key_value_heads,
        vocab_size=text.vocab_size,
        num_queries=num_queries,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        draft = DraftModel(config)
        with torch.no_grad():
            draft.fc.weight.mul_(0.1)[:, : text.hidden_size].add_(torch.eye(text.hidden_size))
            torch.nn.init.normal_(draft.img_fc.weight[:, text.hidden_size :], std=text.hidden_size**-0.5)
            draft.layers[0].self_attn.o_proj.weight.mul_(0.3)
    return Draft(draft, model)


Pair = tuple[PreTrainedModel, Draft]


def make_pair(family: str) -> Pair:
    """A new target and a draft for it."""
    model = make_target(family)
    return model, make_draft(model)


def family_of(model: PreTrainedModel) -> Family:
    """The table's entry for a model."""
    return next(family for family in TABLE.values() if family.model_type == model.config.model_type)


def layouts_of(family: Family) -> tuple[str, ...]:
    """Those that a family reads. Where a video's frames stand in a prompt as images would, it has no images beside."""
    if family.images is None:
        return ("text",)
    if family.videos is None:
        return tuple(LAYOUTS)
    pieces = family.videos(family.build(HEADS[0]), 1, random.Random(0)).pieces
    is_mixed = VIDEO_TOKEN in pieces[0][0]
    return tuple(ALL_LAYOUTS if is_mixed else {**LAYOUTS, **VIDEO_LAYOUTS})


def make_prompt(model: PreTrainedModel, layout: str, rng: random.Random, most_text: int = 12) -> dict[str, Tensor]:
    """A random prompt of `ALL_LAYOUTS[layout]`: random ids, random pixels, everything `generate` needs."""
    return make_prompt_and_runs(model, layout, rng, most_text)[0]


def make_prompt_and_runs(
    model: PreTrainedModel, layout: str, rng: random.Random, most_text: int = 12
) -> tuple[dict[str, Tensor], list[tuple[int, int]]]:
    """A prompt, and where its images and videos are: `(first, last + 1)` of the placeholders of each piece."""
    family, parts = family_of(model), ALL_LAYOUTS[layout]
    visuals = {
        kind: make(model, parts.count(kind), rng)
        for kind, make in (("i", family.images), ("v", family.videos))
        if make is not None and kind in parts
    }
    remaining = {kind: iter(of_kind.pieces) for kind, of_kind in visuals.items()}
    ids: list[int] = []
    runs: list[tuple[int, int]] = []
    for part in parts:
        if part == "t":
            ids += [rng.randrange(3, IMAGE_TOKEN) for _ in range(rng.randint(1, most_text))]
            continue
        for piece in next(remaining[part]):
            places = [len(ids) + place for place, token in enumerate(piece) if token in (IMAGE_TOKEN, VIDEO_TOKEN)]
            if places:
                runs.append((places[0], places[-1] + 1))
            ids += piece
    inputs = {"input_ids": torch.tensor([ids]), **_inputs_of(visuals)}
    return {**inputs, **family.of_ids(inputs["input_ids"])}, runs


def _inputs_of(visuals: dict[str, Visuals]) -> dict[str, Tensor]:
    return {name: value for of_kind in visuals.values() for name, value in of_kind.inputs.items()}


def make_batch(prompts: Sequence[dict[str, Tensor]], of_rows: OfRows = concatenated) -> dict[str, Tensor]:
    """Prompts of one family, padded on the left as a processor does it; `of_rows`: see `Family`."""
    longest = max(prompt["input_ids"].shape[1] for prompt in prompts)
    prompts = [{**prompt, "attention_mask": torch.ones_like(prompt["input_ids"])} for prompt in prompts]
    batch = of_rows([{name: p[name] for name in p if name not in BY_TOKEN} for p in prompts])
    for name in BY_TOKEN & prompts[0].keys():
        rows = [prompt[name][0] for prompt in prompts]
        batch[name] = torch.stack([F.pad(row, (longest - len(row), 0)) for row in rows])
    return batch
