"""Episodes for other tools: TRL's data sets, Parquet, and Inspect's log.

Formats: https://huggingface.co/docs/trl/dataset_formats (conversational, prompt and completion, and
preference), https://inspect.aisi.org.uk/eval-logs.html (version 2, JSON).
"""

import hashlib
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from json import dumps
from pathlib import Path
from typing import Any

from redraft import __version__
from redraft.errors import UserError
from redraft.evaluation.metrics import answers, counted, grade_of
from redraft.report.numbers import episodes_of
from redraft.report.runs import Run
from redraft.storage import write_text
from redraft.types import Episode, Message, Turn, same_problem_groups, shown

Chat = list[dict[str, str]]


LOG_NAME = re.compile(r"\d{4}-\d\d-\d\dT\d\d[:-]\d\d[:-]\d\d.*\.json")
"""Names of JSON files that Inspect lists as logs."""


def export(run: Run, kind: str, out: Path) -> tuple[int, Path]:
    """Write a run's episodes as `kind`, one of `EXPORTS`, to the file `out`, or Inspect's log to a
    file in the folder `out`; returns how many rows there are, and the file.

    Raises:
        UserError: the run has no episodes, or none that such a row could be made of; or Inspect
            would not list the file.
    """
    episodes = episodes_of(run)
    if not episodes:
        raise UserError(f"{run.folder}: no episodes to export (an evaluation's, or collected ones)")
    if kind == "inspect":
        return len(episodes), _write_log(inspect_log(run, episodes), out)
    rows = list(EXPORTS[kind](episodes))
    out.parent.mkdir(parents=True, exist_ok=True)
    if not rows:
        raise UserError(f"{run.folder}: {len(episodes)} episodes, but no {kind} row in them")
    if kind == "parquet":
        import pyarrow  # type: ignore[import-untyped]  # comes with datasets; slow to import
        import pyarrow.parquet  # type: ignore[import-untyped]

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), out)
    else:
        write_text(out, "".join(dumps(row) + "\n" for row in rows))
    return len(rows), out


def sft(episodes: Sequence[Episode]) -> Iterator[dict[str, Any]]:
    """TRL's prompt and completion: each right answer after everything that was said before it."""
    for episode in episodes:
        for place, turn in enumerate(episode.turns):
            said = [*episode.turns[turn.history : place], turn]
            if turn.grade is not None and turn.grade.correct and all(t.has_text for t in said):
                yield {
                    "prompt": _chat(episode.shown(place)),
                    "completion": [{"role": "assistant", "content": turn.text}],
                }


def preference(episodes: Sequence[Episode]) -> Iterator[dict[str, Any]]:
    """TRL's preference pairs: each wrong first answer with a right answer to the same prompt, the
    first right one after it in its episode, else the first right one of another sample."""
    for group in same_problem_groups(episodes):
        samples = [episodes[index] for index in group]
        firsts = [answers(episode)[0] for episode in samples]
        right = next(filter(_right, firsts), None)
        for episode, first in zip(samples, firsts, strict=True):
            later = next(filter(_right, episode.answers), right)
            wrong = bool(episode.answers) and first.has_text and not grade_of(first).correct
            if later is not None and wrong:
                yield {
                    "prompt": _chat(episode.messages),
                    "chosen": [{"role": "assistant", "content": later.text}],
                    "rejected": [{"role": "assistant", "content": first.text}],
                }


def _right(turn: Turn) -> bool:
    return grade_of(turn).correct and turn.has_text


def parquet(episodes: Sequence[Episode]) -> Iterator[dict[str, Any]]:
    """One flat row an episode; lists are by answer, None what is not known; metadata is JSON."""
    for episode in episodes:
        grades = episode.grades
        yield {
            "problem": episode.problem.id,
            "task": episode.problem.task,
            "question": episode.problem.question,
            "gold": episode.problem.gold,
            "metadata": dumps(episode.problem.metadata),
            "sample": episode.sample,
            "policy": episode.policy,
            "outcome": episode.outcome,
            "messages": _chat(_said(episode)),
            "attempts": [turn.text if turn.has_text else None for turn in episode.answers],
            "answers": [grade.answer for grade in grades],
            "scores": [grade.score for grade in grades],
            "status": [grade.status for grade in grades],
            "tokens": [turn.generated if counted(turn) else None for turn in episode.answers],
        }


EXPORTS: Mapping[str, Callable[[Sequence[Episode]], Iterator[dict[str, Any]]]] = {
    "sft": sft,
    "preference": preference,
    "parquet": parquet,
    "inspect": lambda episodes: iter(()),
}
"""Rows by kind of export; Inspect's log is one document."""


def _chat(messages: Sequence[Message]) -> Chat:
    return [message.model_dump() for message in messages]


def _said(episode: Episode) -> list[Message]:
    """The whole conversation, without messages whose text is not known."""
    first = episode.turns[-1].history if episode.turns else 0
    return shown(episode.messages, [turn for turn in episode.turns[first:] if turn.has_text])


def _write_log(log: Mapping[str, Any], out: Path) -> Path:
    """Write Inspect's log to a file, or to one in a folder that is named as Inspect names it."""
    is_file = out.suffix == ".json" or out.is_file()
    if is_file and not LOG_NAME.fullmatch(out.name):
        raise UserError(
            f"{out}: Inspect lists a JSON log only if its name begins with a time; name a folder, "
            "such as --out logs"
        )
    if not is_file:
        about = log["eval"]
        task = re.sub(r"[^A-Za-z0-9-]+", "-", about["task"])
        out /= f"{about['created'].replace(':', '-')}_{task}_{about['task_id']}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, dumps(log, ensure_ascii=False, indent=1))
    return out


def inspect_log(run: Run, episodes: Sequence[Episode]) -> dict[str, Any]:
    """The log of an evaluation as Inspect writes it: an epoch for each sample of a problem, a score
    for each attempt."""
    made = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())
    identity = hashlib.sha256(str(run.folder.resolve()).encode()).hexdigest()[:22]
    model = str(run.config.get("model") or episodes[0].policy or "unknown")
    most = max(len(answers(episode)) for episode in episodes)
    names = [f"attempt_{number}" for number in range(1, most + 1)]
    groups = same_problem_groups(episodes)
    samples = [
        _inspect_sample(episodes[index], epoch, names, model)
        for group in groups
        for epoch, index in enumerate(group, start=1)
    ]
    return {
        "version": 2,
        "status": "success",
        "eval": {
            **dict.fromkeys(("eval_id", "run_id", "task_id"), identity),
            **{name: {} for name in ("task_attribs", "task_args", "model_args")},
            "created": made,
            "task": episodes[0].problem.task,
            "task_version": 0,
            "dataset": {
                "name": episodes[0].problem.task,
                "samples": len(groups),
                "sample_ids": [episodes[group[0]].problem.id for group in groups],
                "shuffled": False,
            },
            "model": model,
            "config": {"epochs": max(map(len, groups))},
            "packages": {"redraft": __version__},
            "metadata": {"redraft": str(run.folder)},
        },
        "plan": {"name": "plan", "steps": [], "config": {}},
        "results": {
            "total_samples": len(samples),
            "completed_samples": len(samples),
            "scores": [_log_score(samples, name) for name in names],
        },
        "stats": {"started_at": made, "completed_at": made, "model_usage": {}},
        "samples": samples,
    }


def _log_score(samples: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any]:
    values = [sample["scores"][name]["value"] for sample in samples]
    accuracy = {"name": "accuracy", "value": sum(values) / len(values), "params": {}}
    return {"name": name, "scorer": name, "params": {}, "metrics": {"accuracy": accuracy}}


def _inspect_sample(
    episode: Episode, epoch: int, names: Sequence[str], model: str
) -> dict[str, Any]:
    messages = [{**one.model_dump(), "id": str(k)} for k, one in enumerate(_said(episode))]
    made = answers(episode)
    last = made[-1]
    choice = {"message": {"role": "assistant", "content": last.text}, "stop_reason": _stop(last)}
    return {
        "id": episode.problem.id,
        "epoch": epoch,
        "input": _chat(episode.messages),
        "target": episode.problem.gold,
        "messages": messages,
        "output": {"model": model, "choices": [choice]},
        "scores": {
            name: _inspect_score(made[min(place, len(made) - 1)])
            for place, name in enumerate(names)
        },
        "metadata": {**episode.problem.metadata, "outcome": episode.outcome, **episode.tags},
        "store": {},
        "events": [],
        "model_usage": {},
        "attachments": {},
    }


def _inspect_score(turn: Turn) -> dict[str, Any]:
    grade = grade_of(turn)
    said = f"{grade.status}, decided by {grade.decided_by}"
    explanation = f"{said}: {grade.reason}" if grade.reason else said
    return {"value": grade.score, "answer": grade.answer, "explanation": explanation}


def _stop(turn: Turn) -> str:
    return "max_tokens" if turn.truncated else "stop"
