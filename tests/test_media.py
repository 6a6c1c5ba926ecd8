"""Which positions of a prompt belong to which image or video."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor

import vispec
from families import TABLE
from families.common import IMAGE_TOKEN, VIDEO_TOKEN
from lossless import assert_same_text
from models import layouts_of, make_batch, make_draft, make_pair, make_prompt, make_prompt_and_runs, make_target
from vispec import TreeConfig
from vispec.media import PIXELS, lengths_noted, runs_of
from vispec.target import Target

PLACEHOLDERS = {"image": IMAGE_TOKEN, "video": VIDEO_TOKEN}


def ids_of(*rows: str) -> Tensor:
    """A letter a position: t text, i an image's, v a video's."""
    return torch.tensor([[{"t": 5, "i": IMAGE_TOKEN, "v": VIDEO_TOKEN}[letter] for letter in row] for row in rows])


@pytest.mark.parametrize(
    ("rows", "lengths", "runs"),
    [
        (["ttt"], {}, [[]]),
        (["tiiit"], {"image": [3]}, [[(1, 4)]]),
        (["iiiit"], {"image": [1, 3]}, [[(0, 1), (1, 4)]]),
        (["iitiit"], {"image": [4]}, [[(0, 5)]]),  # a row break inside
        (["vvvvt"], {"video": [4]}, [[(0, 4)]]),
        (["vvvvt"], {"video": [2, 2]}, [[(0, 2), (2, 4)]]),
        (["vvtvvt"], {"video": [4]}, [[(0, 2), (3, 5)]]),  # text between two frames
        (["vvtvvt"], {"video": [3, 1]}, [[(0, 2), (3, 4), (4, 5)]]),
        (["vtiivv"], {"image": [2], "video": [1, 2]}, [[(0, 1), (2, 4), (4, 6)]]),
        (["ttt", "tii", "iii"], {"image": [2, 1, 2]}, [[], [(1, 3)], [(0, 1), (1, 3)]]),
        (["ttv", "vit"], {"image": [1], "video": [0, 1, 0, 1]}, [[(2, 3)], [(0, 1), (1, 2)]]),
    ],
)
def test_runs(rows: list[str], lengths: dict[str, list[int]], runs: list[list[tuple[int, int]]]) -> None:
    assert runs_of(ids_of(*rows), lengths, PLACEHOLDERS) == runs


@pytest.mark.parametrize("name", PIXELS)
def test_positions_that_do_not_fit(name: str) -> None:
    words = rf"model: its {name}s take 3 positions, but 2 of the prompt hold {name} tokens \(id {PLACEHOLDERS[name]}\)"
    with pytest.raises(NotImplementedError, match=words):
        runs_of(ids_of(f"t{name[0]}{name[0]}"), {name: [3]}, PLACEHOLDERS)


def test_images_in_another_order_than_the_prompts() -> None:
    words = r"an encoded image takes 2 positions, but 1 are left in its prompt \(row 0\).*num_return_sequences"
    with pytest.raises(NotImplementedError, match=words):
        runs_of(ids_of("tti", "tii"), {"image": [2, 1]}, PLACEHOLDERS)


@pytest.mark.parametrize("name", [name for name, family in TABLE.items() if family.videos])
def test_the_draft_is_given_the_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of images and videos that the model itself encodes, as it does in training and on older transformers."""
    model = make_target(name)
    draft = make_draft(model)
    compressed: list[Any] = []
    compress = draft.model.compress
    monkeypatch.setattr(draft.model, "compress", lambda *args: compressed.append(args[2]) or compress(*args))
    for seed, layout in enumerate(layouts_of(TABLE[name])):
        inputs, runs = make_prompt_and_runs(model, layout, random.Random(seed))
        vispec.generate(model, draft, inputs, max_new_tokens=2)
        assert compressed.pop() == [(max(start - 1, 0), end - 1) for start, end in runs]
        assert Target(model).read(inputs).images == [runs]


@pytest.mark.parametrize("name", [name for name, family in TABLE.items() if family.videos])
def test_prompts_that_end_in_a_video(name: str) -> None:
    """With M-RoPE the text goes on from another position on each axis."""
    model = make_target(name)
    draft = make_draft(model)
    prompts = []
    for seed, layout in enumerate(layout for layout in layouts_of(TABLE[name]) if "video" in layout):
        inputs, runs = make_prompt_and_runs(model, layout, random.Random(seed))
        length, end = inputs["input_ids"].shape[1], runs[-1][1]
        prompts.append({k: x[:, :end] if x.shape == (1, length) else x for k, x in inputs.items()})
    for prompt in (*prompts, make_batch(prompts, TABLE[name].of_rows)):
        assert_same_text(model, draft, prompt, TreeConfig(2, 4, 12), max_new_tokens=16)


def test_the_model_is_left_as_found() -> None:
    model, _ = make_pair("qwen2_5_vl")
    inputs = make_prompt(model, "one video", random.Random(0))
    model.base_model.get_image_features = model.base_model.get_image_features  # a user's own
    before = dict(vars(model.base_model))

    def interrupted() -> None:
        with lengths_noted(model, Target(model).family, inputs):
            assert vars(model.base_model) != before
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert vars(model.base_model) == before


def test_a_model_that_does_not_tell() -> None:
    model, _ = make_pair("llama")
    with (
        pytest.raises(NotImplementedError, match="LlamaModel has no get_image_features, which tells its images"),
        lengths_noted(model, Target(model).family, {"pixel_values": torch.zeros(1, 3, 8, 8)}),
    ):
        pass
