"""The target's own answers as training data: its tokens exactly, and what is left out."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from training_parts import FAMILIES, ask, make_parts, make_requests, save_picture, with_answers
from vispec.training import writer
from vispec.training.answers import INSTRUCTION, Written, write_answers
from vispec.training.requests import Request
from vispec.training.samples import encode_sample, read_samples


def generated(
    model: PreTrainedModel, processor: Any, batch: list[Request], budget: int
) -> list[tuple[list[int], list[int]]]:
    """Prompt and answer of each request by transformers alone, in one batch."""
    is_tokenizer = isinstance(processor, PreTrainedTokenizerBase)
    texts = []
    for request in batch:
        content = request.messages[0]["content"]
        messages = [{"role": "user", "content": content[-1]["text"] if is_tokenizer else content}]
        texts.append(processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    images = [Image.open(path).convert("RGB") for request in batch for path in request.images]
    options = {"padding": True, "padding_side": "left", "add_special_tokens": False, "return_tensors": "pt"}
    inputs = processor(text=texts, **({"images": images} if images else {}), **options)
    output = model.generate(**inputs, max_new_tokens=budget, do_sample=False)
    length = inputs["input_ids"].shape[1]
    rows = []
    for row, mask in zip(output, inputs["attention_mask"], strict=True):
        new = row[length:].tolist()
        ends = model.generation_config.eos_token_id
        stop = next((index + 1 for index, token in enumerate(new) if token in ends), len(new))
        rows.append((row[:length][mask.bool()].tolist(), new[:stop]))
    return rows


@pytest.mark.parametrize("family", FAMILIES)
def test_samples_are_what_generate_returns(family: str, tmp_path: Path) -> None:
    model, processor = make_parts(family)
    requests = make_requests(tmp_path, 10, with_images=family != "llama")
    folder = tmp_path / "answers"
    options: dict[str, Any] = {"instruction": "", "max_new_tokens": 24, "batch_size": 4, "num_shards": 1}
    written = write_answers(model, processor, requests, folder, **options)
    samples = {sample.key: sample for sample in read_samples(folder)}
    assert written.num_samples == len(samples)
    lengths = set()
    for start in range(0, 10, 4):
        batch = requests[start : start + 4]
        for request, (prompt, answer) in zip(batch, generated(model, processor, batch, 24), strict=True):
            ended = answer[-1] in model.generation_config.eos_token_id
            if len(answer) == ended:
                assert request.key not in samples
                continue
            sample = samples.pop(request.key)
            assert (sample.ended, sample.images) == (ended, request.images)
            encoded = encode_sample(processor, sample)
            assert encoded.inputs["input_ids"].tolist() == [prompt + answer]
            assert encoded.is_answer.tolist() == [False] * len(prompt) + [True] * len(answer)
            lengths.add(len(answer))
            with torch.no_grad():  # and the forward over the whole text sees the same words ahead
                logits = model(**encoded.inputs).logits[0]
            assert logits[len(prompt) - 1 : -1].argmax(-1).tolist() == answer
    assert not samples
    assert len(lengths) > 2


def test_greedy_whatever_the_model_is_set_to(tmp_path: Path) -> None:
    model, processor = make_parts("llava")
    requests = make_requests(tmp_path, 4, with_images=True)
    options: dict[str, Any] = {"max_new_tokens": 8, "batch_size": 2, "num_shards": 1}
    write_answers(model, processor, requests, tmp_path / "plain", **options)
    model.generation_config.update(do_sample=True, temperature=5.0, top_k=50, num_beams=3, max_length=9)
    model.generation_config.return_dict_in_generate = True
    model.train()
    model.model.vision_tower.eval()
    model.config.text_config.attention_dropout = 0.5
    before = model.generation_config.to_dict(), [module.training for module in model.modules()]
    write_answers(model, processor, requests, tmp_path / "set", **options)
    name = "answers-00000-of-00001.jsonl"
    assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "set" / name).read_bytes()
    assert (model.generation_config.to_dict(), [module.training for module in model.modules()]) == before


def test_the_request_for_a_long_answer(tmp_path: Path) -> None:
    model, processor = make_parts("llava")
    image = str(save_picture(tmp_path / "a.png", 9, 9))
    first = ask(0, " What?\n", (image,))
    earlier = ask(1, "Who? ").messages
    later = Request("1", (*with_answers([ask(1, "Who? ")])[0].messages, *earlier), ())
    bare = Request("2", ({"role": "user", "content": [{"type": "image"}]},), (image,))
    expected = {
        INSTRUCTION: [
            f"<s><user><image> What?\n\n{INSTRUCTION}<assistant>",
            f"<s><user>Who? <assistant>1 apples.</s><user>Who? \n{INSTRUCTION}<assistant>",
            f"<s><user><image>{INSTRUCTION}<assistant>",
        ],
        "": [
            "<s><user><image> What?\n<assistant>",
            "<s><user>Who? <assistant>1 apples.</s><user>Who? <assistant>",
            "<s><user><image><assistant>",
        ],
    }
    for instruction, texts in expected.items():
        folder = tmp_path / f"{len(instruction)}"
        write_answers(model, processor, [first, later, bare], folder, instruction=instruction, max_new_tokens=3)
        assert [sample.text for sample in read_samples(folder)] == texts
    assert "1000 words" in INSTRUCTION


def test_what_cannot_be_trained_on_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, processor = make_parts("llava")
    requests = make_requests(tmp_path, 6, with_images=True)
    picture = Path(requests[1].images[0])
    picture.write_bytes(picture.read_bytes()[:80])
    requests[3] = ask(3, "What is an <image> tag?")
    requests[4] = ask(4, "much " * 2100)
    options: dict[str, Any] = {"max_new_tokens": 12, "batch_size": 3, "num_shards": 1}
    with caplog.at_level(logging.WARNING):
        written = write_answers(model, processor, requests, tmp_path / "answers", **options)
    samples = read_samples(tmp_path / "answers")
    assert [sample.key for sample in samples] == ["0", "2", "5"]
    assert written == Written(3, samples.left_out)
    assert "3 requests left out: " in caplog.text
    for told in (f"cannot read the picture {picture}", "1 times <image> in the text of 0", "the target's 2048 posit"):
        assert sum(told in reason for reason in samples.left_out) == 1
        assert told in caplog.text
    again = write_answers(model, processor, requests, tmp_path / "answers", **options)
    assert again == written


@pytest.mark.parametrize(
    ("token", "reason"), [("</s>", "the answer is empty"), ("<image>", "the answer holds the placeholder of an image")]
)
def test_answers_that_cannot_be_trained_on(token: str, reason: str, tmp_path: Path) -> None:
    model, processor = make_parts("llava")
    written = processor.tokenizer.convert_tokens_to_ids(token)
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    head = model.get_output_embeddings()
    head.register_forward_hook(lambda module, args, logits: logits.index_fill(-1, torch.tensor([written]), 1e4))
    result = write_answers(model, processor, [ask(0, "?")], tmp_path, max_new_tokens=3)
    assert result.num_samples == 0
    assert list(result.left_out.values()) == [1]
    with pytest.raises(ValueError, match=f"expected at least one sample in .*, all were left out: 1 times {reason}"):
        read_samples(tmp_path)


def test_given_dialogues_that_a_template_refuses(tmp_path: Path) -> None:
    _, processor = make_parts("llama")
    processor.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{{ m.role + ': ' + m.content + '\n' }}{% endfor %}{{ 'assistant: ' if add_generation_prompt }}"
    )
    requests = with_answers([ask(0, "a"), ask(1, "b")])
    system = {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
    requests[0] = replace(requests[0], messages=(system, *requests[0].messages))
    written = write_answers(None, processor, requests, tmp_path, generate=False)
    assert written == Written(1, {"the chat template refuses: no system": 1})
    (sample,) = read_samples(tmp_path)
    assert (sample.text, sample.spans) == ("user: b\nassistant: 1 apples.\n", ((19, 28),))
    assert sample.text[19:28] == "1 apples."


def test_a_given_dialogue_with_a_placeholder_in_its_text(tmp_path: Path) -> None:
    _, processor = make_parts("llava")
    requests = with_answers([ask(0, "What is an <image> tag?"), ask(1, "?")])
    written = write_answers(None, processor, requests, tmp_path, generate=False)
    assert written == Written(1, {"1 times <image> in the text of 0 images": 1})


def test_a_template_that_rewrites_earlier_turns(tmp_path: Path) -> None:
    _, processor = make_parts("llama")
    processor.chat_template = (
        "{% for m in messages %}{{ m.role + ': ' + (m.content if loop.last else '...') }}{% endfor %}"
        "{{ 'assistant: ' if add_generation_prompt }}"
    )
    with pytest.raises(ValueError, match="processor: expected a chat template under which a dialogue only grows"):
        write_answers(None, processor, with_answers([ask(0, "a")]), tmp_path, generate=False)
    assert not list(tmp_path.iterdir())


def test_wrong_arguments(tmp_path: Path) -> None:
    model, processor = make_parts("llama")
    requests = [ask(0, "?")]
    for name, value in (("max_new_tokens", 0), ("batch_size", 0), ("num_shards", -1), ("world_size", 0), ("rank", -1)):
        with pytest.raises(ValueError, match=f"{name}: expected at least {0 if name == 'rank' else 1}, got {value}"):
            write_answers(model, processor, requests, tmp_path, **{name: value})
    with pytest.raises(ValueError, match="rank: expected less than world_size 2, got 2"):
        write_answers(model, processor, requests, tmp_path, rank=2, world_size=2)
    with pytest.raises(ValueError, match="requests: expected at least one, got none"):
        write_answers(model, processor, [], tmp_path)
    with pytest.raises(ValueError, match="requests: expected every key once, got 2 times '0'"):
        write_answers(model, processor, requests * 2, tmp_path)
    with pytest.raises(ValueError, match="processor: expected one that takes images, as request '1' has"):
        write_answers(model, processor, [*requests, ask(1, "?", ("a.png",))], tmp_path)
    with pytest.raises(TypeError, match="model: expected a transformers PreTrainedModel, got NoneType"):
        write_answers(None, processor, requests, tmp_path)
    with pytest.raises(TypeError, match="processor: expected a transformers processor or tokenizer, got str"):
        write_answers(model, "processor", requests, tmp_path)
    with pytest.raises(ValueError, match="requests: expected some that work, got none in the first 1: no answer"):
        write_answers(model, processor, requests, tmp_path, generate=False)
    processor.chat_template = None
    with pytest.raises(ValueError, match=r"processor: expected one with a chat template, .* has none"):
        write_answers(model, processor, requests, tmp_path)
    assert not list(tmp_path.iterdir())


def test_only_tokens_and_references_are_stored(tmp_path: Path) -> None:
    model, processor = make_parts("llava")
    requests = make_requests(tmp_path, 3, with_images=True)
    write_answers(model, processor, requests, tmp_path / "answers", max_new_tokens=4, num_shards=1)
    path = tmp_path / "answers" / "answers-00000-of-00001.jsonl"
    for line, request in zip(path.read_text().splitlines(), requests, strict=True):
        record = json.loads(line)
        assert list(record) == ["key", "text", "images", "answer", "ended"]
        assert record["images"] == list(request.images)
        assert len(record["text"]) < 200
    manifest = json.loads((tmp_path / "answers" / "manifest.json").read_text())
    assert manifest["about"] == {"class": "LlavaForConditionalGeneration", "name": ""}
    assert manifest["num_requests"] == 3
    assert writer.fingerprint(model) == manifest["model"]
