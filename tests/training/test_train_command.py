"""`vispec train` as a user runs it: one command, a target with its own processor, pictures and questions in files."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel

import models
import vispec
from killing import PATIENCE, run_and_kill
from tiny_pair import save_tiny_pair
from vispec.cli import main
from vispec.pair.pretrained import Pair, load_pair
from vispec.pair.write_requests import LONG, write_requests

COUNT, TOKENS = 20, 16
SMALL = {
    "--max-new-tokens": TOKENS, "--generate-batch-size": 4, "--num-shards": 2, "--epochs": 3, "--batch-size": 4,
    "--learning-rate": 1e-3, "--eval-share": 0.2, "--eval-samples": 2, "--eval-every": 6, "--save-every": 4,
    "--device": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def user_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What users have: `pair/target`, a model in a folder; `data/requests.jsonl`, pictures, `data/dialogues.json`."""
    folder = tmp_path_factory.mktemp("user")
    save_tiny_pair(folder / "pair")
    write_requests(folder / "data", COUNT, "train", seed=7, shares=LONG)
    return folder


@pytest.fixture(autouse=True)
def _new_accelerator() -> Iterator[None]:
    """accelerate keeps precision and device for the life of a process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def command(files: Path, output: Path, **changes: object) -> list[str]:
    """Arguments of `vispec`; of `changes` None leaves an option out, True gives one without a value."""
    options = {"--model": files / "pair/target", "--data": files / "data/requests.jsonl", "--output": output, **SMALL}
    options |= {f"--{name.replace('_', '-')}": value for name, value in changes.items()}
    found: list[str] = ["train"]
    for name, value in options.items():
        if value is not None:
            found += [name] if value is True else [name, str(value)]
    return found


def draft_bytes(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (output / "draft").iterdir()}


def log_of(output: Path, stage: str = "vision") -> list[dict[str, float]]:
    return [json.loads(line) for line in (output / stage / "log.jsonl").read_text().splitlines()]


def load_result(files: Path, output: Path, dtype: torch.dtype = torch.float32) -> Pair:
    """The target with the draft that was trained for it."""
    pair = load_pair(files / "pair", dtype)
    return Pair(pair.model, pair.processor, vispec.load_draft(output / "draft", pair.model))


def assert_lossless(files: Path, pair: Pair) -> None:
    picture = next((files / "data/images").iterdir())
    inputs = pair.inputs(Image.open(picture), "What is in the picture?").to(pair.model.dtype)
    expected = pair.model.generate(**inputs, do_sample=False, max_new_tokens=24)
    assert torch.equal(vispec.generate(pair.model, pair.draft, inputs, do_sample=False, max_new_tokens=24), expected)


@pytest.fixture(scope="module")
def undisturbed(user_files: Path) -> Path:
    """The output of one run from start to end."""
    AcceleratorState._reset_state(reset_partial_state=True)
    assert main(command(user_files, user_files / "undisturbed")) == 0
    return user_files / "undisturbed"


def test_one_command_trains_a_draft(
    user_files: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], undisturbed: Path
) -> None:
    output = tmp_path / "out"
    assert main(command(user_files, output)) == 0
    told = capfd.readouterr()
    for line in (
        r"target: LlavaForConditionalGeneration, 2\.\dM parameters, float32 on cpu; draft: 0\.7M",
        r"vision: \d+ samples to train on, \d held out; step 0 of 1\d",
        r"vision: decoding feeds the draft what training does \(differences <= \S+\)",
        r'vision: {"top1_step1": .*, "tau": .*}',
        f"draft: {output}/draft",
    ):
        assert re.search(f"^{line}$", told.out, re.MULTILINE), line
    assert "Loading" not in told.err
    assert "answers: 100%" in told.err
    assert re.search(r"vision: .*<\d\d:\d\d.*loss=", told.err)  # with the time left
    log = log_of(output)
    assert log[-1]["loss"] < log[0]["loss"]
    assert {"eval_top1_step1", "eval_top1_step4", "eval_tau"} <= log[-1].keys()
    assert_lossless(user_files, load_result(user_files, output))
    assert draft_bytes(output) == draft_bytes(undisturbed)  # two equal runs


def test_a_shortlist_of_the_answers_tokens(
    user_files: Path, tmp_path: Path, undisturbed: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Trained with one, or given one afterwards, the draft is the same."""
    AcceleratorState._reset_state(reset_partial_state=True)
    output, later = tmp_path / "out", tmp_path / "later"
    assert main(command(user_files, output, draft_vocab_size=60)) == 0
    model = ["--model", str(user_files / "pair/target"), "--size", "60", "--output", str(later)]
    texts = ["--texts", str(undisturbed / "vision_answers")]
    assert main(["shortlist", str(undisturbed / "draft"), *texts, *model]) == 0
    assert re.search(
        r"^60 of \d+ tokens are drafted: \d+\.\d+% of the \d+ counted", capfd.readouterr().out, re.MULTILINE
    )
    for file in (output / "draft").iterdir():
        assert file.read_bytes() == (later / file.name).read_bytes()
    pair = load_result(user_files, output)
    assert pair.draft.num_tokens == 60
    assert_lossless(user_files, pair)


def test_a_shortlist_larger_than_the_vocabulary(user_files: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main(command(user_files, tmp_path / "out", draft_vocab_size=10**6))
    assert not (tmp_path / "out" / "vision_answers").exists()


def test_same_command_again_does_nothing_anew(
    user_files: Path, undisturbed: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in undisturbed.rglob("*") if path.is_file()}

    before = files()
    assert main(command(user_files, undisturbed)) == 0
    steps = log_of(undisturbed)[-1]["step"]
    assert f"step {steps} of {steps}\n" in capfd.readouterr().out
    assert files() == before


def test_killed_in_every_phase(user_files: Path, tmp_path: Path, undisturbed: Path) -> None:
    """kill -9 while answers are written, before the first checkpoint and behind it."""
    output = tmp_path / "out"

    def answers() -> bool:
        return sum(path.stat().st_size for path in output.glob("vision_answers/*.jsonl")) > 0

    def steps(number: int) -> Callable[[], bool]:
        log = output / "vision/log.jsonl"
        return lambda: log.exists() and log.read_text().count("\n") >= number

    for moment in (answers, steps(1), steps(6)):
        assert run_and_kill(lambda: main(command(user_files, output)), moment)
    assert not (output / "draft").exists()
    assert main(command(user_files, output)) == 0
    assert draft_bytes(output) == draft_bytes(undisturbed)
    assert log_of(output) == log_of(undisturbed)


def test_two_processes(user_files: Path, tmp_path: Path, undisturbed: Path) -> None:
    """By torchrun, on a machine without a GPU, and not told so."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "vispec"]
    arguments = command(user_files, tmp_path / "out", device=None)
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([*launch, *arguments], check=True, timeout=PATIENCE, env=environment, cwd=tmp_path)
    for ours, expected in zip(log_of(tmp_path / "out"), log_of(undisturbed), strict=True):
        assert ours["loss"] == pytest.approx(expected["loss"], rel=1e-3)
    assert_lossless(user_files, load_result(user_files, tmp_path / "out"))


@pytest.mark.parametrize(
    ("changes", "num_queries", "has_global_feature"),
    [
        ({}, 2, True),
        ({"num_queries": 0}, 0, False),
        ({"num_queries": 1}, 1, True),
        ({"no_global_feature": True}, 2, False),
        ({"multi_token_steps": 0, "no_noise": True}, 2, True),
    ],
    ids=["vispec", "eagle", "no slots", "no global feature", "no multi-token pass"],
)
def test_text_stage_and_ablations(
    user_files: Path, tmp_path: Path, changes: dict[str, object], num_queries: int, has_global_feature: bool
) -> None:
    """Two stages on answers that are given."""
    options = {"answers": "given", "text_data": user_files / "data/dialogues.json", "epochs": 1, "text_epochs": 1}
    assert main(command(user_files, tmp_path / "out", **options, **changes)) == 0
    assert {"smooth_l1", "agree_1"} <= log_of(tmp_path / "out", "text")[0].keys()
    assert ("agree_2" in log_of(tmp_path / "out")[0]) == ("multi_token_steps" not in changes)
    pair = load_result(user_files, tmp_path / "out")
    assert (pair.draft.config.num_queries, pair.draft.config.global_feature) == (num_queries, has_global_feature)
    assert_lossless(user_files, pair)


@pytest.mark.parametrize("changes", [{"dtype": "bfloat16"}, {"dtype": "bfloat16", "mixed_precision": "bf16"}], ids=str)
def test_low_precision(user_files: Path, tmp_path: Path, changes: dict[str, object]) -> None:
    """The draft is trained in fp32, or under autocast, and saved in the target's dtype."""
    output = tmp_path / "out"
    assert main(command(user_files, output, **changes)) == 0
    log = log_of(output)
    assert log[-1]["loss"] < log[0]["loss"]
    checkpoint = torch.load(output / "vision/checkpoint.pt")
    assert {weight.dtype for weight in checkpoint["model"].values()} == {torch.float32}
    weights = load_file(output / "draft/model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}


@pytest.mark.parametrize("num_queries", [2, 0])
def test_init_goes_on_from_a_draft(user_files: Path, tmp_path: Path, undisturbed: Path, num_queries: int) -> None:
    """Layer and fc are those of the other draft; an adaptor of another kind is left there."""
    options = {"init": undisturbed / "draft", "num_queries": num_queries, "learning_rate": 1e-12, "epochs": 1}
    assert main(command(user_files, tmp_path / "out", **options)) == 0
    before = load_file(undisturbed / "draft/model.safetensors")
    after = load_file(tmp_path / "out/draft/model.safetensors")
    assert {name for name in before if name not in after} == {
        name for name in before if name.startswith(("imadpt.", "img_fc.")) and num_queries == 0
    }
    for name, weight in after.items():
        torch.testing.assert_close(weight, before[name], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epochs": 4}, r"epochs: the run in \S+ was started with 3\.0, got 4\.0"),
        ({"num_queries": 3}, r"num_queries: the run in \S+ was started with 2, got 3"),
        ({"limit": 5}, r"limit: the run in \S+ was started with None, got 5"),
        ({"dtype": "bfloat16"}, r"dtype: the run in \S+ was started with auto, got bfloat16"),
    ],
)
def test_changed_options_are_refused_by_name(
    user_files: Path, undisturbed: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, object], words: str
) -> None:
    before = draft_bytes(undisturbed)
    with pytest.raises(SystemExit) as stop:
        main(command(user_files, undisturbed, **changes))
    assert stop.value.code == 2
    assert re.search(words, capsys.readouterr().err)
    assert draft_bytes(undisturbed) == before
    assert main(command(user_files, undisturbed, save_every=9, eval_every=2, micro_batch_size=1)) == 0


def test_changed_data_is_refused(
    user_files: Path, tmp_path: Path, undisturbed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(user_files / "data", tmp_path / "data")
    output = tmp_path / "out"
    assert main(command(user_files, output, data=tmp_path / "data/requests.jsonl", epochs=1)) == 0
    lines = (tmp_path / "data/requests.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "data/requests.jsonl").write_text("".join(lines[:-1]))
    with pytest.raises(SystemExit) as stop:
        main(command(user_files, output, data=tmp_path / "data/requests.jsonl", epochs=1))
    assert stop.value.code == 2
    assert re.search(rf"num_requests {COUNT}, now {COUNT - 1}", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": "nowhere.jsonl"}, "data: expected a file, a folder or OWNER/NAME on the Hub, got 'nowhere.jsonl'"),
        ({"text_data": "nowhere.jsonl"}, "text_data: expected a file, a folder or OWNER/NAME on the Hub"),
        ({"image_folder": "nowhere"}, "data: .*requests.jsonl, line 1: expected an image at .*nowhere"),
        ({"model": "{files}/data"}, "model: .*data"),
        ({"model": "{files}/unsupported"}, "model: GPT2LMHeadModel .* is not supported"),
        ({"init": "{files}/data"}, "draft: no config.json in"),
        ({"init": "{files}/other"}, r".*config\.json: hidden_size: the draft has 64, the target .* has 192"),
        ({"answers": "given", "data": "{files}/questions.jsonl"}, "requests: expected .*: no answer is given"),
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"limit": 0}, "limit: expected at least 1, got 0"),
        ({"epochs": -1}, "epochs: expected a number above 0, got -1.0"),
        ({"learning_rate": "nan"}, "learning_rate: expected a number above 0, got nan"),
        ({"eval_share": 1}, "eval_share: expected a share from 0 to below 1, got 1.0"),
        ({"num_queries": -1}, "num_queries: expected at least 0, got -1"),
        ({"feature_cache": 1, "shard_target": True}, "feature_cache: expected 0 with shard_target"),
        ({"data": "some/dataset"}, "some/dataset: to read it, `pip install datasets`"),
    ],
    ids=str,
)
def test_errors_come_before_work(
    user_files: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, object],
    words: str,
) -> None:
    """One line, no traceback, and nothing left that would hold the mended command to the wrong one."""
    monkeypatch.setitem(sys.modules, "datasets", None)
    make_wrong_files(user_files)
    wrong = {k: v.format(files=user_files) if isinstance(v, str) else v for k, v in changes.items()}
    try:
        code = main(command(user_files, tmp_path / "out", **wrong))
    except SystemExit as stop:
        code = stop.code
    assert code in (1, 2)
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.search(f"^vispec( train|: error): {words}", last), last
    assert not list(tmp_path.glob("out/*/*"))
    assert main(command(user_files, tmp_path / "out", epochs=0.3)) == 0


def make_wrong_files(files: Path) -> None:
    if (files / "unsupported").exists():
        return
    lines = [json.loads(line) for line in (files / "data/requests.jsonl").read_text().splitlines()]
    questions = [{"image": f"data/{line['image']}", "prompt": line["conversations"][0]["value"]} for line in lines]
    (files / "questions.jsonl").write_text("".join(f"{json.dumps(question)}\n" for question in questions))
    GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=50)).save_pretrained(files / "unsupported")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(files / "pair/target" / name, files / "unsupported" / name)
    models.make_draft(models.make_target("llava")).save_pretrained(files / "other")


def test_broken_training_is_no_traceback(user_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"learning_rate": 1e30, "warm_up": 0}
    assert main(command(user_files, tmp_path / "out", **options)) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.match(r"vispec train: step \d: .* is (nan|inf)\. Try a lower learning rate \(now 1e\+30\)", last)


@pytest.mark.parametrize("package", ["accelerate", "jinja2"])
def test_missing_package_is_named(user_files: Path, tmp_path: Path, package: str) -> None:
    arguments = command(user_files, tmp_path / "out")
    code = f"import sys; sys.modules[{package!r}] = None; from vispec.cli import main; sys.exit(main({arguments}))"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert run.returncode == 1
    assert run.stderr.startswith("vispec train: ")
    assert run.stderr.endswith('`pip install ".[train]"` brings it\n')
