"""K responses one after another against K responses side by side, at equal compute.

RISE's numbers (arXiv 2407.18219), for K turns:

    m1@t1   a single first response
    mK@t1   majority over K parallel first responses
    m1@tK   majority over the K answers of one episode, in which nothing knew the gold
    p1@tK   solved at any of K turns: an oracle stops the episode at its first right answer
    pass@K  any of K parallel first responses is right: the same oracle beside p1@tK

The last two need the gold answer to choose, so they are upper bounds and compare with each other
only. The first three do not. What keeps the two kinds apart is the type `OracleFree`: the numbers
without an oracle are computed from it alone, and it cannot be made of episodes that were stopped
at a right answer. Such episodes are all wrong until their last turn, so that a vote over them
would be a vote among the survivors of the gold answer.

Here every problem counts once, whatever its number of samples: a value is the mean over problems of
the mean over the problem's samples. Votes follow `voting`.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from math import comb, nan

import numpy as np

from redraft.errors import UserError
from redraft.evaluation.metrics import CUT, Array, answers, counted, grade_of
from redraft.evaluation.result import Result
from redraft.evaluation.statistics import Estimate, difference_interval, estimate_means
from redraft.evaluation.voting import vote
from redraft.types import Episode, Turn

Turns = Sequence[Turn]
ByProblem = dict[str, list[Turns]]
"""The answers of each episode, by problem id, in order of `Episode.sample`."""

SEQUENTIAL = ("sequential",)
"""The group of these numbers."""

_ORACLE_FREE_BY_NAME = re.compile(r"non?[-_ ]?oracle")


class OracleLeakError(UserError, ValueError):
    """Episodes that an oracle has shaped were offered for a number without one."""


@dataclass(frozen=True)
class OracleFree:
    """Episodes that no oracle has stopped, as their first K = `turns` answers.

    Where the model itself, or its full context, ended an episode before, its last answer stands in
    the turns that are left (`carried`).

    Raises:
        OracleLeakError: an episode's protocol is an oracle's by name, or it has fewer than K
            answers and neither the model nor its context ended it.
        UserError: no episodes, or K below 2.
    """

    episodes: tuple[Episode, ...]
    turns: int

    def __post_init__(self) -> None:
        if self.turns < 2:
            raise UserError(
                f"turns={self.turns}: sequential responses are compared from 2 turns up"
            )
        if not self.episodes:
            raise UserError("no sequential episodes: the list is empty; play or read some first")
        for episode in self.episodes:
            if reason := self._aided(episode):
                raise OracleLeakError(
                    f"episode of problem {episode.problem.id!r} (sample {episode.sample}): {reason}"
                    f"; m1@t{self.turns} needs all {self.turns} turns, played without an oracle"
                )

    @property
    def by_problem(self) -> ByProblem:
        """The first K answers of every episode, by problem."""
        return _by_problem(self.episodes, lambda episode: carried(episode, self.turns))

    def _aided(self, episode: Episode) -> str | None:
        if is_oracle(episode.protocol) or episode.outcome == "solved":
            return f"its protocol {episode.protocol!r} stops at right answers"
        made = len(episode.answers)
        if made < self.turns and episode.outcome == "finished":
            return f"it has {made} of {self.turns} turns, so something stopped it early"
        return None


def is_oracle(protocol: str) -> bool:
    """Whether a protocol's name says that it knows the gold: "oracle", but not "no-oracle"."""
    return "oracle" in _ORACLE_FREE_BY_NAME.sub("", protocol.casefold())


def carried(episode: Episode, turns: int) -> list[Turn]:
    """The answers of turns 1 to `turns`, with what they cost.

    Where the episode has ended, its last answer stands and no token is generated. The tokens of a
    critique count with what comes after it.
    """
    found: list[Turn] = []
    critiques = 0
    for turn in episode.responses:
        if turn.grade is None:
            critiques += turn.generated
            continue
        if critiques and counted(turn):
            update = {"completion_tokens": turn.generated + critiques}
            turn = turn.model_copy(update=update)
        found.append(turn)
        critiques = 0
    found = found or [CUT]
    while len(found) < turns:
        rest = {"tokens": [], "logprobs": [], "completion_tokens": critiques}
        found.append(found[-1].model_copy(update=rest))
        critiques = 0
    return found[:turns]


@dataclass(frozen=True)
class ProblemValues:
    """The numbers of one system before they are averaged.

    `columns` has every number by flat name (`m1_t5`, `accuracy/turn1`, ...), each [P] in the order
    of `problems`. NaN stands where a number is undefined: a vote where the grader calls responses
    right but names no answers, tokens that nobody counted.
    """

    problems: list[str]
    columns: dict[str, Array]


def summarise_sequential(
    episodes: Sequence[Episode],
    parallel: Sequence[Episode],
    turns: int,
    *,
    oracle: Sequence[Episode] | None = None,
) -> Result:
    """Every number of `docs/metrics.md`, section "Sequential against parallel", with intervals.

    For K = 5 the keys are `m1_t1`, `m5_t1`, `m1_t5`, `last_t5`, `p1_t5`, `pass_5`,
    `m_t1_equal_tokens`, the paired differences `m1_t5_minus_m1_t1`, ..., `accuracy` and the flips
    by turn, and `tokens_...` by strategy. `ci95` has the same keys but for the counts, each with
    [low, high] (`statistics`); what nothing defines is None in both places.

    Args:
        episodes: at least one for each problem, of K turns, no oracle.
        parallel: at least K for each problem, of which the first turns count (single-turn episodes,
            or other samples of longer ones).
        turns: K.
        oracle: episodes for p1@tK that an oracle protocol has stopped; by default the sequential
            ones, stopped in hindsight. The two agree where the protocols say the same after a wrong
            response.

    Raises:
        OracleLeakError: as `OracleFree`.
        UserError: no episodes, different problems, fewer than K parallel responses to a problem, or
            an oracle episode that stopped at a wrong answer.
    """
    values = values_by_problem(OracleFree(tuple(episodes), turns), parallel, oracle)
    return estimate_means(values.columns, SEQUENTIAL).note(
        SEQUENTIAL,
        turns=turns,
        n_problems=len(values.problems),
        n_samples=len(episodes),
        n_parallel=len(parallel),
    )


def system_difference(a: ProblemValues, b: ProblemValues, metric: str) -> Estimate | None:
    """`metric` of system `a` minus that of `b` on the same problems, with a 95 % interval.

    Problems are compared with themselves. `metric` is a flat name; with one such as
    `m1_t5_minus_m1_t1` it is asked whether `a` gains more from its turns than `b` does. None where
    the metric is undefined for either.

    Raises:
        UserError: an unknown metric, or different problems.
    """
    if metric not in a.columns or metric not in b.columns:
        known = ", ".join(name for name in a.columns if name in b.columns)
        raise UserError(f"metric {metric!r} is not in both systems' values; there are: {known}")
    _check_problems(a.problems, {"second system's": b.problems}, "first system's")
    place = {problem: row for row, problem in enumerate(b.problems)}
    rows = [place[problem] for problem in a.problems]
    gain = a.columns[metric] - b.columns[metric][rows]  # [P]
    if np.isnan(gain).any():
        return None
    low, high = difference_interval(gain)
    return Estimate(float(gain.mean()), low, high, len(gain))


def values_by_problem(
    sequential: OracleFree,
    parallel: Sequence[Episode],
    oracle: Sequence[Episode] | None = None,
) -> ProblemValues:
    """Every number of every problem, from which means, intervals and differences are made.

    Raises:
        UserError: as `summarise_sequential`.
    """
    k = sequential.turns
    played = sequential.by_problem
    first = first_responses(parallel)
    stopped = played if oracle is None else _by_problem(oracle, answers)
    _check_problems(played, {"parallel": first, "oracle": stopped}, "sequential")
    rows = []
    for problem in played:
        if len(first[problem]) < k:
            raise UserError(
                f"problem {problem!r} has {len(first[problem])} parallel first responses; "
                f"m{k}@t1 and pass@{k} need at least {k}: sample more of them"
            )
        runs = [until_right(turns, k, problem) for turns in stopped[problem]]
        rows.append(
            {
                **_parallel_values(first[problem], k),
                **_sequential_values(played[problem], k),
                **_oracle_values(runs, k),
                **_equal_token_values(played[problem], first[problem]),
            }
        )
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    differences = {f"{a}_minus_{b}": columns[a] - columns[b] for a, b in compared(k)}
    return ProblemValues(list(played), columns | differences)


def compared(k: int) -> list[tuple[str, str]]:
    """The pairs of numbers whose difference is reported, by name."""
    return [
        (f"m1_t{k}", "m1_t1"),
        (f"m1_t{k}", f"m{k}_t1"),
        (f"m1_t{k}", "m_t1_equal_tokens"),
        (f"p1_t{k}", f"pass_{k}"),
    ]


def first_responses(episodes: Sequence[Episode]) -> dict[str, list[Turn]]:
    """The first answer of every episode, by problem, in order of `Episode.sample`."""
    of = _by_problem(episodes, lambda episode: carried(episode, 1))
    return {problem: [turns[0] for turns in samples] for problem, samples in of.items()}


def pass_at_k(n: int, c: int, k: int) -> float:
    """Chance that k of n samples, drawn without replacement, hold one of the c right ones.

    1 - C(n - c, k) / C(n, k), the unbiased estimator of pass@k (arXiv 2107.03374, Eq. 1).

    Raises:
        ValueError: unless 0 <= c <= n and 1 <= k <= n.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass@k of n={n}, c={c}, k={k}: needs 0 <= c <= n and 1 <= k <= n")
    return 1 - comb(n - c, k) / comb(n, k)


def until_right(turns: Turns, k: int, problem: str = "") -> Turns:
    """The turns an oracle lets happen: up to the first right one, or all K.

    Raises:
        UserError: fewer than K turns and none is right, so no oracle stopped them.
    """
    for number, turn in enumerate(turns[:k], start=1):
        if grade_of(turn).correct:
            return turns[:number]
    if len(turns) < k:
        raise UserError(
            f"an episode of problem {problem!r} ends at a wrong answer after {len(turns)} of {k} "
            f"turns; p1@t{k} needs episodes that go on until one is right"
        )
    return turns[:k]


def fitting(responses: Turns, budget: int) -> Turns:
    """As many responses, from the first on, as were generated with `budget` tokens in all.

    None is passed over for a shorter one behind it: that would favour short answers.
    """
    spent = np.cumsum([turn.generated for turn in responses])
    return responses[: int(np.searchsorted(spent, budget, side="right"))]


def tokens(turns: Turns) -> float:
    """Tokens generated in all `turns`; NaN where nobody counted those of a response."""
    return float(sum(turn.generated for turn in turns)) if all(map(counted, turns)) else nan


def _parallel_values(first: Turns, k: int) -> dict[str, float]:
    """From n >= K first responses to a problem; mK@t1 is the mean over n // K separate votes."""
    right = sum(grade_of(turn).correct for turn in first)
    score = sum(grade_of(turn).score for turn in first)
    votes = [first[start : start + k] for start in range(0, len(first) - k + 1, k)]
    one = tokens(first) / len(first)
    return {
        "m1_t1": score / len(first),
        f"m{k}_t1": _mean([_voted(turns) for turns in votes]),
        f"pass_{k}": pass_at_k(len(first), right, k),
        "tokens_m1_t1": one,
        f"tokens_m{k}_t1": k * one,
        f"tokens_pass_{k}": k * one,
    }


def _sequential_values(played: Sequence[Turns], k: int) -> dict[str, float]:
    """From all K turns of each of a problem's episodes, without an oracle."""
    right = np.array(
        [[grade_of(turn).correct for turn in turns] for turns in played], float
    )  # [S, K]
    before, after = right[:, :-1], right[:, 1:]  # [S, K - 1]
    repaired = ((1 - before) * after).mean(axis=0)
    spoiled = (before * (1 - after)).mean(axis=0)
    accuracy = np.mean(
        [[grade_of(turn).score for turn in turns] for turns in played], axis=0
    )  # [K]
    return {
        f"m1_t{k}": _mean([_voted(turns) for turns in played]),
        f"last_t{k}": float(accuracy[-1]),
        **{f"accuracy/turn{t}": float(share) for t, share in enumerate(accuracy, start=1)},
        **{f"i_to_c_by_turn/turn{t}": float(share) for t, share in enumerate(repaired, start=2)},
        **{f"c_to_i_by_turn/turn{t}": float(share) for t, share in enumerate(spoiled, start=2)},
        f"tokens_m1_t{k}": _mean([tokens(turns) for turns in played]),
    }


def _oracle_values(runs: Sequence[Turns], k: int) -> dict[str, float]:
    """From a problem's episodes, each stopped at its first right turn."""
    return {
        f"p1_t{k}": _mean([grade_of(turns[-1]).score for turns in runs]),
        f"tokens_p1_t{k}": _mean([tokens(turns) for turns in runs]),
    }


def _equal_token_values(played: Sequence[Turns], first: Turns) -> dict[str, float]:
    """The vote over as many first responses as fit the tokens of each episode's K turns.

    Where not even one fits there is no answer, which is wrong. An episode that would have paid for
    more than the n responses there are is counted in `short_of_samples`.
    """
    known = [tokens(first), *(tokens(turns) for turns in played)]
    names = ("m_t1_equal_tokens", "tokens_m_t1_equal_tokens", "samples_equal_tokens")
    if np.isnan(known).any():
        return dict.fromkeys((*names, "short_of_samples"), nan)
    budgets = [int(budget) for budget in known[1:]]
    fit = [fitting(first, budget) for budget in budgets]
    return {
        "m_t1_equal_tokens": _mean([_voted(turns) for turns in fit]),
        "tokens_m_t1_equal_tokens": _mean([tokens(turns) for turns in fit]),
        "samples_equal_tokens": _mean([len(turns) for turns in fit]),
        "short_of_samples": _mean(
            [budget - known[0] >= known[0] / len(first) for budget in budgets]
        ),
    }


def _voted(turns: Turns) -> float:
    """Score of the vote; NaN where a graded response has no answer to vote with, as those of a
    grader of the user's that gives a bare score."""
    grades = [grade_of(turn) for turn in turns]
    if any(grade.status in ("graded", "no_text") and grade.answer is None for grade in grades):
        return nan
    return vote(grades).score


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _by_problem(episodes: Sequence[Episode], turns: Callable[[Episode], Turns]) -> ByProblem:
    groups: ByProblem = {}
    for episode in sorted(episodes, key=lambda episode: episode.sample):
        groups.setdefault(episode.problem.id, []).append(turns(episode))
    return groups


def _check_problems(
    problems: Collection[str], others: Mapping[str, Collection[str]], whose: str
) -> None:
    for name, theirs in others.items():
        if unpaired := sorted(set(problems) ^ set(theirs)):
            raise UserError(
                f"the {whose} and the {name} episodes differ in {len(unpaired)} problems "
                f"(first: {unpaired[0]!r}); a comparison needs the same problems in both"
            )
