"""The public calls: `generate` for one call, `accelerate` for a model whose own `generate` is to be faster."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from types import MethodType, TracebackType
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel
from transformers.generation.configuration_utils import GenerationMode
from transformers.generation.logits_process import LogitsProcessorList
from transformers.generation.stopping_criteria import StoppingCriteriaList
from transformers.generation.utils import GenerateDecoderOnlyOutput

from vispec.arguments import (
    OWN,
    as_keywords,
    check_draft,
    check_inputs,
    check_mask,
    check_mode,
    check_options,
    check_processors,
    check_prompt,
)
from vispec.auto import AUTO, LEAST_TOKENS, auto_plan
from vispec.cache import CACHE_NAME
from vispec.continuing import Past, find_past, leave_note
from vispec.cycles import borrowed_cycle, new_cycle
from vispec.decoding import Before, Cycle, Decoded, decode
from vispec.draft.checkpoint import Draft
from vispec.probe import check_verification
from vispec.processes import FirstsPlan
from vispec.processors import PathChoice
from vispec.sampling import Rules, draw_seed, rules_of
from vispec.speculation import Speculation
from vispec.target import Target
from vispec.text import Stops, Text, with_stop_strings
from vispec.tree import NoTree, Plan, SameTree, TreeConfig

MAX_FIRST_ROWS = 1024  # of new tokens, allocated before decoding; longer texts grow the caches

PATH_WARNING = (
    "vispec: cycles run without CUDA graphs: logits processors other than temperature, top_k, top_p, min_p and "
    "repetition_penalty, output_scores, output_logits and output_hidden_states need each token on the host"
)


class SpeculativeOutput(GenerateDecoderOnlyOutput):
    """transformers' output of `generate`, and `speculation`: what speculation did.

    That is an attribute and no field: keys, items, tuple and length are those of transformers' own output.
    """

    speculation: Speculation | None = None


def generate(
    model: PreTrainedModel,
    draft: Draft | None,
    inputs: Mapping[str, Any] | Tensor,
    *,
    tree: TreeConfig | Literal["auto"] = TreeConfig(),  # noqa: B008  # frozen
    compile: bool = False,
    **generate_kwargs: Any,
) -> Tensor | SpeculativeOutput:
    """What `model.generate(**inputs, **generate_kwargs)` returns, sooner.

    Args:
        model: The target, in eval mode. It is left as it was found. Where it is split over processes (tensor parallel),
            each of them makes the same call.
        draft: From `load_draft(..., target=model)`; None: plain decoding, with the same draws.
        inputs: A processor's output (any mapping), or token ids int64 `[B, L]`. Shorter prompts of a batch are padded
            on the left, with zeros in `attention_mask`.
        tree: Size of the tree that is drafted in every cycle; "auto": chosen cycle by cycle for the most tokens a
            second with this draft, device and text, down to no tree at all. Speed alone depends on it, not the text.
        compile: Run verification as one graph of torch.compile. Its first cycles take half a minute or more; what was
            compiled is kept while the model lives. Texts are the same up to near ties: it rounds as a compiled model.
            While torch compiles, no other thread should run a transformers model: that is not thread-safe then.
        generate_kwargs: As for `model.generate`, and `generator`, a torch.Generator: with `do_sample`, one draw from it
            (or else from torch's own) is the call's seed. What follows from a seed is the same with any draft and tree.
            `past_key_values` may be the cache that an earlier call returned: it is extended in place, nothing in it is
            read again, and the draft, too, knows what it read then. Images of earlier turns may be among the inputs.

    Returns:
        int64 `[B, L + emitted]`, or with `return_dict_in_generate=True` transformers' output with `speculation`.

    Raises:
        TypeError, ValueError: an argument is not as above; `model.generate` does not know a keyword.
        NotImplementedError: the model's family or an option is not supported. Nothing is ignored in silence.
    """
    return _Accelerator(model, draft, tree, compile).generate(as_keywords(inputs, generate_kwargs))


class accelerate:
    """Make `model.generate(...)` itself speculative, until `remove()` or the end of a `with` block.

    Args:
        model, draft, tree, compile: As for `generate`.

    Raises:
        RuntimeError: the model is accelerated already.
        TypeError, ValueError, NotImplementedError: As for `generate`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        draft: Draft,
        *,
        tree: TreeConfig | Literal["auto"] = TreeConfig(),  # noqa: B008
        compile: bool = False,
    ) -> None:
        check_draft(draft)
        accelerator = _Accelerator(model, draft, tree, compile)
        draft.check_target(accelerator.target)
        if "generate" in vars(model):
            raise RuntimeError("model: its generate is replaced already (accelerated twice?); remove that first")
        own_generate = type(model).generate
        signature = inspect.signature(own_generate)

        def generate(called: PreTrainedModel, *args: Any, **kwargs: Any) -> Any:
            if called is not model:  # a copy of the model, made meanwhile: the draft is not for it
                return own_generate(called, *args, **kwargs)
            arguments = signature.bind(called, *args, **kwargs).arguments
            named = {name: value for name, value in arguments.items() if name not in ("self", "kwargs")}
            return accelerator.generate({**named, **arguments.get("kwargs", {})})

        self.model = model
        self._method = MethodType(generate, model)  # bound: copies of the model are bound to themselves
        model.generate = self._method

    def remove(self) -> None:
        """Give the model its own `generate` back; a second call does nothing."""
        if vars(self.model).get("generate") is self._method:
            del self.model.generate

    def __enter__(self) -> accelerate:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


class _Accelerator:
    """A target, a draft and a tree that were checked against each other; without a draft for plain decoding."""

    def __init__(
        self, model: PreTrainedModel, draft: Draft | None, tree: TreeConfig | Literal["auto"], compiles: bool
    ) -> None:
        if not isinstance(compiles, bool):
            raise TypeError(f"compile: expected True or False, got {type(compiles).__name__}")
        self.target = Target(model, compiles)
        self.target.check_device()
        if draft is not None:
            check_draft(draft)
        if not isinstance(tree, TreeConfig) and tree != AUTO:
            wrong = ValueError if isinstance(tree, str) else TypeError
            raise wrong(f'tree: expected a vispec.TreeConfig or "{AUTO}", got {tree!r}')
        if draft is not None and isinstance(tree, TreeConfig) and tree.top_k > draft.num_tokens:
            raise ValueError(f"tree: expected top_k <= vocabulary ({draft.num_tokens}), got {tree.top_k}")
        if draft is not None and tree == AUTO and draft.num_tokens < LEAST_TOKENS:
            raise ValueError(
                f'tree: expected a draft of at least {LEAST_TOKENS} tokens for "{AUTO}", got one of {draft.num_tokens}'
            )
        self.draft, self.tree = draft, tree

    def generate(self, keywords: dict[str, Any]) -> Tensor | SpeculativeOutput:
        """Check everything, then let `model.generate` prepare inputs and call back."""
        target, model = self.target, self.target.model
        check_mode(target)
        target.check_compiles()
        if self.draft is not None:
            self.draft.check_target(target)
        check_options(model, keywords)
        generator, streamer = keywords.get("generator"), keywords.get("streamer")
        keywords = {name: value for name, value in keywords.items() if name not in ("custom_generate", "generator")}
        keywords = with_stop_strings(model, keywords)
        check_inputs(target, keywords)
        past = find_past(target, keywords)
        check_prompt(target, keywords, past.num_cached if past else 0, past.unseen if past else 0)

        def custom_generate(
            model: PreTrainedModel,
            input_ids: Tensor,
            logits_processor: LogitsProcessorList,
            stopping_criteria: StoppingCriteriaList,
            generation_config: GenerationConfig,
            **model_kwargs: Any,
        ) -> Tensor | SpeculativeOutput:
            mode = generation_config.get_generation_mode()
            if mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE):
                raise NotImplementedError(f"expected greedy search or sampling, got {mode}; {OWN}")
            check_processors(logits_processor)
            mask = model_kwargs.get("attention_mask")
            check_mask(input_ids, mask, past.unseen if past else 0)  # generate makes one where it sees pad tokens
            wants_more = generation_config.return_dict_in_generate
            text = Text(
                input_ids,
                Stops(stopping_criteria, _as_int(generation_config._pad_token_tensor), target.processes),
                streamer,
                keeps_scores=bool(wants_more and generation_config.output_scores),
                keeps_logits=bool(wants_more and generation_config.output_logits),
            )
            target.processes.check_same("input_ids", input_ids)
            seed = target.processes.agreed_int(draw_seed(generator)) if mode == GenerationMode.SAMPLE else None
            decoded = self._decode(input_ids, model_kwargs, logits_processor, seed, text, wants_more, past)
            if streamer is not None:
                streamer.end()
            if not wants_more:
                return decoded.sequences
            output = SpeculativeOutput(
                sequences=decoded.sequences,
                scores=text.scores,
                logits=text.logits,
                hidden_states=None if decoded.hidden_states is None else tuple(decoded.hidden_states),
                **{CACHE_NAME: decoded.cache},
            )
            output.speculation = decoded.speculation
            return output

        with target.exclusive(), _current(target.device):
            check_verification(target)
            if past is not None and past.num_rows:
                keywords = past.prepare(target, keywords)
            own_generate = type(model).generate  # not the instance's, which `accelerate` may have replaced
            return own_generate(model, custom_generate=custom_generate, **keywords)

    def _decode(
        self,
        input_ids: Tensor,
        model_kwargs: dict[str, Any],
        processors: LogitsProcessorList,
        seed: int | None,
        text: Text,
        wants_cache: bool,
        past: Past | None,
    ) -> Decoded:
        """Text, statistics and the cache to hand out; tokens are drawn where there is a `seed`."""
        handed_out = model_kwargs.pop(CACHE_NAME)  # the caller's, or generate's empty one, of the model's usual kind
        budget = int(min(text.stops.max_length - text.length, MAX_FIRST_ROWS))
        rules = rules_of(processors, samples=seed is not None)
        by_path = rules is None or text.keeps_any or bool(model_kwargs.get("output_hidden_states"))
        keeps_cache = wants_cache or past is not None
        before = past.before(self.draft, input_ids, model_kwargs.get("attention_mask")) if past else Before()
        length = before.num_rows - before.num_cached + input_ids.shape[1]
        with self._cycle(len(input_ids), length, budget, by_path) as (plan, cycle):
            if past is not None:
                past.load(cycle.cache)
            choice = cycle.choice
            choice.begin(Rules(samples=seed is not None) if rules is None else rules, seed or 0, input_ids)
            chooser = PathChoice(processors, rules, choice, text) if by_path else choice
            ahead = 2 if cycle.is_kept else 1
            decoded = decode(
                self.target, cycle, plan, input_ids, model_kwargs, chooser, text, ahead, keeps_cache, before
            )
            if keeps_cache:
                cycle.cache.copy_to(handed_out, before.num_rows)
                decoded = replace(decoded, cache=handed_out)
                leave_note(self.target, self.draft, past, decoded)
        return decoded

    @contextmanager
    def _cycle(self, batch_size: int, length: int, budget: int, by_path: bool) -> Iterator[tuple[Plan, Cycle]]:
        """A cycle with an empty cache, and what it is to draft; `by_path`: nothing is captured, the host chooses."""
        if self.draft is None:
            yield NoTree(), new_cycle(self.target, None, (), batch_size, length, budget)
            return
        if self.tree == AUTO:
            plan: Plan = FirstsPlan(auto_plan(self.draft, self.target, batch_size), self.target.processes)
        else:
            plan = SameTree(self.tree)
        if by_path:
            if self.target.device.type == "cuda":
                warnings.warn(PATH_WARNING, stacklevel=2)
            yield plan, new_cycle(self.target, self.draft, plan.trees, batch_size, length, budget)
            return
        with borrowed_cycle(self.target, self.draft, plan.trees, batch_size, length, budget) as cycle:
            yield plan, cycle


def _current(device: torch.device) -> AbstractContextManager[object]:
    """Inside, streams and events are the device's."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _as_int(token: Tensor | None) -> int | None:
    return None if token is None else int(token)
