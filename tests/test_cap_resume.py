"""CaP runs that were killed with SIGKILL, and resumed, end at the weights of an unbroken run."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from cap_runs import played, settings
from redraft.methods import cap
from score_runs import make_world, same_weights
from test_score_resume import timeless

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")

LONG: dict[str, Any] = {"chain_ratio": "any", "epochs": 2.0}

CASES: dict[str, tuple[str, int, dict[str, Any]]] = {
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

KILLED = """
import os, signal, sys
from contextlib import contextmanager
from pathlib import Path
import torch
from cap_runs import settings
from redraft.methods import cap
from redraft.progress import Silent
from test_cap_resume import CASES

class Killer(Silent):
    def __init__(self, phase, left):
        self.fatal, self.left, self.now = phase, left, ""

    @contextmanager
    def phase(self, name, total=None):
        self.now = name
        yield self

    def advance(self, n=1, **metrics):
        if metrics and self.now == self.fatal:
            self.left -= 1
            if not self.left:
                os.kill(os.getpid(), signal.SIGKILL)

world, folder = Path(sys.argv[1]), Path(sys.argv[2])
torch.set_num_threads(1)  # and no pool of threads that a fork would lose
cap.train(settings(world, folder / "warm-up"))  # loads what is loaded late
for name, (phase, work, fields) in CASES.items():
    child = os.fork()
    if not child:
        cap.train(settings(world, folder / name, **fields), Killer(phase, work))
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
    place = tmp_path_factory.mktemp("killed")
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(world), str(place)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return place


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As many threads as the killed runs had."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", CASES)
def test_a_killed_run_ends_at_the_same_weights(
    name: str, world: Path, killed: Path, tmp_path: Path
) -> None:
    unbroken, resumed = tmp_path / "unbroken", killed / name
    cap.train(settings(world, unbroken, **CASES[name][2]))
    assert not (resumed / "summary.json").exists()
    cap.resume(resumed)
    assert same_weights(resumed / "model", unbroken / "model")
    assert timeless(resumed) == timeless(unbroken)
    for iteration in (1, 2):
        assert played(resumed, iteration) == played(unbroken, iteration)
    pairs = [run / "iterations" / "02" / "pairs.jsonl" for run in (resumed, unbroken)]
    assert pairs[0].read_text() == pairs[1].read_text()
