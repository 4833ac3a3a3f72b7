"""Step formats with their scripts: what they say, and that no text harms them."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from redraft.tasks import get_task
from redraft.tasks.steps import LINES
from redraft.types import Problem
from tripost_trajectories import LAB, RIGHT, SECOND, WRONG, format_of


def test_model_text_is_never_run(tmp_path: Path) -> None:
    """TriPosT's released verifier evaluated it."""
    mark = tmp_path / "mark"
    code = f"__import__('pathlib').Path({str(mark)!r}).touch()"
    questions = {
        "lab/arithmetic": "Compute (1+2)-(3*4)",
        "lab/sorting": "Sort b a",
        "bbh/multistep_arithmetic": "((1 + 2) - (3 * 4)) =",
        "bbh/word_sorting": "Sort the following words alphabetically: List: b a",
    }
    for task, question in questions.items():
        form = format_of(task)
        problem = Problem(id="hostile", task=task, question=question, gold=code)
        for steps in (
            [f"1 + 2 = {code}", f"{code} = -9", f"So the answer is {code}."],
            [code, f"(1) {code}", f"A = {code}", "(2) So the answer is 3."],
        ):
            [critique] = form.inspect([(question, steps)])
            assert critique is None or not critique.confirms
            form.mend([(question, steps)])
            form.consistent(problem, steps)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("(1) A = 2\nSo A.\n(2) The answer is 8.", ["(1) A = 2", "(2) The answer is 8."]),
        (
            "(1.) A = 2\nSo A.\n(Final response) So the answer is 8.",
            ["(1.) A = 2", "(Final response) So the answer is 8."],
        ),
        ("((2 + 3) - 1)\n= 4\nSo the answer is 4.", None),
        ("Today is Monday.\n(A) is wrong.\nSo the answer is (B).", None),
        ("(1) A = 2\n(2) B = 6\nSo the answer is 8.", None),
        ("Let's think step by step.\nIt is 8.\n\nQ: And 9?\nIt is 9.", ["It is 8."]),
    ],
)
def test_the_lines_of_a_solution(text: str, kept: list[str] | None) -> None:
    for form in (format_of("bbh/multistep_arithmetic"), LINES):
        assert form.split(text) == (kept or text.split("\n"))


@pytest.mark.parametrize(
    "steps",
    [
        ["(" * 1000 + "1" + ")" * 1000 + " = 1"],
        ["1 + 2 = " + "9" * 1_000_000],
        ["9 ** 9 ** 9 ** 9 = 1"],
        ["\x00", "=", "=== ;"],
    ],
    ids=["brackets", "digits", "tower", "rubbish"],
)
def test_strange_solutions_neither_hang_nor_crash(steps: Sequence[str]) -> None:
    question = "Compute (1+2)-(3*4)"
    _, sane = LAB.inspect([(question, steps), (question, LAB.split(WRONG))])
    assert sane == SECOND


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("alps bear cat", "alps bear cat right"),
        ("bear alps cat", "bear wrong because alps before bear"),
        ("alps cat bear", "alps cat wrong because bear before cat"),
        ("alps bear", "alps bear missing cat"),
        ("alps alps bear cat", "alps alps twice"),
        ("alps cat", "alps cat wrong because bear missing"),
        ("alps bear cat dog", "alps bear cat dog wrong"),
        ("", "missing alps"),
    ],
)
def test_words_out_of_place(text: str, said: str) -> None:
    form = format_of("lab/sorting")
    solution = ("Sort bear cat alps", form.split(text))
    [critique] = form.inspect([solution])
    assert critique is not None
    assert critique.text == said
    assert form.mend([solution]) == [["alps", "bear", "cat"]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (RIGHT, f"{RIGHT} right"),
        (WRONG, "1 + 2 = 3 ; 3 * 4 = 13 wrong because 3 * 4 = 12"),
        ("1 + 2 = 3 ; 3 * 4 = 12", "1 + 2 = 3 ; 3 * 4 = 12 missing 3 - 12 = -9"),
        (f"{RIGHT} ; 1 + 1 = 2", f"{RIGHT} ; 1 + 1 = 2 wrong because answer is -9"),
    ],
)
def test_sums_gone_wrong(text: str, said: str) -> None:
    solution = ("Compute (1+2)-(3*4)", LAB.split(text))
    [critique] = LAB.inspect([solution])
    assert critique is not None
    assert critique.text == said
    [mended] = LAB.mend([solution])
    assert mended is not None
    assert LAB.join(mended) == RIGHT


def test_a_script_solves_what_it_can() -> None:
    question = get_task("lab/arithmetic").load("test", 1).problems[0].question
    solved, unknown = LAB.solve([question, "What is love?"])
    assert solved is not None
    assert unknown is None
