"""Answers: true of their picture, complete, of the lengths promised; and the checker that says so."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest

from vispec.pair import SHARES, Facts, Score, make_turns, named_attributes, score
from vispec.pair.asking import Asked
from vispec.pair.documents import Chart, Receipt, Sign, Table
from vispec.pair.scenes import Scene, Thing, direction

SCENE = Scene(
    "navy",
    (
        Thing("small", "red", "square", 0, 0, 16.0, 16.0),
        Thing("large", "white", "circle", 1, 1, 48.0, 48.0),
        Thing("small", "red", "square", 2, 2, 80.0, 80.0),
    ),
)
RECEIPT = Receipt("MILO CAFE", (("tea", 250), ("milk", 120)), "navy", (0, 0))
CHART = Chart("SALES", ("Mon", "Tue"), (12, 3), ("red", "blue"), False, "beige", (0, 0))
TABLE = Table(("Ann", "Ben"), ("won", "lost"), ((12, 7), (3, 0)), "red", "navy", (0, 0))
SIGN = Sign(("NO", "EXIT"), "red", "white", "oval", "black", (0, 0))


@pytest.fixture(scope="module")
def samples():
    """Pictures with a question of each kind at least 20 times."""
    found = [make_turns(3, "train", index)[:2] for index in range(1500)]
    for kind in SHARES:
        found += [make_turns(4, "validation", index, shares={kind: 1.0})[:2] for index in range(20)]
    return [(picture, turn) for picture, turns in found for turn in turns]


def test_answers_are_true(samples):
    total, answered = Score(), Counter()
    for picture, turn in samples:
        result = score(turn.answer, Facts(picture, turn.asked))
        assert result.right == result.named, (turn, picture)
        assert result.named, turn
        total.update(result)
        answered[turn.kind] += result.named["asked"]
    assert min(total.named[kind] for kind in ("size", "colour", "shape", "position", "count", "text", "value")) > 200
    free = {"scene/describe", "emoji/describe", "chart/describe", "table/describe"}  # no one point is asked for
    assert all((answered[kind] == 0) == (kind in free) for kind in SHARES)


def truth_of(question, picture, claims):
    """Yes or no worked out from the question's own words and the picture; None for questions of another form."""
    asked = named_attributes(question)
    if isinstance(picture, Sign):
        return asked.texts[0] in (*picture.lines, " ".join(picture.lines))
    if not isinstance(picture, Scene):
        (_, first), (_, second) = claims.values[:2]
        return float(first) > float(second)
    if asked.relations:
        of, axes, to = asked.relations[0]
        return any(
            all(said in (0, true) for said, true in zip(axes, direction(a, b), strict=True))
            for a in picture.find(of.size, of.colour, of.noun)
            for b in picture.find(to.size, to.colour, to.noun)
        )
    if [mention.introduced for mention in asked.mentions] == [True]:
        thing = asked.mentions[0]
        return bool(picture.find(thing.size, thing.colour, thing.noun))
    return None


def test_verdicts_follow_from_the_question(samples):
    checked = Counter()
    for picture, turn in samples:
        claims = named_attributes(turn.answer)
        if turn.asked.verdict is not None:
            truth = truth_of(turn.question, picture, claims)
            if truth is not None:
                assert turn.asked.verdict == truth, (turn, picture)
                checked[turn.kind, truth] += 1
        elif turn.asked.label is not None and turn.asked.value is None:
            numbers = [float(value[-1]) for value in claims.values]
            best = next(float(value[-1]) for value in claims.values if value[0] == turn.asked.label)
            assert numbers.count(best) == 1
            assert best == (min if {"lowest", "least", "cheapest"} & set(re.findall(r"\w+", turn.question)) else max)(
                numbers
            )
            checked["best"] += 1
    assert min(checked.values()) > 3
    assert len(checked) == 1 + 2 * 7


def test_descriptions_are_complete(samples):
    """Every thing is introduced once, with all its attributes, and its place or its way from another."""
    described = 0
    for picture, turn in samples:
        if isinstance(picture, Scene) and turn.kind.endswith("/describe"):
            claims = named_attributes(turn.answer)
            new = [mention for mention in claims.mentions if mention.introduced]
            looks = Counter((m.size, m.colour, m.noun) for m in new)
            assert looks == Counter(thing.look for thing in picture.things), turn.answer
            related = {subject for subject, _, _ in claims.relations}
            assert all(m.place or m in related for m in new), turn.answer
            assert claims.background == picture.background
            described += 1
    assert described > 400


def test_documents_are_read_completely(samples):
    for picture, turn in samples:
        if turn.kind.endswith("/describe") and not isinstance(picture, Scene | Sign):
            values = {
                value for value in named_attributes(turn.answer).values if len(value) == 2 + isinstance(picture, Table)
            }
            if isinstance(picture, Receipt):
                assert len(values) == len(picture.items) + 1
            else:
                assert len(values) == (
                    len(picture.values) if isinstance(picture, Chart) else sum(map(len, picture.cells))
                )


def test_a_wrong_picture_scores_low(samples):
    """Chance agrees with some claims; nothing that was read from another picture is right."""
    total, last = Score(), {}
    for picture, turn in samples[::2]:
        if turn.kind in last:
            total.update(score(last[turn.kind], Facts(picture, turn.asked)))
        last[turn.kind] = turn.answer
    assert total.accuracy() < 0.35
    assert total.accuracy("text") < 0.05
    assert total.accuracy("value") < 0.02
    assert total.accuracy("asked") < 0.25


@pytest.mark.parametrize(
    ("picture", "answer", "right", "named"),
    [
        (SCENE, "A small red square sits in the top left.", {"size": 1, "colour": 1, "shape": 1, "position": 1}, 4),
        (SCENE, "A small blue square sits in the top left.", {"size": 1, "shape": 1, "position": 1}, 4),
        (SCENE, "A tiny red square is in the very middle.", {"size": 1, "colour": 1, "shape": 1}, 4),
        (SCENE, "There are two squares, a red one in cell A1 and a blue one in cell C3.",
         {"count": 1, "colour": 1, "shape": 2, "position": 2}, 7),
        (SCENE, "There are three squares.", {"shape": 2}, 4),
        (SCENE, "The disc is to the right of the red square.", {"colour": 1, "shape": 2, "position": 1}, 4),
        (SCENE, "A square is in the northwest. It is red and large.", {"colour": 1, "shape": 1, "position": 1}, 4),
        (SCENE, "The middle row is empty. There is no star and nothing white.", {"count": 1}, 3),
        (SCENE, "Two of them are red. The picture has a beige background.", {"count": 1}, 2),
        (SCENE, "The disc is smaller than the square. The largest is the disc.", {"size": 1, "shape": 3}, 5),
        (SCENE, "The white disc and the red square are of the same size.", {"shape": 2, "colour": 2}, 5),
        (RECEIPT, 'From "MILO CAFE": the tea costs 2.50 and the milk 1.30. The total is 3.70.',
         {"text": 1, "value": 2}, 4),
        (CHART, "Mon reaches twelve, and Tue has 4. The bars of Mon and Tue both reach 12.", {"value": 2}, 4),
        (TABLE, "In the row of Ann, won is 12 and lost is 7. Under won, Ann has 12 and Ben 4.", {"value": 3}, 4),
        (SIGN, 'The red sign reads "NO EXIT", in yellow letters. The first line is "NO".', {"colour": 1, "text": 2}, 4),
    ],
)  # fmt: skip
def test_checker_counts_right_and_named(picture, answer, right, named):
    result = score(answer, Facts(picture))
    assert {kind: count for kind, count in result.right.items() if count} == right
    assert result.named.total() == named


@pytest.mark.parametrize(
    ("asked", "good", "bad"),
    [
        (Asked(verdict=True), "Yes, there is one.", "No. The squares are red."),
        (Asked(verdict=False), "The only disc is white, so no, there is no red disc.", "Yes: it is there."),
        (Asked(count=2, look=(None, None, "square")), "There are two squares here.", "There is one square here."),
        (Asked(count=0, look=(None, None, "star")), "There are no stars here.", "There are two stars here."),
        (
            Asked(look=("large", "white", "circle"), place=(1, 1)),
            "The disc is in the heart.",
            "The disc is in the east.",
        ),
        (Asked(place=(0, 1)), "There is nothing in the north.", "The large white disc is in the north."),
        (
            Asked(look=("large", "white", "circle")),
            "The square is small, so the disc is larger.",
            "The square is larger.",
        ),
    ],
)
def test_checker_judges_the_point_of_a_question(asked, good, bad):
    assert score(good, Facts(SCENE, asked)).right["asked"] == 1
    assert score(bad, Facts(SCENE, asked)).right["asked"] == 0


@pytest.mark.parametrize("text", ["", '"', "one one of of", "@p99 @x", "the a another", "It is above it.", "two\n- "])
def test_checker_survives_any_text(text):
    assert score(text, Facts(SCENE, Asked(verdict=True))).right.total() == 0


def test_checker_survives_scrambled_and_unfinished_texts(samples):
    """What a half-trained model writes; claims may be wrong, the checker must count them."""
    rng = random.Random(0)
    scrambled, cut = Score(), Score()
    for picture, turn in samples[::5]:
        words = turn.answer.split(" ")
        cut.update(score(" ".join(words[: len(words) // 2]), Facts(picture)))
        rng.shuffle(words)
        scrambled.update(score(" ".join(words), Facts(picture, turn.asked)))
    assert cut.accuracy() > 0.95
    assert 0 < scrambled.accuracy() < 0.8
