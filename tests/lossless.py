"""The one comparison that counts: the text of `vispec.generate` against the target's own."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

import vispec

# texts compared and near ties met, by family and dtype; printed at the end of the run (conftest.py)
COMPARED: Counter[tuple[str, str]] = Counter()
NEAR_TIES: Counter[tuple[str, str]] = Counter()


def plain_text(model: PreTrainedModel, inputs: dict[str, Tensor], **options: Any) -> Tensor:
    """What the model writes on its own: the reference of every test here."""
    return model.generate(**inputs, do_sample=False, **options)


def assert_same_text(
    model: PreTrainedModel,
    draft: vispec.Draft,
    inputs: dict[str, Tensor],
    tree: Any,
    *,
    compile: bool = False,
    **options: Any,
) -> vispec.SpeculativeOutput:
    """Generate both ways and compare token for token; `compile`: ours with verification compiled.

    A first difference is let through, and counted, only where the target itself cannot tell the two tokens apart: its
    logits of them lie closer than 4 times the rounding error of its logits, taken against the same weights in the next
    wider dtype; of a quantised target, which has no wider one, against one pass over the whole text.
    """
    plain = plain_text(model, inputs, **options)
    options |= {"do_sample": False, "return_dict_in_generate": True}
    output = vispec.generate(model, draft, inputs, tree=tree, compile=compile, **options)
    method = f" {model.config.quantization_config.quant_method.value}" if is_quantised(model) else ""
    key = (model.config.model_type, str(model.dtype).removeprefix("torch.") + method)
    for row in range(len(plain)):
        COMPARED[key] += 1
        if not torch.equal(plain[row], output.sequences[row]):
            gap, noise = _gap_and_noise(model, inputs, plain, output.sequences, row)
            assert gap < 4 * noise, f"{key}: texts differ at a gap of {gap:.2e}, the rounding error is {noise:.2e}"
            NEAR_TIES[key] += 1
    return output


def is_quantised(model: PreTrainedModel) -> bool:
    return getattr(model, "hf_quantizer", None) is not None


@torch.no_grad()
def _gap_and_noise(
    model: PreTrainedModel, inputs: dict[str, Tensor], plain: Tensor, ours: Tensor, row: int
) -> tuple[float, float]:
    """At the first difference: how much the target prefers its token to ours; how far its logits are from exact."""
    shared = min(plain.shape[1], ours.shape[1])
    differing = (plain[row, :shared] != ours[row, :shared]).nonzero()
    assert len(differing), f"one text is a prefix of the other: {plain.shape[1]} and {ours.shape[1]} tokens"
    end, start = int(differing[0]), inputs["input_ids"].shape[1]
    count = (plain.shape[1] if is_quantised(model) else end + 1) - start  # the first few tokens may differ by nothing
    steps = model.generate(
        **inputs, max_new_tokens=count, do_sample=False, output_logits=True, return_dict_in_generate=True
    )
    logits = torch.stack(steps.logits, dim=1)[row]
    wider = torch.float64 if model.dtype == torch.float32 else torch.float32
    judge = model if is_quantised(model) else copy.deepcopy(model).to(wider)
    wide = {name: x.to(judge.dtype) if x.is_floating_point() else x for name, x in inputs.items()}
    wide["input_ids"] = steps.sequences[:, :-1]
    more = {"attention_mask": 1, "mm_token_type_ids": 0}  # of written tokens: there, text,
    more["token_type_ids"] = int(model.config.model_type == "paligemma")  # and 1 follows a prefix that sees itself
    for name, value in more.items():
        if name in inputs:
            rows = inputs[name].new_full((len(plain), count - 1), value)
            wide[name] = torch.cat((inputs[name], rows), dim=1)
    exact = judge(**wide).logits[row, start - 1 :]
    gap = logits[end - start, plain[row, end]] - logits[end - start, ours[row, end]]
    return float(gap), float((logits - exact).abs().max())
