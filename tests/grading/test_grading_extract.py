"""Finding the answer in an attempt."""

import json
import time
from pathlib import Path

import pytest

from redraft.grading.extract import extract_answer, joined_boxes
from redraft.grading.options import chosen_option


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"So $x = \boxed{42}$.", "42"),
        (r"First \boxed{3}. No, I erred: \boxed{4}.", "4"),
        (r"\boxed{\frac{1}{2}} and a stray } brace", r"\frac{1}{2}"),
        (r"\boxed{3}, then cut off: \boxed{\frac{1}{2", "3"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{x = \boxed{5}}", r"x = \boxed{5}"),
        (r"\fbox{7}", "7"),
        (r"\boxed{}", ""),
        (
            "Final Answer: The final answer is $\\frac{3}{4}$. I hope it is correct.",
            r"$\frac{3}{4}$",
        ),
        ("Final Answer: The final answer is 1,600. I hope it is correct.", "1,600"),
        ("He earns 2*3=6 dollars.\n#### 1,600", "1,600"),
        ("She has 3 + 4 = 7 eggs.\nA: 7", "7"),
        ("The answer is 42 because 6*7 = 43 - 1", "42 because"),
        ("The answer is 42.", "42"),
        ("The answer is -3.5", "-3.5"),
        ("The answer is $28$ percent, I think", "$28$ percent"),
        ("<answer>117</answer> and not 118", "117"),
        ("<think>is it \\boxed{1}?</think> The answer is 2.", "2"),
        ("The answer is 5.<|im_end|>\nThe answer is 6.", "5"),
        ("#### 1 million", "1 million"),
        ("The answer is $2.5 million dollars.", "$2.5 million dollars"),
        ("The answer is $3$ thousand.", "$3$ thousand"),
        ("#### 5 hundred thousand people", "5 hundred thousand people"),
        ("#### 3 dozen eggs", "3"),
        ("#### 2 million-dollar homes", "2"),
        ("The final answer is 100. But is this the final answer?", "100"),
        ("The final answer is 100. But is this the final answer? Yes, it is.", "100"),
        ("The final answer is $x+1$.\nThe final answer is ...", "$x+1$"),
        ("The answer is 5. #### ?", "5"),
        ("The answer is 5.\nThe answer is", "5"),
        ("Final Answer: The final answer is . I hope it is correct.", None),
        ("No number is marked: 12 or 13", None),
        (r"\boxed{unbalanced", None),
        ("", None),
    ],
)
def test_marked_answers(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("64 + 67 = **131**", "131"),
        (r"\frac{1}{2}", r"\frac{1}{2}"),
        ("The number is not 10 but 1,000.99€", "1,000.99"),
        ("We find that $x = 3$.", "$x = 3$"),
        ("Between $a$ and $b$ lie 17 of them.", "17"),
        ("因此 **3页**。", "3"),
        ("no number at all in this sentence of words", None),
        ("__import__('os').system('x') or 0", None),
    ],
)
def test_unmarked_answers_are_found_only_on_request(text: str, answer: str | None) -> None:
    assert extract_answer(text) is None
    assert extract_answer(text, fallback=True) == answer


def test_upstream_extraction_cases(shared_data: Path) -> None:
    rows = [
        json.loads(line)
        for line in (shared_data / "grading" / "extraction_cases.jsonl").read_text().splitlines()
    ]
    ours = [row for row in rows if row["text"] is not None]
    wrong = [
        row["text"]
        for row in ours
        if str(extract_answer(row["text"], fallback=True)).strip() != str(row["expected"]).strip()
    ]
    # Upstream: no answer in a text of at most five words without a marker; ours is the text itself.
    assert wrong == [
        "nothing here",
        "\\boxed  not_brace",
        "\\boxed{unbalanced",
        "no numeric answer",
        "not boxed at all",
        "just 42",
    ]
    assert all(extract_answer(text) is None for text in wrong)


def test_boxes_joined_by_a_connective_are_one_list() -> None:
    assert joined_boxes(r"$\boxed{2} \quad \text{and} \quad \boxed{3}$") == ["2", "3"]
    assert joined_boxes(r"\boxed{1},\boxed{2},\boxed{3}") == ["1", "2", "3"]
    assert joined_boxes(r"\boxed{10} and then \boxed{42}") == ["42"]
    assert joined_boxes(r"\boxed{10}. " + "word " * 30 + r"and \boxed{42}") == ["42"]


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("I think the correct answer is C", "C"),
        ("It is not A because of B, therefore it's B", "B"),
        ("B。不是 A", "B"),
        (r"\boxed{\text{(D)}}", "D"),
        ("(E) all of them", "E"),
        ("none that I'd choose", None),
        ("A crow sits left of the hawk, which is option (C).", "C"),
        ("I think that it is (C)", "C"),
        ("(C) is right, I think", "C"),
        ("A is right", "A"),
        ("The answer is A.", "A"),
        ("A nice problem", None),
        ("A, B, C, D", None),
        ("(A) (B) (C) (D)", None),
        (r"\boxed{A, B}", None),
        ("The answer is not A.", None),
        ("A is wrong, it is B", "B"),
        ("Neither (B) nor (A).", None),
        ("The answer is A/B", None),
    ],
)
def test_choices(text: str, letter: str | None) -> None:
    assert chosen_option(text, {}) == letter


@pytest.mark.parametrize(
    "text",
    [
        r"\boxed{" * 100_000,
        r"\boxed{" * 50_000 + "7" + "}" * 50_000,
        "\\" * 500_000,
        " " * 500_000 + "x",
        "final answer is" + " " * 500_000 + "x",
        "the answer is " * 50_000,
        "is this the final answer? " * 30_000,
        "$ " * 250_000,
        "\\[" * 250_000,
        "<answer>" * 60_000,
        "9" * 500_000,
        "1," * 250_000,
    ],
    ids=lambda text: repr(text[:16]),
)
def test_hostile_text_costs_little(text: str) -> None:
    start = time.process_time()
    extract_answer(text, fallback=True)
    chosen_option(text, {})
    joined_boxes(text)
    # Linear work takes about half a second of CPU here; quadratic work takes minutes.
    assert time.process_time() - start < 20


def test_a_denied_answer_is_none() -> None:
    assert extract_answer("The answer is not 18.") is None
    assert extract_answer("The answer is not 18. The answer is 20.") == "20"
    assert extract_answer("The answer is nothing but 18") is not None


def test_of_a_response_of_megabytes_the_end_is_read() -> None:
    long = "(" * 1_000_000
    assert extract_answer(f"\\boxed{{1}} {long} \\boxed{{2}}") == "2"
    assert extract_answer(f"\\boxed{{1}} {long}") is None
