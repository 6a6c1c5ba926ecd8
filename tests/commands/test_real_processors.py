"""Dialogues with pictures on one cache, through transformers' real processors: `vispec chat` on every such family."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image

import vispec
from families.processors import PROCESSORS
from models import make_draft, make_target
from vispec.cache import CACHE_NAME
from vispec.commands.dialogue import Dialogue
from vispec.pictures import picture_file

TEMPLATE = """\
{%- for message in messages -%}
{{ '#' if message['role'] == 'user' else '=' }}
{%- for part in message['content'] -%}
{{ IMAGE if part['type'] == 'image' else part['text'] }}
{%- endfor -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '=' }}{%- endif -%}"""
LENGTH = 12
# perception_lm's tiles of several pictures cannot be told apart once they are in one tensor; paligemma's prompts are
# read in both directions, so that turns are no prompt
ONE_PICTURE = ("paligemma", "paligemma2", "perception_lm")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Of two shapes."""
    folder = tmp_path_factory.mktemp("pictures")
    paths = [folder / "wide.png", folder / "flat.png"]
    with Image.open(picture_file("scene")) as picture:
        whole = picture.convert("RGB").resize((96, 64))
    whole.save(paths[0])
    whole.crop((0, 0, 48, 21)).save(paths[1])
    return [str(path) for path in paths]


@pytest.mark.parametrize("name", [name for name in PROCESSORS if name not in ONE_PICTURE])
def test_dialogue(name: str, pictures: list[str]) -> None:
    processor: Any = PROCESSORS[name].build()
    processor.chat_template = TEMPLATE.replace("IMAGE", repr(PROCESSORS[name].image))
    model = make_target(name)
    draft, dialogue = make_draft(model), Dialogue(processor)
    options: dict[str, Any] = {"max_new_tokens": LENGTH, "do_sample": False}
    past: dict[str, Any] = {}
    for question, images in (("what?", pictures[:1]), ("where?", []), ("which?", pictures)):
        inputs = dialogue.ask(question, images)
        plain = model.generate(**inputs, **options)
        output = vispec.generate(model, draft, inputs, return_dict_in_generate=True, **past, **options)
        assert torch.equal(output.sequences, plain)
        past = {CACHE_NAME: output[CACHE_NAME]}
        dialogue.hear(plain[0, inputs["input_ids"].shape[1] :].tolist())
        assert dialogue.grows is (question != "what?")
