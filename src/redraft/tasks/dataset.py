"""A task whose problems are the rows of a dataset."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from redraft.errors import UserError
from redraft.grading import Grader, StagedGrader
from redraft.tasks.base import Loaded, Posed, Task
from redraft.tasks.rows import Hub, Row, has_split, hub_rows, local_rows
from redraft.types import Problem


@dataclass(frozen=True, kw_only=True)
class DatasetTask(Task):
    """Problems from a local file or folder (`data`), else from the hub, one dataset per split.

    `read` makes a problem of a row and raises `UserError` where the row lacks a field. `id_field`
    is the field of a row by which `named` finds its problem, where rows have one.
    """

    grader: Grader
    read: Callable[[Row], Posed]
    hub: Mapping[str, Hub] = field(default_factory=dict)
    data: Path | None = None
    id_field: str | None = None

    def named(self, row: Row) -> Problem:
        """The problem that a row without tests or gold of its own names in `id_field`.

        Raises:
            UserError: the data cannot be read, or has no such problem.
        """
        assert self.id_field is not None
        identity = row.text(self.id_field)
        problem = self._by_id.get(identity.rpartition("/")[2])
        if problem is None:
            raise UserError(
                f"{row.where}: {self.id_field} {identity!r} is none of task {self.name!r}'s "
                f"{len(self._by_id)} problems; name other data with --data PATH"
            )
        return problem

    @cached_property
    def _by_id(self) -> dict[str, Problem]:
        problems = [problem for split in self._splits() for problem in self.load(split).problems]
        return {problem.id.rpartition("/")[2]: problem for problem in reversed(problems)}

    def _splits(self) -> list[str]:
        """Every split there is, the test split first; a single file serves as that."""
        known, data = dict.fromkeys(["test", "train", *self.hub]), self.data
        if data is None:
            return [split for split in known if split in self.hub]
        return [split for split in known if has_split(data, split)] or ["test"]

    def load(self, split: str, limit: int | None = None, seed: int = 0) -> Loaded:
        """Problems of a split: all, or `limit` of its rows chosen by `seed`, in file order.

        Raises:
            UserError: the data cannot be found or read, a row lacks a field, or two rows have one
                id.
        """
        rows = self._rows(split)
        chosen: list[int] = list(range(len(rows)))
        if limit is not None and limit < len(rows):
            chosen = sorted(random.Random(seed).sample(chosen, limit))
        problems = [self.problem(self.read(rows[index]), split, index) for index in chosen]
        _refuse_shared_ids(problems, [rows[index].where for index in chosen])
        faults: list[str | None] = [None] * len(problems)
        if isinstance(self.grader, StagedGrader):
            faults = self.grader.gold_faults([problem.gold for problem in problems])
        return Loaded(
            [p for p, fault in zip(problems, faults, strict=True) if fault is None],
            [(p.id, fault) for p, fault in zip(problems, faults, strict=True) if fault],
        )

    def _rows(self, split: str) -> list[Row]:
        if self.data is not None:
            rows = local_rows(self.data, split)
            if not rows:
                raise UserError(f"data {str(self.data)!r} has no rows for split {split!r}")
            return rows
        if split not in self.hub:
            raise UserError(
                f"task {self.name!r} has no {split!r} split on the hub; give one with --data PATH"
            )
        return hub_rows(self.hub[split])


def _refuse_shared_ids(problems: Sequence[Problem], places: Sequence[str]) -> None:
    """Whatever is counted by problem (baselines, clusters) would mix two problems with one id."""
    first: dict[str, str] = {}
    for problem, where in zip(problems, places, strict=True):
        if problem.id in first:
            raise UserError(
                f"{where}: id {problem.id!r} is already that of {first[problem.id]}; "
                "give every row an id of its own, or none"
            )
        first[problem.id] = where
