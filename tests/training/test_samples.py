"""What a target is fed for a stored sample: its own tokens back, and given answers where they stand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers.processors import TemplateProcessing

from training_parts import FAMILIES, make_parts, save_picture
from vispec.training.answers import write_answers
from vispec.training.prompts import UnusableSample, encode_text, open_image
from vispec.training.requests import Request
from vispec.training.samples import StoredSample, encode_sample, read_samples

TURNS = ("What is shown here?", "Two red circles.\n", "And then? é €", " They're gone… \U0001f600")
ORIENTATION = 0x0112  # the EXIF field


def dialogue(images: tuple[str, ...] = (), where: tuple[int, ...] = ()) -> Request:
    """`TURNS`, with images before the turns `where`."""
    messages = []
    for index, words in enumerate(TURNS):
        content: list[dict[str, str]] = [{"type": "image"}] * where.count(index)
        messages.append(
            {"role": ("user", "assistant")[index % 2], "content": [*content, {"type": "text", "text": words}]}
        )
    return Request("0", tuple(messages), images)


def store(processor: Any, request: Request, folder: Path) -> StoredSample:
    write_answers(None, processor, [request], folder, generate=False, num_shards=1)
    (sample,) = read_samples(folder)
    return sample


def runs_of(mask: torch.Tensor, ids: torch.Tensor) -> list[list[int]]:
    """The marked tokens, a list a run."""
    runs: list[list[int]] = []
    for index, marked in enumerate(mask.tolist()):
        if marked:
            runs += [[]] if index == 0 or not mask[index - 1] else []
            runs[-1].append(int(ids[index]))
    return runs


@pytest.mark.parametrize("where", [(0,), (0, 2), (2, 2)], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_given_answers_are_marked(family: str, where: tuple[int, ...], tmp_path: Path) -> None:
    model, processor = make_parts(family)
    if family == "llama":
        where = ()
    images = tuple(str(save_picture(tmp_path / f"{i}.png", 20 + 9 * i, 30, i)) for i in range(len(where)))
    sample = store(processor, dialogue(images, where), tmp_path / "samples")
    assert sample.answer is None
    assert [sample.text[start:end] for start, end in sample.spans] == [f"{TURNS[1]}</s>", f"{TURNS[3]}</s>"]
    encoded = encode_sample(processor, sample)
    ids = encoded.inputs["input_ids"]
    tokenizer = getattr(processor, "tokenizer", processor)
    assert [tokenizer.decode(run) for run in runs_of(encoded.is_answer, ids[0])] == [
        f"{TURNS[1]}</s>",
        f"{TURNS[3]}</s>",
    ]
    assert tokenizer.decode(ids[0, 0]) == "<s>"
    assert (ids == tokenizer.bos_token_id).sum() == 1
    assert encoded.is_answer.shape == ids[0].shape
    if where:
        expected = processor(images=[Image.open(path) for path in images], text=sample.text, add_special_tokens=False)
        assert ids[0].tolist() == list(expected["input_ids"][0])
    with torch.no_grad():
        assert model(**encoded.inputs).logits.shape[:2] == ids.shape


def test_tokens_that_a_target_wrote_are_kept_as_they_are() -> None:
    """Not what tokenising their text again would give."""
    _, processor = make_parts("llama")
    letters = [processor.convert_tokens_to_ids(letter) for letter in "red"]
    assert processor("red", add_special_tokens=False)["input_ids"] != letters
    sample = StoredSample("0", "<s><user>?<assistant>", (), answer=(*letters, 2), ended=True)
    encoded = encode_sample(processor, sample)
    assert encoded.inputs["input_ids"][0, -4:].tolist() == [*letters, 2]
    assert encoded.inputs["attention_mask"].all()
    assert encoded.inputs["attention_mask"].shape == encoded.inputs["input_ids"].shape
    assert encoded.is_answer.tolist() == [False] * (len(encoded.is_answer) - 4) + [True] * 4


def test_token_types_of_written_tokens_are_text(tmp_path: Path) -> None:
    _, processor = make_parts("qwen2_5_vl")
    image = str(save_picture(tmp_path / "a.png", 20, 30))
    encoded = encode_sample(processor, StoredSample("0", "<s><image>?", (image,), answer=(9, 8, 7), ended=False))
    types = encoded.inputs["mm_token_type_ids"][0]
    assert types.tolist() == (encoded.inputs["input_ids"][0] == processor.image_token_id).int().tolist()
    assert types[-3:].tolist() == [0, 0, 0]


def test_cut_to_a_length(tmp_path: Path) -> None:
    _, processor = make_parts("qwen2_5_vl")
    image = str(save_picture(tmp_path / "a.png", 20, 30))
    sample = store(processor, dialogue((image,), (2,)), tmp_path / "samples")
    whole = encode_sample(processor, sample)
    ids = whole.inputs["input_ids"][0]
    last_image = int((ids == processor.image_token_id).nonzero()[-1])
    assert whole.is_answer[:last_image].any()
    for length in (last_image + 1, last_image + 2, len(ids) - 1, len(ids), len(ids) + 1):
        cut = encode_sample(processor, sample, length)
        assert torch.equal(cut.is_answer, whole.is_answer[:length])
        for name, value in cut.inputs.items():
            per_token = name in ("input_ids", "attention_mask", "mm_token_type_ids")
            assert torch.equal(value, whole.inputs[name][:, :length] if per_token else whole.inputs[name])
    for length in (last_image, last_image - 3, 1):
        with pytest.raises(UnusableSample, match=f"cut to {length} an image is not whole"):
            encode_sample(processor, sample, length)


def test_cut_before_the_answer() -> None:
    _, processor = make_parts("llama")
    sample = StoredSample("0", "<s><user>?<assistant>", (), answer=(9, 8), ended=False)
    assert encode_sample(processor, sample, 5).is_answer.tolist() == [False] * 4 + [True]
    with pytest.raises(UnusableSample, match="6 tokens, the first 4 hold no answer"):
        encode_sample(processor, sample, 4)


def test_images_are_upright_and_rgb(tmp_path: Path) -> None:
    pixels = np.zeros((10, 20, 3), np.uint8)
    pixels[:, :10] = 255
    upright = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # shown turned by 90 degrees
    upright.rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    assert open_image(str(tmp_path / "turned.png")).tobytes() == upright.tobytes()
    for mode in ("L", "RGBA", "P", "CMYK"):
        path = tmp_path / f"{mode}.tiff"
        upright.convert(mode).save(path)
        assert (open_image(str(path)).mode, open_image(str(path)).size) == ("RGB", (20, 10))


def test_broken_images(tmp_path: Path) -> None:
    for name, bad in (("a.png", 60), ("a.jpg", 300), ("b.png", 0)):
        path = save_picture(tmp_path / name, 20, 30)
        path.write_bytes(path.read_bytes()[:bad])
        with pytest.raises(UnusableSample, match=f"cannot read the picture .*{name}"):
            open_image(str(path))
    with pytest.raises(FileNotFoundError):
        open_image(str(tmp_path / "none.png"))


def test_a_processor_that_changes_the_text(tmp_path: Path) -> None:
    _, processor = make_parts("llava")
    sample = store(processor, dialogue(), tmp_path / "samples")
    assert encode_sample(processor, sample).is_answer.any()

    class Capitals(type(processor)):
        """Reads another text than it is given."""

        def __call__(self, images: Any = None, text: Any = None, **options: Any) -> Any:
            return super().__call__(images=images, text=[line.upper() for line in text], **options)

    processor.__class__ = Capitals
    with pytest.raises(ValueError, match="Capitals to change nothing in a text but the number of its image tokens"):
        encode_sample(processor, sample)


def test_special_tokens_come_once() -> None:
    """A template may write the beginning of text, or leave it to the tokenizer."""
    _, processor = make_parts("llava")
    tokenizer = processor.tokenizer
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    assert tokenizer("?")["input_ids"][0] == tokenizer.bos_token_id
    for text in ("<s><user>?", "<user>?"):
        ids = encode_text(processor, text, ())["input_ids"][0]
        assert tokenizer.decode(ids) == "<s><user>?"
    assert tokenizer.decode(encode_text(tokenizer, "<user>?", ())["input_ids"][0]) == "<user>?"


def test_samples_are_a_sequence(tmp_path: Path) -> None:
    _, processor = make_parts("llama")
    requests = [replace(dialogue(), key=str(index)) for index in range(7)]
    requests[3] = Request("3", requests[3].messages[:1], ())
    write_answers(None, processor, requests, tmp_path, generate=False, batch_size=2, num_shards=3)
    samples = read_samples(tmp_path)
    assert [sample.key for sample in samples] == ["0", "1", "2", "4", "5", "6"]
    assert (len(samples), samples[-1].key, samples[1:3]) == (6, "6", [samples[1], samples[2]])
    assert samples.left_out == {"no answer is given": 1}
    with pytest.raises(IndexError):
        samples[6]


def test_folders_that_are_no_samples(tmp_path: Path) -> None:
    _, processor = make_parts("llama")
    with pytest.raises(ValueError, match=r"folder: expected samples, with a manifest.json, in .*, got none"):
        read_samples(tmp_path)
    requests = [replace(dialogue(), key=str(index)) for index in range(4)]
    options: dict[str, Any] = {"generate": False, "num_shards": 2, "world_size": 2}
    write_answers(None, processor, requests, tmp_path, rank=0, **options)
    with pytest.raises(ValueError, match=r"expected the answers to all 4 requests in .*, got 2"):
        read_samples(tmp_path)
    write_answers(None, processor, requests, tmp_path, rank=1, **options)
    assert len(read_samples(tmp_path)) == 4
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match=r"manifest.json: expected a JSON object"):
        read_samples(tmp_path)
