"""Whole runs of SCoRe, RISE and CaP with DPO on 2 and 4 processes end as on one process does, with
the weights whole on each (DDP) or shared out (FSDP2)."""

from pathlib import Path
from typing import Any

import pytest
import torch

import cap_runs
import rise_runs
import score_runs
from process_groups import run_group
from redraft.methods.rise import RiseConfig
from redraft.progress import Silent
from redraft.training.launch import RUNS
from redraft.training.method import METHODS
from redraft.training.run import TrainingRun
from redraft.training.settings import TrainConfig
from score_runs import TIMES, metrics, weights

LIMIT = 1200
"""Seconds for all methods: 4 processes may share a core."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(LIMIT + 100)]

NOT_COMPARED = {"phase", "padding_share", "rewards/accuracies"}
"""The last one compares numbers that are equal but for rounding before DPO's first step."""


def configs(world: Path, folder: Path, sharding: Any) -> dict[str, TrainConfig]:
    """Settings by method: two stages with a part of another model's first attempts; steps that are
    sampled ahead; two iterations from the base model, which 4 processes share out unevenly; a
    preference stage."""
    both: dict[str, Any] = {"sharding": sharding, "checkpoint_every": 1}
    score: dict[str, Any] = {
        "problems_per_step": 6,
        "offline_share": 0.5,
        "stage_two_steps": 2,
        "evaluate_every": 1,
        "evaluate_problems": 3,
    }
    rise: dict[str, Any] = {"iterations": 2, "samples": 4, "best_of": 4, "start": "base"}
    ahead: dict[str, Any] = {"overlap": True, "stage_one_steps": 4, "problems_per_step": 6}
    return {
        "score": score_runs.settings(world, folder / "score", **both, **score),
        "score-ahead": score_runs.settings(world, folder / "ahead", sharding=sharding, **ahead),
        "rise": rise_runs.settings(RiseConfig, world, folder / "rise", **both, **rise),
        "cap": cap_runs.settings(world, folder / "cap", **both, loss="sigmoid"),
    }


def train_all(world: Path, folder: Path, sharding: str) -> TrainingRun[Any]:
    """Train all of them; returns the last run."""
    for name, config in configs(world, folder, sharding).items():
        method = METHODS[name.partition("-")[0]]
        run = RUNS[method.run].create(config, f"train {method.name}", Silent())
        method.train(run)
        run.finish()
    return run


def train_rank(world: Path, folder: Path) -> TrainingRun[Any]:
    """What each process does; the folder's name says with which sharding."""
    return train_all(world, folder, folder.parent.name.partition("-")[0])


@pytest.fixture(scope="module")
def alone(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the runs leave on one process."""
    folder = tmp_path_factory.mktemp("alone")
    train_all(world, folder, "none")
    return folder


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("sharding", ["none", "fsdp2", "zero2", "zero3"])
def test_several_processes_end_as_one(
    sharding: str, processes: int, alone: Path, world: Path, tmp_path: Path
) -> None:
    folder = tmp_path / f"{sharding}-{processes}"
    folder.mkdir()
    run_group("test_sharding", world, folder, processes, limit=LIMIT)
    base = weights(world / "model")
    for config in configs(world, folder, sharding).values():
        theirs, ours = folder / "run" / config.out.name, alone / config.out.name
        lines, wanted = metrics(theirs), metrics(ours)
        assert len(lines) == len(wanted) > 1
        for line, other in zip(lines, wanted, strict=True):
            assert line.keys() == other.keys()
            for name in line.keys() - TIMES - NOT_COMPARED:
                assert line[name] == pytest.approx(other[name], rel=1e-3, abs=1e-4), name
        trained, expected = weights(theirs / "model"), weights(ours / "model")
        assert trained.keys() == expected.keys()
        for name, value in trained.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-4)
        assert any((value - base[name]).abs().max() > 1e-2 for name, value in trained.items())
