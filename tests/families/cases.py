"""What every family is asked to do, and the README's table of it.

`python -m families`, with `tests` on the path, runs all of it and prints the table.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.generation.logits_process import TemperatureLogitsWarper, TopPLogitsWarper

import vispec
from families import TABLE
from families.refused import REFUSED
from lossless import assert_same_text, plain_text
from models import LAYOUTS, family_of, layouts_of, make_batch, make_draft, make_prompt, make_target
from vispec import Draft, TreeConfig
from vispec.families import why_unsupported

TREE = TreeConfig(2, 4, 12)
NEW_TOKENS = 32  # with a prompt, beyond the windows that slide
TEMPERATURE, TOP_P = 1.3, 0.8


def _same_texts(model: PreTrainedModel, draft: Draft, layouts: list[str]) -> None:
    for seed, layout in enumerate(layouts):
        inputs = make_prompt(model, layout, random.Random(seed))
        assert_same_text(model, draft, inputs, TREE, max_new_tokens=NEW_TOKENS)


def _batch(model: PreTrainedModel, draft: Draft, layouts: list[str]) -> None:
    """Rows with no image, one and two (or text alone) of three lengths: as the model's own, and as one by one."""
    rows = ["text", "one image", "two adjacent images"]
    rng = random.Random(0)
    prompts = [make_prompt(model, layout if layout in layouts else "text", rng) for layout in rows]
    inputs = make_batch(prompts, family_of(model).of_rows)
    assert len(inputs["attention_mask"].sum(1).unique()) == 3
    output = assert_same_text(model, draft, inputs, TREE, max_new_tokens=NEW_TOKENS)
    for prompt, sequence in zip(prompts, output.sequences, strict=True):
        alone = plain_text(model, prompt, max_new_tokens=NEW_TOKENS)[0]
        assert torch.equal(alone, sequence[-len(alone) :])


def _sampling(model: PreTrainedModel, draft: Draft, layouts: list[str]) -> None:
    """With a draft the draws of plain decoding; no token that `model.generate` could not draw."""
    inputs = make_prompt(model, layouts[-1], random.Random(0))
    options = {"do_sample": True, "temperature": TEMPERATURE, "top_p": TOP_P, "max_new_tokens": NEW_TOKENS}
    plain, ours = (
        vispec.generate(model, d, inputs, generator=torch.Generator().manual_seed(0), tree=TREE, **options)
        for d in (None, draft)
    )
    assert torch.equal(plain, ours)
    assert (_warped_logits(model, inputs, ours) > -torch.inf).all()


def _warped_logits(model: PreTrainedModel, inputs: dict[str, Tensor], sequences: Tensor) -> Tensor:
    """What `model.generate` would draw the tokens of `sequences` `[1, L + n]` from: their own logits, int64 `[n]`."""
    written = sequences[:, inputs["input_ids"].shape[1] :]
    steps = model.generate(
        **inputs,
        do_sample=False,
        max_new_tokens=written.shape[1],
        prefix_allowed_tokens_fn=lambda row, ids: [int(sequences[row, len(ids)])],
        output_logits=True,
        return_dict_in_generate=True,
    )
    assert torch.equal(steps.sequences, sequences)
    logits = torch.cat(steps.logits)
    for warper in (TemperatureLogitsWarper(TEMPERATURE), TopPLogitsWarper(TOP_P)):
        logits = warper(sequences, logits)
    return logits.gather(1, written[0, :, None])


# by column of the table: what is checked, and on which of a family's layouts; None: on all together
CASES: dict[str, tuple[Callable[[PreTrainedModel, Draft, list[str]], None], Callable[[str], bool] | None]] = {
    "1 image": (_same_texts, lambda layout: layout in ("one image", "image first")),
    "2 images": (_same_texts, lambda layout: layout in LAYOUTS and "two" in layout),
    "video": (_same_texts, lambda layout: "video" in layout),
    "text": (_same_texts, lambda layout: layout == "text"),
    "batch of 3": (_batch, None),
    "sampling": (_sampling, None),
}


def layouts_in(name: str, case: str) -> list[str]:
    """Of a family, those that belong to a case; empty: it has no such thing."""
    _, belongs = CASES[case]
    return [layout for layout in layouts_of(TABLE[name]) if belongs is None or belongs(layout)]


def check(name: str, case: str) -> None:
    """One cell of the table.

    Raises:
        AssertionError: a text is not the model's own.
    """
    run, _ = CASES[case]
    model = make_target(name)
    run(model, make_draft(model), layouts_in(name, case))


def outcome(name: str, case: str) -> str:
    """Check, and say in a word how it went."""
    try:
        check(name, case)
    except AssertionError:
        return "differs"
    return "same"


def markdown(outcomes: Mapping[tuple[str, str], Any]) -> str:
    """The README's table of families, and which are refused; cells that are not in `outcomes` have no such case."""
    lines = [
        f"| family | language model in the tests | {' | '.join(CASES)} | what is special |",
        f"| --- | --- | {'--- | ' * len(CASES)}--- |",
    ]
    for name, family in sorted(TABLE.items()):
        cells = [outcomes.get((name, case), "") for case in CASES]
        text_type = family.build((4, 2)).config.get_text_config().model_type
        lines.append(f"| `{name}` | `{text_type}` | {' | '.join(cells)} | {family.special} |")
    refused = [f"- `{name}`: {why_unsupported(build())}." for name, (build, _) in sorted(REFUSED.items())]
    return "\n".join((*lines, "", "Refused, with the reason:", "", *refused))
