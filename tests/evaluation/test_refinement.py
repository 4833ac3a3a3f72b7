"""Metrics of refinements, worked by hand."""

from dataclasses import dataclass

import pytest

from redraft.errors import UserError
from redraft.evaluation.metrics import label_of, refinement_ratios
from redraft.evaluation.summaries import summarise_refinement
from redraft.evaluation.voting import same_answer
from redraft.types import Episode, Grade, Message, Problem, Status, Turn


@dataclass(frozen=True)
class Case:
    """A chain's answer and a program's, or how its run ended; the gold answer is 7."""

    chain: str | None
    program: str | None
    status: Status = "graded"
    source: str = "self"

    def episode(self, problem: int) -> Episode:
        return Episode(
            problem=Problem(id=f"p{problem}", task="t", question="?", gold="7"),
            messages=[Message(role="user", content="?")],
            protocol="cap",
            turns=[
                turn(self.chain, "graded", tokens=10, source=self.source),
                Turn(author="environment", text="Write a program."),
                turn(self.program, self.status, tokens=4),
                Turn(author="environment", text=str(self.program)),
            ],
        )


def turn(answer: str | None, status: Status, tokens: int, source: str = "") -> Turn:
    by = "number" if status == "graded" else "program"
    grade = Grade(score=float(answer == "7"), answer=answer, decided_by=by, status=status)
    return Turn(
        author="policy", text=str(answer), grade=grade, completion_tokens=tokens, source=source
    )


CASES = [
    Case("5", "7"),  # repaired
    Case("5", "5.0"),  # copied
    Case("5", "6"),  # wrong in another way
    Case("5", None, "error"),
    Case("7", "7", source="other"),  # kept
    Case("7", "5", source="other"),  # spoiled
    Case("7", None, "timeout", source="other"),
    Case(None, None, "no_answer", source="other"),
]
EPISODES = [case.episode(number) for number, case in enumerate(CASES)]


def test_labels() -> None:
    assert [label_of(episode) for episode in EPISODES] == [
        "right", "copy", "wrong", "error", "right", "wrong", "timeout", "silent",
    ]  # fmt: skip
    assert label_of(Case("5", None, "undecided").episode(0)) is None
    assert label_of(Case("5", None, "memory").episode(0)) == "error"
    assert label_of(Case("5", None, "output").episode(0)) == "error"
    assert label_of(Case("5", None, "truncated").episode(0)) == "error"
    assert label_of(Case("5", "5", "timeout").episode(0)) == "timeout"  # printed before the end
    assert label_of(Case(None, "6").episode(0)) == "wrong"


def test_a_program_of_the_bare_question_copies_nothing() -> None:
    alone = EPISODES[1].model_copy(update={"turns": EPISODES[1].turns[2:]})
    assert label_of(alone) == "wrong"


def test_a_chain_whose_program_found_no_room_has_no_label() -> None:
    chain = EPISODES[0].model_copy(update={"turns": EPISODES[0].turns[:1]})
    assert label_of(chain.model_copy(update={"outcome": "truncated"})) is None
    assert label_of(chain.model_copy(update={"turns": [], "outcome": "failed"})) is None


def test_the_right_answer_after_a_right_chain_is_no_copy() -> None:
    """Also where a grader calls an answer wrong that is the right chain's own (by its form)."""
    episode = Case("7", "7").episode(0)
    program = turn("7", "graded", tokens=4)
    assert program.grade
    program = program.model_copy(update={"grade": program.grade.model_copy(update={"score": 0.0})})
    assert label_of(episode.model_copy(update={"turns": [episode.turns[0], program]})) == "wrong"


def test_a_program_whose_answer_the_grader_gave_up_on_has_run() -> None:
    episode = Case("5", "6").episode(0)
    grade = Grade(score=0, answer="6", decided_by="math-verify", status="timeout")
    program = episode.turns[2].model_copy(update={"grade": grade})
    given_up = episode.model_copy(update={"turns": [episode.turns[0], program]})
    assert label_of(given_up) == "wrong"
    assert refinement_ratios([given_up])["executed"].value == 1


def test_the_same_answer_is_what_would_be_one_in_a_vote() -> None:
    assert same_answer("1/2", "0.5")
    assert same_answer("$1,600", "1600")
    assert not same_answer("5", "6")


def test_every_metric() -> None:
    values = {name: ratio.value for name, ratio in refinement_ratios(EPISODES).items()}
    assert values == pytest.approx({
        "accuracy/turn1": 3 / 8, "accuracy/turn2": 2 / 8, "delta_t1_t2": -1 / 8,
        "i_to_c": 1 / 8, "c_to_i": 2 / 8, "repaired": 1 / 5, "spoiled": 2 / 3,
        "copy_rate": 1 / 5, "executed": 6 / 8, "copy": 1 / 8, "wrong": 2 / 8, "error": 1 / 8,
        "timeout": 1 / 8, "silent": 1 / 8, "tokens/turn1": 10, "tokens/turn2": 4,
    })  # fmt: skip


def test_the_summary_by_chain_and_by_source() -> None:
    broken = Case("5", None, "undecided").episode(0)
    summary = summarise_refinement([*EPISODES, broken]).to_summary()["refinement"]
    assert summary["n_samples"] == 8
    assert summary["n_infrastructure"] == 1
    assert summary["accuracy"] == [3 / 8, 2 / 8]
    low, high = summary["ci95"]["accuracy"][1]
    assert 0 <= low < 2 / 8 < high <= 1
    assert summary["after_wrong_chain"]["accuracy"] == [0, 1 / 5]
    assert summary["after_right_chain"]["copy_rate"] is None
    assert summary["after_right_chain"]["ci95"]["copy_rate"] is None
    by_source = summary["by_source"]
    assert by_source["self"]["copy_rate"] == 1 / 4
    assert by_source["other"]["accuracy"] == [3 / 4, 1 / 4]


def test_all_chains_right() -> None:
    summary = summarise_refinement([CASES[4].episode(0)]).to_summary()["refinement"]
    assert summary["after_wrong_chain"] is None
    assert summary["copy_rate"] is None


def test_nothing_to_measure() -> None:
    with pytest.raises(UserError, match="no refinement to measure: 1 programs"):
        summarise_refinement([Case("5", None, "undecided").episode(0)])
