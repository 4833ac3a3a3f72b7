"""A run killed by the system and resumed ends as if nothing had happened, to the bit.

A killed run (`killed_runs`) is resumed here and compared with one that was never interrupted.
"""

from pathlib import Path
from typing import Any

import pytest

from killed_runs import Case, run_killed
from redraft.cli import run as redraft
from redraft.learning.checkpoint import complete_checkpoints, newest_complete, read_extra
from redraft.progress import Progress
from redraft.training.launch import train
from score_runs import metrics, same_weights, settings, timeless

TWO_AND_THREE = {"stage_one_steps": 2, "stage_two_steps": 3, "checkpoint_every": 2}
THREE_ATTEMPTS = {"attempts": 3, "stage_one_steps": 2, "stage_two_steps": 2}

CASES: dict[str, Case] = {
    "before-any-checkpoint": (None, 1, TWO_AND_THREE),
    "between-the-stages": (None, 2, TWO_AND_THREE),
    "between-the-stages-optimiser-kept": (None, 2, {**TWO_AND_THREE, "fresh_optimizer": False}),
    "in-stage-two": (None, 5, {**TWO_AND_THREE, "offline_share": 0.5, "select": "best"}),
    "in-stage-two-optimiser-kept-best": (  # goes back to the stage's begin, not to a due checkpoint
        None,
        3,
        {**TWO_AND_THREE, "checkpoint_every": 4, "fresh_optimizer": False, "select": "best"},
    ),
    "in-stage-two-held-out": (
        None,
        5,
        {**TWO_AND_THREE, "evaluate_every": 3, "evaluate_problems": 2, "select": "best"},
    ),
    "in-stage-two-bfloat16": (None, 4, {**TWO_AND_THREE, "precision": "bfloat16"}),
    "in-stage-one-b": (None, 3, {**THREE_ATTEMPTS, "checkpoint_every": 3}),
    "in-stage-one-b-lora": (None, 3, {**THREE_ATTEMPTS, "checkpoint_every": 3, "lora_rank": 2}),
    "in-stage-two-of-three-attempts-optimiser-kept": (
        None,
        5,
        {**THREE_ATTEMPTS, "checkpoint_every": 5, "fresh_optimizer": False},
    ),
}
"""By name: the steps after which the run is killed, whatever its phase, and its settings."""


def train_case(world: Path, folder: Path, fields: dict[str, Any], progress: Progress) -> None:
    """Train with the settings of a case."""
    train("score", settings(world, folder, **fields), progress)


@pytest.fixture(scope="module")
def killed(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a killed run for each case."""
    return run_killed("test_score_resume", world, tmp_path_factory.mktemp("killed"))


def scores(run: Path) -> dict[str, float | None]:
    """What `select` best goes by, of each checkpoint that is there."""
    return {p.name: read_extra(p)["score"] for p in complete_checkpoints(run / "checkpoints")}


@pytest.mark.parametrize("name", CASES)
def test_killed_and_resumed_is_unbroken(
    name: str, killed: Path, world: Path, tmp_path: Path
) -> None:
    run = killed / name
    _, step, fields = CASES[name]
    assert len(metrics(run)) == step
    assert not (run / "model").exists()
    newest = newest_complete(run / "checkpoints")
    begin = int(read_extra(newest)["step"]) if newest else 0

    assert redraft(["resume", str(run)]) == 0
    unbroken = train("score", settings(world, tmp_path / "run", **fields))
    assert same_weights(run / "model", unbroken / "model")
    assert scores(run) == scores(unbroken)
    assert timeless(run) == timeless(unbroken)
    ours, theirs = (sorted((folder / "episodes").iterdir()) for folder in (run, unbroken))
    assert [path.read_text() for path in ours] == [path.read_text() for path in theirs]
    assert not same_weights(unbroken / "model", world / "model")

    again = range(begin + 1, step + 1)
    assert (run / "interrupted").exists() == bool(again)
    if again:
        aside = run / "interrupted" / "001"
        assert [line["step"] for line in metrics(aside)] == [*again]
        names = [path.name for path in sorted((aside / "episodes").iterdir())]
        assert names == [f"train-{number:06d}.jsonl" for number in again]


def test_a_finished_run_is_left_as_it_is(world: Path, tmp_path: Path) -> None:
    run = train("score", settings(world, tmp_path / "run"))
    before = (run / "metrics.jsonl").read_text()
    assert redraft(["resume", str(run)]) == 0
    assert (run / "metrics.jsonl").read_text() == before
    assert not (run / "interrupted").exists()
