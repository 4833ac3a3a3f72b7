"""Metrics of refinements, worked by hand."""

import io
from dataclasses import dataclass

import pytest
from rich.console import Console

from redraft.episode import Episode, Grade, Message, Problem, Turn
from redraft.errors import UserError
from redraft.evaluation.refinement import (
    label_of,
    refinement_ratios,
    same_answer,
    summarise_refinement,
)
from redraft.evaluation.strategies_report import refinement_table, sources_table


@dataclass(frozen=True)
class Case:
    """A chain's answer and a program's, or how its run ended; the gold answer is 7."""

    chain: str | None
    program: str | None
    status: str = ""
    source: str = "self"

    def episode(self, problem: int) -> Episode:
        return Episode(
            problem=Problem(id=f"p{problem}", task="t", question="?", gold="7"),
            messages=[Message(role="user", content="?")],
            protocol="cap",
            turns=[
                turn(self.chain, "number", tokens=10, source=self.source),
                turn(self.program, self.status or "number", tokens=4),
            ],
        )


def turn(answer: str | None, decided_by: str, tokens: int, source: str = "") -> Turn:
    grade = Grade(correct=answer == "7", answer=answer, decided_by=decided_by)
    return Turn(
        attempt=str(answer), finish="stop", grade=grade, completion_tokens=tokens, source=source
    )


CASES = [
    Case("5", "7"),  # repaired
    Case("5", "5.0"),  # copied
    Case("5", "6"),  # wrong in another way
    Case("5", None, "program error"),
    Case("7", "7", source="other"),  # kept
    Case("7", "5", source="other"),  # spoiled
    Case("7", None, "program timeout", source="other"),
    Case(None, None, "program silent", source="other"),
]
EPISODES = [case.episode(number) for number, case in enumerate(CASES)]


def test_labels() -> None:
    assert [label_of(episode) for episode in EPISODES] == [
        "right", "copy", "wrong", "error", "right", "wrong", "timeout", "silent",
    ]  # fmt: skip
    assert label_of(Case("5", None, "program infrastructure").episode(0)) is None
    assert label_of(Case("5", None, "program memory").episode(0)) == "error"
    assert label_of(Case("5", None, "truncated").episode(0)) == "error"


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
    broken = Case("5", None, "program infrastructure").episode(0)
    summary = summarise_refinement([*EPISODES, broken])
    assert summary["n_samples"] == 8
    assert summary["n_infrastructure"] == 1
    assert summary["accuracy"] == [3 / 8, 2 / 8]
    low, high = summary["ci95"]["accuracy"][1]  # type: ignore[index]
    assert 0 <= low < 2 / 8 < high <= 1
    assert summary["after_wrong_chain"]["accuracy"] == [0, 1 / 5]  # type: ignore[index]
    assert summary["after_right_chain"]["copy_rate"] is None  # type: ignore[index]
    assert summary["after_right_chain"]["ci95"]["copy_rate"] is None  # type: ignore[index]
    by_source = summary["by_source"]
    assert by_source["self"]["copy_rate"] == 1 / 4  # type: ignore[index]
    assert by_source["other"]["accuracy"] == [3 / 4, 1 / 4]  # type: ignore[index]
    console = Console(width=80, file=io.StringIO())
    console.print(refinement_table(summary), sources_table(summary))
    assert isinstance(console.file, io.StringIO)
    shown = " ".join(console.file.getvalue().split())
    assert "wrong: copied 20.0" in shown
    assert "1 more could not be run" in shown


def test_all_chains_right() -> None:
    summary = summarise_refinement([CASES[4].episode(0)])
    assert summary["after_wrong_chain"] is None
    assert summary["copy_rate"] is None


def test_nothing_to_measure() -> None:
    with pytest.raises(UserError, match="no refinement to measure: 1 programs"):
        summarise_refinement([Case("5", None, "program infrastructure").episode(0)])
