"""A teacher over HTTP in both roles, against a real server on loopback."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from endpoints import Asked, Behaviour, Handler, completion, serving
from redraft.cli import run as redraft
from redraft.engines.base import Failed, Sampling
from redraft.engines.scripted import ScriptedEngine
from redraft.grading import NumberGrader
from redraft.lab.steps import ARITHMETIC_SCRIPT
from redraft.methods.tripost.config import DemonstrationConfig, TripostConfig
from redraft.methods.tripost.editing import Judge, Rewrite, Unusable
from redraft.methods.tripost.modules import AGAIN, Taught
from redraft.tasks.steps import LINES, Critique, StepFormat
from redraft.training.launch import train
from redraft.training.teacher import Teacher
from redraft.types import Message, Turn
from rise_runs import collected, counts, examples, folder
from tripost_runs import FEW
from tripost_trajectories import LAB, PROBLEM, RIGHT, SECOND, WRONG, answer, outcome

FORM = 'Earliest error step: 2\nError segment: "3 * 4 = 13"\nError reason: 3 * 4 = 12.'


def able(asked: str) -> str:
    """What a teacher that knows the lab's sums replies to either question."""
    question = re.search(r"Question: (.+)", asked)
    assert question
    steps = re.findall(r"^Step \d+: (.+)$", asked.partition("The steps before")[0], re.MULTILINE)
    found = ARITHMETIC_SCRIPT.check(question[1], steps)
    assert found.step is not None
    mended = ARITHMETIC_SCRIPT.correct(question[1], steps, found)
    if "Earliest error step:" in asked:
        step = min(found.step, len(steps) - 1)
        return (
            f"Earliest error step: ({step + 1})\nError segment: {steps[step]}\n"
            f"Error reason: it should be {mended[step]}."
        )
    begin = int(re.findall(r"Go on from step (\d+)", asked)[0])
    return "\n".join(mended[begin - 1 :])


def serves(reply: Callable[[str], str | None]) -> Behaviour:
    def behave(handler: Handler, asked: Asked) -> None:
        if asked.method == "GET":
            handler.send(200, {"object": "list", "data": [{"id": "tiny", "object": "model"}]})
        else:
            handler.send(200, completion(reply(asked.body["messages"][-1]["content"])))

    return behave


def config(out: Path, url: str, **fields: Any) -> TripostConfig:
    told = {"feedback": "teacher", "improve": "teacher", "teacher": url, "iterations": 1}
    return TripostConfig(out=out, rationale_epochs=0.0, **(FEW | {"limit": 12} | told | fields))


def test_both_modules_over_http(tmp_path: Path) -> None:
    with serving(serves(able)) as endpoint:
        run = train("tripost", config(tmp_path / "run", endpoint.model))
        heats = {
            "Earliest error step:" in body["messages"][-1]["content"]: body["temperature"]
            for body in endpoint.bodies
        }
    assert heats == {True: 0.0, False: 0.7}, "feedback is asked for greedily"
    edited = [e for e in collected(run) if outcome(e)[0] == "edited"]
    assert edited
    for episode in edited:
        assert episode.correct[-1]
        assert {turn.source for turn in episode.responses[1:]} == {endpoint.model}
    assert any(len(example.weights) == 3 for example in examples(run))
    usage = json.loads((run / "teacher" / "usage.json").read_text())
    assert usage["answered"] == len(endpoint.bodies)


@pytest.mark.parametrize("formless", ["I cannot.", "", None], ids=["words", "empty", "null"])
def test_a_reply_without_the_form_is_asked_for_once_more_then_dropped(
    tmp_path: Path, formless: str | None
) -> None:
    def forgetful(asked: str) -> str | None:
        if "Earliest error step:" in asked and not asked.endswith(AGAIN):
            return "I think that it is wrong somewhere."
        return able(asked) if "Earliest" in asked else formless

    with serving(serves(forgetful)) as endpoint:
        run = tmp_path / "run"
        train("tripost", config(run, endpoint.model))
        asked = [body["messages"][-1]["content"] for body in endpoint.bodies]
    wrong = [e for e in collected(run) if outcome(e)[0] == "dropped"]
    assert {outcome(e)[1] for e in wrong} == {"improvement_malformed"}
    assert counts(run)["dropped_improvement_malformed"] == len(wrong) > 0
    for kind in ("Earliest error step:", "Go on from step"):
        first = [text for text in asked if kind in text and not text.endswith(AGAIN)]
        second = [text for text in asked if kind in text and text.endswith(AGAIN)]
        assert len(first) == len(second) == len(wrong)


def test_an_endpoint_that_fails_is_asked_again_by_resume(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    down = True

    def behave(handler: Handler, asked: Asked) -> None:
        if down and asked.method == "POST":
            handler.send(400, {"error": {"message": "no answer today"}})
        else:
            serves(able)(handler, asked)

    run = tmp_path / "run"
    with serving(behave) as endpoint:
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in FEW.items()]
        flags += ["--rationale-epochs=0", "--iterations=1", "--feedback=teacher"]
        assert (
            redraft(["train", "tripost", "--out", str(run), f"--teacher={endpoint.model}", *flags])
            == 2
        )
        assert "could not be collected" in capsys.readouterr().err.splitlines()[-1]
        down = False
        assert redraft(["resume", str(run)]) == 0
    assert not list(folder(run).glob("failed-*"))
    assert (run / "model").exists()


def test_a_teacher_answers_anew_in_every_repeat_of_demonstrations(tmp_path: Path) -> None:
    def solves(asked: str) -> str:
        [steps] = LAB.solve([asked])
        assert steps is not None
        return LAB.join(steps)

    told = {"attempts": "teacher", "iterations": 2, "rationale_epochs": 0.0, "limit": 4}
    with serving(serves(solves)) as endpoint:
        fields = FEW | told | {"teacher": endpoint.model}
        train("si-demo-sft", DemonstrationConfig(out=tmp_path / "run", **fields))
        seeds = [body["seed"] for body in endpoint.bodies]
    assert len(seeds) == len(set(seeds)) == 2 * 4


def test_the_expert_is_not_asked_to_judge(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot give feedback"):
        config(tmp_path, "expert")


# The form


def said_by(form: StepFormat, *replies: str) -> tuple[Taught, list[str]]:
    """A teacher with these replies, and what it was asked."""
    asked: list[str] = []
    rest = iter(replies)

    def reply(messages: Sequence[Message]) -> str:
        asked.append(messages[-1].content)
        return next(rest)

    teacher = Teacher(ScriptedEngine(reply), Sampling(), "known")
    return Taught(form, NumberGrader(), teacher), asked


@pytest.mark.parametrize(
    "reply",
    [
        FORM,
        "earliest error step: Step (2)\nerror segment: 3 * 4 = 13\nerror reason: 3 * 4 = 12",
        "Yes.\n\n**Earliest error step**: 2\nError segment: “3 * 4 = 13”\nError reason: 3 * 4 = 12",
        '**Earliest error step:** 2\n**Error segment:** "3 * 4 = 13"\n**Error reason:** 3 * 4 = 12',
        "- Earliest error step: 2\n- **Error segment**: `3 * 4 = 13`\n- Error reason: 3 * 4 = 12",
        "Earliest error step: 2\nError segment: '3 * 4 = 13'.\nError reason: 3 * 4 = 12.",
    ],
)
def test_three_fields_are_read(reply: str) -> None:
    teacher, asked = said_by(LAB, reply)
    assert teacher.judge([Judge(PROBLEM, answer(WRONG))]) == [SECOND]
    assert "Step 2: 3 * 4 = 13" in asked[0]


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "It is all right.",
        FORM.replace("step: 2", "step: 9"),
        FORM.replace("step: 2", "step: 0"),
        FORM.replace("3 * 4 = 13", "5 * 5 = 25"),
        FORM.partition("\nError reason")[0],
    ],
)
def test_what_lacks_the_form_is_refused_twice(reply: str) -> None:
    teacher, asked = said_by(LAB, reply, reply)
    assert teacher.judge([Judge(PROBLEM, answer(WRONG))]) == [Unusable("feedback_malformed")]
    assert len(asked) == 2
    assert asked[1] == asked[0] + AGAIN


def test_a_trajectory_that_outgrows_the_teachers_context_is_dropped() -> None:
    """Asking again would not help, neither now nor by `redraft resume`."""
    full = Failed("the context is full", context_full=True)
    teacher = Teacher(ScriptedEngine(lambda _: full), Sampling(), "known")
    taught = Taught(LAB, NumberGrader(), teacher)
    assert taught.judge([Judge(PROBLEM, answer(WRONG))]) == [Unusable("context_full")]
    assert taught.rewrite([Rewrite(PROBLEM, answer(WRONG), SECOND)]) == [Unusable("context_full")]


def test_critiques_have_the_papers_three_sentences() -> None:
    form = FORM.replace("3 * 4 = 13", "Sunday").replace("3 * 4 = 12", "it is Monday")
    teacher, _ = said_by(LINES, form)
    attempt = answer("Today is Monday.\nTomorrow is Sunday.\nSo the answer is (A).")
    [found] = teacher.judge([Judge(PROBLEM, attempt)])
    assert isinstance(found, Critique)
    assert found.text == (
        'Step (1) is correct. In step (2) the part "Sunday" is incorrect. '
        "This is because it is Monday."
    )


def test_only_replies_without_the_form_are_asked_for_again() -> None:
    teacher, asked = said_by(LAB, "I cannot.", FORM, FORM)
    found = teacher.judge([Judge(PROBLEM, answer(WRONG)), Judge(PROBLEM, answer(WRONG))])
    assert found == [SECOND, SECOND]
    assert [text.endswith(AGAIN) for text in asked] == [False, False, True]


@pytest.mark.parametrize(
    "reply",
    [
        "3 * 4 = 12\n3 - 12 = -9",
        "3 * 4 = 12 ; 3 - 12 = -9",
        RIGHT,
        "```\n3 * 4 = 12\n3 - 12 = -9\n```",
        "- Step 2: 3 * 4 = 12\n- **Step 3:** 3 - 12 = -9",
    ],
)
def test_updates_keep_the_steps_before(reply: str) -> None:
    """The new steps alone, in lines or in the lab's form, or the whole solution."""
    teacher, asked = said_by(LAB, reply)
    [made] = teacher.rewrite([Rewrite(PROBLEM, answer(WRONG), SECOND)])
    assert isinstance(made, Turn)
    assert (made.text, made.author, made.source) == (RIGHT, "teacher", "known")
    assert made.grade is not None
    assert made.grade.correct
    assert "Step 1: 1 + 2 = 3" in asked[0].partition("stay as they are")[2]
    assert PROBLEM.gold not in asked[0]
