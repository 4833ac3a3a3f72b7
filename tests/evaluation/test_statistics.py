"""Intervals against scipy, by simulation, and where nothing varies."""

import json

import numpy as np
import pytest
from scipy.stats import bootstrap as scipy_bootstrap

from evaluation_episodes import episodes_from
from redraft.errors import UserError
from redraft.evaluation.metrics import self_correction_metrics
from redraft.evaluation.statistics import (
    bootstrap,
    bootstrap_intervals,
    mcnemar,
    paired_difference,
    paired_differences,
    percentile_levels,
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


def test_percentile_levels_widen_for_few_problems():
    assert percentile_levels(100_000) == pytest.approx((0.025, 0.975), abs=1e-4)
    # By hand for P = 10: t(0.975, 9) = 2.2622, times sqrt(10/9) = 2.3845, Φ(-2.3845) = 0.00855.
    assert percentile_levels(10) == pytest.approx((0.00855, 0.99145), abs=1e-4)
    assert percentile_levels(1) == (0.0, 1.0)


def test_agrees_with_scipy_on_one_sample_per_problem():
    verdicts = world(0, problems=60, samples=1)
    interval = bootstrap_intervals(episodes_from(verdicts.tolist()))["delta_t1_t2"]
    gains = verdicts[:, 0, 1].astype(float) - verdicts[:, 0, 0]
    low, high = percentile_levels(60)
    expected = scipy_bootstrap(
        (gains,),
        np.mean,
        confidence_level=high - low,
        n_resamples=10_000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert interval == pytest.approx([expected.low, expected.high], abs=0.018)  # one flip in 60


def test_agrees_with_scipy_on_a_ratio_over_clusters():
    verdicts = world(1, problems=80, samples=4).astype(float)
    numerator = ((1 - verdicts[..., 0]) * verdicts[..., 1]).sum(axis=1)  # [P]
    denominator = (1 - verdicts[..., 0]).sum(axis=1)
    interval = bootstrap_intervals(episodes_from((verdicts > 0).tolist()))["critique_score"]
    low, high = percentile_levels(80)
    expected = scipy_bootstrap(
        (numerator, denominator),
        lambda n, d, axis: n.sum(axis) / d.sum(axis),
        confidence_level=high - low,
        n_resamples=10_000,
        method="percentile",
        paired=True,
        vectorized=True,
        rng=np.random.default_rng(2),
    ).confidence_interval
    assert interval == pytest.approx([expected.low, expected.high], abs=0.006)


def coverage(problems, samples, levels, runs=400):
    """Share of simulated evaluations whose interval for Δ, at `levels`, holds the true Δ."""
    truth = 0.5 * 0.3 - 0.5 * 0.05  # E[Δ] of `world`
    inside = 0
    for seed in range(runs):
        verdicts = world(seed, problems, samples).astype(float)
        gains = (verdicts[..., 1] - verdicts[..., 0]).sum(axis=1, keepdims=True)  # [P, 1]
        draws = bootstrap(gains, np.full_like(gains, samples), seed, resamples=1000)
        low, high = np.quantile(draws[:, 0], levels)
        inside += low - 1e-9 <= truth <= high + 1e-9
    return inside / runs


@pytest.mark.parametrize(("problems", "samples"), [(60, 1), (60, 4), (15, 4)])
def test_intervals_cover_the_truth_at_the_nominal_rate(problems, samples):
    # 95 % of 400 runs have a standard error of 1.1 %; three of those either way.
    covered = coverage(problems, samples, percentile_levels(problems))
    assert 0.917 <= covered <= 0.983


def test_widened_levels_cover_better_where_problems_are_few():
    plain = coverage(15, 1, (0.025, 0.975))
    assert plain + 0.02 < coverage(15, 1, percentile_levels(15)) < 0.95


def test_samples_of_one_problem_are_not_independent():
    """Copying every sample adds no information: the interval must not shrink."""
    verdicts = world(3, problems=50, samples=1)
    once = bootstrap_intervals(episodes_from(verdicts.tolist()))
    copied = bootstrap_intervals(episodes_from(np.repeat(verdicts, 8, axis=1).tolist()))
    for name, interval in once.items():
        assert copied[name] == (interval if interval is None else pytest.approx(interval)), name


def test_resamples_draw_whole_problems_and_skip_the_undefined():
    numerators = np.array([[1.0, 1.0], [0.0, 0.0]])
    denominators = np.array([[1.0, 1.0], [1.0, 0.0]])
    draws = bootstrap(numerators, denominators, resamples=2000)
    # The first ratio is the share of draws of problem 0: 0, 1/2 or 1 with odds 1:2:1.
    values, times = np.unique(draws[:, 0], return_counts=True)
    assert values.tolist() == [0.0, 0.5, 1.0]
    assert times / 2000 == pytest.approx([0.25, 0.5, 0.25], abs=0.04)
    # The second is 1, or undefined where problem 0 was not drawn.
    assert (np.isnan(draws[:, 1]) == (draws[:, 0] == 0)).all()
    assert (draws[draws[:, 0] > 0, 1] == 1).all()


def test_many_problems_are_resampled_in_pieces(monkeypatch):
    numerators = np.random.default_rng(0).random((30, 2))
    whole = bootstrap(numerators, np.ones((30, 2)), resamples=500)
    monkeypatch.setattr("redraft.evaluation.statistics.WEIGHTS_AT_ONCE", 30 * 7)
    np.testing.assert_allclose(bootstrap(numerators, np.ones((30, 2)), resamples=500), whole)


def test_summary_has_an_interval_for_every_metric():
    data = episodes(4)
    summary = summarise(data, seed=7).to_summary()
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


def test_the_seed_decides_the_resamples():
    data = episodes(5)
    assert summarise(data, seed=1).to_summary() == summarise(data, seed=1).to_summary()
    assert (
        summarise(data, seed=1).to_summary()["ci95"] != summarise(data, seed=2).to_summary()["ci95"]
    )


@pytest.mark.parametrize("verdict", [R, W])
def test_where_nothing_varies_the_interval_is_the_point(verdict):
    summary = summarise(episodes_from([[[verdict, verdict]] * 2] * 5)).to_summary()
    assert summary["accuracy"] == [float(verdict)] * 2
    assert summary["ci95"]["accuracy"] == [[float(verdict)] * 2] * 2
    assert summary["ci95"]["delta_t1_t2"] == [0.0, 0.0]
    undefined = "critique_score" if verdict else "confidence_level"
    assert summary[undefined] is None
    assert summary["ci95"][undefined] is None


def test_one_problem_has_no_spread_to_show():
    summary = summarise(episodes_from([[[W, R], [W, W]]])).to_summary()
    assert summary["n_problems"] == 1
    assert summary["delta_t1_t2"] == 0.5
    assert summary["ci95"]["delta_t1_t2"] == [0.5, 0.5]
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
    low, high = bootstrap_intervals(a)["accuracy/turn2"]
    assert estimate.excludes_zero
    assert estimate.value == pytest.approx(better.mean() - first.mean())
    assert estimate.high - estimate.low < (high - low) / 2


def test_paired_difference_ignores_the_order_of_problems():
    a, b = episodes(7), episodes(8)
    assert paired_difference(a, b) == paired_difference(a, b[::-1])


def test_an_evaluation_differs_from_itself_by_nothing():
    data = episodes(9)
    estimate = paired_difference(data, data)
    assert (estimate.value, estimate.low, estimate.high) == (0.0, 0.0, 0.0)
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
