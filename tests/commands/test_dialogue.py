"""Dialogues grow token by token under chat templates of several kinds, or say that they do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from vispec.commands.dialogue import Dialogue
from vispec.pair.tokenizer import CHAT_TEMPLATE, make_processor
from vispec.pictures import picture_file
from vispec.training.prompts import append_inputs, encode_text

SCENE, SIGN = str(picture_file("scene")), str(picture_file("sign"))
TURNS = [("What is this?", [SCENE], "A red square."), ("And left of it?", [], "Nothing."), ("Here?", [SIGN], "A sign.")]
# writes a system prompt, and no end of turn that the target writes
NO_END = """\
{%- for message in messages -%}
{%- if message['role'] == 'system' -%}{{ message['content'][0]['text'] }}
{%- else -%}{{ '<user>' if message['role'] == 'user' else '<assistant>' }}
{%- for part in message['content'] -%}{{ '<image>' if part['type'] == 'image' else part['text'] }}{%- endfor -%}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<assistant>' }}{%- endif -%}"""
# has the target think, and leaves the thoughts of earlier turns out
THOUGHTS = CHAT_TEMPLATE.replace("{{ '<assistant>' }}\n{%- endif -%}", "{{ '<assistant>Thoughts:' }}\n{%- endif -%}")


@pytest.fixture(scope="module")
def processor() -> Any:
    return make_processor()


def with_template(template: str | None) -> Any:
    processor = make_processor()
    processor.chat_template = processor.tokenizer.chat_template = template
    return processor


def ids_of(processor: Any, text: str) -> list[int]:
    return processor.tokenizer(text, add_special_tokens=False)["input_ids"]


def talk(processor: Any, dialogue: Dialogue, end: list[int]) -> str:
    """All turns; the text that a dialogue should be by now."""
    text = processor.tokenizer.bos_token if processor.chat_template == CHAT_TEMPLATE else ""
    for question, images, answer in TURNS:
        dialogue.ask(question, images)
        assert dialogue.hear(ids_of(processor, answer) + end) == answer
        stop = "</s>" if processor.chat_template == CHAT_TEMPLATE else ""
        text += f"<user>{'<image>' * len(images)}{question}<assistant>{answer}{stop}"
    return text


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, NO_END], ids=["with end", "without"])
@pytest.mark.parametrize("ends", [True, False], ids=["answers end", "are cut"])
def test_it_reads_as_a_dialogue_read_at_once(template: str, ends: bool) -> None:
    """Tensors and all, whether the target wrote an end token or was stopped before it."""
    processor = with_template(template)
    dialogue = Dialogue(processor, {processor.tokenizer.eos_token_id})
    text = talk(processor, dialogue, [processor.tokenizer.eos_token_id] if ends else [])
    inputs = dialogue.ask("Really?")
    assert dialogue.grows
    whole = encode_text(processor, text + "<user>Really?<assistant>", [SCENE, SIGN])
    assert inputs.keys() == whole.keys()
    for name, value in whole.items():
        assert torch.equal(inputs[name], value), name


def test_answers_stay_as_they_were_written(processor: Any) -> None:
    """Also where the same text would be read as other tokens."""
    odd = [token for char in "square" for token in ids_of(processor, char)]
    assert processor.tokenizer.decode(odd) == "square"
    assert ids_of(processor, "square") != odd
    dialogue = Dialogue(processor)
    first = dialogue.ask("What?")["input_ids"][0].tolist()
    assert dialogue.hear(odd) == "square"
    second = dialogue.ask("What?")["input_ids"][0].tolist()
    assert second[: len(first) + len(odd)] == first + odd
    assert dialogue.grows


def test_a_question_without_an_answer_is_forgotten(processor: Any) -> None:
    dialogue = Dialogue(processor)
    expected = dialogue.ask("What?", [SCENE])
    dialogue.ask("Where?", [SIGN])
    again = dialogue.ask("What?", [SCENE])
    assert all(torch.equal(again[name], value) for name, value in expected.items())
    dialogue.hear([])
    dialogue.reset()
    assert dialogue.ask("What?", [SCENE]).keys() == expected.keys()
    assert not dialogue.grows


def test_a_template_that_rewrites(processor: Any) -> None:
    rewriting = with_template(THOUGHTS)
    dialogue = Dialogue(rewriting)
    dialogue.ask("What?", [SCENE])
    dialogue.hear(ids_of(rewriting, " none. A square."))
    inputs = dialogue.ask("Where?", [SIGN])
    assert not dialogue.grows
    text = "<s><user><image>What?<assistant> none. A square.</s><user><image>Where?<assistant>Thoughts:"
    whole = encode_text(rewriting, text, [SCENE, SIGN])
    assert all(torch.equal(inputs[name], value) for name, value in whole.items())


def test_system(processor: Any) -> None:
    with pytest.raises(ValueError, match="system: the model's chat template has no system prompt"):
        Dialogue(processor, system="Be brief.")
    dialogue = Dialogue(with_template(NO_END), system="Be brief.")
    for _ in range(2):
        ids = dialogue.ask("What?")["input_ids"][0].tolist()
        assert ids == ids_of(processor, "Be brief.<user>What?<assistant>")
        dialogue.hear([])
        dialogue.reset()


def test_a_template_that_refuses_a_system_prompt() -> None:
    refusing = with_template("{{ raise_exception('no system') if messages[0]['role'] == 'system' }}?")
    with pytest.raises(ValueError, match="system: the chat template refuses: no system"):
        Dialogue(refusing, system="Be brief.")


def test_text_alone(processor: Any, tmp_path: Path) -> None:
    """A language model has a tokenizer, whose template joins texts."""
    tokenizer = make_processor().tokenizer
    dialogue = Dialogue(tokenizer)
    dialogue.ask("What?")
    dialogue.hear(ids_of(processor, "That."))
    ids = dialogue.ask("Where?")["input_ids"][0].tolist()
    assert ids == ids_of(processor, "<s><user>What?<assistant>That.</s><user>Where?<assistant>")
    with pytest.raises(ValueError, match="the model reads text alone, no images"):
        dialogue.ask("What?", [SCENE])


def test_no_template() -> None:
    with pytest.raises(ValueError, match="chat template"):
        Dialogue(with_template(None))


@pytest.mark.parametrize(
    ("question", "image", "words"),
    [(" ", None, "expected some words, got none"), ("<image>?", None, "1 times <image>"), ("?", "text", "cannot read")],
)
def test_what_cannot_be_asked(processor: Any, tmp_path: Path, question: str, image: str | None, words: str) -> None:
    """The dialogue is as it was."""
    (tmp_path / "text").write_text("no image")
    dialogue = Dialogue(processor)
    with pytest.raises(ValueError, match=words):
        dialogue.ask(question, [str(tmp_path / image)] if image else [])
    assert dialogue.ask("What?")["input_ids"][0].tolist() == ids_of(processor, "<s><user>What?<assistant>")


def test_inputs_of_other_shapes() -> None:
    """What has a value a token is text where a processor leaves it out; tiles are padded."""
    first = {"input_ids": torch.ones(1, 3, dtype=torch.int64), "pixel_values": torch.ones(1, 2, 3, 4, 4)}
    second = {
        "input_ids": torch.ones(1, 4, dtype=torch.int64),
        "attention_mask": torch.ones(1, 4, dtype=torch.int64),
        "token_type_ids": torch.ones(1, 4, dtype=torch.int64),
        "pixel_values": torch.ones(1, 3, 3, 4, 4),
        "image_sizes": torch.ones(1, 2),
    }
    joined = append_inputs(first, second)
    assert joined["attention_mask"].tolist() == [[1] * 7]
    assert joined["token_type_ids"].tolist() == [[0, 0, 0, 1, 1, 1, 1]]
    assert joined["pixel_values"].sum(dim=(1, 2, 3, 4)).tolist() == [96, 144]
    assert joined["image_sizes"].shape == (1, 2)


def test_pictures_are_upright(processor: Any, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be turned by 90 degrees
    with Image.open(SCENE) as image:
        image.save(tmp_path / "turned.png", exif=exif)
        image.rotate(-90).save(tmp_path / "upright.png")
    turned, upright = (
        Dialogue(processor).ask("?", [str(tmp_path / name)])["pixel_values"] for name in ("turned.png", "upright.png")
    )
    assert torch.equal(turned, upright)
