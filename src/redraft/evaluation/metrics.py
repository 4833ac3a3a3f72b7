"""What a list of episodes says about self-correction.

Every metric here is a ratio of two sums over episodes, so each is written down once, as its
numerator and denominator by episode (`ratios`). The point value is the quotient of the sums; the
intervals in `statistics` are the same quotient over resampled problems. `docs/metrics.md` is the
glossary.

Episodes need not have equally many turns: an oracle protocol stops once an attempt is right. With
T the largest number of turns, or the number that was allowed where that is given, an episode that
stopped early keeps its last verdict for the turns it did not play (its answer stands), which is
what the accuracies, deltas and flips count. Whatever describes an attempt itself (truncation,
length, copying, ...) counts only attempts that were made.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Indel
from rapidfuzz.process import cpdist

from redraft.episode import Episode, Turn, same_problem_groups
from redraft.errors import UserError

Array = NDArray[np.float64]
Metrics = dict[str, int | float | list[float | None] | None]
"""Metrics by name: a number, a list of numbers by turn, or None where nothing defines the value."""

V = TypeVar("V")


@dataclass(frozen=True)
class Ratio:
    """A metric as the quotient of two sums over episodes.

    `numerator` and `denominator` are [N], one entry per episode; `value` is None where the
    denominator sums to 0 (the share of repaired wrong answers when none was wrong, say).
    """

    numerator: Array
    denominator: Array

    @property
    def value(self) -> float | None:
        """Σ numerator / Σ denominator."""
        total = self.denominator.sum()
        return float(self.numerator.sum() / total) if total > 0 else None


def self_correction_metrics(episodes: Sequence[Episode]) -> Metrics:
    """Accuracy by turn, Δ(t1,t2), flips, copying, length and truncation of a list of episodes.

    Shares are fractions of all episodes (every sample of every problem counts once), in 0..1;
    lists are by turn. The definitions of accuracy, Δ, i→c and c→i are those of arXiv 2409.12917,
    so that delta_t1_t2 = i_to_c - c_to_i.

    Raises:
        UserError: there are no episodes.
    """
    values = {name: ratio.value for name, ratio in ratios(episodes).items()}
    return {**counts(episodes), **by_turn(values)}


def counts(episodes: Sequence[Episode]) -> dict[str, int]:
    """`n_problems` (distinct problem ids) and `n_samples` (episodes in all)."""
    return {"n_problems": len(same_problem_groups(episodes)), "n_samples": len(episodes)}


def ratios(episodes: Sequence[Episode], turns: int = 1) -> dict[str, Ratio]:
    """Every metric by its flat name (`accuracy/turn1`, `delta_t1_t2`, ...), as sums over episodes.

    There are at least `turns` turns, although all episodes may have stopped before the last.

    Raises:
        UserError: there are no episodes.
    """
    if not episodes:
        raise UserError("no episodes to evaluate: the list is empty; roll out or read some first")

    def table(measure: Callable[[Turn], float]) -> Array:
        values = np.zeros((len(episodes), turns))  # [N, T], 0 for attempts that were not made
        for row, episode in enumerate(episodes):
            values[row, : len(episode.turns)] = [measure(turn) for turn in episode.turns]
        return values

    turns = max(turns, *(len(episode.turns) for episode in episodes))
    made = table(lambda turn: 1.0)
    right = table(lambda turn: turn.grade.correct)
    for turn in range(1, turns):  # an episode that stopped keeps its last verdict
        right[:, turn] = np.where(made[:, turn] > 0, right[:, turn], right[:, turn - 1])
    every = np.ones(len(episodes))

    metrics = {f"accuracy/turn{k + 1}": Ratio(right[:, k], every) for k in range(turns)}
    metrics |= _second_attempt(episodes, right, made)
    metrics |= {
        f"delta_t{k}_t{k + 1}": Ratio(right[:, k] - right[:, k - 1], every) for k in range(2, turns)
    }
    if turns > 2:
        metrics[f"delta_t1_t{turns}"] = Ratio(right[:, -1] - right[:, 0], every)

    attempt_shares = {
        "truncated": table(lambda turn: turn.truncated),
        "no_answer": table(lambda turn: turn.grade.answer is None),
        "timed_out": table(lambda turn: turn.grade.timed_out),
        "off_policy": table(lambda turn: not turn.on_policy),
    }
    for name, share in attempt_shares.items():
        metrics |= {f"{name}/turn{k + 1}": Ratio(share[:, k], made[:, k]) for k in range(turns)}
    length = table(lambda turn: len(turn.attempt_tokens))
    for k in range(turns):  # no tokens: an engine that returns none, whose lengths are not known
        metrics[f"attempt_tokens/turn{k + 1}"] = Ratio(
            length[:, k], (length[:, k] > 0).astype(float)
        )
        metrics[f"attempted/turn{k + 1}"] = Ratio(made[:, k], every)
    return metrics


def _second_attempt(episodes: Sequence[Episode], right: Array, made: Array) -> dict[str, Ratio]:
    """What the second attempt did to the first; undefined where nobody had a second turn."""
    second = np.minimum(1, right.shape[1] - 1)
    r1, r2 = right[:, 0], right[:, second]  # [N] in {0, 1}
    tried = made[:, 1] if second else np.zeros(len(episodes))
    every = np.full(len(episodes), float(second))
    pairs = [episode.turns[:2] for episode in episodes if len(episode.turns) > 1]

    def over_pairs(values: Sequence[float] | Array) -> Ratio:
        numerator = np.zeros(len(episodes))
        numerator[tried > 0] = values
        return Ratio(numerator, tried)

    return {
        "delta_t1_t2": Ratio(r2 - r1, every),
        "i_to_c": Ratio((1 - r1) * r2, every),
        "c_to_i": Ratio(r1 * (1 - r2), every),
        "confidence_level": Ratio(r1 * r2 * tried, r1 * tried),
        "critique_score": Ratio((1 - r1) * r2 * tried, (1 - r1) * tried),
        "changed": over_pairs([a.grade.answer != b.grade.answer for a, b in pairs]),
        "verbatim_copy": over_pairs([a.attempt == b.attempt for a, b in pairs]),
        "edit_distance_ratio": over_pairs(
            edit_distance_ratio([a.attempt for a, _ in pairs], [b.attempt for _, b in pairs])
        ),
    }


def edit_distance_ratio(firsts: Sequence[str], seconds: Sequence[str]) -> Array:
    """Insert/delete distance of each pair over its summed lengths (arXiv 2409.12917).

    Counted in characters, without substitutions, so that the range is 0 (equal, and both empty)
    to 1 (nothing in common). Two lists of N texts in, [N] out.
    """
    return cpdist(firsts, seconds, scorer=Indel.normalized_distance, dtype=np.float64)


def by_turn(values: Mapping[str, V]) -> dict[str, V | list[V]]:
    """Collect `name/turn1`, `name/turn2`, ... (given in order) into one list under `name`."""
    collected: dict[str, V | list[V]] = {}
    for key, value in values.items():
        name, slash, _ = key.partition("/turn")
        if not slash:
            collected[name] = value
            continue
        turns = collected.setdefault(name, [])
        assert isinstance(turns, list)
        turns.append(value)
    return collected


def flat(metrics: Metrics) -> dict[str, float]:
    """Metrics as the flat names of a training log: a list becomes `name/turn1`, `name/turn2`, ...

    Values that nothing defines (None) are left out.
    """
    values: dict[str, float] = {}
    for name, value in metrics.items():
        if isinstance(value, list):
            numbered = ((f"{name}/turn{turn}", v) for turn, v in enumerate(value, start=1))
            values |= {key: v for key, v in numbered if v is not None}
        elif value is not None:
            values[name] = value
    return values
