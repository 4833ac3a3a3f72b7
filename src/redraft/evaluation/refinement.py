"""What programs make of chains of thought: accuracy before and after, flips, copies, runs.

An episode is a chain (turn 1) and the program that refines it (turn 2). Labels are those of
`credit.pairs`; a program whose run the sandbox failed counts nowhere but in `n_infrastructure`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from redraft.credit.pairs import Chain, Outcome, Program, label
from redraft.episode import Episode
from redraft.errors import UserError
from redraft.evaluation.metrics import Ratio, by_turn, counts
from redraft.evaluation.statistics import Summary, bootstrap_intervals
from redraft.evaluation.voting import answer_groups
from redraft.grading.program import program_status
from redraft.grading.program_text import extract_program

LABELS = ("copy", "wrong", "error", "timeout", "silent")
"""What a program can be beside right."""


def same_answer(a: str, b: str) -> bool:
    """Whether two answers would be one in a vote (`voting`)."""
    return len(answer_groups([a, b])) == 1


def program_of(episode: Episode) -> Program:
    """An episode's last attempt as a program, with the chain before it; one that no attempt comes
    before refines an empty chain without an answer."""
    grade = episode.turns[-1].grade
    status = program_status(grade)
    answer = grade.answer if status == "finished" else None
    outcome = Outcome(status, answer, grade.correct and answer is not None)
    return Program(_chain(episode), extract_program(episode.turns[-1].attempt), outcome)


def _chain(episode: Episode) -> Chain:
    if len(episode.turns) == 1:
        return Chain(episode.problem.id, "", None, False)
    first = episode.turns[0]
    return Chain(
        episode.problem.id, first.attempt, first.grade.answer, first.grade.correct, first.source
    )


def label_of(episode: Episode) -> str | None:
    """The label of an episode's program; None where the sandbox failed."""
    return label(program_of(episode), same_answer)


def refinement_ratios(episodes: Sequence[Episode]) -> dict[str, Ratio]:
    """Every metric by flat name, as sums over episodes [N].

    `accuracy/turn1` and `/turn2` (chains, programs), `delta_t1_t2`, `i_to_c` and `c_to_i` are
    fractions of all episodes. `repaired` and `copy_rate` are shares of the wrong chains, `spoiled`
    of the right ones. `executed` is the share of programs that ran to their end; `copy`, `wrong`,
    `error`, `timeout` and `silent` are the shares of the labels. Tokens are generated ones.
    """
    labels = [label_of(episode) for episode in episodes]
    before = np.array([episode.turns[0].grade.correct for episode in episodes], float)
    after = np.array([name == "right" for name in labels], float)
    status = [program_status(episode.turns[-1].grade) for episode in episodes]
    every = np.ones(len(episodes))

    def share(name: str) -> Ratio:
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
        "executed": Ratio(np.array([one == "finished" for one in status], float), every),
    }
    found |= {name: share(name) for name in LABELS}
    for turn in (0, 1):
        spent = np.array([episode.turns[turn].generated for episode in episodes], float)
        found[f"tokens/turn{turn + 1}"] = Ratio(spent, every)
    return found


def summarise_refinement(episodes: Sequence[Episode], seed: int = 0) -> Summary:
    """Every metric with its 95 % bootstrap interval over problems, under the keys of
    `refinement_ratios`; the same after wrong and after right chains and by source model.

    Raises:
        UserError: there is no episode of two turns whose program the sandbox could run.
    """
    pairs = [episode for episode in episodes if len(episode.turns) == 2]
    known = [episode for episode in pairs if label_of(episode) is not None]
    if not known:
        raise UserError(
            f"no refinement to measure: {len(pairs)} programs after a chain, none of which the "
            "sandbox could run"
        )
    wrong = [episode for episode in known if not episode.turns[0].grade.correct]
    right = [episode for episode in known if episode.turns[0].grade.correct]
    by_source: dict[str, list[Episode]] = {}
    for episode in known:
        by_source.setdefault(episode.turns[0].source, []).append(episode)
    return {
        **_summary(known, seed),
        "n_infrastructure": len(pairs) - len(known),
        "after_wrong_chain": _summary(wrong, seed) if wrong else None,
        "after_right_chain": _summary(right, seed) if right else None,
        "by_source": {name: _summary(theirs, seed) for name, theirs in by_source.items()},
    }


def _summary(episodes: Sequence[Episode], seed: int) -> dict[str, Any]:
    metrics = refinement_ratios(episodes)
    values = {name: ratio.value for name, ratio in metrics.items()}
    intervals = bootstrap_intervals(episodes, metrics, seed)
    return {**counts(episodes), **by_turn(values), "ci95": by_turn(intervals)}
