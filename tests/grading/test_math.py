"""Typed answers: reading them, and the rules that compare them."""

import json
import os
import time
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from math_pairs import PAIRS
from redraft.grading.math import Node, decide, is_number, key, read, show
from redraft.grading.math.units import lookup

EXAMPLES = int(os.environ.get("REDRAFT_TEST_EXAMPLES", "200"))
"""Generated answers of each property (2,000 of each for the figures in docs/grading.md)."""


@pytest.mark.parametrize(("gold", "answer", "right"), PAIRS)
def test_pairs_by_kind(gold: str, answer: str, right: bool) -> None:
    assert decide(gold, answer).correct == right
    assert decide(answer, gold).correct == right


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,600", 1600),
        ("1 600", 1600),
        (r"1\,600.5", Fraction(3201, 2)),
        (r"32,\!349", 32349),
        ("14{,}916", 14916),
        ("12,34,567", 1234567),
        ("1.234.567", 1234567),
        ("$1,000.99", Fraction(100099, 100)),
        (r"\$16386.17", Fraction(1638617, 100)),
        ("-.5", Fraction(-1, 2)),
        (r"\frac34", Fraction(3, 4)),
        (r"-\dfrac{14}{3}", Fraction(-14, 3)),
        (r"2\frac{1}{2}", Fraction(5, 2)),
        (r"-2\frac{1}{2}", Fraction(-5, 2)),
        ("1 1/2", Fraction(3, 2)),
        (r"7.8\times 10^2", 780),
        ("7.8 x 10^2", 780),
        ("1e-6", Fraction(1, 10**6)),
        ("2^{-3}", Fraction(1, 8)),
        ("28 pct", 28),
        (r"12.5\%", Fraction(25, 2)),
        (r"15\mbox{ cm}^2", 15),
        (r"74^\circ", 74),
        ("5 apples", 5),
        ("3 million", 3_000_000),
        (r"\boxed{42}", 42),
        (r"0.1\overline{6}", Fraction(1, 6)),
        ("Fraction(1, 2)", Fraction(1, 2)),
    ],
)
def test_numbers_are_read_exactly(text: str, value: Fraction) -> None:
    assert is_number(text)
    assert key(text)[0] == value


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "5x", "1/0", r"\frac{1}{0}", "0^0", "32, 349", "12:00", "1,2", "yes", "five"),
        *(r"\sqrt{2}", "9^9999999", "AZYUK2A", "204_5", "(1,2)", "1.2.3", "range(3)", "5 or 6"),
    ],
)
def test_what_is_not_one_number(text: str) -> None:
    assert not is_number(text)


@pytest.mark.parametrize(
    ("gold", "answer", "rule"),
    [
        ("5", "5", "number"),
        ("5", "6", "number"),
        (r"\sqrt{8}", r"2\sqrt{2}", "expression"),
        ("10", "10%", "percentage"),
        ("5 m", "5 cm", "quantity"),
        ("5 m", "5", "unit on one side"),
        ("(1,2)", "(1,3)", "collection"),
        ("(1,2)", "5", "unlike types"),
        ("x=5", "5", "value of an equation"),
        ("x>5", r"(5,\infty)", "set"),
        ("y=2x", "2y=4x", "relation"),
        (r"\text{Evelyn}", "evelyn", "text"),
        ("(D) Alina", "D", "choice"),
        ("12:30", "12:15", "time"),
        ("3:2", "6:4", "ratio"),
        ("1000.99", "1000,99", "decimal comma"),
    ],
)
def test_the_rule_that_decides_is_named(gold: str, answer: str, rule: str) -> None:
    assert decide(gold, answer).rule == rule


def test_the_reason_gives_both_readings() -> None:
    assert decide("5", r"\frac{5}{1}").reason == "number 5 = number 5"
    assert decide("(1,2)", "12").reason == "collection (1, 2) is not number 12"


def test_upstream_normal_forms_are_equal_to_their_originals(shared_data: Path) -> None:
    file = shared_data / "grading" / "normalisation_cases.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    pairs = [(row["text"], row["expected"]) for row in rows if row["text"] is not None]
    different = [text for text, form in pairs if not decide(text, form).correct]
    # Labels, articles and words that upstream deletes.
    assert different == ["c. 3", "b: 2", "an answer", "a b c"]


def test_symbols_of_units_keep_their_case() -> None:
    assert lookup("MW") != lookup("mW")
    assert lookup("KILOMETERS") == lookup("km")


@given(st.text(max_size=60))
def test_any_text_can_be_read_and_equals_itself(text: str) -> None:
    read(text)
    assert decide(text, text).correct or not any(map(str.isalnum, text))


# ---- answers of all types, made with one thing to change ----

integers = st.integers(-(10**9), 10**9)
decimals = st.tuples(st.integers(-(10**5), 10**5), st.integers(0, 999)).map(
    lambda parts: f"{parts[0]}.{parts[1]:03}"
)
fractions = st.fractions(max_denominator=1000).map(
    lambda f: rf"\frac{{{f.numerator}}}{{{f.denominator}}}"
)
numbers = st.one_of(integers.map(str), decimals, fractions)
roots = st.builds(r"{}\sqrt{{{}}}".format, st.integers(2, 99), st.sampled_from([2, 3, 5, 6, 7]))
polynomials = st.builds("{}x^{{{}}}+{}y".format, *[st.integers(2, 99)] * 3)
expressions = st.one_of(
    roots,
    polynomials,
    st.builds(r"\frac{{{}\pi}}{{{}}}".format, st.integers(2, 99), st.sampled_from([7, 11, 13])),
)
values = st.one_of(numbers, expressions)
unit_names = st.sampled_from(["cm", "m", "km", "kg", "g", "s", "hours", "m/s", "cm^2", "dollars"])
quantities = st.builds(r"{}\text{{ {}}}".format, integers, unit_names)
tuples = st.lists(numbers, min_size=2, max_size=5).map(lambda e: f"({', '.join(e)})")
sets = st.lists(integers, min_size=1, max_size=5, unique=True).map(
    lambda e: rf"\{{{', '.join(map(str, e))}\}}"
)
lists = st.lists(numbers, min_size=2, max_size=5).map(", ".join)
bounds = st.lists(integers, min_size=2, max_size=2, unique=True).map(sorted)
intervals = st.builds(
    lambda b, left, right: f"{left}{b[0]}, {b[1]}{right}",
    bounds,
    st.sampled_from("(["),
    st.sampled_from(")]"),
)
unions = st.builds(
    lambda a, b, c: rf"(-\infty, {a}) \cup ({a + b}, {a + b + c}]",
    integers,
    st.integers(1, 99),
    st.integers(1, 99),
)
matrices = st.integers(1, 3).flatmap(
    lambda width: st.lists(
        st.lists(numbers, min_size=width, max_size=width), min_size=2, max_size=3
    ).map(
        lambda rows: (
            r"\begin{pmatrix} " + r" \\ ".join(" & ".join(row) for row in rows) + r" \end{pmatrix}"
        )
    )
)
equations = st.builds("y = {}x + {}".format, st.integers(2, 99), integers)
inequalities = st.builds("x {} {}".format, st.sampled_from("<>≤≥"), integers)
times = st.builds("{}:{:02} {}".format, st.integers(1, 12), st.integers(0, 59), st.just("pm"))
choices = st.sampled_from("ABCDEFGHIJ").map(lambda letter: rf"\text{{({letter})}}")
texts = st.sampled_from(["east", "even", "Evelyn", "no solution", "Monday", "hyperbola"])
answers = st.one_of(
    *(values, quantities, tuples, sets, lists, intervals, unions, matrices, equations),
    *(inequalities, times, choices, texts),
)


@given(answers)
@settings(max_examples=EXAMPLES, deadline=None)
def test_what_is_printed_reads_as_the_same(answer: str) -> None:
    node = read(answer)
    assert read(show(node)) == node
    assert decide(answer, answer).correct


SPELLINGS = [
    lambda text: text.replace(r"\frac", r"\dfrac"),
    lambda text: text.replace(" ", "  "),
    lambda text: f"$ {text} $",
    lambda text: text.replace("(", r"\left(").replace(")", r"\right)"),
    lambda text: rf"\boxed{{{text}}}",
    lambda text: text.replace("-", "−"),
    lambda text: show(read(text)),
]


@given(answers, st.sampled_from(SPELLINGS), st.sampled_from(SPELLINGS))
@settings(max_examples=EXAMPLES, deadline=None)
def test_equality_is_symmetric_and_transitive_over_spellings(
    answer: str, one: "type[str]", other: "type[str]"
) -> None:
    first, second = one(answer), other(answer)
    for a, b in ((answer, first), (first, answer), (answer, second), (first, second)):
        assert decide(a, b).correct, (a, b)


@given(answers, answers)
@settings(max_examples=EXAMPLES, deadline=None)
def test_equality_is_symmetric(first: str, second: str) -> None:
    assert decide(first, second).correct == decide(second, first).correct


@given(st.lists(st.integers(-3, 3), min_size=3, max_size=3), st.data())
@settings(max_examples=EXAMPLES, deadline=None)
def test_equality_is_transitive_within_numbers(parts: list[int], data: st.DataObject) -> None:
    forms = ["{}", r"\frac{{{0}0}}{{10}}", "{}.0", "{}+0", r"\sqrt{{4}}\cdot {}-{}", "2({})-{}"]
    a, b, c = (data.draw(st.sampled_from(forms)).format(part, part) for part in parts)
    if decide(a, b).correct and decide(b, c).correct:
        assert decide(a, c).correct


DIGITS = "0123456789"
BEGIN, BREAK, END = r"\begin{pmatrix} ", r" \\ ", r" \end{pmatrix}"


def changes(answer: str) -> list[str]:
    """Answers that differ from this one in one digit, sign, unit, bracket, letter or row."""
    found = []
    for place, character in enumerate(answer):
        if character in DIGITS:
            rest = answer[:place], answer[place + 1 :]
            digit = DIGITS[(DIGITS.index(character) + 1) % 10]
            found.append(digit.join(rest))
    for old, new in (
        ("cm^2", "cm^3"),
        (r" cm}", " mm}"),
        (r" kg}", " g}"),
        ("hours", "minutes"),
        ("m/s", "km/h"),
        ("dollars", "euros"),
        ("pm", "am"),
        ("east", "west"),
        ("even", "odd"),
        (r"\text{(A)}", r"\text{(B)}"),
        (r"\cup", r"\cap"),
        ("≤", "<"),
        ("≥", ">"),
        ("> ", "< "),
        ("]", ")"),
        ("x +", "x -"),
        ("+", "-"),
        (r"\pi", ""),
    ):
        if old in answer and not (old == "x +" and answer.endswith(" 0")):
            found.append(answer.replace(old, new, 1))
    if answer.startswith("-"):
        found.append(answer[1:])
    elif answer[0] in DIGITS:
        found.append("-" + answer)
    if r" \\ " in answer:
        rows = answer.removeprefix(BEGIN).removesuffix(END).split(BREAK)
        found.append(BEGIN + BREAK.join(rows[:-1]) + END)
        if not decide(rows[0], rows[-1]).correct and "&" not in answer:
            found.append(BEGIN + BREAK.join([rows[-1], *rows[1:-1], rows[0]]) + END)
    return found


def is_zero(answer: str) -> bool:
    return decide(answer, "0").correct


@given(answers, st.data())
@settings(max_examples=EXAMPLES, deadline=None)
def test_any_change_makes_an_answer_another(answer: str, data: st.DataObject) -> None:
    if is_zero(answer) or not (possible := changes(answer)):
        return
    changed = data.draw(st.sampled_from(possible))
    if _same_by_hand(answer, changed):
        return
    assert not decide(answer, changed).correct, changed
    assert not decide(changed, answer).correct, changed


def _same_by_hand(answer: str, changed: str) -> bool:
    """Changes that change nothing: 0/2 and 0/3, -0, 1/10 and 2/20."""
    a, b = read(answer), read(changed)
    return bool(_numbers(a) == _numbers(b) and a.kind == b.kind and a.value == b.value)


def _numbers(node: Node) -> list[object]:
    own = [node.value, node.kind] if not node.args else [node.kind, node.value]
    return own + [part for arg in node.args for part in _numbers(arg)]


@pytest.mark.parametrize(
    "answer",
    [
        "9^{9^{9^{9}}}",
        "9**9**9**9",
        "(" * 1900 + "5" + ")" * 1900,
        r"\sqrt{" * 600 + "5" + "}" * 600,
        r"\frac{1}{" * 400 + "5" + "}" * 400,
        "5" + "!" * 3900,
        "1" + "/1" * 1900,
        "x" + "+x^{1000}" * 390,
        r"\sin " * 900 + "x",
        "-" * 3900 + "5",
        r"1" + r"\pm 1" * 700,
        "9" * 2_000_000,
        "9" * 3900,
        "(x+1)^{99999}",
        "12000!+x!",
        r"(1/3)!\cdot " * 300 + "1",
        r"\binom{99999}{5000}+" * 150 + "1",
        r"\exp(\exp(\exp(\exp(10))))",
        r"\sin(10^{1000})",
        ",".join(map(str, range(900))),
        r"\begin{pmatrix}1&2\\3&4\end{pmatrix}" * 90,
        "+".join(f"({number}.5)!" for number in range(400)),
        "|x" * 1900,
        "A" * 3900,
        "5 and " * 600 + "5",
    ],
    ids=lambda text: text[:12],
)
def test_hostile_answers_are_neither_right_nor_slow(answer: str) -> None:
    for gold in ("5", r"\frac{1}{2}", "x^2+1", "(1,2)", "n!", "x>5", r"\text{yes}"):
        start = time.process_time()
        assert not decide(gold, answer).correct
        assert time.process_time() - start < 5


@pytest.mark.parametrize("gold", ["5", r"\frac{1}{2}", "x^2+1", r"\{1,2\}", "A", "x>5", r"\infty"])
@pytest.mark.parametrize(
    "answer",
    [
        *(
            "",
            "?",
            "*",
            ".*",
            "nan",
            "NaN",
            "k",
            "x",
            "None",
            "undefined",
            "0/0",
            "1/0",
            r"\square",
        ),
        *(r"\infty-\infty", r"\frac{0}{0}", "x=x", "0=0", r"x\in\mathbb{R}", "any number"),
        *(r"\text{any}", r"(-\infty,\infty)", r"[0,10]", r"\pm 5", "5 or 6", "5;1/2;x^2+1"),
        *("A,B,C,D", "A or B", r"\text{(A) (B) (C)}", "1,2,3,4,5", r"\{0,1,2,3,4,5\}", "()", "{}"),
        *(r"\ldots", "f(x)", r"5\neq 6", "5<x<5", r"\boxed{}", r"\text{}", "gold", r"\mathbb{C}"),
    ],
)
def test_no_answer_equals_everything(gold: str, answer: str) -> None:
    assert not decide(gold, answer).correct
