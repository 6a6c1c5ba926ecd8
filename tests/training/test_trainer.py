"""The training loop: one curve whatever the processes, resumed to the bit, stopped when it breaks."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

import models
from killing import run_and_kill
from train_tiny import train_tiny
from training_samples import LAYOUTS, read_samples_of, written_samples
from vispec.draft.model import DraftModel
from vispec.target import Target
from vispec.training import objective
from vispec.training.evaluation import STEPS, agreement, num_accepted, prompt_inputs
from vispec.training.objective import counted_indices
from vispec.training.order import SampleOrder, split_samples
from vispec.training.readings import empty_sample
from vispec.training.trainer import StageSettings, Trainer
from vispec.tree import TreeConfig

SETTINGS = StageSettings(epochs=4, batch_size=4, micro_batch_size=4, learning_rate=1e-3, save_every=2, eval_every=3)

SCRIPT = Path(__file__).parents[1] / "train_tiny.py"


class Run:
    """A tiny target, its samples and a new draft."""

    def __init__(self) -> None:
        self.model = models.make_target("llava")
        self.target = Target(self.model)
        self.samples = read_samples_of(self.model, list(LAYOUTS) * 2)
        self.draft = copy.deepcopy(models.make_draft(self.model).model).requires_grad_(True)

    def trainer(self, folder: Path, settings: StageSettings) -> Trainer:
        return Trainer(
            Accelerator(cpu=True),
            self.target,
            self.draft,
            lambda indices: [self.samples[i] for i in indices],
            list(range(len(self.samples))),
            lambda draft: {"norm": float(draft.fc.weight.detach().norm())},
            settings,
            folder,
        )

    def train(self, folder: Path, settings: StageSettings = SETTINGS) -> dict[str, Tensor]:
        self.trainer(folder, settings).run()
        return self.draft.state_dict()


def log_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_loss_falls_and_is_logged(tmp_path: Path) -> None:
    Run().train(tmp_path, replace(SETTINGS, epochs=40, noise=False))
    log = log_of(tmp_path)
    assert [entry["step"] for entry in log] == list(range(1, 101))
    assert log[-1]["loss"] < 0.6 * log[0]["loss"]
    assert log[-1]["agree_1"] > log[0]["agree_1"]
    assert {"loss", "l1", "ranking", "agree_1", "agree_2", "learning_rate"} <= log[0].keys()
    assert [entry["step"] for entry in log if "eval_norm" in entry] == [*range(3, 100, 3), 100]


@pytest.mark.parametrize("size", [1, 3])
def test_micro_batches_do_not_show(tmp_path: Path, size: int) -> None:
    whole = Run().train(tmp_path / "whole")
    parts = Run().train(tmp_path / "parts", replace(SETTINGS, micro_batch_size=size))
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("stage", ["text", "vision"])
def test_pieces_of_logits_do_not_show(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stage: str) -> None:
    """Computed again in the backward pass, a few rows at a time, as for a large vocabulary."""
    settings = replace(SETTINGS, stage=stage, multi_token_steps=int(stage == "vision"))
    whole = Run().train(tmp_path / "whole", settings)
    monkeypatch.setattr(objective, "LOGITS_KEPT", 0)
    monkeypatch.setattr(objective, "PIECE", 5)
    pieces = Run().train(tmp_path / "pieces", settings)
    for name, tensor in whole.items():
        torch.testing.assert_close(pieces[name], tensor, atol=2e-5, rtol=1e-3)


def test_text_stage_leaves_the_adaptor_alone(tmp_path: Path) -> None:
    run = Run()
    before = {name: tensor.clone() for name, tensor in run.draft.state_dict().items()}
    after = run.train(tmp_path, replace(SETTINGS, stage="text", multi_token_steps=0))
    for name, tensor in after.items():
        assert torch.equal(tensor, before[name]) == name.startswith(("img_fc.", "imadpt.")), name
    assert {"smooth_l1", "cross_entropy", "ranking"} <= log_of(tmp_path)[0].keys()


def test_resumed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    undisturbed = Run().train(tmp_path / "undisturbed")
    trainer = Run().trainer(tmp_path / "resumed", SETTINGS)
    for _ in range(3):  # a checkpoint after step 2, and one step more that is lost
        values = trainer._train_step()
        trainer.step += 1
        trainer.log.write(trainer.step, values)
        if trainer.step == 2:
            trainer._save()
    resumed = Run().train(tmp_path / "resumed")
    for name, tensor in undisturbed.items():
        assert torch.equal(resumed[name], tensor), name
    assert log_of(tmp_path / "resumed") == log_of(tmp_path / "undisturbed")


def test_killed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    """kill -9 at several moments, in a process of its own."""
    train_tiny(tmp_path / "undisturbed")
    folder = tmp_path / "killed"
    log = folder / "log.jsonl"

    def steps(number: int) -> Callable[[], bool]:
        return lambda: log.exists() and log.read_text().count("\n") >= number

    for number in (2, 5):
        assert run_and_kill(lambda: train_tiny(folder), steps(number))
    train_tiny(folder)
    undisturbed, killed = (torch.load(tmp_path / name / "checkpoint.pt") for name in ("undisturbed", "killed"))
    assert undisturbed["step"] == killed["step"]
    for name, tensor in undisturbed["model"].items():
        assert torch.equal(killed["model"][name], tensor), name
    assert log_of(folder) == log_of(tmp_path / "undisturbed")


def test_two_processes_give_the_same_curve(tmp_path: Path) -> None:
    """Two gloo processes, the same batches: equal up to the order of sums, with a whole target and one in parts.

    Both processes' batches hold texts with and without images, so that one must run a target in parts more often.
    """
    train_tiny(tmp_path / "one")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run([*launch, str(SCRIPT), str(tmp_path)], check=True, timeout=240)
    one = log_of(tmp_path / "one")
    for kind in ("ddp", "fsdp"):
        two = log_of(tmp_path / kind)
        assert len(one) == len(two) == 15
        for ours, expected in zip(two, one, strict=True):
            assert ours == pytest.approx(expected, rel=1e-4, abs=1e-5), kind


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_not_finite_stops_and_keeps_the_last_good_state(tmp_path: Path, what: str) -> None:
    run = Run()
    run.train(tmp_path, SETTINGS)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    trainer = run.trainer(tmp_path, SETTINGS)
    trainer.steps += 1
    if what == "loss":
        run.samples[:] = [replace(sample, features=sample.features * float("nan")) for sample in run.samples]
    else:
        run.draft.fc.weight.register_hook(lambda gradient: gradient * float("inf"))
    words = rf"step {trainer.steps}: .* (is nan|is inf).*lower learning rate.*checkpoint\.pt is the last good state"
    with pytest.raises(FloatingPointError, match=words):
        trainer.run()
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_a_batch_with_nothing_to_learn_changes_little(tmp_path: Path) -> None:
    run = Run()
    run.samples[:] = [empty_sample(run.target)] * len(run.samples)
    before = {name: tensor.clone() for name, tensor in run.draft.state_dict().items()}
    after = run.train(tmp_path, replace(SETTINGS, epochs=1))
    assert {entry["loss"] for entry in log_of(tmp_path)} == {0.0}
    for name, tensor in after.items():
        torch.testing.assert_close(tensor, before[name], atol=1e-4, rtol=1e-4)  # weight decay alone


def test_other_settings_do_not_resume(tmp_path: Path) -> None:
    Run().train(tmp_path)
    with pytest.raises(ValueError, match=r"learning_rate: .*checkpoint\.pt was made with 0\.001, got 0\.01"):
        Run().trainer(tmp_path, replace(SETTINGS, learning_rate=0.01))
    Run().trainer(tmp_path, replace(SETTINGS, save_every=7, micro_batch_size=1))


def test_rate_rises_and_falls() -> None:
    rates = [StageSettings(learning_rate=1.0, warm_up=0.1).rate(step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * n for n in range(1, 11)])
    assert rates[10:] == pytest.approx([(100 - step) / 90 for step in range(10, 100)])
    assert StageSettings(warm_up=0.0).rate(0, 1) > 0


def test_counted_indices() -> None:
    """A prompt of 4 positions, 3 answer tokens: vision counts from P - 2, the text stage the answer's own tokens."""
    is_answer = torch.tensor([False] * 4 + [True] * 3)
    assert counted_indices(is_answer, "vision").tolist() == [2, 3, 4]
    assert counted_indices(is_answer, "text").tolist() == [4, 5]


def test_every_epoch_reads_every_sample_once() -> None:
    order = SampleOrder([3, 5, 8, 13, 21], batch_size=2, seed=0)
    assert order.steps(4) == 10
    read = [index for step in range(10) for index in order.batch(step)]
    epochs = [read[i : i + 5] for i in range(0, 20, 5)]
    assert all(sorted(epoch) == [3, 5, 8, 13, 21] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_held_out_samples_stay_held_out() -> None:
    keys = [f"sample {i}" for i in range(4000)]
    train, held_out = split_samples(keys, 0.05)
    assert sorted(train + held_out) == list(range(4000))
    assert len(held_out) == pytest.approx(200, abs=60)
    assert split_samples(keys[:1000], 0.05)[1] == [i for i in held_out if i < 1000]


def test_agreement_of_a_draft_that_knows() -> None:
    """A draft whose output is the target's next feature agrees always in step 1; a random one hardly ever."""
    run = Run()
    random = agreement(run.target, run.draft, lambda i: [run.samples[n] for n in i], range(4), "vision")
    assert set(random) == {f"top1_step{n}" for n in range(1, STEPS + 1)}
    assert all(0 <= value <= 1 for value in random.values())

    class Oracle(DraftModel):
        def forward(self, hidden: Tensor, rotation: object, attend: object) -> Tensor:
            return torch.stack([sample.features[1:] for sample in [run.samples[self.index]]])

    oracle = Oracle(replace(run.draft.config, num_queries=0, global_feature=False))
    scores = []
    for oracle.index in range(4):
        scores.append(agreement(run.target, oracle, lambda i: [run.samples[n] for n in i], [oracle.index], "vision"))
    assert all(score["top1_step1"] == 1.0 for score in scores)


def test_num_accepted_is_that_of_the_real_cycle() -> None:
    run = Run()
    samples = written_samples(run.model, ["one image", "text"])
    found = num_accepted(run.target, run.draft, samples, TreeConfig(2, 3, 8), max_new_tokens=16)
    assert 0 <= found["tau"] <= 3
    prompt = prompt_inputs(samples[0])
    assert prompt["input_ids"].shape[1] == int(samples[0].is_answer.nonzero()[0])
