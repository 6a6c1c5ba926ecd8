"""Which positions of a prompt belong to which image or video: the runs that a drafter compresses.

A run is what the target encodes as one, and no more than stands together in the prompt:

- an image is one run, row breaks inside it included; adjacent images are two; tiles that are encoded one by one are a
  run each;
- a video that is encoded as a whole and stands in one piece is one run (Qwen2-VL, LLaVA-NeXT-Video, LLaVA-OneVision),
  as in the published code; where text stands between its frames, time stamps say, each stretch of frames is one
  (Qwen3-VL, GLM-4V, VideoLLaMA 3); where frames are encoded as images, each frame (InternVL, SmolVLM, PerceptionLM).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from vispec.families import Family, without_first

PIXELS = {"image": "pixel_values", "video": "pixel_values_videos"}  # inputs of a model, in the order of its encoding
_ENCODERS = ("get_image_features", "get_video_features")

Run = tuple[int, int]  # (start, end), in positions
Lengths = dict[str, list[int]]  # positions of each encoded image, and of each encoded video

_noted: ContextVar[Lengths | None] = ContextVar("vispec_noted", default=None)


@contextmanager
def lengths_noted(
    model: PreTrainedModel, family: Family, inputs: dict[str, Any], num_new: Mapping[str, int] | None = None
) -> Iterator[Lengths]:
    """Note how many positions each image and video of `inputs` takes: from what `generate` has encoded already, and by
    watching the model encode the rest inside the block (transformers 5.17 encodes everything in the forward).

    Args:
        num_new: Positions of images, and of videos, in a text that continues another one: what comes before those is
            left out of what was encoded, in `inputs` too. None: the text is whole.

    Raises:
        NotImplementedError: the model has no method that encodes images alone, to be watched; or what would be left out
            is compressed.
    """
    lengths: Lengths = {}

    def noted(name: str, output: Any) -> Any:
        taken = family.lengths(name, output, inputs)
        surplus = 0 if num_new is None else sum(taken) - num_new[name]
        seen = next((count for count in range(1, len(taken)) if sum(taken[:count]) == surplus > 0), 0)
        if seen and inputs.get("video_compression_mask") is not None:
            raise NotImplementedError(
                f"{PIXELS[name]}: leaving out of a compressed video what a cache holds is not supported; give those of "
                "the new turn alone, with their video_compression_mask"
            )
        lengths[name] = taken[seen:]
        return without_first(output, surplus) if seen else output

    encoded = inputs.get("mm_encoder_outputs") or {}
    for name in PIXELS:
        if encoded.get(name) is not None:
            encoded = inputs["mm_encoder_outputs"] = {**encoded, name: noted(name, encoded[name])}
    awaited = [name for name, pixels in PIXELS.items() if inputs.get(pixels) is not None]
    if not awaited:
        yield lengths
        return
    base, remaining = model.base_model, iter(awaited)

    def watched(encode: Callable[..., Any]) -> Callable[..., Any]:
        def encode_and_note(*args: Any, **kwargs: Any) -> Any:
            if _noted.get() is not lengths:
                return encode(*args, **kwargs)
            token = _noted.set(None)  # videos may be encoded by the method for images
            try:
                output = encode(*args, **kwargs)
            finally:
                _noted.reset(token)
            return noted(next(remaining), output)

        return encode_and_note

    names = [name for name in _ENCODERS if hasattr(base, name)]
    if not names:
        raise NotImplementedError(f"model: {type(base).__name__} has no get_image_features, which tells its images")
    token, before = _noted.set(lengths), {name: vars(base)[name] for name in names if name in vars(base)}
    try:
        for name in names:
            setattr(base, name, watched(getattr(base, name)))
        yield lengths
    finally:
        _noted.reset(token)
        for name in names:
            vars(base).pop(name, None)
        vars(base).update(before)


def runs_of(input_ids: Tensor, lengths: Lengths, placeholders: Mapping[str, int | None]) -> list[list[Run]]:
    """The runs of each sequence, in order.

    Args:
        input_ids: int64 `[B, L]`.
        lengths: from `lengths_noted`.
        placeholders: ids that stand for an image's and for a video's positions.

    Raises:
        NotImplementedError: there are more or fewer placeholders than positions taken, or they do not fit the rows.
    """
    runs: list[list[Run]] = [[] for _ in input_ids]
    for name, counts in lengths.items():
        token = placeholders[name]
        is_placeholder = torch.zeros_like(input_ids, dtype=torch.bool) if token is None else input_ids == token
        if sum(counts) != is_placeholder.sum():
            raise NotImplementedError(
                f"model: its {name}s take {sum(counts)} positions, but {int(is_placeholder.sum())} of the prompt hold "
                f"{name} tokens (id {token})"
            )
        remaining = iter(counts)
        for row, places in enumerate(is_placeholder):
            positions = places.nonzero()[:, 0].tolist()
            while positions:
                count = next(remaining)
                if count > len(positions):
                    raise NotImplementedError(
                        f"model: an encoded {name} takes {count} positions, but {len(positions)} are left in its prompt"
                        f" (row {row}): they are not in the order of the prompts, as on transformers before 5.18 with "
                        "num_return_sequences and several in a prompt"
                    )
                taken, positions = positions[:count], positions[count:]
                runs[row] += _stretches(taken) if name == "video" else [(taken[0], taken[-1] + 1)] if taken else []
    return [sorted(of_row) for of_row in runs]


def _stretches(positions: list[int]) -> list[Run]:
    """Ascending positions as runs without a gap."""
    starts = [p for p, before in zip(positions, [-2, *positions], strict=False) if p != before + 1]
    ends = [p + 1 for p, after in zip(positions, [*positions[1:], -2], strict=False) if p + 1 != after]
    return list(zip(starts, ends, strict=True))
