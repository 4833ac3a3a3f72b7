"""The four BIG-Bench Hard tasks, the grading of word lists, and generated sorting problems."""

import io
import json
import shutil
from pathlib import Path

import pytest

from redraft.errors import UserError
from redraft.tasks import get_task, grade_rows
from redraft.tasks.bbh.formats import SORTING_SCRIPT
from redraft.tasks.bbh.generated_arithmetic import CELLS as ARITHMETIC_CELLS
from redraft.tasks.bbh.generated_arithmetic import generated_arithmetic
from redraft.tasks.bbh.generated_sorting import CELLS, generated_sorting, word_list
from redraft.tasks.bbh.steps.sorting_rationale import rationale
from redraft.tasks.bbh.word_list import WordListGrader
from redraft.types import Problem

TASKS = {
    "bbh/multistep_arithmetic": (250, "24"),
    "bbh/word_sorting": (250, "syndrome therefrom"),
    "bbh/date_understanding": (250, "(B)"),
    "bbh/logical_deduction": (750, "(A)"),
}


@pytest.mark.parametrize("name", TASKS)
def test_a_folder_of_all_subtasks(name: str, shared_data: Path) -> None:
    loaded = get_task(name, shared_data / "bbh").load("test")
    assert (len(loaded.problems), loaded.problems[0].gold) == TASKS[name]
    assert loaded.dropped == []
    assert len({problem.id for problem in loaded.problems}) == len(loaded.problems)


def test_one_file_and_the_benchmarks_own_layout(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "bbh" / "word_sorting.jsonl"
    one = get_task("bbh/word_sorting", source).load("test").problems
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    own = tmp_path / "word_sorting.json"
    own.write_text(json.dumps({"canary": "...", "examples": rows}), "utf-8-sig")
    assert get_task("bbh/word_sorting", own).load("test").problems == one
    (tmp_path / "web_of_lies.json").write_text("{}")
    assert get_task("bbh/word_sorting", tmp_path).load("test").problems == one
    own.write_text(json.dumps({"examples": ["a"]}))
    with pytest.raises(UserError, match="example 0"):
        get_task("bbh/word_sorting", own).load("test")


def test_a_copy_of_the_hubs_layout(shared_data: Path, tmp_path: Path) -> None:
    for count in ("three", "five"):
        folder = tmp_path / f"logical_deduction_{count}_objects"
        folder.mkdir()
        source = shared_data / "bbh" / f"logical_deduction_{count}_objects.jsonl"
        shutil.copy(source, folder / "test-00000.jsonl")
    problems = get_task("bbh/logical_deduction", tmp_path).load("test").problems
    assert [problem.metadata["objects"] for problem in problems[::250]] == [3, 5]


def test_there_is_no_training_split_on_the_hub() -> None:
    with pytest.raises(UserError, match="no 'train' split"):
        get_task("bbh/date_understanding").load("train")


def test_difficulty(shared_data: Path) -> None:
    def metadata(name: str) -> list[dict]:
        problems = get_task(f"bbh/{name}", shared_data / "bbh").load("test").problems
        return [problem.metadata for problem in problems]

    here = {"cell": "2-l4", "length": 4, "depth": 1, "seen": True}
    assert metadata("multistep_arithmetic") == [here] * 250
    sorting = metadata("word_sorting")
    assert sorting[0] == {"words": 2, "cell": "2-7", "seen": True}
    assert sorting[1] == {"words": 20, "cell": "16+", "seen": False}
    assert {m["cell"] for m in sorting} == set(CELLS)
    deduction = metadata("logical_deduction")
    assert [m["seen"] for m in deduction[::250]] == [True, True, False]


@pytest.mark.parametrize("cell", ARITHMETIC_CELLS)
def test_difficulty_of_sums_given_as_data(cell: str, tmp_path: Path) -> None:
    """What the generator knows of a problem is read from its question, too."""
    made = [generated_arithmetic(cell, "test", index) for index in range(5)]
    data = tmp_path / "rows.jsonl"
    data.write_text(
        "".join(json.dumps({"input": p.question, "target": p.gold}) + "\n" for p in made)
    )
    read = get_task("bbh/multistep_arithmetic", data).load("test").problems
    assert [problem.metadata for problem in read] == [problem.metadata for problem in made]


@pytest.mark.parametrize(
    ("question", "length", "depth", "seen"),
    [
        ("1 + 2 =", 2, 0, True),
        ("(1 + 2 + 3) * (4 - 5 - -6) =", 3, 1, True),
        ("((1 + 2) * (3 + 4 + 5)) =", 3, 1, True),
        ("(7 * (1 + 2 + 3 + 4 + 5)) =", 5, 1, False),
        ("((((1 + 2) + (3 + 4)) - 5) * 6) =", 2, 3, False),
    ],
)
def test_difficulty_of_sums_of_other_shapes(
    question: str, length: int, depth: int, seen: bool, tmp_path: Path
) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text(json.dumps({"input": question, "target": "0"}) + "\n")
    [problem] = get_task("bbh/multistep_arithmetic", data).load("test").problems
    assert problem.metadata == {"length": length, "depth": depth, "seen": seen}


def correct(name: str, gold: str, attempt: str) -> bool:
    grader = get_task(name).grader
    return grader(Problem(id="0", task=name, question="?", gold=gold), attempt).correct


@pytest.mark.parametrize(
    ("name", "gold", "attempt", "right"),
    [
        ("bbh/multistep_arithmetic", "-50", "(4) A - B = -54 + 4 = -50.\nThe answer is -50.", True),
        ("bbh/multistep_arithmetic", "-50", "So the answer is 50.", False),
        ("bbh/date_understanding", "(B)", "So the answer is (B).", True),
        ("bbh/date_understanding", "(B)", "The answer is B", True),
        ("bbh/date_understanding", "(B)", "The answer is (C).", False),
        ("bbh/logical_deduction", "(A)", "(Final response) So the answer is: (A).", True),
        ("bbh/logical_deduction", "(A)", "I do not know.", False),
        ("bbh/word_sorting", "ant bee cat", "So the answer is: ant bee cat.", True),
        ("bbh/word_sorting", "ant bee cat", "The answer is Ant, Bee, and Cat.", True),
        ("bbh/word_sorting", "ant bee cat", 'Answer: "ant" < "bee" < "cat"', True),
        ("bbh/word_sorting", "ant bee cat", "The sorted list is:\n1. ant\n2. bee\n3. cat", True),
        ("bbh/word_sorting", "ant bee cat", r"\boxed{\text{ant, bee, cat}}", True),
        ("bbh/word_sorting", "ant bee cat", "ant bee cat", True),
        ("bbh/word_sorting", "ant bee cat", "ant,bee ,\n cat", True),
        ("bbh/word_sorting", "ant it&t o'brien", "The answer is ant, it&t, o'brien.", True),
        ("bbh/word_sorting", "ant bee cat", "The answer is ant cat bee.", False),
        ("bbh/word_sorting", "ant bee cat", "The answer is ant bee.", False),
        ("bbh/word_sorting", "ant bee cat", "The answer is ant bee cat dog.", False),
        ("bbh/word_sorting", "ant bee cat", "The answer is antbee cat.", False),
        ("bbh/word_sorting", "ant bee cat", "", False),
        ("bbh/word_sorting", "ant bee cat", "<think>answer is a</think>ant bee cat", True),
    ],
)
def test_answers(name: str, gold: str, attempt: str, right: bool) -> None:
    assert correct(name, gold, attempt) is right


def test_the_published_accuracy_of_word_sorting(shared_data: Path) -> None:
    """code-davinci-002 with chain of thought: 40.4 % (arXiv 2210.09261)."""
    path = shared_data / "transcripts" / "bbh_code-davinci-002_cot" / "word_sorting.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    lines = [
        json.dumps({k: row[k] for k in ("input", "target")} | {"pred": row["prediction"]})
        for row in rows
    ]
    out = io.StringIO()
    grade_rows(enumerate(lines, start=1), get_task("bbh/word_sorting"), out, "rows.jsonl")
    graded = [json.loads(line) for line in out.getvalue().splitlines()]
    assert sum(line["correct"] for line in graded) == 101


def test_a_gold_without_words_is_dropped() -> None:
    assert WordListGrader().gold_faults(["ant bee", " , "]) == [
        None,
        "the gold answer has no words",
    ]


@pytest.mark.parametrize("cell", CELLS)
def test_generated_problems(cell: str) -> None:
    train = [generated_sorting(cell, "train", index) for index in range(40)]
    test = [generated_sorting(cell, "test", index) for index in range(40)]
    assert train == [generated_sorting(cell, "train", index) for index in range(40)]
    assert not {p.gold for p in train} & {p.gold for p in test}
    assert len({p.gold for p in train}) > 35
    lengths = set()
    for problem in train + test:
        words = problem.question.partition("List: ")[2].split()
        assert sorted(words) == problem.gold.split()
        assert len(words) in CELLS[cell].lengths
        assert problem.metadata == {"cell": cell, "seen": cell == "2-7", "words": len(words)}
        assert SORTING_SCRIPT.check(problem.question, rationale(problem.question)).confirms
        lengths.add(len(words))
    assert lengths == set(CELLS[cell].lengths)


def test_the_word_list_and_a_wrong_cell() -> None:
    words = word_list()
    assert len(words) > 1500
    assert list(words) == sorted(set(words))
    assert all(word.isascii() and word.isalpha() and word.islower() for word in words)
    with pytest.raises(UserError, match="no word-sorting cell '3'"):
        generated_sorting("3", "train", 0)
