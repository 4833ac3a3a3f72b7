"""Strategies: what they sample, how they choose, what is counted; on prepared and real models."""

import json
from collections.abc import Callable, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from endpoints import serving
from failing_sandbox import FailingOn
from guessing_model import save_guesser, save_problems
from redraft.chat_rollout import Played, rollout_chat
from redraft.engines import Failed, Messages, Sample, Sampling
from redraft.episode import Episode, Problem, Turn, read_jsonl
from redraft.evaluation import evaluate
from redraft.evaluation.settings import EvaluationSettings
from redraft.evaluation.strategies import PLAYED, uses_oracle
from redraft.evaluation.strategies_cost import vote_at_cost
from redraft.evaluation.strategies_play import Attempt, Table, Trial
from redraft.evaluation.strategies_report import (
    ROWS,
    refinement_table,
    sources_table,
    strategies_table,
)
from redraft.evaluation.strategies_settings import STRATEGIES, StrategyChoice, strategy_names
from redraft.grading import Grader, NumberGrader
from redraft.grading.program import ProgramGrader
from redraft.protocols import Protocol, program_prompts_for, prompts_for
from rise_runs import knowing

LAB = prompts_for("lab/arithmetic")
REQUESTS = program_prompts_for("lab/arithmetic")
SEVEN = Problem(id="seven", task="t", question="3+4?", gold="7")


class Prepared:
    """A model that says prepared texts, in order: chains, programs alone, and programs after a
    chain with that text. An attempt costs its length in tokens."""

    def __init__(
        self,
        chains: Sequence[str] = (),
        alone: Sequence[str] = (),
        after: dict[str, Sequence[str]] | None = None,
    ) -> None:
        self.queues = {"chain": list(chains), "alone": list(alone)}
        self.after = {chain: list(texts) for chain, texts in (after or {}).items()}
        self.temperatures: list[float] = []

    def chat(
        self,
        dialogues: Sequence[Messages],
        sampling: Sampling,
        progress: Callable[[int], None] | None = None,
    ) -> list[Sample | Failed]:
        self.temperatures.append(sampling.temperature)
        return [self._next(messages) for messages in dialogues]

    def _next(self, messages: Messages) -> Sample | Failed:
        if len(messages) == 3:
            text = self.after[messages[1]["content"]].pop(0)
        else:
            asked = "alone" if messages[0]["content"].endswith("Write a program.") else "chain"
            text = self.queues[asked].pop(0)
        if text == "FAIL":
            return Failed("no answer")
        return Sample([], [], text, "stop", len(text))

    def play(
        self,
        problems: Sequence[Problem],
        protocol: Protocol,
        *,
        samples: int,
        stream: Sequence[int],
        progress: Callable[[int], None],
        given: Sequence[Sequence[Turn]] | None = None,
        grader: Grader | None = None,
        temperature: float | None = None,
    ) -> Played:
        heat = 1.0 if temperature is None else temperature
        judge = grader or NumberGrader()
        return rollout_chat(
            problems, protocol, self, judge, Sampling(heat), samples=samples, given=given
        )

    def adopt(self, turn: Turn) -> Turn:
        return turn


def played(name: str, model: Prepared, theirs: Prepared | None = None, **choice: Any) -> Trial:
    """One strategy on the problem whose answer is 7."""
    trial = Trial(SEVEN, StrategyChoice(**choice))
    table = Table(LAB, REQUESTS, model, ProgramGrader(NumberGrader()), "self", theirs)
    PLAYED[name](table, [trial], trial.choice)  # type: ignore[index]
    return trial


def answer(trial: Trial) -> str | None:
    return None if trial.answered is None else trial.answered.answer


def said(trial: Trial) -> list[str]:
    return [attempt.turn.attempt for attempt in trial.attempts]


def test_greedy_strategies() -> None:
    model = Prepared(["it is 5"])
    assert answer(played("chain", model)) == "5"
    assert model.temperatures == [0.0]
    model = Prepared(alone=["print(3+4)"])
    trial = played("program", model)
    assert (answer(trial), trial.attempts[0].executions, model.temperatures) == ("7", 1, [0.0])


def test_one_refinement() -> None:
    trial = played("cap", Prepared(["5"], after={"5": ["print(3+4)"]}))
    assert (answer(trial), said(trial)) == ("7", ["5", "print(3+4)"])
    assert trial.attempts[1].turn.feedback == "7"
    assert [turn.feedback for turn in trial.attempts[1].episode.turns] == [
        "Write a program.", "7",
    ]  # fmt: skip
    broken = played("cap", Prepared(["5"], after={"5": ["print("]}))
    assert answer(broken) == "5"  # a program without an answer leaves the chain's standing


def test_votes() -> None:
    trial = played("majority-chains", Prepared(["5", "7", "7.0", "6"]), budget=4)
    assert answer(trial) == "7"
    programs = ["print(5)", "1/0", "print(7)", "print(7)"]
    trial = played("majority-programs", Prepared(alone=programs), budget=4)
    assert answer(trial) == "7"
    assert sum(attempt.executions for attempt in trial.usable) == 4


def test_a_mix_refines_its_chains_by_turns() -> None:
    model = Prepared(["5", "6"], after={"5": ["print(7)", "print(5)"], "6": ["print(7)"]})
    trial = played("majority-mix", model, budget=5, mix_chains=2)
    assert said(trial) == ["5", "6", "print(7)", "print(7)", "print(5)"]
    chains = [a.chain.attempt for a in trial.programs if a.chain]
    assert chains == ["5", "6", "5"]
    assert answer(trial) == "5"  # as often as 7, and earlier


@pytest.mark.parametrize(
    ("select", "expected"), [("agreement", "7"), ("vote", "5"), ("oracle", "7")]
)
def test_best_of_chains(select: str, expected: str) -> None:
    chains = ["5", "7", "5"] + ["5"] * (select != "agreement")
    model = Prepared(chains, alone=["print(7)"])
    trial = played("best-chains", model, budget=4, select=select)
    assert (answer(trial), len(trial.usable)) == (expected, 4)


@pytest.mark.parametrize(
    ("select", "expected"), [("agreement", "6"), ("vote", "5"), ("oracle", "7")]
)
def test_best_of_programs(select: str, expected: str) -> None:
    programs = ["print(5)", "print(6)", "print(5)", "print(7)"]
    model = Prepared(["6"], alone=programs)
    trial = played("best-programs", model, budget=4 if select != "agreement" else 5, select=select)
    assert answer(trial) == expected


@pytest.mark.parametrize(
    ("select", "expected"), [("agreement", "6"), ("vote", "5"), ("oracle", "7")]
)
def test_best_of_refinements_of_one_chain(select: str, expected: str) -> None:
    programs = ["print(5)", "print(5)", "print(6)", "print(7)"]
    model = Prepared(["6"], after={"6": programs})
    assert answer(played("best-cap", model, budget=5, select=select)) == expected


def test_best_of_n_after_best_of_n() -> None:
    model = Prepared(["5", "6", "6"], after={"6": ["print(5)", "print(7)", "print(7)"]})
    trial = played("bonbon", model, budget=6)
    assert answer(trial) == "7"  # the vote chose chain 6; no program agrees with it
    model = Prepared(["5", "6", "6"], after={"6": ["print(5)", "print(7)", "print(6)"]})
    assert answer(played("bonbon", model, budget=6)) == "6"
    model = Prepared(["5", "7"], after={"7": ["print(5)", "print(7)", "print(5)"]})
    assert answer(played("bonbon", model, budget=5, mix_chains=2, select="oracle")) == "7"


def test_adaptive_stops_at_agreement() -> None:
    model = Prepared(["5", "7", "6"], after={"5": ["print(6)"], "7": ["print(7)"]})
    trial = played("adaptive", model, budget=8)
    assert (answer(trial), said(trial)) == ("7", ["5", "print(6)", "7", "print(7)"])
    model = Prepared(["5", "6"], after={"5": ["print(7)"], "6": ["print(7)"]})
    trial = played("adaptive", model, budget=5)
    assert (answer(trial), len(trial.usable)) == ("7", 4)  # a vote, when the budget is used up


def test_chains_of_another_model() -> None:
    mine, theirs = Prepared(after={"5": ["print(7)"]}), Prepared(["5"])
    assert answer(played("cap", mine, theirs)) == "7"


def test_limits_of_tokens_and_of_executions() -> None:
    chains = ["5", "7", "7"]
    assert answer(played("majority-chains", Prepared(chains), budget=3)) == "7"
    cut = played("majority-chains", Prepared(chains), budget=3, budget_tokens=2)
    assert (answer(cut), len(cut.usable)) == ("5", 2)
    none = played("majority-chains", Prepared(["1234"] * 2), budget=2, budget_tokens=3)
    assert none.answered is None
    model = Prepared(["5"], after={"5": ["print(7)"] * 3})
    cut = played("best-cap", model, budget=4, budget_executions=0)
    assert (answer(cut), len(cut.usable)) == ("5", 1)
    model = Prepared(["5", "5"], after={"5": ["print(7)"] * 2})
    cut = played("adaptive", model, budget=8, budget_executions=1)
    assert len(cut.usable) == 3


def chains_of(*texts: str) -> list[Attempt]:
    """Chains whose cost in tokens is their length."""
    return played("majority-chains", Prepared(texts), budget=max(2, len(texts))).usable


def test_a_vote_at_a_cost_is_over_as_many_samples_as_cost_the_same_on_average() -> None:
    pools = [chains_of("7777", "7", "7"), chains_of("55", "7", "7.0")]  # cost 3, 1, 2 on average
    pools[0][0] = chains_of("6666", "7")[0]
    peer = vote_at_cost(pools, 4)
    assert peer is not None
    assert (peer.samples, peer.tokens, peer.executions) == (2, 4, 0)
    assert peer.right.tolist() == [0, 0]  # of equally frequent answers the first one's
    assert vote_at_cost(pools, 6).right.tolist() == [1, 1]  # type: ignore[union-attr]


def test_between_two_numbers_of_samples_a_vote_is_what_to_expect() -> None:
    peer = vote_at_cost([chains_of("5", "7", "7")], 2.25)
    assert peer is not None
    assert (peer.samples, peer.tokens) == (2.25, 2.25)
    assert peer.right.tolist() == [0.25]


def test_a_cost_beyond_all_samples_is_told_by_the_votes_own() -> None:
    peer = vote_at_cost([chains_of("7", "7")], 100)
    assert peer is not None
    assert (peer.samples, peer.tokens) == (2, 2)


def test_a_vote_over_programs_pays_for_their_runs_too() -> None:
    programs = played("majority-programs", Prepared(alone=["1"] * 3), budget=3).usable
    assert vote_at_cost([programs], 100, 2).samples == 2  # type: ignore[union-attr]
    assert vote_at_cost([programs], 100, 0) is None  # not one could be run


def test_there_is_no_vote_that_is_not_over_one_sample_each() -> None:
    assert vote_at_cost([chains_of("7777", "7")], 3.9) is None
    assert vote_at_cost([chains_of("7777", "7")], 4) is not None
    assert vote_at_cost([[]], 4) is None
    assert vote_at_cost([chains_of("7", "")], 4) is None  # tokens that are not counted
    assert vote_at_cost([chains_of("7", "7")], np.nan) is None


def test_tables_fit_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    whole = [1.0, 1.0]
    entry = {
        "upper_bound": True,
        "accuracy": 1.0,
        "samples": 16.0,
        "tokens": 123_456.7,
        "executions": 7.5,
        "ci95": {"accuracy": whole},
        **{f"vote_{kind}_at_its_cost": 1.0 for kind in ("chains", "programs")},
        **{f"vote_{kind}_samples": 16.0 for kind in ("chains", "programs")},
    }
    summary = {"n_problems": 24, "budget": 16, "strategies": dict.fromkeys(STRATEGIES, entry)}
    intervals = dict.fromkeys(ROWS, whole) | {"accuracy": [whole, whole]}
    metrics = dict.fromkeys(ROWS, 1.0) | {"accuracy": [1.0, 1.0], "ci95": intervals}
    group = {**metrics, "n_samples": 1000, "n_problems": 24, "n_infrastructure": 0}
    refined = {**group, "after_wrong_chain": group, "after_right_chain": group}
    sources = {**refined, "by_source": {"http://localhost:8000/v1#some/model": group}}
    tables = [strategies_table(summary), refinement_table(refined), sources_table(sources)]
    for table in tables:
        console = Console(width=80, file=StringIO())
        console.print(table)
        shown = console.file.getvalue()  # type: ignore[attr-defined]
        assert "…" not in shown
        assert "[100.0, 100.0]" in shown


@pytest.mark.parametrize("name", ["cap", "majority-mix", "bonbon", "adaptive", "best-programs"])
def test_a_trial_whose_model_fails_is_told_and_not_scored(name: str) -> None:
    model = Prepared(["FAIL"] * 4, alone=["7"] * 4)
    assert played(name, model, budget=4).failed == "no answer"
    model = Prepared(["5"] * 4, alone=["FAIL"] * 4, after={"5": ["FAIL"] * 4})
    assert played(name, model, budget=4).failed == "no answer"


def test_a_trial_whose_program_the_sandbox_fails_on_is_told_and_not_scored() -> None:
    model = Prepared(["5"], after={"5": ["print(7)"]})
    with FailingOn("print") as pool:
        trial = Trial(SEVEN, StrategyChoice())
        grader = ProgramGrader(NumberGrader(), pool=pool)
        PLAYED["cap"](Table(LAB, REQUESTS, model, grader), [trial], trial.choice)
    assert trial.failed == "no worker"


def test_only_selection_by_oracle_is_an_upper_bound() -> None:
    oracle, vote = StrategyChoice(select="oracle"), StrategyChoice(select="vote")
    bounds = {name for name in STRATEGIES if uses_oracle(name, oracle)}
    assert bounds == {"best-chains", "best-programs", "best-cap", "bonbon"}
    assert not any(uses_oracle(name, vote) for name in STRATEGIES)


def test_names() -> None:
    assert strategy_names("all") == list(STRATEGIES)
    assert strategy_names("cap, chain") == ["chain", "cap"]
    with pytest.raises(ValueError, match="unknown strategy 'best'"):
        strategy_names("best")


# ---- evaluation with a real model ----


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    save_guesser(folder / "model")
    save_problems(folder / "problems.jsonl", "12121212")
    return folder


def settings(world: Path, **more: Any) -> EvaluationSettings:
    given = {
        "model": str(world / "model"),
        "task": "jsonl",
        "data": world / "problems.jsonl",
        "grader": "exact",
        "prompts": "lab",
        "program_prompts": "lab",
        "temperature": 1.0,
        "max_tokens": 4,
        "budget": 4,
        "device": "cpu",
    }
    return EvaluationSettings(**(given | more))


def test_every_strategy_on_a_model(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = evaluate(settings(world, strategy="all", out=out))
    assert json.loads((out / "summary.json").read_text()) == summary
    entries = summary["strategies"]
    assert list(entries) == list(STRATEGIES)
    answers = [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]
    assert len(answers) == 8 * len(STRATEGIES)
    for name, one in entries.items():
        mine = [row for row in answers if row["strategy"] == name]
        episodes = read_jsonl(out / "episodes" / f"{name}.jsonl", Episode)
        for key in ("samples", "tokens", "executions"):
            assert one[key] == pytest.approx(np.mean([row[key] for row in mine]))
        assert one["accuracy"] == np.mean([row["correct"] for row in mine])
        assert one["samples"] * 8 == len(episodes)
        assert one["tokens"] * 8 == sum(episode.turns[-1].generated for episode in episodes)
        low, high = one["ci95"]["accuracy"]
        assert 0 <= low <= one["accuracy"] <= high <= 1
        assert "vote_chains_at_its_cost" in one
    assert entries["majority-chains"]["vote_chains_at_its_cost"] == pytest.approx(
        entries["majority-chains"]["accuracy"]
    )
    assert entries["majority-chains"]["vote_chains_samples"] == 4
    assert entries["majority-chains"]["gain_over_majority_chains"] == 0
    assert entries["majority-chains"]["vote_programs_at_its_cost"] is None  # it runs none
    assert entries["chain"]["vote_programs_at_its_cost"] is None
    for one in entries.values():
        for kind in ("chains", "programs"):
            if one[f"vote_{kind}_at_its_cost"] is not None:
                assert one[f"vote_{kind}_samples"] >= 1
                assert one[f"vote_{kind}_tokens"] <= one["tokens"] + 1e-9
                assert one["ci95"][f"vote_{kind}_at_its_cost"] is not None
    assert entries["chain"]["executions"] == 0
    assert entries["adaptive"]["samples"] <= 4
    assert summary["refinement"]["strategy"] == "cap"
    assert summary["refinement"]["n_samples"] == 8
    assert json.loads((out / "sandbox.json").read_text())["mechanisms"]


def test_sources_are_evaluated_in_turn(world: Path) -> None:
    with serving(knowing()) as server:
        summary = evaluate(settings(world, strategy="cap", sources=f"self,{server.model}"))
    assert list(summary["strategies"]) == ["cap", f"cap ({server.model})"]
    by_source = summary["refinement"]["by_source"]
    assert by_source[server.model]["accuracy"][0] == 1
    assert summary["refinement"]["n_samples"] == 16
    assert by_source[server.model]["tokens"][0] == 5  # as the endpoint counts


def test_an_endpoint_writes_both(world: Path, tmp_path: Path) -> None:
    with serving(knowing(["3?"])) as server:
        config = settings(
            world, model=server.model, strategy="chain,majority-chains", out=tmp_path / "out"
        )
        summary = evaluate(config)
    assert summary["n_problems"] == 7
    assert [one["id"] for one in summary["failed"]] == ["jsonl/test/3"]
    assert summary["strategies"]["chain"]["accuracy"] == 1
    assert not (tmp_path / "out" / "sandbox.json").exists()  # nothing was run
    assert "1 of 8 problems left out" in strategies_table(summary).caption  # type: ignore[operator]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"strategy": "best"}, "unknown strategy 'best'"),
        ({"strategy": None}, "--budget 4 is of a strategy; give --strategy too"),
        ({"strategy": "majority-chains", "temperature": 0.0}, "would be equal"),
        ({"strategy": "cap", "samples": 2}, "draws its own samples"),
        ({"strategy": "bonbon", "mix_chains": 4}, "leaves no program in a --budget of 4"),
        ({"strategy": "cap", "sources": "self,self"}, "each once"),
        (
            {"strategy": "cap", "task": "mbpp", "grader": None},
            "an answer is a program, judged by its tests",
        ),
    ],
)
def test_settings_that_make_no_sense(world: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(world, **fields)


def test_a_mix_is_refused_only_where_there_is_one(world: Path) -> None:
    settings(world, strategy="majority-chains,adaptive", budget=4, mix_chains=4)
    with pytest.raises(ValueError, match="--mix-chains 4 leaves no program"):
        settings(world, strategy="majority-mix", mix_chains=4)


def test_greedy_strategies_need_no_temperature(world: Path) -> None:
    settings(world, strategy="chain,program,cap", temperature=0.0)


def test_code_tasks_have_the_strategies_that_run_nothing(world: Path) -> None:
    settings(world, strategy="chain,majority-chains", task="humaneval", temperature=1.0)


def test_attempts_know_their_chain() -> None:
    trial = played("cap", Prepared(["5"], after={"5": ["print(5)"]}))
    chain, program = trial.attempts
    assert isinstance(program, Attempt)
    assert chain.chain is None
    assert program.agrees_with_its_chain
    assert not chain.agrees_with_its_chain
