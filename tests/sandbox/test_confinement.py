"""Runs whose task runs what the model writes: how it was confined is written down, `strict` refuses
before anything is sampled, and what the sandbox failed on is nobody's mistake."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from failing_sandbox import FailingOn
from guessing_model import save_guesser, save_problems
from redraft.cli import run as redraft
from redraft.errors import UserError
from redraft.evaluation.result import read_episodes
from redraft.grading.confinement import check_sandbox
from redraft.sandbox import Wanted, level
from redraft.storage import read_jsonl
from redraft.types import Episode, without_failed

GOLDS = "121212"
NO_WORKER = "the sandbox failed 6 times: no worker"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guessing model, and functions to complete with a `1` or a `2`."""
    folder = tmp_path_factory.mktemp("world")
    save_guesser(folder / "model")
    save_problems(folder / "problems.jsonl", GOLDS)
    rows = [
        {
            "task_id": f"Guess/{number}",
            "prompt": f"def f{number}():\n    return \\\n",
            "entry_point": f"f{number}",
            "test": f"def check(f):\n    assert f() == {gold}\n",
        }
        for number, gold in enumerate(GOLDS)
    ]
    (folder / "code.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def plain_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has nothing but limits."""
    bare = level(Wanted(namespaces=False, landlock=False, seccomp=False))
    monkeypatch.setattr("redraft.grading.confinement.level", lambda: bare)


FEW = ["--prompts", "lab", "--max-tokens", "3", "--device", "cpu"]
SAMPLED = ["--temperature", "1", "--samples", "4", "--turns", "1"]
TRAINED = ["--learning-rate", "0.01", "--precision", "float32"]
STEPS = ["--stage-one-steps", "1", "--stage-two-steps", "1", "--problems-per-step", "3"]
COMMANDS = {
    "eval": ["eval", *SAMPLED],
    "collect": ["collect", *SAMPLED],
    "score": ["train", "score", *STEPS, "--samples", "4", "--seed", "6", *TRAINED],
    "star": ["train", "star", "--iterations", "1", "--samples", "6", "--plus", *TRAINED],
}


def command(name: str, world: Path, out: Path, *more: str, task: str = "humaneval") -> list[str]:
    data = world / ("code.jsonl" if task == "humaneval" else "problems.jsonl")
    grader = [] if task == "humaneval" else ["--grader", "exact"]
    places = ["--model", str(world / "model"), "--data", str(data), "--out", str(out)]
    return [*COMMANDS[name], *places, "--task", task, *grader, *FEW, *more]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_run_that_runs_programs_says_how_they_were_confined(
    name: str, world: Path, tmp_path: Path
) -> None:
    assert redraft(command(name, world, tmp_path / "out")) == 0
    found = json.loads((tmp_path / "out" / "sandbox.json").read_text())
    assert found["mechanisms"] == level().mechanisms
    assert found["no_network"] == level().no_network


@pytest.mark.parametrize("name", COMMANDS)
def test_strict_refuses_before_anything_is_sampled(
    name: str, world: Path, tmp_path: Path, plain_limits: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert redraft(command(name, world, tmp_path / "out", "--sandbox", "strict")) == 2
    assert "sandbox strict: on this machine a program could" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["eval", "collect"])
def test_other_tasks_have_no_use_for_a_sandbox(
    name: str, world: Path, tmp_path: Path, plain_limits: None
) -> None:
    out = tmp_path / "out"
    assert redraft(command(name, world, out, "--sandbox", "strict", task="jsonl")) == 0
    assert not (out / "sandbox.json").exists()


def test_a_resumed_run_is_as_strict_and_says_what_it_has_now(
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    assert redraft(command("star", world, out, "--sandbox", "strict")) == 0
    bare = level(Wanted(namespaces=False, landlock=False, seccomp=False))
    monkeypatch.setattr("redraft.grading.confinement.level", lambda: bare)
    assert redraft(["resume", str(out)]) == 2
    assert "sandbox strict" in capsys.readouterr().err
    config = out / "config.yaml"
    config.write_text(config.read_text().replace("sandbox: strict", "sandbox: best"))
    assert redraft(["resume", str(out)]) == 0
    assert json.loads((out / "sandbox.json").read_text())["mechanisms"] == bare.mechanisms


def test_the_summary_of_an_evaluation_has_it_too(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert redraft([*command("eval", world, tmp_path / "out"), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["sandbox"]["mechanisms"] == level().mechanisms


def test_strict_is_refused_where_the_level_does_not_suffice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bare = level(Wanted(namespaces=False, landlock=False, seccomp=False))
    monkeypatch.setattr("redraft.grading.confinement.level", lambda: bare)
    assert check_sandbox("best")["strict"] is False
    with pytest.raises(UserError, match="sandbox strict: on this machine a program could"):
        check_sandbox("strict")


# ---- a sandbox that fails ----


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Makes the sandbox fail on programs with a text in them."""
    with ExitStack() as pools:

        def fail(text: str) -> None:
            pool = pools.enter_context(FailingOn(text))
            monkeypatch.setattr("redraft.grading.code.shared_pool", lambda: pool)

        yield fail


def test_an_evaluation_counts_such_problems_apart(
    world: Path, tmp_path: Path, failing: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    failing("def f3()")
    out = tmp_path / "out"
    assert redraft(command("eval", world, out)) == 0
    assert "1 of 6 problems left out" in " ".join(capsys.readouterr().out.split())
    summary: dict[str, Any] = json.loads((out / "summary.json").read_text())
    assert (summary["n_problems"], summary["n_failed"]) == (5, 1)
    assert summary["failed"] == [{"id": "Guess/3", "reason": NO_WORKER}]
    assert {e.problem.id for e in without_failed(read_episodes(out))[0]}.isdisjoint({"Guess/3"})


def test_reinforcement_learns_nothing_from_such_problems(
    world: Path, tmp_path: Path, failing: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    failing("def f3()")
    out = tmp_path / "out"
    assert redraft(command("score", world, out)) == 0
    files = sorted((out / "episodes").glob("train-*.jsonl"))
    played = [{e.problem.id for e in read_jsonl(file, Episode)} for file in files]
    assert sorted(map(len, played)) == [2, 3]
    assert "Guess/3" not in set.union(*played)
    assert f"could not be sampled or graded, first Guess/3: {NO_WORKER}" in capsys.readouterr().err


def test_reinforcement_stops_where_nothing_can_be_judged(
    world: Path, tmp_path: Path, failing: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    failing("def f")
    assert redraft(command("score", world, tmp_path / "out")) == 2
    assert "no problem could be sampled and graded" in capsys.readouterr().err


def test_supervised_methods_try_such_problems_again(
    world: Path, tmp_path: Path, failing: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    failing("def f3()")
    out = tmp_path / "out"
    assert redraft(command("star", world, out)) == 2
    assert "1 of 6 problems could not be collected" in capsys.readouterr().err
    [listed] = (out / "iterations" / "01").glob("failed-*.json")
    assert json.loads(listed.read_text()) == {"Guess/3": NO_WORKER}
    failing("def none")
    assert redraft(["resume", str(out)]) == 0
    [file] = (out / "iterations" / "01").glob("episodes-*.jsonl")
    assert {e.problem.id for e in read_jsonl(file, Episode)} == {f"Guess/{n}" for n in range(6)}
    assert not listed.exists()
