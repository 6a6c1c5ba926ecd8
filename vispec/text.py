"""The text of one call: its tokens so far, when it ends, and who hears of them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel
from transformers.generation.stopping_criteria import (
    EosTokenCriteria,
    MaxLengthCriteria,
    StoppingCriteria,
    StopStringCriteria,
)
from transformers.generation.streamers import BaseStreamer

from vispec.processes import Processes


class Stops:
    """When to stop, asked after every token as plain decoding asks.

    Length and end-of-sequence are answered from numbers on the host; any other criterion is called with the ids that
    end at the token in question.

    Args:
        criteria: as `generate` prepared them.
        pad_token_id: what a finished sequence goes on with.
        processes: that have to stop together; a criterion may ask a clock.

    Attributes:
        pads: Whether finished sequences go on with padding; where no criterion knows an end-of-sequence token they go
            on with their own tokens, as in plain decoding.
    """

    def __init__(
        self,
        criteria: Sequence[StoppingCriteria],
        pad_token_id: int | None = None,
        processes: Processes | None = None,
    ) -> None:
        self.processes = processes or Processes()
        lengths = [c.max_length for c in criteria if type(c) is MaxLengthCriteria]
        self.max_length: float = min(lengths, default=torch.inf)
        eos = [c.eos_token_id for c in criteria if type(c) is EosTokenCriteria]
        self.eos_tokens = {token for ids in eos for token in ids.tolist()}
        self.others = [c for c in criteria if type(c) not in (MaxLengthCriteria, EosTokenCriteria)]
        self.pads = any(hasattr(c, "eos_token_id") for c in criteria)
        self.pad_token_id = 0 if pad_token_id is None else pad_token_id

    def __call__(self, ids: Tensor, device: torch.device, scores: tuple[Tensor, ...] | None = None) -> list[bool]:
        """Whether each sequence of `ids` `[B, length]` ends with its last token; criteria get them on `device`.

        `scores`: of all new tokens, where they are kept.
        """
        is_full = ids.shape[1] >= self.max_length
        ends = [is_full or token in self.eos_tokens for token in ids[:, -1].tolist()]
        for criterion in self.others:  # each is asked, like plain decoding does: some count their calls
            found = torch.as_tensor(criterion(ids.to(device), scores)).expand(len(ids)).tolist()
            ends = [end or bool(more) for end, more in zip(ends, found, strict=True)]
        return self.processes.agreed(torch.tensor(ends))[0].tolist() if self.others else ends


class Text:
    """The tokens so far, and who hears of them. On the host: a copy to a GPU would wait for the cycle under way.

    Sequences of a batch come in at their own rate. Streamers and criteria hear of all of them at one step: a sequence
    that is ahead holds its tokens until every other one has got that far or has finished.

    Args:
        ids: int64 `[B, L]`, the prompts.
        stops: when to end.
        streamer: gets the tokens of each step `[B]`, not the end.
        keeps_scores, keeps_logits: whether the output is to have them.

    Attributes:
        length: up to the last step that was told.
        lengths: of each sequence, with what it holds; padding does not count.
        is_open: whether more tokens of a sequence are wanted.
        scores, logits: fp32 `[B, V]` for each step, after and before the processors; None: not kept.
    """

    def __init__(
        self,
        ids: Tensor,
        stops: Stops,
        streamer: BaseStreamer | None,
        keeps_scores: bool = False,
        keeps_logits: bool = False,
    ) -> None:
        batch_size, self.length = ids.shape
        self.device = ids.device
        self.ids = ids.long().cpu()
        self.stops, self.streamer = stops, streamer
        self.lengths = [self.length] * batch_size
        self.is_open = [True] * batch_size
        self.has_finished = [False] * batch_size
        self.scores: tuple[Tensor, ...] | None = () if keeps_scores else None
        self.logits: tuple[Tensor, ...] | None = () if keeps_logits else None

    @property
    def has_ended(self) -> bool:
        return all(self.has_finished)

    @property
    def open_lengths(self) -> list[int]:
        """Of the sequences of which more is wanted."""
        return [length for length, is_open in zip(self.lengths, self.is_open, strict=True) if is_open]

    @property
    def keeps_scores(self) -> bool:
        return self.scores is not None

    @property
    def keeps_any(self) -> bool:
        return self.scores is not None or self.logits is not None

    @property
    def so_far(self) -> Tensor:
        """int64 `[B, length]`, on the prompt's device; not to be changed."""
        return self.ids[:, : self.length].to(self.device)

    def keep(self, scores: Tensor, logits: Tensor) -> None:
        """Of the next step, before it is emitted."""
        if self.scores is not None:
            self.scores += (scores,)
        if self.logits is not None:
            self.logits += (logits,)

    def emit(self, new_tokens: Sequence[Sequence[int]]) -> None:
        """Take in what came for each sequence; tell, step by step, what all have, until the text ends."""
        for row, tokens in enumerate(new_tokens):
            if self.is_open[row] and tokens:
                self._hold(row, tokens)
        while not self.has_ended and self._next_step_is_there():
            self._tell()

    def _hold(self, row: int, tokens: Sequence[int]) -> None:
        """Append up to where the sequence surely ends."""
        start = self.lengths[row]
        for count, token in enumerate(tokens, start=1):
            if token in self.stops.eos_tokens or start + count >= self.stops.max_length:
                tokens = tokens[:count]
                self.is_open[row] = False
                break
        end = start + len(tokens)
        if end > self.ids.shape[1]:
            more = max(end - self.ids.shape[1], self.ids.shape[1])
            self.ids = torch.cat((self.ids, self.ids.new_empty(len(self.ids), more)), dim=1)
        self.ids[row, start:end] = torch.tensor(tokens)
        self.lengths[row] = end

    def _next_step_is_there(self) -> bool:
        return all(
            length > self.length or (has_finished and self.stops.pads)
            for length, has_finished in zip(self.lengths, self.has_finished, strict=True)
        )

    def _tell(self) -> None:
        """One step of all sequences."""
        step = self.length
        self.length += 1
        if self.stops.pads:
            for row, has_finished in enumerate(self.has_finished):
                if has_finished:
                    self.ids[row, step] = self.stops.pad_token_id
        if self.streamer is not None:
            self.streamer.put(self.ids[:, step].clone())
        for row, ends in enumerate(self.stops(self.ids[:, : self.length], self.device, self.scores)):
            if ends and not self.has_finished[row]:
                self.has_finished[row] = True
                if self.stops.pads:
                    self.is_open[row] = False
                    self.lengths[row] = self.length

    @property
    def sequences(self) -> Tensor:
        return self.ids[:, : self.length].to(self.device, copy=True)


class _WithoutStopStrings(GenerationConfig):
    """`generate` fills what is None from the model's own config: here it cannot."""

    stop_strings = property(lambda self: None, lambda self, value: None)


def with_stop_strings(model: PreTrainedModel, keywords: dict[str, Any]) -> dict[str, Any]:
    """Keywords of `generate` with a stopping criterion in place of `stop_strings`, wherever those come from.

    `generate` itself takes stop strings, but not beside a custom_generate callable: it would miss the tokenizer.

    Raises:
        ValueError: there are stop strings and no `tokenizer`.
    """
    config = keywords.get("generation_config")
    in_configs = [getattr(source, "stop_strings", None) for source in (config, model.generation_config)]
    in_configs = [strings for strings in in_configs if strings is not None]
    strings = keywords["stop_strings"] if "stop_strings" in keywords else next(iter(in_configs), None)
    keywords = {name: value for name, value in keywords.items() if name != "stop_strings"}
    if in_configs:
        keywords["generation_config"] = GenerationConfig() if config is None else copy.copy(config)
        keywords["generation_config"].__class__ = _WithoutStopStrings
    if strings is not None:
        if keywords.get("tokenizer") is None:
            raise ValueError("stop_strings: expected the model's tokenizer, too: pass tokenizer=, got None")
        criterion = StopStringCriteria(keywords["tokenizer"], strings)
        keywords["stopping_criteria"] = [*(keywords.get("stopping_criteria") or []), criterion]
    return keywords
