"""Chat messages and pictures to what a target reads, by its own processor: training and answering share every step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jinja2 import TemplateError
from PIL import Image, ImageOps
from torch import Tensor
from transformers import PreTrainedTokenizerBase

Processor = Any  # a transformers processor with a tokenizer in it, or the tokenizer of a text-only target


class UnusableSample(ValueError):
    """This one cannot be trained on; others can."""


def get_tokenizer(processor: Processor) -> PreTrainedTokenizerBase:
    """The tokenizer in a processor, or itself.

    Raises:
        TypeError: neither.
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise TypeError(f"processor: expected a transformers processor or tokenizer, got {type(processor).__name__}")
    return tokenizer


def render(processor: Processor, messages: Sequence[Mapping[str, Any]], ask: bool) -> str:
    """Messages as text; with `ask` up to where the answer begins.

    Raises:
        UnusableSample: the chat template refuses the messages.
    """
    if isinstance(processor, PreTrainedTokenizerBase):  # templates of language models join texts only
        messages = [{**message, "content": _text(message)} for message in messages]
    try:
        return processor.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=ask)
    except TemplateError as error:
        raise UnusableSample(f"the chat template refuses: {error}") from error


def render_dialogue(
    processor: Processor, messages: Sequence[Mapping[str, Any]]
) -> tuple[str, tuple[tuple[int, int], ...]]:
    """A dialogue as text, and where its answers stand in it: `(start, end)` in characters, the end of turn included.

    Raises:
        UnusableSample: the chat template refuses the messages.
        ValueError: the template writes earlier turns differently once later ones follow.
    """
    whole = render(processor, messages, ask=False)
    spans = []
    for index, message in enumerate(messages):
        if message["role"] == "assistant":
            before = render(processor, messages[:index], ask=True)
            after = render(processor, messages[: index + 1], ask=False)
            if not (whole.startswith(after) and after.startswith(before)):
                raise ValueError(
                    "processor: expected a chat template under which a dialogue only grows at its end, got one that "
                    f"ends answer {index} in {after[-80:]!r} and writes it otherwise when turns follow"
                )
            # a line break behind the end of turn is the template's: the target never writes it
            spans.append((len(before), len(before) + len(after[len(before) :].rstrip())))
    return whole, tuple(spans)


def encode_text(processor: Processor, text: str, images: Sequence[str], starts: bool = True) -> dict[str, Tensor]:
    """Everything that the target's forward takes for rendered text and its images, a batch of one without padding.

    Args:
        starts: Whether a text starts with it; else it goes on, and gets no special tokens beyond those written in it.

    Raises:
        UnusableSample: an image is broken, the processor refuses it, or text and images do not fit.
        OSError: an image cannot be read for other reasons than its content.
    """
    check_placeholders(processor, text, images)
    pictures = [open_image(path) for path in images]
    options = {"add_special_tokens": starts and adds_special_tokens(processor, text), "return_tensors": "pt"}
    try:
        if isinstance(processor, PreTrainedTokenizerBase):
            inputs = processor(text, **options)
        else:
            inputs = processor(images=pictures or None, text=[text], **options)
    except ValueError as error:
        raise UnusableSample(f"the processor refuses: {error}") from error
    return {name: value for name, value in inputs.items() if isinstance(value, Tensor)}


def check_placeholders(processor: Processor, text: str, images: Sequence[str]) -> None:
    """
    Raises:
        UnusableSample: rendered `text` has more or fewer places for images than there are `images`.
    """
    if not isinstance(processor, PreTrainedTokenizerBase):
        placeholders = text.count(processor.image_token)
        if placeholders != len(images):
            raise UnusableSample(f"{placeholders} times {processor.image_token} in the text of {len(images)} images")


def adds_special_tokens(processor: Processor, text: str) -> bool:
    """As in transformers' `apply_chat_template(tokenize=True)`: no second beginning-of-text token."""
    if isinstance(processor, PreTrainedTokenizerBase):
        return False
    bos = processor.tokenizer.bos_token
    return bos is None or not text.startswith(bos)


def open_image(path: str) -> Image.Image:
    """RGB, upright as the camera's orientation says.

    Raises:
        UnusableSample: the file is no whole picture.
        OSError: it cannot be read.
    """
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    # pillow: SyntaxError for a broken PNG, ValueError for fields that make no sense
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, OSError) and error.errno:
            raise  # a disk that went away says nothing about the picture
        raise UnusableSample(f"cannot read the picture {path}: {error}") from error


def append_tokens(inputs: Mapping[str, Tensor], tokens: Sequence[int]) -> dict[str, Tensor]:
    """`inputs` of one prompt with `tokens` written behind it: text, attended to."""
    ids = inputs["input_ids"]
    grown = dict(inputs)
    for name in _per_token(inputs):
        grown[name] = F.pad(inputs[name], (0, len(tokens)), value=1 if name == "attention_mask" else 0)
    grown["input_ids"] = torch.cat([ids, ids.new_tensor([tokens])], dim=1)
    return grown


def append_inputs(inputs: Mapping[str, Tensor], more: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`inputs` of one prompt with `more` behind it: tokens, and the images of both, one after the other."""
    parts = (inputs, more)
    per_token = {name for part in parts for name in _per_token(part)}
    joined = {}
    for name in {**inputs, **more}:
        if name in per_token:
            plain = 1 if name == "attention_mask" else 0  # of text alone, where a processor leaves it out
            values = [part[name] if name in part else torch.full_like(part["input_ids"], plain) for part in parts]
            joined[name] = torch.cat(values, dim=1)
        else:
            joined[name] = _stack([part[name] for part in parts if name in part])
    return joined


def cut_tokens(inputs: Mapping[str, Tensor], length: int) -> dict[str, Tensor]:
    """The first `length` tokens of `inputs`; images stay whole, so they must lie before."""
    return {**inputs, **{name: inputs[name][:, :length] for name in _per_token(inputs)}}


def pad_batch(batch: Sequence[Mapping[str, Tensor]], side: str, pad_id: int = 0) -> dict[str, Tensor]:
    """Inputs of single texts as one batch `[B, L]`, padded on the `side` "left" or "right"; images one after the other.

    Pixels of images in different numbers of tiles are padded with zeros, as LLaVA-NeXT's processor does.
    """
    longest = max(inputs["input_ids"].shape[1] for inputs in batch)
    joined: dict[str, list[Tensor]] = {}
    for inputs in batch:
        per_token = _per_token(inputs)
        for name, value in inputs.items():
            if name in per_token:
                missing = longest - value.shape[1]
                padding = (missing, 0) if side == "left" else (0, missing)
                value = F.pad(value, padding, value=pad_id if name == "input_ids" else 0)
            joined.setdefault(name, []).append(value)
    return {name: _stack(values) for name, values in joined.items()}


def _stack(values: Sequence[Tensor]) -> Tensor:
    sizes = [max(size) for size in zip(*(value.shape[1:] for value in values), strict=True)]
    padded = []
    for value in values:
        missing = [amount for size, own in zip(sizes, value.shape[1:], strict=True) for amount in (size - own, 0)]
        padded.append(F.pad(value, missing[::-1]))
    return torch.cat(padded)


def _per_token(inputs: Mapping[str, Tensor]) -> list[str]:
    """Names of what holds a value a token."""
    return [name for name, value in inputs.items() if value.shape == inputs["input_ids"].shape]


def _text(message: Mapping[str, Any]) -> str:
    return "".join(part["text"] for part in message["content"])
