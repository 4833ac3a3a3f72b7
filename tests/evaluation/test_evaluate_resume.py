"""Evaluations that are killed and resumed, and those on several processes."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from endpoints import completion, serving
from evaluation_episodes import without_logprobs
from guessing_model import save_guesser, save_problems
from redraft.cli import run as redraft
from redraft.errors import UserError
from redraft.evaluation import collect, evaluate, resume
from redraft.evaluation.result import read_episodes
from redraft.evaluation.settings import CollectSettings, EvaluationSettings
from redraft.progress import Silent

GOLDS = "1212121212"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    save_guesser(folder / "model")
    save_problems(folder / "problems.jsonl", GOLDS)
    (folder / "programs.yaml").write_text('alone: "{question}"\nrefine: "Again."\n')
    return folder


def fields(world: Path, **more: Any) -> dict[str, Any]:
    given = {
        "model": str(world / "model"),
        "task": "jsonl",
        "data": str(world / "problems.jsonl"),
        "grader": "number",
        "prompts": "lab",
        "temperature": 1.0,
        "max_tokens": 4,
        "device": "cpu",
    }
    return given | more


TURNS = {"samples": 2, "turns": 2, "parallel": True}
STRATEGIES = {"strategy": "cap,majority-mix,adaptive", "budget": 4}


def summary_of(folder: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return summary


class Killer(Silent):
    """Kills its process when so many chunks are done."""

    def __init__(self, chunks: int) -> None:
        self.left = chunks

    def advance(self, n: int = 1, **metrics: float | str) -> None:
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)


def be_killed(settings: dict[str, Any], chunks: int) -> None:
    """What a child process does: an evaluation in small chunks that ends in the middle."""
    driver = sys.modules["redraft.evaluation.evaluate"]
    driver.EPISODES_AT_ONCE = driver.SLOW_EPISODES_AT_ONCE = 6  # type: ignore[attr-defined]
    driver.SLOW_PARAMETERS = 0  # type: ignore[attr-defined]
    evaluate(EvaluationSettings(**settings), Killer(chunks))


def run_python(code: str, **environment: str) -> subprocess.Popen[str]:
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": paths, **environment},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("more", "chunks", "part"),
    [(TURNS, 6, "parallel"), (STRATEGIES, 14, "majority-mix")],
    ids=["turns", "strategies"],
)
def test_a_killed_evaluation_ends_as_an_unbroken_one(
    more: dict[str, Any], chunks: int, part: str, world: Path, tmp_path: Path
) -> None:
    if "strategy" in more:
        more = {**more, "program_prompts": str(world / "programs.yaml")}
    settings = fields(world, out=str(tmp_path / "killed"), **more)
    child = run_python(f"import test_evaluate_resume as t; t.be_killed({settings!r}, {chunks})")
    _, errors = child.communicate()
    assert child.returncode == -signal.SIGKILL, errors
    killed = tmp_path / "killed"
    assert not (killed / "summary.json").exists()
    file = killed / "episodes" / f"{part}.jsonl"
    done = file.read_bytes()
    assert done
    file.write_bytes(done[:-20])  # the kill may have come in the middle of a line
    with pytest.warns(UserWarning, match="unfinished last line"):
        resume(killed)
    evaluate(EvaluationSettings(**settings | {"out": tmp_path / "whole"}))
    assert summary_of(killed) == summary_of(tmp_path / "whole")
    for path in (tmp_path / "whole" / "episodes").iterdir():
        resumed, whole = (read_episodes(out, path.stem) for out in (killed, tmp_path / "whole"))
        assert without_logprobs(resumed) == without_logprobs(whole)


def test_an_endpoint_is_asked_only_for_what_is_missing(world: Path, tmp_path: Path) -> None:
    down = True

    def behave(handler: Any, asked: Any) -> None:
        if asked.method == "GET":
            handler.send(200, {"object": "list", "data": [{"id": "tiny", "object": "model"}]})
        elif down and asked.body["messages"][0]["content"].startswith("3?"):
            handler.send(400, {"error": "no"})
        else:
            handler.send(200, completion("1"))

    out = tmp_path / "out"
    with serving(behave) as endpoint:
        settings = fields(world, model=endpoint.model, out=out, turns=2, temperature=0)
        evaluate(EvaluationSettings(**settings))
        assert summary_of(out)["n_failed"] == 1
        asked = len(endpoint.bodies)
        down = False
        assert redraft(["resume", str(out)]) == 0
        assert len(endpoint.bodies) == asked + 2  # both turns of the problem that had failed
        assert (summary_of(out)["n_problems"], summary_of(out)["n_failed"]) == (10, 0)
        (out / "episodes" / "turns.jsonl").unlink()  # killed before a chunk was written
        assert redraft(["resume", str(out)]) == 0
        assert len(endpoint.bodies) == asked + 2  # all answers were in the cache


def test_answers_that_other_processes_had_are_not_asked_for_again(
    world: Path, tmp_path: Path
) -> None:
    def behave(handler: Any, asked: Any) -> None:
        models = {"object": "list", "data": [{"id": "tiny", "object": "model"}]}
        handler.send(200, models if asked.method == "GET" else completion("1"))

    out = tmp_path / "out"
    with serving(behave) as endpoint:
        evaluate(EvaluationSettings(**fields(world, model=endpoint.model, out=out)))
        asked, answers = len(endpoint.bodies), out / "endpoint" / "responses.jsonl"
        answers.rename(answers.with_name("responses-1.jsonl"))
        (out / "episodes" / "turns.jsonl").unlink()
        resume(out)
        assert len(endpoint.bodies) == asked


def test_episodes_of_other_settings_are_not_mixed(world: Path, tmp_path: Path) -> None:
    """Edits that change what is drawn are refused; others make what one go would have made."""
    out, more = tmp_path / "out", {"samples": 2, "limit": 4}
    evaluate(EvaluationSettings(**fields(world, out=out, **more)))
    file = out / "config.yaml"
    whole = file.read_text()
    for before, after in {
        "temperature: 1.0": "temperature: 0.5",
        "model: ": "model: lab # ",
        "turns: 2": "turns: 3",
        "seed: 0": "seed: 1",
    }.items():
        assert before in whole
        file.write_text(whole.replace(before, after))
        with pytest.raises(UserError, match=f"{before.split(':')[0]} is .* put it back, or begin"):
            resume(out)
    file.write_text(whole.replace("limit: 4", "limit: 8").replace("samples: 2", "samples: 3"))
    resume(out)
    evaluate(EvaluationSettings(**fields(world, out=tmp_path / "more", samples=3, limit=8)))
    assert summary_of(out) == summary_of(tmp_path / "more")


def test_a_collection_is_resumed_too(world: Path, tmp_path: Path) -> None:
    settings = CollectSettings(**fields(world, out=tmp_path / "out", samples=2))
    collect(settings)
    file = tmp_path / "out" / "episodes" / "turns.jsonl"
    whole = read_episodes(tmp_path / "out")
    lines = file.read_text().splitlines(True)
    file.write_text("".join(lines[:7]))  # half of a problem is none
    assert redraft(["resume", str(tmp_path / "out")]) == 0
    assert without_logprobs(read_episodes(tmp_path / "out")) == without_logprobs(whole)


def test_episodes_are_kept_once_after_a_merge_that_was_killed(world: Path, tmp_path: Path) -> None:
    """It has written the merged file, and not yet removed those of the other processes."""
    out = tmp_path / "out"
    programs = str(world / "programs.yaml")
    more = {"strategy": "majority-mix", "budget": 4, "program_prompts": programs}
    evaluate(EvaluationSettings(**fields(world, out=out, **more)))
    summary, file = summary_of(out), out / "episodes" / "majority-mix.jsonl"
    whole = file.read_bytes()
    file.with_suffix(".1.jsonl").write_bytes(whole[whole.index(b"\n", len(whole) // 2) + 1 :])
    resume(out)
    assert file.read_bytes() == whole
    assert summary_of(out) == summary
    assert list(file.parent.iterdir()) == [file]


def on_two(code: str) -> list[subprocess.Popen[str]]:
    """Run code as the two processes that `torchrun` would start."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    group["OMP_NUM_THREADS"] = "1"
    return [run_python(code, **group, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(2)]


def test_two_processes_share_the_problems(world: Path, tmp_path: Path) -> None:
    given = fields(world, out=str(tmp_path / "two"), **TURNS)
    flags = [
        part
        for name, value in given.items()
        for part in ([f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)]))
    ]
    arguments = ["eval", *flags, "--json"]
    ranks = on_two(f"import sys; from redraft.cli import run; sys.exit(run({arguments!r}))")
    told = [rank.communicate() for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], told
    assert json.loads(told[0][0])["n_problems"] == 10
    assert told[1][0] == ""  # only the main process prints
    evaluate(EvaluationSettings(**fields(world, out=tmp_path / "one", **TURNS)))
    assert summary_of(tmp_path / "two") == summary_of(tmp_path / "one")
    for part in ("turns", "parallel"):
        two, one = (read_episodes(tmp_path / out, part) for out in ("two", "one"))
        assert without_logprobs(two) == without_logprobs(one)
    assert len(list((tmp_path / "two" / "episodes").iterdir())) == 2


def test_a_model_that_one_process_cannot_load_ends_all(world: Path, tmp_path: Path) -> None:
    settings = fields(world, out=str(tmp_path / "out"))
    code = f"""
import os, sys
import redraft.evaluation
from redraft.evaluation.settings import EvaluationSettings
driver = sys.modules["redraft.evaluation.evaluate"]
def open_engine(*given):
    if os.environ["RANK"] == "1":
        raise RuntimeError("no memory left")
driver.open_engine = open_engine
driver.evaluate(EvaluationSettings(**{settings!r}))
"""
    ranks = on_two(code)
    told = [rank.communicate(timeout=120)[1] for rank in ranks]
    assert all(rank.returncode for rank in ranks)
    assert "UserError: process 1: RuntimeError: no memory left" in told[0]
    assert "RuntimeError: no memory left" in told[1]


def test_an_error_of_one_process_is_raised_in_all() -> None:
    code = """
from redraft.processes import Processes
processes = Processes.launched()
with processes.together():
    if not processes.main:
        raise RuntimeError("no memory left")
"""
    ranks = on_two(code)
    told = [rank.communicate()[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [1, 1]
    assert "UserError: process 1: RuntimeError: no memory left" in told[0]
    assert "RuntimeError: no memory left" in told[1]
