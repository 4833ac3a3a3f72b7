"""A whole run of SCoRe on two processes."""

from pathlib import Path
from typing import Any

import pytest

from redraft.episode import Episode, read_jsonl
from redraft.methods import score
from redraft.methods.on_policy import OnPolicySession
from redraft.progress import Silent
from score_runs import metrics, settings
from two_processes import assert_one_outcome, run_on_two

FIELDS: dict[str, Any] = {"problems_per_step": 6, "checkpoint_every": 2, "offline_share": 0.5}


def train_rank(world: Path, run: Path) -> OnPolicySession:
    """What each process does."""
    session = OnPolicySession.create(settings(world, run, **FIELDS), "train score", Silent())
    score._train(session)
    return session


@pytest.fixture(scope="module")
def folder(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run of one step of each stage on two processes left behind."""
    return run_on_two("test_score_distributed", world, tmp_path_factory.mktemp("distributed"))


def test_both_processes_end_with_the_weights_that_were_written(world: Path, folder: Path) -> None:
    assert_one_outcome(world, folder)


def test_metrics_and_episodes_are_those_of_both_processes(folder: Path) -> None:
    lines = metrics(folder / "run")
    assert [(line["step"], line["phase"]) for line in lines] == [(1, "stage I"), (2, "stage II")]
    for line in lines:
        assert (line["n_problems"], line["n_samples"]) == (6, 24)
        file = folder / "run" / "episodes" / f"train-{line['step']:06d}.jsonl"
        episodes = read_jsonl(file, Episode)
        assert len(episodes) == 24
        assert line["accuracy/turn2"] == sum(e.correct[1] for e in episodes) / 24
        # The two processes sample with seeds of their own.
        halves = [[tuple(e.turns[1].attempt_tokens) for e in episodes[k : k + 12]] for k in (0, 12)]
        assert halves[0] != halves[1]
        assert line["logprob_gap/max"] < 1e-4
    assert lines[1]["off_policy/turn1"] == 0.5


def test_a_checkpoint_has_the_random_states_of_both(folder: Path) -> None:
    names = {path.name for path in (folder / "run" / "checkpoints" / "step-000002").iterdir()}
    assert names >= {"model.safetensors", "learner.pt", "random-0.pt", "random-1.pt"}
