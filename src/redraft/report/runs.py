"""Run directories as a report reads them: what is there, and in words what is missing.

A run that is half written, or that an older version wrote, is read as far as it goes.
"""

import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from redraft.config import read_yaml
from redraft.errors import UserError
from redraft.run_directory import check_files
from redraft.storage import complete_lines
from redraft.types import Episode

_STEP = re.compile(r"(.+)-(\d{6,})")
_PROBLEM = re.compile(r'\{"problem":\{"id":"((?:[^"\\]|\\.)*)"')
_SCORE = re.compile(r'"score":([\d.]+)')
_BEFORE_EPISODES = {"episodes.jsonl": "turns", "parallel.jsonl": "parallel"}
"""Episode files of the first format, beside `summary.json`, and today's names of their parts."""


@dataclass(frozen=True)
class EpisodeFile:
    """A file of episodes: of one part of an evaluation, or of one step of training."""

    path: Path
    part: str
    step: int | None = None


@dataclass
class Run:
    """A run directory. What could not be read is empty, and `notes` say so."""

    name: str
    """What the report calls it."""
    folder: Path
    files: list[EpisodeFile]
    config: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    usage: Mapping[str, Any] = field(default_factory=dict)
    timing: Mapping[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def command(self) -> str:
        """What wrote it, such as `train score`."""
        return str(self.environment.get("command", "unknown"))

    @property
    def is_training(self) -> bool:
        """Whether its episodes and metrics belong to steps."""
        return bool(self.metrics) or any(file.step is not None for file in self.files)

    @property
    def tasks(self) -> set[str]:
        """Tasks of its problems, as far as they were read."""
        return {one.problem.task for part in self.parts.values() for one in part}

    @cached_property
    def parts(self) -> dict[str, list[Episode]]:
        """The episodes of an evaluation by part; none of training's steps."""
        parts: dict[str, list[Episode]] = {}
        for file in sorted(self.files, key=lambda file: file.part != "turns"):
            if file.step is None:
                parts.setdefault(file.part, []).extend(self.read(file))
        return {name: episodes for name, episodes in parts.items() if episodes}

    def read(self, file: EpisodeFile, most: int | None = None) -> list[Episode]:
        """The episodes of a file, or at most about `most`: those of whole problems, first problems
        with a flip. A damaged line is left out, with a note."""
        episodes: list[Episode] = []
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                lines = list(complete_lines(file.path))
            except UserError as error:
                self.notes.append(f"{error}; the file is left out")
                lines = []
        for number, line in _telling(lines, most):
            try:
                episodes.append(Episode.model_validate_json(line))
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(map(str, first["loc"])) or "the line"
                self.notes.append(
                    f"{file.path}:{number}: not an episode ({where}: {first['msg']}); the line is "
                    "left out"
                )
        self.notes += [str(one.message) for one in caught]
        return episodes


def _telling(lines: list[tuple[int, str]], most: int | None) -> list[tuple[int, str]]:
    """At most `most` lines of episodes, by whole problems, those with a flip first; told apart
    without parsing: in JSON no text can hold the quotes of `"score":`."""
    if most is None or len(lines) <= most:
        return lines
    groups: dict[str, list[tuple[int, str]]] = {}
    for line in lines:
        found = _PROBLEM.match(line[1])
        groups.setdefault(found[1] if found else "", []).append(line)

    def is_steady(group: list[tuple[int, str]]) -> bool:
        return not any(len(set(_SCORE.findall(text))) > 1 for _, text in group)

    kept: list[tuple[int, str]] = []
    for group in sorted(groups.values(), key=is_steady):
        if len(kept) + len(group) <= most:
            kept += group
    return kept


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs in some folders, each a run directory or a folder with run directories below it.

    Raises:
        UserError: a folder that does not exist, no run in any of them, or a run with something in
            it that is neither a file nor a folder.
    """
    found: dict[Path, str] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; expected one that a redraft command wrote")
        inside = list(_run_folders(folder))
        if not inside:
            raise UserError(
                f"{folder}: holds no run (no episodes, metrics.jsonl or summary.json); name a "
                "folder that was given as --out"
            )
        for place in inside:
            relative = place.relative_to(folder).as_posix().removesuffix("/evaluation")
            found.setdefault(place, folder.name if relative == "." else relative)
    if not found:
        raise UserError("no folder given; name one or more that a redraft command wrote")
    names = list(found.values())
    return [
        _read_run(place, str(place) if names.count(name) > 1 else name)
        for place, name in found.items()
    ]


def _run_folders(folder: Path) -> Iterator[Path]:
    """The run directories at or below a folder; none below a run."""
    if _episode_files(folder) or (folder / "metrics.jsonl").exists():
        yield folder
        return
    below = [inner for child in _folders(folder) for inner in _run_folders(child)]
    if not below and (folder / "summary.json").exists():
        yield folder
    yield from below


def _folders(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if child.is_dir() and not child.is_symlink())


def _episode_files(folder: Path) -> list[EpisodeFile]:
    """Files of episodes, evaluation's parts first and then steps in order."""
    files = [
        EpisodeFile(folder / name, part)
        for name, part in _BEFORE_EPISODES.items()
        if (folder / name).is_file()
    ]
    for path in sorted(folder.glob("episodes/*.jsonl")):
        if step := _STEP.fullmatch(path.stem):
            files.append(EpisodeFile(path, step[1], int(step[2])))
        else:
            files.append(EpisodeFile(path, re.sub(r"\.\d+$", "", path.stem)))
    files += [
        EpisodeFile(path, "iteration", int(path.parent.name))
        for path in sorted(folder.glob("iterations/*/episodes-*.jsonl"))
    ]
    return sorted(files, key=lambda file: (file.step is not None, file.step or 0))


def _read_run(folder: Path, name: str) -> Run:
    check_files(folder)
    run = Run(name, folder, _episode_files(folder))
    run.environment = _json(run, "environment.json")
    run.summary = _json(run, "summary.json")
    run.usage = _json(run, "endpoint/usage.json", optional=True)
    run.timing = _json(run, "timing.json", optional=True)
    try:
        run.config = read_yaml(folder / "config.yaml")
    except UserError as error:
        run.notes.append(str(error))
    if (path := folder / "metrics.jsonl").exists():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a run that goes on is writing its last line
                run.metrics = [json.loads(line) for _, line in complete_lines(path)]
        except (ValueError, UserError) as error:
            run.notes.append(f"{path}: not metrics ({error})")
    return run


def _json(run: Run, name: str, optional: bool = False) -> Mapping[str, Any]:
    path = run.folder / name
    try:
        content = json.loads(path.read_text("utf-8"))
    except OSError:
        if not optional:
            run.notes.append(f"{path} is missing: the run is unfinished, or of an older version")
        return {}
    except ValueError:
        run.notes.append(f"{path} is damaged and left out")
        return {}
    return content if isinstance(content, dict) else {}
