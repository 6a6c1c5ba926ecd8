"""The ways to decode that are compared: transformers' own, and ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from transformers import CompileConfig, PreTrainedModel

import vispec
from vispec.draft.checkpoint import Draft
from vispec.tree import TreeConfig

PLAIN, COMPILED = "plain", "compiled"
LOOKUP, ASSISTED = "prompt lookup", "assisted"
NO_DRAFT = "vispec, no draft"  # plain decoding with our draws: what ours must write with the same seed
LOOKUP_TOKENS = 10  # that it copies at most, transformers' own example
ROWS_MULTIPLE = 512  # of a static cache: prompts of like length then share a compiled graph
Tree = TreeConfig | Literal["auto"]


def cache_rows(length: int) -> int:
    """Rows of a static cache for a text that may become so long."""
    return -(-length // ROWS_MULTIPLE) * ROWS_MULTIPLE


@dataclass(frozen=True)
class Method:
    """One way to decode.

    Args:
        generate: takes the inputs, and keywords of `model.generate`.
        baseline: the method that it is compared with: eager with eager, compiled with compiled.
        draft: ours alone; each method has its own, so that none learns from another.
        tree: what ours drafts; None: nothing.
        may_fail: a peer, or compiled: where it does not run, the reason is a result.
        compiles: ours alone; whether verification is compiled.
    """

    name: str
    generate: Callable[..., Any]
    baseline: str = PLAIN
    draft: Draft | None = None
    tree: Tree | None = None
    may_fail: bool = False
    compiles: bool = False

    @property
    def is_ours(self) -> bool:
        return self.draft is not None


def transformers_methods(
    model: PreTrainedModel, *, compiles: bool, assistant: PreTrainedModel | None, lookup: bool
) -> list[Method]:
    """transformers' own ways.

    Args:
        compiles: the static cache with a compiled forward, too.
        assistant: a smaller model with the same tokenizer, for assisted decoding.
        lookup: prompt lookup, too.
    """

    def generate(inputs: Mapping[str, Any], more: Mapping[str, Any] | None = None, **options: Any) -> Any:
        return model.generate(**inputs, **(more or {}), **options)

    methods = [Method(PLAIN, generate)]
    if lookup:
        methods.append(
            Method(LOOKUP, partial(generate, more={"prompt_lookup_num_tokens": LOOKUP_TOKENS}), may_fail=True)
        )
    if assistant is not None:
        methods.append(Method(ASSISTED, partial(generate, more={"assistant_model": assistant}), may_fail=True))
    if compiles:
        config = CompileConfig()
        config._compile_all_devices = True  # transformers' own switch for CPUs

        def generate_compiled(inputs: Mapping[str, Any], **options: Any) -> Any:
            rows = cache_rows(inputs["input_ids"].shape[1] + options["max_new_tokens"])
            static = {"cache_implementation": "static", "max_cache_len": rows, "compile_config": config}
            return model.generate(**inputs, **static, **options)

        methods.append(Method(COMPILED, generate_compiled, baseline=COMPILED, may_fail=True))
    return methods


def without_draft(model: PreTrainedModel) -> Method:
    """Ours without a draft."""
    return Method(NO_DRAFT, partial(vispec.generate, model, None))


def vispec_methods(
    model: PreTrainedModel,
    new_draft: Callable[[], Draft],
    trees: Sequence[Tree],
    label: str,
    compiles: bool = False,
) -> list[Method]:
    """Ours, one a tree.

    Args:
        new_draft: makes a draft for each.
        label: added to the name.
        compiles: whether verification is compiled.
    """
    methods = []
    for tree in trees:
        draft = new_draft()
        name = tree if isinstance(tree, str) else f"{tree.depth},{tree.top_k},{tree.num_nodes}"
        methods.append(
            Method(
                name=f"vispec {name}{label}",
                generate=partial(vispec.generate, model, draft, tree=tree, compile=compiles),
                baseline=COMPILED if compiles else PLAIN,
                draft=draft,
                tree=tree,
                may_fail=compiles,
                compiles=compiles,
            )
        )
    return methods
