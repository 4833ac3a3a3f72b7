"""Whole runs of RISE on two processes: both collect, and both learn from what both collected."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from redraft.config import read_yaml
from rise_runs import collected, counts, examples
from score_runs import metrics, same_weights, weights
from two_processes import run_on_two

BATCH = 4
FIELDS: dict[str, Any] = {
    "iterations": 2,
    "samples": 4,
    "best_of": 4,
    "epochs": 2.0,
    "batch_size": BATCH,
}

RANK = """
import sys
from pathlib import Path
import torch
from redraft.methods import rise
from redraft.methods.rise_config import RiseConfig
from redraft.methods.supervised import SupervisedSession
from redraft.progress import Silent
from rise_runs import settings
from test_rise_distributed import FIELDS

world, folder = Path(sys.argv[1]), Path(sys.argv[2])
torch.set_num_threads(1)
config = settings(RiseConfig, world, folder / "run", **FIELDS)
session = SupervisedSession.create(config, "train rise", Silent())
rise._train(session)
rank = session.accelerator.process_index
torch.save(session.model.state_dict(), folder / f"{rank}.pt")
torch.distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def folder(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run of two iterations on two processes left behind."""
    folder = tmp_path_factory.mktemp("distributed")
    run_on_two(RANK, world, folder)
    return folder


def test_both_processes_end_with_the_weights_that_were_written(folder: Path) -> None:
    first, second = (torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2))
    written = weights(folder / "run" / "model")
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert all(torch.equal(value, written[name]) for name, value in first.items())
    start = Path(read_yaml(folder / "run" / "config.yaml")["model"])
    assert not same_weights(folder / "run" / "model", start)


def test_every_problem_is_played_once_by_one_of_them(folder: Path) -> None:
    for iteration in (1, 2):
        episodes = collected(folder / "run", iteration)
        assert set(Counter(e.problem.id for e in episodes).values()) == {FIELDS["samples"]}
        assert len({e.problem.id for e in episodes}) == 6
        assert counts(folder / "run", iteration)["episodes"] == 24


def test_both_learn_from_all_examples(folder: Path) -> None:
    for iteration in (1, 2):
        learned = examples(folder / "run", iteration)
        assert len(learned) == counts(folder / "run", iteration)["examples"] > 0
        lines = [m for m in metrics(folder / "run") if m["phase"] == f"iteration {iteration}"]
        assert len(lines) == math.ceil(FIELDS["epochs"] * len(learned) / BATCH)
