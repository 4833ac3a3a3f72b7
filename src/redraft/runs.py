"""A run is a folder that explains itself, and that can be killed anywhere and gone on with.

::

    config.yaml        the configuration as resolved; `--config` reads it back
    environment.json   the command, versions, machine, commit
    sandbox.json       how programs that a model wrote were confined, where any were run
    metrics.jsonl      one line a step, as it happens
    episodes/          what was said, one JSON Lines file per step or evaluation
    checkpoints/       Hugging Face format, with everything that is needed to go on
    summary.json       the outcome
    interrupted/       what a resumed run had written after the checkpoint it went on from

Steps count from 1. A checkpoint at step s holds the state after s steps, so that everything of a
later step is written anew by the resumed run; `Run.rewind` moves it out of the way, unharmed.
"""

import json
import math
import os
import re
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import BaseModel

from redraft.config import Settings, resolve, to_yaml
from redraft.environment import environment
from redraft.episode import Episode, append_jsonl, complete_lines
from redraft.errors import UserError

S = TypeVar("S", bound=Settings)

_STEP = re.compile(r"-(\d{6,})\.jsonl$")


class Run:
    """A run's folder, open for writing. Made by `create` or, to go on, by `open`."""

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
        programs are run, their `confinement`.

        A run that ended before it wrote anything else (its model was misspelt, say) holds nothing
        to lose and is written over.

        Raises:
            UserError: the folder holds something, or cannot be written to.
        """
        run = cls(folder, command)
        try:
            inside = {path.name for path in folder.iterdir()} if folder.exists() else set()
            if inside - {"sandbox.json"} not in (set(), {"config.yaml", "environment.json"}):
                raise UserError(_occupied(folder))
            folder.mkdir(parents=True, exist_ok=True)
            write_text(folder / "config.yaml", to_yaml(config, f"redraft {command}"))
            facts = {"command": command, "argv": sys.argv, "seed": getattr(config, "seed", None)}
            write_json(folder / "environment.json", {**facts, **environment()})
            (folder / "sandbox.json").unlink(missing_ok=True)
            run.confined(confinement)
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"--out {folder}: {reason}; give another --out") from None
        return run

    @classmethod
    def open(cls, folder: Path) -> Self:
        """The run in a folder that `create` made.

        Raises:
            UserError: there is no such folder, or it is not a run's.
        """
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; expected one that a redraft command wrote")
        try:
            command = json.loads((folder / "environment.json").read_text("utf-8"))["command"]
        except (OSError, ValueError, KeyError, TypeError):
            command = None
        if command is None or not (folder / "config.yaml").is_file():
            raise UserError(
                f"{folder}: not a run's folder (config.yaml and environment.json are missing or"
                " damaged); name the folder that was given as --out"
            )
        return cls(folder, str(command))

    def config(self, cls: type[S]) -> S:
        """The run's configuration, read back from `config.yaml`.

        Raises:
            UserError: the file was edited into something that `cls` refuses.
        """
        return resolve(cls, file=self.folder / "config.yaml")

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.folder / "checkpoints"

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """Append one line to `metrics.jsonl`: `step`, `time` (seconds since 1970) and the metrics.

        Numbers of numpy and torch are taken as they are; NaN and infinities, which JSON does not
        have, become null. The line is in the file when this returns.
        """
        values = {key: _plain(value) for key, value in metrics.items()}
        line = json.dumps({"step": step, "time": round(time.time(), 3), **values}, allow_nan=False)
        with self._metrics.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """Every line that `log` has written, oldest first; an unfinished one is left out."""
        if not self._metrics.exists():
            return []
        return [json.loads(line) for _, line in complete_lines(self._metrics)]

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

    def summary(self, summary: Mapping[str, Any]) -> None:
        """Write `summary.json`, whole or not at all."""
        write_json(self.folder / "summary.json", summary)

    def rewind(self, step: int) -> Path | None:
        """Move everything that was written after `step` to a new folder under `interrupted/`.

        Metric lines and episode files of later steps, an unfinished metric line, and with them
        `summary.json` are moved; nothing is deleted, and a crash in between loses nothing either.
        Returns the folder, or None when nothing came after `step`: a summary then still holds.
        """
        lines = self._metrics.read_text("utf-8").splitlines(True) if self._metrics.exists() else []
        kept = [line for line in lines if _step_of(line) <= step]
        later = [line for line in lines if _step_of(line) > step]
        files = [
            path
            for path in sorted(self.folder.glob("episodes/*.jsonl"))
            if (found := _STEP.search(path.name)) and int(found.group(1)) > step
        ]
        if not later and not files:
            return None
        files += [path for path in [self.folder / "summary.json"] if path.exists()]
        parent = self.folder / "interrupted"
        number = 1 + max((int(path.name) for path in parent.glob("[0-9]*")), default=0)
        aside = parent / f"{number:03d}"
        aside.mkdir(parents=True)
        if later:
            write_text(aside / "metrics.jsonl", "".join(later))
            write_text(self._metrics, "".join(kept))
        for path in files:
            target = aside / path.relative_to(self.folder)
            target.parent.mkdir(exist_ok=True)
            path.replace(target)
        return aside

    @property
    def _metrics(self) -> Path:
        return self.folder / "metrics.jsonl"


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader, or a crash, sees the old or the new content, never a part."""
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """`write_text` of indented JSON; NaN and infinities become null."""
    write_text(path, json.dumps(_plain(content), indent=2, allow_nan=False) + "\n")


def _occupied(folder: Path) -> str:
    if (folder / "environment.json").exists():
        resumed = f"`redraft resume {folder}` goes on with one that trains"
        return f"--out {folder}: holds a run; give another --out ({resumed})"
    return f"--out {folder}: the folder is not empty; give another --out"


def _step_of(line: str) -> float:
    """The step of a metric line; an unfinished line belongs to no step that is kept."""
    try:
        return int(json.loads(line)["step"]) if line.endswith("\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf


def _plain(value: Any) -> Any:
    """What JSON can hold: numbers and arrays of other libraries as Python's, NaN as None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, BaseModel):
        return _plain(value.model_dump(mode="json"))
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy and torch, scalars and arrays
        return _plain(value.tolist())
    return value
