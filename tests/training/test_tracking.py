"""Trackers: they get a run's metrics, and none of them can stop it."""

import struct
import sys
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator, tracking
from test_reward import Interrupted

from redraft.training.launch import resume, train
from redraft.training.tracking import Trackers
from score_runs import Notes, metrics, settings


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """The scalars in TensorBoard's event files, by name and step; later files replace earlier."""
    events = pytest.importorskip("tensorboardX.proto.event_pb2", reason="needs tensorboardX")
    found: dict[str, dict[int, float]] = {}
    for file in sorted(folder.glob("events.*")):
        data, at = file.read_bytes(), 0
        while at < len(data):  # length, its checksum, the event, its checksum
            (length,) = struct.unpack_from("<Q", data, at)
            event = events.Event.FromString(data[at + 12 : at + 12 + length])
            at += 16 + length
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found


def test_event_files_hold_the_metrics_of_a_resumed_run(world: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX", reason="needs tensorboardX")
    few = {"stage_two_steps": 3, "checkpoint_every": 2, "track": "tensorboard"}
    with pytest.raises(KeyboardInterrupt):
        train("score", settings(world, tmp_path / "run", **few), Interrupted(3))
    resume(tmp_path / "run")
    found, lines = scalars(tmp_path / "run" / "tensorboard"), metrics(tmp_path / "run")
    assert len(lines) == 4
    for name in ("accuracy/turn1", "kl/turn2", "loss", "tokens_per_second/rollout"):
        logged = {line["step"]: line[name] for line in lines if name in line}
        assert found[name] == {step: pytest.approx(value) for step, value in logged.items()}


class Fake:
    """A tracker that works until step `last`."""

    last = -1
    logged: list[int]

    def __init__(self, project: str, **settings: Any) -> None:
        type(self).logged = []
        assert project == "redraft"
        assert settings["resume"] == "allow"

    def start(self) -> None:
        if self.last < 0:
            raise ConnectionError("no such host\nand more")

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        assert values["samples"] == 4

    def log(self, values: dict[str, float], step: int) -> None:
        if step > self.last:
            raise TimeoutError("too slow")
        self.logged.append(step)


class Slow(Fake):
    last = 1


def test_a_tracker_that_fails_is_one_warning(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "wandb", Fake)
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "trackio", Slow)
    notes = Notes()
    fields = {"stage_two_steps": 2, "track": "wandb, trackio"}
    run = train("score", settings(world, tmp_path / "run", **fields), notes)
    assert len(metrics(run)) == 3
    assert (Fake.logged, Slow.logged) == ([], [1])
    assert [note.partition("; the run")[0] for note in notes.notes if "--track" in note] == [
        "warning: --track wandb: ConnectionError: no such host and more",
        "warning: --track trackio: TimeoutError: too slow",
    ]


def test_a_package_that_is_not_there_is_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    (tmp_path / "environment.json").touch()
    Accelerator(cpu=True)
    notes: list[str] = []
    Trackers(["trackio"], tmp_path, {}, 0, notes.append).log({"loss": 1.0}, 1)
    (told,) = notes
    assert told.startswith("warning: --track trackio: ModuleNotFoundError")


def test_an_unknown_tracker_is_a_mistake(world: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown tracker 'tensorbord'; expected"):
        settings(world, tmp_path / "run", track="wandb,tensorbord")
