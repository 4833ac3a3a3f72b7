"""Answers by kind (`kinds.txt`): what is right is right, and what is wrong is wrong."""

from collections.abc import Iterator
from pathlib import Path

from redraft.grading import MathGrader, NumberGrader
from redraft.types import Problem

FILE = Path(__file__).with_name("kinds.txt")


def cases() -> Iterator[tuple[str, str, str, bool]]:
    """Kind, gold, answer (␤ is a line break) and verdict of each row."""
    kind = ""
    for line in FILE.read_text("utf-8").splitlines()[1:]:
        if line.startswith("# "):
            kind = line[2:]
        elif line:
            gold, answer, verdict = line.split(" | ")
            yield kind, gold, answer.replace("␤", "\n"), verdict == "+"


def test_answers_of_every_kind() -> None:
    wrong = []
    for kind, gold, answer, right in cases():
        grader = NumberGrader() if kind.endswith("numbers") else MathGrader()
        response = answer if kind.startswith("responses") else rf"It is \boxed{{{answer}}}."
        problem = Problem(id="", task="math", question="?", gold=gold)
        grade = grader(problem, response)
        if grade.correct != right:
            wrong.append((kind, gold, answer, grade.reason))
    assert not wrong
