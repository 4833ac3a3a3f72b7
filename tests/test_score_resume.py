"""A run killed by the system and resumed ends as if nothing had happened, to the bit.

One process loads everything once and forks a child for each case; the child trains and kills
itself with SIGKILL when the step of the case is done. The run is then resumed here and compared
with one that was never interrupted.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from redraft.cli import run as redraft
from redraft.learning.checkpoint import newest_complete, read_extra
from redraft.methods import score
from score_runs import make_world, metrics, same_weights, settings

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")

TWO_AND_THREE = {"stage_one_steps": 2, "stage_two_steps": 3, "checkpoint_every": 2}
THREE_ATTEMPTS = {"attempts": 3, "stage_one_steps": 2, "stage_two_steps": 2}

CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "before-any-checkpoint": (1, TWO_AND_THREE),
    "between-the-stages": (2, TWO_AND_THREE),
    "between-the-stages-optimiser-kept": (2, {**TWO_AND_THREE, "fresh_optimizer": False}),
    "in-stage-two": (5, {**TWO_AND_THREE, "offline_share": 0.5, "select": "best"}),
    "in-stage-two-bfloat16": (4, {**TWO_AND_THREE, "precision": "bfloat16"}),
    "in-stage-one-b": (3, {**THREE_ATTEMPTS, "checkpoint_every": 3}),
    "in-stage-one-b-lora": (3, {**THREE_ATTEMPTS, "checkpoint_every": 3, "lora_rank": 2}),
    "in-stage-two-of-three-attempts-optimiser-kept": (
        5,
        {**THREE_ATTEMPTS, "checkpoint_every": 5, "fresh_optimizer": False},
    ),
}
"""By name: the step after which the run is killed, and its settings."""

TIMES = {
    "time",
    *(
        f"{kind}/{what}"
        for kind in ("seconds", "tokens_per_second")
        for what in ("rollout", "reference", "update")
    ),
}

KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from redraft.methods import score
from redraft.progress import Silent
from score_runs import settings
from test_score_resume import CASES

class Killer(Silent):
    left = 0
    def advance(self, n=1, **metrics):
        if metrics:  # a step was taken
            self.left -= 1
            if not self.left:
                os.kill(os.getpid(), signal.SIGKILL)

world, folder = Path(sys.argv[1]), Path(sys.argv[2])
torch.set_num_threads(1)  # and no pool of threads that a fork would lose
score.train(settings(world, folder / "warm-up"))  # loads what is loaded late
for name, (step, fields) in CASES.items():
    child = os.fork()
    if not child:
        killer = Killer()
        killer.left = step
        score.train(settings(world, folder / name, **fields), killer)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
        sys.exit(f"{name}: ended with status {status}")
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def killed(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a killed run for each case."""
    folder = tmp_path_factory.mktemp("killed")
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(world), str(folder)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As many threads as the killed runs had."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def timeless(run: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k not in TIMES} for line in metrics(run)]


@pytest.mark.parametrize("name", CASES)
def test_killed_and_resumed_is_unbroken(
    name: str, killed: Path, world: Path, tmp_path: Path
) -> None:
    run = killed / name
    step, fields = CASES[name]
    assert len(metrics(run)) == step
    assert not (run / "model").exists()
    newest = newest_complete(run / "checkpoints")
    begin = int(read_extra(newest)["step"]) if newest else 0

    assert redraft(["resume", str(run)]) == 0
    unbroken = score.train(settings(world, tmp_path / "run", **fields))
    assert same_weights(run / "model", unbroken / "model")
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
    run = score.train(settings(world, tmp_path / "run"))
    before = (run / "metrics.jsonl").read_text()
    assert redraft(["resume", str(run)]) == 0
    assert (run / "metrics.jsonl").read_text() == before
    assert not (run / "interrupted").exists()
