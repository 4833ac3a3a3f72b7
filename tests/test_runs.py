"""The run folder: what it says, what it refuses, and that rewinding loses nothing."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from redraft.config import Settings, resolve
from redraft.episode import Episode, Grade, Message, Problem, Turn, read_jsonl
from redraft.errors import UserError
from redraft.runs import Run, write_text


class Training(Settings):
    steps: int = 3
    """Optimiser steps."""
    seed: int = 7
    """Seed of everything."""


def episode(number: int) -> Episode:
    problem = Problem(id=str(number), task="toy", question="1+1?", gold="2")
    turn = Turn(attempt="2", finish="stop", grade=Grade(correct=True, decided_by="string"))
    return Episode(
        problem=problem,
        messages=[Message(role="user", content="1+1?")],
        turns=[turn],
        protocol="intrinsic",
    )


def metrics(run: Run, folder: str = ".") -> list[dict[str, Any]]:
    lines = (run.folder / folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", Training(steps=5), "train score")


def test_a_new_run_says_what_it_is(run: Run) -> None:
    assert resolve(Training, file=run.folder / "config.yaml") == Training(steps=5)
    facts = json.loads((run.folder / "environment.json").read_text())
    assert facts["command"] == "train score"
    assert facts["seed"] == 7
    assert facts["packages"]["torch"] == torch.__version__
    assert facts["cores"] >= 1
    assert {"python", "platform", "cpu", "gpus", "commit", "argv"} <= facts.keys()


def test_an_opened_run_is_the_one_that_was_created(run: Run) -> None:
    opened = Run.open(run.folder)
    assert opened.command == "train score"
    assert opened.config(Training) == Training(steps=5)


def test_a_run_is_never_written_over(run: Run) -> None:
    run.log({"loss": 1.0}, step=1)
    before = (run.folder / "environment.json").read_bytes()
    with pytest.raises(UserError, match=rf"redraft resume {run.folder}"):
        Run.create(run.folder, Training(), "train score")
    assert (run.folder / "environment.json").read_bytes() == before


def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="not empty; give another --out"):
        Run.create(tmp_path, Training(), "train score")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_run_that_never_began_is_started_over(run: Run) -> None:
    again = Run.create(run.folder, Training(steps=9), "train score")
    assert again.config(Training) == Training(steps=9)


def test_an_empty_folder_will_do(tmp_path: Path) -> None:
    assert Run.create(tmp_path, Training(), "eval").folder == tmp_path


def test_out_that_is_a_file_is_a_users_mistake(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(UserError, match="give another --out"):
        Run.create(file, Training(), "eval")
    with pytest.raises(UserError, match="give another --out"):
        Run.create(file / "below", Training(), "eval")


@pytest.mark.parametrize("damage", ["missing", "foreign", "cut short"])
def test_open_refuses_what_is_no_run(run: Run, damage: str) -> None:
    folder = run.folder
    if damage == "missing":
        folder = run.folder / "nowhere"
    elif damage == "foreign":
        folder = run.folder / "checkpoints"
        folder.mkdir()
    else:
        (folder / "environment.json").write_text('{"command": "tr')
    with pytest.raises(UserError, match=rf"^{folder}: (no such folder|not a run's folder)"):
        Run.open(folder)


def test_metrics_are_one_line_of_valid_json_a_step(run: Run) -> None:
    run.log({"accuracy": [0.5, 0.75], "loss": torch.tensor(1.5), "n": np.int64(3)}, step=1)
    run.log({"loss": math.nan, "by_turn": np.array([1.0, math.inf]), "stage": "II"}, step=2)
    first, second = metrics(run)
    assert first.pop("time") <= second.pop("time")
    assert first == {"step": 1, "accuracy": [0.5, 0.75], "loss": 1.5, "n": 3}
    assert second == {"step": 2, "loss": None, "by_turn": [1.0, None], "stage": "II"}


def test_summary_is_valid_json_too(run: Run) -> None:
    run.summary({"delta_t1_t2": np.float64(0.25), "ci95": {"delta_t1_t2": (0.1, math.nan)}})
    summary = json.loads((run.folder / "summary.json").read_text())
    assert summary == {"delta_t1_t2": 0.25, "ci95": {"delta_t1_t2": [0.1, None]}}


def test_a_write_that_fails_leaves_the_old_content(tmp_path: Path) -> None:
    file = tmp_path / "summary.json"
    write_text(file, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(file, "\ud800")
    assert file.read_text() == "old"


def test_episodes_are_appended_by_name_and_step(run: Run) -> None:
    path = run.episodes("train", [episode(1)], step=3)
    run.episodes("train", [episode(2)], step=3)
    assert path == run.folder / "episodes" / "train-000003.jsonl"
    assert [e.problem.id for e in read_jsonl(path, Episode)] == ["1", "2"]
    assert run.episodes("base", [episode(1)]).name == "base.jsonl"


def test_rewind_moves_what_came_after_and_loses_nothing(run: Run) -> None:
    run.episodes("base", [episode(0)])
    for step in range(1, 5):
        run.log({"loss": float(step)}, step)
        run.episodes("train", [episode(step)], step)
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')  # killed in the middle of a line
    run.summary({"accuracy": [1.0]})

    aside = run.rewind(2)

    assert aside == run.folder / "interrupted" / "001"
    assert [line["step"] for line in metrics(run)] == [1, 2]
    moved = (aside / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in moved[:2]] == [3, 4]
    assert moved[2:] == ['{"step": 5, "lo']
    names = sorted(path.name for path in (run.folder / "episodes").iterdir())
    assert names == ["base.jsonl", "train-000001.jsonl", "train-000002.jsonl"]
    moved_names = sorted(path.name for path in (aside / "episodes").iterdir())
    assert moved_names == ["train-000003.jsonl", "train-000004.jsonl"]
    assert (aside / "summary.json").exists()
    assert not (run.folder / "summary.json").exists()

    run.log({"loss": 30.0}, step=3)  # the resumed run goes on with a whole line
    assert [line["step"] for line in metrics(run)] == [1, 2, 3]
    assert run.rewind(0) == run.folder / "interrupted" / "002"
    assert metrics(run, "interrupted/002")[-1]["loss"] == 30.0


def test_rewind_with_nothing_after_leaves_no_trace(run: Run) -> None:
    assert run.rewind(0) is None
    run.log({"loss": 1.0}, step=1)
    run.episodes("train", [episode(1)], step=1)
    assert run.rewind(1) is None
    assert not (run.folder / "interrupted").exists()
    assert [line["step"] for line in metrics(run)] == [1]


def test_the_summary_of_a_run_that_had_ended_stays(run: Run) -> None:
    run.log({"loss": 1.0}, step=1)
    run.summary({"steps": 1})
    assert run.rewind(1) is None
    assert (run.folder / "summary.json").exists()


def test_logged_metrics_are_read_back(run: Run) -> None:
    assert run.metrics() == []
    run.log({"loss": 1.0}, step=1)
    run.log({"loss": math.nan}, step=2)
    assert [(line["step"], line["loss"]) for line in run.metrics()] == [(1, 1.0), (2, None)]
