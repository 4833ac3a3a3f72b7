"""Files: JSON Lines that survive crashes, atomic writes, and run directories.

JSON Lines files are appended to during a run, so the last line may be cut short by a crash;
`read_jsonl` reports and drops such a line, and `append_jsonl` removes it first.

Run directories are self-describing, and resumable after a crash at any point::

    config.yaml        the configuration as resolved; `--config` reads it back
    environment.json   the command, versions, machine, commit
    sandbox.json       how programs that a model wrote were confined, where any were run
    metrics.jsonl      one line per step, as it happens
    episodes/          episodes, one JSON Lines file per step or evaluation
    checkpoints/       Hugging Face format, with everything needed to resume
    summary.json       the outcome
    interrupted/       what a resumed run had written after the checkpoint it resumed from

Steps count from 1. A checkpoint at step s holds the state after s steps, so the resumed run writes
everything of later steps anew; `RunDirectory.rewind` moves the old files out of the way first.
"""

import codecs
import json
import math
import os
import re
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ValidationError

from redraft.config import Settings, resolve, to_yaml
from redraft.errors import UserError
from redraft.system import environment
from redraft.types import Episode

R = TypeVar("R", bound=BaseModel)


def append_jsonl(path: Path, records: Iterable[BaseModel]) -> None:
    """Append records to a JSON Lines file, creating it (and its folder) if need be.

    All lines go out in one write and are flushed, so that a killed run loses at most its last line.
    Such an unfinished line is cut off first, with a warning; a whole record that lacks only its
    newline gets it.

    Raises:
        UserError: the file ends in a line that is not a record, so it is not JSON Lines.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    text = to_jsonl(records)
    _mend_end(path)
    with path.open("ab") as file:
        file.write(text.encode())


def to_jsonl(records: Iterable[BaseModel]) -> str:
    """Records as JSON Lines."""
    return "".join(record.model_dump_json() + "\n" for record in records)


def _mend_end(path: Path) -> None:
    """Make a file end where the next record may begin."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        if end == 0:
            return
        file.seek(-1, os.SEEK_END)
        if file.read(1) == b"\n":
            return
        file.seek(0)
        before, newline, last = _unmarked(file.read()).rpartition(b"\n")
        number = before.count(b"\n") + len(newline) + 1
        if _is_json(last):
            file.write(b"\n")
        elif last.strip() and not _starts_a_record(last):
            raise UserError(
                f"{path}:{number}: not a JSON object; nothing was appended to this file"
            )
        else:
            file.truncate(end - len(last))
            _warn_of_unfinished(str(path), number, last)


def read_jsonl(path: Path, record: type[R]) -> list[R]:
    """Read a JSON Lines file of records; an unfinished last line is reported and dropped.

    Raises:
        UserError: a line that is not JSON or lacks a field; names the file and the line.
    """
    return [_parse(path, number, line, record) for number, line in complete_lines(path)]


def complete_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of each non-empty line of a JSON Lines file, as `numbered_lines` has them.

    Raises:
        UserError: the file cannot be read, or a line is not UTF-8 text.
    """
    try:
        with path.open("rb") as file:
            yield from numbered_lines(file, str(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def numbered_lines(lines: Iterable[bytes], source: str) -> Iterator[tuple[int, str]]:
    """Number and text of each non-empty line of JSON Lines, from a file's lines with their ends.

    A byte order mark, which some editors put before the first line, is no part of it.

    The last line is left out, with a warning, when it is unfinished: it begins like a JSON object,
    has no newline at its end and is not valid JSON (it may stop within a character).

    Args:
        lines: as a binary file gives them, so that only a newline ends one.
        source: the file's name, for messages.

    Raises:
        UserError: a line is not UTF-8 text.
    """
    for number, line in enumerate(lines, start=1):
        line = _unmarked(line) if number == 1 else line
        if not line.strip():
            continue
        if not line.endswith(b"\n") and _starts_a_record(line) and not _is_json(line):
            _warn_of_unfinished(source, number, line)
            continue
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise UserError(
                f"{source}:{number}: not UTF-8 text (byte {error.start} of the line); "
                "expected JSON Lines"
            ) from None
        yield number, text.removesuffix("\n")


def _unmarked(content: bytes) -> bytes:
    return content.removeprefix(codecs.BOM_UTF8)


def _starts_a_record(line: bytes) -> bool:
    return line.lstrip().startswith(b"{")


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line.decode())
    except (ValueError, RecursionError):
        return False
    return True


def _warn_of_unfinished(source: str, number: int, line: bytes) -> None:
    warnings.warn(
        f"{source}:{number}: unfinished last line dropped ({len(line)} bytes)", stacklevel=3
    )


def _parse(path: Path, number: int, line: str, record: type[R]) -> R:
    try:
        return record.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        where = f"{path}:{number}: field {field!r}" if field else f"{path}:{number}"
        raise UserError(f"{where}: {first['msg']}") from None


S = TypeVar("S", bound=Settings)

_STEP = re.compile(r"-(\d{6,})\.jsonl$")


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
        return f"--out {folder}: holds a run; give another --out, or `redraft resume {folder}`"
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
