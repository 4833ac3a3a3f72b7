"""CaP's data: labels of programs, the supervised set, and typed preference pairs."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redraft.credit.pairs import (
    Chain,
    Label,
    Outcome,
    Program,
    count_labels,
    label,
    normalised_code,
    preference_pairs,
    sft_examples,
)

GOOD, BAD = Chain("q", "so 7", "7", True), Chain("q", "so 5", "5", False)


def finished(answer: str | None, correct: bool = False) -> Outcome:
    return Outcome("finished", answer, correct)


RIGHT = finished("7", True)


def programs(chain: Chain, outcomes: list[Outcome], start: int = 0) -> list[Program]:
    """One program per outcome, all of different code."""
    return [Program(chain, f"x{start + i}", outcome) for i, outcome in enumerate(outcomes)]


@pytest.mark.parametrize(
    ("chain", "outcome", "expected"),
    [
        (BAD, RIGHT, "right"),
        (GOOD, RIGHT, "right"),
        (BAD, finished("5"), "copy"),
        (BAD, finished("6"), "wrong"),
        (GOOD, finished("6"), "wrong"),
        (Chain("q", "no idea", None, False), finished("6"), "wrong"),
        (BAD, finished(None), "silent"),
        (BAD, Outcome("error"), "error"),
        (BAD, Outcome("error", answer="5"), "error"),  # printed before it raised
        (BAD, Outcome("memory"), "error"),
        (BAD, Outcome("output"), "error"),
        (BAD, Outcome("timeout", answer="5"), "timeout"),
        (BAD, Outcome("infrastructure"), None),
    ],
)
def test_labels(chain: Chain, outcome: Outcome, expected: Label | None) -> None:
    assert label(Program(chain, "x", outcome)) == expected


def test_a_copy_is_what_the_grader_calls_the_same_answer() -> None:
    program = Program(Chain("q", "so 0.5", "0.5", False), "x", finished("1/2"))
    assert label(program) == "wrong"
    assert label(program, lambda a, b: {a, b} == {"0.5", "1/2"}) == "copy"


def test_the_right_answer_after_a_right_chain_is_no_copy() -> None:
    """Also where a grader calls an answer wrong that is the right chain's own (by its form)."""
    assert label(Program(GOOD, "x", finished("7"))) == "wrong"


@pytest.mark.parametrize("outcome", [("error", "7", True), ("finished", None, True)])
def test_only_a_finished_run_with_an_answer_is_correct(outcome: tuple[str, str, bool]) -> None:
    with pytest.raises(ValueError, match="cannot be correct"):
        Outcome(*outcome)  # type: ignore[arg-type]


def test_labels_are_counted_by_name() -> None:
    outcomes = [RIGHT, RIGHT, finished("5"), Outcome("infrastructure"), Outcome("memory")]
    assert count_labels(programs(BAD, outcomes)) == {
        "right": 2, "wrong": 0, "copy": 1, "error": 1, "timeout": 0, "silent": 0,
        "infrastructure": 1,
    }  # fmt: skip


# ---- normalised code ----


def test_comments_and_spacing_make_no_new_program() -> None:
    code = "def f(a):\n    return a+1\nprint(f(2))\n"
    same = "# add one\n\ndef f( a ) :\n\treturn a + 1   # here\n\n\nprint( f(2) )"
    assert normalised_code(code) == normalised_code(same)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("print(1)", "print(2)"),
        ("if a:\n  b\n  c", "if a:\n  b\nc"),  # the same words at another depth
        ("print('a b')", "print('a  b')"),
        ("a = 1\nb", "a = 1; b"),
    ],
)
def test_what_differs_stays_different(one: str, other: str) -> None:
    assert normalised_code(one) != normalised_code(other)


@pytest.mark.parametrize(
    "text", ["(((", "if x:\n    a\n  b", "'''", "\x00", "", "naïve ½ 中", "\\"]
)
def test_text_that_is_no_python_is_compared_by_its_words(text: str) -> None:
    assert normalised_code(text) == normalised_code(f"\n{text}  \n")


@given(st.text())
def test_any_text_has_a_normal_form(text: str) -> None:
    assert isinstance(normalised_code(text), str)


# ---- the supervised set ----


def test_only_right_programs_are_imitated_and_none_twice() -> None:
    pool = [
        Program(BAD, "print(7)", RIGHT),
        Program(BAD, "print( 7 )  # again", RIGHT),
        Program(BAD, "print(5)", finished("5")),
        Program(Chain("q", "so 6", "6", False), "print(7)", RIGHT),  # another wrong chain
        Program(GOOD, "print(7)", RIGHT),  # another lesson
        Program(GOOD, "1/0", Outcome("error")),
    ]
    assert sft_examples(pool) == [pool[0], pool[4]]


def test_a_cap_takes_wrong_and_right_chains_by_turns() -> None:
    right, wrong = programs(GOOD, [RIGHT] * 5), programs(BAD, [RIGHT] * 5, 10)
    kept = sft_examples(right + wrong, ratio=None, per_question=3)
    assert kept == [wrong[0], right[0], wrong[1]]


def test_the_surplus_comes_off_the_questions_with_most() -> None:
    many = programs(Chain("many", "c", "7", True), [RIGHT] * 4)
    few = programs(Chain("few", "c", "7", True), [RIGHT] * 1, 10)
    wrong = programs(BAD, [RIGHT] * 3, 20)
    assert sft_examples(many + few + wrong) == [*many[:2], few[0], *wrong]


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        ((1, 1), (4, 4)),
        ((3, 1), (6, 2)),
        ((1, 2), (2, 4)),
        ((0, 1), (0, 4)),
        ((1, 0), (6, 0)),
        (None, (6, 4)),
    ],
)
def test_ratio_of_right_to_wrong_chains(
    ratio: tuple[int, int] | None, expected: tuple[int, int]
) -> None:
    pool = [
        program
        for i in range(6)
        for program in programs(Chain(f"r{i}", "c", "7", True), [RIGHT])
        + (programs(Chain(f"w{i}", "c", "5", False), [RIGHT]) if i < 4 else [])
    ]
    counts = Counter(program.chain.correct for program in sft_examples(pool, ratio=ratio))
    assert (counts[True], counts[False]) == expected


@pytest.mark.parametrize("settings", [{"ratio": (0, 0)}, {"ratio": (-1, 2)}, {"per_question": 0}])
def test_settings_of_the_supervised_set_that_make_no_sense(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        sft_examples([], **settings)  # type: ignore[arg-type]


# ---- pairs ----


def test_one_pair_of_each_kind_by_hand() -> None:
    after_wrong = programs(BAD, [RIGHT, finished("5"), finished("6"), Outcome("timeout")])
    after_right = programs(GOOD, [RIGHT, finished("6"), finished(None)], 10)
    found = preference_pairs(after_wrong + after_right, exec_share=1.0)
    assert {(p.kind, p.chosen.code, p.rejected.code) for p in found.pairs} == {
        ("fix", "x0", "x1"),
        ("fix-hard", "x0", "x2"),
        ("exec", "x0", "x3"),
        ("preserve", "x10", "x11"),
        ("exec", "x10", "x12"),
    }
    assert found.found == found.kept == {"fix": 1, "fix-hard": 1, "preserve": 1, "exec": 2}


def test_prompts_without_a_right_or_without_a_rejected_program_give_no_pair() -> None:
    alone = programs(GOOD, [RIGHT] * 3) + programs(BAD, [finished("5")] * 3, 10)
    found = preference_pairs(alone)
    assert found.pairs == []
    assert found.kept == {"fix": 0, "fix-hard": 0, "preserve": 0, "exec": 0}


def test_a_failure_of_the_sandbox_is_not_rejected() -> None:
    assert preference_pairs(programs(BAD, [RIGHT, Outcome("infrastructure")])).pairs == []


def test_code_that_was_right_once_is_not_rejected_for_being_slow() -> None:
    flaky = [Program(BAD, "p()", RIGHT), Program(BAD, "p( )", Outcome("timeout"))]
    assert preference_pairs(flaky, exec_share=1.0).pairs == []


def test_a_cap_spreads_over_programs_and_prompts() -> None:
    other = Chain("q", "thus 5", "5", False)
    pool = programs(BAD, [RIGHT] * 2 + [finished("5")] * 2)
    pool += programs(other, [RIGHT, finished("5")], 10)
    found = preference_pairs(pool, per_question=3)
    assert [(p.chosen.code, p.rejected.code) for p in found.pairs] == [
        ("x0", "x2"), ("x10", "x11"), ("x1", "x3"),
    ]  # fmt: skip
    assert (found.found["fix"], found.kept["fix"]) == (5, 3)


@pytest.mark.parametrize(("share", "kept"), [(0.0, 0), (0.25, 3), (0.5, 9), (1.0, 12)])
def test_share_of_the_easiest_pairs(share: float, kept: int) -> None:
    pool = [
        program
        for i in range(12)
        for program in programs(
            Chain(f"q{i}", "c", "5", False),
            [RIGHT, Outcome("error"), *([finished("5")] if i < 9 else [])],
        )
    ]
    found = preference_pairs(pool, exec_share=share)
    assert found.found["exec"] == 12
    assert found.kept == {"fix": 9, "fix-hard": 0, "preserve": 0, "exec": kept}


@pytest.mark.parametrize("settings", [{"exec_share": 1.5}, {"per_question": 0}])
def test_settings_of_pairs_that_make_no_sense(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        preference_pairs([], **settings)  # type: ignore[arg-type]


# ---- properties ----

outcomes = st.one_of(
    st.sampled_from(["error", "timeout", "memory", "output", "infrastructure"]).map(Outcome),
    st.sampled_from([finished(None), finished("5"), finished("6"), RIGHT]),
)
chains = st.builds(
    lambda problem, answer: Chain(problem, f"so {answer}", answer, answer == "7"),
    st.sampled_from("abc"),
    st.sampled_from(["5", "6", "7", None]),
)
pools = st.lists(st.builds(Program, chains, st.sampled_from("pqrstuvw"), outcomes), max_size=60)


@given(pools, st.integers(1, 5), st.sampled_from([0.0, 0.2, 0.5]))
def test_pairs_keep_their_promises(pool: list[Program], cap: int, share: float) -> None:
    result = preference_pairs(pool, per_question=cap, exec_share=share)
    kinds = Counter(pair.kind for pair in result.pairs)
    assert {kind: n for kind, n in result.kept.items() if n} == kinds
    assert all(result.found[kind] >= n for kind, n in kinds.items())
    assert kinds["exec"] <= share * len(result.pairs) + 1e-9
    per_question = Counter((pair.chain.problem, pair.kind) for pair in result.pairs)
    assert max(per_question.values(), default=0) <= cap
    for pair in result.pairs:
        assert pair.chosen.chain.prompt == pair.rejected.chain.prompt
        assert pair.chosen.normalised != pair.rejected.normalised
        assert pair.chosen.outcome.correct
        assert not pair.rejected.outcome.correct
        loser = label(pair.rejected)
        assert (pair.kind == "fix") == (loser == "copy")
        assert (pair.kind == "exec") == (loser in ("error", "timeout", "silent"))
        assert (pair.kind == "preserve") == (pair.chain.correct and loser == "wrong")
    texts = Counter((p.chain.prompt, p.chosen.code, p.rejected.code, p.kind) for p in result.pairs)
    assert max(texts.values(), default=1) == 1


@given(pools, st.integers(1, 5), st.integers(1, 3), st.integers(1, 3))
def test_the_supervised_set_keeps_its_promises(
    pool: list[Program], cap: int, right: int, wrong: int
) -> None:
    kept = sft_examples(pool, ratio=(right, wrong), per_question=cap)
    free = sft_examples(pool, ratio=None, per_question=cap)
    assert all(program.outcome.correct and program in pool for program in kept)
    keys = Counter((p.chain.problem, p.chain.correct, p.normalised) for p in kept)
    assert max(keys.values(), default=1) == 1
    assert max(Counter(p.chain.problem for p in kept).values(), default=0) <= cap
    counts, had = (Counter(p.chain.correct for p in side) for side in (kept, free))
    assert counts[True] == min(had[True], math.ceil(had[False] * right / wrong))
    assert counts[False] == min(had[False], math.ceil(had[True] * wrong / right))
