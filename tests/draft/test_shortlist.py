"""Drafts that guess none but a shortlist of tokens: choosing it, storing it, drafting by it."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import vispec
from lossless import assert_same_text
from models import BUILDERS, HEAD_DIM, VISION_FAMILIES, VOCAB_SIZE, make_draft, make_prompt, make_target
from vispec import TreeConfig
from vispec.cli import main
from vispec.draft.checkpoint import read_model, save_model, shorten_vocabulary
from vispec.draft.drafter import ShortHead, ViSpecDrafter
from vispec.target import Prompt, Target

TREES = (TreeConfig(), TreeConfig(0, 4, 5), TreeConfig(5, 10, 60))
SIZE = 40


def short_draft(model: Any, size: int = SIZE, seed: int = 0) -> vispec.Draft:
    """Its tokens are drawn, so that target ids and places in the shortlist differ."""
    counts = dict.fromkeys(random.Random(seed).sample(range(VOCAB_SIZE), size), 1)
    return vispec.Draft(shorten_vocabulary(make_draft(model).model, counts, size), model)


def test_the_most_frequent_tokens_are_kept() -> None:
    model = make_draft(make_target("llama")).model
    counts = Counter({7: 5, 150: 9, 20: 5, 3: 5, 80: 1})
    short = shorten_vocabulary(model, counts, 3)
    assert short.draft_vocab.tolist() == [3, 7, 150]
    assert short.config.draft_vocab_size == 3
    assert shorten_vocabulary(short, counts, 7).draft_vocab.tolist() == [0, 1, 3, 7, 20, 80, 150]
    state = short.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("size", [0, -1, VOCAB_SIZE + 1])
def test_a_size_outside_of_the_vocabulary(size: int) -> None:
    with pytest.raises(ValueError, match=rf"^draft_vocab_size: expected 1 to vocab_size \({VOCAB_SIZE}\)"):
        shorten_vocabulary(make_draft(make_target("llama")).model, {}, size)


@pytest.mark.parametrize("token", [-1, VOCAB_SIZE])
def test_a_counted_token_outside_of_the_vocabulary(token: int) -> None:
    with pytest.raises(ValueError, match=rf"^counts: expected token ids from 0 to 159, got {token}$"):
        shorten_vocabulary(make_draft(make_target("llama")).model, {5: 1, token: 1}, 3)


def random_prompt(target: Target, batch_size: int) -> tuple[Prompt, Tensor]:
    torch.manual_seed(0)
    shape = (batch_size, 20, target.hidden_size)
    prompt = Prompt(
        torch.empty(batch_size, 0), torch.randn(shape), torch.randn(shape), [[(3, 9)]] * batch_size, [0] * batch_size
    )
    return prompt, torch.randint(0, VOCAB_SIZE, (batch_size,))


@torch.no_grad()
@pytest.mark.parametrize("tree", TREES, ids=str)
def test_drafts_as_if_the_other_tokens_were_impossible(tree: TreeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_target("llama")
    draft, target = short_draft(model), Target(model)
    prompt, roots = random_prompt(target, batch_size=2)
    ours = draft.new_drafter(target, [tree], budget=8)
    ours.prefill(prompt, roots)
    found = ours.propose(roots, tree)
    kept = draft.model.draft_vocab

    def only_kept(target: Target, hidden: Tensor) -> Tensor:
        logits = model.get_output_embeddings()(hidden)
        return torch.full_like(logits, -torch.inf).index_copy(-1, kept, logits[..., kept])

    monkeypatch.setattr(Target, "logits", only_kept)
    full = ViSpecDrafter(draft.model, target, [tree], budget=8)
    full.prefill(prompt, roots)
    for tensor, expected in zip(found, full.propose(roots, tree), strict=True):
        assert torch.equal(tensor, expected)
    assert set(found.tokens[:, 1:].flatten().tolist()) <= set(kept.tolist())


@torch.no_grad()
def test_a_shortlist_of_all_tokens_changes_nothing() -> None:
    model = make_target("llama")
    whole, target = make_draft(model), Target(model)
    short = vispec.Draft(shorten_vocabulary(whole.model, {}, VOCAB_SIZE), model)
    prompt, roots = random_prompt(target, batch_size=1)
    trees = []
    for draft in (whole, short):
        drafter = draft.new_drafter(target, [TreeConfig()], budget=8)
        drafter.prefill(prompt, roots)
        trees.append(drafter.propose(roots, TreeConfig()))
    assert all(torch.equal(ours, expected) for ours, expected in zip(*trees, strict=True))


@pytest.mark.parametrize("tree", [*TREES, "auto"], ids=str)
@pytest.mark.parametrize("family", BUILDERS)
def test_same_text(family: str, tree: Any) -> None:
    model = make_target(family)
    inputs = make_prompt(model, "two separate images" if family in VISION_FAMILIES else "text", random.Random(1))
    draft = short_draft(model, size=120)
    output = assert_same_text(model, draft, inputs, tree, max_new_tokens=64)
    assert tree == "auto" or output.speculation.mean_accepted > 0  # what auto drafts hangs on the time it takes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_round_trip(dtype: torch.dtype, tmp_path: Path) -> None:
    model = make_target("llama", dtype=dtype)
    draft = short_draft(model)
    draft.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["draft_vocab_size"] == SIZE
    loaded = vispec.load_draft(tmp_path, model)
    assert loaded.config == draft.config
    assert loaded.num_tokens == SIZE
    assert loaded.model.draft_vocab.dtype == torch.int64
    assert torch.equal(loaded.model.draft_vocab, draft.model.draft_vocab)
    assert torch.equal(loaded.short_head.weight, model.lm_head.weight[draft.model.draft_vocab])
    whole = vispec.load_draft(tmp_path, model, full_vocabulary=True)
    assert whole.short_head is None
    assert whole.num_tokens == VOCAB_SIZE
    assert whole.model.state_dict().keys() == draft.model.state_dict().keys() - {"draft_vocab"}


def test_a_draft_without_one_does_not_speak_of_it(tmp_path: Path) -> None:
    draft = make_draft(make_target("llama"))
    draft.save_pretrained(tmp_path)
    assert "draft_vocab_size" not in json.loads((tmp_path / "config.json").read_text())
    assert "draft_vocab" not in load_file(tmp_path / "model.safetensors")
    assert draft.short_head is None


BROKEN: dict[str, tuple[Callable[[Tensor], Tensor | None], str]] = {
    "missing": (lambda ids: None, "draft_vocab: missing from "),
    "too short": (lambda ids: ids[:-1].clone(), "draft_vocab: expected shape [40], got [39]"),
    "of another dtype": (lambda ids: ids.int(), "draft_vocab: expected int64 token ids, got torch.int32"),
    "floats": (lambda ids: ids.float(), "draft_vocab: expected int64 token ids, got torch.float32"),
    "outside": (lambda ids: ids + VOCAB_SIZE, "draft_vocab: expected ascending token ids from 0 to 159 in "),
    "negative": (lambda ids: ids - VOCAB_SIZE, "draft_vocab: expected ascending token ids from 0 to 159 in "),
    "unordered": (lambda ids: ids.flip(0), "draft_vocab: expected ascending token ids from 0 to 159 in "),
    "twice": (
        lambda ids: ids.clone().index_fill_(0, torch.tensor([0]), int(ids[1])),
        "draft_vocab: expected ascending",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_shortlist(case: str, tmp_path: Path) -> None:
    model = make_target("llama")
    short_draft(model).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    change, words = BROKEN[case]
    changed = change(tensors.pop("draft_vocab"))
    save_file(tensors if changed is None else {**tensors, "draft_vocab": changed}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=f"^{re.escape(words)}"):
        vispec.load_draft(tmp_path, model)


def test_a_shortlist_that_the_config_denies(tmp_path: Path) -> None:
    model = make_target("llama")
    short_draft(model).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "draft_vocab_size": None}))
    with pytest.raises(ValueError, match=r"^draft_vocab: unexpected in "):
        vispec.load_draft(tmp_path, model)


@pytest.mark.parametrize("value", [0, -3, VOCAB_SIZE + 1, True, 8.0, "40"])
def test_a_config_of_another_size(value: Any, tmp_path: Path) -> None:
    model = make_target("llama")
    short_draft(model).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "draft_vocab_size": value}))
    with pytest.raises(ValueError, match=r"config\.json: draft_vocab_size: expected 1 to vocab_size \(160\), or null"):
        vispec.load_draft(tmp_path, model)


class Adapted(nn.Linear):
    """As LoRA does: the rows of its weight are not its logits."""


def adapt(model: Any) -> None:
    model.lm_head.__class__ = Adapted


HEADS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "of another class": (adapt, "Adapted, torch.float32 on cpu"),
    "with a hook": (lambda m: m.lm_head.register_forward_hook(lambda *a: None), "Linear with hooks, torch.float32"),
    "with a pre-hook": (lambda m: m.lm_head.register_forward_pre_hook(lambda *a: None), "Linear with hooks"),
    "with its forward replaced": (lambda m: setattr(m.lm_head, "forward", m.lm_head.forward), "Linear with hooks"),
    "elsewhere": (lambda m: setattr(m, "lm_head", nn.Linear(4 * HEAD_DIM, VOCAB_SIZE, device="meta")), "on meta"),
}


@pytest.mark.parametrize("case", HEADS)
def test_heads_whose_rows_are_not_their_logits(case: str, tmp_path: Path) -> None:
    model = make_target("llama")
    save_model(short_draft(model).model, tmp_path)
    change, words = HEADS[case]
    change(model)
    with pytest.raises(NotImplementedError, match=r"^draft: its shortlist .* a plain torch\.nn\.Linear") as error:
        vispec.load_draft(tmp_path, model)
    assert words in str(error.value)
    assert str(error.value).endswith("load it with full_vocabulary=True")
    if case != "elsewhere":
        draft = vispec.load_draft(tmp_path, model, full_vocabulary=True)
        assert_same_text(model, draft, {"input_ids": torch.tensor([[5, 9, 14]])}, TreeConfig(), max_new_tokens=12)


def test_a_head_with_a_bias() -> None:
    model = make_target("llama")
    model.lm_head = nn.Linear(4 * HEAD_DIM, VOCAB_SIZE)
    ids = torch.tensor([3, 50, 159])
    hidden = torch.randn(2, 5, 4 * HEAD_DIM)
    with torch.no_grad():
        torch.testing.assert_close(ShortHead(Target(model), ids).logits(hidden), model.lm_head(hidden)[..., ids])


def test_a_tree_wider_than_the_shortlist() -> None:
    model = make_target("llama")
    with pytest.raises(ValueError, match=r"^tree: expected top_k <= vocabulary \(40\), got 41$"):
        vispec.generate(model, short_draft(model), torch.tensor([[5, 9]]), tree=TreeConfig(0, 41, 42))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tiny_pair import save_tiny_pair

    return save_tiny_pair(tmp_path_factory.mktemp("pair"))


def test_command(pair: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts, output = tmp_path / "texts.txt", tmp_path / "out"
    texts.write_text("a red cross\na red star and a blue star\n")
    command = ["shortlist", str(pair / "draft"), "--model", str(pair / "target"), "--output", str(output)]
    assert main([*command, "--texts", str(texts), "--size", "4"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^4 of \d+ tokens are drafted: \d+\.\d+% of the \d+ counted, in which \d+ different", out)
    before, after = read_model(pair / "draft"), read_model(output)
    assert len(after.draft_vocab) == 4
    state = after.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in before.state_dict().items())

    for options, words in (
        (["--texts", str(texts), "--size", "0"], "expected a whole number from 1, got '0'"),
        (["--texts", str(texts), "--size", "999999"], "draft_vocab_size: expected 1 to vocab_size"),
        (["--texts", str(pair), "--size", "4"], str(pair)),
    ):
        with pytest.raises(SystemExit) as stop:
            main([*command, *options])
        assert stop.value.code == 2
        assert words in capsys.readouterr().err
    assert main([*command, "--texts", str(tmp_path / "nowhere"), "--size", "4"]) == 1
    assert "nowhere" in capsys.readouterr().err
