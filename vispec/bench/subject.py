"""What is measured: a target, drafts for it, and questions as it reads them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vispec.bench.geometries import GEOMETRIES
from vispec.bench.prompts import Prompt, Source
from vispec.bench.simulated import SimulatedDraft, make_target, random_draft
from vispec.draft.checkpoint import Draft, load_draft
from vispec.draft.model import DraftModel
from vispec.loading import load_target
from vispec.training.prompts import adds_special_tokens, get_tokenizer, render

Answers = dict[tuple[str, int], list[int]]  # the target's own tokens by prompt and turn
MARKED_VALUES = 1024  # of each tensor, that tell weights apart


@dataclass(frozen=True)
class Question:
    """One turn of one prompt, as `generate` takes it.

    Args:
        prompt, turn: unique together, the same in every run.
        inputs: on the model's device, one sequence.
        is_last: no turn follows that quotes the answer.
    """

    prompt: str
    turn: int
    kind: str
    inputs: Mapping[str, Any]
    max_new_tokens: int
    is_last: bool = True

    @property
    def length(self) -> int:
        """Tokens of the prompt."""
        return int(self.inputs["input_ids"].shape[1])


@dataclass(frozen=True)
class Subject:
    """A target, drafts for it, and its questions.

    Args:
        drafts: by a label for each method's name; each call makes a new one of the same weights.
        facts: what a reader must know; measurements of other facts are not mixed in.
        questions: in order; later turns quote the target's own answers, which must be there by then.
        num_prompts: that the questions come from.
        published: see `Source`; of this target.
        is_simulated: acceptance is made up.
    """

    model: PreTrainedModel
    drafts: Mapping[str, Callable[[], Draft]]
    facts: Mapping[str, str]
    questions: Callable[[Answers], Iterator[Question]]
    num_prompts: int
    published: Callable[[str, float], str | None]
    is_simulated: bool = False


def load_subject(
    target: str | Path,
    draft: str | Path,
    source: Source,
    device: torch.device,
    dtype: torch.dtype,
    max_new_tokens: int | None = None,
    random_draft: bool = False,
) -> Subject:
    """Models and processor from folders, or from the Hub by their names.

    Args:
        random_draft: a draft of random weights, too.
        max_new_tokens: of an answer; None: as the source has it.
    """
    model, processor = load_target(str(target), str(dtype).removeprefix("torch."), device)
    weights = load_draft(draft, model)
    facts = {
        "target": f"{type(model).__name__}, {_millions(model)} weights, mark {_mark(model)}",
        "draft": f"{_millions(weights.model)} weights, mark {_mark(weights.model)}",
        "prompts": f"{source.name}, {len(source)}",
        "acceptance": "real",
    }

    def questions(answers: Answers) -> Iterator[Question]:
        for prompt in source:
            for question in _turns(prompt, processor, device, dtype, answers):
                yield replace(question, max_new_tokens=max_new_tokens or prompt.max_new_tokens)

    next(questions({}))  # what cannot be asked of this target is said now
    drafts = {"": lambda: Draft(weights.model, model)}
    if random_draft:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            random_weights = DraftModel(weights.config)
        drafts[", random draft"] = lambda: Draft(random_weights, model)
    published = partial(source.published, target=str(target))
    return Subject(model, drafts, facts, questions, len(source), published)


def simulated_subject(
    name: str,
    accepted: Sequence[float],
    contexts: Sequence[int],
    max_new_tokens: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Subject:
    """A decoder of real size with random weights, behind random prompts of so many tokens (`contexts`).

    Args:
        accepted: mean draft tokens a cycle, made up; one draft each, all of the same weights.
    """
    model = make_target(GEOMETRIES[name], device, dtype)
    weights = random_draft(model)
    facts = {
        "target": f"{name}'s text decoder, {_millions(model)} random weights",
        "draft": f"{_millions(weights)} random weights",
        "prompts": f"random tokens, {', '.join(map(str, contexts))}",
        "acceptance": "SIMULATED, " + ", ".join(f"{mean:g}" for mean in accepted) + " draft tokens a cycle",
    }

    def questions(answers: Answers) -> Iterator[Question]:
        for context in contexts:
            draw = torch.Generator().manual_seed(context)
            ids = torch.randint(1, model.config.vocab_size, (1, context), generator=draw).to(device)
            kind = f"{context} tokens"
            yield Question(kind, 0, kind, {"input_ids": ids}, max_new_tokens)

    def draft_of(mean: float) -> Callable[[], Draft]:
        return lambda: SimulatedDraft(weights, model, mean)

    drafts = {f", simulated tau {mean:g}": draft_of(mean) for mean in accepted}
    return Subject(model, drafts, facts, questions, len(contexts), lambda kind, temperature: None, is_simulated=True)


def _turns(
    prompt: Prompt, processor: Any, device: torch.device, dtype: torch.dtype, answers: Answers
) -> Iterator[Question]:
    content: list[dict[str, Any]] = [{"type": "image"} for _ in prompt.images]
    messages: list[dict[str, Any]] = []
    if prompt.system is not None and "system" in str(processor.chat_template):
        messages.append({"role": "system", "content": [{"type": "text", "text": prompt.system}]})
    for turn, question in enumerate(prompt.questions):
        messages.append({"role": "user", "content": [*content, {"type": "text", "text": question}]})
        inputs = {name: value.to(device) for name, value in _encode(processor, messages, prompt.images).items()}
        inputs = {name: x.to(dtype) if x.is_floating_point() else x for name, x in inputs.items()}
        is_last = turn == len(prompt.questions) - 1
        yield Question(prompt.id, turn, prompt.kind, inputs, prompt.max_new_tokens, is_last)
        if not is_last:
            text = get_tokenizer(processor).decode(answers[prompt.id, turn], skip_special_tokens=True)
            messages.append({"role": "assistant", "content": [{"type": "text", "text": text}]})
            content = []


def _encode(
    processor: Any, messages: Sequence[Mapping[str, Any]], images: Sequence[Image.Image]
) -> Mapping[str, Tensor]:
    text = render(processor, messages, ask=True)
    options = {"add_special_tokens": adds_special_tokens(processor, text), "return_tensors": "pt"}
    if isinstance(processor, PreTrainedTokenizerBase):
        if images:
            raise ValueError("expected a target that reads images, as the prompts have some, got a language model")
        return processor(text, **options)
    return processor(images=list(images) or None, text=[text], **options)


def _millions(model: torch.nn.Module) -> str:
    return f"{sum(weight.numel() for weight in model.parameters()) / 1e6:.1f}M"


def _mark(model: torch.nn.Module) -> str:
    """Eight digits that differ where weights do."""
    digest = hashlib.blake2b(digest_size=4)
    for weight in model.state_dict().values():
        digest.update(weight.flatten()[:MARKED_VALUES].float().cpu().numpy().tobytes())
    return digest.hexdigest()
