"""Multistep arithmetic: reading expressions, finding the first wrong step, repairing it."""

import json
import random
import re
import time
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from redraft.errors import UserError
from redraft.tasks.bbh.formats import ARITHMETIC, ARITHMETIC_SCRIPT
from redraft.tasks.bbh.generated_arithmetic import CELLS, generated_arithmetic
from redraft.tasks.bbh.steps.arithmetic_rationale import improve, rationale
from redraft.tasks.bbh.steps.expression import (
    UnreadableError,
    evaluate,
    parse,
    question_expression,
    write,
    write_value,
)
from redraft.tasks.steps import QUOTE_LIMIT, StepVerdict

CHECKER = ARITHMETIC_SCRIPT
QUESTION = "((4 * -2 + 3) - (5 - 1 * 2 - -3)) ="  # A = -5, B = 6, together -11

FIRST = 'This equation can be written as "A - B", where A = (4 * -2 + 3) and B = (5 - 1 * 2 - -3).'


def located(question: str, *steps: str) -> tuple[int | None, str, str]:
    """Step, check and span of the verdict on a readable solution."""
    verdict = CHECKER.check(question, steps)
    assert verdict.readable, verdict
    return verdict.step, verdict.check, verdict.span


class TestExpression:
    @given(st.randoms(use_true_random=False), st.sampled_from(sorted(CELLS)))
    @settings(max_examples=20, deadline=None)
    def test_values_are_pythons(self, drawn: random.Random, cell: str) -> None:
        question = generated_arithmetic(cell, "train", drawn.randrange(10**6)).question
        text = question.removesuffix(" =")
        assert evaluate(parse(text)) == eval(text)
        assert write(parse(text)) == text

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("2 - 3 - 4", -5),
            ("2 - 3 * 4 + 1", -9),
            ("--3", 3),
            ("-(2 + 3) * 2", -10),
            ("2(3 + 4)(2)", 28),
            ("[2 + {3 × 4}] − 1", 13),
            (r"$2 \times \left(3 \cdot 4\right)$", 24),
            ("3 x -4", -12),
            ("1,234 + 1", 1235),
            ("A * (B - 1)", 6),
            ("8x7 - 2X(3x-4)", 80),
            ("（3 ＋ 4） × ２ － １", 13),
            ("A_{1} * B_2", 15),
            ("1.5 + 1", Fraction(5, 2)),
            ("-57.0", -57),
            ("8 / 2 * 3 ÷ 5", Fraction(12, 5)),
            ("0.1 + 0.2", Fraction(3, 10)),
        ],
    )
    def test_notations(self, text: str, value: int | Fraction) -> None:
        assert evaluate(parse(text), {"A": 2, "B": 4, "A_1": 3, "B_2": 5}) == value

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "3 +",
            "* 3",
            "(3",
            "3)",
            "()",
            "3 4",
            "2 ** 9",
            "1.5.2",
            "1 / 0 / (",
            "__import__('os')",
            "A(3)",
        ],
    )
    def test_what_is_no_expression(self, text: str) -> None:
        with pytest.raises(UnreadableError):
            parse(text)

    def test_fractions_are_written_out(self) -> None:
        assert write(parse("(1.50 - 2 / A) * 0.125")) == "(1.5 - 2 / A) * 0.125"
        assert write_value(Fraction(-111, 2)) == "-55.5"
        assert write_value(Fraction(8, 7)) == "8/7"
        assert write_value(Fraction(3, 400)) == "0.0075"
        with pytest.raises(UnreadableError, match="zero"):
            evaluate(parse("1 / (2 - 2)"))

    def test_sizes_are_bounded(self) -> None:
        assert evaluate(parse("+".join(["1"] * 9000))) == 9000
        assert evaluate(parse("-" * 4001 + "7")) == -7
        assert evaluate(parse("(" * 90 + "7" + " + 1)" * 90)) == 97
        for text in ("(" * 4000 + "7" + " + 1)" * 4000, "9" * 10**6, "1." + "9" * 10**6):
            with pytest.raises(UnreadableError):
                parse(text)
        for sign in "*/":
            with pytest.raises(UnreadableError, match="beyond"):
                evaluate(parse(f" {sign} ".join(["9" * 200] * 100)))

    @pytest.mark.parametrize(
        ("question", "expression"),
        [
            ("Q: ((1 + 2) * 3) =\nA: Let's think step by step.", "((1 + 2) * 3)"),
            ("Compute (7+2)-(4*6)", "(7 + 2) - (4 * 6)"),
            ("What is 3 - -4 * 2?", "3 - -4 * 2"),
        ],
    )
    def test_questions(self, question: str, expression: str) -> None:
        assert write(question_expression(question)) == expression


class TestRationale:
    def test_format(self) -> None:
        assert rationale(QUESTION) == [
            '(1) This equation can be written as "A - B", where A = (4 * -2 + 3) and '
            "B = (5 - 1 * 2 - -3).",
            "(2) Let's calculate A = (4 * -2 + 3) = (-8 + 3) = -5.",
            "(3) Let's calculate B = (5 - 1 * 2 - -3) = (5 - 2 - -3) = (3 - -3) = 6.",
            "(4) Then, the final equation is A - B = -5 - 6 = -11.",
            "(Final response) So the answer is -11.",
        ]

    @pytest.mark.parametrize("question", ["3 - 4 =", "(5) =", "2 * (3 + 4) - 1", "-(2 + 3) * (-4)"])
    def test_odd_problems_are_confirmed(self, question: str) -> None:
        assert CHECKER.check(question, rationale(question)).confirms

    @given(st.sampled_from(sorted(CELLS)), st.integers(0, 10**6))
    @settings(max_examples=20, deadline=None)
    def test_gold_is_confirmed(self, cell: str, index: int) -> None:
        problem = generated_arithmetic(cell, "train", index)
        lines = rationale(problem.question)
        assert lines[-1] == f"(Final response) So the answer is {problem.gold}."
        assert CHECKER.check(problem.question, lines) == StepVerdict()

    def test_huge_problem_is_refused(self) -> None:
        with pytest.raises(UnreadableError, match="1000"):
            rationale("+".join(["1"] * 1200))


def is_right(lines: list[str], step: int, gold: int) -> bool:
    """Whether one line of a rationale holds, worked out by Python."""
    text = re.sub(r"^\(.*?\) ", "", lines[step]).rstrip(".")
    if step == 0:
        formula, defined = text.split('as "')[1].split('", where ')
        parts = dict(part.split(" = ") for part in re.split(r", | and ", defined))
        return bool(eval(re.sub("[A-Z]", lambda m: parts[m[0]], formula)) == gold)
    if text.startswith("So"):
        return int(text.split()[-1]) == gold
    values = {}
    for line in lines[1:-2]:
        _, letter, value = re.match(r"(.*calculate ([A-Z]) = .*= )(-?\d+)\.$", line).groups()  # type: ignore[union-attr]
        values[letter] = f"({value})"
    terms = re.sub("^.*(?:calculate|equation is) ", "", text).split(" = ")
    if text.startswith("Let"):
        terms[0] = "(" + lines[0].split(f"{terms[0]} = ")[1].split(")")[0].lstrip("(") + ")"
    done = {eval(re.sub("[A-Z]", lambda m: values[m[0]], term)) for term in terms}
    return len(done) == 1 and (text.startswith("Let") or done == {gold})


@given(st.sampled_from(sorted(CELLS)), st.integers(0, 10**6), st.data())
@settings(max_examples=40, deadline=None)
def test_planted_errors_are_located(cell: str, index: int, data: st.DataObject) -> None:
    problem = generated_arithmetic(cell, "train", index)
    lines = rationale(problem.question)
    step = data.draw(st.integers(0, len(lines) - 1))
    body = re.match(r"\(.*?\) ", lines[step]).end()  # type: ignore[union-attr]
    places = [m for m in re.finditer(r"\d+|(?<= )[-+*](?= )", lines[step]) if m.start() >= body]
    place = data.draw(st.sampled_from(places))
    if place[0].isdigit():
        planted = str(int(place[0]) + data.draw(st.integers(1, 12)))
    else:
        planted = data.draw(st.sampled_from(sorted(set("+-*") - {place[0]})))
    wrong = lines[step][: place.start()] + planted + lines[step][place.end() :]
    attempt = [*lines[:step], wrong, *lines[step + 1 :]]
    verdict = CHECKER.check(problem.question, attempt)
    right = is_right(attempt, step, int(problem.gold))
    assume(step > 0 or not right)  # a part changed, but its value or the whole's did not
    expected = None if right else step
    assert verdict.step == expected, (attempt, verdict)
    if expected is not None:
        combination = len(lines) - 2
        names = {0: "partition", combination: "combine", combination + 1: "final"}
        assert verdict.check == names.get(step, "calculate")
        assert verdict.span in wrong
        improved = improve(problem.question, attempt, verdict)
        assert improved[:step] == attempt[:step]
        assert improved[step] != wrong
        assert CHECKER.check(problem.question, improved).confirms


class TestFreeText:
    def test_a_transcription_that_changes_the_problem(self) -> None:
        steps = rationale(QUESTION)
        steps[1] = "Let's calculate A = (4 * 2 + 3) = (8 + 3) = 11."
        step, check, span = located(QUESTION, *steps)
        assert (step, check, span) == (1, "calculate", "A = (4 * 2 + 3)")

    def test_what_follows_from_a_mistake_is_not_the_first(self) -> None:
        steps = [
            FIRST,
            "Let's calculate A = (4 * -2 + 3) = (-8 + 3) = -4.",
            "B = 6.",
            "A - B = -10.",
        ]
        assert located(QUESTION, *steps)[0] == 1

    @pytest.mark.parametrize(
        "steps",
        [
            ["Let A = (4 * -2 + 3) and B = (5 - 1 * 2 - -3).", "A = -5 and B = 6, so A - B = -11."],
            [
                "First, 4 * -2 = -8 and -8 + 3 = -5.",
                "Then 1 * 2 = 2.",
                "5 - 2 - -3 = 6.",
                "-5 - 6 = -11.",
            ],
            ["((4 * -2 + 3) - (5 - 1 * 2 - -3))", "= (-8 + 3) - (5 - 2 + 3)", "= -5 - 6", "= -11"],
            ["The first bracket (4 × −2 + 3) is −5.", "The second is 6.", "**Answer: -11**"],
            [r"$A = 4 \times (-2) + 3 = -5$", r"$B = 6$", r"The answer is $\boxed{-11}$."],
            ["So the answer is -11"],
            ["4 * -2 is -8. Adding 3 gives -5.", "Then 5 - 2 - -3 = 6.", "-5 minus 6 is -11"],
            ["1. 4 * -2 + 3 = -5", "2. 5 - 1 * 2 - -3 = 6", "3. -5 - 6 = -11", "Answer: -11"],
        ],
    )
    def test_right_solutions_are_confirmed(self, steps: list[str]) -> None:
        assert CHECKER.check(QUESTION, steps).confirms

    @pytest.mark.parametrize(
        ("steps", "step", "check"),
        [
            (["A = (4 * -2 + 3), B = (5 - 1 * 2 - -3).", "The whole: A + B = 1."], 1, "combine"),
            (["A = (4 * -2 + 3), B = (5 - 1 * 2 - -3).", "A + B = -5 + 6 = 1."], 1, "combine"),
            (["First, 4 * -2 + 3 = -5.", "5 - 2 - 3 = 0.", "-5 - 0 = -5."], 2, "final"),
            (["= (-8 + 3) - (5 - 2 + 3)", "= -5 - 5", "= -10"], 1, "calculate"),
            (["(4 * -2 + 3) gives -5.", "So -5 - 6 = -11.", "The answer is -12."], 2, "final"),
            (["So the answer is 11"], 0, "final"),
            (["Let's calculate A = (4 * -2 + 3) = (-8 + 3) = ("], 0, "final"),
        ],
    )  # fmt: skip
    def test_wrong_solutions(self, steps: list[str], step: int, check: str) -> None:
        steps = (
            [QUESTION + " " + steps[0].lstrip("= "), *steps[1:]] if steps[0][0] == "=" else steps
        )
        assert located(QUESTION, *steps)[:2] == (step, check)

    def test_a_letter_that_was_never_calculated(self) -> None:
        lines = rationale(QUESTION)
        assert located(QUESTION, *lines[:2], *lines[3:])[:2] == (2, "combine")

    @pytest.mark.parametrize("steps", [[], ["I do not know."], ["   "], ["Sorry!", "1 2 3"]])
    def test_nothing_to_check(self, steps: list[str]) -> None:
        assert not CHECKER.check(QUESTION, steps).readable

    @pytest.mark.parametrize("step", ["2 ** 3 = 8", "5 % 3 = 2", "√4 = 2"])
    def test_other_mathematics_is_passed_over(self, step: str) -> None:
        assert CHECKER.check(QUESTION, [step, "The answer is **-11**!"]).confirms
        assert not CHECKER.check(QUESTION, [step]).readable
        assert not CHECKER.check(step.split(" = ")[0], ["3 = 3"]).readable

    @pytest.mark.parametrize("question", ["7 / 2", "1.5 + 1", "(3 + 4.5) * 2 ="])
    def test_problems_are_of_whole_numbers(self, question: str) -> None:
        assert not CHECKER.check(question, ["3 = 3"]).readable

    @pytest.mark.parametrize(
        ("line", "step"),
        [
            ("A = (4x-2 + 3) = -8 + 3 = -5.", None),
            ("A = (4 * -2 + 3) = -5.0", None),
            ("A = （4 × －2 ＋ 3） ＝ －5", None),
            ("A = (4 ‑ 2 * 6 + 2) = -5", 1),
            ("A = (4 * -2 + 3) = -5.5", 1),
            ("A = （4 × －2 ＋ 3） ＝ －7", 1),
            ("A = (4 / -2 + 3) = -5", 1),
            ("A = (4 * -2 + 3) = -8 / 1 + 3 = -5", None),
            ("A = (4 * -2 + 3) = (-16 / 2 + 3) = -5.00", None),
            ("A = (4 * -2 + 3) = (-8 + 3.1) = -5", 1),
        ],
    )
    def test_notations_of_a_step(self, line: str, step: int | None) -> None:
        lines = [FIRST, line, "B = (5 - 1 * 2 - -3) = 6.", "A - B = -5 - 6 = -11."]
        verdict = CHECKER.check(QUESTION, [*lines, "So the answer is -11"])
        assert (verdict.readable, verdict.step) == (True, step), verdict
        assert verdict.span in line

    def test_a_wrong_fraction_is_carried_on(self) -> None:
        lines = [FIRST, "A = (4 * -2 + 3) = -5.5.", "B = 6.", "A - B = -5.5 - 6 = -11.5."]
        verdict = CHECKER.check(QUESTION, [*lines, "So the answer is -11.5"])
        assert (verdict.step, verdict.check) == (1, "calculate")
        assert verdict.reason == "(4 * -2 + 3) is -5 and not -5.5"
        improved = improve(QUESTION, lines, verdict)
        assert CHECKER.check(QUESTION, improved).confirms

    def test_letters_with_numbers_in_latex(self) -> None:
        lines = [
            "Write it as $A_{1} - A_{2}$, where $A_{1} = (4 * -2 + 3)$ and "
            "$A_{2} = (5 - 1 * 2 - -3)$.",
            "$A_{1} = (-8 + 3) = -5$.",
            "$A_{2} = 6$.",
            "$A_{1} - A_{2} = -5 - 6 = -11$. So the answer is $-11$",
        ]
        assert CHECKER.check(QUESTION, lines).confirms
        lines[2] = "$A_{2} = 7$."
        assert located(QUESTION, *lines) == (2, "calculate", "A_{2} = 7")

    @pytest.mark.parametrize("step", ["3.5 + 1.5 = 5", "9 / 3 = 3", "1 / 3 = 0.33"])
    def test_operations_on_fractions_are_not_the_problems(self, step: str) -> None:
        verdict = CHECKER.check("Compute (7+2)-(4*6)", ["7 + 2 = 9", step, "9 - 24 = -15"])
        assert (verdict.step, verdict.readable) == (1, True)

    def test_a_question_without_an_expression(self) -> None:
        assert not CHECKER.check("How are you?", ["7 + 2 = 9"]).readable

    def test_a_critique_quotes_the_step(self) -> None:
        lines = rationale(QUESTION)
        lines[2] = lines[2].replace("= 6", "= 5")
        assert ARITHMETIC.critique(lines, CHECKER.check(QUESTION, lines)).text == (
            'Step (1) to step (2) are correct. In step (3) the part "(3 - -3) = 5" is incorrect. '
            "This is because (3 - -3) is 6 and not 5."
        )


class TestOperations:
    QUESTION = "Compute (7+2)-(4*6)+(1-1)"

    @pytest.mark.parametrize(
        "text",
        [
            "7 + 2 = 9 ; 4 * 6 = 24 ; 1 - 1 = 0 ; 9 - 24 = -15 ; -15 + 0 = -15",
            "1 - 1 = 0 ; 6 * 4 = 24 ; 7 + 2 = 9 ; -24 + 0 = -24 ; 9 - 24 = -15",
        ],
    )
    def test_right(self, text: str) -> None:
        assert CHECKER.check(self.QUESTION, text.split(" ; ")).confirms
        assert CHECKER.check(self.QUESTION, [text]).confirms

    @pytest.mark.parametrize(
        ("text", "step", "check"),
        [
            ("7 + 2 = 9 ; 4 * 6 = 25 ; 1 - 1 = 0", 1, "calculate"),
            ("7 + 2 = 9 ; 4 + 6 = 10 ; 1 - 1 = 0 ; 9 - 10 = -1 ; -1 + 0 = -1", 1, "partition"),
            ("7 + 2 = 9 ; 4 * 6 = 24 ; 1 - 1 = 0 ; 9 + 24 = 33 ; 33 + 0 = 33", 3, "combine"),
            ("7 + 2 = 9 ; 4 * 6 = 24 ; 1 - 1 = 0 ; 24 - 9 = 15 ; 15 + 0 = 15", 3, "combine"),
            ("7 + 2 = 9 ; 4 * 6 = 24", 1, "final"),
        ],
    )
    def test_wrong(self, text: str, step: int, check: str) -> None:
        steps = text.split(" ; ")
        verdict = CHECKER.check(self.QUESTION, steps)
        assert (verdict.step, verdict.check) == (step, check)
        improved = improve(self.QUESTION, steps, verdict)
        assert improved[:step] == steps[:step]
        assert CHECKER.check(self.QUESTION, improved).confirms
        assert all(re.fullmatch(r"-?\d+ [-+*] -?\d+ = -?\d+", line) for line in improved)

    def test_regrouping(self) -> None:
        assert CHECKER.check(
            "(9 - 3) - (1 + 1) + 2", ["9 - 3 = 6", "1 + 1 = 2", "2 - 2 = 0", "6 - 0 = 6"]
        ).confirms
        assert CHECKER.check("9 - 3 - 4", ["3 + 4 = 7", "9 - 7 = 2"]).confirms
        assert CHECKER.check("9 - 3 - 4", ["3 - 4 = -1", "9 - -1 = 10"]).step == 0

    def test_the_same_operation_in_two_places(self) -> None:
        steps = ["1 + 2 = 3", "3 * 5 = 15", "3 + 4 = 7", "15 + 7 = 22"]
        assert CHECKER.check("((1 + 2) * 5) + ((1 + 2) + 4)", ["1 + 2 = 3", *steps]).confirms


class TestImprove:
    def test_prose_stays_prose(self) -> None:
        steps = [FIRST, "Let's calculate A = -8 + 3 = -6.", "So the answer is 0"]
        assert improve(QUESTION, steps, CHECKER.check(QUESTION, steps)) == [
            FIRST,
            "Let's calculate A = (4 * -2 + 3) = (-8 + 3) = -5.",
            "Let's calculate B = (5 - 1 * 2 - -3) = (5 - 2 - -3) = (3 - -3) = 6.",
            "Then, the final equation is A - B = -5 - 6 = -11. So the answer is -11.",
        ]

    def test_a_letter_whose_expression_has_no_value(self) -> None:
        steps = ["A - B, where A = 4 / 0 = -5 and B = (5 - 1 * 2 - -3).", "A = -6."]
        verdict = CHECKER.check(QUESTION, steps)
        assert (verdict.step, verdict.check) == (1, "calculate")
        assert CHECKER.check(QUESTION, improve(QUESTION, steps, verdict)).confirms

    def test_confirmed_and_unreadable(self) -> None:
        assert improve(QUESTION, ["So the answer is -11"], StepVerdict()) == [
            "So the answer is -11"
        ]
        with pytest.raises(ValueError, match="could not be read"):
            improve(QUESTION, ["?"], StepVerdict(readable=False))


class TestHostileText:
    @pytest.mark.parametrize(
        "step",
        [
            "9" * 10**6,
            "(" * 1000 + "1" + ")" * 1000 + " = 1",
            "(" * 49_000,
            "1 = " * 12_000,
            "A = B = " * 6_000,
            "answer is 3 " * 4_000,
            "9 ** 9 ** 9 ** 9 = 1",
            "\ud800 \x00 = 3 = 3",
            " ".join(f"A{i} = A{i + 1}," for i in range(3000)),
            "1," * 24_000,
            "- " * 24_000 + "1",
            " * ".join(["9" * 250] * 180) + " = 1",
        ],
    )
    def test_ends_soon(self, step: str) -> None:
        before = time.process_time()
        CHECKER.check(QUESTION, [step, "So the answer is -11"])
        CHECKER.check(step, ["So the answer is -11"])
        assert time.process_time() - before < 5

    def test_injected_code_is_not_confirmed(self) -> None:
        step = "Then, the final equation is __import__('os').getpid() * 0 - 11 = -12."
        assert not CHECKER.check(QUESTION, [step]).confirms


class TestGenerated:
    def test_cells(self) -> None:
        assert len(CELLS) == 12
        assert sum(cell.seen for cell in CELLS.values()) == 4
        for cell in CELLS.values():
            problem = generated_arithmetic(cell.name, "test", 3)
            numbers = re.findall(r"\d+", problem.question)
            assert len(numbers) == cell.length * 2 ** len(cell.depth)
            assert problem.metadata["seen"] is cell.seen
            assert int(problem.gold) == eval(problem.question.removesuffix("="))
        with pytest.raises(UserError, match="no multistep arithmetic cell '9'"):
            generated_arithmetic("9", "train", 0)

    def test_a_pure_function_with_disjoint_splits(self) -> None:
        train, test = (
            [generated_arithmetic("2-l3", split, i).question for i in range(200)]
            for split in ("train", "test")
        )
        assert train == [generated_arithmetic("2-l3", "train", i).question for i in range(200)]
        assert len(set(train)) > 195
        assert not set(train) & set(test)


def test_agreement_with_human_labels(shared_data: Path) -> None:
    lines = (shared_data / "bigbench_mistake/multistep_arithmetic.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    verdicts = [CHECKER.check(row["input"], row["steps"]) for row in rows]
    assert all(verdict.readable for verdict in verdicts)
    agreeing = sum(v.step == row["mistake_index"] for v, row in zip(verdicts, rows, strict=True))
    assert agreeing / len(rows) >= 0.92


def test_no_wrong_answer_of_another_model_is_confirmed(shared_data: Path) -> None:
    file = shared_data / "transcripts/bbh_code-davinci-002_cot/multistep_arithmetic_two.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    confirmed = {True: 0, False: 0}
    right = 0
    for row in rows:
        stated = row["prediction"].rpartition("answer is ")[2].rstrip(".").replace(",", "")
        right += stated == row["target"]
        verdict = CHECKER.check(row["input"], row["prediction"].split("\n"))
        confirmed[stated == row["target"]] += verdict.confirms
    assert confirmed[False] == 0
    assert confirmed[True] / right > 0.9


def test_quotations_are_short() -> None:
    verdict = CHECKER.check(QUESTION, ["4 * -2 + 3 = " + "1 + " * 5_000 + "1"])
    assert verdict.step == 0
    assert len(verdict.span) <= QUOTE_LIMIT
    assert len(verdict.reason) <= QUOTE_LIMIT
