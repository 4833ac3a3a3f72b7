"""Whole runs of SCoRe on two processes."""

import os
import pickle
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from process_groups import assert_one_outcome, launch_group, run_group
from redraft.errors import UserError
from redraft.grading import ExactGrader
from redraft.methods import score
from redraft.methods.score import ScoreConfig
from redraft.processes import Processes
from redraft.progress import Silent
from redraft.training.launch import train
from redraft.training.on_policy import OnPolicyRun
from redraft.types import Grade, Problem
from score_runs import TIMES, metrics, played, settings

FIELDS: dict[str, Any] = {
    "problems_per_step": 6,
    "checkpoint_every": 2,
    "offline_share": 0.5,
    "evaluate_every": 1,
    "evaluate_problems": 3,
}


def train_rank(world: Path, folder: Path) -> OnPolicyRun[ScoreConfig]:
    """What each process does: train, and note the most bytes that it has sent at once."""
    if os.environ["RANK"] == "1" and folder.parent.name in GRADERS:
        ExactGrader.begin = GRADERS[folder.parent.name]  # type: ignore[assignment]
    gather, sizes = Processes.gather, list[int]()

    def measured(processes: Processes, items: Sequence[Any]) -> list[Any]:
        sizes.append(len(pickle.dumps(items)))
        return gather(processes, items)

    Processes.gather = measured  # type: ignore[method-assign]
    run = OnPolicyRun.create(settings(world, folder, **FIELDS), "train score", Silent())
    score.train(run)
    run.finish()
    rank = run.accelerator.process_index
    (folder.parent / f"bytes-{rank}.txt").write_text(str(max(sizes)))
    return run


def fail(grader: ExactGrader, problem: Problem, attempt: str) -> Grade:
    """A grader that does not work."""
    raise UserError("the grader has lost its tables")


def die(grader: ExactGrader, problem: Problem, attempt: str) -> Grade:
    """As if the system had killed the process."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


GRADERS = {"failing": fail, "dying": die}
"""Graders of the second process, by the folder of the run."""


@pytest.fixture(scope="module")
def folder(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run of one step of each stage on two processes left behind."""
    return run_group("test_score_distributed", world, tmp_path_factory.mktemp("distributed"))


def test_both_processes_end_with_the_weights_that_were_written(world: Path, folder: Path) -> None:
    assert_one_outcome(world, folder)


def test_each_process_writes_its_own_episodes(folder: Path) -> None:
    lines = metrics(folder / "run")
    assert [(line["step"], line["phase"]) for line in lines] == [(1, "stage I"), (2, "stage II")]
    for line in lines:
        assert (line["n_problems"], line["n_samples"]) == (6, 24)
        halves = [played(folder / "run", line["step"], process) for process in (0, 1)]
        assert [len(half) for half in halves] == [12, 12]
        assert len({e.problem.id for half in halves for e in half}) == 6
        second = [e.correct[1] for half in halves for e in half]
        assert line["accuracy/turn2"] == pytest.approx(sum(second) / 24)
        assert line["logprob_gap/max"] < 1e-4
    assert lines[1]["off_policy/turn1"] == 0.5


def test_metrics_of_process_groups_are_those_of_one(
    folder: Path, world: Path, tmp_path: Path
) -> None:
    """Draws belong to problems, so that one process samples the same episodes."""
    alone = train("score", settings(world, tmp_path / "run", **FIELDS))
    theirs, ours = (metrics(run)[0] for run in (folder / "run", alone))
    assert theirs.keys() == ours.keys()
    for name in theirs.keys() - TIMES - {"phase", "padding_share"}:
        assert theirs[name] == pytest.approx(ours[name], rel=1e-4, abs=1e-5), name
    episodes = [episode for process in (0, 1) for episode in played(folder / "run", 1, process)]
    assert {(e.problem.id, e.sample, *e.tokens) for e in episodes} == {
        (e.problem.id, e.sample, *e.tokens) for e in played(alone, 1)
    }


def test_no_episodes_travel(folder: Path) -> None:
    """Sums and rewards do."""
    for rank in (0, 1):
        assert int((folder / f"bytes-{rank}.txt").read_text()) < 8_000
    assert (folder / "run" / "episodes" / "train-000001.jsonl").stat().st_size > 12_000


def test_a_checkpoint_has_the_random_states_of_both(folder: Path) -> None:
    names = {path.name for path in (folder / "run" / "checkpoints" / "step-000002").iterdir()}
    assert names >= {"model.safetensors", "learner.pt", "random-0.pt", "random-1.pt"}


def test_an_error_on_one_process_ends_both_with_its_reason(world: Path, tmp_path: Path) -> None:
    failing = tmp_path / "failing"
    failing.mkdir()
    codes, errors = launch_group("test_score_distributed", world, failing)
    assert codes == [1, 1], "each ends by itself"
    reason = "the grader has lost its tables"
    assert f"UserError: step 1: {reason}" in errors[1]
    assert f"UserError: step 1: process 1: {reason}" in errors[0]


@pytest.mark.slow
def test_these_tests_end_when_a_process_dies(world: Path, tmp_path: Path) -> None:
    """The other one waits in a collective operation, and is killed if it does not give up."""
    dying = tmp_path / "dying"
    dying.mkdir()
    codes, _ = launch_group("test_score_distributed", world, dying, patience=5)
    assert codes[1] == -signal.SIGKILL
    assert codes[0] in (1, -signal.SIGKILL)
