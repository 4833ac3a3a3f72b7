"""What `evaluate_every` measures is what the method trains."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import cap_runs
import rise_runs
import tripost_runs
from redraft.methods.baselines import LmsiConfig, StarConfig
from redraft.methods.rise import RiseConfig
from redraft.methods.tripost import RationaleConfig
from redraft.training.launch import train
from redraft.training.policy import Policy
from redraft.training.run import TrainingRun
from redraft.training.settings import TrainConfig
from redraft.types import Episode
from score_runs import Notes, metrics


def _cap(world: Path, out: Path, **fields: Any) -> TrainConfig:
    few = {"chains": 4, "programs": 4, "loss": "none"}
    return cap_runs.settings(world, out, **(few | fields))


def _rise(kind: type[Any], **fields: Any) -> Callable[..., TrainConfig]:
    return lambda world, out, **more: rise_runs.settings(kind, world, out, **fields, **more)


def _lab(kind: type[Any], **fields: Any) -> Callable[..., TrainConfig]:
    def made(world: Path, out: Path, **more: Any) -> TrainConfig:
        more.pop("data", None)
        return kind(out=out, **(tripost_runs.FEW | fields | more))

    return made


CASES: dict[str, tuple[str, Callable[..., TrainConfig], str, int, int | None]] = {
    "cap": ("cap", _cap, "cap", 2, None),
    "cap-pot": ("cap", lambda *a, **f: _cap(*a, variant="pot", **f), "program", 1, None),
    "lmsi": ("lmsi", _rise(LmsiConfig, samples=8), "intrinsic", 1, None),
    "rise": ("rise", _rise(RiseConfig, window=2), "intrinsic", 3, 2),
    "star": ("star", _rise(StarConfig, window=1, iterations=1), "intrinsic", 2, 1),
    "rationale-sft": ("rationale-sft", _lab(RationaleConfig), "intrinsic", 1, None),
}
"""Method, settings, and of the held-out episodes the protocol, the most answers and the window."""


@pytest.mark.parametrize("case", CASES)
def test_held_out_problems_are_answered_as_the_method_is_trained(
    case: str, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, settings, protocol, answers, window = CASES[case]
    iterations = {"iterations": 2} if case == "rise" else {}
    measured: list[Sequence[Episode]] = []
    measure = TrainingRun.measured

    def spied(run: Any, episodes: Sequence[Episode], turns: int) -> dict[str, float]:
        measured.append(episodes)
        return measure(run, episodes, turns)

    monkeypatch.setattr(TrainingRun, "measured", spied)
    fields = {"data": world / "split", "evaluate_every": 1, "evaluate_problems": 4, **iterations}
    run = train(method, settings(world, tmp_path / "run", **fields))
    line = metrics(run)[0]
    assert line["held_out/n_problems"] == 4
    assert line["seconds/evaluation"] > 0
    assert f"held_out/accuracy/turn{answers}" in line
    assert f"held_out/accuracy/turn{answers + 1}" not in line
    for episode in measured[0]:
        assert episode.protocol == protocol
        if window is not None:
            assert episode.turns[-1].history == 2 * (answers - window)
        if method == "cap":
            assert episode.grades[-1].decided_by == "program" or episode.grades[-1].output
    if case == "cap":
        assert all(episode.grades[0].output is None for episode in measured[0])


def test_held_out_problems_that_failed_are_noted(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = Policy.sample

    def failing(policy: Any, problems: Any, *args: Any, **kwargs: Any) -> list[Episode]:
        made = sample(policy, problems, *args, **kwargs)
        return [e.unanswered("gone") if e.problem.question == "21?" else e for e in made]

    monkeypatch.setattr(Policy, "sample", failing)
    notes = Notes()
    fields = {"data": world / "split", "evaluate_every": 1}
    config = rise_runs.settings(LmsiConfig, world, tmp_path / "run", samples=8, **fields)
    run = train("lmsi", config, notes)
    assert metrics(run)[0]["held_out/n_problems"] == 3
    assert any("1 of 4 held-out problems could not be" in note for note in notes.notes)
