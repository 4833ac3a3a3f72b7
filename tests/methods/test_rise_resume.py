"""Supervised runs that were killed or stopped, and resumed, end as if nothing had happened.

A killed run (`killed_runs`) is resumed here and compared with one that was never interrupted.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from endpoints import Asked, Handler, completion, serving
from killed_runs import Case, run_killed
from redraft.cli import run as redraft
from redraft.learning.checkpoint import newest_complete, read_extra
from redraft.methods.rise import RiseConfig
from redraft.progress import Progress
from redraft.training import launch
from rise_runs import collected, counts, folder, gold, knowing, settings, texts, train
from score_runs import Notes, metrics, same_weights, timeless

pytestmark = pytest.mark.slow

TWICE: dict[str, Any] = {"iterations": 2, "samples": 2, "best_of": 2, "epochs": 2.0}

CASES: dict[str, Case] = {
    "first-collection": ("collecting 1", 2, TWICE),
    "first-fine-tuning-no-checkpoint": ("fine-tuning 1", 2, TWICE),
    "first-fine-tuning": ("fine-tuning 1", 3, {**TWICE, "checkpoint_every": 2}),
    "second-collection": ("collecting 2", 1, {**TWICE, "start": "base"}),
    "second-fine-tuning": (
        "fine-tuning 2",
        2,
        {**TWICE, "start": "base", "checkpoint_every": 1, "keep_checkpoints": 2, "window": 1},
    ),
    "second-fine-tuning-lora": (
        "fine-tuning 2",
        1,
        {**TWICE, "start": "base", "checkpoint_every": 3, "lora_rank": 2},
    ),
}
"""By name: the phase in which the run is killed, after how much work, and its settings."""


def train_case(world: Path, folder: Path, fields: dict[str, Any], progress: Progress) -> None:
    """Train with the settings of a case."""
    launch.train("rise", settings(RiseConfig, world, folder, **fields), progress)


@pytest.fixture(scope="module")
def killed(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a killed run for each case."""
    return run_killed("test_rise_resume", world, tmp_path_factory.mktemp("killed"))


def assert_alike(run: Path, unbroken: Path, teachers: tuple[str, str] = ("", "")) -> None:
    """Weights of every iteration, metrics and all that was collected are the same to the bit, but
    for the name of the first of two `teachers`."""
    assert same_weights(run / "model", unbroken / "model")
    for iteration in (unbroken / "iterations").iterdir():
        ours = run / "iterations" / iteration.name / "model"
        assert same_weights(ours, iteration / "model")
    assert timeless(run) == timeless(unbroken)
    ours = {name: text.replace(*teachers) for name, text in texts(run).items()}
    assert ours == {name: text.replace(*teachers) for name, text in texts(unbroken).items()}


@pytest.mark.parametrize("name", CASES)
def test_killed_and_resumed_is_unbroken(
    name: str, killed: Path, world: Path, tmp_path: Path
) -> None:
    run = killed / name
    phase, work, fields = CASES[name]
    kind, iteration = phase.split()
    chunks = sorted(folder(run, int(iteration)).glob("episodes-*"))
    assert len(chunks) == (work if kind == "collecting" else 3)
    assert not (run / "model").exists()
    newest = newest_complete(run / "checkpoints")
    begin = int(read_extra(newest)["step"]) if newest else 0
    taken = len(metrics(run)) if (run / "metrics.jsonl").exists() else 0

    assert redraft(["resume", str(run)]) == 0
    unbroken = launch.train("rise", settings(RiseConfig, world, tmp_path / "run", **fields))
    assert_alike(run, unbroken)
    assert not same_weights(run / "model", world / "model")
    assert (run / "interrupted").exists() == (taken > begin)


def test_what_was_collected_before_the_kill_is_not_collected_again(
    world: Path, tmp_path: Path
) -> None:
    """A resumed run reads whole chunks: here one that no policy can have made."""
    run = launch.train("rise", settings(RiseConfig, world, tmp_path / "run"))
    for leftover in ("checkpoints", "model"):
        shutil.rmtree(run / leftover)
    for name in ("examples.jsonl", "summary.json", "episodes-0001.jsonl", "checksums.json"):
        (folder(run) / name).unlink()
    place = folder(run) / "episodes-0000.jsonl"
    lines = [json.loads(line) for line in place.read_text().splitlines()]
    marked = [line | {"policy": "marked"} for line in lines]
    place.write_text("".join(json.dumps(line) + "\n" for line in marked))
    assert redraft(["resume", str(run)]) == 0
    policies = [episode.policy for episode in collected(run)]
    assert policies == ["marked"] * 2 + ["step-000000"] * 4


def test_weights_of_an_iteration_come_after_a_kill_just_before_they_were_copied(
    world: Path, tmp_path: Path
) -> None:
    """The checkpoint of the iteration's end is there, its copy in the folder is not yet."""
    fields = {"samples": 4, "boost_epochs": 1.0, "failures_allowed": 1.0}
    with serving(knowing()) as endpoint:
        options = {**fields, "teacher": endpoint.model}
        run = launch.train("rise", settings(RiseConfig, world, tmp_path / "run", **options))
        kept = folder(run, 1) / "kept"
        (folder(run, 1) / "model").rename(kept)
        shutil.rmtree(run / "model")
        assert redraft(["resume", str(run)]) == 0
    assert same_weights(folder(run, 1) / "model", kept)
    assert same_weights(run / "model", kept)


def test_a_finished_run_is_left_as_it_is(world: Path, tmp_path: Path) -> None:
    run = launch.train("rise", settings(RiseConfig, world, tmp_path / "run"))
    before = (run / "metrics.jsonl").read_text(), texts(run)
    assert redraft(["resume", str(run)]) == 0
    assert ((run / "metrics.jsonl").read_text(), texts(run)) == before


# Teachers that fail

TAUGHT: dict[str, Any] = {"improve": "teacher", "samples": 3, "epochs": 2.0}


def test_failed_answers_are_listed_and_asked_again(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fails = ["1?", "4?"]
    with serving(knowing(fails)) as endpoint:
        teacher = {**TAUGHT, "teacher": endpoint.model}
        run, unbroken = tmp_path / "run", tmp_path / "unbroken"
        assert train("rise", world, run, **teacher) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith("redraft: error: iteration 1: 2 of 6 problems could not be ")
        assert ": HTTP 400 Bad Request: no answer to " in line
        assert f"`redraft resume {run}` asks for them again" in line
        assert not (run / "metrics.jsonl").exists()

        listed: dict[str, str] = {}
        for file in folder(run).glob("failed-*.json"):
            listed |= json.loads(file.read_text())
        assert sorted(listed) == ["jsonl/train/1", "jsonl/train/4"]
        had = [body["messages"][0]["content"] for body in endpoint.bodies]
        assert len({*had}) == 6, "the collection goes on after a failure"
        before = {e.model_dump_json() for e in collected(run)}
        asked = len(had)

        fails.clear()
        assert redraft(["resume", str(run)]) == 0
        again = [body["messages"][0]["content"] for body in endpoint.bodies[asked:]]
        assert sorted(again) == sorted(question for question in had if question in ("1?", "4?"))
        assert not list(folder(run).glob("failed-*.json"))
        assert before < {e.model_dump_json() for e in collected(run)}, "nothing is lost"

        usage = json.loads((run / "teacher" / "usage.json").read_text())
        assert usage["answered"] + usage["failed"] == len(endpoint.bodies)
        assert usage["failed"] == len(again)
        assert train("rise", world, unbroken, **teacher) == 0
    assert_alike(run, unbroken)


def test_a_few_failures_may_be_done_without(world: Path, tmp_path: Path) -> None:
    notes = Notes()
    with serving(knowing(["1?"])) as endpoint:
        fields = {**TAUGHT, "teacher": endpoint.model, "failures_allowed": 0.2}
        run = launch.train("rise", settings(RiseConfig, world, tmp_path / "run", **fields), notes)
    told = [note for note in notes.notes if "1 of 6 problems could not be collected" in note]
    assert len(told) == 1
    assert "first jsonl/train/1: " in told[0]
    [listed] = folder(run).glob("failed-*.json")
    assert list(json.loads(listed.read_text())) == ["jsonl/train/1"]
    assert (run / "model").exists()


def test_a_teacher_that_is_down_loses_nothing(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(knowing()) as endpoint:
        pass  # its port is closed again
    run = tmp_path / "run"
    patient = {"teacher_http.retries": 0, "teacher_http.timeout": 5}
    assert train("rise", world, run, **TAUGHT, teacher=endpoint.model, **patient) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "problems could not be collected" in line
    assert "cannot connect" in line
    right = [episode for episode in collected(run) if episode.correct[-1]]
    assert len(collected(run)) == len(right), "what the policy solved by itself is kept"


def test_nonsense_of_a_teacher_is_no_example(world: Path, tmp_path: Path) -> None:
    """Texts that no grader reads, empty ones and endless ones: none of them is imitated."""
    nonsense = ["", "word " * 200, "x" * 400, "1", "2"]

    def behave(handler: Handler, asked: Asked) -> None:
        if asked.method == "GET":
            knowing()(handler, asked)
        else:
            question = asked.body["messages"][0]["content"]
            handler.send(200, completion(nonsense[int(question[0]) % len(nonsense)]))

    run = tmp_path / "run"
    with serving(behave) as endpoint:
        fields = {**TAUGHT, "teacher": endpoint.model, "failures_allowed": 1.0}
        assert train("rise", world, run, **fields) == 0
    found = counts(run)
    assert found["repetitive"] > 0
    assert found["unbroken"] > 0
    assert gold("3?") == "2"  # so the teacher's 1 is a wrong answer, and its weight is 1
    for line in (folder(run) / "examples.jsonl").read_text().splitlines():
        example = json.loads(line)
        responses = [t for t in example["episode"]["turns"] if t["author"] != "environment"]
        for turn, weight in zip(responses, example["weights"], strict=True):
            assert weight == 0 or turn["text"] not in nonsense[:3]
