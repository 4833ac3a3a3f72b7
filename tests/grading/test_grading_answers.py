"""The graders of answers, and their agreement with other projects' verdicts."""

import io
import json
from pathlib import Path

import pytest

from redraft.grading import ChoiceGrader, ExactGrader, MathGrader, NumberGrader
from redraft.storage import complete_lines
from redraft.tasks import get_task, grade_rows
from redraft.types import Problem


def problem(gold: str) -> Problem:
    return Problem(id="p", task="t", question="q", gold=gold)


@pytest.mark.parametrize(
    ("gold", "attempt", "correct", "layer"),
    [
        (r"\sqrt{8}", r"It is $\boxed{2\sqrt{2}}$.", True, "expression"),
        (r"\sqrt{8}", r"It is $\boxed{2\sqrt{3}}$.", False, "expression"),
        ("7", r"First \boxed{3}, then \boxed{7}.", True, "number"),
        ("7", r"First \boxed{7}, then \boxed{3}.", False, "number"),
        ("2, 3", r"$\boxed{3}$ and $\boxed{2}$", True, "collection"),
        ("3", r"$\boxed{2}$ and $\boxed{3}$", True, "number"),
        ("1,600", "So the total is 1600 dollars.", True, "unit on one side"),
        (r"\text{Evelyn}", r"\boxed{Evelyn}", True, "text"),
        ("odd $n$", "odd $n$", True, "text"),
        ("B", "Not A, so it's B", True, "expression"),
        ("7", "No idea at all, sorry about that.", False, "none"),
        ("7", "", False, "none"),
        (r"So it is \boxed{\frac{1}{2}}", "0.5", True, "number"),
        (r"(-\infty, 3)", r"\boxed{x < 3}", True, "set"),
    ],
)
def test_math(gold: str, attempt: str, correct: bool, layer: str) -> None:
    grade = MathGrader()(problem(gold), attempt)
    assert (grade.correct, grade.decided_by) == (correct, layer)
    assert (grade.answer is None) == (layer == "none")


def test_hostile_text_is_never_run(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    code = f"open({str(marker)!r}, 'w').write('x') or 0"
    for attempt in (code, rf"\boxed{{{code}}}", f"The answer is {code}", f"${code}$"):
        MathGrader()(problem("0"), attempt)
        MathGrader()(problem(r"\pi"), attempt)
    assert not marker.exists()


def test_number_exact_and_choice() -> None:
    number, exact, choice = NumberGrader(), ExactGrader(), ChoiceGrader()
    assert number(problem("1,600"), "#### 1600").correct
    assert not number(problem("1,600"), "#### 1.6").correct
    assert number(problem("1000000"), "#### 1 million").correct
    assert not number(problem("1"), "#### 1 million").correct
    assert number(problem("so 18. #### 18"), "The answer is 18.").correct
    assert not number(problem("so 18. #### 18"), "The answer is 19.").correct
    assert number(problem("3"), "The answer is three").decided_by == "none"
    assert exact(problem("a b"), " a b\n").correct
    assert exact(problem("a b"), "Sorted: the answer is a b.").correct
    assert not exact(problem("a b"), "b a").correct
    assert choice(problem("C"), "The answer is (C) Cecile").correct
    assert not choice(problem("C"), "A").correct
    assert choice(problem("C"), "none").decided_by == "none"


def test_golds_that_nothing_can_be_compared_to() -> None:
    golds = ["", "7", r"\frac{1}{", r"x^{2}+1", "odd", r"\boxed{}", r"\frac{-1 \pm \sqrt{13}}{4}"]
    faults = MathGrader().gold_faults(golds)
    assert [fault is None for fault in faults] == [False, True, False, True, True, False, True]
    assert "unbalanced braces" in str(faults[2])
    assert NumberGrader().gold_faults(["12", "so 18. #### 18", "twelve"]) == [
        None,
        None,
        "the gold answer 'twelve' is not a number",
    ]
    assert ChoiceGrader().gold_faults(["A", "z"])[1] is not None


def test_agreement_with_the_verdicts_of_nineteen_projects(shared_data: Path) -> None:
    """`redraft grade --task math` on the rows with a verdict that is about equality: >= 97 %."""
    path = shared_data / "grading" / "pairs.jsonl"
    out = io.StringIO()
    grade_rows(complete_lines(path), get_task("math"), out, str(path))
    rows = [json.loads(line) for _, line in complete_lines(path)]
    verdicts = [json.loads(line)["correct"] for line in out.getvalue().splitlines()]
    compared = [
        (row["expected"], verdict)
        for row, verdict in zip(rows, verdicts, strict=True)
        if row["expected"] is not None and not row.get("convention")
    ]
    assert len(compared) == 400
    agreed = sum(expected == verdict for expected, verdict in compared)
    assert agreed / len(compared) >= 0.97
    false_positives = sum(verdict is True and not expected for expected, verdict in compared)
    assert false_positives <= 3


def test_situations_from_public_bug_reports(shared_data: Path) -> None:
    """At least 97 % of the answers as they should be graded, and no wrong one graded right."""
    path = shared_data / "field_reports" / "cases.jsonl"
    rows = [json.loads(line) for _, line in complete_lines(path)]
    options = "Which?\nOptions:\n(A) 12/24/1937\n(B) 12/25/1937\n(C) 12/25/2006"
    verdicts = []
    for row in rows:
        if row["area"] != "code":
            task = row["task"]
            posed = Problem(id="p", task=task, question=options, gold=row["gold"])
            verdicts.append((get_task(task).grader(posed, row["pred"]).correct, row["expected"]))
    assert len(verdicts) == 303
    assert sum(found == expected for found, expected in verdicts) / len(verdicts) >= 0.97
    assert not any(found and not expected for found, expected in verdicts)
