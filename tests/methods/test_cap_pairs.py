"""CaP's data: the supervised set, and preference pairs of programs."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cap_runs import Chain, program
from redraft.methods.cap.pairs import (
    Pair,
    after_right_chain,
    all_pairs,
    capped,
    chain_of,
    code,
    count_kinds,
    normalised_code,
    supervised_set,
)
from redraft.methods.cap.preference import to_tokens
from redraft.types import Episode

GOOD, BAD = Chain("q", "so 7", "7"), Chain("q", "so 5", "5")


def programs(chain: Chain, labels: list[str], start: int = 0) -> list[Episode]:
    """One program per label, all of different code."""
    return [program(chain, f"x{start + i}", label) for i, label in enumerate(labels)]


def texts(pair: Pair) -> tuple[str, str]:
    return pair.chosen.responses[-1].text, pair.rejected.responses[-1].text


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
        program(BAD, "print(7)", "right"),
        program(BAD, "print( 7 )  # again", "right"),
        program(BAD, "print(5)", "copy"),
        program(Chain("q", "so 6", "6"), "print(7)", "right"),  # another wrong chain
        program(GOOD, "print(7)", "right"),  # another lesson
        program(GOOD, "1/0", "error"),
        program(GOOD, "print(8 - 1)", None),  # the sandbox failed
    ]
    assert supervised_set(pool) == [pool[0], pool[4]]


def test_a_cap_takes_wrong_and_right_chains_by_turns() -> None:
    right, wrong = programs(GOOD, ["right"] * 5), programs(BAD, ["right"] * 5, 10)
    kept = supervised_set(right + wrong, ratio=None, per_question=3)
    assert kept == [wrong[0], right[0], wrong[1]]


def test_the_surplus_comes_off_the_questions_with_most() -> None:
    many = programs(Chain("many", "c", "7"), ["right"] * 4)
    few = programs(Chain("few", "c", "7"), ["right"] * 1, 10)
    wrong = programs(BAD, ["right"] * 3, 20)
    assert supervised_set(many + few + wrong) == [*many[:2], few[0], *wrong]


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
        one
        for i in range(6)
        for one in programs(Chain(f"r{i}", "c", "7"), ["right"])
        + (programs(Chain(f"w{i}", "c", "5"), ["right"]) if i < 4 else [])
    ]
    counts = Counter(map(after_right_chain, supervised_set(pool, ratio=ratio)))
    assert (counts[True], counts[False]) == expected


@pytest.mark.parametrize("settings", [{"ratio": (0, 0)}, {"ratio": (-1, 2)}, {"per_question": 0}])
def test_settings_of_the_supervised_set_that_make_no_sense(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        supervised_set([], **settings)  # type: ignore[arg-type]


# ---- pairs ----


def test_one_pair_of_each_kind_by_hand() -> None:
    after_wrong = programs(BAD, ["right", "copy", "wrong", "timeout"])
    after_right = programs(GOOD, ["right", "wrong", "silent"], 10)
    pairs = all_pairs(after_wrong + after_right)
    assert {(pair.kind, *texts(pair)) for pair in pairs} == {
        ("fix", "x0", "x1"),
        ("fix-hard", "x0", "x2"),
        ("exec", "x0", "x3"),
        ("preserve", "x10", "x11"),
        ("exec", "x10", "x12"),
    }
    assert sorted(map(texts, capped(pairs, exec_share=1.0))) == sorted(map(texts, pairs))
    assert count_kinds(pairs) == {"fix": 1, "fix-hard": 1, "preserve": 1, "exec": 2}


def test_without_a_chain_a_wrong_program_is_hard_to_fix() -> None:
    alone = programs(Chain("q"), ["right", "wrong"])
    assert [pair.kind for pair in all_pairs(alone)] == ["fix-hard"]


def test_prompts_without_a_right_or_without_a_rejected_program_give_no_pair() -> None:
    alone = programs(GOOD, ["right"] * 3) + programs(BAD, ["copy"] * 3, 10)
    assert all_pairs(alone) == []
    assert count_kinds([]) == {"fix": 0, "fix-hard": 0, "preserve": 0, "exec": 0}


def test_a_failure_of_the_sandbox_is_not_rejected() -> None:
    assert all_pairs([program(BAD, "x0", "right"), program(BAD, "x1", None)]) == []


def test_code_that_was_right_once_is_not_rejected_for_being_slow() -> None:
    assert all_pairs([program(BAD, "p()", "right"), program(BAD, "p( )", "timeout")]) == []


def test_a_cap_spreads_over_programs_and_prompts() -> None:
    other = Chain("q", "thus 5", "5")
    pool = programs(BAD, ["right"] * 2 + ["copy"] * 2) + programs(other, ["right", "copy"], 10)
    pairs = all_pairs(pool)
    kept = capped(pairs, per_question=3)
    assert [texts(pair) for pair in kept] == [("x0", "x2"), ("x10", "x11"), ("x1", "x3")]
    assert (count_kinds(pairs)["fix"], count_kinds(kept)["fix"]) == (5, 3)


@pytest.mark.parametrize(("share", "kept"), [(0.0, 0), (0.25, 3), (0.5, 9), (1.0, 12)])
def test_share_of_the_easiest_pairs(share: float, kept: int) -> None:
    pool = [
        one
        for i in range(12)
        for one in programs(
            Chain(f"q{i}", "c", "5"), ["right", "error", *(["copy"] if i < 9 else [])]
        )
    ]
    pairs = all_pairs(pool)
    assert count_kinds(pairs)["exec"] == 12
    assert count_kinds(capped(pairs, exec_share=share)) == {
        "fix": 9, "fix-hard": 0, "preserve": 0, "exec": kept,
    }  # fmt: skip


@pytest.mark.parametrize("settings", [{"exec_share": 1.5}, {"per_question": 0}])
def test_settings_of_pairs_that_make_no_sense(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        capped([], **settings)  # type: ignore[arg-type]


def test_a_pair_in_tokens_is_two_programs_after_the_prompt_they_share() -> None:
    right, copied = programs(BAD, ["right", "copy"])
    pair = to_tokens(Pair("fix", right, copied))
    chain, request, answer = right.turns[:3]
    assert pair.prompt == [*right.prompt_tokens, *chain.tokens, *request.tokens]
    assert (pair.chosen.tokens, pair.rejected.tokens) == (answer.tokens, copied.turns[2].tokens)
    assert (pair.problem, pair.kind, pair.chosen.ref_logprob) == ("q", "fix", None)


# ---- properties ----

chains = st.builds(
    lambda problem, answer: Chain(problem, f"so {answer}", answer),
    st.sampled_from("abc"),
    st.sampled_from(["5", "6", "7", None]),
)
labels = st.sampled_from(["right", "wrong", "copy", "silent", "error", "timeout", None])
pools = st.lists(st.builds(program, chains, st.sampled_from("pqrstuvw"), labels), max_size=60)


@given(pools, st.integers(1, 5), st.sampled_from([0.0, 0.2, 0.5]))
def test_pairs_keep_their_promises(pool: list[Episode], cap: int, share: float) -> None:
    every = all_pairs(pool)
    kept = capped(every, per_question=cap, exec_share=share)
    found, kinds = count_kinds(every), count_kinds(kept)
    assert all(found[kind] >= n for kind, n in kinds.items())
    assert kinds["exec"] <= share * len(kept) + 1e-9
    per_question = Counter((pair.chosen.problem.id, pair.kind) for pair in kept)
    assert max(per_question.values(), default=0) <= cap
    for kind, chosen, rejected in kept:
        assert (chosen.problem.id, chain_of(chosen)) == (rejected.problem.id, chain_of(rejected))
        assert code(chosen) != code(rejected)
        assert chosen.tags["label"] == "right"
        loser = rejected.tags["label"]
        assert loser != "right"
        assert (kind == "exec") == (loser in ("error", "timeout", "silent"))
        if kind == "preserve":
            assert after_right_chain(rejected)
        if kind in ("fix", "fix-hard"):
            assert not after_right_chain(rejected)
            assert (kind == "fix") == (loser == "copy")
    same = Counter(
        (pair.kind, pair.chosen.problem.id, pair.chosen.responses[0].text, *texts(pair))
        for pair in kept
    )
    assert max(same.values(), default=1) == 1


@given(pools, st.integers(1, 5), st.integers(1, 3), st.integers(1, 3))
def test_the_supervised_set_keeps_its_promises(
    pool: list[Episode], cap: int, right: int, wrong: int
) -> None:
    kept = supervised_set(pool, ratio=(right, wrong), per_question=cap)
    free = supervised_set(pool, ratio=None, per_question=cap)
    assert all(episode.tags["label"] == "right" and episode in pool for episode in kept)
    keys = Counter((e.problem.id, after_right_chain(e), code(e)) for e in kept)
    assert max(keys.values(), default=1) == 1
    assert max(Counter(e.problem.id for e in kept).values(), default=0) <= cap
    counts, had = (Counter(map(after_right_chain, side)) for side in (kept, free))
    assert counts[True] == min(had[True], math.ceil(had[False] * right / wrong))
    assert counts[False] == min(had[False], math.ceil(had[True] * wrong / right))
