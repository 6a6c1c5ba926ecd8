"""The target as the writer of answers: batches of questions in, its own tokens out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from vispec.training.prompts import Processor, UnusableSample, encode_text, get_tokenizer, pad_batch, render
from vispec.training.requests import Message, Request, count_images
from vispec.training.shards import LEFT_OUT, digest

OTHER_TOKENS = ("image_token_id", "video_token_id")  # of a config: in an answer, they cannot be read again

Record = dict[str, Any]  # a line of a shard


class Writer:
    """The target, answering batches."""

    def __init__(self, model: PreTrainedModel, processor: Processor, instruction: str, max_new_tokens: int) -> None:
        self.model, self.processor, self.instruction = model, processor, instruction
        self.max_new_tokens = max_new_tokens
        options = model.generation_config
        ends = options.eos_token_id
        self.ends: list[int] = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
        self.pad_id: int = next(
            (i for i in (options.pad_token_id, get_tokenizer(processor).pad_token_id, *self.ends) if i is not None), 0
        )
        self.placeholders = {getattr(model.config, name, None) for name in OTHER_TOKENS}
        self.room: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)

    def encode(self, request: Request) -> tuple[str, dict[str, Tensor]]:
        """The rendered question and the target's inputs for it."""
        text = render(self.processor, _add_instruction(request.prompt, self.instruction), ask=True)
        inputs = encode_text(self.processor, text, request.images[: count_images(request.prompt)])
        length = inputs["input_ids"].shape[1]
        if self.room is not None and length + self.max_new_tokens > self.room:
            raise UnusableSample(f"question and answer pass the target's {self.room} positions")
        return text, inputs

    def answer(self, batch: Sequence[Request]) -> list[Record]:
        """A line a request."""
        records: list[Record] = []
        asked: list[tuple[Record, dict[str, Tensor]]] = []
        for request in batch:
            try:
                text, inputs = self.encode(request)
            except UnusableSample as reason:
                records.append({"key": request.key, LEFT_OUT: str(reason)})
                continue
            images = request.images[: count_images(request.prompt)]
            records.append({"key": request.key, "text": text, "images": list(images)})
            asked.append((records[-1], inputs))
        for (record, _), tokens in zip(asked, self._generate([inputs for _, inputs in asked]), strict=True):
            _add_answer(record, tokens, self.ends, self.placeholders)
        return records

    def _generate(self, batch: Sequence[dict[str, Tensor]]) -> list[list[int]]:
        """The target's new tokens, `max_new_tokens` each or up to the longest answer's end."""
        if not batch:
            return []
        model = self.model
        inputs = {
            name: value.to(model.device, model.dtype if value.is_floating_point() else None)
            for name, value in pad_batch(batch, "left", self.pad_id).items()
        }
        with _eval_mode(model):
            output = model.generate(
                **inputs,
                do_sample=False,
                num_beams=1,
                num_return_sequences=1,
                return_dict_in_generate=False,
                max_new_tokens=self.max_new_tokens,
                max_length=None,  # of the model's options: else generate warns about two limits at every batch
                pad_token_id=self.pad_id,
            )
        new_tokens: list[list[int]] = output[:, inputs["input_ids"].shape[1] :].tolist()
        return new_tokens


def _add_answer(record: Record, tokens: list[int], ends: Sequence[int], placeholders: set[int | None]) -> None:
    """Complete the line of a question by the tokens up to the first end, or say why it is no sample."""
    length = next((index for index, token in enumerate(tokens) if token in ends), len(tokens))
    ended = length < len(tokens)
    answer = tokens[: length + ended]
    if not length:
        reason = "the answer is empty"
    elif placeholders & set(answer):
        reason = "the answer holds the placeholder of an image or a video"
    else:
        record |= {"answer": answer, "ended": ended}
        return
    del record["text"], record["images"]
    record[LEFT_OUT] = reason


def _add_instruction(messages: Sequence[Message], instruction: str) -> list[Message]:
    """The last question with `instruction` on a line behind it."""
    if not instruction:
        return list(messages)
    *earlier, last = messages
    *parts, end = last["content"]
    if end["type"] == "text":
        parts.append({"type": "text", "text": f"{end['text']}\n{instruction}"})
    else:
        parts += [end, {"type": "text", "text": instruction}]
    return [*earlier, {**last, "content": parts}]


@contextmanager
def _eval_mode(model: PreTrainedModel) -> Iterator[None]:
    """Without dropout; afterwards every module trains or not as before."""
    before = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, training in before:
            module.training = training


def fingerprint(model: PreTrainedModel) -> str:
    """Of config, generation options and each parameter's first weights: another target writes other data."""
    parts = [model.config.to_json_string(), model.generation_config.to_json_string()]
    for name, weight in model.named_parameters():
        first = [] if weight.is_meta else weight.detach().flatten()[:8].float().tolist()
        parts.append(f"{name} {list(weight.shape)} {weight.dtype} {first}")
    return digest(parts)
