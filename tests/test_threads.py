"""Several calls at once: in threads of their own, or one inside the other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedModel, TextIteratorStreamer
from transformers.generation.streamers import BaseStreamer

import models
import vispec

IDS = torch.tensor([[5, 9, 14, 20]])
OTHER_IDS = torch.tensor([[77, 3, 50]])
TIMEOUT = 60.0  # seconds; reached only where something hangs


class Calling(BaseStreamer):
    """Calls a function when the n-th token arrives, in the middle of decoding."""

    def __init__(self, function: Callable[[], Any], at_token: int = 4) -> None:
        self.function, self.remaining = function, at_token + 1  # the prompt comes first
        self.result: Any = None

    def put(self, value: Tensor) -> None:
        self.remaining -= 1
        if self.remaining == 0:
            self.result = self.function()

    def end(self) -> None:
        pass


class Running:
    """A function in a thread; its result, or its exception when asked for the result."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.outcome: Any = None
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, args=(function,), daemon=True)
        self.thread.start()

    def _run(self, function: Callable[[], Any]) -> None:
        try:
            self.outcome = function()
        except BaseException as error:
            self.error = error

    def result(self) -> Any:
        self.thread.join(TIMEOUT)
        assert not self.thread.is_alive(), "the thread hangs"
        if self.error is not None:
            raise self.error
        return self.outcome


@pytest.fixture(params=["eager", "sdpa"])
def pair(request: pytest.FixtureRequest) -> tuple[PreTrainedModel, vispec.Draft]:
    model = models.make_target("llama")
    model.set_attn_implementation(request.param)
    return model, models.make_draft(model)


def test_second_call_waits(pair: Any) -> None:
    model, draft = pair
    plain, other_plain = model.generate(IDS, max_new_tokens=20), model.generate(OTHER_IDS, max_new_tokens=20)
    order: list[str] = []
    started, second = threading.Event(), threading.Event()

    def first_call() -> Tensor:
        def in_the_middle() -> None:
            order.append("first is under way")
            started.set()
            assert second.wait(TIMEOUT)
            waiting.thread.join(0.3)  # it would be through by then
            order.append("first goes on")

        return vispec.generate(model, draft, IDS, max_new_tokens=20, streamer=Calling(in_the_middle))

    def second_call() -> Tensor:
        assert started.wait(TIMEOUT)
        second.set()
        output = vispec.generate(model, draft, OTHER_IDS, max_new_tokens=20)
        order.append("second is through")
        return output

    waiting = Running(second_call)
    first = Running(first_call)
    assert torch.equal(first.result(), plain)
    assert torch.equal(waiting.result(), other_plain)
    assert order == ["first is under way", "first goes on", "second is through"]


def test_many_threads(pair: Any) -> None:
    model, draft = pair
    prompts = [torch.randint(3, 150, (1, 2 + seed)) for seed in range(6)]
    plain = [model.generate(ids, max_new_tokens=15) for ids in prompts]

    def call(ids: Tensor, speculates: bool) -> Tensor:
        if speculates:
            return vispec.generate(model, draft, ids, max_new_tokens=15)
        return model.generate(ids, max_new_tokens=15)

    calls = [
        Running(lambda ids=ids, speculates=speculates: call(ids, speculates))
        for ids in prompts
        for speculates in (True, False, True)
    ]
    for index, running in enumerate(calls):
        assert torch.equal(running.result(), plain[index // 3])


@pytest.mark.parametrize("family", ["llama", "llava", "qwen2_5_vl"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_plain_call_in_a_thread_keeps_its_result(family: str, attention: str) -> None:
    """It starts while the attention is switched, and ends before decoding goes on; and the other way round."""
    model = models.make_target(family)
    model.set_attn_implementation(attention)
    draft = models.make_draft(model)
    plain, other_plain = model.generate(IDS, max_new_tokens=20), model.generate(OTHER_IDS, max_new_tokens=20)
    switched: list[str] = []

    def plain_in_a_thread() -> Tensor:
        switched.append(model.config.get_text_config()._attn_implementation)
        return Running(lambda: model.generate(OTHER_IDS, max_new_tokens=20)).result()

    streamer = Calling(plain_in_a_thread)
    assert torch.equal(vispec.generate(model, draft, IDS, max_new_tokens=20, streamer=streamer), plain)
    assert torch.equal(streamer.result, other_plain)
    assert switched == ["vispec"]

    streamer = Calling(lambda: Running(lambda: vispec.generate(model, draft, OTHER_IDS, max_new_tokens=20)).result())
    assert torch.equal(model.generate(IDS, max_new_tokens=20, streamer=streamer), plain)
    assert torch.equal(streamer.result, other_plain)


def test_plain_call_that_spans_the_switch_back(pair: Any) -> None:
    """A plain call whose first tokens are made under the switched attention and whose last ones are not."""
    model, draft = pair
    plain, other_plain = model.generate(IDS, max_new_tokens=20), model.generate(OTHER_IDS, max_new_tokens=20)
    halfway, through = threading.Event(), threading.Event()
    outer = Calling(lambda: running.append(Running(plain_call)) or halfway.wait(TIMEOUT))
    running: list[Running] = []

    def plain_call() -> Tensor:
        inner = Calling(lambda: halfway.set() or through.wait(TIMEOUT), at_token=10)
        return model.generate(OTHER_IDS, max_new_tokens=20, streamer=inner)

    assert torch.equal(vispec.generate(model, draft, IDS, max_new_tokens=20, streamer=outer), plain)
    through.set()
    assert torch.equal(running[0].result(), other_plain)


def test_plain_passes_while_the_attention_is_switched_back_and_forth(pair: Any) -> None:
    model, draft = pair
    expected = model(IDS).logits
    is_over = threading.Event()

    def plain_passes() -> int:
        count = 0
        with torch.no_grad():
            while not is_over.is_set():
                assert torch.equal(model(IDS).logits, expected)
                count += 1
        return count

    running = Running(plain_passes)
    try:
        for _ in range(15):
            vispec.generate(model, draft, OTHER_IDS, max_new_tokens=4)
    finally:
        is_over.set()
    assert running.result() > 0


def test_call_inside_a_call(pair: Any) -> None:
    """On the same model it is an error, not a deadlock; a plain one works; so does one on another model."""
    model, draft = pair
    plain = model.generate(IDS, max_new_tokens=20)

    def speculative_inside() -> None:
        with pytest.raises(RuntimeError, match=r"^model: already in a vispec\.generate call that this call comes from"):
            vispec.generate(model, draft, OTHER_IDS, max_new_tokens=5)

    output = vispec.generate(model, draft, IDS, max_new_tokens=20, streamer=Calling(speculative_inside))
    assert torch.equal(output, plain)

    streamer = Calling(lambda: model.generate(OTHER_IDS, max_new_tokens=20))
    assert torch.equal(vispec.generate(model, draft, IDS, max_new_tokens=20, streamer=streamer), plain)
    assert torch.equal(streamer.result, model.generate(OTHER_IDS, max_new_tokens=20))

    other = models.make_target("qwen2", (3, 1))
    other_draft = models.make_draft(other)
    streamer = Calling(lambda: vispec.generate(other, other_draft, OTHER_IDS, max_new_tokens=20))
    assert torch.equal(vispec.generate(model, draft, IDS, max_new_tokens=20, streamer=streamer), plain)
    assert torch.equal(streamer.result, other.generate(OTHER_IDS, max_new_tokens=20))


def test_error_inside_a_call_frees_the_model(pair: Any) -> None:
    model, draft = pair
    plain = model.generate(IDS, max_new_tokens=20)

    def fail() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        vispec.generate(model, draft, IDS, max_new_tokens=20, streamer=Calling(fail))
    running = Running(lambda: vispec.generate(model, draft, IDS, max_new_tokens=20))
    assert torch.equal(running.result(), plain)
    assert torch.equal(vispec.generate(model, draft, IDS, max_new_tokens=20), plain)


def test_models_that_share_a_config() -> None:
    """One config object, so one switch: calls of both overlap in either order."""
    model = models.make_target("llama")
    twin = LlamaForCausalLM(model.config).eval()
    twin.load_state_dict(model.state_dict())
    assert twin.config is model.config
    draft, twin_draft = models.make_draft(model), models.make_draft(twin)
    plain = model.generate(IDS, max_new_tokens=20)
    own = model.config._attn_implementation

    streamer = Calling(lambda: vispec.generate(twin, twin_draft, IDS, max_new_tokens=20))
    assert torch.equal(vispec.generate(model, draft, IDS, max_new_tokens=20, streamer=streamer), plain)
    assert torch.equal(streamer.result, plain)
    assert model.config._attn_implementation == own

    # the one that switched first is through first
    middle, through = threading.Event(), threading.Event()
    inner = Calling(lambda: middle.set() or through.wait(TIMEOUT))
    running: list[Running] = []

    def start_the_twin() -> None:
        call = Running(lambda: vispec.generate(twin, twin_draft, IDS, max_new_tokens=20, streamer=inner))
        running.append(call)
        assert middle.wait(TIMEOUT)

    output = vispec.generate(model, draft, IDS, max_new_tokens=20, streamer=Calling(start_the_twin))
    assert torch.equal(output, plain)
    assert model.config._attn_implementation == "vispec"
    assert torch.equal(model.generate(IDS, max_new_tokens=20), plain)
    through.set()
    assert torch.equal(running[0].result(), plain)
    assert model.config._attn_implementation == own


class Numbers:
    """A tokenizer in name: words are ids."""

    def decode(self, ids: Any, **kwargs: Any) -> str:
        return "".join(f"{int(token)} " for token in ids)


def test_text_iterator_streamer_in_a_thread(pair: Any) -> None:
    model, draft = pair
    plain = model.generate(IDS, max_new_tokens=20)
    streamer = TextIteratorStreamer(Numbers(), skip_prompt=True, timeout=TIMEOUT)
    running = Running(lambda: vispec.generate(model, draft, IDS, max_new_tokens=20, streamer=streamer))
    text = "".join(streamer)
    assert torch.equal(running.result(), plain)
    assert text.split() == [str(token) for token in plain[0, IDS.shape[1] :].tolist()]


def test_accelerated_model_in_threads(pair: Any) -> None:
    model, draft = pair
    plain = [model.generate(ids, max_new_tokens=15) for ids in (IDS, OTHER_IDS)]
    with vispec.accelerate(model, draft):
        calls = [
            Running(lambda ids=ids: model.generate(ids, max_new_tokens=15))
            for ids in (IDS, OTHER_IDS)
            for _ in range(3)
        ]
        for index, running in enumerate(calls):
            assert torch.equal(running.result(), plain[index // 3])
