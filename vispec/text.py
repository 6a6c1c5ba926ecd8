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


class Stops:
    """When to stop, asked after every token as plain decoding asks.

    Length and end-of-sequence are answered from numbers on the host; any other criterion is called with the ids that
    end at the token in question.
    """

    def __init__(self, criteria: Sequence[StoppingCriteria]) -> None:
        lengths = [c.max_length for c in criteria if type(c) is MaxLengthCriteria]
        self.max_length: float = min(lengths, default=torch.inf)
        eos = [c.eos_token_id for c in criteria if type(c) is EosTokenCriteria]
        self.eos_tokens = {token for ids in eos for token in ids.tolist()}
        self.others = [c for c in criteria if type(c) not in (MaxLengthCriteria, EosTokenCriteria)]

    def __call__(self, ids: Tensor, token: int, device: torch.device, scores: tuple[Tensor, ...] | None = None) -> bool:
        """Whether decoding ends with `token`, the last of `ids` `[1, length]`; criteria get them on `device`.

        `scores`: of all new tokens, where they are kept.
        """
        at_end = ids.shape[1] >= self.max_length or token in self.eos_tokens
        for criterion in self.others:  # each is asked, like plain decoding does: some count their calls
            at_end = bool(torch.as_tensor(criterion(ids.to(device), scores)).all()) or at_end
        return at_end


class Text:
    """The tokens so far, and who hears of them. On the host: a copy to a GPU would wait for the cycle under way.

    Args:
        ids: int64 `[1, L]`, the prompt.
        stops: when to end.
        streamer: gets each token, not its end.
        keeps_scores, keeps_logits: whether the output is to have them.

    Attributes:
        scores, logits: fp32 `[1, V]` for each new token, after and before the processors; None: not kept.
    """

    def __init__(
        self,
        ids: Tensor,
        stops: Stops,
        streamer: BaseStreamer | None,
        keeps_scores: bool = False,
        keeps_logits: bool = False,
    ) -> None:
        self.length, self.device = ids.shape[1], ids.device
        self.ids = ids.long().cpu()
        self.stops, self.streamer = stops, streamer
        self.has_ended = False
        self.scores: tuple[Tensor, ...] | None = () if keeps_scores else None
        self.logits: tuple[Tensor, ...] | None = () if keeps_logits else None

    @property
    def keeps_scores(self) -> bool:
        return self.scores is not None

    @property
    def keeps_any(self) -> bool:
        return self.scores is not None or self.logits is not None

    @property
    def so_far(self) -> Tensor:
        """int64 `[1, length]`, on the prompt's device; not to be changed."""
        return self.ids[:, : self.length].to(self.device)

    def keep(self, scores: Tensor, logits: Tensor) -> None:
        """Of the next token, before it is emitted."""
        if self.scores is not None:
            self.scores += (scores,)
        if self.logits is not None:
            self.logits += (logits,)

    def emit(self, tokens: list[int]) -> None:
        """Append tokens one by one until one of them ends the text."""
        end = self.length + len(tokens)
        if end > self.ids.shape[1]:
            self.ids = torch.cat((self.ids, self.ids.new_empty(1, max(len(tokens), self.ids.shape[1]))), dim=1)
        self.ids[0, self.length : end] = torch.tensor(tokens)
        for token in tokens:
            self.length += 1
            if self.streamer is not None:
                self.streamer.put(torch.tensor([token]))
            self.has_ended = self.stops(self.ids[:, : self.length], token, self.device, self.scores)
            if self.has_ended:
                return

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
