"""Grading the answers of BIG-Bench Hard: sums and multiple choice."""

import time
from pathlib import Path

import pytest

from redraft.tasks import get_task
from redraft.types import Grade, Problem

DATES = "Which date is it?\nOptions:\n(A) 01/01/2003\n(B) 01/02/2003\n(C) 02/02/2003"
ORDER = """\
On a shelf, there are three books: a white book, a green book, and an orange book.
Options:
(A) The white book is the leftmost
(B) The green book is the leftmost
(C) The orange book is the leftmost"""


def grade(name: str, question: str, gold: str, attempt: str) -> Grade:
    grader = get_task(name).grader
    return grader(Problem(id="0", task=name, question=question, gold=gold), attempt)


@pytest.mark.parametrize(
    ("attempt", "letter"),
    [
        ("(B)", "B"),
        ("(b)", "B"),
        ("b", "B"),
        ("B.", "B"),
        ("b)", "B"),
        ("[b]", "B"),
        ("**b**", "B"),
        (r"\boxed{b}", "B"),
        (r"\boxed{\text{(B)}}", "B"),
        ("<answer>b</answer>", "B"),
        ("（Ｂ）", "B"),
        ("option b", "B"),
        ("(b) 01/02/2003", "B"),
        ("(B) 02/02/2003", "B"),
        ("The answer is (b).", "B"),
        ("The answer is b", "B"),
        ("The answer is b.", "B"),
        ("The answer is option (b), because 2 comes after 1.", "B"),
        ("The answer is (B), because (C) is a month later.", "B"),
        ("The answer is not (A) but (B).", "B"),
        ("The answer is **(B) 01/02/2003**.", "B"),
        ("The answer is a bit unclear: (B)", "B"),
        ("answer: B because", "B"),
        ("The correct option is (b).", "B"),
        ("01/02/2003", "B"),
        ("The answer is 01/02/2003.", "B"),
        (r"\boxed{01/02/2003}", "B"),
        ("Today is the first, so the date tomorrow is 01/02/2003.", "B"),
        ("Tomorrow is\n01/02/2003", "B"),
        ("(A) is wrong, so (B)", "B"),
        ("(A) is wrong. (B)", "B"),
        ("(A) cannot be right. Neither can (C). Therefore (B) is right.", "B"),
        ("(A) says it is the first, thus (B) it is", "B"),
        ("It cannot be (A), so it must be (B), not (C).", "B"),
        ("(B)\n\nIf today were the first it would be (A), so the shift matters.", "B"),
        ("So the answer is (A). Wait, no. So the answer is (B).", "B"),
        ("(A)", "A"),
        ("I choose b", "B"),
        ("I'd go with (b).", "B"),
        ("b) is right.", "B"),
        ("The answer is (B), (C) being a month later.", "B"),
        ("The answer is B and A is wrong.", "B"),
        ("The answer is (B) 01/02/2003, or (B) for short.", "B"),
        ("(A) or (B)? I'd say (B).", "B"),
        ("The answer is not A or C; it's B", "B"),
        ("So the answer is not (A), (C), or (D). It is (B).", "B"),
        ("It is not (A), (C) or (D) but (B).", "B"),
        ("It's neither A nor C, so B.", "B"),
        ("It is not (A), (B) is right.", "B"),
        ("The answer is (A). Wait, that's wrong: (B).", "B"),
        ("The answer is (B). I was wrong about the year before.", "B"),
        ("The answer is either (B) or (C).", None),
        ("The answer is (B) or (C).", None),
        ("The answer is B or C", None),
        ("The answer is A or B", None),
        ("The answer is (A) or (B) or (C)", None),
        ("The answer is A, B, C", None),
        ("The answer is (B) and (C).", None),
        ("The answer is B/C", None),
        ("The answer is (B) 01/02/2003 or (C) 02/02/2003", None),
        ("The answer is (B). Well, the answer is (A) or (C).", None),
        ("Either (A) or (B).", None),
        ("(A) or (B)", None),
        ("A or B", None),
        (r"\boxed{A, B}", None),
        ("So (A) or (B).", None),
        ("I choose not to answer.", None),
        ("I choose b or c", None),
        ("The answer is (B), maybe (C)", None),
        ("The answer is (B), or rather (C)", None),
        ("The answer is (B) and I am sure of it.", "B"),
        ("B and C", None),
        ("A and B", None),
        ("A date is asked for.", None),
        ("I do not know.", None),
        ("The answer is 05/05/2005.", None),
        ("01/01/2003 or 01/02/2003", None),
        ("The answer is not known.", None),
        ("(D)", "D"),
        ("", None),
    ],
)
def test_choices(attempt: str, letter: str | None) -> None:
    verdict = grade("bbh/date_understanding", DATES, "(B)", attempt)
    assert verdict.answer == letter
    assert verdict.correct is (letter == "B")
    assert verdict.decided_by == ("none" if letter is None else "string")


@pytest.mark.parametrize(
    ("attempt", "letter"),
    [
        ("The green book is the leftmost.", "B"),
        ("So the answer is that the green book is the leftmost.", "B"),
        ("The white book is not the leftmost. Hence the green book is the leftmost.", "B"),
        ("(Final response) So the answer is: (b).", "B"),
        ("The green book is the rightmost.", None),
        ("A white book is on the shelf.", None),
        ("(A) is out.\nThe green book is the leftmost", "B"),
        (
            "(A) The white book is the leftmost: false. (B) The green book is the leftmost: true.",
            "B",
        ),
        (
            "Option A: The white book is the leftmost - No\n"
            "Option B: The green book is the leftmost - Yes\n"
            "Option C: The orange book is the leftmost - No",
            "B",
        ),
        ("(A) no\n(B) yes\n(C) no", "B"),
        ("(A) ✗ (B) ✓ (C) ✗", "B"),
        ("B is the answer, as A and C contradict the statements.", "B"),
        ("(A) The white book is the leftmost is wrong; (C) is wrong too. So (B).", "B"),
    ],
)
def test_choices_in_words(attempt: str, letter: str | None) -> None:
    assert grade("bbh/logical_deduction", ORDER, "(B)", attempt).answer == letter


def test_a_wording_that_two_options_share_chooses_neither() -> None:
    question = "Options:\n(A) Monday\n(B) Monday, in May\n(C) Friday"
    assert grade("bbh/date_understanding", question, "(B)", "Monday, in May").answer == "B"
    assert grade("bbh/date_understanding", question, "(A)", "Monday").answer == "A"
    same = "Options:\n(A) Monday\n(B) Monday"
    assert grade("bbh/date_understanding", same, "(A)", "Monday").answer is None


def test_choices_without_options_to_read() -> None:
    for attempt in ("(j)", "J", "The answer is (J)."):
        assert grade("bbh/date_understanding", "?", "(J)", attempt).correct
    assert not grade("bbh/date_understanding", "?", "(J)", "01/02/2003").correct


def test_golds_of_choices() -> None:
    grader = get_task("bbh/date_understanding").grader
    faults = grader.gold_faults(["(B)", "b", "yes"])
    assert faults == [None, None, "the gold answer 'yes' names no choice"]


def test_every_option_and_its_wording(shared_data: Path) -> None:
    """Of every problem of the benchmark: the gold letter, and the gold's wording, are right."""
    for name in ("bbh/date_understanding", "bbh/logical_deduction"):
        task = get_task(name, shared_data / "bbh")
        for problem in task.load("test").problems[::10]:
            options = {
                line[:3]: line[4:] for line in problem.question.splitlines() if line[:1] == "("
            }
            assert problem.gold in options
            for letter, wording in options.items():
                right = letter == problem.gold
                for attempt in (letter.lower(), f"So the answer is {letter} {wording}.", wording):
                    assert task.grader(problem, attempt).correct is right, (attempt, problem)


@pytest.mark.parametrize(
    "attempt",
    [
        "-63",
        "−63",
        "- 63",
        "(-63)",
        "= -63",
        "= - 63\n",
        "minus 63",
        "negative 63",
        "The answer is -63",
        "The answer is −63.",
        "The answer is - 63.",
        "The answer is minus 63",
        "The answer is negative 63.",
        "The answer is -63, not 63.",
        "The answer is **-63**, since 54 + 9 is 63.",
        "The answer is -63 because -54 - 9 = -63, and not 63.",
        "The answer is -54 - 9 = -63.",
        "The answer is A - B = -54 - 9 = -63.",
        "The answer is the number -63.",
        "Answer: -63 (and not 63)",
        "A - B = -63",
        "A − B = −63.",
        "$A - B = -63$",
        r"\(A - B = -63\)",
        r"\boxed{A - B = -63}",
        r"\boxed{-63}",
        r"\boxed{\text{minus } 63}",
        "(4) A - B = -54 - 9 = -63.",
        "So we get −63 in the end.",
        "The answer is -63.0",
        "So it is 54 minus 117, which is -63.",
        "The answer is 63. Wait, no. The answer is A - B = -63.",
        "The answer is 63, or rather:\n#### -63",
        "The answer is 63, or rather <answer>-63</answer>",
        "-63 = 7 * -9",
        "The answer is -63 = 7 * -9.",
        "So -63 = 7 * -9",
        "**-63** = 7 * -9",
        r"\boxed{-63 = 7 \times -9}",
        "$A = 7 * -9 = -63$ ✓",
        "The answer is -63 and not 63.",
        "-63 and not 63",
        "-63, because 63 has the wrong sign",
        "A negative 63",
        "The result is a negative 63.",
        "It comes to minus 63",
        "7 times minus 9 gives minus 63",
        "The answer is -6.3e1",
        "The answer is **$-63$** (see above).",
        "It evaluates to **-63**.\n\nHere is how: 7 * -10 = -70; -70 + 7 = -63; 4 * 1 = 4.",
    ],
)
def test_sums_that_come_to_minus_63(attempt: str) -> None:
    assert grade("bbh/multistep_arithmetic", "?", "-63", attempt).correct
    assert not grade("bbh/multistep_arithmetic", "?", "63", attempt).correct
    assert grade("bbh/multistep_arithmetic-cells", "?", "-63", attempt).correct


@pytest.mark.parametrize(
    "attempt",
    [
        "63",
        "The answer is 63, not -63.",
        "The answer is 63.",
        "A - B = 63",
        "-63 and 5",
        "The answer is -63 and 5.",
        "-63 = A - B = 63",
        "A = -63, B = 5",
        "The answer is -63/2",
        "The answer is -63 million",
        "The answer is -63 * 2",
        "The answer is -63 * (2)",
        "The answer is **-63*A**",
        "The answer is (-63)(2)",
        r"The answer is -63 \times 2",
        "The answer is -63 (plus 2)",
        "The answer is -63x2",
        "The answer is -63²",
        "A = -6 * 3",
        "The answer is -18 = -6 * 3",
        "((-6)) = -6 * 3.",
        "The answer is A = -6 3",
        "-63 = 63 = A * 7",
        "= -6 3",
        "",
        "The answer is not -63",
    ],
)
def test_sums_that_do_not(attempt: str) -> None:
    assert not grade("bbh/multistep_arithmetic", "?", "-63", attempt).correct


@pytest.mark.parametrize(
    "attempt",
    [
        "So 1050 = 15 * 70",
        "So it is 15 * 70",
        "A is 15 - (70)",
        "It is the total minus 70",
        "The total is 85, minus 70",
        "We get (85) minus 70",
        "The answer is 15, plus 70",
        "It is 15 times 70.",
        "**85** minus 70",
    ],
)
def test_an_operand_is_no_answer(attempt: str) -> None:
    for gold in ("70", "-70"):
        assert not grade("bbh/multistep_arithmetic", "?", gold, attempt).correct


@pytest.mark.parametrize(
    "attempt",
    [
        "- 70",
        "Result - 70",
        "It is *70*.",
        "Sum:\n* 70",
        "A is 140 / 2, so 70",
        "1. 35 * 2 = 70",
    ],
)
def test_what_looks_like_an_operand(attempt: str) -> None:
    gold = "-70" if attempt == "- 70" else "70"
    assert grade("bbh/multistep_arithmetic", "?", gold, attempt).correct


def test_a_sum_of_differences_keeps_its_signs() -> None:
    assert grade("bbh/multistep_arithmetic", "?", "63", "The answer is 70 minus 7 = 63").correct
    assert grade("bbh/multistep_arithmetic", "?", "63", "A minus 7 is 63").correct


@pytest.mark.parametrize("name", ["bbh/date_understanding", "bbh/multistep_arithmetic"])
@pytest.mark.parametrize(
    "attempt",
    [
        "(" * 200_000,
        "(a" * 100_000,
        "so " * 100_000,
        "answer is " * 50_000,
        "not " * 100_000 + "(b)",
        "= - " * 100_000,
        "minus " * 100_000,
        "answer is -" + "9" * 300_000,
        "\x00\ud800(b)",
        " " * 300_000,
    ],
)
def test_hostile_attempts_are_graded_at_once(name: str, attempt: str) -> None:
    began = time.process_time()
    grade(name, DATES, "(C)" if "date" in name else "7", attempt)
    assert time.process_time() - began < 1.0


@pytest.mark.parametrize(
    ("attempt", "right"),
    [
        ("apple beach cat\n\nLet me know if you need anything else!", True),
        ("Sorted:\n1. apple\n2. beach\n3. cat\n\nHope this helps!", True),
        ("First I sort.\n\napple, beach, cat\n\nThis is the list, in order.", True),
        ("- apple\n- beach\n- cat\n\nThat is it.", True),
        ("beach apple cat\n\nNo, wait:\n\napple beach cat\n\nDone.", True),
        ("apple beach cat\n\nNo, wait:\n\nbeach apple cat\n\nDone.", False),
        ("1. apple\n2. cat\n3. beach\n\nHope this helps!", False),
        ("apple beach\n\nLet me know if you need anything else!", False),
    ],
)
def test_a_list_on_lines_of_its_own_before_a_closing_phrase(attempt: str, right: bool) -> None:
    found = grade("bbh/word_sorting", "Sort: cat apple beach", "apple beach cat", attempt)
    assert found.correct == right
