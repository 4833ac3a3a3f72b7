"""A whole run of SCoRe on two processes."""

from pathlib import Path
from typing import Any

import pytest
import torch

from redraft.config import read_yaml
from redraft.episode import Episode, read_jsonl
from score_runs import metrics, weights
from two_processes import run_on_two

FIELDS: dict[str, Any] = {"problems_per_step": 6, "checkpoint_every": 2, "offline_share": 0.5}

RANK = """
import sys
from pathlib import Path
import torch
from redraft.methods import score
from redraft.methods.on_policy import OnPolicySession
from redraft.progress import Silent
from score_runs import settings
from test_score_distributed import FIELDS

world, folder = Path(sys.argv[1]), Path(sys.argv[2])
torch.set_num_threads(1)
config = settings(world, folder / "run", **FIELDS)
session = OnPolicySession.create(config, "train score", Silent())
score._train(session)
rank = session.accelerator.process_index
torch.save(session.model.state_dict(), folder / f"{rank}.pt")
torch.distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def folder(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run of one step of each stage on two processes left behind."""
    folder = tmp_path_factory.mktemp("distributed")
    run_on_two(RANK, world, folder)
    return folder


def test_both_processes_end_with_the_weights_that_were_written(folder: Path) -> None:
    first, second = (torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2))
    written = weights(folder / "run" / "model")
    base = weights(Path(read_yaml(folder / "run" / "config.yaml")["model"]))
    assert first.keys() == second.keys() == written.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert all(torch.equal(value, written[name]) for name, value in first.items())
    assert any(not torch.equal(value, base[name]) for name, value in written.items())


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
