"""Two graders compared, and one pair explained."""

import json

import pytest

from redraft.cli import run as redraft
from redraft.grading import MathGrader, compare_with_math_verify
from redraft.types import Episode, Problem, Turn


def episode(gold: str, *responses: str, id: str = "p") -> Episode:
    problem = Problem(id=id, task="math", question="?", gold=gold)
    turns = [
        Turn(author="policy", text=text, grade=MathGrader()(problem, text)) for text in responses
    ]
    return Episode(problem=problem, messages=[], turns=turns, protocol="intrinsic")


def test_only_what_the_two_grade_differently_is_listed_and_once() -> None:
    small = r"\boxed{\frac{1}{2^{98}}}"
    episodes = [
        episode(r"\frac{1}{2}", r"\boxed{0.5}", r"\boxed{0.25}"),
        episode(r"\frac{1}{2^{99}}", small, small, id="q"),
    ]
    (difference,) = compare_with_math_verify(episodes)
    assert (difference.problem, difference.ours.correct, difference.theirs) == ("q", False, True)
    assert difference.response == small


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert redraft(["grade", "--task", "math", *arguments]) == 0
    return capsys.readouterr().out


def test_one_pair_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, "--explain", r"\frac{1}{2}", r"so \boxed{0.5}")
    assert out.splitlines() == [
        r"gold      \frac{1}{2}",
        "answer    0.5",
        "readings  number (1/2) = number (1/2)",
        "rule      number",
        "verdict   right",
    ]
    told = json.loads(run(capsys, "--explain", "-5", "The answer is 5", "--json"))
    assert (told["correct"], told["decided_by"]) == (False, "number")
