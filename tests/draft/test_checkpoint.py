"""Drafts from files and back: the released layout, dtypes, and which target a draft belongs to."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import vispec
from golden_data import DRAFTS, GOLDEN, golden, golden_target
from vispec.draft.model import DraftModel
from vispec.target import Target

EMBEDDING = "embed_tokens.weight"


def released(draft: str) -> tuple[Path, dict[str, Tensor]]:
    folder = GOLDEN / "drafters" / draft
    return folder, load_file(folder / "model.safetensors")


def folder_with(path: Path, draft: str, tensors: dict[str, Tensor], name: str = "model.safetensors") -> Path:
    """A draft folder of `draft`'s config and these tensors."""
    path.mkdir(exist_ok=True)
    shutil.copy(GOLDEN / "drafters" / draft / "config.json", path / "config.json")
    write: Callable[..., None] = save_file if name.endswith(".safetensors") else torch.save
    write(tensors, path / name)
    return path


def assert_holds(draft: vispec.Draft, tensors: dict[str, Tensor], dtype: torch.dtype = torch.float32) -> None:
    ours = draft.model.state_dict()
    assert ours.keys() == tensors.keys() - {EMBEDDING}
    for name, tensor in ours.items():
        assert tensor.dtype == dtype
        assert torch.equal(tensor, tensors[name].to(dtype)), name


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("draft", DRAFTS)
def test_load(draft: str, name: str, tmp_path: Path) -> None:
    folder, tensors = released(draft)
    loaded = vispec.load_draft(folder_with(tmp_path, draft, tensors, name), golden_target(draft))
    assert_holds(loaded, tensors)
    assert loaded.config.to_dict().items() >= {"num_q": tensors["imadpt.q"].shape[0], "num_hidden_layers": 1}.items()
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert vispec.load_draft(str(folder), target=golden_target(draft)).config == loaded.config


def test_safetensors_are_preferred(tmp_path: Path) -> None:
    _, tensors = released("nobias_q1")
    folder = folder_with(tmp_path, "nobias_q1", tensors)
    torch.save({name: torch.zeros_like(tensor) for name, tensor in tensors.items()}, folder / "pytorch_model.bin")
    assert_holds(vispec.load_draft(folder, golden_target("nobias_q1")), tensors)


def test_parameters_in_a_bin_are_read(tmp_path: Path) -> None:
    _, tensors = released("nobias_q1")
    parameters = {name: nn.Parameter(tensor) for name, tensor in tensors.items()}
    folder = folder_with(tmp_path, "nobias_q1", parameters, "pytorch_model.bin")
    assert_holds(vispec.load_draft(folder, golden_target("nobias_q1")), tensors)


@pytest.mark.parametrize("draft", [*DRAFTS, "e2e_llava_next"])
def test_save_and_load_again(draft: str, tmp_path: Path) -> None:
    if draft == "e2e_llava_next":
        from transformers import AutoModelForImageTextToText

        target = AutoModelForImageTextToText.from_pretrained(GOLDEN / draft / "target").eval()
        folder = GOLDEN / draft / "drafter"
    else:
        target, folder = golden_target(draft), GOLDEN / "drafters" / draft
    first = vispec.load_draft(folder, target)
    first.save_pretrained(tmp_path / "new" / "folder")
    written = sorted(file.name for file in (tmp_path / "new" / "folder").iterdir())
    assert written == ["config.json", "model.safetensors"]

    again = vispec.load_draft(tmp_path / "new" / "folder", target)
    assert again.config == first.config
    assert_holds(again, first.model.state_dict())
    released_names = load_file(folder / "model.safetensors").keys() - {EMBEDDING}
    assert load_file(tmp_path / "new" / "folder" / "model.safetensors").keys() == released_names
    fields = json.loads((folder / "config.json").read_text())
    again_fields = json.loads((tmp_path / "new" / "folder" / "config.json").read_text())
    shared = again_fields.keys() & fields.keys()
    assert shared > {"hidden_size", "intermediate_size", "num_hidden_layers", "rms_norm_eps", "vocab_size"}
    assert {name: fields[name] for name in shared} == {name: again_fields[name] for name in shared}


@pytest.mark.parametrize(("kv_heads", "num_queries", "bias"), [(1, 4, False), (2, 1, True), (4, 6, False)])
def test_new_draft_of_any_geometry(kv_heads: int, num_queries: int, bias: bool, tmp_path: Path) -> None:
    target = golden_target("llava_like").bfloat16()
    config = vispec.DraftConfig(64, 40, 4, kv_heads, 160, num_queries, rope_theta=5e5, bias=bias, qkv_bias=not bias)
    draft = vispec.Draft(DraftModel(config), target)
    draft.save_pretrained(tmp_path)
    again = vispec.load_draft(tmp_path, target)
    assert again.config == config
    assert_holds(again, draft.model.state_dict(), torch.bfloat16)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_name_on_the_hub(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, tensors = released("nobias_q1")
    folder = folder_with(tmp_path, "nobias_q1", tensors, name)
    asked: list[tuple[str, str]] = []

    def download(repository: str, file: str) -> str:
        asked.append((repository, file))
        if not (folder / file).exists():
            raise EntryNotFoundError(file)
        return str(folder / file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert_holds(vispec.load_draft("somebody/some-draft", golden_target("nobias_q1")), tensors)
    tried = ["config.json", "model.safetensors", "pytorch_model.bin"]
    assert asked == [("somebody/some-draft", file) for file in tried[: tried.index(name) + 1]]
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match="somebody/some-draft"):
        vispec.load_draft("somebody/some-draft", golden_target("nobias_q1"))


def test_tensors_that_share_memory_can_be_saved(tmp_path: Path) -> None:
    _, tensors = released("nobias_q1")
    tensors["imadpt.v_proj.weight"] = tensors["imadpt.k_proj.weight"]
    tensors["imadpt.o_proj.weight"] = tensors["imadpt.k_proj.weight"].T
    folder = folder_with(tmp_path / "shared", "nobias_q1", tensors, "pytorch_model.bin")
    loaded = vispec.load_draft(folder, golden_target("nobias_q1"))
    loaded.save_pretrained(tmp_path / "saved")
    assert_holds(vispec.load_draft(tmp_path / "saved", golden_target("nobias_q1")), tensors)


@pytest.mark.parametrize("target_dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("stored_dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_weights_take_the_dtype_of_the_target(
    stored_dtype: torch.dtype, target_dtype: torch.dtype, tmp_path: Path
) -> None:
    _, tensors = released("qwen_like")
    stored = {name: tensor.to(stored_dtype) for name, tensor in tensors.items()}
    target = golden_target("qwen_like").to(target_dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a rounded embedding is still the target's
        loaded = vispec.load_draft(folder_with(tmp_path, "qwen_like", stored), target)
    assert_holds(loaded, stored, target_dtype)


def test_another_embedding_warns_once(tmp_path: Path) -> None:
    _, tensors = released("llava_like")
    folder = folder_with(tmp_path, "llava_like", {**tensors, EMBEDDING: tensors[EMBEDDING].roll(1, dims=0)})
    with pytest.warns(UserWarning, match=r"model\.safetensors: its embed_tokens\.weight is not the target's") as seen:
        loaded = vispec.load_draft(folder, golden_target("llava_like"))
    assert len(seen) == 1
    assert seen[0].filename == __file__
    target = golden_target("llava_like")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vispec.load_draft(GOLDEN / "drafters" / "llava_like", target)
    assert EMBEDDING not in loaded.model.state_dict()


def test_draft_belongs_to_one_target() -> None:
    target, twin = golden_target("llava_like"), golden_target("llava_like")
    draft = vispec.load_draft(GOLDEN / "drafters" / "llava_like", target)
    draft.check_target(Target(target))
    with pytest.raises(ValueError, match=r"^draft: it was loaded for another model"):
        draft.check_target(Target(twin))


def test_draft_does_not_keep_its_target_alive() -> None:
    target = golden_target("llava_like")
    draft = vispec.load_draft(GOLDEN / "drafters" / "llava_like", target)
    alive = draft._target
    assert alive() is target
    del target
    assert alive() is None


def test_target_is_not_changed_by_loading() -> None:
    target = golden_target("llava_like")
    before = {name: (parameter, parameter.clone()) for name, parameter in target.state_dict().items()}
    attributes = {name: sorted(vars(module)) for name, module in target.named_modules()}
    draft = vispec.load_draft(GOLDEN / "drafters" / "llava_like", target)
    draft.model.fc.weight.zero_()
    assert attributes == {name: sorted(vars(module)) for name, module in target.named_modules()}
    for name, parameter in target.state_dict().items():
        assert torch.equal(parameter, before[name][1])
    assert torch.equal(golden("llava_like", "target")["lm_head.weight"], target.lm_head.weight)
