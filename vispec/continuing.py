"""Going on from a cache: `past_key_values` of an earlier call, and what the draft had read of its text.

As in transformers' own `generate` the cache that is given is extended in place and comes back, and it does not matter
which of the two made it. A call of ours leaves a note with it (`Kept`), so that the next one's draft knows the earlier
turns, too; without one it reads the new tokens alone, which the text does not depend on.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from vispec.arguments import ids_of, option
from vispec.cache import CACHE_NAME, TreeCache
from vispec.decoding import Before, Decoded
from vispec.draft.checkpoint import Draft
from vispec.draft.drafter import Memory
from vispec.media import PIXELS
from vispec.target import Target, padding

NOTE = "vispec_kept"  # attribute of a cache: copies of a cache have it, too
IMAGE_KIND = 1  # in mm_token_type_ids


@dataclass(frozen=True)
class Kept:
    """What was known of the one text in a cache when it was handed out.

    Args:
        num_rows: in it.
        ids: of the whole text, one more than rows; None: not all of it was seen.
        rope_deltas: how far the target's M-RoPE positions were off from the count of tokens.
        memory, draft: what a draft had read, and which one (`Draft.uid`).
    """

    num_rows: int
    ids: list[int] | None
    rope_deltas: Tensor | None
    memory: Memory | None
    draft: str | None


class Past:
    """A cache that a call goes on from, and extends.

    Args:
        cache: was checked (`find_past`).
        is_in_ids: whether the call's ids begin with the tokens that it holds; else they are new alone.
    """

    def __init__(self, cache: Cache, is_in_ids: bool) -> None:
        self.cache = cache
        self.num_rows: int = cache.get_seq_length()
        self.num_cached = self.num_rows if is_in_ids else 0
        self.kept: Kept | None = getattr(cache, NOTE, None) if self.num_rows else None

    @property
    def unseen(self) -> int:
        """Tokens before the call's ids."""
        return self.num_rows - self.num_cached

    def load(self, cache: TreeCache) -> None:
        """Copy its rows into an empty `cache`."""
        if self.num_rows:
            for own, other in zip(self.cache.layers, cache.layers, strict=True):
                other.load(own.keys, own.values, self.num_rows)

    def before(self, draft: Draft | None, ids: Tensor, mask: Tensor | None) -> Before:
        """What a call with these ids begins with; warns if the draft knows no more than those."""
        memory = None
        if draft is not None and self.num_rows:
            memory = self._memory(draft, ids, padding(ids, mask)[0])
            num_read = 0 if memory is None else memory.num_indices
            if num_read < self.num_rows - padding(ids, mask)[0] - 1:
                warnings.warn(
                    f"vispec: past_key_values holds {self.num_rows} tokens of which the draft has read {num_read}: it "
                    "guesses worse, for a cache knows what a draft has read only from vispec.generate with that draft, "
                    "one sequence at a time",
                    stacklevel=2,
                )
        return Before(self.num_rows, self.num_cached, memory)

    def _memory(self, draft: Draft, ids: Tensor, start: int) -> Memory | None:
        """What `draft` kept of this text, to where it surely is of this text."""
        kept = self.kept
        if kept is None or kept.memory is None or kept.draft != draft.uid or len(ids) != 1:
            return None
        new = ids[0].tolist()
        known = kept.ids or []
        shared = min(self.num_cached, len(known))
        if new[:shared] != known[:shared]:
            first = next(index for index in range(shared) if new[index] != known[index])
            warnings.warn(
                f"vispec: past_key_values was left with another text than that of input_ids, with token {known[first]} "
                f"in place {first}, where they have {new[first]}; unless it was cut and filled anew, the model goes on "
                "from that text",
                stacklevel=3,
            )
            return None
        # the draft's last index has the embedding of the token behind it, which may be another one now
        goes_on = known[self.num_rows : self.num_rows + 1] == new[self.num_cached : self.num_cached + 1]
        return kept.memory.cut(self.num_rows - start - (0 if goes_on else 1))

    def prepare(self, target: Target, keywords: dict[str, Any]) -> dict[str, Any]:
        """Keywords without what is of earlier turns alone; sets the target's M-RoPE offset to this text's.

        Raises:
            ValueError: the positions of new images cannot be told.
        """
        num_new = target.count_placeholders(ids_of(keywords)[:, self.num_cached :])
        seen = [pixels for name, pixels in PIXELS.items() if not num_new[name]]
        keywords = {name: value for name, value in keywords.items() if name not in seen}
        if target.rope_deltas is None and (self.kept is None or self.kept.rope_deltas is None):
            return keywords
        kinds = keywords.get("mm_token_type_ids")
        if kinds is None or not kinds[:, self.num_cached :].any():  # no new images
            if self.kept is not None and self.kept.num_rows >= self.num_rows:
                target.rope_deltas = self.kept.rope_deltas
            return keywords
        if self.unseen:
            raise ValueError("input_ids: expected the whole text, on which positions of new images hang, got its end")
        grids = keywords.get("image_grid_thw")
        given = 0 if grids is None else len(grids)
        needed = sum(kind == IMAGE_KIND for row in kinds.tolist() for kind, _ in itertools.groupby(row))
        if given < needed:
            raise ValueError(
                f"pixel_values: positions of new images hang on all images of the text; expected the {needed} that "
                f"input_ids hold, got {given}"
            )
        target.rope_deltas = None  # else transformers 5.17 goes on from it, as if the new images were text
        return keywords

    def all_ids(self, ids: list[int]) -> list[int] | None:
        """Of the whole text, given those of the call."""
        if not self.unseen:
            return ids
        known = None if self.kept is None else self.kept.ids
        return None if known is None or len(known) < self.unseen else known[: self.unseen] + ids


def find_past(target: Target, keywords: Mapping[str, Any]) -> Past | None:
    """The cache that `generate` is to go on from, if one is given.

    Raises:
        TypeError, ValueError, NotImplementedError: it is none, of another model or text, or not of a kind that can be
            read.
    """
    given = next((keywords[name] for name in (CACHE_NAME, "past_key_values") if keywords.get(name) is not None), None)
    if given is None:
        return None
    if not isinstance(given, Cache):
        raise TypeError(f"past_key_values: expected a transformers Cache, got {type(given).__name__}")
    kinds = {type(layer) for layer in given.layers}
    if type(given) is not DynamicCache or not kinds <= {DynamicLayer, DynamicSlidingWindowLayer} or given.offloading:
        of_kinds = f" of {', '.join(sorted(kind.__name__ for kind in kinds))}" if kinds else ""
        raise NotImplementedError(
            "past_key_values: expected a DynamicCache that is not offloaded, as generate returns it, got a "
            f"{type(given).__name__}{of_kinds}{', offloaded' if given.offloading else ''}"
        )
    ids, mask = ids_of(keywords), keywords.get("attention_mask")
    if given.get_seq_length() and ids is None:
        raise ValueError("input_ids: expected the text that past_key_values holds, and more, got none")
    past = Past(given, is_in_ids=not isinstance(mask, Tensor) or ids is None or mask.shape[-1:] == ids.shape[-1:])
    if past.num_rows:
        _check_rows(target, past, ids, keywords)
    return past


def _check_rows(target: Target, past: Past, ids: Tensor, keywords: Mapping[str, Any]) -> None:
    layers, num_layers = past.cache.layers, target.text_config.num_hidden_layers
    if len(layers) != num_layers:
        raise ValueError(f"past_key_values: expected the model's {num_layers} layers, got {len(layers)}")
    keys = layers[0].keys
    devices = {weight.device for weight in target.decoder.parameters()}
    if keys.device not in devices:
        names = " or ".join(sorted(map(str, devices)))
        raise ValueError(f"past_key_values: expected it where the model is, on {names}, got {keys.device}")
    if past.num_cached >= ids.shape[1]:
        raise ValueError(
            f"input_ids: expected the {past.num_rows} tokens that past_key_values holds and at least one more, got "
            f"{ids.shape[1]}; new tokens alone need an attention_mask for all"
        )
    batch_size = ids.shape[0] * (option(target.model, keywords, "num_return_sequences") or 1)
    if keys.shape[0] != batch_size:
        raise ValueError(
            f"past_key_values: expected {batch_size} sequences, one for each that is to be written, got {keys.shape[0]}"
        )


def leave_note(target: Target, draft: Draft | None, past: Past | None, decoded: Decoded) -> None:
    """Have the cache that is handed out know what the next call's draft and positions need."""
    if len(decoded.sequences) != 1:
        return
    ids, deltas = decoded.sequences[0].tolist(), target.rope_deltas
    memory, uid = decoded.memory, None if draft is None else draft.uid
    if memory is None and past is not None and past.kept is not None:  # another draft's, still good for what it was of
        memory, uid = past.kept.memory, past.kept.draft
    kept = Kept(
        num_rows=decoded.cache.get_seq_length(),
        ids=ids if past is None else past.all_ids(ids),
        rope_deltas=None if deltas is None else deltas.clone(),
        memory=memory,
        draft=uid,
    )
    setattr(decoded.cache, NOTE, kept)
