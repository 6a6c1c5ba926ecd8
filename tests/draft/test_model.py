"""The draft's parts against loops written out: adaptor, layer, rotary positions, and how a prompt is compressed."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

from vispec import DraftConfig
from vispec.draft.model import DraftModel, DraftSequence, rotary, rotary_frequencies, rotate

FREQUENCIES = rotary_frequencies(64, 10000.0, torch.device("cpu"))

VARIANTS = {
    "grouped": DraftConfig(64, 48, 4, 2, 50, num_queries=2),
    "one head pair, no slots": DraftConfig(32, 40, 2, 1, 50, num_queries=1, bias=False, qkv_bias=True),
    "odd heads, three slots": DraftConfig(96, 48, 3, 3, 50, num_queries=4, rope_theta=1e6, rms_norm_eps=1e-5),
}


def make_model(config: DraftConfig, seed: int = 0) -> DraftModel:
    """A draft whose every parameter matters."""
    torch.manual_seed(seed)
    model = DraftModel(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    return model.requires_grad_(False)


@pytest.fixture(params=VARIANTS)
def model(request: pytest.FixtureRequest) -> DraftModel:
    return make_model(VARIANTS[request.param])


def assert_close(ours: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def adaptor_loop(model: DraftModel, image: Tensor) -> Tensor:
    """The vision adaptor for one image `[L, H]`, one query and one head at a time."""
    adaptor, head_dim = model.imadpt, model.config.head_dim
    keys, values = adaptor.k_proj(image), adaptor.v_proj(image)
    rows = []
    for query in adaptor.q:
        heads = []
        for head, q in enumerate(query):
            columns = slice(head * head_dim, (head + 1) * head_dim)
            scores = torch.stack([q @ key / math.sqrt(head_dim) for key in keys[:, columns]])
            weights = scores.exp() / scores.exp().sum()
            heads.append(sum(w * v for w, v in zip(weights, values[:, columns], strict=True)))
        rows.append(adaptor.o_proj.weight @ torch.cat(heads))
    return torch.stack(rows)


@pytest.mark.parametrize("length", [1, 2, 3, 17])
def test_adaptor(model: DraftModel, length: int) -> None:
    images = torch.randn(3, length, model.config.hidden_size)
    ours = model.imadpt(images)
    assert ours.shape == (3, model.config.num_queries, model.config.hidden_size)
    for image, output in zip(images, ours, strict=True):
        assert_close(output, adaptor_loop(model, image))


@pytest.mark.parametrize("positions", [[0, 1, 2, 3], [0, 5, 6, 40], [8190, 8192, 9000, 131072]], ids=str)
def test_layer_is_llamas_without_its_first_norm(model: DraftModel, positions: list[int]) -> None:
    config = model.config
    llama = LlamaConfig(
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        rms_norm_eps=config.rms_norm_eps,
        rope_theta=config.rope_theta,
        attention_bias=config.qkv_bias,
        attn_implementation="eager",
    )
    layer = LlamaDecoderLayer(llama, 0).requires_grad_(False)
    if config.qkv_bias:  # transformers gives o_proj a bias too
        layer.self_attn.o_proj.bias.zero_()
    result = layer.load_state_dict(model.layers[0].state_dict(), strict=False)
    assert set(result.missing_keys) <= {"input_layernorm.weight", "self_attn.o_proj.bias"}
    assert not result.unexpected_keys
    layer.input_layernorm = torch.nn.Identity()

    hidden, where = torch.randn(1, len(positions), config.hidden_size), torch.tensor([positions])
    causal = torch.full((1, 1, len(positions), len(positions)), -torch.inf).triu(1)
    expected = layer(hidden, causal, where, position_embeddings=LlamaRotaryEmbedding(llama)(hidden, where))
    ours = model(hidden, model.rotary(where, torch.float32), lambda q, k, v: causal_attention(q, k, v))
    assert_close(ours, expected[0] if isinstance(expected, tuple) else expected)


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    return out.transpose(1, 2)


@pytest.mark.parametrize("far", [8192, 40_000])
def test_rotary_positions_have_no_limit(far: int) -> None:
    """Scores depend on distance alone, however far out both positions lie."""
    q, k = torch.randn(1, 1, 1, 64), torch.randn(1, 1, 1, 64)

    def score(position: int, distance: int) -> float:
        q_rotary, k_rotary = (
            rotary(torch.tensor([[where]]), FREQUENCIES, torch.float32) for where in (position, position - distance)
        )
        return float((rotate(q, q_rotary) * rotate(k, k_rotary)).sum())

    for distance in (0, 1, 100):
        near_score = score(distance, distance)
        assert score(far, distance) == pytest.approx(near_score, abs=far * 6e-7)  # float32 angles
        assert distance == 0 or abs(near_score - score(0, 0)) > 1e-3


def test_rotary_in_half_precision_rounds_once() -> None:
    positions = torch.tensor([[0, 255, 257, 4097, 9001]])  # bfloat16 cannot hold the last ones
    exact = rotary(positions, FREQUENCIES, torch.float32)
    for ours, expected in zip(rotary(positions, FREQUENCIES, torch.bfloat16), exact, strict=True):
        assert torch.equal(ours, expected.bfloat16())


NO_IMAGES = DraftConfig(64, 48, 4, 2, 50, num_queries=0, global_feature=False)


@pytest.mark.parametrize("config", [*VARIANTS.values(), NO_IMAGES], ids=[*VARIANTS, "no images"])
def test_inputs_by_one_matrix(config: DraftConfig) -> None:
    """What is left of the global feature is one row for all inputs."""
    model = make_model(config)
    embeds, features, global_feature = torch.randn(3, 2, 5, config.hidden_size)
    global_feature = global_feature[:, :1]
    nothing = torch.zeros_like(global_feature)
    ours = torch.nn.functional.linear(torch.cat((embeds, features), dim=-1), model.input_weight())
    assert_close(ours + model.fuse(nothing, nothing, global_feature), model.fuse(embeds, features, global_feature))


def compress_loop(
    model: DraftModel, embeds: Tensor, features: Tensor, runs: list[tuple[int, int]]
) -> tuple[list[Tensor], list[int], Tensor]:
    """`compress`, one index at a time."""
    slots = model.config.num_slots
    rows: list[Tensor] = []
    positions: list[int] = []
    global_feature = torch.zeros(model.config.hidden_size)
    starts = {start: end for start, end in runs if end > start}
    index = 0
    while index < len(embeds):
        if index in starts:
            end = starts[index]
            output = adaptor_loop(model, embeds[index:end])
            rows += list(output[:-1])
            positions += [max(0, end - slots + slot) for slot in range(slots)]
            global_feature, index = output[-1], end
        else:
            mixed = model.img_fc(torch.cat((features[index], global_feature)))
            rows.append(model.fc(torch.cat((embeds[index], mixed))))
            positions.append(index)
            index += 1
    return rows, positions, global_feature


RUNS: dict[str, list[tuple[int, int]]] = {
    "text only": [],
    "one image": [(5, 11)],
    "image first": [(0, 4)],
    "image of one token at position 0": [(0, 0)],
    "image last": [(6, 13)],
    "two images": [(2, 5), (8, 12)],
    "adjacent images": [(2, 6), (6, 10)],
    "one index": [(7, 8)],
    "one index at the start": [(0, 1)],
    "nothing but images": [(0, 7), (7, 13)],
}


@pytest.mark.parametrize("runs", RUNS.values(), ids=list(RUNS))
def test_compress(model: DraftModel, runs: list[tuple[int, int]]) -> None:
    length = 14
    embeds, features = torch.randn(2, length, model.config.hidden_size)
    for start, end in runs:  # the target's states inside an image are used nowhere
        features[start:end] = torch.nan
    ours = model.compress(embeds, features, runs)
    rows, positions, global_feature = compress_loop(model, embeds, features, runs)
    assert ours.positions.tolist() == positions
    assert ours.positions[-1] == length - 1
    assert_close(ours.hidden, torch.stack(rows))
    assert_close(ours.global_feature, global_feature)
    images = [(start, end) for start, end in runs if end > start]
    saved = sum(end - start for start, end in images) - model.config.num_slots * len(images)
    assert ours.hidden.shape == (length - saved, model.config.hidden_size)


def test_positions_keep_the_gap() -> None:
    model = make_model(VARIANTS["odd heads, three slots"])
    sequence = model.compress(*torch.randn(2, 20, 96), [(4, 12)])
    assert sequence.positions.tolist() == [0, 1, 2, 3, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19]


def test_global_feature_changes_with_each_image(model: DraftModel) -> None:
    hidden_size = model.config.hidden_size
    embeds, features = torch.randn(2, 14, hidden_size)
    both = model.compress(embeds, features, [(2, 5), (8, 12)])
    first = model.compress(embeds[:8], features[:8], [(2, 5)])
    second = model.compress(embeds[8:], features[8:], [(0, 4)])
    without = model.compress(embeds[:2], features[:2], [])
    assert_close(both.global_feature, second.global_feature)
    assert not torch.allclose(first.global_feature, second.global_feature, atol=1e-2)
    slots = model.config.num_slots
    assert_close(both.hidden[:2], without.hidden)  # before the first image it is zero
    assert_close(both.hidden[: 5 + slots], first.hidden)
    assert_close(both.hidden[5 + slots :], second.hidden)


def test_text_before_an_image_does_not_see_it(model: DraftModel) -> None:
    embeds, features = torch.randn(2, 10, model.config.hidden_size)
    changed = embeds.clone()
    changed[4:8] += 1

    def compress(values: Tensor) -> DraftSequence:
        return model.compress(values, features, [(4, 8)])

    assert torch.equal(compress(embeds).hidden[:4], compress(changed).hidden[:4])
    assert not torch.allclose(compress(embeds).hidden[-1], compress(changed).hidden[-1])


def test_new_draft_passes_features_through() -> None:
    model = DraftModel(VARIANTS["grouped"]).requires_grad_(False)
    features, global_feature = torch.randn(2, 5, 64)
    assert_close(model.img_fc(torch.cat((features, global_feature), dim=-1)), features)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
