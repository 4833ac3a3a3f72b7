"""Jobs side by side, in real processes."""

import io
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from redraft.cli.progress import LineProgress
from redraft.errors import UserError
from redraft.progress import Progress, Silent
from redraft.system import side_by_side, usable_cores


def told(steps: int, progress: Progress) -> tuple[int, int, int]:
    """A job that tells how far it is and returns its process, its threads and its cores."""
    progress.note("begins")
    with progress.phase("counting", steps) as phase, progress.phase("within") as within:
        for step in range(steps):
            within.advance()
            phase.advance(step=step)
    return os.getpid(), torch.get_num_threads(), usable_cores()


def waits_for(other: Path, mine: Path, progress: Progress) -> bool:
    """Whether the other job was under way while this one was."""
    mine.touch()
    began = time.monotonic()
    while not other.exists() and time.monotonic() - began < 60:
        time.sleep(0.01)
    return other.exists()


def refused(progress: Progress) -> None:
    """A job whose user made a mistake."""
    with progress.phase("trying"):
        raise UserError("--model nowhere: no such folder")


def broken(progress: Progress) -> None:
    """A job with a defect."""
    raise ZeroDivisionError("of mine")


def killed(progress: Progress) -> None:
    """A job that the system kills."""
    with progress.phase("trying"):
        os.kill(os.getpid(), signal.SIGKILL)


def sleeps(file: Path, progress: Progress) -> None:
    """A job that takes for ever."""
    whole = file.with_suffix(".new")
    whole.write_text(str(os.getpid()))
    whole.rename(file)
    time.sleep(600)


def test_results_and_progress_come_home() -> None:
    stream = io.StringIO()
    jobs = {"one": partial(told, 3), "two": partial(told, 5)}
    results = side_by_side(jobs, LineProgress(stream))
    assert list(results) == ["one", "two"]
    pids = {pid for pid, *_ in results.values()}
    assert len(pids) == 2
    assert os.getpid() not in pids
    share = max(1, usable_cores() // min(2, usable_cores()))
    assert [shares for _, *shares in results.values()] == [[share, share]] * 2
    lines = stream.getvalue().splitlines()
    for name, steps in (("one", 3), ("two", 5)):
        mine = [line for line in lines if line.startswith(name)]
        assert mine[:2] == [f"{name}: begins", f"{name}: counting: begins, {steps} steps"]
        assert mine[-2].startswith(f"{name}: counting {steps}/{steps}")
        assert f"step {steps - 1}" in mine[-2]
        assert mine[-1].startswith(f"{name}: counting: done")
        assert not any("within" in line for line in mine)


def test_jobs_overlap(tmp_path: Path) -> None:
    if usable_cores() == 1:
        return  # they take turns there
    a, b = tmp_path / "a", tmp_path / "b"
    assert side_by_side({"a": partial(waits_for, b, a), "b": partial(waits_for, a, b)}, Silent())


@pytest.mark.parametrize(
    ("job", "error", "text"),
    [
        (refused, UserError, "--model nowhere: no such folder"),
        (broken, ZeroDivisionError, "of mine"),
        (killed, UserError, "bad: its process ended with code -9"),
    ],
)
def test_what_goes_wrong_in_one_stops_all(
    job: Callable[[Progress], None], error: type[Exception], text: str, tmp_path: Path
) -> None:
    jobs = {"long": partial(sleeps, tmp_path / "pid"), "bad": job}
    with pytest.raises(error, match=text):
        side_by_side(jobs, Silent())
    if (tmp_path / "pid").exists():
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / "pid").read_text()), 0)
