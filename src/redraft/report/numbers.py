"""Numbers of a report that `summary.json` does not hold, from the episodes of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from redraft.errors import UserError
from redraft.evaluation.metrics import Array, answers, edit_distance_ratio, grade_of, ratios
from redraft.evaluation.result import Row
from redraft.evaluation.sequential import carried, summarise_sequential
from redraft.evaluation.statistics import Estimate, mcnemar, paired_differences, summarise
from redraft.evaluation.tables import comparison_table, tables
from redraft.report.runs import Run
from redraft.types import Episode, same_problem_groups, without_failed

LEVELS = ("level", "difficulty", "cell", "subject", "type", "length", "words")
"""Fields of a problem's metadata that accuracy is split by: the first that has a few values."""
MOST_LEVELS = 20
NEEDED = {"accuracy", "delta_t1_t2", "i_to_c", "c_to_i", "changed", "verbatim_copy", "truncated"}
NEEDED |= {"ci95", "n_problems", "n_samples"}
"""What the summary of an evaluation has if it is of this version."""


def episodes_of(run: Run, part: str = "turns") -> list[Episode]:
    """The episodes of a part that count: those of problems without a failure."""
    return without_failed(run.parts.get(part, []))[0]


def summary_of(run: Run) -> Mapping[str, Any]:
    """The content of `summary.json` of an evaluation; what its episodes say where it is missing;
    empty where there is nothing to measure."""
    if run.is_training:
        return {}
    whole = "strategies" in run.summary or run.summary.keys() >= NEEDED
    if whole and _can_be_shown(run.summary):
        return run.summary
    episodes = episodes_of(run)
    if not episodes:
        return {}
    if run.summary:
        why = "damaged" if whole else "of an older version"
        run.notes.append(f"{run.name}: summary.json is {why} and was made anew")
    elif run.command != "collect":
        run.notes.append(f"{run.name} is unfinished: its numbers are of {len(episodes)} episodes")
    return summarise(episodes, turns_of(run)).to_summary()


def _can_be_shown(summary: Mapping[str, Any]) -> bool:
    """Whether the values of a summary, which an editor may have changed, have their types."""
    try:
        tables(summary)
        if "accuracy" in summary:
            comparison_table({"": summary})
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError):
        return False
    return True


def turns_of(run: Run) -> int:
    """Answers that an episode of the run may have, as far as its configuration says."""
    return int(run.config.get("turns") or 1)


@dataclass(frozen=True)
class Comparison:
    """Two evaluations on the problems that both have: differences by metric, and McNemar's test of
    the last answers (`gained`: right in the first only) where there is one sample a problem; else
    None."""

    problems: int
    differences: Mapping[str, Estimate | None]
    gained: int | None
    lost: int | None
    p: float | None


def compared(a: Sequence[Episode], b: Sequence[Episode]) -> Comparison:
    """Evaluation `a` minus `b`, over the problems that both have.

    Raises:
        UserError: they have no problem in common.
    """
    common = {e.problem.id for e in a} & {e.problem.id for e in b}
    if not common:
        raise UserError("no problem is in both, so nothing can be compared in pairs")
    a, b = ([e for e in one if e.problem.id in common] for one in (a, b))
    of_b = ratios(b)
    wanted = [
        name
        for name in ratios(a)
        if name in of_b
        and (name.startswith(("accuracy/", "delta_")) or name in ("i_to_c", "c_to_i", "changed"))
    ]
    differences = paired_differences(a, b, wanted)
    if not len(a) == len(common) == len(b):
        return Comparison(len(common), differences, None, None, None)
    right_a, right_b = ({e.problem.id: grade_of(answers(e)[-1]).correct for e in x} for x in (a, b))
    gained = sum(right_a[name] and not right_b[name] for name in common)
    lost = sum(right_b[name] and not right_a[name] for name in common)
    return Comparison(len(common), differences, gained, lost, mcnemar(gained, lost))


def level_field(episodes: Sequence[Episode]) -> str | None:
    """The field of metadata that accuracy is split by, if the problems have one of `LEVELS`."""
    for name in LEVELS:
        values = {str(episode.problem.metadata.get(name)) for episode in episodes}
        if 1 < len(values) <= MOST_LEVELS and "None" not in values:
            return name
    return None


def level_order(value: str) -> tuple[float, str]:
    """Sorts levels: by the number in them, then as text."""
    digits = "".join(c for c in value if c.isdigit())
    return (float(digits) if digits else float("inf"), value)


def by_level(episodes: Sequence[Episode], field: str) -> dict[str, list[Episode]]:
    """The episodes by value of a field of their problems' metadata, in order."""
    groups: dict[str, list[Episode]] = {}
    for episode in episodes:
        groups.setdefault(str(episode.problem.metadata[field]), []).append(episode)
    return {value: groups[value] for value in sorted(groups, key=level_order)}


def edit_distances(episodes: Sequence[Episode]) -> tuple[list[Episode], Array]:
    """The episodes with a second answer, and how far it is from the first (0 to 1), [N]."""
    pairs = [episode for episode in episodes if len(episode.answers) > 1]
    texts = [[turn.text for turn in episode.answers[:2]] for episode in pairs]
    return pairs, edit_distance_ratio([a for a, _ in texts], [b for _, b in texts])


@dataclass(frozen=True)
class Spent:
    """An accuracy at a number of responses K and of tokens a problem, and its interval."""

    k: int
    tokens: float | None
    row: Row


def equal_compute(run: Run) -> dict[str, list[Spent]]:
    """Accuracy for K = 1, 2, ... responses, spent on turns (the last one, and a vote over them) and
    on first responses side by side (a vote); empty where the run has no samples for it.

    Raises:
        UserError: the episodes do not allow the comparison, as those of an oracle.
    """
    if run.config.get("protocol") == "blind-spot":
        return {}
    episodes = episodes_of(run)
    parallel = episodes_of(run, "parallel") or episodes
    problems = {e.problem.id for e in episodes} & {e.problem.id for e in parallel}
    episodes = [e for e in episodes if e.problem.id in problems]
    parallel = [e for e in parallel if e.problem.id in problems]
    if not problems:
        return {}
    samples = min(len(group) for group in same_problem_groups(parallel))
    longest = max(len(answers(episode)) for episode in episodes)
    curves: dict[str, list[Spent]] = {"last turn": [], "vote over turns": [], "parallel vote": []}
    for k in range(2, min(samples, longest) + 1):
        result = summarise_sequential(episodes, parallel, k)
        rows = {row.metric: row for row in result.rows}
        if k == 2:  # each curve begins with its own first responses
            first = [carried(episode, 1)[0].generated for episode in episodes]
            turn = Spent(1, float(np.mean(first)), rows["accuracy/turn1"])
            curves["last turn"], curves["vote over turns"] = [turn], [turn]
            curves["parallel vote"] = [Spent(1, rows["tokens_m1_t1"].value, rows["m1_t1"])]
        turns, votes = rows[f"tokens_m1_t{k}"].value, rows[f"tokens_m{k}_t1"].value
        curves["last turn"].append(Spent(k, turns, rows[f"last_t{k}"]))
        curves["vote over turns"].append(Spent(k, turns, rows[f"m1_t{k}"]))
        curves["parallel vote"].append(Spent(k, votes, rows[f"m{k}_t1"]))
    return {name: points for name, points in curves.items() if len(points) > 1}


def crossing(turns: Sequence[Spent], votes: Sequence[Spent]) -> str:
    """For which K `turns` have the higher estimate, in words: at equal responses, and at equal
    tokens, where the votes' accuracy is interpolated between their K."""

    def said(ahead: Sequence[int], what: str) -> str:
        listed = ", ".join(map(str, ahead))
        return f"at equal {what} " + (f"ahead at K = {listed}" if ahead else "never ahead")

    pairs = [(t, v) for t, v in zip(turns, votes, strict=True) if t.k > 1]
    parts = [said([t.k for t, v in pairs if (t.row.value or 0) > (v.row.value or 0)], "responses")]
    if all(point.tokens for point in (*turns, *votes)):
        tokens = [v.tokens or 0 for v in votes]
        vote = np.interp(
            [t.tokens or 0 for t, _ in pairs], tokens, [v.row.value or 0 for v in votes]
        )
        within = [
            (t, at) for (t, _), at in zip(pairs, vote, strict=True) if (t.tokens or 0) <= tokens[-1]
        ]
        parts.append(said([t.k for t, at in within if (t.row.value or 0) > at], "tokens"))
    return "; ".join(parts)
