"""One prompt answered by the target alone and with its draft, one after the other: what both wrote and how fast."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from torch import Tensor
from transformers import PreTrainedTokenizerBase, TextStreamer

from vispec.auto import CANDIDATES
from vispec.speculation import STAGES, Speculation
from vispec.tree import TreeConfig


@dataclass(frozen=True)
class Answer:
    """One answer and its wall times, what showing it took included.

    Args:
        tokens: the new ones, at least one.
        first: seconds to the first token.
        seconds: of the whole call.
    """

    tokens: list[int]
    first: float
    seconds: float

    @property
    def rate(self) -> float:
        """Tokens per second of the whole call."""
        return len(self.tokens) / self.seconds

    @property
    def decode_rate(self) -> float:
        """Tokens per second behind the first token; nan where there are none."""
        return (len(self.tokens) - 1) / (self.seconds - self.first) if len(self.tokens) > 1 else math.nan


class Stage(NamedTuple):
    """Where time went: in all, and per cycle; None for what comes once."""

    name: str
    seconds: float
    cycle_seconds: float | None


class Origin(NamedTuple):
    """Who wrote a token: in which cycle (0: the prefill), and whether it is an accepted draft token."""

    cycle: int
    drafted: bool


@dataclass(frozen=True)
class Comparison:
    """Both answers to one prompt; `speculation` is what `vispec.generate` reports of its own."""

    plain: Answer
    speculative: Answer
    speculation: Speculation
    tree: TreeConfig | Literal["auto"]

    @property
    def most_accepted(self) -> int:
        """Draft tokens that a cycle could accept at most."""
        trees = [self.tree] if isinstance(self.tree, TreeConfig) else CANDIDATES
        return max(tree.max_accepted for tree in trees)

    @property
    def num_equal(self) -> int:
        """Tokens before the first that differs."""
        pairs = list(zip(self.plain.tokens, self.speculative.tokens, strict=False))
        return next((index for index, (one, other) in enumerate(pairs) if one != other), len(pairs))

    @property
    def identical(self) -> bool:
        return self.plain.tokens == self.speculative.tokens

    @property
    def verdict(self) -> str:
        plain, speculative = len(self.plain.tokens), len(self.speculative.tokens)
        if self.identical:
            return f"Both answers are identical: {plain} tokens compared."
        return (
            f"THE ANSWERS DIFFER from token {self.num_equal} on ({plain} tokens without, {speculative} with a draft). "
            "This should not be: please report it."
        )

    @property
    def speed_up(self) -> float:
        return self.speculative.rate / self.plain.rate

    @property
    def decode_speed_up(self) -> float:
        return self.speculative.decode_rate / self.plain.decode_rate

    @property
    def num_accepted(self) -> list[int]:
        """Accepted draft tokens of each cycle."""
        return self.speculation.num_accepted.flatten().tolist()

    @property
    def stages(self) -> list[Stage]:
        """Of the call with the draft; `prepare` is what transformers does before decoding starts."""
        seconds, cycles = self.speculation.seconds, self.speculation.num_cycles
        stages = [Stage("prepare", self.speculative.seconds - sum(seconds.values()), None)]
        for name in STAGES:
            if name == "captured" and not seconds[name]:
                continue
            stages.append(Stage(name, seconds[name], seconds[name] / cycles if cycles and name != "prefill" else None))
        return stages

    @property
    def origins(self) -> list[Origin]:
        """Of each token of the speculative answer; a stop may cut the last cycle short."""
        origins = [Origin(0, False)]
        for cycle, accepted in enumerate(self.num_accepted, start=1):
            origins += [Origin(cycle, True)] * accepted + [Origin(cycle, False)]
        return origins[: len(self.speculative.tokens)]


class Listener(TextStreamer):
    """Hands whole words to `write` as they come, and notes when the first token did."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, write: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.write = write
        self.times: list[float] = []  # of the prompt and of the first token

    def put(self, value: Tensor) -> None:
        """Called by `generate` with the prompt, then with each token."""
        if len(self.times) < 2:
            self.times.append(time.perf_counter())
        super().put(value)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Called by transformers with whole words."""
        self.write(text)


def measure(
    generate: Callable[..., Any], listener: Listener, prompt_length: int, max_new_tokens: int
) -> tuple[Answer, Any]:
    """One timed call of `generate`, greedy; also what it returned."""
    start = time.perf_counter()
    output = generate(do_sample=False, max_new_tokens=max_new_tokens, streamer=listener, return_dict_in_generate=True)
    seconds = time.perf_counter() - start
    tokens = output.sequences[0, prompt_length:].tolist()
    return Answer(tokens, listener.times[1] - start, seconds), output


def token_texts(tokenizer: PreTrainedTokenizerBase, tokens: list[int]) -> list[str]:
    """What each token adds to the text; a character of several tokens comes with its last one."""
    texts, shown = [], ""
    for end in range(1, len(tokens) + 1):
        text = tokenizer.decode(tokens[:end])
        is_whole = not text.endswith("\ufffd") or end == len(tokens)
        texts.append(text[len(shown) :] if is_whole else "")
        shown = text if is_whole else shown
    return texts


def speed_rows(comparison: Comparison) -> list[tuple[str, str, str, str]]:
    """A table, its heading first: both answers' speed, as a whole and behind the first token."""
    plain, speculative = comparison.plain, comparison.speculative
    return [
        ("", "without", "with draft", "speed-up"),
        ("tokens/s", f"{plain.rate:.1f}", f"{speculative.rate:.1f}", _times(comparison.speed_up)),
        (
            "tokens/s, decode alone",
            _number(plain.decode_rate),
            _number(speculative.decode_rate),
            _times(comparison.decode_speed_up),
        ),
        ("first token", f"{1e3 * plain.first:.0f} ms", f"{1e3 * speculative.first:.0f} ms", ""),
        ("in all", f"{plain.seconds:.2f} s", f"{speculative.seconds:.2f} s", ""),
    ]


def stage_rows(comparison: Comparison) -> list[tuple[str, str, str, str]]:
    """A table, its heading first: where the accelerated call's time went."""
    rows = [("time with draft", "ms in all", "ms a cycle", "share")]
    for stage in comparison.stages:
        cycle = "" if stage.cycle_seconds is None else f"{1e3 * stage.cycle_seconds:.2f}"
        share = stage.seconds / comparison.speculative.seconds
        rows.append((stage.name, f"{1e3 * stage.seconds:.1f}", cycle, f"{share:.1%}"))
    return rows


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1f}"


def _times(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}x"
