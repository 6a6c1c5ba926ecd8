"""Everything that is known about a Hugging Face VLM: decoder, LM head, placeholders, rotary positions."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from vispec._C import build_info
from vispec.attention import VERIFICATION, WINDOWS, Verification, switched_attention
from vispec.cache import CACHE_NAME, TreeCache
from vispec.compiling import run_compiled
from vispec.context import Local
from vispec.families import FAMILIES, PLAIN, TEXT_MODELS, why_unsupported
from vispec.media import Run, lengths_noted, runs_of
from vispec.placement import device_of, is_placed, whole_weight, why_not_recorded
from vispec.processes import check_split, processes_of
from vispec.tree import Tree

BUILD = build_info()
DEVICES = ("cpu", "cuda") if BUILD["cuda"] else ("cpu",)  # that the operators are built for
DTYPES = (torch.float32, torch.float16, torch.bfloat16)  # of the operators


@dataclass(frozen=True)
class Prompt:
    """What the target made of the prompt, for the drafter."""

    logits: Tensor  # [B, V], of the last position
    embeds: Tensor  # [B, L, H], what the decoder read: token embeddings and projected image features
    features: Tensor  # [B, L, H], last hidden states, final norm applied
    images: list[list[Run]]  # per sequence, of its images and videos, see `vispec.media`
    starts: list[int]  # per sequence, positions of left padding
    hidden_states: tuple[Tensor, ...] | None = None  # [B, L, H] each, before every layer and after the last; if asked
    past: int = 0  # positions before these, which the cache held already; `starts` counts from the first of them
    memory: Any = None  # what the drafter kept of those


class Verified(NamedTuple):
    """What the target made of a tree."""

    logits: Tensor  # [B, N, V]
    features: Tensor  # [B, N, H]
    hidden_states: tuple[Tensor, ...] | None  # [B, N, H] each, before every layer and after the last; if asked for


class Reading(NamedTuple):
    """What the target made of whole texts, for training a draft; fields as in `Prompt`."""

    embeds: Tensor
    features: Tensor
    images: list[list[Run]]


@dataclass
class _Record:
    """Inputs and outputs of the text decoder in one context, a chunk an entry."""

    embeds: list[Tensor] = field(default_factory=list)
    features: list[Tensor] = field(default_factory=list)


@dataclass(eq=False)
class _Use:
    """Who decodes with a model."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    thread: int | None = None  # that holds the lock


_RECORD: Local[_Record] = Local("vispec_record")
_uses: WeakKeyDictionary[PreTrainedModel, _Use] = WeakKeyDictionary()
_uses_guard = threading.Lock()


class Target:
    """A target model as the decoding cycle and the drafter use it. Cheap to build; holds no tensors of its own.

    Args:
        compiles: whether verification runs as a compiled graph.

    Raises:
        TypeError: not a transformers model.
        NotImplementedError: a family, a dtype or a kind of rotary positions that is not supported.
    """

    def __init__(self, model: PreTrainedModel, compiles: bool = False) -> None:
        if not isinstance(model, PreTrainedModel):
            raise TypeError(f"model: expected a transformers PreTrainedModel, got {type(model).__name__}")
        self.model = model
        self.text_config = model.config.get_text_config()
        found = (model.config.model_type, self.text_config.model_type)
        self.is_tested = found[0] in FAMILIES and found[1] in TEXT_MODELS  # else see `vispec.probe`
        reason = why_unsupported(model)
        if reason is not None:
            raise NotImplementedError(
                f"model: {type(model).__name__} (model_type {found[0]}, text model {found[1]}) is not supported: "
                f"{reason}; expected a language model with an LM head, of the families {', '.join(FAMILIES)}, or one "
                "whose layers all are plain self-attention; the model's own generate, if it has one, needs no draft"
            )
        if model.dtype not in DTYPES:
            raise NotImplementedError(f"model: expected float32, float16 or bfloat16, got {model.dtype}")
        _check_rotary(self.text_config)
        if (
            getattr(self.text_config, "attn_logit_softcapping", None)
            and self.text_config._attn_implementation == "sdpa"
        ):
            raise NotImplementedError(
                'model: its attention is soft-capped, which sdpa leaves out; load it with attn_implementation="eager"'
            )
        self.compiles = compiles
        self.decoder: nn.Module = model.get_decoder()
        self.processes = processes_of(model)
        self.family = FAMILIES.get(model.config.model_type, PLAIN)
        self.hidden_size: int = self.text_config.hidden_size
        self.vocab_size: int = self.text_config.vocab_size
        self.placeholders: dict[str, int | None] = {  # ids that stand for the positions of an image and of a video
            "image": getattr(model.config, "image_token_id", None),
            "video": getattr(model.config, self.family.video_token, None),
        }

    @property
    def device(self) -> torch.device:
        """Where its inputs are and its outputs come, and where the draft and the cycle work."""
        return device_of(self.model.get_input_embeddings())

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    def check_compiles(self) -> None:
        """Raise a NotImplementedError where verification is to be compiled and cannot be."""
        reason = why_not_recorded(self.model) if self.compiles else None
        if reason is not None:
            raise NotImplementedError(f"compile: {reason}; leave it out")

    def check_device(self) -> None:
        """Raise a NotImplementedError where the cycle does not run; training does not need it."""
        check_split(self.model)
        if self.device.type not in DEVICES:
            reason = "" if BUILD["cuda"] else f" (no CUDA operators were built: {BUILD['cuda_reason']})"
            raise NotImplementedError(
                f"model: expected it on {' or '.join(DEVICES)}, which have operators, got {self.device}{reason}"
            )

    @property
    def rope_deltas(self) -> Tensor | None:
        """How far M-RoPE positions were off from the count of tokens in the model's last call of `generate`."""
        return getattr(self.model.base_model, "rope_deltas", None)

    @rope_deltas.setter
    def rope_deltas(self, deltas: Tensor | None) -> None:
        self.model.base_model.rope_deltas = deltas

    def count_placeholders(self, ids: Tensor) -> dict[str, int]:
        """Positions of images, and of videos, in token ids."""
        return {name: 0 if token is None else int((ids == token).sum()) for name, token in self.placeholders.items()}

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids `[...]` to the embeddings `[..., H]` that the decoder reads, by the target's own module."""
        return self.family.embeds(self.model.get_input_embeddings()(ids), self.text_config)

    def logits(self, hidden: Tensor) -> Tensor:
        """Features `[..., H]` to logits `[..., V]`, by the target's own module."""
        return self.family.logits(self.model.get_output_embeddings()(hidden).to(hidden.device), self.text_config)

    def head_rows(self, token_ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """Copies of the LM head's weight `[n, H]` and bias `[n]` for some tokens, int64 `[n]`.

        Raises:
            NotImplementedError: the head is more, or other, than a plain `nn.Linear`: its rows would not be its logits.
        """
        head = self.model.get_output_embeddings()
        is_replaced = "forward" in vars(head) and not is_placed(head)
        is_hooked = bool(head._forward_hooks or head._forward_pre_hooks or is_replaced)
        weight = whole_weight(head)
        if type(head) is not nn.Linear or is_hooked or weight is None:
            kind = f"{type(head).__name__}{' with hooks' if is_hooked else ''}"
            weights = head.weight.dtype if type(head.weight) is nn.Parameter else type(head.weight).__name__
            raise NotImplementedError(
                "draft: its shortlist of tokens needs rows of the target's LM head, expected a plain torch.nn.Linear, "
                f"got {kind}, {weights} on {head.weight.device}; load it with full_vocabulary=True"
            )
        bias = None if head.bias is None else whole_weight(head, "bias")
        return weight.to(self.device)[token_ids], None if bias is None else bias.to(self.device)[token_ids]

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Wait until no other thread decodes with this model.

        Raises:
            RuntimeError: this thread itself already does (a streamer or a stopping criterion calls `generate`).
        """
        with _uses_guard:
            use = _uses.setdefault(self.model, _Use())
        this_thread = threading.get_ident()
        if use.lock.locked() and use.thread == this_thread:
            raise RuntimeError("model: already in a vispec.generate call that this call comes from")
        with use.lock:
            try:
                use.thread = this_thread
                yield
            finally:
                use.thread = None

    def new_cache(self, capacity: int, batch_size: int) -> TreeCache:
        """A cache of `capacity` rows a sequence; see `TreeCache`."""
        return TreeCache(self.text_config.num_hidden_layers, capacity, batch_size, self.device)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Inside, `prefill` and `verify` may be called: the text decoder's inputs and outputs can be recorded."""
        hooks = []
        try:
            reader = self.decoder.get_submodule(self.family.embeds_at)
            hooks.append(reader.register_forward_pre_hook(_record_embeds, with_kwargs=True))
            hooks.append(self.decoder.register_forward_hook(_record_features))
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def prefill(
        self, input_ids: Tensor, model_kwargs: Mapping[str, Any], cache: TreeCache, num_cached: int = 0
    ) -> Prompt:
        """The target's own forward over prompt, images and videos, under its own attention, into `cache`.

        Args:
            input_ids: int64 `[B, L]`, padded on the left.
            model_kwargs: as `model.generate` hands them to a custom_generate callable.
            cache: empty, or it holds an earlier part of the text. Images of that may be given once more.
            num_cached: the first tokens of `input_ids`, which are not read again.
        """
        past, next_length = cache.get_seq_length(), input_ids.shape[1] - num_cached
        kwargs = {**model_kwargs, CACHE_NAME: cache, "use_cache": True}
        inputs = self.model.prepare_inputs_for_generation(
            input_ids, next_sequence_length=next_length, is_first_iteration=True, **kwargs
        )
        starts, input_ids = padding(input_ids, model_kwargs.get("attention_mask")), input_ids[:, num_cached:]
        num_new = self.count_placeholders(input_ids) if past else None
        with _RECORD.holding(_Record()) as record, lengths_noted(self.model, self.family, inputs, num_new) as lengths:
            output = self.model(**inputs, return_dict=True)
        return Prompt(
            logits=output.logits[:, -1],
            embeds=torch.cat(record.embeds, dim=1).to(self.device) if record.embeds else self.embed(input_ids),
            features=torch.cat(record.features, dim=1).to(self.device),
            images=runs_of(input_ids, lengths, self.placeholders),
            starts=starts,
            past=past,
            hidden_states=output.hidden_states if model_kwargs.get("output_hidden_states") else None,
        )

    @torch.no_grad()
    def read(self, inputs: Mapping[str, Tensor]) -> Reading:
        """Teacher-forced texts, under the target's own attention and without a cache.

        Args:
            inputs: what the model's forward takes, `input_ids` int64 `[B, L]` among them, padded on the right.
        """
        with (
            self.attached(),
            _RECORD.holding(_Record()) as record,
            lengths_noted(self.model, self.family, dict(inputs)) as lengths,
        ):
            self.model(**inputs, use_cache=False, logits_to_keep=1, return_dict=True)
        ids = inputs["input_ids"]
        embeds = record.embeds[0].to(self.device) if record.embeds else self.embed(ids)
        return Reading(embeds, record.features[0].to(self.device), runs_of(ids, lengths, self.placeholders))

    @contextmanager
    def verification(self) -> Iterator[None]:
        """Inside, `verify` may be called, and no `prefill`: the model's attention is switched."""
        with switched_attention(self.model):
            yield

    def verify(
        self,
        tree: Tree,
        cache: TreeCache,
        rope_delta: Tensor | None,
        kv_start: Tensor | None = None,
        output_hidden_states: bool = False,
    ) -> Verified:
        """One pass of the target over all nodes.

        Args:
            tree: N nodes for each of B sequences. A node may carry an image placeholder's id: nodes are text.
            cache: rows of everything before the root; the nodes' rows are written behind them.
            rope_delta: from `rope_delta`.
            kv_start: int32 `[B]`, cache rows of left padding; None: 0.
            output_hidden_states: whether those of all layers are wanted.
        """
        positions = (self.family.first_position + cache.cache_len[:, None] + tree.depths).long()
        if rope_delta is not None:
            positions = positions + rope_delta[..., None]
        any_mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=positions.device)  # 4-D: handed through, not built
        wanted = {"output_hidden_states": True} if output_hidden_states else {}
        verification = Verification(cache.cache_len, tree.ancestors, kv_start)
        run = partial(run_compiled, self.model, (VERIFICATION, WINDOWS, _RECORD)) if self.compiles else self.model
        with _RECORD.holding(_Record()) as record, VERIFICATION.holding(verification):
            output = run(
                input_ids=tree.tokens,
                position_ids=positions,
                attention_mask=any_mask,
                use_cache=True,
                return_dict=True,
                **{CACHE_NAME: cache},
                **wanted,
            )
        features = record.features[0].to(self.device)
        return Verified(output.logits, features, output.hidden_states if output_hidden_states else None)


def _check_rotary(text_config: Any) -> None:
    """Some frequencies change once a text passes a length: the nodes of a tree would all get the deepest one's."""
    parameters = getattr(text_config, "rope_parameters", None) or {}
    by_layer_type = [value for value in parameters.values() if isinstance(value, dict)]
    for rope_type in [rope.get("rope_type") for rope in (parameters, *by_layer_type)]:
        if rope_type in ("dynamic", "longrope"):
            raise NotImplementedError(
                f"model: rotary positions of type {rope_type} are not supported, their frequencies depend on the "
                "length of the text; the model's own generate needs no draft"
            )


def padding(input_ids: Tensor, attention_mask: Tensor | None) -> list[int]:
    """Tokens of left padding before each of the sequences `[B, L]`."""
    if attention_mask is None:
        return [0] * len(input_ids)
    return (attention_mask == 0).sum(1).tolist()


def rope_delta(position_ids: Tensor | None, length: int) -> Tensor | None:
    """How far the positions of new tokens run ahead of (or behind) the count of tokens: they go on from the last one.

    Args:
        position_ids: the prompt's: `[B, L]`; or with M-RoPE `[3, B, L]`, or `[4, B, L]` with text positions first.
        length: L.

    Returns:
        int64 `[B]`, or `[3, B]` with M-RoPE (where a prompt ends in an image the axes differ); None without positions.
    """
    if position_ids is None:
        return None
    last = position_ids[..., -1]
    return (last if last.ndim == 1 else last[-3:].expand(3, -1)) + 1 - length


def _record_embeds(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    record, embeds = _RECORD.get(), args[0] if args else kwargs.get("inputs_embeds")
    if record is not None and embeds is not None and embeds.is_floating_point():  # else token ids
        record.embeds.append(embeds)


def _record_features(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    record = _RECORD.get()
    if record is not None:
        record.features.append(output[0])
