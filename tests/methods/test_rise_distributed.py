"""Whole runs of RISE on two processes: both collect, and both learn from what both collected."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from process_groups import assert_one_outcome, run_group
from redraft.methods import rise
from redraft.methods.rise import RiseConfig
from redraft.progress import Silent
from redraft.training.supervised import SupervisedRun
from rise_runs import collected, counts, examples, settings
from score_runs import metrics

pytestmark = pytest.mark.slow

BATCH = 4
FIELDS: dict[str, Any] = {
    "iterations": 2,
    "samples": 4,
    "best_of": 4,
    "epochs": 2.0,
    "batch_size": BATCH,
}


def train_rank(world: Path, folder: Path) -> SupervisedRun[RiseConfig]:
    """What each process does."""
    config = settings(RiseConfig, world, folder, **FIELDS)
    run = SupervisedRun.create(config, "train rise", Silent())
    rise.train(run)
    run.finish()
    return run


@pytest.fixture(scope="module")
def folder(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run of two iterations on two processes left behind."""
    return run_group("test_rise_distributed", world, tmp_path_factory.mktemp("distributed"))


def test_both_processes_end_with_the_weights_that_were_written(world: Path, folder: Path) -> None:
    assert_one_outcome(world, folder)


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
