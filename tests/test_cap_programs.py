"""Programs in attempts: how they are asked for, run and graded, in the real sandbox."""

from pathlib import Path

import pytest

from failing_sandbox import FailingOn
from redraft.credit.pairs import Outcome
from redraft.episode import Grade, Problem
from redraft.errors import UserError
from redraft.evaluation import evaluate
from redraft.evaluation.settings import EvaluationSettings
from redraft.grading import ExactGrader, NumberGrader, grade_all
from redraft.grading.code import TRIES
from redraft.grading.confinement import check_sandbox
from redraft.grading.grader import UNDECIDED
from redraft.grading.program import ProgramGrader, program_status, was_run
from redraft.lab.corpus import PROGRAM, dialogues
from redraft.protocols import ChainToProgram, ProgramAlone, program_prompts_for, prompts_for
from redraft.sandbox import Limits, Wanted, level

SIX = Problem(id="six", task="t", question="2*3?", gold="6")
BRIEF = Limits(wall_s=1.0, cpu_s=1.0, output_kib=4)


@pytest.fixture(scope="module")
def grader() -> ProgramGrader:
    return ProgramGrader(NumberGrader(), BRIEF)


@pytest.mark.parametrize(
    ("attempt", "correct", "answer", "decided_by"),
    [
        ("print(2 * 3)", True, "6", "string"),
        ("2 * 3", True, "6", "string"),  # the value of its last expression
        ("'6'", True, "6", "string"),
        ("from fractions import Fraction\nFraction(6, 1)", True, "6", "string"),
        ("from fractions import Fraction\nFraction(1, 6)", False, "1/6", "number"),
        ("from decimal import Decimal\nDecimal('6.0')", True, "6.0", "number"),
        ("```python\nprint(2 * 4)\n```\nOutput:\n```\n6\n```", False, "8", "number"),
        ("Here it is.\n```python\nprint(2 * 3)\n```\nDone.", True, "6", "string"),
        ("six = 6\nprint(six)  # that's it", True, "6", "string"),
        ("```python\nprint(6)\n```\nThe answer is 7\n```", True, "6", "string"),
        ("Answer: ```python\nprint(6)\n```", True, "6", "string"),
        ("print('x is', 7)", False, "7", "number"),
        ("print(6)\nraise ValueError('no')", False, None, "program error"),
        ("def f(:", False, None, "program error"),
        ("while True: pass", False, None, "program timeout"),
        ("print('6' * 100_000)", False, None, "program output"),
        ("x = 6", False, None, "program silent"),
        ("", False, None, "program silent"),
        ("print('none to be found')", False, "none to be found", "none"),
    ],
)
def test_what_a_program_prints_is_graded_like_any_answer(
    grader: ProgramGrader, attempt: str, correct: bool, answer: str | None, decided_by: str
) -> None:
    grade = grader(SIX, attempt)
    assert (grade.correct, grade.answer, grade.decided_by) == (correct, answer, decided_by)
    assert bool(grade.reason) >= decided_by.startswith("program")
    # Every verdict can be labelled.
    Outcome(program_status(grade), grade.answer, grade.correct)


def test_many_programs_are_graded_in_order_and_a_truncated_one_is_not_run(
    grader: ProgramGrader, tmp_path: Path
) -> None:
    attempts = [(SIX, f"print({number})") for number in (5, 6, 7, 6)]
    grades = grade_all(grader, attempts, [False, False, False, True])
    assert [grade.correct for grade in grades] == [False, True, False, False]
    assert [was_run(grade) for grade in grades] == [True, True, True, False]
    assert program_status(grades[-1]) == "error"


def test_what_a_program_put_out_is_told(grader: ProgramGrader) -> None:
    assert grader.output("print('a'); print('b')") == "a\nb"
    assert grader.output("print('a'); 1/0") == "a\nZeroDivisionError: division by zero"
    assert grader.output("'value'") == "value"


def test_a_failure_of_the_sandbox_is_tried_again_and_is_no_mistake() -> None:
    with FailingOn("6", times=1) as pool:
        assert ProgramGrader(NumberGrader(), pool=pool)(SIX, "print(6)").correct
    with FailingOn("6") as pool:
        grade = ProgramGrader(NumberGrader(), pool=pool)(SIX, "print(6)")
    assert program_status(grade) == "infrastructure"
    assert grade.decided_by == UNDECIDED
    assert grade.answer is None
    assert "no worker" in grade.reason


def test_a_program_that_the_sandbox_failed_on_is_run_afresh_when_graded_again() -> None:
    with FailingOn("6", times=TRIES) as pool:
        grader = ProgramGrader(NumberGrader(), pool=pool)
        assert grader(SIX, "print(6)").decided_by == UNDECIDED
        assert grader(SIX, "print(6)").correct


def test_a_grader_that_extracts_nothing_takes_all_that_was_printed() -> None:
    def users(problem: Problem, attempt: str) -> Grade:
        return Grade(correct=attempt == "6", decided_by="mine")

    assert ProgramGrader(users)(SIX, "print(' 6 ')").answer == "6"
    assert ProgramGrader(users)(SIX, "print(5)").answer == "5"


def test_strict_is_refused_where_the_level_does_not_suffice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bare = level(Wanted(namespaces=False, landlock=False, seccomp=False))
    monkeypatch.setattr("redraft.grading.confinement.level", lambda: bare)
    assert check_sandbox("best")["strict"] is False
    with pytest.raises(UserError, match="sandbox strict: on this machine a program could"):
        check_sandbox("strict")


# ---- asking for programs ----


def test_the_labs_texts_are_those_of_its_corpus() -> None:
    lab = program_prompts_for("lab/sorting")
    assert lab.refine == PROGRAM
    stream = dialogues(0)
    alone = next(d for d in stream if len(d) == 2 and d[0]["content"].endswith(PROGRAM))
    question = alone[0]["content"].removesuffix(f" {PROGRAM}")
    problem = Problem(id="x", task="lab", question=question, gold="")
    assert [m.model_dump() for m in lab.opening(problem)] == [alone[0]]


def test_a_program_is_asked_for_after_one_attempt_only() -> None:
    prompts, requests = prompts_for("gsm8k"), program_prompts_for("gsm8k")
    cap = ChainToProgram(prompts, requests)
    assert cap.opening(SIX) == prompts.opening(SIX)
    assert cap.feedback(SIX, ["chain"], []) == requests.refine
    assert cap.feedback(SIX, ["chain", "program"], []) is None
    alone = ProgramAlone(requests)
    assert alone.feedback(SIX, ["program"], []) is None
    assert SIX.question in alone.opening(SIX)[0].content


def test_texts_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("alone: 'Code for {question}'\nrefine: Now code.\n")
    mine = program_prompts_for("gsm8k", str(file))
    assert mine.opening(SIX)[0].content == "Code for 2*3?"
    assert mine.refine == "Now code."
    for text, message in (
        ("alone: x\nrefine: y\n", "no {question}"),
        ("alone: '{question}'\n", "'refine' with a text is missing"),
        ("alone: '{question}'\nrefine: y\nretry: z\n", "unknown field 'retry'"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=message):
            program_prompts_for("gsm8k", str(file))
    with pytest.raises(UserError, match="--program-prompts nope: unknown"):
        program_prompts_for("gsm8k", "nope")


def test_exact_answers_are_printed_too() -> None:
    words = Problem(id="w", task="lab/sorting", question="Sort b a", gold="a b")
    assert ProgramGrader(ExactGrader())(words, 'print(*sorted(" b a".split()))').correct
    assert not ProgramGrader(ExactGrader())(words, 'print(" b a")').correct


def test_the_labs_model_writes_programs_that_run(tmp_path: Path) -> None:
    settings = EvaluationSettings(
        model="lab",
        task="lab/arithmetic",
        limit=12,
        strategy="program",
        max_tokens=48,
        device="cpu",
        out=tmp_path / "evaluation",
    )
    assert evaluate(settings)["strategies"]["program"]["accuracy"] > 0.5
