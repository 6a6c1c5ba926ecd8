"""What the target is trained on: as the processor would make it, labelled on the answers, the same every time."""

from __future__ import annotations

import pytest
import torch

from vispec.pair import SHARES, draw, make_sample, make_turns
from vispec.pair.batches import MULTIPLE, NUM_IMAGE_TOKENS, ROLES, PatchWords, dialogue_batches, to_pixels
from vispec.pair.chat import UNLABELLED, Chat
from vispec.pair.regions import THIRDS
from vispec.pair.scenes import CELL, Scene
from vispec.pair.tokenizer import load_tokenizer, make_processor

OPTIONS = {"seed": 3, "pool_size": 12, "num_turns": 2, "tokens": 1024, "shares": SHARES}


@pytest.fixture(scope="module")
def processor():
    """The one that ships."""
    return make_processor()


@pytest.fixture(scope="module")
def chat(processor):
    """Its template."""
    return Chat(processor)


@pytest.fixture(scope="module")
def words():
    """Classes of 300 pictures."""
    return PatchWords(load_tokenizer(), SHARES, 1, count=300)


def messages_of(turns):
    """The dialogue as a user of the processor writes it."""
    messages = []
    for index, turn in enumerate(turns):
        image = [{"type": "image"}] if index == 0 else []
        messages.append({"role": "user", "content": [*image, {"type": "text", "text": turn.question}]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": turn.answer}]})
    return messages


@pytest.mark.parametrize("index", range(0, 40, 4))
def test_pixels_are_the_processors(processor, index):
    image = make_sample(2, "validation", index).image
    expected = processor.image_processor(image, return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(to_pixels(image), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("num_turns", [1, 2, 4])
def test_ids_are_the_processors(processor, chat, num_turns):
    for index in range(20):
        picture, turns, drawing = make_turns(2, "train", index, num_turns)
        text = processor.apply_chat_template(messages_of(turns))
        image = draw(picture, drawing)
        expected = processor(images=image, text=text, add_special_tokens=False)["input_ids"][0]
        assert chat.encode(turns)[0] == expected


def test_labels_are_the_answers(chat):
    for index in range(20):
        _, turns, _ = make_turns(2, "train", index, 3)
        ids, labels = chat.encode(turns)
        assert len(ids) == len(labels)
        assert all(label in (UNLABELLED, token) for token, label in zip(ids, labels, strict=True))
        written = chat.tokenizer.decode([label for label in labels if label != UNLABELLED])
        assert written == "".join(turn.answer + "</s>" for turn in turns)


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m['content'][-1]['text'] }}{% endfor %}",  # no end
        "{% for m in messages[:2] %}{{ m['content'][-1]['text'] + '</s>' }}{% endfor %}",  # one turn alone
        "{% for m in messages %}{{ loop.index ~ m['content'][-1]['text'] + '</s>' }}{% endfor %}",  # numbered turns
    ],
)
def test_templates_that_cannot_be_taught(template):
    processor = make_processor()
    processor.chat_template = template
    with pytest.raises(ValueError, match="processor: expected a chat template that writes every turn alike and </s>"):
        Chat(processor)


def pictures_of(batches):
    """The pixels of all samples, in one order."""
    return sorted(pixels.numpy().tobytes() for batch in batches for pixels in batch.pixels)


def test_a_pool_is_the_same_every_time(chat):
    first, again = (list(dialogue_batches(2, chat, **OPTIONS)) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one.pixels, other.pixels)
        assert torch.equal(one.input_ids, other.input_ids)
        assert torch.equal(one.labels, other.labels)


def test_pools_hold_every_sample_once(chat):
    drawn, texts = [], []
    for index in range(48):
        picture, turns, drawing = make_turns(3, "train", index, 2)
        drawn.append(to_pixels(draw(picture, drawing)).contiguous().numpy().tobytes())
        texts.append(sorted(turn.answer for turn in turns))
    batches = [batch for pool in range(4) for batch in dialogue_batches(pool, chat, **OPTIONS)]
    assert pictures_of(batches) == sorted(drawn)
    labels = [row[row != UNLABELLED] for batch in batches for row in batch.labels]
    answers = [chat.tokenizer.decode(row).split("</s>")[:-1] for row in labels]
    assert sorted(map(sorted, answers)) == sorted(texts)
    larger = list(dialogue_batches(0, chat, **{**OPTIONS, "pool_size": 48}))
    assert pictures_of(larger) == sorted(drawn)


def test_batches_are_full_and_padded(chat):
    image = chat.tokenizer.convert_tokens_to_ids("<image>")
    for batch in dialogue_batches(0, chat, **{**OPTIONS, "pool_size": 40, "tokens": 2048}):
        rows, length = batch.input_ids.shape
        assert length % MULTIPLE == 0
        assert rows * length <= 2048
        assert ((batch.input_ids == image).sum(1) == NUM_IMAGE_TOKENS).all()
        padding = batch.input_ids == 0
        assert (batch.labels[padding] == UNLABELLED).all()
        assert (padding.int().diff(dim=1) >= 0).all()  # on the right


def test_splits_differ(chat):
    train, held_out = (next(iter(dialogue_batches(0, chat, split=s, **OPTIONS))) for s in ("train", "test"))
    assert train.input_ids.tolist() != held_out.input_ids.tolist()


def test_patch_words_say_what_the_picture_shows(words):
    names = {role: list(classes) for role, classes in words.classes.items()}
    pixels, labels = words.batch(40, 24)
    seen = 0
    for row in range(24):
        picture, _, drawing = make_turns(1, "train", 40 + row)
        assert torch.equal(pixels[row], to_pixels(draw(picture, drawing)))
        assert {names["background"][i] for i in labels["background"][row].unique()} == {picture.background}
        if isinstance(picture, Scene):
            said = labels["noun"][row].view(12, 12)
            cells = 96 // CELL
            for thing in picture.things:
                cell = said[thing.row * 12 // cells, thing.col * 12 // cells]
                assert names["noun"][cell] == thing.noun
                colour = labels["colour"][row].view(12, 12)[thing.row * 12 // cells, thing.col * 12 // cells]
                assert names["colour"][colour] == thing.colour
                seen += 1
            nothing = said == names["noun"].index("nothing")
            assert nothing.sum() == (cells**2 - len(picture.things)) * (12 // cells) ** 2
        elif (labels["character"][row] != UNLABELLED).any():
            written = {names["character"][i] for i in labels["character"][row].unique() if i != UNLABELLED}
            assert len(written) > 1
            seen += 1
    assert seen > 20


def test_word_embeddings(words):
    weight = torch.randn(len(load_tokenizer()), 16, generator=torch.Generator().manual_seed(0))
    embeddings = words.embeddings(weight)
    assert embeddings.keys() == ROLES.keys()
    for role, rows in embeddings.items():
        assert len(rows) == len(words.classes[role])
        torch.testing.assert_close(rows.norm(dim=-1), torch.ones(len(rows)))
    (token,) = load_tokenizer()(" red", add_special_tokens=False)["input_ids"]
    red = embeddings["colour"][words.classes["colour"]["red"]]
    torch.testing.assert_close(red, torch.nn.functional.normalize(weight[token], dim=0))
    left, middle, right = (embeddings[role][words.classes[role]["A"]] for role in THIRDS)
    torch.testing.assert_close(left.roll(-5), middle)
    torch.testing.assert_close(right.roll(-10), middle)
