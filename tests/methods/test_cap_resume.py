"""CaP runs that were killed with SIGKILL, and resumed, end at the weights of an unbroken run."""

from pathlib import Path
from typing import Any

import pytest

from cap_runs import played, settings
from killed_runs import Case, run_killed
from redraft.progress import Progress
from redraft.training.launch import resume, train
from score_runs import same_weights, timeless

pytestmark = pytest.mark.slow

LONG: dict[str, Any] = {"chain_ratio": "any", "epochs": 2.0}

CASES: dict[str, Case] = {
    "sampling": ("collecting 1", 1, {}),
    "fine-tuning": ("fine-tuning 1", 2, {**LONG, "checkpoint_every": 1}),
    "preferences-no-checkpoint": ("preferences 2", 2, LONG),
    "preferences": (
        "preferences 2",
        3,
        {**LONG, "checkpoint_every": 2, "loss": "kto", "resample": True},
    ),
}
"""By name: the phase in which the run is killed, after how much work, and its settings."""


def train_case(world: Path, folder: Path, fields: dict[str, Any], progress: Progress) -> None:
    """Train with the settings of a case."""
    train("cap", settings(world, folder, **fields), progress)


@pytest.fixture(scope="module")
def killed(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a killed run for each case."""
    return run_killed("test_cap_resume", world, tmp_path_factory.mktemp("killed"))


@pytest.mark.parametrize("name", CASES)
def test_a_killed_run_ends_at_the_same_weights(
    name: str, world: Path, killed: Path, tmp_path: Path
) -> None:
    unbroken, resumed = tmp_path / "unbroken", killed / name
    train("cap", settings(world, unbroken, **CASES[name][2]))
    assert not (resumed / "summary.json").exists()
    resume(resumed)
    assert same_weights(resumed / "model", unbroken / "model")
    assert timeless(resumed) == timeless(unbroken)
    for iteration in (1, 2):
        assert played(resumed, iteration) == played(unbroken, iteration)
    pairs = [run / "iterations" / "02" / "pairs.jsonl" for run in (resumed, unbroken)]
    assert pairs[0].read_text() == pairs[1].read_text()
