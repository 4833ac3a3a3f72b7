"""The outcome of an evaluation: rows of numbers, facts beside them, and where the episodes are.

Tables, `summary.json`, result pages and logs are made from a `Result` and from nothing else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from redraft.storage import read_jsonl
from redraft.types import Episode

Group = tuple[str, ...]
"""What rows and facts are about: `()` is the evaluation, others are the keys that lead to their
part of `summary.json`, such as `("strategies", "cap")`."""

V = TypeVar("V")


@dataclass(frozen=True)
class Row:
    """One number: a metric's value with its 95 % interval, over `n` problems.

    `metric` is a flat name, such as `accuracy/turn2`. `value`, `low` and `high` are None where
    nothing defines the metric.
    """

    metric: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    group: Group = ()


@dataclass
class Result:
    """Rows, and by group whatever else is to be known: counts, failed problems, settings.

    `folder` is the run directory with the episodes; None: they were not kept.
    """

    rows: list[Row] = field(default_factory=list)
    facts: dict[Group, dict[str, Any]] = field(default_factory=dict)
    folder: Path | None = None

    def add(self, other: "Result") -> "Result":
        """Take in the rows and facts of another result; returns this one."""
        self.rows += other.rows
        for group, facts in other.facts.items():
            self.note(group, **facts)
        return self

    def note(self, group: Group = (), **facts: Any) -> "Result":
        """Add facts to a group; returns this result."""
        self.facts.setdefault(group, {}).update(facts)
        return self

    def to_summary(self) -> dict[str, Any]:
        """The content of `summary.json`.

        A group's metrics stand under their names, those by turn (`accuracy/turn1`, ...) as lists,
        and their intervals [low, high] under the same keys in `ci95`.
        """
        summary: dict[str, Any] = {}
        for group, facts in self.facts.items():
            _part(summary, group).update(facts)
        for group in dict.fromkeys(row.group for row in self.rows):
            rows = [row for row in self.rows if row.group == group]
            spans = {
                row.metric: None if row.low is None or row.high is None else [row.low, row.high]
                for row in rows
            }
            part = _part(summary, group)
            part.update(by_turn({row.metric: row.value for row in rows}))
            part["ci95"] = by_turn(spans)
        return summary


def _part(summary: dict[str, Any], group: Group) -> dict[str, Any]:
    for key in group:
        summary = summary.setdefault(key, {})
    return summary


def by_turn(values: Mapping[str, V]) -> dict[str, V | list[V]]:
    """Collect `name/turn1`, `name/turn2`, ... (given in order) into one list under `name`."""
    collected: dict[str, V | list[V]] = {}
    for key, value in values.items():
        name, slash, _ = key.partition("/turn")
        if not slash:
            collected[name] = value
            continue
        turns = collected.setdefault(name, [])
        assert isinstance(turns, list)
        turns.append(value)
    return collected


def failed_facts(failed: Mapping[str, str]) -> dict[str, Any]:
    """Facts about problems that are in no number, from the reasons by problem."""
    return {
        "n_failed": len(failed),
        "failed": [{"id": name, "reason": why} for name, why in failed.items()],
    }


def read_episodes(folder: Path, part: str = "turns") -> list[Episode]:
    """The episodes of one part of an evaluation (`turns`, `parallel`, a strategy's name).

    Also reads run directories of before 2.0, where the first two lay beside `summary.json`.

    Raises:
        UserError: there is no such file, or it is not one of episodes.
    """
    path = folder / "episodes" / f"{part}.jsonl"
    before = folder / {"turns": "episodes.jsonl"}.get(part, f"{part}.jsonl")
    return read_jsonl(before if before.exists() and not path.exists() else path, Episode)


def in_order(episodes: Sequence[Episode], problems: Sequence[str]) -> list[Episode]:
    """Episodes in the order of their problems' ids, and of their samples."""
    place = {name: number for number, name in enumerate(problems)}
    return sorted(episodes, key=lambda one: (place[one.problem.id], one.sample))
