"""The text of one call: its tokens so far, when it ends, and who hears of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.generation.stopping_criteria import EosTokenCriteria, MaxLengthCriteria, StoppingCriteria
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

    def __call__(self, ids: Tensor, token: int, device: torch.device) -> bool:
        """Whether decoding ends with `token`, the last of `ids` `[1, length]`; criteria get them on `device`."""
        at_end = ids.shape[1] >= self.max_length or token in self.eos_tokens
        for criterion in self.others:  # each is asked, like plain decoding does: some count their calls
            at_end = bool(torch.as_tensor(criterion(ids.to(device), None)).all()) or at_end
        return at_end


class Text:
    """The tokens so far, and who hears of them. On the host: a copy to a GPU would wait for the cycle under way.

    Args:
        ids: int64 `[1, L]`, the prompt.
        stops: when to end.
        streamer: gets each token, not its end.
    """

    def __init__(self, ids: Tensor, stops: Stops, streamer: BaseStreamer | None) -> None:
        self.length, self.device = ids.shape[1], ids.device
        self.ids = ids.long().cpu()
        self.stops, self.streamer = stops, streamer
        self.has_ended = False

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
            self.has_ended = self.stops(self.ids[:, : self.length], token, self.device)
            if self.has_ended:
                return

    @property
    def sequences(self) -> Tensor:
        return self.ids[:, : self.length].to(self.device, copy=True)
