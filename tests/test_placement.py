"""Targets whose weights accelerate keeps on a disk and fetches for each pass."""

from __future__ import annotations

import random
import warnings
from pathlib import Path

import pytest
import torch

import vispec
from families.common import IMAGE_TOKEN
from lossless import assert_same_text
from models import make_prompt
from split_target import load_target, save_pairs
from vispec.graphs import why_not
from vispec.placement import device_of
from vispec.target import Target

MAPS = {
    "layers": {"model": "disk", "lm_head": "cpu"},
    "head": {"model": "cpu", "lm_head": "disk"},
    "all": {"": "disk"},
}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With drafts that need rows of the target's head, and hold its embedding."""
    folder = tmp_path_factory.mktemp("pairs")
    save_pairs(folder, ("llama", "llava"))
    return folder


@pytest.mark.parametrize("offloaded", MAPS)
@pytest.mark.parametrize("family", ["llama", "llava"])
def test_offloaded(family: str, offloaded: str, pairs: Path, tmp_path: Path) -> None:
    model = load_target(pairs, family, device_map=MAPS[offloaded], offload_folder=tmp_path)
    assert any(weight.is_meta for weight in model.parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the draft's embedding is the target's
        draft = vispec.load_draft(pairs / family / "draft", model)
    assert {draft.model.device, draft.short_head.weight.device, Target(model).device} == {torch.device("cpu")}
    inputs = make_prompt(model, "text" if family == "llama" else "one image", random.Random(0))
    output = assert_same_text(model, draft, inputs, vispec.TreeConfig(), max_new_tokens=24)
    whole = load_target(pairs, family)
    again = vispec.generate(whole, vispec.load_draft(pairs / family / "draft", whole), inputs, max_new_tokens=24)
    assert torch.equal(output.sequences, again)
    assert output.speculation.mean_accepted > 0
    assert "dispatched by accelerate" in str(why_not(model))


def test_rows_of_an_offloaded_head(pairs: Path, tmp_path: Path) -> None:
    model = load_target(pairs, "llama", device_map=MAPS["head"], offload_folder=tmp_path)
    ids = torch.tensor([3, IMAGE_TOKEN])
    rows, bias = Target(model).head_rows(ids)
    assert torch.equal(rows, load_target(pairs, "llama").lm_head.weight[ids])
    assert bias is None
    assert model.lm_head.weight.is_meta
    assert device_of(model.lm_head) == torch.device("cpu")


def test_another_targets_embedding(pairs: Path, tmp_path: Path) -> None:
    model = load_target(pairs, "llama", device_map=MAPS["all"], offload_folder=tmp_path)
    with pytest.warns(UserWarning, match=r"its embed_tokens\.weight is not the target's"):
        vispec.load_draft(pairs / "llava/draft", model)
