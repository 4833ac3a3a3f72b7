"""Tasks in difficulty cells: what training sees, what it does not, and what stays as it was."""

import pytest

from redraft.lab.problems import arithmetic, sorting
from redraft.tasks import get_task

CELLS = [
    "lab/arithmetic-cells",
    "lab/sorting-cells",
    "bbh/multistep_arithmetic-cells",
    "bbh/word_sorting-cells",
]


@pytest.mark.parametrize("name", CELLS)
def test_training_sees_the_seen_cells_only(name: str) -> None:
    task = get_task(name)
    train, test = (task.load(split, 48).problems for split in ("train", "test"))
    assert {problem.metadata["seen"] for problem in train} == {True}
    assert {problem.metadata["seen"] for problem in test} == {True, False}
    assert not {p.question for p in train} & {p.question for p in test}
    assert len({problem.id for problem in (*train, *test)}) == 96
    assert task.load("test", 48).problems == test
    assert all(task.grader(problem, problem.gold).correct for problem in (*train, *test))


def test_test_problems_are_balanced_over_the_papers_cells() -> None:
    found = get_task("bbh/multistep_arithmetic-cells").load("test").problems
    cells = [problem.metadata["cell"] for problem in found]
    assert len(found) == 360
    assert {cells.count(cell) for cell in cells} == {30}
    assert len(set(cells)) == 12


def test_sizes_are_as_asked_for() -> None:
    for size in (5, 16, 30):
        assert sorting("test", 3, size).size == size
    for size in (2, 5):
        assert arithmetic("train", 3, size).size == size
    assert sorting("test", 3, 7) != sorting("test", 4, 7)


def test_problems_without_a_size_are_what_they_were() -> None:
    assert sorting("test", 0).question.startswith("Sort ")
    assert (
        get_task("lab/sorting").load("test", 2).problems[1].question == sorting("test", 1).question
    )
    assert arithmetic("train", 0).question == "Compute (5-3)+(1+5)-(2-1)"
