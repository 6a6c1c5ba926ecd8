"""The target's KV cache: static, written by tree rows, compactable; a transformers `Cache` throughout."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.generation import GenerateDecoderOnlyOutput

from vispec.ops import append_kv, compact_kv

# what a model's forward, `generate` and its output call the cache: transformers 5.24 renamed it
CACHE_NAME = "cache" if "cache" in GenerateDecoderOnlyOutput.__dataclass_fields__ else "past_key_values"


def grow_rows(rows: Tensor, capacity: int) -> Tensor:
    """Copy `rows` `[B, Hkv, S, D]` into a larger `[B, Hkv, capacity, D]`; the new rows are zero."""
    grown = rows.new_zeros(*rows.shape[:2], capacity, rows.shape[3])
    grown[:, :, : rows.shape[2]] = rows
    return grown


def grown_capacity(capacity: int, needed: int) -> int:
    """Rows to allocate when `needed` do not fit: half as much again, so that copies stay rare."""
    return max(needed, capacity + capacity // 2)


class _Rows:
    """What all layers of one cache share."""

    def __init__(self, capacity: int, cache_len: Tensor) -> None:
        self.capacity = capacity
        self.cache_len = cache_len
        self.version = 0
        self.verifying = False


class TreeLayer(CacheLayerMixin):
    """K and V of one layer, `[B, Hkv, capacity, D]` each, in that layer's own dtype and on its own device.

    Outside verification it appends and returns what it holds, like a dynamic layer. While a tree is verified it writes
    the nodes behind the rows in use and returns all rows: tree attention reads the lengths itself. Sliding-window
    layers are kept at full length too, since a ring cannot be compacted.
    """

    is_sliding = False

    def __init__(self, rows: _Rows) -> None:
        super().__init__()
        self.rows = rows
        self.length = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys, self.values = (
            x.new_zeros(*x.shape[:2], self.rows.capacity, x.shape[3]) for x in (key_states, value_states)
        )
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append `[B, Hkv, M, D]`; see the class for what comes back."""
        if self.rows.verifying:
            cache_len = self.rows.cache_len.to(key_states.device)
            append_kv(key_states, value_states, self.keys, self.values, cache_len)
            return self.keys, self.values
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.length + key_states.shape[2]
        self.make_writable(end)
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        is_first, self.length = self.length == 0, end
        if is_first:  # the whole prompt: attention reads the states themselves, contiguous
            return key_states, value_states
        return self.keys[:, :, :end], self.values[:, :, :end]

    def load(self, keys: Tensor, values: Tensor, length: int) -> None:
        """Hold `length` rows, the last of which are `keys` and `values` `[B, Hkv, n, D]`; no layer sees those before.

        A sliding window leaves no more of a text than it will see.
        """
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
        self.make_writable(length)
        self.keys[:, :, length - keys.shape[2] : length] = keys
        self.values[:, :, length - keys.shape[2] : length] = values
        self.length = length

    def make_writable(self, num_rows: int) -> None:
        """So many rows, that torch lets us write."""
        if num_rows > self.keys.shape[2]:
            self.grow(grown_capacity(self.keys.shape[2], num_rows))
        elif self.keys.is_inference() and not torch.is_inference_mode_enabled():
            self.grow(self.keys.shape[2])

    def grow(self, capacity: int) -> None:
        """Reallocate for `capacity` rows and copy."""
        self.rows.version += 1
        self.keys, self.values = grow_rows(self.keys, capacity), grow_rows(self.values, capacity)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return -1  # grows

    def reset(self) -> None:
        self.length = 0


class TreeCache(Cache):
    """A cache whose last rows may be a token tree.

    Args:
        num_layers: Decoder layers of the target.
        capacity: Rows to allocate per sequence.
        batch_size, device: of `cache_len`.

    `cache_len`, int32 `[B]`, holds the rows in use and lives on the device. It is right once `start_verifying` was
    called; layer buffers are allocated at their first update.
    """

    def __init__(self, num_layers: int, capacity: int, batch_size: int, device: torch.device) -> None:
        self.rows = _Rows(capacity, torch.zeros(batch_size, dtype=torch.int32, device=device))
        super().__init__(layers=[TreeLayer(self.rows) for _ in range(num_layers)])

    @property
    def cache_len(self) -> Tensor:
        return self.rows.cache_len

    @property
    def capacity(self) -> int:
        return self.rows.capacity

    @property
    def version(self) -> int:
        """Counts how often buffers were replaced: graphs that were captured before are void."""
        return self.rows.version

    @property
    def is_initialized(self) -> bool:
        """Whether it holds anything: models ask, to know a prompt from what follows it."""
        return self.get_seq_length() > 0

    def start_verifying(self) -> None:
        """After prefill: from here on updates are tree nodes, and `cache_len` is what counts."""
        self.rows.cache_len.fill_(self.get_seq_length())
        self.rows.verifying = True

    def reserve(self, needed: int) -> None:
        """Make room for `needed` rows in every layer."""
        if needed <= self.rows.capacity:
            return
        self.rows.capacity = grown_capacity(self.rows.capacity, needed)
        for layer in self.layers:
            layer.grow(self.rows.capacity)

    def compact(self, nodes: Tensor, num_accepted: Tensor) -> None:
        """Keep the accepted nodes' rows of the tree just verified (`vispec.ops.compact_kv`), in all layers."""
        home = self.rows.cache_len
        devices = {layer.keys.device for layer in self.layers} | {home.device}
        for device in sorted(devices, key=lambda device: device == home.device):  # the last one advances the lengths
            layers = [layer for layer in self.layers if layer.keys.device == device]
            keys, values = [layer.keys for layer in layers], [layer.values for layer in layers]
            compact_kv(keys, values, *(tensor.to(device) for tensor in (home, nodes, num_accepted)))

    def stop_verifying(self, length: int) -> None:
        """Become an ordinary cache again, of the first `length` rows."""
        self.rows.verifying = False
        for layer in self.layers:
            layer.length = length

    def copy_to(self, cache: Cache, start: int = 0) -> None:
        """Append the rows in use from `start` on, in all layers."""
        rows = slice(start, self.get_seq_length())
        for index, layer in enumerate(self.layers):
            cache.update(layer.keys[:, :, rows], layer.values[:, :, rows], index)
