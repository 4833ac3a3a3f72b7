"""Intervals over problems, paired differences between two evaluations, and McNemar's test.

The samples of one problem are not independent, so problems are what varies, each with all its
samples. An interval therefore covers which problems were drawn and how the model sampled on them;
it does not cover the luck of a training seed. There are three kinds of numbers, told by name:

    shares        Wilson's interval with the effective sample size (`share_interval`)
    differences   the adjusted Wald interval of paired shares (`difference_interval`)
    amounts       tokens and the like: Student's t on the logarithm (`amount_interval`)

`docs/results/coverage.md` says how often each holds the truth.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from redraft.errors import UserError
from redraft.evaluation.metrics import Array, Ratio, answers, counts, grade_of, ratios
from redraft.evaluation.result import Group, Result, Row
from redraft.types import Episode, same_problem_groups

LEVEL = 0.95

RARE = 0.06
"""Level of the exact one-sided limit that a share's interval does not stay above."""

Interval = list[float]
"""[low, high]"""

_DIFFERENCE = re.compile(r"delta|gain_over_|.*_minus_")
_AMOUNT = re.compile(r"attempt_tokens|tokens|samples|executions|updates")
"""Names of differences and of amounts, from their beginning; all others are shares."""


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval, and the number of problems behind it."""

    value: float
    low: float
    high: float
    n_problems: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval is on one side of 0."""
        return self.low > 0 or self.high < 0


def summarise(episodes: Sequence[Episode], turns: int = 1) -> Result:
    """Every metric of self-correction with its 95 % interval, and `flip_test` as `flips_p`.

    There are at least `turns` turns, whether or not any episode went on for so long.

    Raises:
        UserError: there are no episodes.
    """
    result = estimate(episodes, ratios(episodes, turns))
    return result.note(flips_p=flip_test(episodes))


def estimate(
    episodes: Sequence[Episode], metrics: Mapping[str, Ratio], group: Group = ()
) -> Result:
    """A row for each metric of the episodes, and their counts."""
    found = intervals(episodes, metrics)
    counted = counts(episodes)
    rows = []
    for name, ratio in metrics.items():
        low, high = found[name] or (None, None)
        rows.append(Row(name, ratio.value, low, high, counted["n_problems"], group))
    return Result(rows).note(group, **counted)


def estimate_means(columns: Mapping[str, Array], group: Group = ()) -> Result:
    """A row for the mean over problems of each column [P]; undefined where one has a NaN."""
    rows = []
    for name, column in columns.items():
        value = None if np.isnan(column).any() else float(column.mean())
        found = None if value is None else _interval(name, column, np.ones_like(column))
        low, high = found or (None, None)
        rows.append(Row(name, value, low, high, len(column), group))
    return Result(rows)


def intervals(
    episodes: Sequence[Episode], metrics: Mapping[str, Ratio] | None = None
) -> dict[str, Interval | None]:
    """95 % interval [low, high] of every metric, by flat name; None where it is undefined.

    Raises:
        UserError: there are no episodes.
    """
    metrics = ratios(episodes) if metrics is None else metrics
    above, below = _by_problem(list(metrics.values()), same_problem_groups(episodes))
    columns = zip(metrics, above.T, below.T, strict=True)
    return {name: _interval(name, *sums) for name, *sums in columns}


def _interval(name: str, numerator: Array, denominator: Array) -> Interval | None:
    """The interval of a ratio of sums from each problem's [P]; None where it is undefined."""
    seen = denominator > 0
    if not seen.any():
        return None
    above, below = numerator[seen], denominator[seen]
    if _AMOUNT.match(name):
        return amount_interval(above, below)
    if _DIFFERENCE.match(name):
        return difference_interval(_linear(above, below))
    return share_interval(above, below)


def share_interval(numerator: Array, denominator: Array) -> Interval:
    """Wilson's 95 % interval of a share Σ numerator / Σ denominator, from each problem's sums [P].

    The sample size n is the effective one, p (1 - p) / v, with v the variance of p over problems
    (linearised where denominators differ), or the number of problems where all agree (Korn and
    Graubard, Survey Methodology 24, 1998, 193-201; Wilson, JASA 22, 1927, 209-212). Where few
    events were seen Wilson's interval begins too far above 0; it is widened to the exact limit that
    so many or more events exceed with the chance `RARE` (after Brown, Cai and DasGupta, Statistical
    Science 16, 2001, 101-133), and likewise at 1.
    """
    from scipy.special import betaincinv  # not at once: `--help` need not wait for it

    problems, total = len(numerator), float(denominator.sum())
    if problems < 2:
        return [0.0, 1.0]
    p = float(numerator.sum()) / total
    residuals = numerator - p * denominator
    v = float((residuals**2).sum()) / total**2 * problems / (problems - 1)
    n = p * (1 - p) / v if v > 0 else problems
    t2 = _quantile(problems, numerator / denominator) ** 2
    middle = (p + t2 / (2 * n)) / (1 + t2 / n)
    half = (t2 * (p * (1 - p) / n + t2 / (4 * n**2))) ** 0.5 / (1 + t2 / n)

    def exact(share: float) -> float:
        return float(betaincinv(share * n, n - share * n + 1, RARE)) if share > 0 else 0.0

    low, high = min(middle - half, exact(p)), max(middle + half, 1 - exact(1 - p))
    return [max(0.0, low), min(1.0, high)]


def difference_interval(differences: Array) -> Interval:
    """The adjusted Wald 95 % interval of a mean difference, from each problem's [P].

    Two problems are added that differ one way and the other (Bonett and Price, Journal of
    Educational and Behavioral Statistics 37, 2012, 479-488): by 1 where a problem has one sample
    and differs by 1 or not, else by as much as differing problems do, Σ d² / Σ |d|. It ends where
    a difference of shares does.
    """
    problems, size = len(differences), float(np.abs(differences).sum())
    if problems < 2:
        return [-1.0, 1.0]
    squares = float((differences**2).sum())
    step = squares / size if size > 0 else 1.0
    mean = float(differences.sum()) / (problems + 2)
    variance = (squares + 2 * step**2) / (problems + 2) - mean**2
    half = _quantile(problems, differences) * (variance / (problems + 2)) ** 0.5
    bound = 1.0 if np.abs(differences).max() <= 1 else 2.0  # a difference of two differences
    return [max(mean - half, -bound), min(mean + half, bound)]


def amount_interval(numerator: Array, denominator: Array) -> Interval | None:
    """The 95 % interval of a mean amount m = Σ numerator / Σ denominator, from each problem's [P].

    Amounts are 0 or more and skewed, so it is m exp(± t s / m) with s the standard error. s² is
    proportional to Σ r², r being the residuals, which is taken for a χ² of that mean and of the
    variance Σ r⁴: t has 2 (Σ r²)² / Σ r⁴ degrees of freedom, at most P - 1. None for one problem.
    """
    problems, mean = len(numerator), float(numerator.sum() / denominator.sum())
    if problems < 2:
        return None
    squares = (_linear(numerator, denominator) - mean) ** 2
    total = float(squares.sum())
    if total <= 0:
        return [mean, mean]
    freedom = min(problems - 1, 2 * total**2 / float((squares**2).sum()))
    error = (total / problems / (problems - 1)) ** 0.5
    factor = float(np.exp(_t(freedom) * error / mean))
    return [mean / factor, mean * factor]


def _linear(numerator: Array, denominator: Array) -> Array:
    """Each problem's part [P] in a ratio of sums: their mean is the ratio, and they vary as it."""
    ratio = numerator.sum() / denominator.sum()
    return np.asarray(ratio + (numerator - ratio * denominator) / denominator.mean())


def _quantile(problems: int, values: Array) -> float:
    """Of Student's t with P - 1 degrees of freedom; of the normal distribution where the problems'
    values are 0, 1 or -1, as with one sample each: the variance follows from the mean then."""
    return _t(np.inf if np.isin(values, (-1, 0, 1)).all() else problems - 1)


def _t(freedom: float) -> float:
    from scipy.special import stdtrit  # not at once: `--help` need not wait for it

    return float(stdtrit(freedom, (1 + LEVEL) / 2))


def paired_difference(
    a: Sequence[Episode], b: Sequence[Episode], metric: str = "delta_t1_t2"
) -> Estimate | None:
    """`metric` of evaluation `a` minus that of `b` on the same problems, with a 95 % interval.

    `metric` is a flat name, such as `delta_t1_t2` or `accuracy/turn2`. None where the metric is
    undefined in either evaluation.

    Raises:
        UserError: as `paired_differences`.
    """
    return paired_differences(a, b, [metric])[metric]


def paired_differences(
    a: Sequence[Episode], b: Sequence[Episode], metrics: Sequence[str]
) -> dict[str, Estimate | None]:
    """`paired_difference` of several metrics, by name.

    Problems are compared with themselves, so what makes one hard for both cancels.

    Raises:
        UserError: no episodes, an unknown metric, or different problems in the two evaluations.
    """
    metrics_a, metrics_b = ratios(a), ratios(b)
    for metric in metrics:
        if metric not in metrics_a or metric not in metrics_b:
            known = ", ".join(name for name in metrics_a if name in metrics_b)
            raise UserError(f"metric {metric!r} is not in both evaluations; there are: {known}")
    groups_a = {a[group[0]].problem.id: group for group in same_problem_groups(a)}
    groups_b = {b[group[0]].problem.id: group for group in same_problem_groups(b)}
    if unpaired := sorted(groups_a.keys() ^ groups_b.keys()):
        raise UserError(
            f"the two evaluations differ in {len(unpaired)} problems (first: {unpaired[0]!r}); "
            "a paired difference needs the same problems in both"
        )
    sums_a = _by_problem([metrics_a[name] for name in metrics], list(groups_a.values()))
    sums_b = _by_problem([metrics_b[name] for name in metrics], [groups_b[p] for p in groups_a])
    found: dict[str, Estimate | None] = dict.fromkeys(metrics)
    for column, name in enumerate(metrics):
        parts = [(above[:, column], below[:, column]) for above, below in (sums_a, sums_b)]
        if all(below.sum() > 0 for _, below in parts):
            gains = _linear(*parts[0]) - _linear(*parts[1])  # [P]
            low, high = difference_interval(gains)
            found[name] = Estimate(float(gains.mean()), low, high, len(gains))
    return found


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided p of McNemar's exact test: the chance of a split at least as uneven as `gained`
    against `lost` where both are equally likely. One pair a problem; samples are not independent.
    """
    from scipy.stats import binomtest  # a second to import, which `--help` need not wait for

    changed = gained + lost
    return float(binomtest(gained, changed).pvalue) if changed else 1.0


def flips(episodes: Sequence[Episode], before: int, after: int) -> dict[tuple[bool, bool], int]:
    """Episodes by (right at answer `before`, right at answer `after`), both from 1; an episode that
    ended earlier keeps its last verdict."""
    counted = dict.fromkeys([(True, True), (True, False), (False, True), (False, False)], 0)
    for episode in episodes:
        verdicts = [grade_of(turn).correct for turn in answers(episode)]
        first, second = (verdicts[min(turn, len(verdicts)) - 1] for turn in (before, after))
        counted[first, second] += 1
    return counted


def flip_test(episodes: Sequence[Episode], before: int = 1, after: int = 2) -> float | None:
    """McNemar's p for as many answers repaired as spoiled, from answer `before` to `after`; None
    with several samples of a problem, which are not independent, and where none has a second."""
    if len(same_problem_groups(episodes)) < len(episodes):
        return None
    if all(len(answers(episode)) < 2 for episode in episodes):
        return None
    counted = flips(episodes, before, after)
    return mcnemar(counted[False, True], counted[True, False])


def _by_problem(metrics: Sequence[Ratio], groups: Sequence[Sequence[int]]) -> tuple[Array, Array]:
    """Each problem's sums of numerators and of denominators over its samples, both [P, M]."""
    samples = np.concatenate([np.asarray(group) for group in groups])
    starts = np.cumsum([0, *(len(group) for group in groups[:-1])])
    numerators = np.stack([ratio.numerator for ratio in metrics], axis=1)[samples]  # [N, M]
    denominators = np.stack([ratio.denominator for ratio in metrics], axis=1)[samples]
    return np.add.reduceat(numerators, starts), np.add.reduceat(denominators, starts)
