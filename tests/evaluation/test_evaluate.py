"""`redraft eval` and `redraft collect` on a tiny model: what they write and how they refuse."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from endpoints import completion, serving
from evaluation_episodes import without_logprobs
from guessing_model import save_guesser, save_problems
from redraft.chat.prompts import find_prompts
from redraft.cli import run as redraft
from redraft.engines import LOCAL
from redraft.engines.base import ENGINES, Engine, EngineEntry
from redraft.errors import UserError
from redraft.evaluation import collect, evaluate
from redraft.evaluation.result import read_episodes
from redraft.evaluation.settings import CollectSettings, EvaluationSettings

GOLDS = "1212121212"

SUMMARY = {
    "n_problems",
    "n_samples",
    "n_dropped",
    "accuracy",
    "delta_t1_t2",
    "i_to_c",
    "c_to_i",
    "truncated",
    "changed",
    "ci95",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and problems, one of which has a gold that is not a number."""
    folder = tmp_path_factory.mktemp("world")
    save_guesser(folder / "model")
    save_problems(folder / "problems.jsonl", GOLDS + "x")
    return folder


def fields(world: Path, **more: Any) -> dict[str, Any]:
    given = {
        "model": str(world / "model"),
        "task": "jsonl",
        "data": world / "problems.jsonl",
        "grader": "number",
        "prompts": "lab",
        "samples": 3,
        "temperature": 1.0,
        "max_tokens": 4,
        "device": "cpu",
    }
    return given | more


@pytest.fixture(scope="module")
def evaluated(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an evaluation of three attempts."""
    out = tmp_path_factory.mktemp("evaluation") / "out"
    evaluate(EvaluationSettings(**fields(world, out=out, turns=3)))
    return out


def summary_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def test_the_folder_has_settings_environment_episodes_and_summary(evaluated: Path) -> None:
    assert {path.name for path in evaluated.iterdir()} == {
        "config.yaml",
        "environment.json",
        "episodes",
        "run.lock",
        "summary.json",
        "timing.json",
    }
    assert [path.name for path in (evaluated / "episodes").iterdir()] == ["turns.jsonl"]
    assert json.loads((evaluated / "environment.json").read_text())["command"] == "eval"


def test_the_summary_says_what_the_episodes_say(evaluated: Path) -> None:
    summary, episodes = summary_of(evaluated), read_episodes(evaluated)
    assert summary.keys() >= SUMMARY
    assert (summary["n_problems"], summary["n_samples"], summary["n_dropped"]) == (10, 30, 1)
    correct = np.array([episode.correct for episode in episodes], dtype=float)
    assert correct.shape == (30, 3)
    assert 0 < correct.mean() < 1
    assert summary["accuracy"] == pytest.approx(correct.mean(axis=0).tolist())
    assert summary["delta_t1_t2"] == pytest.approx((correct[:, 1] - correct[:, 0]).mean())
    flips = (
        ((1 - correct[:, 0]) * correct[:, 1]).mean(),
        (correct[:, 0] * (1 - correct[:, 1])).mean(),
    )
    assert (summary["i_to_c"], summary["c_to_i"]) == pytest.approx(flips)
    cut = np.array([[turn.truncated for turn in episode.answers] for episode in episodes])
    assert summary["truncated"] == pytest.approx(cut.mean(axis=0).tolist())
    answers = [[grade.answer for grade in episode.grades[:2]] for episode in episodes]
    assert summary["changed"] == pytest.approx(np.mean([a != b for a, b in answers]))


def test_every_metric_has_an_interval_around_it(evaluated: Path) -> None:
    summary = summary_of(evaluated)
    intervals = summary["ci95"]
    assert intervals.keys() == summary.keys() - {
        "protocol",
        "max_tokens",
        "prompts",
        "flips_p",
        "n_failed",
        "failed",
        "n_problems",
        "n_samples",
        "n_dropped",
        "dropped",
        "ci95",
    }
    for name, interval in intervals.items():
        by_turn = isinstance(summary[name], list)
        values = summary[name] if by_turn else [summary[name]]
        for value, bounds in zip(values, interval if by_turn else [interval], strict=True):
            assert (value is None) == (bounds is None)
            assert value is None or bounds[0] <= value <= bounds[1], name
    low, high = intervals["accuracy"][0]
    assert low < high


def test_without_out_nothing_is_written_and_the_summary_is_the_same(
    world: Path, evaluated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    again = evaluate(EvaluationSettings(**fields(world, turns=3))).to_summary()
    assert json.loads(json.dumps(again)) == summary_of(evaluated)
    assert not any(tmp_path.iterdir())


def test_an_engine_of_another_package(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def open_engine(*given: Any, **more: Any) -> Engine:
        opened.append(more)
        return LOCAL.open(*given, **more)

    entry = EngineEntry("own", "", open_engine)
    monkeypatch.setitem(vars(ENGINES), "_found", {"own": entry})
    evaluate(EvaluationSettings(**fields(world, engine="own", max_rows=3)))
    assert [more["max_rows"] for more in opened] == [3]
    with pytest.raises(UserError, match="unknown engine 'other'"):
        evaluate(EvaluationSettings(**fields(world, engine="other")))


def test_greedy_decoding_needs_no_seed(world: Path) -> None:
    greedy = fields(world, temperature=0, samples=1)
    one, two = (evaluate(EvaluationSettings(**greedy, seed=seed)) for seed in (0, 1))
    assert [row.value for row in one.rows] == [row.value for row in two.rows]


def test_collect_writes_the_same_episodes_and_no_statistics(
    world: Path, evaluated: Path, tmp_path: Path
) -> None:
    out = collect(CollectSettings(**fields(world, out=tmp_path / "out", turns=3)))
    assert out == tmp_path / "out"
    assert not (out / "summary.json").exists()
    assert read_episodes(out) == read_episodes(evaluated)


# Through the command line


def flags(world: Path, **more: Any) -> list[str]:
    given = {name: value for name, value in fields(world, **more).items() if value is not None}
    return [
        part
        for name, value in given.items()
        for part in ("--" + name.replace("_", "-"), str(value))
    ]


def test_eval_prints_one_json_document(
    world: Path, evaluated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert redraft(["eval", *flags(world, turns=3), "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == summary_of(evaluated)
    assert "1 problems dropped, first jsonl/test/10: the gold answer 'x'" in captured.err


def test_eval_prints_a_table(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert redraft(["eval", *flags(world)]) == 0
    assert "jsonl" in capsys.readouterr().out


def test_collect_says_where_the_episodes_are(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert redraft(["collect", *flags(world, out=tmp_path / "out")]) == 0
    assert str(tmp_path / "out") in capsys.readouterr().out.replace("\n", "")
    assert len(read_episodes(tmp_path / "out")) == 30


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ({"model": "./nowhere"}, "--model ./nowhere: no such folder"),
        ({"task": "gms8k", "data": None, "grader": None}, "unknown task 'gms8k'"),
        ({"data": "nowhere.jsonl"}, "data 'nowhere.jsonl' does not exist"),
        ({"grader": "nmber"}, "unknown grader 'nmber'"),
        ({"question_field": "query"}, "problems.jsonl:1: "),
        ({"prompts": "mine"}, "unknown prompt set 'mine'"),
        ({"device": "tpu"}, "--device tpu"),
    ],
)
@pytest.mark.parametrize("command", ["eval", "collect"])
def test_bad_input_is_one_line_and_exit_code_2(
    command: str,
    more: dict[str, Any],
    complaint: str,
    world: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = redraft([command, *flags(world, **more), "--out", str(tmp_path / "out")])
    captured = capsys.readouterr()
    assert code == 2
    assert captured.out == ""
    assert "Traceback" not in captured.err
    last = captured.err.splitlines()[-1]
    assert last.startswith("redraft: error: ")
    assert complaint in last
    # The same folder can be used once the mistake is repaired.
    if command == "eval":
        assert redraft([command, *flags(world, limit=1, out=tmp_path / "out")]) == 0


def test_an_evaluation_without_room_for_any_response_is_refused(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert redraft(["eval", *flags(world, max_tokens=510, out=tmp_path / "out")]) == 2
    assert "--max-tokens 510: no problem leaves room for a response" in capsys.readouterr().err


def test_data_without_a_usable_gold_is_said(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = save_problems(tmp_path / "none.jsonl", "xy")
    assert redraft(["eval", *flags(world, data=data)]) == 2
    assert "--task jsonl: no problem is left to evaluate" in capsys.readouterr().err


def test_a_file_that_is_not_json_lines_is_named_with_its_line(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "text.jsonl"
    data.write_text('{"question": "1?", "gold": "1"}\nnot json\n')
    assert redraft(["eval", *flags(world, data=data)]) == 2
    assert f"{data}:2: not JSON" in capsys.readouterr().err


def listed(handler: Any) -> None:
    """Answer the question which models a server has."""
    handler.send(200, {"object": "list", "data": [{"id": "tiny", "object": "model"}]})


def test_self_refine_ends_an_episode_when_the_model_finds_no_error(
    world: Path, tmp_path: Path
) -> None:
    """A server that answers 1 and is content with it: right where the gold is 1, in all 3 turns."""

    def behave(handler: Any, asked: Any) -> None:
        if asked.method == "GET":
            listed(handler)
            return
        said = "1" if len(asked.body["messages"]) == 1 else "I went through it: it is correct."
        handler.send(200, completion(said))

    with serving(behave) as endpoint:
        settings = fields(world, model=endpoint.model, out=tmp_path / "out", samples=1)
        refined = {"protocol": "self-refine", "turns": 3, "parallel": True}
        summary = evaluate(EvaluationSettings(**settings | refined)).to_summary()
    played = read_episodes(tmp_path / "out")
    assert {len(episode.responses) for episode in played} == {2}
    assert {episode.outcome for episode in played} == {"confirmed"}
    ones = np.mean([episode.problem.gold == "1" for episode in played])
    assert summary["accuracy"] == pytest.approx([ones] * 3)
    assert summary["attempted"] == [1.0, 0.0, 0.0]  # a critique is no attempt
    assert summary["no_answer"] == [0.0, None, None]
    sequential = summary["sequential"]
    assert (
        sequential["m1_t3"] == sequential["p1_t3"] == sequential["last_t3"] == pytest.approx(ones)
    )
    spent = [sum(turn.generated for turn in episode.responses) for episode in played]
    assert sequential["tokens_m1_t3"] == np.mean(spent)  # critiques are paid for


def test_a_problem_that_fails_in_any_phase_is_in_no_number(world: Path) -> None:
    """A server that gives no first attempt of problem 2 but one, and of problem 7 none in the
    parallel phase, which asks for them last."""
    firsts = [0] * len(GOLDS)

    def behave(handler: Any, asked: Any) -> None:
        if asked.method == "GET":
            listed(handler)
            return
        said = asked.body["messages"]
        number = next(n for n in range(len(GOLDS)) if f"{n}?" in said[0]["content"])
        firsts[number] += len(said) == 1
        lost = {2: firsts[number] > 1, 7: firsts[number] > 3}.get(number, False)
        handler.send(400 if lost else 200, {"error": "no"} if lost else completion("1"))

    with serving(behave) as endpoint:
        settings = fields(world, model=endpoint.model, turns=2, parallel=True)
        summary = evaluate(EvaluationSettings(**settings)).to_summary()
    assert (summary["n_problems"], summary["n_samples"], summary["n_failed"]) == (8, 24, 2)
    assert [one["id"][-1] for one in summary["failed"]] == ["2", "7"]
    sequential = summary["sequential"]
    assert (sequential["n_problems"], sequential["n_failed"]) == (8, 2)
    assert sequential["accuracy"] == summary["accuracy"]


def test_what_describes_a_response_counts_those_that_were_made(world: Path, tmp_path: Path) -> None:
    """An oracle stops at the first right attempt: nothing was made, nor copied, after it."""
    out = tmp_path / "out"
    settings = EvaluationSettings(**fields(world, out=out, turns=3, protocol="oracle"))
    summary = evaluate(settings).to_summary()
    episodes = read_episodes(out)
    lengths = np.array([len(episode.answers) for episode in episodes])
    assert len(set(lengths)) > 1
    assert summary["attempted"] == pytest.approx([(lengths > k).mean() for k in range(3)])
    pairs = [episode.answers[:2] for episode in episodes if len(episode.answers) > 1]
    changed = [a.grade.answer != b.grade.answer for a, b in pairs]
    copied = [a.text == b.text for a, b in pairs]
    assert summary["changed"] == pytest.approx(np.mean(changed))
    assert summary["verbatim_copy"] == pytest.approx(np.mean(copied))
    solved = [[any(episode.correct[: k + 1]) for episode in episodes] for k in range(3)]
    assert summary["accuracy"] == pytest.approx(np.mean(solved, axis=1).tolist())


def test_every_turn_has_its_author(evaluated: Path) -> None:
    """What was said between responses is marked as the environment's and has no grade."""
    for episode in read_episodes(evaluated):
        assert [turn.author for turn in episode.turns] == [
            *("policy", "environment"),
            *("policy", "environment"),
            "policy",
        ]
        assert [turn.grade is None for turn in episode.turns] == [False, True] * 2 + [False]
        assert episode.said_after(0) == episode.said_after(1) == find_prompts("lab").retry


def test_a_window_hides_earlier_turns(world: Path, tmp_path: Path) -> None:
    """Of three turns with a window of two the last sees the problem and one response."""
    seen = []

    def behave(handler: Any, asked: Any) -> None:
        if asked.method == "GET":
            listed(handler)
            return
        seen.append(len(asked.body["messages"]))
        handler.send(200, completion("1"))

    with serving(behave) as endpoint:
        common = fields(world, model=endpoint.model, samples=1, limit=1, turns=3)
        evaluate(EvaluationSettings(**common, window=2, out=tmp_path / "out"))
        assert seen == [1, 3, 3]
        evaluate(EvaluationSettings(**common))
        assert seen[3:] == [1, 3, 5]
    [episode] = read_episodes(tmp_path / "out")
    assert [turn.history for turn in episode.responses] == [0, 0, 2]


def test_draws_depend_neither_on_limit_nor_on_samples(
    world: Path, evaluated: Path, tmp_path: Path
) -> None:
    played = without_logprobs(read_episodes(evaluated))
    whole = {(one.problem.id, one.sample): one for one in played}
    for name, more in (("few", {"limit": 4}), ("once", {"samples": 1})):
        out = collect(CollectSettings(**fields(world, out=tmp_path / name, turns=3) | more))
        episodes = without_logprobs(read_episodes(out))
        assert 9 <= len(episodes) <= 12  # one of the problems is dropped, and may be chosen
        for episode in episodes:
            assert episode == whole[episode.problem.id, episode.sample]


def test_parallel_responses_are_other_draws_than_the_first_of_the_turns(
    world: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    evaluate(EvaluationSettings(**fields(world, out=out, turns=3, parallel=True)))
    first = [episode.answers[0].text for episode in read_episodes(out)]
    parallel = [episode.answers[0].text for episode in read_episodes(out, "parallel")]
    assert len(first) == len(parallel) == 30
    assert first != parallel


def test_an_episode_that_outgrows_the_context_stops_nothing(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Room for a first response of 480 tokens and for no second one: the first answer stands."""
    few = flags(world, max_tokens=480, limit=2, samples=1, out=tmp_path / "out")
    assert redraft(["eval", *few]) == 0
    assert "episodes outgrew the model's context and ended there" in capsys.readouterr().err
    summary = summary_of(tmp_path / "out")
    assert summary["attempted"][0] == 1
    assert summary["n_failed"] == 0
    cut = [one for one in read_episodes(tmp_path / "out") if one.outcome == "truncated"]
    assert {len(episode.answers) for episode in cut} == {1}


# Inside training
