"""Every family of the table: its greedy text is the target's own, and the adapter reads what the model reads."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

import vispec
import vispec.attention
from families import TABLE
from families.cases import CASES, NEW_TOKENS, TREE, check, layouts_in, markdown
from families.common import IMAGE_TOKEN
from lossless import assert_same_text, plain_text
from models import layouts_of, make_draft, make_prompt, make_prompt_and_runs, make_target
from refusal import refused
from scripted import ScriptedDraft
from vispec import TreeConfig
from vispec.families import FAMILIES, TEXT_MODELS
from vispec.target import Target

CELLS = [(name, case) for name in TABLE for case in CASES if layouts_in(name, case)]


@pytest.mark.parametrize(("name", "case"), CELLS)
def test_table(name: str, case: str) -> None:
    check(name, case)


@pytest.mark.parametrize("name", TABLE)
def test_every_layer_of_every_cycle_runs_tree_attention(name: str) -> None:
    """And gives the logits of plain decoding, which tell more than the tokens: small models soon repeat themselves."""
    model = make_target(name)
    inputs = make_prompt(model, layouts_of(TABLE[name])[-1], random.Random(0))
    options = {"max_new_tokens": NEW_TOKENS, "output_logits": True, "return_dict_in_generate": True}
    plain = model.generate(**inputs, do_sample=False, **options)
    with patch.object(vispec.attention, "tree_attention", wraps=vispec.attention.tree_attention) as spy:
        output = vispec.generate(model, make_draft(model), inputs, tree=TREE, do_sample=False, **options)
    assert output.speculation.num_cycles > 0
    assert spy.call_count == model.config.get_text_config().num_hidden_layers * output.speculation.num_cycles
    assert torch.equal(output.sequences, plain.sequences)
    torch.testing.assert_close(torch.cat(output.logits), torch.cat(plain.logits), rtol=0, atol=2e-4)


@pytest.mark.parametrize("name", TABLE)
def test_the_truth_is_accepted_in_full(name: str) -> None:
    """Deep paths with wrong siblings beside them: each node sees its ancestors and nothing else."""
    model, tree = make_target(name, seed=1), TreeConfig(6, 8, 100)
    inputs = make_prompt(model, "one image" if TABLE[name].images else "text", random.Random(1))
    length = 1 + 5 * (tree.max_accepted + 1)
    script = plain_text(model, inputs, max_new_tokens=length + tree.max_accepted)[0, inputs["input_ids"].shape[1] :]
    output = assert_same_text(model, ScriptedDraft(model, script), inputs, tree, max_new_tokens=length)
    assert output.speculation.num_accepted.tolist() == [[tree.max_accepted]] * 5


@pytest.mark.parametrize("name", TABLE)
def test_the_adapter_reads_what_the_model_reads(name: str) -> None:
    """`embed` gives what the first layer gets at positions of text, `logits` of the features the model's logits."""
    model = make_target(name)
    received: list[Tensor] = []
    first_layer = model.get_decoder().layers[0]
    for seed, layout in enumerate(layouts_of(TABLE[name])):
        inputs, runs = make_prompt_and_runs(model, layout, random.Random(seed))
        target = Target(model)
        cache = target.new_cache(capacity=256, batch_size=1)
        first_layer.register_forward_pre_hook(_keep_input(received), with_kwargs=True)
        with torch.no_grad(), target.attached():
            expected = model(**inputs).logits
            prompt = target.prefill(inputs["input_ids"], {k: v for k, v in inputs.items() if k != "input_ids"}, cache)
        is_text = inputs["input_ids"][0] < IMAGE_TOKEN
        assert torch.equal(target.embed(inputs["input_ids"][0, is_text]), received[-1][0, is_text])
        assert torch.equal(prompt.embeds, received[-1])
        torch.testing.assert_close(target.logits(prompt.features), expected, rtol=0, atol=1e-5)
        assert prompt.images == target.read(inputs).images == [runs]


def _keep_input(received: list[Tensor]) -> Callable[..., None]:
    def keep(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        received.append(args[0] if args else kwargs["hidden_states"])

    return keep


@pytest.mark.parametrize("name", [name for name, family in TABLE.items() if "sliding" in family.special])
def test_windows_are_passed(name: str) -> None:
    """The table's texts are longer than the windows that slide: without those, their logits would be others."""
    model = make_target(name)
    config = copy.deepcopy(model.config)
    config.get_text_config().sliding_window = 4096
    wide = type(model)(config).eval()
    wide.load_state_dict(model.state_dict())
    sequences = plain_text(model, make_prompt(model, "text", random.Random(0)), max_new_tokens=NEW_TOKENS)
    with torch.no_grad():
        last, last_of_wide = (m(input_ids=sequences).logits[0, -1] for m in (model, wide))
    assert (last - last_of_wide).abs().max() > 1e-2


def test_soft_caps_that_sdpa_would_leave_out() -> None:
    """Newer releases of transformers load no such model with sdpa."""
    model = make_target("paligemma2")
    draft = make_draft(model)
    model.config.get_text_config()._attn_implementation = "sdpa"
    with refused(model, NotImplementedError, "model: its attention is soft-capped", 'attn_implementation="eager"'):
        vispec.generate(model, draft, torch.tensor([[5, 9, 14]]))


def test_the_readme_has_the_table() -> None:
    """What `test_table` finds. If not: `PYTHONPATH=tests python -m families`."""
    assert markdown(dict.fromkeys(CELLS, "same")) in (Path(__file__).parents[1] / "README.md").read_text()


def test_the_table_is_what_the_adapter_says() -> None:
    assert {family.model_type for family in TABLE.values()} == set(FAMILIES)
    models = [make_target(name) for name in TABLE]
    assert [model.config.model_type for model in models] == [family.model_type for family in TABLE.values()]
    assert {model.config.get_text_config().model_type for model in models} == set(TEXT_MODELS)
