"""A dialogue as its target reads it: by the processor's chat template, growing at its end from turn to turn."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from vispec.training.prompts import Processor, append_inputs, append_tokens, encode_text, get_tokenizer, render

ANSWER = "\ue001"  # stands for an answer; of Unicode's private use: no template writes it
NO_IMAGES = "the model reads text alone, no images"
Message = dict[str, Any]


class _State(NamedTuple):
    """Up to an answer, or up to where the next one begins."""

    messages: tuple[Message, ...]
    images: tuple[str, ...] = ()  # paths
    marked: str = ""  # as text up to where the last answer begins, with `ANSWER` for those before
    inputs: dict[str, Tensor] = {}  # noqa: RUF012  # never changed


class Dialogue:
    """What was said so far, as messages and as what `generate` takes.

    Answers stay the tokens that the target wrote, since writing them as text and reading that again may give others.
    What a template puts behind an answer belongs to the next question. Where a template writes earlier turns anew
    (without a model's thoughts, say), so does this class: `grows` is false then.

    Args:
        processor: Or a tokenizer, where the target reads text alone.
        end_tokens: Ids that end an answer.
        system: A system prompt.

    Attributes:
        grows: Whether the last question's tokens begin with all those before, the last answer's end token aside.

    Raises:
        ValueError: There is no chat template, or it has no system prompt.
    """

    def __init__(self, processor: Processor, end_tokens: Collection[int] = (), system: str | None = None) -> None:
        self.processor, self.end_tokens = processor, end_tokens
        self.tokenizer = get_tokenizer(processor)
        render(processor, [_message("user", "?")], ask=True)  # without a template transformers' error says so
        if system is not None:
            self._check_system(system)
        self.system: tuple[Message, ...] = () if system is None else (_message("system", system),)
        self.reset()

    @property
    def reads_images(self) -> bool:
        return not isinstance(self.processor, PreTrainedTokenizerBase)

    def reset(self) -> None:
        """Nothing was said."""
        self.said = self.asked = _State(self.system)
        self.grows = False

    def ask(self, question: str, images: Sequence[str] = ()) -> dict[str, Tensor]:
        """All that `generate` takes for the next answer, the images of earlier questions included.

        A question that was not answered (see `hear`) is forgotten.

        Args:
            images: Paths; they come before the words.

        Raises:
            ValueError: There are no words, an image is none, or the target reads none.
            OSError: An image cannot be read.
        """
        if not question.strip():
            raise ValueError("expected some words, got none")
        if images and not self.reads_images:
            raise ValueError(NO_IMAGES)
        said = self.said
        messages = (*said.messages, _message("user", question, len(images)))
        marked = render(self.processor, [_hidden(message) for message in messages], ask=True)
        before = said.marked + ANSWER
        self.grows = bool(said.inputs) and marked.startswith(before)
        if self.grows:
            more = encode_text(self.processor, marked[len(before) :], images, starts=False)
            inputs = append_inputs(said.inputs, more)
        else:
            text = render(self.processor, messages, ask=True)
            inputs = encode_text(self.processor, text, [*said.images, *images])
        self.asked = _State(messages, (*said.images, *images), marked, inputs)
        return inputs

    def hear(self, tokens: Sequence[int]) -> str:
        """The answer to the last question, as text; `tokens` may end with an end token, or just stop."""
        words = list(tokens[:-1] if tokens and tokens[-1] in self.end_tokens else tokens)
        text: str = self.tokenizer.decode(words, skip_special_tokens=True)
        asked = self.asked
        messages = (*asked.messages, _message("assistant", text))
        self.said = asked._replace(messages=messages, inputs=append_tokens(asked.inputs, words))
        return text

    def _check_system(self, system: str) -> None:
        """A template that knows no such role writes it like any other, into the user's mouth or the model's own."""
        written = []
        for role in ("system", "nobody"):
            try:
                written.append(render(self.processor, [_message(role, system), _message("user", "?")], ask=True))
            except ValueError as error:
                if role == "system":
                    raise ValueError(f"system: {error}") from error
        if len(set(written)) == 1 < len(written):
            raise ValueError("system: the model's chat template has no system prompt")


def _message(role: str, text: str, num_images: int = 0) -> Message:
    return {"role": role, "content": [*({"type": "image"} for _ in range(num_images)), {"type": "text", "text": text}]}


def _hidden(message: Message) -> Message:
    return _message("assistant", ANSWER) if message["role"] == "assistant" else message
