"""Sequential against parallel attempts: by hand, by property, and what an oracle may not touch."""

import io
import itertools
import json
from random import Random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from evaluation_episodes import critique, episode, turn
from redraft.errors import UserError
from redraft.evaluation import sequential as comparison
from redraft.evaluation.metrics import self_correction_metrics
from redraft.evaluation.sequential import (
    OracleFree,
    OracleLeakError,
    fitting,
    is_oracle,
    pass_at_k,
    system_difference,
    tokens,
    until_right,
    values_by_problem,
)
from redraft.evaluation.tables import (
    sequential_comparison,
    sequential_markdown,
    sequential_table,
)

R, W = True, False


def summarise_sequential(*episodes, **options):
    """The comparison as `summary.json` has it."""
    return comparison.summarise_sequential(*episodes, **options).to_summary()["sequential"]


GOLD = {"a": "8", "b": "4", "c": "1"}


def made(problem, *attempts, sample=0, protocol="intrinsic"):
    """An episode of (answer, tokens) attempts at a problem of `GOLD`."""
    right = (GOLD[problem], f"{GOLD[problem]}.0")
    turns = [turn(answer in right, answer=answer, tokens=n) for answer, n in attempts]
    return episode(problem, turns, sample).model_copy(update={"protocol": protocol})


def alone(problem, *attempts):
    """Parallel samples of one turn each."""
    return [made(problem, attempt, sample=s) for s, attempt in enumerate(attempts)]


SEQUENTIAL = [
    made("a", ("5", 10), ("8", 20), ("8.0", 30)),
    made("b", ("4", 10), ("3", 10), ("3", 15)),
    made("c", (None, 5), (None, 5), ("1", 6)),
]
PARALLEL = [
    *alone("a", ("8", 10), ("5", 12), ("5", 14)),
    *alone("b", ("4", 20), ("4", 10), ("3", 30)),
    *alone("c", ("2", 4), ("2", 4), (None, 4)),
]


@pytest.fixture(scope="module")
def summary():
    return summarise_sequential(SEQUENTIAL, PARALLEL, 3)


def test_three_problems_by_hand(summary):
    expected = {
        "turns": 3,
        "n_problems": 3,
        "n_samples": 3,
        "n_parallel": 9,
        "m1_t1": (1 / 3 + 2 / 3 + 0) / 3,
        "m3_t1": 1 / 3,  # 5 beats 8; 4 beats 3; 2 beats an abstention
        "m1_t3": 2 / 3,  # 8 beats 5; 3 beats 4; 1 is the only vote
        "last_t3": 2 / 3,
        "p1_t3": 1.0,
        "pass_3": 2 / 3,
        "accuracy": [1 / 3, 1 / 3, 2 / 3],
        "i_to_c_by_turn": [1 / 3, 1 / 3],
        "c_to_i_by_turn": [1 / 3, 0.0],
        # Budgets 60, 35 and 16: three of a (36), two of b (30), three of c (12) fit.
        "m_t1_equal_tokens": 1 / 3,
        "samples_equal_tokens": 8 / 3,
        "short_of_samples": 2 / 3,  # a and c had tokens left for another of mean length
        "tokens_m1_t1": (12 + 20 + 4) / 3,
        "tokens_m3_t1": 36.0,
        "tokens_pass_3": 36.0,
        "tokens_m1_t3": (60 + 35 + 16) / 3,
        "tokens_p1_t3": (30 + 10 + 16) / 3,
        "tokens_m_t1_equal_tokens": 26.0,
        "m1_t3_minus_m1_t1": 1 / 3,
        "m1_t3_minus_m3_t1": 1 / 3,
        "m1_t3_minus_m_t1_equal_tokens": 1 / 3,
        "p1_t3_minus_pass_3": 1 / 3,
    }
    assert summary.keys() == {*expected, "ci95"}
    for name, value in expected.items():
        assert summary[name] == pytest.approx(value), name


def test_every_number_has_an_interval_around_it(summary):
    counts = {"turns", "n_problems", "n_samples", "n_parallel", "ci95"}
    assert summary["ci95"].keys() == summary.keys() - counts
    for name, interval in summary["ci95"].items():
        by_turn = isinstance(summary[name], list)
        values = summary[name] if by_turn else [summary[name]]
        for value, (low, high) in zip(values, interval if by_turn else [interval], strict=True):
            assert low - 1e-12 <= value <= high + 1e-12
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_differences_are_paired_by_problem():
    # Both votes are right on a and wrong on b, so their difference varies less than each of the two
    # does; with two problems no interval says much.
    both = summarise_sequential(
        [made("a", ("8", 1), ("8", 1)), made("b", ("3", 1), ("3", 1))],
        [*alone("a", ("8", 1), ("8", 1)), *alone("b", ("3", 1), ("3", 1))],
        2,
    )
    assert both["ci95"]["m1_t2"] == pytest.approx([0, 1], abs=0.01)
    assert both["ci95"]["m2_t1"] == pytest.approx([0, 1], abs=0.01)
    low, high = both["ci95"]["m1_t2_minus_m2_t1"]
    assert low == -high


# What an oracle may not touch


@pytest.mark.parametrize("protocol", ["oracle", "rise-oracle", "Oracle", "oracle_stop"])
def test_an_oracle_protocol_is_refused_by_name(protocol):
    # All wrong until the last turn: nothing but the name gives it away.
    shaped = made("a", ("5", 1), ("6", 1), ("8", 1), protocol=protocol)
    assert is_oracle(protocol)
    with pytest.raises(ValueError, match=f"'a'.*{protocol}.*right answers.*m1@t3"):
        OracleFree((shaped,), 3)


@pytest.mark.parametrize("protocol", ["intrinsic", "rise-no-oracle", "no_oracle", "non-oracle"])
def test_a_protocol_that_says_it_has_no_oracle_is_taken_at_its_word(protocol):
    assert not is_oracle(protocol)
    assert OracleFree((made("a", ("5", 1), ("8", 1), protocol=protocol),), 2).turns == 2


def test_an_episode_that_stopped_early_is_refused_whatever_its_protocol():
    stopped = made("b", ("3", 1), ("4", 1), sample=7)
    full = made("a", ("5", 1), ("8", 1), ("8", 1))
    with pytest.raises(ValueError, match=r"'b' \(sample 7\): it has 2 of 3 turns.*m1@t3"):
        OracleFree((full, stopped), 3)
    with pytest.raises(OracleLeakError, match="2 of 3 turns"):
        summarise_sequential([full, stopped], PARALLEL, 3)
    with pytest.raises(UserError):  # one line on the command line, too
        summarise_sequential([full, stopped], PARALLEL, 3)


def test_real_rollouts_of_the_oracle_are_refused():
    from redraft.chat.protocols import Oracle

    shaped = made("a", ("5", 1), ("8", 1), protocol=Oracle.name)
    with pytest.raises(OracleLeakError):
        OracleFree((shaped,), 2)


def test_no_number_without_an_oracle_moves_with_the_oracles_episodes(summary):
    """p1@tK may come from an oracle's own episodes; then it and nothing else follows them."""
    stopped = [
        made("a", ("5", 3), ("6", 3), ("7", 3), protocol="oracle"),
        made("b", ("4", 7), protocol="oracle"),
        made("c", ("2", 1), ("1", 1), protocol="oracle"),
    ]
    aided = summarise_sequential(SEQUENTIAL, PARALLEL, 3, oracle=stopped)
    moved = {name for name in summary if aided[name] != summary[name]} - {"ci95"}
    assert moved == {"p1_t3", "tokens_p1_t3", "p1_t3_minus_pass_3"}
    assert aided["p1_t3"] == pytest.approx(2 / 3)
    assert aided["tokens_p1_t3"] == pytest.approx((9 + 7 + 2) / 3)


def test_an_oracles_episode_goes_on_until_one_is_right():
    with pytest.raises(UserError, match="'a' ends at a wrong answer after 2 of 3 turns"):
        summarise_sequential(
            SEQUENTIAL,
            PARALLEL,
            3,
            oracle=[made("a", ("5", 1), ("6", 1)), *SEQUENTIAL[1:]],
        )


def test_the_oracle_pays_up_to_the_first_right_turn_only():
    turns = made("a", ("5", 10), ("8", 20), ("8", 40)).turns
    assert tokens(until_right(turns, 3)) == 30
    assert tokens(until_right(turns[:1] * 3, 3)) == 30
    assert len(until_right(turns, 1)) == 1


# Samples


def test_longer_episodes_count_up_to_turn_k():
    longer = [
        e.model_copy(update={"turns": [*e.turns, turn(R, answer="99", tokens=50)]})
        for e in SEQUENTIAL
    ]
    assert summarise_sequential(longer, PARALLEL, 3) == summarise_sequential(
        SEQUENTIAL, PARALLEL, 3
    )


def test_first_turns_of_sequential_episodes_serve_as_parallel_attempts(summary):
    padded = [
        e.model_copy(update={"turns": [*e.turns, turn(R, answer="0", tokens=9)]}) for e in PARALLEL
    ]
    assert summarise_sequential(SEQUENTIAL, padded, 3) == summary


def test_more_samples_than_k_make_more_votes():
    # Votes over samples 0-1, 2-3; the fifth is left over. Ties go to the earlier answer.
    parallel = alone("a", ("8", 1), ("5", 1), ("5", 1), ("8", 1), ("8", 1))
    values = values_by_problem(OracleFree((made("a", ("8", 1), ("8", 1)),), 2), parallel[::-1])
    assert values.columns["m2_t1"].tolist() == [0.5]
    assert values.columns["m1_t1"].tolist() == [0.6]
    assert values.columns["pass_2"] == pytest.approx([1 - 1 / 10])  # of ten pairs one is all wrong


def test_problems_count_once_however_often_they_were_sampled():
    sequential = [
        *(made("a", ("8", 4), ("8", 4), sample=s) for s in range(3)),
        made("b", ("3", 8), ("3", 8)),
    ]
    parallel = [*alone("a", *[("8", 4)] * 6), *alone("b", *[("3", 8)] * 2)]
    result = summarise_sequential(sequential, parallel, 2)
    assert [result[name] for name in ("m1_t1", "m2_t1", "m1_t2", "p1_t2", "pass_2")] == [0.5] * 5
    assert result["tokens_m1_t2"] == 12
    assert result["n_samples"] == 4


def test_too_few_parallel_attempts():
    with pytest.raises(UserError, match=r"'c' has 2 parallel first responses.*at least 3"):
        summarise_sequential(SEQUENTIAL, PARALLEL[:-1], 3)


def test_other_problems_in_parallel():
    with pytest.raises(UserError, match=r"sequential and the parallel.*1 problems.*'c'"):
        summarise_sequential(SEQUENTIAL, PARALLEL[:6], 3)


@pytest.mark.parametrize("turns", [1, 0, -2])
def test_fewer_than_two_turns(turns):
    with pytest.raises(UserError, match=f"turns={turns}"):
        summarise_sequential(SEQUENTIAL, PARALLEL, turns)


def test_no_episodes():
    with pytest.raises(UserError, match="no sequential episodes"):
        summarise_sequential([], PARALLEL, 3)


# Equal tokens


def test_attempts_that_fit_a_budget():
    attempts = [turn(W, answer="1", tokens=n) for n in (10, 30, 5)]
    sizes = {b: len(fitting(attempts, b)) for b in (0, 9, 10, 39, 40, 44, 45, 99)}
    assert sizes == {0: 0, 9: 0, 10: 1, 39: 1, 40: 2, 44: 2, 45: 3, 99: 3}


def test_a_budget_that_pays_for_no_attempt_gives_no_answer():
    values = values_by_problem(
        OracleFree((made("a", ("8", 2), ("8", 3)),), 2), alone("a", ("8", 6), ("8", 1))
    )
    assert values.columns["m_t1_equal_tokens"].tolist() == [0]
    assert values.columns["samples_equal_tokens"].tolist() == [0]
    assert values.columns["tokens_m_t1_equal_tokens"].tolist() == [0]
    assert values.columns["m2_t1"].tolist() == [1]


# Episodes that the model itself ends


def refined(*turns):
    """A Self-Refine episode on problem a that the model has found correct."""
    update = {"protocol": "self-refine", "outcome": "confirmed"}
    return episode("a", turns).model_copy(update=update)


def test_what_the_model_found_correct_stands_in_the_turns_it_did_not_take():
    """Right, then confirmed: right in all of 4 turns, at 12 tokens."""
    episodes = (refined(turn(R, answer="8", tokens=10), critique("it is correct", tokens=2)),)
    values = values_by_problem(OracleFree(episodes, 4), alone("a", *[("8", 10)] * 4)).columns
    assert [values[f"accuracy/turn{t}"].item() for t in (1, 2, 3, 4)] == [1, 1, 1, 1]
    assert values["m1_t4"].item() == values["p1_t4"].item() == 1
    assert values["tokens_m1_t4"].item() == 12
    assert values["tokens_p1_t4"].item() == 10  # an oracle needs no critique


def test_a_critique_is_paid_for_with_the_answer_after_it():
    wrong, right = turn(W, answer="5", tokens=10), turn(R, answer="8", tokens=20)
    last = turn(R, answer="8", tokens=30)
    whole = episode("a", [wrong, critique("no", tokens=4), right, critique("yes", tokens=5), last])
    values = values_by_problem(OracleFree((whole,), 3), alone("a", *[("8", 10)] * 7)).columns
    assert values["tokens_m1_t3"].item() == 69
    assert values["tokens_p1_t3"].item() == 34
    assert values["samples_equal_tokens"].item() == 6


def test_a_full_context_ends_an_episode_as_the_model_does():
    outgrown = made("a", ("8", 10)).model_copy(update={"outcome": "truncated"})
    values = values_by_problem(OracleFree((outgrown,), 2), alone("a", ("8", 1), ("5", 1))).columns
    assert (values["m1_t2"].item(), values["tokens_m1_t2"].item()) == (1, 10)
    nothing = outgrown.model_copy(update={"turns": []})
    values = values_by_problem(OracleFree((nothing,), 2), alone("a", ("8", 1), ("5", 1))).columns
    assert (values["m1_t2"].item(), values["tokens_m1_t2"].item()) == (0, 0)


def test_an_attempt_of_no_tokens_is_counted():
    """An endpoint that answers with nothing says that it was 0 tokens."""
    spoken, silent = (
        turn(W, tokens=3),
        turn(W, tokens=0).model_copy(update={"completion_tokens": 0}),
    )
    assert tokens([spoken, silent]) == 3
    assert np.isnan(tokens([spoken, turn(W, tokens=0)]))


def test_tokens_that_nobody_counted_leave_the_rest_standing():
    uncounted = [made("a", ("5", 0), ("8", 3)), *SEQUENTIAL[1:]]
    result = summarise_sequential(
        [e.model_copy(update={"turns": e.turns[:2]}) for e in uncounted], PARALLEL, 2
    )
    undefined = {name for name, value in result.items() if value is None}
    assert undefined == {
        "tokens_m1_t2",
        "tokens_p1_t2",
        "tokens_m_t1_equal_tokens",
        "m_t1_equal_tokens",
        "samples_equal_tokens",
        "short_of_samples",
        "m1_t2_minus_m_t1_equal_tokens",
    }
    assert {name for name, value in result["ci95"].items() if value is None} == undefined
    assert result["tokens_m1_t1"] == 12


def test_an_endpoints_own_count_of_tokens():
    counted = turn(R, answer="8").model_copy(update={"completion_tokens": 11})
    assert tokens([counted, counted]) == 22


def test_graders_that_name_no_answer_leave_votes_undefined():
    # A grader of code says right or wrong; to call every vote wrong would be a lie.
    bare = episode("a", [turn(R, answer=None), turn(W, answer=None)])
    result = summarise_sequential([bare], [bare, bare.model_copy(update={"sample": 1})], 2)
    assert result["m1_t2"] is result["m2_t1"] is result["m1_t2_minus_m2_t1"] is None
    assert result["p1_t2"] == result["pass_2"] == result["m1_t1"] == 1


# pass@k


@pytest.mark.parametrize("n", range(1, 8))
def test_pass_at_k_is_the_share_of_draws_that_hold_a_right_one(n):
    for c, k in itertools.product(range(n + 1), range(1, n + 1)):
        draws = list(itertools.combinations([True] * c + [False] * (n - c), k))
        assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_pass_at_k_of_many_samples():
    assert pass_at_k(10_000, 1, 100) == pytest.approx(0.01)
    assert pass_at_k(10_000, 0, 100) == 0
    assert pass_at_k(10_000, 9_901, 100) == 1


@pytest.mark.parametrize(("n", "c", "k"), [(3, 4, 1), (3, -1, 1), (3, 1, 4), (3, 1, 0), (0, 0, 1)])
def test_pass_at_k_of_the_impossible(n, c, k):
    with pytest.raises(ValueError, match=f"n={n}, c={c}, k={k}"):
        pass_at_k(n, c, k)


# Properties

unhurried = settings(  # a busy machine is not a failure
    deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
attempts = st.tuples(st.sampled_from(["4", "8", "4.0", "9", None]), st.integers(1, 9))


@st.composite
def worlds(draw):
    """K, sequential and parallel episodes of up to four problems; "4" is right."""
    k = draw(st.integers(2, 4))
    sequential, parallel = [], []
    for problem in range(draw(st.integers(1, 4))):
        for kind, samples, turns in (
            (sequential, draw(st.integers(1, 3)), k),
            (parallel, draw(st.integers(k, k + 3)), 1),
        ):
            for sample in range(samples):
                tried = draw(st.lists(attempts, min_size=turns, max_size=turns))
                made_turns = [turn(a in ("4", "4.0"), answer=a, tokens=n) for a, n in tried]
                kind.append(episode(f"p{problem}", made_turns, sample))
    return k, sequential, parallel


@unhurried
@given(worlds())
def test_what_holds_on_every_problem(world):
    k, sequential, parallel = world
    columns = values_by_problem(OracleFree(tuple(sequential), k), parallel).columns
    close = 1e-9
    for number in range(1, k + 1):
        assert (columns[f"p1_t{k}"] >= columns[f"accuracy/turn{number}"] - close).all()
    # An answer that wins a vote was given, so whoever may pick any answer does no worse.
    assert (columns[f"p1_t{k}"] >= columns[f"m1_t{k}"] - close).all()
    assert (columns[f"pass_{k}"] >= columns["m1_t1"] - close).all()
    assert (columns[f"tokens_p1_t{k}"] <= columns[f"tokens_m1_t{k}"]).all()
    assert (columns["tokens_m_t1_equal_tokens"] <= columns[f"tokens_m1_t{k}"] + close).all()
    assert columns[f"last_t{k}"] == pytest.approx(columns[f"accuracy/turn{k}"])
    for number in range(2, k + 1):
        gained = columns[f"i_to_c_by_turn/turn{number}"] - columns[f"c_to_i_by_turn/turn{number}"]
        step = columns[f"accuracy/turn{number}"] - columns[f"accuracy/turn{number - 1}"]
        assert gained == pytest.approx(step)


@unhurried
@given(worlds())
def test_stopping_in_hindsight_is_what_the_oracle_would_have_seen(world):
    k, sequential, parallel = world
    stopped = [
        e.model_copy(update={"turns": e.turns[: (e.correct.index(R) + 1) if R in e.correct else k]})
        for e in sequential
    ]
    unaided = OracleFree(tuple(sequential), k)
    plain = values_by_problem(unaided, parallel).columns
    aided = values_by_problem(unaided, parallel, stopped).columns
    for name, values in plain.items():
        assert values.tolist() == aided[name].tolist()


@unhurried
@given(worlds(), st.integers(0, 9))
def test_the_order_of_episodes_does_not_matter(world, seed):
    k, sequential, parallel = world
    random = Random(seed)
    forward = values_by_problem(OracleFree(tuple(sequential), k), parallel)
    mixed = random.sample(sequential, len(sequential)), random.sample(parallel, len(parallel))
    backward = values_by_problem(OracleFree(tuple(mixed[0]), k), mixed[1])
    places = [backward.problems.index(problem) for problem in forward.problems]
    for name, values in forward.columns.items():
        assert backward.columns[name][places] == pytest.approx(values), name


@unhurried
@given(worlds())
def test_accuracy_is_that_of_the_other_metrics(world):
    k, sequential, _ = world
    once = [e for e in sequential if e.sample == 0]  # equally many samples of each problem
    parallel = [e.model_copy(update={"sample": s}) for e in once for s in range(k)]
    columns = values_by_problem(OracleFree(tuple(once), k), parallel).columns
    by_turn = [columns[f"accuracy/turn{t}"].mean() for t in range(1, k + 1)]
    assert by_turn == pytest.approx(self_correction_metrics(once)["accuracy"])


# Two systems


def test_a_system_less_itself_is_nothing():
    values = values_by_problem(OracleFree(tuple(SEQUENTIAL), 3), PARALLEL)
    turned = values_by_problem(OracleFree(tuple(SEQUENTIAL[::-1]), 3), PARALLEL[::-1])
    nothing = system_difference(values, turned, "m1_t3")
    assert (nothing.value, nothing.low, nothing.n_problems) == (0, -nothing.high, 3)


def test_one_system_gains_more_from_its_turns():
    def system(repairs):
        played = [episode(f"p{p}", [W, p < repairs]) for p in range(40)]
        return values_by_problem(
            OracleFree(tuple(played), 2),
            [e.model_copy(update={"sample": s}) for e in played for s in (0, 1)],
        )

    gain = system_difference(system(30), system(10), "last_t2")
    assert gain.value == pytest.approx(0.5)
    assert 0.3 < gain.low < 0.4 < 0.6 < gain.high < 0.7  # ± 2.02 sqrt(0.25 / 39)
    assert gain.excludes_zero
    with pytest.raises(UserError, match="'m1_t9' is not in both"):
        system_difference(system(1), system(2), "m1_t9")
    assert system_difference(system(1), system(2), "tokens_m1_t2") is None


def test_systems_on_different_problems():
    a = values_by_problem(OracleFree(tuple(SEQUENTIAL), 3), PARALLEL)
    b = values_by_problem(OracleFree(tuple(SEQUENTIAL[:2]), 3), PARALLEL[:6])
    with pytest.raises(UserError, match=r"first system's and the second.*'c'"):
        system_difference(a, b, "m1_t3")


# Tables


def render(table, width=80):
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(table)
    return out.getvalue()


def test_a_row_per_strategy(summary):
    lines = render(sequential_table(summary, "base [on] a"), 100).splitlines()
    rows = [[cell.strip() for cell in line.strip("│ ").split("│")] for line in lines if "│" in line]
    shown = {row[0].split(",")[0]: (row[1], row[3:]) for row in rows}
    assert shown["m1@t1"] == ("33.3", ["12.0"])
    assert shown["m3@t1"] == ("33.3", ["36.0"])
    assert shown["m@t1"] == ("33.3", ["26.0"])
    assert shown["m1@t3"] == ("66.7", ["37.0"])
    assert shown["last@t3"] == ("66.7", ["37.0"])
    assert shown["p1@t3"] == ("100.0", ["18.7"])
    assert shown["pass@3"] == ("66.7", ["36.0"])
    assert shown["m1@t3 − m3@t1"][0] == "+33.3"
    assert shown["p1@t3 − pass@3"][0] == "+33.3"
    assert "base [on] a" in lines[0]
    text = " ".join(" ".join(lines).split())
    assert "66.7 % of the parallel votes at equal tokens ran out of samples" in text


@pytest.mark.parametrize("width", [80, 120])
def test_a_row_per_system(summary, width):
    systems = {"base": summary, "[red]RISE[/red]": summary}
    lines = render(sequential_comparison(systems, "Held-out"), width).splitlines()
    assert max(len(line.rstrip()) for line in lines) <= width
    low, high = (100 * bound for bound in summary["ci95"]["m1_t3_minus_m3_t1"])
    shown = f"base 33.3 33.3 66.7 +33.3 [{low:.1f}, {high:+.1f}] 33.3 100.0 66.7 1.03"
    assert next(line for line in lines if line.startswith("base")).split() == shown.split()
    assert any(line.startswith("[red]") for line in lines)  # a name is not markup
    assert "…" not in "".join(lines)


def test_tables_read_a_summary_from_disk(summary):
    again = json.loads(json.dumps(summary))
    assert render(sequential_table(again)) == render(sequential_table(summary))
    assert sequential_markdown({"a": again}) == sequential_markdown({"a": summary})


def test_captions_say_what_was_left_out(summary):
    text = render(sequential_table({**summary, "n_failed": 1}), 100)
    assert "1 of 4 problems left out" in " ".join(text.split())


def test_undefined_numbers_are_dashes():
    bare = episode("a", [turn(R, answer=None), turn(W, answer=None)])
    result = summarise_sequential([bare], [bare, bare.model_copy(update={"sample": 1})], 2)
    row = sequential_markdown({"code": result}).splitlines()[2]
    assert row == "| code | 100.0 | – | – | – | – | – | 100.0 | 100.0 | – |"
    assert "–" in render(sequential_table(result))


def test_markdown_escapes_names(summary):
    text = sequential_markdown({"a|b\n*c*": summary, "d": summary})
    lines = text.split("\n\n")[0].splitlines()
    assert lines[2].startswith("| a\\|b \\*c\\* | 33.3 |")
    assert {line.replace("\\|", "").count("|") for line in lines} == {11}


def test_systems_of_one_table_have_equally_many_turns(summary):
    pair = [e.model_copy(update={"turns": e.turns[:2]}) for e in SEQUENTIAL]
    two = summarise_sequential(pair, PARALLEL, 2)
    with pytest.raises(UserError, match="2, 3 turns in one table"):
        sequential_comparison({"two": two, "three": summary})
    with pytest.raises(UserError, match="no turns"):
        sequential_markdown({})


def test_a_vote_beats_its_attempts_where_most_are_right():
    """In the long run: 60 % right and wrong answers scattered, a vote over five is right 68 % up.

    The share of samples with three or more of five right is 0.683; ties among fewer add to it.
    """
    random = np.random.default_rng(0)
    draw = random.random((400, 5))
    others = random.integers(10, 20, size=(400, 5))
    parallel, sequential = [], []
    for p in range(400):
        turns = [
            turn(R, answer="4") if draw[p, s] < 0.6 else turn(W, answer=str(others[p, s]))
            for s in range(5)
        ]
        parallel += [episode(f"p{p}", [t], s) for s, t in enumerate(turns)]
        sequential.append(episode(f"p{p}", turns))
    result = summarise_sequential(sequential, parallel, 5)
    assert result["m1_t1"] == pytest.approx(0.6, abs=0.03)
    assert result["m5_t1"] == result["m1_t5"] > 0.68
    low, high = result["ci95"]["m1_t5_minus_m1_t1"]
    assert 0 < low < result["m5_t1"] - result["m1_t1"] < high
