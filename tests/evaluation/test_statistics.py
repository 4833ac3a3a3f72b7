"""Intervals against scipy, by simulation, and where nothing varies."""

import json

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_1samp

from evaluation_episodes import episodes_from
from redraft.errors import UserError
from redraft.evaluation.metrics import self_correction_metrics
from redraft.evaluation.statistics import (
    amount_interval,
    difference_interval,
    intervals,
    mcnemar,
    paired_difference,
    paired_differences,
    share_interval,
    summarise,
)

R, W = True, False


def world(seed, problems=40, samples=2, repair=0.3, spoil=0.05):
    """Verdicts of two turns: problems differ in difficulty, wrong answers are repaired at times."""
    random = np.random.default_rng(seed)
    ease = random.beta(1, 1, size=problems)[:, None]
    first = random.random((problems, samples)) < ease
    second = random.random((problems, samples)) < np.where(first, 1 - spoil, repair)
    return np.stack([first, second], axis=2)  # [P, G, 2]


def episodes(seed, **options):
    return episodes_from(world(seed, **options).tolist())


def test_a_share_of_independent_samples_has_wilsons_interval():
    # 12 of 40 once each, so that n is the 39 that an unbiased variance makes of 40.
    share = np.repeat([1.0, 0.0], [12, 28])
    wilson = binomtest(12, 40).proportion_ci(method="wilson")
    assert share_interval(share, np.ones(40)) == pytest.approx(list(wilson), abs=0.008)
    many = np.repeat(share, 1000)
    wilson = binomtest(12_000, 40_000).proportion_ci(method="wilson")
    assert share_interval(many, np.ones(40_000)) == pytest.approx(list(wilson), abs=1e-6)


def test_no_event_in_few_problems_leaves_a_rate_possible():
    # By hand: 1.96² / (30 + 1.96²) = 0.1135, about 3 / 30.
    assert share_interval(np.zeros(30), np.ones(30)) == pytest.approx([0, 0.1135], abs=1e-4)


def test_one_event_is_possible_where_few_are_expected():
    # By hand: with a rate of r there is an event or more in 1000 with a chance of 6 % where
    # (1 - r)^1000 = 0.94, r = 0.0000619; Wilson's interval begins at 0.000177.
    low, _ = share_interval(np.eye(1000)[0], np.ones(1000))
    assert low == pytest.approx(6.19e-5, rel=0.01)
    _, high = share_interval(1 - np.eye(1000)[0], np.ones(1000))
    assert high == pytest.approx(1 - low)


def test_problems_of_several_samples_have_a_variance_that_is_not_known():
    # Halves: v = 3 (1/4)^2 ... of 0, 1/2, 1: p = 1/2, v = (1/4 + 1/4) / 9 * 3/2 = 1/12, n = 3.
    # t(0.975, 2) = 4.3027: 1/2 ± 4.3027 sqrt(1/12 + 18.513/36) / (1 + 18.513/3) = 1/2 ± 0.4639.
    low, high = share_interval(np.array([0.0, 0.5, 1.0]), np.ones(3))
    assert (low, high) == pytest.approx((0.0361, 0.9639), abs=1e-4)


def test_an_amount_of_any_size_has_students_interval_on_the_logarithm():
    # 90 ... 110 are near enough to the mean that a logarithm does not matter.
    amounts = np.linspace(90, 110, 200)
    students = ttest_1samp(amounts, 0).confidence_interval()
    assert amount_interval(amounts, np.ones(200)) == pytest.approx(list(students), abs=0.1)
    # By hand: 1 and 3 have the mean 2, s = 1, one degree of freedom: 2 exp(±12.706 / 2).
    low, high = amount_interval(np.array([1.0, 3.0]), np.ones(2))
    assert (low, high) == pytest.approx((2 * np.exp(-6.3531), 2 * np.exp(6.3531)), rel=1e-4)
    # One large of twenty: Σ r⁴ / (Σ r²)² = 0.903, so that t has 2.22 degrees of freedom.
    low, high = amount_interval(np.array([20.0] + [1.0] * 19), np.ones(20))
    assert (low, high) == pytest.approx((1.95 / 6.77, 1.95 * 6.77), rel=0.01)


def test_amounts_without_a_spread():
    assert amount_interval(np.array([3.0, 3.0]), np.ones(2)) == [3.0, 3.0]
    assert amount_interval(np.zeros(4), np.ones(4)) == [0.0, 0.0]
    assert amount_interval(np.array([3.0]), np.ones(1)) is None


def test_a_difference_of_pairs_is_bonett_and_prices():
    # 12 one way, 2 the other, of 40. With one more each way of 42: 10/42 = 0.2381, and
    # 1.9600 sqrt((16/42 - 0.2381^2) / 42) = 0.1722.
    pairs = np.repeat([1.0, -1.0, 0.0], [12, 2, 26])
    assert difference_interval(pairs) == pytest.approx([0.0659, 0.4103], abs=1e-4)


KINDS = [(0.5, 0.3, 0.05), (0.1, 0.1, 0.02), (0.9, 0.3, 0.01)]


def test_an_interval_of_a_difference_ends_where_differences_do() -> None:
    assert difference_interval(np.array([1.0, 0.5, -1.0])) == [-1.0, 1.0]
    low, high = difference_interval(np.array([2.0, 1.0]))  # of two differences
    assert (low, high) == (-2.0, 2.0)


@pytest.mark.parametrize(("problems", "samples"), [(30, 1), (60, 4), (200, 1)])
def test_intervals_cover_the_truth_at_the_nominal_rate(problems, samples):
    """Accuracy, i→c and Δ together: 93 to 97 %, and above where an event is rare."""
    random = np.random.default_rng(problems)
    inside = {"share": [], "difference": []}
    for ease, repair, spoil in KINDS * 150:
        first = random.random((problems, samples)) < random.beta(
            2 * ease, 2 - 2 * ease, size=(problems, 1)
        )
        second = random.random(first.shape) < np.where(first, 1 - spoil, repair)
        repaired = (~first & second).mean(axis=1)
        for column, truth in ((first.mean(axis=1), ease), (repaired, (1 - ease) * repair)):
            low, high = share_interval(column, np.ones(problems))
            inside["share"].append(low <= truth <= high)
        low, high = difference_interval(second.mean(axis=1) - first.mean(axis=1))
        inside["difference"].append(low <= (1 - ease) * repair - ease * spoil <= high)
    # 900 and 450 intervals: standard errors of 0.7 and 1.0 %; three of them.
    assert 0.93 <= np.mean(inside["share"]) <= 0.98
    assert 0.92 <= np.mean(inside["difference"]) <= (1.0 if problems < 60 else 0.99)


def test_samples_of_one_problem_are_not_independent():
    """Copying every sample adds no information: the interval must not shrink."""
    verdicts = world(3, problems=50, samples=1)
    once = intervals(episodes_from(verdicts.tolist()))
    copied = intervals(episodes_from(np.repeat(verdicts, 8, axis=1).tolist()))
    for name, interval in once.items():
        assert copied[name] == (interval if interval is None else pytest.approx(interval)), name


def test_summary_has_an_interval_for_every_metric():
    data = episodes(4)
    summary = summarise(data).to_summary()
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    ci95 = summary.pop("ci95")
    assert summary.pop("flips_p") is None  # two samples a problem
    assert summary == self_correction_metrics(data)
    assert ci95.keys() == summary.keys() - {"n_problems", "n_samples"}
    assert summary.keys() >= {
        "n_problems",
        "n_samples",
        "accuracy",
        "delta_t1_t2",
        "i_to_c",
        "c_to_i",
        "truncated",
        "changed",
    }
    for turn in (0, 1):
        low, high = ci95["accuracy"][turn]
        assert low < summary["accuracy"][turn] < high
    low, high = ci95["delta_t1_t2"]
    assert low < summary["delta_t1_t2"] < high


@pytest.mark.parametrize("verdict", [R, W])
def test_where_nothing_varies_the_interval_is_no_point(verdict):
    summary = summarise(episodes_from([[[verdict, verdict]] * 2] * 5)).to_summary()
    assert summary["accuracy"] == [float(verdict)] * 2
    low, high = summary["ci95"]["accuracy"][0]
    assert (low, high) == pytest.approx((0.5655, 1) if verdict else (0, 0.4345), abs=1e-3)
    assert summary["delta_t1_t2"] == 0.0
    low, high = summary["ci95"]["delta_t1_t2"]
    assert low == -high < -0.3
    undefined = "critique_score" if verdict else "confidence_level"
    assert summary[undefined] is None
    assert summary["ci95"][undefined] is None


def test_one_problem_says_nothing_of_others():
    summary = summarise(episodes_from([[[W, R], [W, W]]])).to_summary()
    assert summary["n_problems"] == 1
    assert summary["delta_t1_t2"] == 0.5
    assert summary["ci95"]["delta_t1_t2"] == [-1.0, 1.0]
    assert summary["ci95"]["accuracy"] == [[0.0, 1.0]] * 2
    json.dumps(summary, allow_nan=False)


def test_paired_difference_by_hand():
    a = episodes_from([[[W, R]], [[W, R]], [[W, W]], [[R, R]]])  # Δ = 1/2
    b = episodes_from([[[W, W]], [[W, R]], [[R, W]], [[R, R]]])  # Δ = 0
    estimate = paired_difference(a, b)
    assert estimate.value == pytest.approx(0.5)
    assert estimate.n_problems == 4
    assert estimate.low <= 0.5 <= estimate.high
    reverse = paired_difference(b, a)
    assert (reverse.value, reverse.low, reverse.high) == pytest.approx(
        (-0.5, -estimate.high, -estimate.low)
    )


def test_pairing_removes_what_both_share():
    """Problem difficulty moves both accuracies together; their difference barely varies."""
    random = np.random.default_rng(6)
    first = random.random((100, 4)) < random.beta(0.5, 0.5, size=(100, 1))
    better = first | (random.random((100, 4)) < 0.1)
    a = episodes_from(np.stack([better, better], axis=2).tolist())
    b = episodes_from(np.stack([first, first], axis=2).tolist())
    estimate = paired_difference(a, b, "accuracy/turn2")
    low, high = intervals(a)["accuracy/turn2"]
    assert estimate.excludes_zero
    assert estimate.value == pytest.approx(better.mean() - first.mean())
    assert estimate.high - estimate.low < (high - low) / 2


def test_paired_difference_ignores_the_order_of_problems():
    a, b = episodes(7), episodes(8)
    assert paired_difference(a, b) == paired_difference(a, b[::-1])


def test_an_evaluation_differs_from_itself_by_nothing():
    data = episodes(9)
    estimate = paired_difference(data, data)
    assert estimate.value == 0.0
    assert estimate.low == -estimate.high
    assert not estimate.excludes_zero


def test_paired_difference_of_something_undefined_is_none():
    all_right = episodes_from([[[R, R]], [[R, W]]])
    mixed = episodes_from([[[W, R]], [[R, W]]])
    assert paired_difference(all_right, mixed, "critique_score") is None


def test_paired_difference_refuses_what_cannot_be_paired():
    a = episodes_from([[[W, R]], [[R, R]]])
    with pytest.raises(UserError, match=r"differ in 1 problems \(first: 'p1'\)"):
        paired_difference(a, a[:1])
    with pytest.raises(UserError, match=r"'accuracy/turn3' is not in both.*accuracy/turn1"):
        paired_difference(a, a, "accuracy/turn3")


def test_differences_of_several_metrics_are_those_of_each():
    a, b = episodes(1), episodes(2)
    names = ["accuracy/turn1", "delta_t1_t2", "critique_score"]
    together = paired_differences(a, b, names)
    assert together == {name: paired_difference(a, b, name) for name in names}


def test_mcnemar_is_the_chance_of_so_uneven_a_split():
    # By hand: 2 (C(12,0) + C(12,1) + C(12,2)) / 2^12 = 2 · 79 / 4096.
    assert mcnemar(10, 2) == mcnemar(2, 10) == pytest.approx(158 / 4096)
    assert mcnemar(0, 0) == mcnemar(3, 3) == 1
