"""A processor's chat template as the training sees it: token ids of dialogues about one picture, and what to learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import LlavaProcessor

from vispec.pair.asking import Turn

UNLABELLED = -100
QUESTION, ANSWER = "\ue000", "\ue001"  # of Unicode's private use: no template writes them


class Chat:
    """Encodes dialogues as the processor's template writes them, up to the end of the last answer.

    Prompts and answers are tokenised apart, as in generation.

    Raises:
        ValueError: the template does not close an answer by the end of sequence, or does not write every turn alike.
    """

    def __init__(self, processor: LlavaProcessor) -> None:
        self.tokenizer = processor.tokenizer
        self.image_token: str = processor.image_token
        size = processor.image_processor.crop_size
        self.num_image_tokens = (size["height"] // processor.patch_size) * (size["width"] // processor.patch_size)
        turn = [
            {"role": "user", "content": [{"type": "text", "text": QUESTION}]},
            {"role": "assistant", "content": [{"type": "text", "text": ANSWER}]},
        ]
        dialogue: list[dict[str, Any]] = [*turn, *turn]
        dialogue[0] = {"role": "user", "content": [{"type": "image"}, *turn[0]["content"]]}
        text: str = processor.apply_chat_template(dialogue)
        pieces = text.replace(ANSWER, QUESTION).split(QUESTION)
        end: str = self.tokenizer.eos_token
        if len(pieces) != 5 or pieces[1] != pieces[3] or not (pieces[2].startswith(end) and pieces[4].startswith(end)):
            raise ValueError(
                f"processor: expected a chat template that writes every turn alike and {end} behind an answer, "
                f"got {text!r} for two turns"
            )
        self.opening, self.before_answer = pieces[0], pieces[1]
        self.before_question = pieces[2].removeprefix(end)

    def encode(self, turns: Sequence[Turn]) -> tuple[list[int], list[int]]:
        """Token ids and labels of a dialogue; labels name the token where it is the assistant's, else -100."""
        ids: list[int] = []
        labels: list[int] = []
        before = self.opening.replace(self.image_token, self.image_token * self.num_image_tokens)
        for turn in turns:
            prompt = self._tokenise(before + turn.question + self.before_answer)
            answer = [*self._tokenise(turn.answer), self.tokenizer.eos_token_id]
            ids += prompt + answer
            labels += [UNLABELLED] * len(prompt) + answer
            before = self.before_question
        return ids, labels

    def _tokenise(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]
