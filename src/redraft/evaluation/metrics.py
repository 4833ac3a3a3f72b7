"""Metrics of episodes: self-correction, self-improvement, and programs that refine chains.

Every metric is a ratio of two sums over episodes, written as its numerator and denominator by
episode. The value is the quotient of the sums; the intervals in `statistics` are the same quotient
over resampled problems. `docs/metrics.md` is the glossary.

Only answers count: critiques have no verdict. Episodes need not have equally many answers. With T
the largest number, or the number that was allowed, an episode that ended early keeps its last
verdict for the turns that it lacks, which is what accuracies, deltas and flips count. Whatever
describes a response itself (truncation, length, copying, ...) counts only those that were made. An
episode without any answer, because its problem alone outgrew the context, counts as a first
response that was cut off.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Indel
from rapidfuzz.process import cpdist

from redraft.chat.protocols import Wait
from redraft.errors import UserError
from redraft.evaluation.result import by_turn
from redraft.evaluation.voting import same_answer
from redraft.types import Episode, Grade, Outcome, Turn, same_problem_groups

Array = NDArray[np.float64]
Metrics = dict[str, int | float | list[float | None] | None]
"""Metrics by name: a number, a list of numbers by turn, or None where nothing defines the value."""

CUT = Turn(
    author="policy",
    text="",
    finish="length",
    completion_tokens=0,
    grade=Grade(score=0, status="truncated", decided_by="none", reason="the context is full"),
)
"""The response of an episode that outgrew the context before it."""


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


def answers(episode: Episode) -> list[Turn]:
    """An episode's graded responses, at least one."""
    return episode.answers or [CUT]


def counted(turn: Turn) -> bool:
    """Whether it is known how many tokens a response has: `CUT` has none, and an endpoint that does
    not count tokens says nothing."""
    return turn.completion_tokens is not None or bool(turn.tokens)


def grade_of(turn: Turn) -> Grade:
    """The grade of an answer."""
    assert turn.grade is not None
    return turn.grade


def answer_of(turn: Turn) -> str | None:
    """The extracted answer; the whole text where the grader gives a bare score; None for none."""
    grade = grade_of(turn)
    return turn.text if names_none(grade) else grade.answer


def names_none(grade: Grade) -> bool:
    """Whether the grader gave a bare score, which names no answer."""
    return grade.answer is None and grade.status == "graded"


def written(episode: Episode) -> list[str]:
    """The text of each answer; of one that continues the answer before it (protocol `wait`) what
    comes after the word that reopened it."""
    texts = [turn.text for turn in answers(episode)]
    if episode.protocol not in Wait.names:
        return texts
    opened = [text + (episode.said_after(k) or "") for k, text in enumerate(texts[:-1])]
    added = [t.removeprefix(o).strip() for t, o in zip(texts[1:], opened, strict=True)]
    return [texts[0].strip(), *added]


def self_correction_metrics(episodes: Sequence[Episode], turns: int = 1) -> Metrics:
    """Accuracy by turn, Δ(t1,t2), flips, copying, length and truncation of a list of episodes.

    Shares are fractions of all episodes (every sample of every problem counts once), in 0..1;
    lists are by turn. Accuracy and Δ are means of scores, flips are of right and wrong as in arXiv
    2409.12917, so that delta_t1_t2 = i_to_c - c_to_i where no score is a fraction.

    Raises:
        UserError: there are no episodes.
    """
    values = {name: ratio.value for name, ratio in ratios(episodes, turns).items()}
    return {**counts(episodes), **by_turn(values)}


def measure(episodes: Sequence[Episode], turns: int = 1) -> dict[str, float]:
    """The same as the flat names of a log: `accuracy/turn1`, `delta_t1_t2`, ...

    Values that nothing defines are left out.

    Raises:
        UserError: there are no episodes.
    """
    values = {name: ratio.value for name, ratio in ratios(episodes, turns).items()}
    return {**counts(episodes), **{name: v for name, v in values.items() if v is not None}}


def counts(episodes: Sequence[Episode]) -> dict[str, int]:
    """`n_problems` (distinct problem ids) and `n_samples` (episodes in all)."""
    return {"n_problems": len(same_problem_groups(episodes)), "n_samples": len(episodes)}


_SHARES: dict[str, Callable[[Turn], float]] = {
    "truncated": lambda turn: turn.truncated,
    "no_answer": lambda turn: turn.has_text and answer_of(turn) is None,
    "timed_out": lambda turn: grade_of(turn).status == "timeout",
    "off_policy": lambda turn: turn.author == "teacher",
}
"""Of which answers the shares by turn are."""


def ratios(episodes: Sequence[Episode], turns: int = 1) -> dict[str, Ratio]:
    """Every metric by its flat name (`accuracy/turn1`, `delta_t1_t2`, ...), as sums over episodes.

    There are at least `turns` turns, although all episodes may have stopped before the last.

    Raises:
        UserError: there are no episodes.
    """
    if not episodes:
        raise UserError("no episodes to evaluate: the list is empty; roll out or read some first")
    given = [answers(episode) for episode in episodes]
    turns = max(turns, *map(len, given))

    def table(of: Callable[[Turn], float]) -> Array:
        values = np.zeros((len(episodes), turns))  # [N, T], 0 for responses that were not made
        for row, made in enumerate(given):
            values[row, : len(made)] = [of(turn) for turn in made]
        return values

    made = table(lambda turn: 1.0)

    def carried(of: Callable[[Turn], float]) -> Array:
        values = table(of)
        for turn in range(1, turns):  # an episode that stopped keeps its last verdict
            values[:, turn] = np.where(made[:, turn] > 0, values[:, turn], values[:, turn - 1])
        return values

    score = carried(lambda turn: grade_of(turn).score)
    right = carried(lambda turn: grade_of(turn).correct)
    every = np.ones(len(episodes))

    metrics = {f"accuracy/turn{k + 1}": Ratio(score[:, k], every) for k in range(turns)}
    metrics |= _second_response(episodes, given, score, right, made)
    metrics |= {
        f"delta_t{k}_t{k + 1}": Ratio(score[:, k] - score[:, k - 1], every) for k in range(2, turns)
    }
    if turns > 2:
        metrics[f"delta_t1_t{turns}"] = Ratio(score[:, -1] - score[:, 0], every)

    bare = any(names_none(grade_of(turn)) for row in given for turn in row)
    for name, of in _SHARES.items():
        share, known = table(of), np.zeros_like(made) if name == "no_answer" and bare else made
        metrics |= {f"{name}/turn{k + 1}": Ratio(share[:, k], known[:, k]) for k in range(turns)}
    again, wrong = _repetitions(given, turns)
    length = table(lambda turn: len(turn.tokens) - turn.given)
    known = (length > 0).astype(float)  # an engine that returns no tokens: lengths are not known
    for k in range(turns):
        if turns > 1:
            metrics[f"repeated_wrong/turn{k + 1}"] = Ratio(again[:, k], wrong[:, k])
        metrics[f"attempt_tokens/turn{k + 1}"] = Ratio(length[:, k], known[:, k])
        metrics[f"attempted/turn{k + 1}"] = Ratio(made[:, k], every)
    return metrics


def _second_response(
    episodes: Sequence[Episode],
    given: Sequence[Sequence[Turn]],
    score: Array,
    right: Array,
    made: Array,
) -> dict[str, Ratio]:
    """What the second answer did to the first; undefined where nobody had a second turn."""
    second = np.minimum(1, right.shape[1] - 1)
    r1, r2 = right[:, 0], right[:, second]  # [N] in {0, 1}
    tried = made[:, 1] if second else np.zeros(len(given))
    every = np.full(len(given), float(second))
    complete = every * np.array([not turns[0].truncated for turns in given])
    delta = score[:, second] - score[:, 0]
    pairs = [turns[:2] for turns in given if len(turns) > 1]
    texts = [written(one)[:2] for one, turns in zip(episodes, given, strict=True) if turns[1:]]

    def over_pairs(values: Sequence[float] | Array) -> Ratio:
        numerator = np.zeros(len(given))
        numerator[tried > 0] = values
        return Ratio(numerator, tried)

    return {
        "delta_t1_t2": Ratio(delta, every),
        "delta_t1_t2_complete": Ratio(delta * complete, complete),
        "i_to_c": Ratio((1 - r1) * r2, every),
        "c_to_i": Ratio(r1 * (1 - r2), every),
        "confidence_level": Ratio(r1 * r2 * tried, r1 * tried),
        "critique_score": Ratio((1 - r1) * r2 * tried, (1 - r1) * tried),
        "changed": over_pairs([answer_of(a) != answer_of(b) for a, b in pairs]),
        "verbatim_copy": over_pairs([a == b for a, b in texts]),
        "edit_distance_ratio": over_pairs(
            edit_distance_ratio([a for a, _ in texts], [b for _, b in texts])
        ),
    }


def _repetitions(given: Sequence[Sequence[Turn]], turns: int) -> tuple[Array, Array]:
    """Both [N, T] in {0, 1}: whether a wrong answer was there before, and, for comparison, whether
    it is one that follows a wrong answer. Answers are compared as text; responses without an
    extracted one do not count."""
    again, wrong = np.zeros((len(given), turns)), np.zeros((len(given), turns))
    for row, made in enumerate(given):
        before: list[str] = []
        for place, grade in enumerate(map(grade_of, made)):
            if grade.correct or grade.answer is None:
                continue
            wrong[row, place] = bool(before)
            again[row, place] = grade.answer in before
            before.append(grade.answer)
    return again, wrong


def edit_distance_ratio(firsts: Sequence[str], seconds: Sequence[str]) -> Array:
    """Insert/delete distance of each pair over its summed lengths (arXiv 2409.12917).

    Counted in characters, without substitutions, so that the range is 0 (equal, and both empty)
    to 1 (nothing in common). Two lists of N texts in, [N] out.
    """
    return cpdist(firsts, seconds, scorer=Indel.normalized_distance, dtype=np.float64)


# Self-improvement

STOPS: Mapping[str, Outcome] = {
    "confirmed": "confirmed",
    "updates": "finished",
    "unchanged": "unchanged",
    "repetitive": "repetitive",
    "truncated": "truncated",
    "oracle": "solved",
}
"""Why a self-improvement ended: its name in `stopped_NAME`, and the episode's outcome."""


def improvement_ratios(episodes: Sequence[Episode]) -> dict[str, Ratio]:
    """What updates bring, by name, as sums over episodes [N].

    With r₁ the verdict on the first answer and r that on the last,

        accuracy = mean r = solved_directly + gained      solved_directly = mean r₁ r
        first_accuracy = mean r₁ = solved_directly + lost     gained = mean (1 - r₁) r
        delta = gained - lost                             lost = mean r₁ (1 - r)

    `updated` is the share of episodes with an update, `updates` their mean number, `stopped_WHY`
    the share that ended for that reason.
    """
    first = np.array([grade_of(answers(episode)[0]).correct for episode in episodes], float)
    last = np.array([grade_of(answers(episode)[-1]).correct for episode in episodes], float)
    updates = np.array([len(answers(episode)) - 1 for episode in episodes], float)
    found = {
        "accuracy": last,
        "first_accuracy": first,
        "solved_directly": first * last,
        "gained": (1 - first) * last,
        "lost": first * (1 - last),
        "delta": last - first,
        "updated": (updates > 0).astype(float),
        "updates": updates,
    }
    for name, outcome in STOPS.items():
        found[f"stopped_{name}"] = np.array([one.outcome == outcome for one in episodes], float)
    return {name: Ratio(values, np.ones(len(episodes))) for name, values in found.items()}


# Programs that refine chains of thought (arXiv 2412.16871)

Label = Literal["right", "wrong", "copy", "error", "timeout", "silent"]
"""What a program is worth: `copy` is wrong with the chain's own wrong answer, `silent` ran to its
end without an answer, `error` covers all that ended half-way (memory and output limits too)."""


LABELS: tuple[Label, ...] = get_args(Label)


def ran(program: Grade) -> bool:
    """Whether a graded program ran to its end."""
    stopped = program.decided_by == "program" and program.status != "no_answer"
    return not stopped and program.status not in ("truncated", "undecided")


def label_of(episode: Episode) -> Label | None:
    """The label of an episode's program, its last answer, after the chain before it, if any.

    None where the sandbox failed, which is nobody's mistake, and where there is no program, because
    the context was full or the engine failed.
    """
    if episode.outcome in ("truncated", "failed") or not episode.grades:
        return None
    *before, program = episode.grades
    if program.status == "undecided":
        return None
    if not ran(program):
        return "timeout" if program.status == "timeout" else "error"
    if program.answer is None:
        return "silent"
    if program.correct:
        return "right"
    copied = any(not c.correct and same_answer(program.answer, c.answer) for c in before)
    return "copy" if copied else "wrong"


def refinement_ratios(episodes: Sequence[Episode]) -> dict[str, Ratio]:
    """What programs make of chains, by flat name, as sums over episodes [N] of two answers.

    `accuracy/turn1` and `/turn2` (chains, programs), `delta_t1_t2`, `i_to_c` and `c_to_i` are
    fractions of all episodes. `repaired` and `copy_rate` are shares of the wrong chains, `spoiled`
    of the right ones. `executed` is the share of programs that ran to their end; `copy`, `wrong`,
    `error`, `timeout` and `silent` are the shares of the labels. Tokens are generated ones.
    """
    labels = [label_of(episode) for episode in episodes]
    before = np.array([grade_of(answers(episode)[0]).correct for episode in episodes], float)
    after = np.array([name == "right" for name in labels], float)
    every = np.ones(len(episodes))

    def share(name: Label) -> Ratio:
        return Ratio(np.array([one == name for one in labels], float), every)

    found = {
        "accuracy/turn1": Ratio(before, every),
        "accuracy/turn2": Ratio(after, every),
        "delta_t1_t2": Ratio(after - before, every),
        "i_to_c": Ratio((1 - before) * after, every),
        "c_to_i": Ratio(before * (1 - after), every),
        "repaired": Ratio((1 - before) * after, 1 - before),
        "spoiled": Ratio(before * (1 - after), before),
        "copy_rate": Ratio(share("copy").numerator, 1 - before),
        "executed": Ratio(np.array([ran(one.grades[-1]) for one in episodes], float), every),
    }
    found |= {name: share(name) for name in LABELS if name != "right"}
    for turn in (0, 1):
        spent = np.array([answers(episode)[turn].generated for episode in episodes], float)
        found[f"tokens/turn{turn + 1}"] = Ratio(spent, every)
    return found
