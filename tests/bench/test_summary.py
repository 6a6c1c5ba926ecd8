"""Numbers of the summary, by hand."""

from __future__ import annotations

import pytest

from vispec.bench.measuring import Measured, Round
from vispec.bench.plots import rates_by_length
from vispec.bench.runs import Run
from vispec.bench.summary import accepted_at_least, percentile, spread, summarise
from vispec.bench.tables import remarks


def make_run(seconds: float, arrivals: list[float], accepted: list[int] | None = None, tree: str = "2,2,6") -> Run:
    accepted = accepted or []
    stages = {"verify": 0.5 * seconds} if accepted else {}
    return Run(list(range(len(arrivals))), seconds, arrivals, 1 << 20, accepted, [tree] * len(accepted), stages)


def make_round(kind: str, prompt: str, **runs: Run) -> Round:
    return Round(prompt, 0, kind, 0.0, 0, 10, dict(runs))


ROUNDS = [
    make_round("a", "1", plain=make_run(2.0, [1000.0, 1500.0, 2000.0]), ours=make_run(1.0, [500.0, 900.0, 900.0], [1])),
    make_round("a", "2", plain=make_run(3.0, [1000.0, 3000.0]), ours=make_run(1.0, [500.0, 1000.0], [0])),
    make_round("b", "3", plain=make_run(1.0, [1000.0]), ours=make_run(4.0, [4000.0], [0])),
]


def test_ratios_are_of_pairs() -> None:
    rows = summarise(Measured(ROUNDS, {}, {}, {}), {"plain": "plain", "ours": "plain"})
    assert [(row["kind"], row["method"]) for row in rows] == [
        (k, m) for k in ("all", "a", "b") for m in ("plain", "ours")
    ]
    ours = rows[1]
    assert ours["speed_up"] == {"low": 1.125, "median": 2.0, "high": 2.5, "pairs": 3}
    assert ours["decode_speed_up"]["pairs"] == 2, "one token has no rate of decoding alone"
    assert ours["decode_speed_up"]["median"] == pytest.approx((2.0 + 4.0) / 2)
    assert ours["tokens_per_second"] == pytest.approx(6 / 6)
    assert ours["decode_tokens_per_second"] == pytest.approx(3 / 1.0)
    assert ours["gap_ms"]["p50"] == pytest.approx(400.0)
    assert ours["first_token_ms"]["median"] == 500.0
    assert ours["peak_mib"] == 1.0
    speculation = ours["speculation"]
    assert speculation["cycles_by_accepted"] == [2, 1]
    assert speculation["mean_accepted"] == pytest.approx(1 / 3)
    assert speculation["stage_seconds"] == {"verify": 3.0, "prepare": 3.0}
    assert "speculation" not in rows[0]


def test_where_a_peer_wins_is_said() -> None:
    measured = Measured(ROUNDS, {}, {"compiled": "RuntimeError: no compiler"}, {})
    lines = remarks(summarise(measured, {"plain": "plain", "ours": "plain"}), measured)
    assert "compiled does not run here: RuntimeError: no compiler" in lines
    ahead = [line for line in lines if "is ahead" in line]
    assert ahead == ["plain is ahead on b (temperature 0): 1.00 times plain, ours 0.25"]


def test_acceptance_counts_cycles_that_could() -> None:
    runs = [make_run(1.0, [1.0], [2, 0, 1]), make_run(1.0, [1.0], [1], tree="0,2,3"), make_run(1.0, [1.0], [0], "none")]
    assert accepted_at_least(runs) == [3 / 4, 1 / 3, 0.0]


def test_percentiles() -> None:
    assert percentile([4.0, 1.0, 2.0, 3.0], 50) == 2.5
    assert percentile([7.0], 99) == 7.0
    assert spread([]) is None


def test_speed_by_length() -> None:
    rounds = [make_round("a", str(n), plain=make_run(1.0, [10.0 * i for i in range(61)])) for n in range(2)]
    (point,) = rates_by_length(rounds, "plain", by_prompt=True)
    assert point == (pytest.approx(10 + 30.5), pytest.approx(100.0))
    assert all(rate == pytest.approx(100.0) for _, rate in rates_by_length(rounds * 8, "plain", by_prompt=False))
