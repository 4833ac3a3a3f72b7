"""Runs that are asked to end, meet a full disk, or come back to damaged files."""

import json
import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from redraft import interruption
from redraft.cli import run as redraft
from redraft.cli import train as train_command
from redraft.errors import UserError
from redraft.learning.checkpoint import newest_complete, read_extra
from redraft.learning.learner import Learner
from redraft.methods.rise import RiseConfig
from redraft.progress import Phase, Silent
from redraft.training import launch
from rise_runs import settings as rise_settings
from score_runs import Notes, metrics, same_weights, settings, timeless

FOUR: dict[str, Any] = {"stage_one_steps": 2, "stage_two_steps": 2, "checkpoint_every": 3}
BEST = {**FOUR, "select": "best"}


@pytest.fixture(scope="module")
def unbroken(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the settings `BEST` that nothing happened to."""
    return launch.train("score", settings(world, tmp_path_factory.mktemp("unbroken") / "a", **BEST))


def assert_alike(run: Path, unbroken: Path) -> None:
    assert same_weights(run / "model", unbroken / "model")
    assert timeless(run) == timeless(unbroken)
    chosen = [json.loads((one / "summary.json").read_text())["selected_step"] for one in
              (run, unbroken)]  # fmt: skip
    assert chosen[0] == chosen[1]


# Signals


@pytest.fixture
def heeding(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Signals to this process are heeded as the command line heeds them."""
    before = {number: signal.getsignal(number) for number in interruption.SIGNALS}
    monkeypatch.setattr(interruption, "_asked", False)
    monkeypatch.setattr(interruption, "_held", False)
    interruption.heed_signals()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Signaller(Silent):
    """Sends a signal after so many steps."""

    def __init__(self, number: int, steps: int) -> None:
        self._number, self._left = number, steps

    @contextmanager
    def phase(self, name: str, total: int | None = None, *more: object) -> Iterator[Phase]:
        yield self

    def advance(self, n: int = 1, **shown: float | str) -> None:
        self._left -= bool(shown)
        if shown and not self._left:
            os.kill(os.getpid(), self._number)


def train(world: Path, out: Path, monkeypatch: pytest.MonkeyPatch, progress: Silent) -> int:
    """`redraft train score` with the settings `BEST`; its exit code."""
    monkeypatch.setattr(train_command, "terminal_progress", lambda: progress)
    flags = [
        word
        for name, value in settings(world, out, **BEST).model_dump(exclude_unset=True).items()
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]
    return redraft(["train", "score", *flags])


@pytest.mark.usefixtures("heeding")
@pytest.mark.parametrize("during", ["rollout", "update"])
def test_sigterm_leaves_a_checkpoint_of_the_last_step(
    during: str,
    world: Path,
    unbroken: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, progress = tmp_path / "run", Silent()
    step, steps = Learner.step, [0]
    if during == "rollout":
        progress = Signaller(signal.SIGTERM, 2)
    else:

        def signalled(*arguments: Any) -> dict[str, float]:
            steps[0] += 1
            if steps[0] == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return step(*arguments)

        monkeypatch.setattr(Learner, "step", signalled)
    assert train(world, run, monkeypatch, progress) == 143
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == f"redraft: ended by SIGTERM; resume with `redraft resume {run}`"
    newest = newest_complete(run / "checkpoints")
    assert newest is not None
    assert read_extra(newest)["step"] == 2
    assert len(metrics(run)) == 2
    monkeypatch.setattr(interruption, "_asked", False)
    assert redraft(["resume", str(run)]) == 0
    assert not (run / "interrupted").exists(), "nothing is done twice"
    assert_alike(run, unbroken)


@pytest.mark.usefixtures("heeding")
def test_sigint_ends_as_it_always_has(
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    assert train(world, run, monkeypatch, Signaller(signal.SIGINT, 2)) == 130
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == f"redraft: interrupted; resume with `redraft resume {run}`"
    for number in interruption.SIGNALS:
        assert signal.getsignal(number) == signal.SIG_DFL, "the second one ends it at once"


# A full disk


@contextmanager
def files_no_longer_than(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_checkpoint_that_cannot_be_written_is_one_line_and_the_run_is_resumed(
    world: Path, unbroken: Path, tmp_path: Path
) -> None:
    """The weights do not fit, and then the optimiser after the first steps does not either."""
    weights = (world / "model" / "model.safetensors").stat().st_size
    run = tmp_path / "run"
    begin = partial(launch.train, "score", settings(world, run, **BEST))
    for step, size, go in (
        (0, weights // 2, begin),
        (0, weights // 2, partial(launch.resume, run)),
        (3, weights + 1000, partial(launch.resume, run)),
    ):
        with files_no_longer_than(size), pytest.raises(UserError) as caught:
            go()
        line = str(caught.value)
        place = run / "checkpoints" / f"step-{step:06d}"
        assert line.startswith(f"checkpoint {place}: cannot be written (")
        assert line.endswith(f"`redraft resume {run}` resumes from the checkpoint before it")
        assert not list((run / "checkpoints").glob(".*")), "what was written is gone"
    launch.resume(run)
    assert_alike(run, unbroken)


# Damage


@pytest.fixture
def stopped(unbroken: Path, tmp_path: Path) -> Path:
    """A copy of the run, with checkpoints of steps 3 and 4, without its outcome."""
    run = tmp_path / "stopped"
    shutil.copytree(unbroken, run)
    shutil.rmtree(run / "model")
    (run / "summary.json").unlink()
    return run


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    file.write_bytes(content)


def drop_line(file: Path) -> None:
    file.write_bytes(b"".join(file.read_bytes().splitlines(True)[:-1]))


DAMAGE: dict[str, Callable[[Path], None]] = {
    "weights": lambda run: flip(run / "checkpoints/step-000004/model.safetensors"),
    "optimiser": lambda run: flip(run / "checkpoints/step-000004/learner.pt"),
    "tokenizer": lambda run: (run / "checkpoints/step-000004/tokenizer.json").unlink(),
    "extra": lambda run: flip(run / "checkpoints/step-000004/extra.json"),
    "metrics": lambda run: drop_line(run / "metrics.jsonl"),
    "metrics' bytes": lambda run: (run / "metrics.jsonl").write_bytes(
        (run / "metrics.jsonl").read_bytes().replace(b'"step": 4', b'"\xff": 4')
    ),
}


@pytest.mark.parametrize(
    "what",
    [
        pytest.param(what, marks=() if what in ("weights", "metrics") else pytest.mark.slow)
        for what in DAMAGE
    ],
)
def test_the_checkpoint_before_the_damage_is_used_and_that_is_said(
    what: str, stopped: Path, unbroken: Path
) -> None:
    DAMAGE[what](stopped)
    notes = Notes()
    launch.resume(stopped, notes)
    newest = stopped / "checkpoints" / "step-000004"
    said = [note for note in notes.notes if note.startswith(f"checkpoint {newest} is not used: ")]
    assert len(said) == 1
    assert any(note.startswith("resuming after step 3") for note in notes.notes)
    assert (stopped / "interrupted/001/checkpoints/step-000004").is_dir()
    assert_alike(stopped, unbroken)


def test_where_no_checkpoint_is_left_nothing_is_touched(stopped: Path) -> None:
    for place in (stopped / "checkpoints").iterdir():
        flip(place / "model.safetensors")
    before = sorted(stopped.rglob("*"))
    with pytest.raises(UserError, match=r"is not used: .* no other is left; put back"):
        launch.resume(stopped)
    assert sorted(stopped.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "value"),
    [("step", "x"), ("step", 1e999), ("step", -1), ("step", 1e9), ("score", [1]), ("recent", 5)],
)
def test_odd_values_of_a_checkpoint_without_checksums(name: str, value: Any, stopped: Path) -> None:
    place = stopped / "checkpoints" / "step-000004"
    (place / "checksums.json").unlink()
    extra = json.loads((place / "extra.json").read_text())
    (place / "extra.json").write_text(json.dumps({**extra, name: value}))
    with pytest.raises(UserError, match=rf"damaged \(.*extra\.json: {name} is .*delete this folde"):
        launch.resume(stopped)


@pytest.mark.parametrize("how", ["cut", "empty"])
def test_examples_that_were_cut_are_not_learned_from(how: str, world: Path, tmp_path: Path) -> None:
    run = launch.train("rise", rise_settings(RiseConfig, world, tmp_path / "run"))
    examples = run / "iterations" / "01" / "examples.jsonl"
    if how == "cut":
        drop_line(examples)
    else:
        examples.write_text("")
        (examples.parent / "checksums.json").unlink()
    for place in (run / "checkpoints").iterdir():
        if place.name != "step-000000":
            shutil.rmtree(place)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(UserError, match=r"examples\.jsonl: (damaged|holds no example; delete it)"):
        launch.resume(run)


def test_a_setting_that_was_edited_is_told(stopped: Path) -> None:
    file = stopped / "config.yaml"
    file.write_text(file.read_text().replace("learning_rate: 0.01", "learning_rate: 0.02"))
    notes = Notes()
    launch.resume(stopped, notes)
    assert f"{file}: learning_rate is 0.02, and was 0.01 when the run began" in notes.notes
