"""Problems whose teacher has failed are tried again, alone: nothing that was had is given up."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from test_rise_resume import assert_alike

from endpoints import Asked, Endpoint, Handler, serving
from redraft.chat.protocols import Oracle
from redraft.cli import run as redraft
from redraft.methods.rise import RiseConfig
from redraft.progress import Silent
from redraft.storage import read_jsonl, to_jsonl, write_text
from redraft.training.supervised import SupervisedRun, collect
from redraft.types import Episode, Problem
from rise_runs import collected, edit, folder, knowing, settings, train

TAUGHT: dict[str, Any] = {"improve": "teacher", "samples": 3, "teacher_http.retries": 0}


def questions(endpoint: Endpoint) -> list[str]:
    return [body["messages"][0]["content"] for body in endpoint.bodies]


def played(run: Path) -> set[str]:
    return {episode.model_dump_json() for episode in collected(run)}


@pytest.mark.parametrize("method", ["rise", "off-policy-sft"])
def test_a_changed_teacher_is_asked_for_the_missing_alone(
    method: str, world: Path, tmp_path: Path
) -> None:
    fields = TAUGHT if method == "rise" else {"teacher_http.retries": 0}
    run, unbroken = tmp_path / "run", tmp_path / "unbroken"
    with serving(knowing(["1?", "4?"])) as first:
        assert train(method, world, run, **fields, teacher=first.model) == 2
    before, asked = played(run), questions(first)
    assert {"1?", "4?"} < set(asked)

    edit(run, teacher=first.model)  # its port is closed: nobody answers there
    assert redraft(["resume", str(run)]) == 2
    assert played(run) == before, "a teacher that is down takes nothing away"
    edit(run, teacher="http://127.0.0.1:9/v1#other")
    assert redraft(["resume", str(run)]) == 2
    assert played(run) == before, "nor does another one"

    with serving(knowing()) as second:
        edit(run, teacher=second.model)
        assert redraft(["resume", str(run)]) == 0
        assert sorted(questions(second)) == sorted(q for q in asked if q in ("1?", "4?"))
        assert before < played(run)
        assert train(method, world, unbroken, **fields, teacher=second.model) == 0
    assert not list(folder(run).glob("failed-*"))
    assert not list(folder(run).glob("rolled-*"))
    assert_alike(run, unbroken, (first.model, second.model))


def test_states_that_were_answered_are_not_asked_about_again(world: Path, tmp_path: Path) -> None:
    """Of a problem's three roll-ins some are answered and others are not."""
    taken: set[str] = set()

    def once(handler: Handler, asked: Asked) -> None:
        """Answers one state of each problem."""
        question = asked.body["messages"][0]["content"] if asked.method == "POST" else ""
        if question in taken:
            handler.send(400, {"error": {"message": "enough"}})
            return
        taken.update({question} - {""})
        knowing()(handler, asked)

    run, fields = tmp_path / "run", {**TAUGHT, "teacher_http.concurrency": 1, "samples": 6}
    with serving(once) as first:
        assert train("rise", world, run, **fields, teacher=first.model) == 2
    before = played(run)
    refused = len(first.bodies) - len(taken)
    assert refused > 0
    with serving(knowing()) as second:
        edit(run, teacher=second.model)
        assert redraft(["resume", str(run)]) == 0
    assert len(second.bodies) == refused
    assert before < played(run)
    assert len(collected(run)) == 36


def test_roll_ins_of_an_earlier_try_are_kept_problem_by_problem(
    world: Path, tmp_path: Path
) -> None:
    """Only what is missing is sampled: other problems, and those without a verdict."""
    run = SupervisedRun.create(
        settings(RiseConfig, world, tmp_path / "run"), "train rise", Silent()
    )
    run.folder().mkdir(parents=True)
    asked: list[list[Problem]] = []

    def roll(problems: Sequence[Problem]) -> list[Episode]:
        asked.append(list(problems))
        return run.sample(problems, Oracle(run.prompts, 1), samples=2)

    one, two, three, *_ = run.problems
    first = run.rolled([one, two], roll)
    marked = [episode.model_copy(update={"policy": "marked"}) for episode in first]
    [file] = run.folder().glob("rolled-*.jsonl")
    undecided = {"grade": {"score": 0, "status": "undecided", "decided_by": "none"}}
    lost = marked[-1].model_dump()
    lost["turns"][0] |= undecided
    write_text(file, to_jsonl([*marked[:-1], Episode(**lost)]))

    again = run.rolled([one, two, three], roll)
    assert asked == [[one, two], [two, three]]
    assert [episode.policy for episode in again if episode.problem == one] == ["marked"] * 2
    assert [episode for episode in again if episode.problem == two] == first[2:]
    assert len(again) == 6
    assert run.rolled([three, one], roll)[:2] == again[:2]
    assert len(asked) == 2
    assert len(read_jsonl(file, Episode)) == 6


def test_nothing_is_left_of_a_chunk_that_a_kill_came_after(world: Path, tmp_path: Path) -> None:
    class Sampled:
        """The part of a recipe that collects."""

        def collect(self, run: Any, problems: Sequence[Problem]) -> list[Episode]:
            oracle = Oracle(run.prompts, 1)
            return run.rolled(problems, lambda missing: run.sample(missing, oracle, samples=2))

    run = SupervisedRun.create(
        settings(RiseConfig, world, tmp_path / "run"), "train rise", Silent()
    )
    recipe: Any = Sampled()
    whole = collect(run, recipe)
    left = run.folder() / "rolled-0000-0.jsonl"
    left.write_text("")  # the kill came between the chunk's episodes and this file's end
    assert collect(run, recipe) == whole
    assert not left.exists()
