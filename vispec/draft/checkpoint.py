"""Reading and writing drafts in the released checkpoints' layout."""

from __future__ import annotations

import json
import os
import warnings
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from vispec.draft.config import DraftConfig
from vispec.draft.drafter import Drafter, ShortHead, ViSpecDrafter
from vispec.draft.model import DraftModel
from vispec.placement import whole_weight
from vispec.target import Target
from vispec.tree import TreeConfig

CONFIG_FILE = "config.json"
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")  # in order of preference
EMBEDDING = "embed_tokens.weight"
DRAFT_VOCAB = "draft_vocab"
QUERIES = "imadpt.q"


class Draft:
    """A draft model and the target that it was loaded for. Its weights are final: after a change, make a new one.

    Args:
        model: The weights; moved to the device and dtype of the target's LM head.
        target: The target model. Held weakly: a draft does not keep it alive.

    Raises:
        ValueError: hidden size or vocabulary is not the target's.
        TypeError, NotImplementedError: the target is not supported, see `Target`; or the draft has a shortlist and the
            target's LM head is no plain `nn.Linear`.
    """

    def __init__(self, model: DraftModel, target: PreTrainedModel) -> None:
        adapter = Target(target)
        _check_fit(model.config, adapter)
        self.model = model.to(device=adapter.device, dtype=adapter.dtype).eval().requires_grad_(False)
        self._target = weakref.ref(target)
        self.uid = uuid4().hex  # what was read by this draft is of no use to another one
        self.input_weight = self.model.input_weight()
        self.short_head = None if model.config.draft_vocab_size is None else ShortHead(adapter, self.model.draft_vocab)

    @property
    def config(self) -> DraftConfig:
        return self.model.config

    @property
    def num_tokens(self) -> int:
        """Tokens that it may draft."""
        return self.config.draft_vocab_size or self.config.vocab_size

    def check_target(self, target: Target) -> None:
        """Raise a ValueError unless the draft was loaded for this very model and both still agree."""
        if self._target() is not target.model:
            raise ValueError("draft: it was loaded for another model; load it with target=model for this one")
        theirs = (target.device, target.dtype)
        for weight in (self.model.fc.weight, self.input_weight):  # the model may have been moved, or cast, since
            if (weight.device, weight.dtype) != theirs:
                found = (weight.device, weight.dtype)
                raise ValueError(f"draft: expected the target's device and dtype {theirs}, got {found}; load it again")

    def new_drafter(self, target: Target, trees: Sequence[TreeConfig], budget: int) -> Drafter:
        """A drafter of these trees for one call of `generate` with about `budget` new tokens."""
        return ViSpecDrafter(self.model, target, trees, budget, self.short_head, self.input_weight)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write config.json and model.safetensors. The embedding is the target's and is not written."""
        save_model(self.model, folder)


def save_model(model: DraftModel, folder: str | os.PathLike[str]) -> None:
    """Write a draft's config.json and model.safetensors."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG_FILE).write_text(json.dumps(model.config.to_dict(), indent=2) + "\n")
    # copies: safetensors refuses strided tensors, and two that share memory (a .bin may hold such)
    state = model.state_dict()
    tensors = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in state.items()}
    save_file(tensors, folder / WEIGHT_FILES[0], metadata={"format": "pt"})


def load_draft(source: str | os.PathLike[str], target: PreTrainedModel, *, full_vocabulary: bool = False) -> Draft:
    """Load a draft for `target`.

    Args:
        source: A folder with config.json and model.safetensors (or pytorch_model.bin, read without running code), or a
            name on the Hugging Face Hub.
        target: The model that it will draft for.
        full_vocabulary: Leave out a shortlist of tokens that the draft may have, and draft all of them.

    Raises:
        FileNotFoundError: the folder or one of its files is missing, or the Hub has no such draft.
        ValueError: a broken file, a missing, unexpected, mis-shaped or non-finite tensor, a draft that does not fit.
        TypeError, NotImplementedError: the target is not supported, also for the draft's shortlist of tokens; or
            `source` is no name.
    """
    adapter = Target(target)
    model, embedding, weight_file = _read(source, adapter.dtype, adapter)
    if full_vocabulary and model.config.draft_vocab_size is not None:
        model = _with_state(replace(model.config, draft_vocab_size=None), model.state_dict(), without=DRAFT_VOCAB)
    if embedding is not None:
        _compare_embedding(embedding, target, weight_file)
    return Draft(model, target)


def read_model(source: str | os.PathLike[str]) -> DraftModel:
    """A draft's weights as they are stored, without a target; arguments and errors as for `load_draft`."""
    return _read(source, torch.float32)[0]


def _read(
    source: str | os.PathLike[str], dtype: torch.dtype, target: Target | None = None
) -> tuple[DraftModel, Tensor | None, Path]:
    """The weights, the embedding where there is one, and the file; all checked, for use as `dtype`."""
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(f"source: expected a folder or a name on the Hub, got {source!r}")
    config_file, weight_file = _find_files(source)
    fields, tensors = _read_config(config_file), _read_tensors(weight_file)
    try:
        config = DraftConfig.from_dict(fields, _count_queries(tensors, weight_file))
        if target is not None:
            _check_fit(config, target)
    except ValueError as error:
        raise ValueError(f"{config_file}: {error}") from error
    with torch.device("meta"):
        model = DraftModel(config)
    _check_tensors(model, tensors, dtype, weight_file)
    embedding = tensors.pop(EMBEDDING, None)
    return _with_state(config, tensors), embedding, weight_file


def _with_state(config: DraftConfig, state: Mapping[str, Tensor], without: str = "") -> DraftModel:
    """A model that consists of these tensors."""
    with torch.device("meta"):
        model = DraftModel(config)
    model.load_state_dict({name: tensor for name, tensor in state.items() if name != without}, assign=True)
    return model


def shorten_vocabulary(model: DraftModel, counts: Mapping[int, int], size: int) -> DraftModel:
    """The same weights, drafting none but the most frequent tokens: a smaller LM head, and still the target's text.

    Args:
        model: A draft, with or without a shortlist.
        counts: How often each of the target's tokens comes, in texts like those to be written.
        size: Tokens to keep; of equally frequent ones those with the lowest ids.

    Raises:
        ValueError: `size` is not within the vocabulary, or a counted token is not.
    """
    config = replace(model.config, draft_vocab_size=size)
    outside = [token for token in counts if not 0 <= token < config.vocab_size]
    if outside:
        raise ValueError(f"counts: expected token ids from 0 to {config.vocab_size - 1}, got {outside[0]}")
    by_count = sorted(range(config.vocab_size), key=lambda token: -counts.get(token, 0))
    shortlist = torch.tensor(sorted(by_count[:size]), device=model.device)
    return _with_state(config, {**model.state_dict(), DRAFT_VOCAB: shortlist})


def _count_queries(tensors: dict[str, Tensor], file: Path) -> int:
    """0 for a draft that has nothing of ViSpec's (EAGLE-2's layout)."""
    if not any(name.startswith(("imadpt.", "img_fc.")) for name in tensors):
        return 0
    queries = tensors.get(QUERIES)
    if queries is None or queries.ndim != 3:
        raise ValueError(f"{QUERIES}: {'missing from' if queries is None else 'not 3-D in'} {file}")
    return queries.shape[0]


def _check_fit(config: DraftConfig, target: Target) -> None:
    for name in ("hidden_size", "vocab_size"):
        ours, theirs = getattr(config, name), getattr(target, name)
        if ours != theirs:
            raise ValueError(f"{name}: the draft has {ours}, the target {type(target.model).__name__} has {theirs}")


def _find_files(source: str | os.PathLike[str]) -> tuple[Path, Path]:
    folder = Path(source)
    if not os.path.exists(folder) and _is_hub_name(folder):
        return _download(str(source))
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"draft: expected a folder, got {folder}")
    if not (folder / CONFIG_FILE).is_file():
        raise FileNotFoundError(f"draft: no {CONFIG_FILE} in {folder}")
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / CONFIG_FILE, folder / name
    raise FileNotFoundError(f"draft: neither {' nor '.join(WEIGHT_FILES)} in {folder}")


def _is_hub_name(path: Path) -> bool:
    """`owner/name`, and no folder `owner` here in which a folder was misspelt."""
    return len(path.parts) == 2 and not path.parts[0].startswith((".", "/", "~")) and not os.path.exists(path.parent)


def _download(name: str) -> tuple[Path, Path]:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        config_file = hf_hub_download(name, CONFIG_FILE)
        try:
            weight_file = hf_hub_download(name, WEIGHT_FILES[0])
        except LocalEntryNotFoundError:  # no network, rather than no such file
            raise
        except EntryNotFoundError:
            weight_file = hf_hub_download(name, WEIGHT_FILES[1])
    except (HfHubHTTPError, HFValidationError, EntryNotFoundError, OSError) as error:
        raise FileNotFoundError(f"draft: no folder {name}, and it cannot be had from the Hub: {error}") from error
    return Path(config_file), Path(weight_file)


def _read_config(file: Path) -> dict[str, Any]:
    try:
        fields = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{file}: expected a JSON object, got {type(fields).__name__}")
    return fields


def _read_tensors(file: Path) -> dict[str, Tensor]:
    with file.open("rb") as opened:  # outside the try: a file that cannot be opened is not a broken one
        try:
            if file.suffix == ".safetensors":
                return load_file(file)
            tensors = torch.load(opened, map_location="cpu", weights_only=True)
        except Exception as error:  # on damaged bytes the readers raise whatever they stumble over
            raise ValueError(f"{file}: broken, or not weights alone: {error}") from error
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in tensors.items()
    ):
        raise ValueError(f"{file}: expected a mapping of names to tensors, got {type(tensors).__name__}")
    return tensors


def _check_tensors(model: DraftModel, tensors: dict[str, Tensor], dtype: torch.dtype, file: Path) -> None:
    """Names, shapes and values of all that a file holds; `dtype` is what the weights will be cast to."""
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    for name in sorted(expected.keys() - tensors.keys()):
        raise ValueError(f"{name}: missing from {file}")
    expected[EMBEDDING] = torch.Size((model.config.vocab_size, model.config.hidden_size))
    for name in sorted(tensors.keys() - expected.keys()):
        raise ValueError(f"{name}: unexpected in {file}")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name]:
            raise ValueError(f"{name}: expected shape {list(expected[name])}, got {list(tensor.shape)} in {file}")
        if name == DRAFT_VOCAB:
            _check_shortlist(tensor, model.config.vocab_size, file)
        elif not tensor.is_floating_point() or tensor.layout != torch.strided or tensor.is_meta:
            kind = f"{tensor.dtype}, {tensor.layout} on {tensor.device}"
            raise ValueError(f"{name}: expected floating point values, got {kind} in {file}")
        elif not tensor.to(dtype).isfinite().all():
            raise ValueError(f"{name}: not finite as {dtype} in {file}")


def _check_shortlist(token_ids: Tensor, vocab_size: int, file: Path) -> None:
    if token_ids.dtype != torch.int64 or token_ids.layout != torch.strided or token_ids.is_meta:
        kind = f"{token_ids.dtype}, {token_ids.layout} on {token_ids.device}"
        raise ValueError(f"{DRAFT_VOCAB}: expected int64 token ids, got {kind} in {file}")
    if token_ids[0] < 0 or token_ids[-1] >= vocab_size or (token_ids.diff() <= 0).any():
        raise ValueError(f"{DRAFT_VOCAB}: expected ascending token ids from 0 to {vocab_size - 1} in {file}")


def _compare_embedding(embedding: Tensor, target: PreTrainedModel, file: Path) -> None:
    """The target's embedding is used; one that differs means that the draft was trained for another model."""
    own = whole_weight(target.get_input_embeddings())
    if own is None:  # quantised: it differs in any case
        return
    if embedding.shape != own.shape or not torch.allclose(embedding.to(own), own, rtol=0.02, atol=1e-3):
        warnings.warn(f"{file}: its {EMBEDDING} is not the target's; expect low acceptance", stacklevel=3)
