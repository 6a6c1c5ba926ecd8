"""One call of one method: what it wrote, how long that took, and what speculation did. And the near-tie rule."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from vispec.arrivals import Arrivals
from vispec.bench.methods import Method
from vispec.speculation import Speculation
from vispec.training.prompts import append_tokens
from vispec.tree import TreeConfig

PROCESS = Path("/proc/self")
RESET_PEAK = "5"  # written to clear_refs: the peak of resident memory starts from here


@dataclass(frozen=True)
class Run:
    """A call from start to end, waited for on the device.

    Args:
        tokens: the new ones.
        seconds: of the whole call, prompt and images included.
        arrivals: milliseconds from the start to each token; those that came together have one time.
        peak_bytes: of device memory; on a CPU of the process's resident memory; None where the system does not tell.
        num_accepted: of each cycle; none for methods that are not ours.
        trees: of each cycle, as `tree_name` has them.
        stages: seconds by stage, see `Speculation`.
        difference: where the text leaves plain decoding's, see `compare`; None: it does not, or is not to be compared.
    """

    tokens: list[int]
    seconds: float
    arrivals: list[float]
    peak_bytes: int | None
    num_accepted: list[int]
    trees: list[str]
    stages: dict[str, float]
    difference: dict[str, float | None] | None = None

    @property
    def rate(self) -> float:
        """Tokens a second, prefill included."""
        return len(self.tokens) / self.seconds

    @property
    def decode_seconds(self) -> float:
        """Behind the first token; of ours that includes the draft's reading of the prompt."""
        return self.seconds - 1e-3 * self.arrivals[0]

    @property
    def decode_rate(self) -> float | None:
        """Tokens a second behind the first token; None where there are none."""
        return (len(self.tokens) - 1) / self.decode_seconds if len(self.tokens) > 1 else None

    @property
    def gaps(self) -> list[float]:
        """Milliseconds between a token and the next."""
        return [after - before for before, after in pairwise(self.arrivals)]


def tree_name(tree: TreeConfig | None) -> str:
    """As the command line has it; "none" where nothing was drafted."""
    return "none" if tree is None else f"{tree.depth},{tree.top_k},{tree.num_nodes}"


def measure(method: Method, inputs: Mapping[str, Any], options: Mapping[str, Any], seed: int) -> Run:
    """Call the method once.

    Args:
        inputs: on the model's device, one prompt.
        options: of `generate`, the same for all methods.
        seed: of what is sampled.
    """
    device, arrivals = inputs["input_ids"].device, Arrivals()
    torch.manual_seed(seed)
    tells_peak = _reset_peak(device)
    _wait(device)
    start = time.perf_counter()
    output = method.generate(inputs, streamer=arrivals, return_dict_in_generate=True, **options)
    _wait(device)
    seconds = time.perf_counter() - start
    tokens = output.sequences[0, inputs["input_ids"].shape[1] :].tolist()
    speculation: Speculation | None = getattr(output, "speculation", None)
    return Run(
        tokens=tokens,
        seconds=seconds,
        arrivals=[round(1e3 * (moment - start), 3) for moment in arrivals.times],
        peak_bytes=_read_peak(device) if tells_peak else None,
        num_accepted=speculation.num_accepted[:, 0].tolist() if speculation else [],
        trees=[tree_name(tree) for tree in speculation.trees] if speculation else [],
        stages=dict(speculation.seconds) if speculation else {},
    )


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _reset_peak(device: torch.device) -> bool:
    """Whether `_read_peak` can tell what is used from here on."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        (PROCESS / "clear_refs").write_text(RESET_PEAK)
    except OSError:  # not Linux, or a container that may not
        return False
    return True


def _read_peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    lines = (PROCESS / "status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


def first_difference(expected: list[int], other: list[int]) -> dict[str, float | None] | None:
    """Where two texts part: `at`, the number of equal tokens, with no word on why; None for equal texts."""
    pairs = zip(expected, other, strict=False)
    at = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(expected), len(other)))
    return None if at == len(expected) == len(other) else {"at": at, "gap": None, "noise": None}


@torch.no_grad()
def compare(
    model: PreTrainedModel, inputs: Mapping[str, Any], plain: list[int], other: list[int]
) -> dict[str, float | None] | None:
    """Where two greedy texts part, and whether the target can tell the two tokens apart there.

    Returns:
        None for equal texts. Else `at`, the number of equal tokens; `gap`, by how much the target's logit of the plain
        token is higher than that of the other; and `noise`, the largest difference between its logits there computed
        token by token and in one pass over the whole text; see `is_near_tie`. Where one text merely ends sooner both
        are None.
    """
    found = first_difference(plain, other)
    if found is None or found["at"] == min(len(plain), len(other)):
        return found
    at = int(found["at"] or 0)
    options = {"do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    steps = model.generate(**inputs, max_new_tokens=at + 1, **options)
    at_once = model.generate(**append_tokens(inputs, plain[:at]), max_new_tokens=1, **options)
    sequential, whole = steps.logits[-1][0].double(), at_once.logits[-1][0].double()
    gap = sequential[plain[at]] - sequential[other[at]]
    finite = sequential.isfinite() & whole.isfinite()
    return {"at": at, "gap": float(gap), "noise": float((sequential - whole)[finite].abs().max())}


def is_near_tie(difference: Mapping[str, float | None]) -> bool:
    """Whether the target itself cannot tell the two tokens apart: the gap is below 4 times the noise."""
    gap, noise = difference["gap"], difference["noise"]
    return gap is not None and noise is not None and abs(gap) < 4 * noise
