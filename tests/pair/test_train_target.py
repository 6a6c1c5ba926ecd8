"""Training of the pair's target, in small: it learns, survives a kill, stops where it breaks, and its result loads."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from killing import run_and_kill
from small_recipes import make_trainer, small_pair
from vispec.pair import make_sample
from vispec.pair.batches import PatchWords
from vispec.pair.evaluate import answer
from vispec.pair.recipe import make_optimizers
from vispec.pair.train_target import EARLY_SHARES, FEW_LAYERS, STAGES, PairRecipe, main
from vispec.pair.trainer import Trainer
from vispec.target import Target


def train(folder):
    """A small run, as far as it is not done; a checkpoint behind each pool."""
    torch.set_num_threads(1)
    trainer = make_trainer(small_pair(), folder)
    trainer.run()
    trainer.save_target()


def log_of(folder):
    """One line a pool."""
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An undisturbed run."""
    folder = tmp_path_factory.mktemp("undisturbed")
    train(folder)
    return folder


def test_stages_follow_each_other(trained):
    entries = log_of(trained)
    stages = small_pair().stages
    expected = [(stage.name, pool + 1) for stage in stages for pool in range(stage.num_pools)]
    assert [(entry["stage"], entry["pool"]) for entry in entries] == expected
    assert all(first["step"] < second["step"] for first, second in pairwise(entries))
    assert entries[0].keys() >= {"noun", "colour", "background", "loss"}


def test_the_result_loads_and_answers(trained):
    model = AutoModelForImageTextToText.from_pretrained(trained / "target", dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(trained / "target")
    assert model.config.text_config.num_hidden_layers == 4
    assert Target(model).placeholders["image"] == processor.image_token_id
    saved = torch.load(trained / "checkpoint.pt", weights_only=True)["model"]
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, saved[name].bfloat16().float()), name
    samples = [make_sample(0, "test", index) for index in range(2)]
    assert len(answer(model, processor, samples)) == 2


def test_killed_at_any_moment(trained, tmp_path):
    """SIGKILL in each stage, and while it grows: the same weights in the end, and each pool logged once."""
    kills, log = 0, tmp_path / "log.jsonl"
    for lines in (0, 2, 4):
        kills += run_and_kill(lambda: train(tmp_path), lambda: log.exists() and log.read_text().count("\n") > lines)  # noqa: B023
    assert kills >= 2
    train(tmp_path)
    first, second = (torch.load(folder / "checkpoint.pt", weights_only=True) for folder in (trained, tmp_path))
    assert first["step"] == second["step"]
    assert first["model"].keys() == second["model"].keys()
    assert all(torch.equal(weight, second["model"][name]) for name, weight in first["model"].items())
    assert (trained / "target/model.safetensors").read_bytes() == (tmp_path / "target/model.safetensors").read_bytes()
    without_seconds = [[{**entry, "seconds": 0} for entry in log_of(folder)] for folder in (trained, tmp_path)]
    assert without_seconds[0] == without_seconds[1]


def test_every_stage_learns(tmp_path):
    """Each stage alone, on few pictures that it sees again and again."""
    trainer = make_trainer(small_pair(), tmp_path)
    for stage in trainer.recipe.stages:
        losses = []
        for _ in range(3):
            trainer.pool = 1  # the same pictures, at a rate that is not zero
            losses.append((trainer._align(stage) if stage.align else trainer._dialogues(stage))["loss"])
        assert losses[-1] < 0.98 * losses[0], stage.name
        trainer._next_stage()


def test_half_precision_is_near(tmp_path):
    whole, half = (Trainer(small_pair(), tmp_path / str(half), half=half) for half in (False, True))
    stage = whole.recipe.stages[1]
    (batch, *_) = whole.batches(stage, 0)
    with torch.no_grad():
        losses = whole.loss(batch)[0], half.loss(batch)[0]
    assert losses[0] != losses[1]
    assert float(losses[1]) == pytest.approx(float(losses[0]), rel=0.02)


def test_the_loss_is_the_models_own(tmp_path):
    """As `forward` computes it from labels, on batches padded on the right."""
    trainer = make_trainer(small_pair(), tmp_path)
    model = trainer.model
    (batch, *_) = trainer.batches(trainer.recipe.stages[1], 0)
    with torch.no_grad():
        expected = model(input_ids=batch.input_ids, pixel_values=batch.pixels, labels=batch.labels).loss
        torch.testing.assert_close(trainer.loss(batch)[0], expected)


def test_stages_train_their_parts(tmp_path):
    recipe = PairRecipe()
    for name, vision, text in (("align", True, False), ("small", False, True), ("grown", True, True)):
        (stage,) = (stage for stage in STAGES if stage.name == name)
        assert recipe.trains("model.vision_tower.encoder.layers.0.mlp.fc1.weight", stage) == vision
        assert recipe.trains("model.multi_modal_projector.linear_1.weight", stage) == vision
        assert recipe.trains("model.language_model.layers.0.mlp.up_proj.weight", stage) == text
        assert recipe.trains("model.language_model.embed_tokens.weight", stage) == text
    trainer = make_trainer(small_pair(), tmp_path)
    before = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
    trainer.pool = 1
    trainer._align(trainer.current)
    for name, weight in trainer.model.state_dict().items():
        if name.startswith(("model.language_model.", "lm_head.")):
            assert torch.equal(weight, before[name]), name
    assert not torch.equal(
        trainer.model.model.multi_modal_projector.linear_1.weight, before["model.multi_modal_projector.linear_1.weight"]
    )


def test_optimizers_hold_each_parameter_once():
    recipe = small_pair()
    model = recipe.make_model(recipe.stages[0])
    for muon in (False, True):
        optimizers = make_optimizers(model, replace(recipe.stages[1], muon=muon))
        assert len(optimizers) == 1 + muon
        held = [id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
        assert sorted(held) == sorted(id(p) for p in model.parameters())
        (adamw, *_) = optimizers
        assert any(p is model.lm_head.weight for p in adamw.param_groups[0]["params"])
        assert all(p.ndim == 1 for p in adamw.param_groups[1]["params"])
        assert adamw.param_groups[1]["weight_decay"] == 0.0


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_learning_rate(stage):
    rates = [stage.rate(step / 1000) for step in range(1001)]
    assert rates[0] == 0.0
    assert max(rates) == pytest.approx(stage.learning_rate, rel=1e-4)
    assert rates[-1] == pytest.approx(stage.learning_rate * stage.final)
    top = rates.index(max(rates))
    assert top == pytest.approx(1000 * stage.warm_up, abs=1)
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)


def test_hard_questions_come_more_often():
    assert EARLY_SHARES["scene/where"] == pytest.approx(3 * STAGES[-1].shares["scene/where"])
    assert EARLY_SHARES["scene/describe"] == STAGES[-1].shares["scene/describe"]
    assert STAGES[0].num_layers == STAGES[1].num_layers == FEW_LAYERS


def test_a_loss_that_is_not_finite(tmp_path):
    trainer = make_trainer(small_pair(), tmp_path)
    trainer._save()
    before = trainer.checkpoint.read_bytes()
    with torch.no_grad():
        trainer.model.model.multi_modal_projector.linear_2.bias[0] = float("nan")
    with pytest.raises(FloatingPointError, match=r"the loss is nan in step 0: .*checkpoint.pt is as before"):
        trainer.run()
    assert trainer.checkpoint.read_bytes() == before


def test_a_checkpoint_of_another_recipe(tmp_path):
    make_trainer(small_pair(), tmp_path)._save()
    with pytest.raises(ValueError, match=r"folder: expected a checkpoint of this recipe, with .* got None in"):
        Trainer(PairRecipe(), tmp_path)


def test_compiled_layers_are_saved_as_others(tmp_path):
    trainer = make_trainer(small_pair(), tmp_path, compiled=True)
    plain = make_trainer(small_pair(), tmp_path)
    assert trainer.model.state_dict().keys() == plain.model.state_dict().keys()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "the following arguments are required: folder"),
        (["DIR", "--tune", "lora"], "--tune: expected --language-model with it"),
        (["DIR", "--tune", "some", "--language-model", "x"], "invalid choice: 'some'"),
        (["DIR", "--language-model", "/no/such/folder"], "/no/such/folder"),
    ],
)
def test_bad_arguments(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train_target", *(str(tmp_path) if a == "DIR" else a for a in arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert words in capsys.readouterr().err


def test_texts_are_named_beside_answers(tmp_path):
    """Only frequent ones; the words of a batch are those of its own pictures, in the first embeddings."""
    trainer = make_trainer(small_pair(), tmp_path)
    stage = trainer.recipe.stages[-1]
    assert [s.word_weight > 0 for s in trainer.recipe.stages] == [False, False, True]
    words = PatchWords(trainer.chat.tokenizer, stage.shares, 1, count=300)
    assert 0 < len(words.classes["text"]) < 300
    (batch, *_) = trainer.batches(stage, 0)
    for pixels, picture in zip(batch.pixels, batch.pictures, strict=True):
        labels = words.labels([picture])["background"]
        names = list(words.classes["background"])
        assert {names[i] for i in labels.unique()} == {picture.background}
        assert pixels.shape == (3, 96, 96)
    assert torch.equal(trainer.first_embeddings, trainer.model.get_input_embeddings().weight)
    trainer._next_stage()
    trainer.pool = 1
    trainer._dialogues(trainer.current)
    resumed = make_trainer(small_pair(), tmp_path)
    assert torch.equal(resumed.first_embeddings, trainer.first_embeddings)
    assert not torch.equal(trainer.first_embeddings, trainer.model.get_input_embeddings().weight)
