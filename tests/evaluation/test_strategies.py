"""Strategies: what they sample, how they choose, what is counted; on prepared and real models."""

import json
from collections.abc import Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from endpoints import Asked, Behaviour, Handler, completion, serving
from failing_sandbox import FailingOn
from guessing_model import save_guesser, save_problems
from redraft.chat.prompts import ProgramPrompts, Prompts
from redraft.engines.base import Failed, Reply, Request, Response, Sampling, Watch
from redraft.evaluation import evaluate
from redraft.evaluation.result import read_episodes
from redraft.evaluation.settings import (
    STRATEGIES,
    EvaluationSettings,
    StrategyChoice,
    strategies_named,
)
from redraft.evaluation.strategies import OURS, Sample, Sampler, Strategy, Trial, play_strategy
from redraft.evaluation.strategy_tables import (
    REFINEMENT,
    refinement_table,
    sources_table,
    strategies_table,
)
from redraft.evaluation.summaries import vote_at_cost
from redraft.grading import NumberGrader
from redraft.grading.program import ProgramGrader
from redraft.types import Problem

PLAIN = Prompts(name="plain", first="{question}", retry="Again.")
REQUESTS = ProgramPrompts(
    name="short", alone="{question} Write a program.", refine="Write a program."
)
SEVEN = Problem(id="seven", task="t", question="3+4?", gold="7")
NAMED = {strategy.name: strategy for strategy in OURS}


class Prepared:
    """An engine that says prepared texts, in order: chains, programs alone, and programs after a
    chain with that text. A response costs its length in tokens."""

    template = None

    def __init__(
        self,
        chains: Sequence[str] = (),
        alone: Sequence[str] = (),
        after: dict[str, Sequence[str]] | None = None,
    ) -> None:
        self.queues = {"chain": list(chains), "alone": list(alone)}
        self.after = {chain: list(texts) for chain, texts in (after or {}).items()}
        self.sampled: list[Sampling] = []

    @property
    def temperatures(self) -> list[float]:
        return [sampling.temperature for sampling in self.sampled]

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        reply: Reply | None = None,
        watch: Watch | None = None,
    ) -> list[list[Response | Failed]]:
        self.sampled.append(sampling)
        return [[self._next(request)] for request in requests]

    def sync_weights(self, version: str) -> None:
        pass

    def _next(self, request: Request) -> Response | Failed:
        messages = request.messages
        if len(messages) == 3:
            text = self.after[messages[1].content].pop(0)
        else:
            asked = "alone" if messages[0].content.endswith("Write a program.") else "chain"
            text = self.queues[asked].pop(0)
        if text == "FAIL":
            return Failed("no answer")
        if text == "FULL":
            return Failed("the context is full", context_full=True)
        return Response(text, "stop", [], [], len(text) or None)


def sampler(model: Prepared, theirs: Prepared | None = None) -> Sampler:
    grader = NumberGrader()
    return Sampler(
        "", PLAIN, REQUESTS, model, grader, ProgramGrader(grader), Sampling(1.0), writer=theirs
    )


def played(name: str, model: Prepared, theirs: Prepared | None = None, **choice: Any) -> Trial:
    """One strategy on the problem whose answer is 7."""
    strategy, drawn = NAMED[name], sampler(model, theirs)
    [trial] = play_strategy(strategy, drawn, [SEVEN], StrategyChoice(**choice))
    return trial


def answer(trial: Trial) -> str | None:
    return None if trial.answered is None else trial.answered.answer


def said(trial: Trial) -> list[str]:
    return [sample.turn.text for sample in trial.samples]


def test_greedy_strategies() -> None:
    model = Prepared(["it is 5"])
    assert answer(played("chain", model)) == "5"
    assert model.temperatures == [0.0]
    model = Prepared(alone=["print(3+4)"])
    trial = played("program", model)
    assert (answer(trial), trial.samples[0].executions, model.temperatures) == ("7", 1, [0.0])


def test_one_refinement() -> None:
    trial = played("cap", Prepared(["5"], after={"5": ["print(3+4)"]}))
    assert (answer(trial), said(trial)) == ("7", ["5", "print(3+4)"])
    episode = trial.samples[1].episode
    assert [turn.text for turn in episode.turns] == ["5", "Write a program.", "print(3+4)"]
    assert episode.grades[1].output == "7"
    broken = played("cap", Prepared(["5"], after={"5": ["print("]}))
    assert answer(broken) == "5"  # a program without an answer leaves the chain's standing


def test_votes() -> None:
    trial = played("majority-chains", Prepared(["5", "7", "7.0", "6"]), budget=4)
    assert answer(trial) == "7"
    programs = ["print(5)", "1/0", "print(7)", "print(7)"]
    trial = played("majority-programs", Prepared(alone=programs), budget=4)
    assert answer(trial) == "7"
    assert sum(sample.executions for sample in trial.usable) == 4


def test_a_mix_refines_its_chains_by_turns() -> None:
    model = Prepared(["5", "6"], after={"5": ["print(7)", "print(5)"], "6": ["print(7)"]})
    trial = played("majority-mix", model, budget=5, mix_chains=2)
    assert said(trial) == ["5", "6", "print(7)", "print(7)", "print(5)"]
    chains = [one.chain.text for one in trial.programs if one.chain]
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


def chains_of(*texts: str) -> list[Sample]:
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
    summary = {"n_problems": 24, "budget": 16, "strategies": dict.fromkeys(NAMED, entry)}
    intervals = dict.fromkeys(REFINEMENT, whole) | {"accuracy": [whole, whole]}
    metrics = dict.fromkeys(REFINEMENT, 1.0) | {"accuracy": [1.0, 1.0], "ci95": intervals}
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
        grader = ProgramGrader(NumberGrader(), pool=pool)
        drawn = replace(sampler(model), program_grader=grader)
        [trial] = play_strategy(NAMED["cap"], drawn, [SEVEN], StrategyChoice())
    assert trial.failed is not None
    assert "no worker" in trial.failed


def test_only_selection_by_oracle_is_an_upper_bound() -> None:
    oracle, vote = StrategyChoice(select="oracle"), StrategyChoice(select="vote")
    bounds = {strategy.name for strategy in OURS if strategy.uses_oracle(oracle)}
    assert bounds == {"best-chains", "best-programs", "best-cap", "bonbon"}
    assert not any(strategy.uses_oracle(vote) for strategy in OURS)


def test_names() -> None:
    assert strategies_named("all") == OURS
    assert strategies_named("cap, chain") == [NAMED["chain"], NAMED["cap"]]
    with pytest.raises(ValueError, match="unknown strategy 'best'"):
        strategies_named("best")


def test_calls_of_a_strategy_draw_different_random_numbers() -> None:
    model = Prepared(["5", "7"], after={"5": ["print(6)"], "7": ["print(7)"]})
    played("adaptive", model, budget=8)
    assert len({sampling.seed for sampling in model.sampled}) == 4
    again = Prepared(["5", "7"], after={"5": ["print(6)"], "7": ["print(7)"]})
    played("adaptive", again, budget=8)
    assert again.sampled == model.sampled


def test_the_chains_of_another_model_are_a_teachers() -> None:
    mine, theirs = Prepared(after={"5": ["print(7)"]}), Prepared(["5"])
    [trial] = play_strategy(
        NAMED["cap"],
        replace(sampler(mine, theirs), source="other"),
        [SEVEN],
        StrategyChoice(sources="other"),
    )
    chain, _, program = trial.samples[1].episode.turns
    assert (chain.author, chain.source, chain.generated) == ("teacher", "other", 1)
    assert program.author == "policy"


def test_a_program_that_has_no_room_was_cut_off() -> None:
    trial = played("cap", Prepared(["5"], after={"5": ["FULL"]}))
    chain, program = trial.samples
    assert (program.kind, program.answer, program.turn.truncated) == ("program", None, True)
    assert (program.executions, answer(trial)) == (0, "5")
    assert chain.correct is False


def test_a_problem_without_room_for_a_sample_costs_no_tokens() -> None:
    trial = played("majority-chains", Prepared(["FULL", "FULL"]), budget=2, budget_tokens=9)
    assert (trial.failed, len(trial.usable), answer(trial)) == (None, 2, None)
    peer = vote_at_cost([trial.usable, chains_of("7", "7")], 1)
    assert peer is not None
    assert (peer.samples, peer.right.tolist()) == (2, [0, 1])
    uncounted = played("majority-chains", Prepared(["", ""]), budget=2, budget_tokens=9)
    assert uncounted.failed == "a budget of tokens needs an endpoint that counts them"


def test_a_trial_is_read_back_from_its_episodes() -> None:
    model = Prepared(["5", "6"], after={"5": ["print(7)"], "6": ["print(7)"]})
    trial = played("adaptive", model, budget=5)
    again = Trial.read(trial.choice, trial.episodes("adaptive"))
    assert answer(again) == answer(trial) == "7"
    assert again.answered is again.samples[1]
    assert said(again) == said(trial)
    nothing = played("majority-chains", Prepared(["12"] * 2), budget=2, budget_tokens=1)
    assert Trial.read(nothing.choice, nothing.episodes("x")).answered is None
    lost = played("chain", Prepared(["FAIL"])).episodes("chain")
    assert [(one.outcome, one.note) for one in lost] == [("failed", "no answer")]


def test_a_strategy_of_another_package(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def twice(sampler: Sampler, trials: list[Trial], choice: StrategyChoice) -> None:
        sampler.draw_chains(trials, 2)
        for trial in trials:
            trial.answered = trial.usable[-1]

    own = Strategy("second", "The second of two chains.", twice, "never")
    monkeypatch.setitem(vars(STRATEGIES), "_found", {"second": own})
    summary = evaluate(settings(world, strategy="second")).to_summary()
    assert summary["strategies"]["second"]["samples"] == 2


# ---- evaluation with a real model ----


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    save_guesser(folder / "model")
    save_problems(folder / "problems.jsonl", "12121212")
    (folder / "programs.yaml").write_text('alone: "{question}"\nrefine: "Again."\n')
    return folder


def settings(world: Path, **more: Any) -> EvaluationSettings:
    given = {
        "model": str(world / "model"),
        "task": "jsonl",
        "data": world / "problems.jsonl",
        "grader": "exact",
        "prompts": "lab",
        "program_prompts": str(world / "programs.yaml"),
        "temperature": 1.0,
        "max_tokens": 4,
        "budget": 4,
        "device": "cpu",
    }
    return EvaluationSettings(**(given | more))


def test_every_strategy_on_a_model(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = evaluate(settings(world, strategy="all", out=out)).to_summary()
    assert json.loads((out / "summary.json").read_text()) == summary
    entries = summary["strategies"]
    assert list(entries) == list(NAMED)
    answers = [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]
    assert len(answers) == 8 * len(STRATEGIES)
    for name, one in entries.items():
        mine = [row for row in answers if row["strategy"] == name]
        episodes = read_episodes(out, name)
        for key in ("samples", "tokens", "executions"):
            assert one[key] == pytest.approx(np.mean([row[key] for row in mine]))
        assert one["accuracy"] == np.mean([row["correct"] for row in mine])
        assert one["samples"] * 8 == len(episodes)
        assert one["tokens"] * 8 == sum(episode.responses[-1].generated for episode in episodes)
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


def knowing(fails: str = "") -> Behaviour:
    """A server that knows the golds, and refuses the question `fails`."""

    def behave(handler: Handler, asked: Asked) -> None:
        if asked.method == "GET":
            handler.send(200, {"object": "list", "data": [{"id": "tiny", "object": "model"}]})
            return
        question = asked.body["messages"][0]["content"]
        if question == fails:
            handler.send(400, {"error": {"message": "no answer"}})
        else:
            handler.send(200, completion("12"[int(question.removesuffix("?")) % 2]))

    return behave


def test_sources_are_evaluated_in_turn(world: Path) -> None:
    with serving(knowing()) as server:
        summary = evaluate(
            settings(world, strategy="cap", sources=f"self,{server.model}")
        ).to_summary()
    assert list(summary["strategies"]) == ["cap", f"cap ({server.model})"]
    by_source = summary["refinement"]["by_source"]
    assert by_source[server.model]["accuracy"][0] == 1
    assert summary["refinement"]["n_samples"] == 16
    assert by_source[server.model]["tokens"][0] == 5  # as the endpoint counts


def test_an_endpoint_writes_both(world: Path, tmp_path: Path) -> None:
    with serving(knowing("3?")) as server:
        config = settings(
            world, model=server.model, strategy="chain,majority-chains", out=tmp_path / "out"
        )
        summary = evaluate(config).to_summary()
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
        ({"strategy": "cap", "turns": 5}, "--turns is of no use to --strategy cap"),
        ({"strategy": "turns", "window": 2}, "--window is of no use to --strategy turns"),
        ({"strategy": None, "budget": 8, "updates": 7}, "--updates belongs to --protocol self-imp"),
        (
            {"strategy": None, "budget": 8, "protocol": "self-improve", "turns": 5},
            "self-improve has --updates instead",
        ),
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


def test_samples_know_their_chain() -> None:
    chain, program = played("cap", Prepared(["5"], after={"5": ["print(5)"]})).samples
    assert chain.chain is None
    assert program.chain is not None
    assert program.chain.text == "5"
