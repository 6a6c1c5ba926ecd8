"""The target's reading of samples: batches, the store, and that decoding feeds the draft the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import models
from training_samples import LAYOUTS, written_samples
from vispec.draft.drafter import ViSpecDrafter
from vispec.target import Target
from vispec.training import self_check
from vispec.training.readings import FeatureStore, Sample, read_samples_with
from vispec.training.self_check import check_feeding


def layouts_of(family: str) -> list[str]:
    return list(LAYOUTS) if family in models.VISION_FAMILIES else ["text"] * 3


def assert_same(ours: Sample, expected: Sample, atol: float = 0.0) -> None:
    torch.testing.assert_close(ours.embeds, expected.embeds, atol=atol, rtol=0)
    torch.testing.assert_close(ours.features, expected.features, atol=atol, rtol=0)
    assert ours.images == expected.images
    assert torch.equal(ours.is_answer, expected.is_answer)


@pytest.mark.parametrize("family", models.BUILDERS)
def test_batch_reads_what_each_sample_reads_alone(family: str) -> None:
    model = models.make_target(family)
    samples = written_samples(model, layouts_of(family))
    together = read_samples_with(Target(model), samples)
    for sample, ours in zip(samples, together, strict=True):
        assert ours.features.shape == (sample.inputs["input_ids"].shape[1], model.config.get_text_config().hidden_size)
        assert_same(ours, read_samples_with(Target(model), [sample])[0], atol=2e-4)


@pytest.mark.parametrize("family", models.BUILDERS)
def test_decoding_feeds_the_draft_what_training_does(family: str) -> None:
    model = models.make_target(family)
    draft = models.make_draft(model).model
    assert check_feeding(Target(model), draft, written_samples(model, layouts_of(family))) < 1e-3


@pytest.mark.parametrize("wrong", ["features", "positions", "images"])
def test_wrong_feeding_is_found(monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    """The check can fail: training that reads one position off, or does not compress images, is noticed."""
    model = models.make_target("llava")
    draft = models.make_draft(model).model

    def shifted(target: Target, samples: list) -> list[Sample]:
        (sample,) = read_samples_with(target, samples)
        if wrong == "features":
            return [Sample(sample.embeds, sample.features.roll(1, 0), sample.images, sample.is_answer)]
        if wrong == "positions":
            images = [(start + 1, end) for start, end in sample.images]
            return [Sample(sample.embeds, sample.features, images, sample.is_answer)]
        return [Sample(sample.embeds, sample.features, [], sample.is_answer)]

    monkeypatch.setattr(self_check, "read_samples_with", shifted)
    with pytest.raises(RuntimeError, match=r"self-check: at draft index \d+ .* LlavaForConditionalGeneration feeds"):
        check_feeding(Target(model), draft, written_samples(model, ["one image"]))


def test_check_watches_the_real_drafter() -> None:
    assert issubclass(self_check._Observed, ViSpecDrafter)


def test_store_gives_back_the_same_bits(tmp_path: Path) -> None:
    model = models.make_target("llava")
    samples = read_samples_with(Target(model), written_samples(model, list(LAYOUTS)))
    store = FeatureStore(tmp_path, 2**30)
    for index, sample in enumerate(samples):
        assert store.load(index, torch.device("cpu")) is None
        store.save(index, sample)
    again = FeatureStore(tmp_path, 2**30)
    assert again.used == store.used == sum(file.stat().st_size for file in tmp_path.iterdir())
    for index, sample in enumerate(samples):
        stored = again.load(index, torch.device("cpu"))
        assert stored is not None
        assert_same(stored, sample)


def test_store_is_bounded(tmp_path: Path) -> None:
    model = models.make_target("llava")
    samples = read_samples_with(Target(model), written_samples(model, ["one image"] * 6))
    limit = 3 * (samples[0].embeds.nbytes + samples[0].features.nbytes)
    store = FeatureStore(tmp_path, limit)
    (tmp_path / "00000009.1.partial").write_bytes(b"torn by a kill")
    store = FeatureStore(tmp_path, limit)
    for index, sample in enumerate(samples):
        store.save(index, sample)
    files = sorted(file.name for file in tmp_path.iterdir())
    assert 1 <= len(files) < 6
    assert all(name.endswith(".safetensors") for name in files)
