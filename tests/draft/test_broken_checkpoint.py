"""Drafts that cannot be read: the error names tensor and file, is never the reader's own, and no code runs."""

from __future__ import annotations

import io
import json
import pickle
import random
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaForCausalLM

import vispec
from golden_data import GOLDEN, golden_target

SOURCE = GOLDEN / "drafters" / "llava_like"
SAFETENSORS, BIN, CONFIG = "model.safetensors", "pytorch_model.bin", "config.json"


@pytest.fixture(scope="module")
def target() -> LlamaForCausalLM:
    return golden_target("llava_like")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of a good draft, to break."""
    for file in SOURCE.iterdir():
        shutil.copy(file, tmp_path / file.name)
    return tmp_path


def tensors_of(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / SAFETENSORS)


def write(folder: Path, name: str, tensors: Any) -> Path:
    (folder / SAFETENSORS).unlink(missing_ok=True)
    if name == SAFETENSORS:
        save_file(tensors, folder / name)
    else:
        torch.save(tensors, folder / name)
    return folder / name


def assert_refused(folder: Path, target: LlamaForCausalLM, *words: str) -> None:
    """A ValueError of our own that says all of `words`."""
    with pytest.raises(ValueError, match=re.escape(words[0])) as error:
        vispec.load_draft(folder, target)
    assert type(error.value) is ValueError
    for word in words:
        assert word in str(error.value)


CHANGES: dict[str, tuple[str, Callable[[Tensor], Tensor | None]]] = {
    "missing": ("missing from", lambda tensor: None),
    "too few dimensions": ("shape", lambda tensor: tensor.flatten()[: tensor.numel() - 1]),
    "other shape": ("shape", lambda tensor: torch.cat((tensor, tensor))),
    "empty": ("shape", lambda tensor: tensor.new_zeros(0)),
    "not a number": ("not finite", lambda tensor: tensor.clone().index_fill_(0, torch.tensor([0]), float("nan"))),
    "infinite": ("not finite", lambda tensor: tensor.clone().index_fill_(0, torch.tensor([0]), -float("inf"))),
    "integers": ("expected floating point", lambda tensor: tensor.long()),
    "flags": ("expected floating point", lambda tensor: tensor > 0),
    "complex numbers": ("expected floating point", lambda tensor: tensor.to(torch.complex64)),
}
TENSORS = [
    "fc.weight",
    "img_fc.bias",
    "imadpt.q",
    "layers.0.self_attn.k_proj.weight",
    "layers.0.post_attention_layernorm.weight",
    "embed_tokens.weight",
]


@pytest.mark.parametrize("file", [SAFETENSORS, BIN])
@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.parametrize("change", CHANGES)
def test_wrong_tensor(folder: Path, target: LlamaForCausalLM, change: str, name: str, file: str) -> None:
    words, apply = CHANGES[change]
    tensors = tensors_of(folder)
    changed = apply(tensors.pop(name))
    if changed is not None:
        tensors[name] = changed
    path = write(folder, file, tensors)
    if change == "missing" and name == "embed_tokens.weight":  # the target's is used anyway
        assert vispec.load_draft(folder, target).config.vocab_size == 160
        return
    if name == "imadpt.q" and change == "other shape":  # more queries: a draft of its own
        assert vispec.load_draft(folder, target).config.num_queries == 4
        return
    if name == "imadpt.q" and change in ("too few dimensions", "empty"):
        words = "not 3-D"
    assert_refused(folder, target, name, words, str(path))


@pytest.mark.parametrize("name", ["layers.1.mlp.up_proj.weight", "lm_head.weight", "norm.weight", "fc.weight.extra"])
def test_unexpected_tensor(folder: Path, target: LlamaForCausalLM, name: str) -> None:
    path = write(folder, SAFETENSORS, {**tensors_of(folder), name: torch.zeros(64)})
    assert_refused(folder, target, name, "unexpected", str(path))


def test_bias_that_the_config_denies(folder: Path, target: LlamaForCausalLM) -> None:
    fields = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**fields, "bias": False}))
    assert_refused(folder, target, "fc.bias", "unexpected", SAFETENSORS)
    (folder / CONFIG).write_text(json.dumps({**fields, "qkv_bias": True}))
    assert_refused(folder, target, "_proj.bias", "missing", SAFETENSORS)


def test_too_large_for_the_dtype_of_the_target(folder: Path) -> None:
    tensors = tensors_of(folder)
    tensors["fc.weight"][0, 0] = 1e30
    path = write(folder, SAFETENSORS, tensors)
    assert_refused(folder, golden_target("llava_like").half(), "fc.weight", "float16", str(path))


def test_tensors_without_plain_data(folder: Path, target: LlamaForCausalLM) -> None:
    tensors = tensors_of(folder)
    for strange in (tensors["fc.weight"].to_sparse(), tensors["fc.weight"].to("meta")):
        path = write(folder, BIN, {**tensors, "fc.weight": strange})
        assert_refused(folder, target, "fc.weight", str(path))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"{'hidden_size': 64}", "not JSON"),
        (b'{"hidden_size": "\xff\xfe"}', "not JSON"),
        (b"\x80\x81\x82", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "expected a JSON object"),
        (b"null", "expected a JSON object"),
        (b'"config"', "expected a JSON object"),
        (b"{}", "hidden_size: missing"),
        (b'{"hidden_size": 64, "intermediate_size": 96, "vocab_size": 160}', "num_attention_heads: missing"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_broken_config(folder: Path, target: LlamaForCausalLM, content: bytes, words: str) -> None:
    (folder / CONFIG).write_bytes(content)
    assert_refused(folder, target, words, str(folder / CONFIG))


@pytest.mark.parametrize(
    "changes",
    [
        {"num_hidden_layers": 2},
        {"hidden_act": "gelu"},
        {"rope_scaling": {"type": "yarn"}},
        {"num_attention_heads": 0},
        {"num_key_value_heads": 3},
        {"rms_norm_eps": float("nan")},
        {"intermediate_size": 2**63},
        {"num_q": 5},
    ],
    ids=str,
)
def test_config_of_something_else(folder: Path, target: LlamaForCausalLM, changes: dict[str, Any]) -> None:
    fields = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**fields, **changes}))
    assert_refused(folder, target, next(iter(changes)), str(folder / CONFIG))


@pytest.mark.parametrize("changes", [{"hidden_size": 2**30}, {"vocab_size": 161}, {"hidden_size": 32}], ids=str)
def test_size_of_another_target(folder: Path, target: LlamaForCausalLM, changes: dict[str, int]) -> None:
    fields = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**fields, **changes}))
    name, value = next(iter(changes.items()))
    own = {"hidden_size": 64, "vocab_size": 160}[name]
    assert_refused(folder, target, name, str(value), str(own), "LlamaForCausalLM", str(folder / CONFIG))


def test_draft_of_another_target(folder: Path) -> None:
    assert_refused(folder, golden_target("nobias_q1"), "hidden_size", "64", "32", "LlamaForCausalLM", str(folder))


def good_bytes(name: str) -> bytes:
    if name == SAFETENSORS:
        return (SOURCE / SAFETENSORS).read_bytes()
    buffer = io.BytesIO()
    torch.save(load_file(SOURCE / SAFETENSORS), buffer)
    return buffer.getvalue()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", [SAFETENSORS, BIN])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0",
        b"garbage",
        bytes(range(256)) * 40,
        b"\x80\x04.",
        b"(lp0\n.",
        b"PK\x03\x04" + bytes(100),
        b"\xff" * 64,
    ],
    ids=lambda content: repr(content[:8]),
)
def test_garbage(folder: Path, target: LlamaForCausalLM, content: bytes, name: str) -> None:
    (folder / SAFETENSORS).unlink()
    (folder / name).write_bytes(content)
    assert_refused(folder, target, str(folder / name))


@pytest.mark.parametrize("name", [SAFETENSORS, BIN])
def test_truncated(folder: Path, target: LlamaForCausalLM, name: str) -> None:
    content = good_bytes(name)
    (folder / SAFETENSORS).unlink()
    for length in (1, 7, 8, 9, 100, len(content) // 2, len(content) - 1):
        (folder / name).write_bytes(content[:length])
        assert_refused(folder, target, str(folder / name))


@pytest.mark.filterwarnings("ignore:.* is not the target's")
@pytest.mark.parametrize("name", [SAFETENSORS, BIN])
def test_flipped_bytes(folder: Path, target: LlamaForCausalLM, name: str) -> None:
    """Whatever is damaged, the draft loads or the error is ours."""
    content, rng = good_bytes(name), random.Random(0)
    header = [rng.randrange(min(len(content), 2500)) for _ in range(60)]
    (folder / SAFETENSORS).unlink()
    refused: list[ValueError] = []
    for position in (*header, *(rng.randrange(len(content)) for _ in range(30))):
        damaged = bytearray(content)
        damaged[position] ^= 1 << rng.randrange(8)
        (folder / name).write_bytes(damaged)
        try:
            vispec.load_draft(folder, target)
        except ValueError as error:
            refused.append(error)
    assert len(refused) > 20
    assert all(type(error) is ValueError and str(folder) in str(error) for error in refused)


class RunsCode:
    """What a hostile file holds: unpickling it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "plain pickle"])
@pytest.mark.parametrize("is_nested", [True, False])
def test_pickle_does_not_run(folder: Path, target: LlamaForCausalLM, is_nested: bool, is_zip: bool) -> None:
    trap = folder / "it_ran"
    hostile: Any = RunsCode(trap)
    if is_nested:
        hostile = {**tensors_of(folder), "fc.weight": hostile}
    (folder / SAFETENSORS).unlink()
    torch.save(hostile, folder / BIN, _use_new_zipfile_serialization=is_zip)
    assert_refused(folder, target, str(folder / BIN))
    (folder / BIN).write_bytes(pickle.dumps(hostile))
    assert_refused(folder, target, str(folder / BIN))
    assert not trap.exists()

    pickle.loads((folder / BIN).read_bytes())  # the trap works where code may run
    assert trap.exists()


@pytest.mark.parametrize(
    "content",
    [
        [torch.zeros(2)],
        {"model": {"fc.weight": torch.zeros(2)}},
        {1: torch.zeros(2)},
        torch.zeros(3),
        {"fc": 1.0},
        None,
    ],
    ids=lambda content: type(content).__name__,
)
def test_bin_that_holds_something_else(folder: Path, target: LlamaForCausalLM, content: Any) -> None:
    path = write(folder, BIN, content)
    assert_refused(folder, target, "expected a mapping of names to tensors", str(path))


def test_missing_files(folder: Path, target: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    cases: list[tuple[Any, str]] = [
        (folder / "nowhere", "nowhere"),
        (str(folder / "nowhere" / "deeper"), "deeper"),
        ("a_single_word", "a_single_word"),
        (folder / CONFIG, "expected a folder"),
        ("a" * 5000, "expected a folder"),
        ("no hub name!/either", "no hub name!/either"),
        ("with\0null/name", "null"),
        ("misspelt/draft", "expected a folder, got misspelt/draft"),
    ]
    monkeypatch.chdir(folder)
    (folder / "misspelt").mkdir()  # so this is no name on the Hub
    for source, words in cases:
        with pytest.raises(FileNotFoundError, match=words):
            vispec.load_draft(source, target)
    (folder / SAFETENSORS).rename(folder / "weights.safetensors")
    with pytest.raises(FileNotFoundError, match=r"neither model\.safetensors nor pytorch_model\.bin"):
        vispec.load_draft(folder, target)
    (folder / CONFIG).unlink()
    with pytest.raises(FileNotFoundError, match=r"no config\.json in"):
        vispec.load_draft(folder, target)


@pytest.mark.parametrize("source", [None, 3, b"folder", ["folder"]], ids=repr)
def test_source_of_another_type(target: LlamaForCausalLM, source: Any) -> None:
    with pytest.raises(TypeError, match="source"):
        vispec.load_draft(source, target)


def test_target_of_another_type(folder: Path) -> None:
    with pytest.raises(TypeError, match="model: expected a transformers PreTrainedModel, got Linear"):
        vispec.load_draft(folder, torch.nn.Linear(2, 2))


@pytest.mark.parametrize("is_offline", [True, False], ids=["offline", "no network"])
def test_hub_out_of_reach(
    target: LlamaForCausalLM, is_offline: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the Hub's client waits between its tries
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", is_offline)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(FileNotFoundError, match="vispec-tests/no-such-draft"):
        vispec.load_draft("vispec-tests/no-such-draft", target)
