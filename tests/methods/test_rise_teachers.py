"""RISE's teachers from the command line on: the lab's expert, a local model, an endpoint."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from endpoints import Asked, Handler, serving
from redraft.chat.prompts import PROMPTS
from redraft.cli import run as redraft
from redraft.engines.base import Failed, Request
from redraft.engines.local import LocalEngine
from redraft.lab.corpus import solution
from redraft.lab.expert import expert, find_question
from redraft.lab.problems import arithmetic, sorting
from redraft.progress import Silent
from redraft.tasks import get_task
from redraft.training.settings import TeacherConfig
from redraft.training.teacher import open_teacher
from redraft.types import Message
from rise_runs import collected, counts, edit, folder, knowing, train

# The lab's expert

LAB_PROMPTS = ["lab", "plain", "rise", "rise-neutral", "boxed", "score-math", "self-refine"]


def spoken(role: Any, content: str) -> Message:
    return Message(role=role, content=content)


@pytest.mark.parametrize("prompts", LAB_PROMPTS)
@pytest.mark.parametrize("task", ["lab/sorting", "lab/arithmetic"])
def test_the_expert_finds_the_question_in_all_prompts(task: str, prompts: str) -> None:
    said, ask = PROMPTS[prompts], expert(0)
    grader = get_task(task).grader
    fallible = 0
    for problem in get_task(task).load("train", 40, 0).problems:
        opening = said.opening(problem)
        retried = [*opening, spoken("assistant", "acorn"), spoken("user", said.again(problem))]
        first, second = ask(opening), ask(retried)
        assert isinstance(first, str)
        assert isinstance(second, str)
        assert grader(problem, second).correct, "asked about an attempt, it is right"
        fallible += not grader(problem, first).correct
    assert 0 < fallible < 40, "asked afresh, it errs now and then"


def test_the_last_question_counts() -> None:
    """Demonstrations, before it in the dialogue or in the text, are others' questions."""
    shot, asked = sorting("train", 1), sorting("train", 2)
    right, _ = solution(asked)
    opening = [
        spoken("user", shot.question),
        spoken("assistant", shot.gold),
        spoken("user", f"{shot.question}\n\nNow: {asked.question}. Think first."),
    ]
    attempts = [
        [*opening, spoken("assistant", "?"), spoken("user", text)]
        for text in ("Again.", f"Again: {asked.question}")
    ]
    assert [expert(seed)(one) for one in attempts for seed in range(4)] == [right] * 8
    # The demonstration's answer is no attempt, so that it errs as in a first one.
    assert {expert(seed)(opening) == right for seed in range(20)} == {True, False}
    sum_ = arithmetic("train", 1).question
    assert find_question(f"Sort the words. {sum_} please") == sum_


@pytest.mark.parametrize("text", ["What is 1 + 1?", "Sort the words by length", "Compute it"])
def test_the_expert_has_no_answer_to_anything_else(text: str) -> None:
    answer = expert(0)([spoken("user", text)])
    assert isinstance(answer, Failed)
    assert "none of the lab's questions" in answer.reason


@pytest.mark.parametrize("prompts", ["lab", "rise"])
def test_a_run_with_the_expert(prompts: str, world: Path, tmp_path: Path) -> None:
    run, model = tmp_path / "run", tmp_path / "model"
    shutil.copytree(world / "model", model)
    config = json.loads((model / "config.json").read_text())
    config["max_position_embeddings"] = 4096  # a token is a character here
    (model / "config.json").write_text(json.dumps(config))
    data = {"task": "lab/sorting", "prompts": prompts, "limit": 4}
    few = ["--max-tokens", "4", "--epochs", "1", "--batch-size", "4", "--device", "cpu"]
    flags = [text for name, value in data.items() for text in (f"--{name}", str(value))]
    taught = ["--improve", "teacher", "--teacher", "expert", "--learning-rate", "1e-3"]
    places = ["--model", str(model), "--out", str(run)]
    assert redraft(["train", "rise", *places, *flags, *few, *taught]) == 0
    played = collected(run)
    assert [episode.correct for episode in played] == [[False, True]] * 4
    found = counts(run)
    assert (found["teacher_attempts"], found["teacher_right"]) == (4, 4)


@pytest.mark.parametrize(
    ("method", "fields", "line"),
    [
        ("off-policy-sft", {}, "--teacher is required; name `expert`"),
        ("off-policy-sft", {"teacher": "expert"}, "--teacher expert: task 'jsonl' has no expert"),
        (
            "rise",
            {"teacher": "expert", "boost_epochs": 1},
            "--teacher expert: task 'jsonl' has no expert of its own",
        ),
        ("cap", {"sources": "policy,expert"}, "--sources expert: task 'jsonl' has no expert"),
    ],
)
def test_teachers_that_cannot_help_are_refused_when_the_settings_are_read(
    method: str,
    fields: dict[str, Any],
    line: str,
    world: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train(method, world, tmp_path / "run", **fields) == 2
    [told] = capsys.readouterr().err.splitlines()
    assert told.startswith(f"redraft: error: {line}")
    assert not (tmp_path / "run").exists()


# A local model


def test_a_run_with_a_model_as_teacher(world: Path, tmp_path: Path) -> None:
    run, teacher = tmp_path / "run", world / "model"
    fields = {"improve": "teacher", "teacher": teacher, "teacher_max_tokens": 8, "samples": 2}
    assert train("rise", world, run, **fields) == 0
    taught = [turn for e in collected(run) for turn in e.answers if turn.author == "teacher"]
    assert counts(run)["teacher_attempts"] == len(taught) > 4
    assert counts(run)["teacher_right"] == sum(
        bool(turn.grade and turn.grade.correct) for turn in taught
    )


def test_a_models_answer_depends_on_what_is_asked_alone(world: Path, tmp_path: Path) -> None:
    """Not on what is asked together with it; each problem, sample and turn has its own draws."""
    config = TeacherConfig(
        out=tmp_path / "run",
        task="jsonl",
        data=world / "problems.jsonl",
        teacher=str(world / "model"),
        device="cpu",
        teacher_max_tokens=12,
        teacher_temperature=1.0,
    )
    teacher = open_teacher(config, tmp_path / "teacher", Silent())
    assert isinstance(teacher.engine, LocalEngine)
    question = [Message(role="user", content="0?")]
    asked = [Request(question, problem=f"p{n}", sample=n % 2, turn=n % 3) for n in range(8)]
    together = [getattr(answer, "text", "") for answer in teacher.answer(asked)]
    assert [getattr(teacher.answer([one])[0], "text", "") for one in asked] == together
    assert len(set(together)) > 4


@pytest.mark.parametrize(
    ("method", "flag", "others"),
    [
        ("rise", "--teacher", {"improve": "teacher"}),
        ("off-policy-sft", "--teacher", {}),
        ("cap", "--sources", {"chains": 1}),
    ],
)
def test_the_flag_of_a_teacher_that_is_not_there_is_named(
    method: str,
    flag: str,
    others: dict[str, Any],
    world: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = str(tmp_path / "nosuch")
    fields = {flag.removeprefix("--"): name, **others}
    assert train(method, world, tmp_path / "run", **fields) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"redraft: error: {flag} {name}: ")


@pytest.mark.parametrize("method", ["rise", "off-policy-sft"])
def test_what_outgrows_the_teachers_context_is_truncated(
    method: str, world: Path, tmp_path: Path
) -> None:
    known, run = knowing(), tmp_path / "run"

    def narrow(handler: Handler, asked: Asked) -> None:
        if asked.method == "POST" and asked.body["messages"][0]["content"] == "0?":
            handler.send(400, {"error": {"message": "maximum context length is 4 tokens"}})
        else:
            known(handler, asked)

    with serving(narrow) as endpoint:
        told = {"improve": "teacher"} if method == "rise" else {}
        assert train(method, world, run, teacher=endpoint.model, **told) == 0
    [cut] = [e for e in collected(run) if e.problem.question == "0?"]
    assert cut.outcome == "truncated"
    assert "maximum context length" in cut.note
    assert all(turn.author == "policy" for turn in cut.turns)
    assert not list(folder(run).glob("failed-*"))


# What an endpoint has cost

TAUGHT: dict[str, Any] = {"improve": "teacher", "samples": 3, "teacher_http.retries": 0}

TRAINS = """
import sys
from pathlib import Path
from rise_runs import train
train("rise", Path(sys.argv[1]), Path(sys.argv[2]), improve="teacher", samples=3,
      teacher=sys.argv[3], **{"teacher_http.retries": 0, "teacher_http.concurrency": 1})
"""


def test_a_kill_while_the_teacher_is_asked_loses_neither_roll_ins_nor_counts(
    world: Path, tmp_path: Path
) -> None:
    run, unbroken = tmp_path / "run", tmp_path / "unbroken"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    known = knowing()
    with serving(known) as endpoint:
        child = subprocess.Popen(
            [sys.executable, "-c", TRAINS, str(world), str(run), endpoint.model], env=env
        )

        def fatal(handler: Handler, asked: Asked) -> None:
            if len(endpoint.bodies) == 2:
                os.kill(child.pid, signal.SIGKILL)
            else:
                known(handler, asked)

        endpoint.behave = fatal
        assert child.wait() == -signal.SIGKILL
        assert not (folder(run) / "episodes-0000.jsonl").exists()
        [rolled] = folder(run).glob("rolled-*.jsonl")
        lines = [
            json.loads(line) | {"policy": "marked"}
            for line in rolled.read_text().split("\n")
            if line
        ]
        rolled.write_text("".join(json.dumps(line) + "\n" for line in lines))

        endpoint.behave = known
        edit(run, teacher_http__prompt_price=1e6, teacher_http__completion_price=1e6)
        assert redraft(["resume", str(run)]) == 0
        prices = {"teacher_http.prompt_price": 1e6, "teacher_http.completion_price": 1e6}
        fields = {**TAUGHT, "teacher_http.concurrency": 1, "teacher": endpoint.model}
        assert train("rise", world, unbroken, **fields, **prices) == 0
    first = collected(run)[: 3 * 2]
    assert {e.policy for e in first if e.turns[-1].author == "policy"} <= {"marked"}, (
        "not sampled anew"
    )
    usages = [json.loads((one / "teacher" / "usage.json").read_text()) for one in (run, unbroken)]
    for usage in usages:
        usage.pop("cached")
    assert usages[0] == usages[1]
    assert usages[0]["cost"] == 15 * usages[0]["answered"] > 0
