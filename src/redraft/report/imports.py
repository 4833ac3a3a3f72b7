"""Attempts made elsewhere, as episodes: the same grading, metrics and report as an evaluation's.

A row of JSON Lines holds the fields that its task reads (for `jsonl`: `problem` and `gold`) and
`attempts`: texts, or objects with `text` (null: the file does not have it, only `correct`), and if
known `critique` (what was said of it), `correct` (the verdict of whoever made the file),
`truncated` and `tokens`.
Several rows with one `id` and different `sample` are samples of one problem. Layouts are those of
published files.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from redraft.config import Settings
from redraft.errors import UserError
from redraft.evaluation.result import Result, failed_facts
from redraft.evaluation.statistics import summarise
from redraft.grading import StagedGrader, grade_all, runs_programs
from redraft.grading.confinement import SandboxNeed, check_sandbox
from redraft.run_directory import RunDirectory
from redraft.storage import complete_lines
from redraft.tasks import DatasetTask, Task, get_task
from redraft.tasks.rows import Row, parse_lines
from redraft.types import Episode, Grade, Problem, Turn, without_failed
from redraft.workers import set_workers

TEXT_METRICS = ("changed", "verbatim_copy", "edit_distance_ratio")
"""Metrics that compare texts, which mean nothing where some texts are not in the file."""

LayoutName = Literal["reflexion", "first-programs", "systems", "bbh-cot"]


class ImportSettings(Settings):
    """How a file of attempts is read and graded."""

    out: Path
    """Folder for the episodes and the summary; a file of several systems makes a folder of each."""
    layout: LayoutName | None = None
    """A published file's layout: `reflexion` (the runs of noahshinn/reflexion: a program and what
    was reflected before it), `first-programs` (LLMDebugger's seeds: one program), `systems` (GSM8K
    solutions of several systems in one row), `bbh-cot` (BIG-Bench Hard with `input`, `prediction`,
    `target`; needs --task). By default a row holds `attempts`."""
    task: str | None = None
    """Task whose fields the rows have and whose grader decides; by default the layout's, else
    `jsonl` (`problem` and `gold`)."""
    grader: str | None = None
    """Grader for `--task jsonl`: exact, number, math, choice, or `module:function`."""
    question_field: str | None = None
    """Field with the question, for `--task jsonl`."""
    gold_field: str | None = None
    """Field with the gold answer, for `--task jsonl`."""
    verdicts: Literal["grader", "recorded"] = "grader"
    """Whose verdicts count: the task's grader, or those that the file brings, where it has some."""
    seed: int = Field(default=0, ge=0)
    """Seed of the resampling for the intervals of amounts, such as tokens."""
    workers: int | None = Field(default=None, ge=1)
    """Most worker processes for grading; by default one per core."""
    sandbox: SandboxNeed = "best"
    """How programs are confined, as in `redraft eval`."""


@dataclass(frozen=True)
class Attempt:
    """One attempt as a file has it; `text` None: not recorded."""

    text: str | None
    critique: str = ""
    correct: bool | None = None
    truncated: bool = False
    tokens: int | None = None


@dataclass(frozen=True)
class Recorded:
    """The attempts of one system at one problem, with the fields that its task reads."""

    row: Row
    attempts: Sequence[Attempt]
    system: str = ""
    sample: int = 0


@dataclass(frozen=True)
class Layout:
    """The layout of a published file."""

    read: Callable[[Row], list[Recorded]]
    task: str | None


def import_attempts(config: ImportSettings, file: Path) -> list[Path]:
    """Import a file: a run directory, or one for each system in it; returns them.

    Raises:
        UserError: the file or a row cannot be read, or `out` is taken.
    """
    set_workers(config.workers)
    layout = LAYOUTS[config.layout] if config.layout else Layout(_generic, "jsonl")
    name = config.task or layout.task
    if name is None:
        raise UserError(f"--layout {config.layout}: say which task its rows are of with --task")
    data = Path("-") if name == "jsonl" else None  # the rows bring their problems
    fields = {"question_field": config.question_field, "gold_field": config.gold_field}
    task = get_task(name, data, grader=config.grader, **fields)
    rows = parse_lines(complete_lines(file), str(file))
    systems: dict[str, list[Recorded]] = {}
    for recorded in (one for row in rows for one in layout.read(row)):
        systems.setdefault(recorded.system, []).append(recorded)
    if not systems:
        raise UserError(f"{file}: holds no attempts; expected JSON Lines with `attempts`")
    confinement = check_sandbox(config.sandbox) if runs_programs(task.grader) else None
    return [
        _import(config, task, attempts, config.out / system, confinement)
        for system, attempts in systems.items()
    ]


def _import(
    config: ImportSettings,
    task: Task,
    recorded: Sequence[Recorded],
    out: Path,
    confinement: Mapping[str, object] | None,
) -> Path:
    """Grade the attempts of one system and write its run directory."""
    episodes, dropped = _episodes(config, task, recorded)
    kept, failed = without_failed(episodes)
    if not kept:
        why = next(iter([*failed.values(), *(d["reason"] for d in dropped)]), "")
        raise UserError(f"no attempt could be graded, first: {why}")
    run = RunDirectory.create(out, config.model_copy(update={"out": out}), "import", confinement)
    run.episodes("turns", episodes)
    result = summarise(kept).note(protocol="imported", **failed_facts(failed))
    result.note(n_dropped=len(dropped), dropped=dropped, **_agreement(recorded, episodes))
    if any(one.text is None for each in recorded for one in each.attempts):
        result = _without_texts(result)
    run.summary(result.to_summary())
    return out


def _episodes(
    config: ImportSettings, task: Task, recorded: Sequence[Recorded]
) -> tuple[list[Episode], list[dict[str, str]]]:
    """The graded episodes, and the problems to whose gold no answer can be compared."""
    problems = [_problem(task, one, index) for index, one in enumerate(recorded)]
    _check_samples(problems, recorded)
    faults: list[str | None] = [None] * len(problems)
    if isinstance(task.grader, StagedGrader):
        faults = task.grader.gold_faults([problem.gold for problem in problems])
    dropped = [{"id": p.id, "reason": why} for p, why in zip(problems, faults, strict=True) if why]
    usable = [(p, o) for p, o, f in zip(problems, recorded, faults, strict=True) if f is None]
    asked = [
        (problem, attempt.text or "", attempt.truncated)
        for problem, one in usable
        for attempt in one.attempts
        if not _decided(config, attempt)
    ]
    grades = iter(grade_all(task.grader, [(p, t) for p, t, _ in asked], [c for *_, c in asked]))
    return [
        Episode(
            problem=problem,
            messages=task.prompts.opening(problem),
            turns=[
                turn
                for attempt in one.attempts
                for turn in _turns(attempt, _decided(config, attempt) or next(grades))
            ],
            protocol="imported",
            policy=one.system,
            sample=one.sample,
        )
        for problem, one in usable
    ], dropped


def _problem(task: Task, one: Recorded, index: int) -> Problem:
    if not isinstance(task, DatasetTask):
        raise UserError(f"--task {task.name}: its problems are generated; give the rows' own task")
    posed = task.read(one.row)
    metadata = {name: value for name, value in posed.metadata.items() if name != "attempts"}
    return task.problem(replace(posed, metadata=metadata), "import", index)


def _check_samples(problems: Sequence[Problem], recorded: Sequence[Recorded]) -> None:
    """Refuse one id for different problems, or for one sample twice."""
    first: dict[str, tuple[Problem, str]] = {}
    samples: dict[tuple[str, int], str] = {}
    for problem, one in zip(problems, recorded, strict=True):
        where = one.row.where
        same, there = first.setdefault(problem.id, (problem, where))
        if (same.question, same.gold) != (problem.question, problem.gold):
            raise UserError(
                f"{where}: id {problem.id!r} is that of {there}, with another question or gold; "
                "give each problem an id of its own"
            )
        there = samples.setdefault((problem.id, one.sample), where)
        if there != where:
            raise UserError(
                f"{where}: sample {one.sample} of id {problem.id!r} is also at {there}; number the "
                "samples of a problem with `sample`: 0, 1, ..."
            )


def _decided(config: ImportSettings, attempt: Attempt) -> Grade | None:
    """The grade that the file itself gives an attempt, where that is to count."""
    if attempt.text is None:
        why = "the file has its verdict, not its text"
        score = float(bool(attempt.correct))
        return Grade(score=score, status="no_text", decided_by="recorded", reason=why)
    if config.verdicts == "recorded" and attempt.correct is not None:
        return Grade(score=float(attempt.correct), decided_by="recorded")
    return None


def _turns(attempt: Attempt, grade: Grade) -> list[Turn]:
    finish: Literal["length", "stop"] = "length" if attempt.truncated else "stop"
    answer = Turn(
        author="policy",
        text=attempt.text or "",
        finish=finish,
        grade=grade,
        completion_tokens=attempt.tokens,
    )
    critique = [Turn(author="policy", text=attempt.critique)] if attempt.critique else []
    return [answer, *critique]


def _agreement(recorded: Sequence[Recorded], episodes: Sequence[Episode]) -> dict[str, Any]:
    """How often our grades are the file's verdicts, at first and last attempts of its episodes."""
    known = {id(one): [attempt.correct for attempt in one.attempts] for one in recorded}
    if len(recorded) != len(episodes) or any(None in verdicts for verdicts in known.values()):
        return {}
    theirs = list(known.values())
    pairs = {"first": 0, "last": -1}
    return {
        "recorded": {
            name: {
                "correct": sum(bool(verdicts[at]) for verdicts in theirs),
                "agreeing": sum(
                    episode.correct[at] == verdicts[at]
                    for episode, verdicts in zip(episodes, theirs, strict=True)
                ),
                "episodes": len(theirs),
            }
            for name, at in pairs.items()
        }
    }


def _without_texts(result: Result) -> Result:
    """The result with the metrics undefined that need the texts which the file does not have."""
    rows = [
        replace(row, value=None, low=None, high=None) if row.metric in TEXT_METRICS else row
        for row in result.rows
    ]
    return Result(rows, result.facts)


# Layouts


def _generic(row: Row) -> list[Recorded]:
    listed = row.fields.get("attempts")
    if not isinstance(listed, list) or not listed:
        raise UserError(f"{row.where}: field 'attempts' is missing or not a list with an attempt")
    attempts = [_attempt(row, one) for one in listed]
    sample = row.fields.get("sample", 0)
    if not isinstance(sample, int) or sample < 0:
        raise UserError(f"{row.where}: field 'sample' is {sample!r}; expected a number from 0 up")
    return [Recorded(row, attempts, sample=sample)]


def _attempt(row: Row, one: object) -> Attempt:
    if isinstance(one, str):
        return Attempt(one)
    if not isinstance(one, dict) or not isinstance(one.get("text", ""), str | None):
        raise UserError(f"{row.where}: an attempt is neither a text nor an object with `text`")
    unknown = set(one) - {"text", "critique", "correct", "truncated", "tokens"}
    kinds = {"critique": str, "correct": bool, "truncated": bool, "tokens": int}
    given = {name: one[name] for name in kinds if one.get(name) is not None}
    bad = [name for name, value in given.items() if type(value) is not kinds[name]]
    if unknown or bad:
        field = next(iter([*unknown, *bad]))
        raise UserError(
            f"{row.where}: field {field!r} of an attempt; it may have text, critique (texts), "
            "correct, truncated (true or false) and tokens (a number)"
        )
    if one.get("text") is None and "correct" not in given:
        raise UserError(f"{row.where}: an attempt has neither `text` nor `correct`; give one")
    return Attempt(one.get("text"), **given)


def _reflexion(row: Row) -> list[Recorded]:
    """Each reflection followed an attempt that the run's own tests refused; of the attempts only
    the last one's program is in the file."""
    reflections = row.fields.get("reflections")
    if not isinstance(reflections, list):
        raise UserError(f"{row.where}: field 'reflections' is missing or not a list")
    before = [Attempt(None, str(reflection), False) for reflection in reflections]
    last = Attempt(row.text("solution"), correct=bool(_verdict(row, row.fields, "is_solved")))
    return [Recorded(row, [*before, last])]


def _first_programs(row: Row) -> list[Recorded]:
    solved = _verdict(row, row.fields, "is_solved")
    return [Recorded(row, [Attempt(row.text("solution"), correct=solved)])]


def _systems(row: Row) -> list[Recorded]:
    found = [
        Recorded(
            row, [Attempt(str(value["solution"]), correct=_verdict(row, value, "is_correct"))], name
        )
        for name, value in row.fields.items()
        if isinstance(value, dict) and "solution" in value
    ]
    if not found:
        raise UserError(f"{row.where}: no field holds an object with a `solution`")
    for name in (one.system for one in found):
        if Path(name).name != name or name in ("", "..") or "\0" in name:
            raise UserError(f"{row.where}: system {name!r} cannot be the name of a folder")
    return found


def _verdict(row: Row, fields: Mapping[str, Any], name: str) -> bool | None:
    """A verdict that a file may have."""
    value = fields.get(name)
    if not isinstance(value, bool | None):
        raise UserError(f"{row.where}: field {name!r} is {value!r}; expected true, false or null")
    return value


def _bbh_cot(row: Row) -> list[Recorded]:
    asked = row.text("input").removesuffix("A: Let's think step by step.").strip()
    fields = {"input": asked.removeprefix("Q: "), "target": row.text("target")}
    return [Recorded(Row(row.where, fields), [Attempt(row.text("prediction"))])]


LAYOUTS: Mapping[str, Layout] = {
    "reflexion": Layout(_reflexion, "humaneval"),
    "first-programs": Layout(_first_programs, "humaneval"),
    "systems": Layout(_systems, "gsm8k"),
    "bbh-cot": Layout(_bbh_cot, None),
}
