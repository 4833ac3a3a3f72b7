"""Run directories: everything that one command writes, resumable after a crash at any point::

    run.lock           which process writes here; of no meaning once that has ended
    config.yaml        the configuration as resolved; `--config` reads it back
    environment.json   the command, its configuration, versions, machine, commit
    timing.json        seconds that sampling took, by part of an evaluation
    sandbox.json       how programs that a model wrote were confined, where any were run
    metrics.jsonl      one line per step, as it happens
    episodes/          episodes, one JSON Lines file per step or evaluation
    checkpoints/       Hugging Face format, with everything needed to resume
    summary.json       the outcome
    interrupted/       what a resumed run had written after the checkpoint it resumed from

Steps count from 1. A checkpoint at step s holds the state after s steps, so the resumed run writes
everything of later steps anew; `RunDirectory.rewind` moves the old files out of the way first.

What a run depends on is compared with what was written before it is used: files with their
checksums (`checksums.json` beside them), settings with `environment.json`, metrics with the steps.
"""

import errno
import fcntl
import json
import math
import os
import re
import socket
import stat
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TextIO, TypeVar

from pydantic import BaseModel

from redraft.config import Settings, fields, flat, read_yaml, resolve, to_yaml
from redraft.errors import UserError
from redraft.storage import (
    append_jsonl,
    complete_lines,
    plain,
    read_json,
    write_bytes,
    write_json,
    write_text,
)
from redraft.system import environment
from redraft.types import Episode

S = TypeVar("S", bound=Settings)

_STEP = re.compile(r"-(\d{6,})(?:\.jsonl)?$")

_BEGINNING = {"run.lock", "config.yaml", "sandbox.json", "environment.json"}
"""What `RunDirectory.create` writes, the last of them at last."""

_held: dict[Path, tuple[int, TextIO]] = {}
"""The locks of this process: by file its id, which a fork changes, and the open file."""


@contextmanager
def run_locks() -> Iterator[None]:
    """Run directories that are locked within are unlocked at the end; also decorates a function."""
    before = set(_held)
    try:
        yield
    finally:
        for path in set(_held) - before:
            _held.pop(path)[1].close()


def is_run(folder: Path) -> bool:
    """Whether a run has begun in a folder, so that it can be opened and not created."""
    return (folder / "environment.json").is_file()


def check_files(folder: Path) -> None:
    """Refuse a run's folder with something in it that a reader would wait for, such as a pipe.

    Raises:
        UserError: something in it is neither a file nor a folder, or the other of both.
    """
    for path in (folder, *sorted(folder.rglob("*"))):
        try:
            mode = path.stat().st_mode
        except FileNotFoundError:  # a link of a tracker's to what is gone
            continue
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); remove it") from None
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise UserError(f"{path}: neither a file nor a folder; remove it")
    for name in ("episodes", "checkpoints", "interrupted"):
        if (folder / name).is_file():
            raise UserError(f"{folder / name}: not a folder; put it back from a copy")
    if (folder / "metrics.jsonl").is_dir():
        raise UserError(f"{folder / 'metrics.jsonl'}: not a file; put it back from a copy")


class RunDirectory:
    """A run directory, open for writing. Made by `create` or, to resume, by `open`."""

    def __init__(self, folder: Path, command: str) -> None:
        self.folder = folder
        self.command = command
        """What runs here, such as `train score`: `redraft resume` finds the method by it."""

    @classmethod
    def create(
        cls,
        folder: Path,
        config: BaseModel,
        command: str,
        confinement: Mapping[str, object] | None = None,
    ) -> Self:
        """Start a run in a new or empty folder; writes `config.yaml`, `environment.json` and, where
        programs are run, their `confinement`. The folder is locked then.

        A run that ended before it wrote anything else (its model was misspelt, say, or it was
        killed at once) holds nothing to lose and is written over.

        Raises:
            UserError: the folder holds something, another process uses it, or it cannot be written
                to.
        """
        run = cls(folder, command)
        try:
            if run._others() and not is_run(folder):
                raise UserError(f"--out {folder}: the folder is not empty; give another --out")
            folder.mkdir(parents=True, exist_ok=True)
            run.lock()
            if run._others():
                raise UserError(
                    f"--out {folder}: holds a run; give another --out, or `redraft resume {folder}`"
                )
            for name in ("environment.json", "sandbox.json"):
                (folder / name).unlink(missing_ok=True)
            write_text(folder / "config.yaml", to_yaml(config, f"redraft {command}"))
            run.confined(confinement)
            facts = {"command": command, "argv": sys.argv, "seed": getattr(config, "seed", None)}
            settings = config.model_dump(mode="json")
            write_json(folder / "environment.json", {**facts, "config": settings, **environment()})
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"--out {folder}: {reason}; give another --out") from None
        return run

    @classmethod
    def open(cls, folder: Path) -> Self:
        """The run in a folder that `create` made.

        Raises:
            UserError: there is no such folder, or it is not a run's, or something in it is neither
                a file nor a folder.
        """
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; expected one that a redraft command wrote")
        run = cls(folder, "")
        check_files(folder)
        if not is_run(folder) and (folder / "run.lock").exists() and not run._others():
            raise UserError(
                f"{folder}: a run that ended before it began; give the command that began it again"
            )
        if not is_run(folder) or not (folder / "config.yaml").is_file():
            raise UserError(
                f"{folder}: not a run's folder (config.yaml and environment.json are missing or"
                " damaged); name the folder that was given as --out"
            )
        run.command = str(read_json(folder / "environment.json").get("command"))
        return run

    def lock(self) -> None:
        """Keep other processes out of the folder until `run_locks` or this process ends.

        Raises:
            UserError: another process is in it; names that and its start. Or `run.lock` is no file
                of the folder's own.
        """
        path = self.folder.resolve() / "run.lock"
        if path in _held and _held[path][0] == os.getpid():
            return
        # Closing any file of that name would give up the lock; nothing else here opens one.
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            descriptor = os.open(path, flags, 0o666)
        except OSError as error:
            if not path.is_symlink() and error.errno != errno.EISDIR:
                raise
            raise UserError(f"{path}: no file of a run's own; remove it") from None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise UserError(f"{path}: no file of a run's own; remove it")
        file = os.fdopen(descriptor, "a+", encoding="utf-8")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                with file:
                    file.seek(0)
                    raise UserError(f"{self.folder}: in use by {_holder(file.read())}") from None
            warnings.warn(
                f"{self.folder}: its file system has no locks ({error.strerror}); see to it that "
                "no second process writes there",
                stacklevel=2,
            )
        file.truncate(0)
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        host = socket.gethostname()
        file.write(json.dumps({"pid": os.getpid(), "host": host, "since": since}) + "\n")
        file.flush()
        _held[path] = os.getpid(), file

    def _others(self) -> set[str]:
        """What is in the folder beside the beginning of a run."""
        inside = self.folder.iterdir() if self.folder.is_dir() else ()
        return {path.name.removesuffix(".part") for path in inside} - _BEGINNING

    def config(self, cls: type[S]) -> tuple[S, dict[str, str]]:
        """The run's configuration, read back from `config.yaml`, and by name a sentence for each
        setting that was changed there since the run began.

        Raises:
            UserError: the file was cut, or edited into something that `cls` refuses.
        """
        path = self.folder / "config.yaml"
        begun = read_json(self.folder / "environment.json").get("config")
        if not isinstance(begun, dict):  # a run of before it was kept there
            return resolve(cls, file=path), {}
        known, given = fields(cls), dict(flat(cls, read_yaml(path)))
        before = {name: value for name, value in flat(cls, begun) if name in known}
        if gone := [name for name in before if name not in given]:
            raise UserError(
                f"{path}: lacks {len(gone)} settings that the run began with, first {gone[0]!r}: "
                "the file was cut; environment.json beside it has them all under `config`"
            )
        config = resolve(cls, file=path)
        now = dict(flat(cls, config.model_dump(mode="json")))
        changed = [name for name, value in before.items() if now[name] != value]
        return config, {
            name: f"{path}: {name} is {now[name]!r}, and was {before[name]!r} when the run began"
            for name in changed
        }

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.folder / "checkpoints"

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """Append one line to `metrics.jsonl`: `step`, `time` (seconds since 1970) and the metrics.

        Numbers of numpy and torch are taken as they are; NaN and infinities, which JSON does not
        have, become null. The line is in the file when this returns.
        """
        values = {key: plain(value) for key, value in metrics.items()}
        line = json.dumps({"step": step, "time": round(time.time(), 3), **values}, allow_nan=False)
        with self._metrics.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """Every line that `log` has written, oldest first; an unfinished one is left out.

        Raises:
            UserError: a line is not one of metrics.
        """
        if not self._metrics.exists():
            return []
        lines = list(complete_lines(self._metrics))
        for number, line in lines:
            if math.isinf(_step_of(line.encode() + b"\n")):
                raise UserError(f"{self._metrics}:{number}: not a line of metrics; delete it")
        return [json.loads(line) for _, line in lines]

    def lost_metrics(self, step: int) -> str | None:
        """Which lines of `metrics.jsonl` up to `step` are missing, in words; None: none is."""
        found = {_step_of(line) for line in self._metric_lines()}
        lost = [number for number in range(1, step + 1) if number not in found]
        if not lost:
            return None
        return f"{self._metrics} lacks {len(lost)} lines of earlier steps, first of step {lost[0]}"

    def episodes(self, name: str, episodes: Iterable[Episode], step: int | None = None) -> Path:
        """Append episodes to `episodes/NAME.jsonl`, or `episodes/NAME-STEP.jsonl`.

        Whatever a resumed run may write again belongs to a `step`, so that `rewind` finds it.
        """
        stem = name if step is None else f"{name}-{step:06d}"
        path = self.folder / "episodes" / f"{stem}.jsonl"
        append_jsonl(path, episodes)
        return path

    def confined(self, confinement: Mapping[str, object] | None) -> None:
        """Write `sandbox.json`: how programs are confined from now on; None: none are run."""
        if confinement is not None:
            write_json(self.folder / "sandbox.json", confinement)

    def took(self, part: str, seconds: float) -> None:
        """Add seconds to those of a part of an evaluation in `timing.json`."""
        path = self.folder / "timing.json"
        try:
            known = dict(json.loads(path.read_text("utf-8")))
            known[part] = round(known.get(part, 0.0) + seconds, 3)
        except (OSError, ValueError, TypeError):
            known = {part: round(seconds, 3)}
        write_json(path, known)

    def summary(self, summary: Mapping[str, Any]) -> None:
        """Write `summary.json`, whole or not at all."""
        write_json(self.folder / "summary.json", summary)

    def rewind(self, step: int) -> Path | None:
        """Move everything that was written after `step` to a new folder under `interrupted/`.

        Metric lines, episode files and checkpoints of later steps, metric lines that cannot be
        read, and with them `summary.json` are moved; nothing is deleted, and a crash in between
        loses nothing either. Returns the folder, or None when nothing came after `step`: a summary
        then still holds.
        """
        lines = self._metric_lines()
        kept = [line for line in lines if _step_of(line) <= step]
        later = [line for line in lines if _step_of(line) > step]
        files = [
            path
            for pattern in ("episodes/*.jsonl", "checkpoints/step-*")
            for path in sorted(self.folder.glob(pattern))
            if (found := _STEP.search(path.name)) and int(found.group(1)) > step
        ]
        if not later and not files:
            return None
        files += [path for path in [self.folder / "summary.json"] if path.exists()]
        parent = self.folder / "interrupted"
        number = 1 + max((int(p.name) for p in parent.glob("*") if p.name.isdecimal()), default=0)
        aside = parent / f"{number:03d}"
        aside.mkdir(parents=True)
        if later:
            write_bytes(aside / "metrics.jsonl", b"".join(later))
            write_bytes(self._metrics, b"".join(kept))
        for path in files:
            target = aside / path.relative_to(self.folder)
            target.parent.mkdir(exist_ok=True)
            path.replace(target)
        return aside

    def _metric_lines(self) -> list[bytes]:
        """Lines of `metrics.jsonl` with their ends, as they are."""
        return self._metrics.read_bytes().splitlines(True) if self._metrics.exists() else []

    @property
    def _metrics(self) -> Path:
        return self.folder / "metrics.jsonl"


def _holder(lock: str) -> str:
    """The process that a lock file tells of, in words."""
    try:
        told = json.loads(lock)
        process = f"process {told['pid']} on {told['host']} since {told['since']}"
    except (ValueError, KeyError, TypeError):
        process = "another process"
    return f"{process}; wait until it ends, or end it"


def _step_of(line: bytes) -> float:
    """The step of a metric line; one that is unfinished or damaged belongs to no step."""
    try:
        whole = line.startswith(b"{") and line.endswith(b"\n")
        step = json.loads(line)["step"] if whole else math.inf
    except (ValueError, KeyError, TypeError, RecursionError):
        return math.inf
    return step if type(step) is int else math.inf
