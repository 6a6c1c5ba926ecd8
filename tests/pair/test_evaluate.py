"""How true answers are: all of the right ones, few of those about another picture."""

from __future__ import annotations

from dataclasses import replace

import pytest
from transformers import AutoProcessor, LlavaForConditionalGeneration

from tiny_pair import save_tiny_pair
from vispec.pair import SHARES, make_sample
from vispec.pair.evaluate import SCENES, answer, measure, total_score


@pytest.fixture(scope="module")
def scenes():
    """Held-out scenes."""
    return [make_sample(9, "test", index, SCENES) for index in range(120)]


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    """A random target that writes words, and its processor."""
    folder = save_tiny_pair(tmp_path_factory.mktemp("pair")) / "target"
    return LlavaForConditionalGeneration.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)


@pytest.mark.parametrize("shares", [SCENES, SHARES], ids=["scenes", "everything"])
def test_true_answers_are_all_right(shares):
    samples = [make_sample(9, "test", index, shares) for index in range(120)]
    total = total_score([sample.answer for sample in samples], samples)
    assert total.accuracy() == total.accuracy("asked") == 1.0
    assert total.named["position"] > 50


def test_answers_about_other_pictures_are_not(scenes):
    others = [sample.answer for sample in scenes[1:] + scenes[:1]]
    total = total_score(others, scenes)
    assert total.accuracy() < 0.5
    assert total.accuracy("colour") < 0.5


def test_every_answer_needs_a_sample(scenes):
    with pytest.raises(ValueError, match="zip"):
        total_score(["One answer."], scenes)


def test_answers_do_not_hang_on_their_batch(target, scenes):
    together = answer(*target, scenes[:2])
    assert together == [answer(*target, [sample])[0] for sample in scenes[:2]]


def test_the_shift_changes_the_picture(target, scenes):
    swapped = [replace(scenes[0], image=scenes[1].image), replace(scenes[1], image=scenes[0].image)]
    shifted = answer(*target, scenes[:2], shift=1)
    assert shifted == answer(*target, swapped)
    assert shifted != answer(*target, scenes[:2])


def test_measure_counts_the_claims_of_both(target, scenes):
    result = measure(*target, "test", 3, SCENES, seed=9)
    right, wrong = (total_score(answer(*target, scenes[:3], shift), scenes[:3]) for shift in (0, 1))
    assert result["samples"] == 3
    assert result["all"]["claims"] > 0
    assert result["all"]["claims"] == sum(count for kind, count in right.named.items() if kind != "asked")
    assert result["all"] == pytest.approx(
        {
            "right": round(right.accuracy(), 3),
            "wrong_picture": round(wrong.accuracy(), 3),
            "claims": result["all"]["claims"],
        },
        nan_ok=True,
    )
