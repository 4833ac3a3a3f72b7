"""Loading problems, and grading files of answers."""

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants

from redraft.errors import UserError
from redraft.storage import complete_lines
from redraft.tasks import GradeSummary, get_task, grade_rows
from redraft.tasks.base import TASKS
from redraft.tasks.gsm8k import read
from redraft.tasks.rows import Row, local_rows
from redraft.training.method import METHODS


def write(path: Path, *rows: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def graded(task: str, *lines: str, grader: str | None = None) -> tuple[list[dict], GradeSummary]:
    out = io.StringIO()
    data = Path("unused") if task == "jsonl" else None
    made = get_task(task, data, grader=grader)
    summary = grade_rows(enumerate(lines, start=1), made, out, "rows.jsonl")
    return [json.loads(line) for line in out.getvalue().splitlines()], summary


def test_gsm8k_from_a_folder(shared_data: Path) -> None:
    task = get_task("gsm8k", shared_data / "gsm8k")
    loaded = task.load("test")
    assert (len(loaded.problems), loaded.dropped) == (1319, [])
    assert (loaded.problems[0].id, loaded.problems[0].gold) == ("gsm8k/test/0", "18")
    assert len(task.load("train").problems) == 7473
    few, same, other = (task.load("test", limit=20, seed=s).problems for s in (0, 0, 1))
    assert few == same != other
    assert len(few) == 20
    order = {problem.id: index for index, problem in enumerate(loaded.problems)}
    assert sorted(few, key=lambda p: order[p.id]) == few


def test_gsm8k_keeps_thousands_separators_right() -> None:
    row = Row("f:1", {"question": "?", "answer": "He earns <<2*800=1600>>1,600.\n#### 1,600"})
    task = get_task("gsm8k")
    posed = read(row)
    assert posed.gold == "1,600"
    out, _ = graded(
        "gsm8k",
        json.dumps({**row.fields, "pred": "#### 1600"}),
        json.dumps({**row.fields, "pred": "The answer is 1,600."}),
        json.dumps({**row.fields, "pred": "The answer is 1.6"}),
        json.dumps({**row.fields, "pred": "The answer is 600"}),
    )
    assert [line["correct"] for line in out] == [True, True, False, False]
    assert task.name == "gsm8k"


def test_math500(shared_data: Path) -> None:
    loaded = get_task("math", shared_data / "math").load("test")
    assert (len(loaded.problems), loaded.dropped) == (500, [])
    first = loaded.problems[0]
    assert first.gold == r"\left( 3, \frac{\pi}{2} \right)"
    assert first.id == "test/precalculus/807.json"
    assert first.metadata == {"subject": "Precalculus", "level": 2}


def test_a_gold_that_cannot_be_parsed_is_dropped_and_counted(tmp_path: Path) -> None:
    path = write(
        tmp_path / "data.jsonl",
        {"problem": "a", "solution": r"so $\boxed{7}$", "level": "Level 1"},
        {"problem": "b", "solution": "no box at all, only words and words and words"},
        {"problem": "c", "answer": r"\frac{1}{", "unique_id": "broken"},
    )
    loaded = get_task("math", path).load("train")
    assert [problem.gold for problem in loaded.problems] == ["7"]
    assert [identity for identity, _ in loaded.dropped] == ["math/train/1", "broken"]
    assert "unbalanced braces" in loaded.dropped[1][1]


@pytest.mark.parametrize("task", ["jsonl", "math", "gsm8k"])
def test_a_row_without_a_gold_is_dropped_and_the_others_stay(task: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [{"answer": "#### 1"}, {"answer": None}, {"answer": "#### 3"}]
    lines = [json.dumps({"question": f"q{n}", "problem": "p", **row}) for n, row in enumerate(rows)]
    file.write_text("\n".join(lines))
    loaded = get_task(task, file).load("test")
    assert len(loaded.problems) == 2
    assert [reason for _, reason in loaded.dropped] in (
        ["the gold answer is empty"],
        ["the gold answer '' is not a number"],
    )


def test_a_row_without_a_question_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"question": null, "gold": "1"}\n')
    with pytest.raises(UserError, match="lacks field 'question'"):
        get_task("jsonl", file).load("test")


def test_the_users_own_file(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.jsonl", {"prompt": "1+1?", "answer": 2, "id": 5, "topic": "sums"})
    problem = get_task("jsonl", path, grader="number").load("test").problems[0]
    assert (problem.id, problem.question, problem.gold) == ("5", "1+1?", "2")
    assert problem.metadata == {"topic": "sums"}

    path = write(tmp_path / "theirs.jsonl", {"q": "1+1?", "a": "2"})
    task = get_task("jsonl", path, grader="exact", question_field="q", gold_field="a")
    assert task.load("train").problems[0].gold == "2"


def test_an_id_that_two_rows_share_is_refused(tmp_path: Path) -> None:
    rows = [{"question": str(n), "gold": "1", "id": i} for n, i in enumerate(("a", 7, None, "7"))]
    path = write(tmp_path / "mine.jsonl", *rows)
    with pytest.raises(
        UserError, match=r"mine\.jsonl:4: id '7' is already that of .*mine\.jsonl:2; give every row"
    ):
        get_task("jsonl", path, grader="number").load("train")
    write(path, *rows[:3])
    problems = get_task("jsonl", path, grader="number").load("train").problems
    assert [problem.id for problem in problems] == ["a", "7", "jsonl/train/2"]


def test_files_of_other_kinds(tmp_path: Path) -> None:
    row = {"problem": "a", "answer": "1"}
    (tmp_path / "list.json").write_text(json.dumps([row, row]))
    assert len(get_task("math", tmp_path / "list.json").load("test").problems) == 2

    original = tmp_path / "MATH"  # one file per problem, as MATH was first published
    for split, count in (("train", 3), ("test", 2)):
        for index in range(count):
            write(original / split / "algebra" / f"{index}.json", row)
    assert len(get_task("math", original).load("train").problems) == 3
    assert len(get_task("math", original).load("test").problems) == 2

    script = (
        "import sys, pyarrow as pa, pyarrow.parquet as pq\n"
        "pq.write_table(pa.Table.from_pylist([{'problem': 'a', 'answer': '1'}]), sys.argv[1])\n"
    )
    parquet = tmp_path / "hub" / "test-00000-of-00001.parquet"
    parquet.parent.mkdir()
    subprocess.run([sys.executable, "-c", script, str(parquet)], check=True)
    assert len(get_task("math", parquet.parent).load("test").problems) == 1


def test_loading_through_the_datasets_library(tmp_path: Path) -> None:
    """The hub's own path, with a folder in place of a hub id and the network off."""
    write(tmp_path / "test.jsonl", {"problem": "a", "answer": "1"})
    script = (
        "import sys\n"
        "from redraft.errors import UserError\n"
        "from redraft.tasks.rows import Hub, hub_rows\n"
        "print(hub_rows(Hub(sys.argv[1], None, 'test'))[0].fields)\n"
        "try: hub_rows(Hub('redraft-tests/no-such-dataset', None, 'test'))\n"
        "except UserError as error: print(error)\n"
    )
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**environment, "PATH": ""},
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "{'problem': 'a', 'answer': '1'}", done.stderr
    assert "'redraft-tests/no-such-dataset' (split 'test') cannot be loaded" in lines[1]
    assert "--data PATH" in lines[1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"problem": "a", "answer": "1"}\nnot json\n{}\n', r"d\.jsonl:2: not JSON"),
        ('{"problem": "a", "answer": "1"}\n[1]\n', r"d\.jsonl:2: the row is a list"),
        ('{"answer": "1"}\n', r"d\.jsonl:1: the row lacks field 'problem' \(it has: answer\)"),
        ('{"problem": "a"}\n', r"d\.jsonl:1: the row lacks field 'answer' or 'solution'"),
        ('{"problem": ["a"], "answer": "1"}\n', r"d\.jsonl:1: field 'problem' is a list"),
        ('{"problem": "\\ud800", "answer": "1"}\n', r"d\.jsonl:1: a text is no valid Unicode"),
        ("", r"has no rows for split 'test'"),
    ],
)
def test_files_that_are_not_what_they_should_be(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        get_task("math", path).load("test")


def test_data_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        get_task("math", tmp_path / "nowhere").load("test")
    write(tmp_path / "a.jsonl", {})
    write(tmp_path / "b.jsonl", {})
    with pytest.raises(UserError, match=r"no 'test' split \(found: a.jsonl, b.jsonl\)"):
        get_task("math", tmp_path).load("test")
    with pytest.raises(UserError, match="name it with --data PATH"):
        get_task("jsonl")


def test_the_registry() -> None:
    assert {"gsm8k", "math", "jsonl", "lab/sorting", "lab/arithmetic"} <= set(TASKS)
    with pytest.raises(UserError, match=r"unknown task 'gms8k'; did you mean gsm8k\?"):
        get_task("gms8k")
    with pytest.raises(
        UserError, match=r"task 'math' takes no --grader \(given 'exact'\); it takes --data"
    ):
        get_task("math", grader="exact")
    with pytest.raises(
        UserError, match=r"takes no --data \(given 'somewhere'\); it takes no option"
    ):
        get_task("lab/sorting", "somewhere")
    assert get_task("lab/sorting").name == "lab/sorting"


def test_published_accuracies_of_the_gsm8k_transcripts(shared_data: Path) -> None:
    """Cobbe et al. 2021: four systems, graded exactly as published, answer by answer."""
    path = shared_data / "transcripts" / "gsm8k_test_openai_6b_175b.jsonl"
    out = io.StringIO()
    summary = grade_rows(complete_lines(path), get_task("gsm8k"), out, str(path))
    assert {name: f"{tally.accuracy:.2f}" for name, tally in summary.systems.items()} == {
        "6b_finetuning": "21.68",
        "6b_verification": "39.04",
        "175b_finetuning": "34.72",
        "175b_verification": "56.25",
    }
    assert (summary.rows, summary.ungraded) == (1319, 0)
    assert "6b_finetuning: 21.68 % correct, 286 of 1319" in list(summary.lines())
    ours = [json.loads(line)["systems"] for line in out.getvalue().splitlines()]
    for (_, line), systems in zip(complete_lines(path), ours, strict=True):
        row = json.loads(line)
        assert all(row[name]["is_correct"] == systems[name]["correct"] for name in systems)


def test_a_gold_may_be_a_worked_solution() -> None:
    for task, grader in (("gsm8k", None), ("math", None), ("jsonl", "number")):
        out, _ = graded(task, '{"gold": "so 18. #### 18", "pred": "It is 18."}', grader=grader)
        assert out[0]["correct"] is True


def test_one_line_out_for_each_line_in() -> None:
    out, summary = graded(
        "math",
        '{"gold": "1/2", "pred": "0.5"}',
        '{"gold": "\\\\sqrt{8}", "pred": "so \\\\boxed{2\\\\sqrt{2}}"}',
        "",
        '{"gold": "7", "pred": null}',
        '{"gold": ["one half", "1/2"], "pred": 0.5}',
        '{"gold": "", "pred": "7"}',
        '{"problem": "?", "solution": "\\\\boxed{7}", "pred": "8"}',
    )
    assert [(line["correct"], line["decided_by"]) for line in out] == [
        (True, "number"),
        (True, "expression"),
        (False, "none"),
        (True, "number"),
        (None, "none"),
        (False, "number"),
    ]
    assert out[1]["answer"] == r"2\sqrt{2}"
    assert out[4]["reason"] == "the gold answer is empty"
    assert list(summary.lines()) == [
        "60.00 % correct, 3 of 5 (1 without an answer)",
        "1 of 6 rows not graded: their gold cannot be parsed",
    ]


def test_a_bad_row_stops_after_the_good_ones_are_written() -> None:
    good = '{"gold": "1", "pred": "1"}'
    for bad, message in (
        ("nonsense", r"rows.jsonl:3: not JSON"),
        ('{"gold": "1"}', r"rows.jsonl:3: the row lacks field 'pred'"),
        ('{"pred": "1"}', r"rows.jsonl:3: the row lacks field"),
        ('{"gold": [], "pred": "1"}', r"rows.jsonl:3: field 'gold' is an empty list"),
        ('"text"', r"rows.jsonl:3: the row is a str"),
    ):
        out = io.StringIO()
        lines = enumerate((good, good, bad, good), start=1)
        with pytest.raises(UserError, match=message):
            grade_rows(lines, get_task("gsm8k"), out, "rows.jsonl")
        assert [json.loads(line)["correct"] for line in out.getvalue().splitlines()] == [True, True]


def test_rows_of_a_generated_task() -> None:
    out, _ = graded("lab/sorting", '{"gold": "ant bee", "pred": "ant bee"}')
    assert out[0]["correct"] is True
    with pytest.raises(UserError, match="lacks field 'gold'"):
        graded("lab/sorting", '{"pred": "ant bee"}')


def test_a_graders_name_on_the_command_line() -> None:
    out, _ = graded("jsonl", '{"gold": "B", "pred": "The answer is (B)."}', grader="choice")
    assert out[0] == {"correct": True, "answer": "B", "decided_by": "string"}


def test_rows_that_are_nested_without_end_are_one_line(tmp_path: Path) -> None:
    for name in ("data.json", "data.jsonl"):
        file = tmp_path / name
        file.write_text('{"a":' * 100_000 + "\n")
        with pytest.raises(UserError, match=r"not.* JSON"):
            get_task("jsonl", file, grader="exact").load("test")


def test_texts_that_are_no_unicode_are_one_line(tmp_path: Path) -> None:
    file = tmp_path / "data.json"
    file.write_text('[{"question": "\\ud800", "gold": "1"}]')
    with pytest.raises(UserError, match=r"data\.json:0: a text is no valid Unicode"):
        get_task("jsonl", file, grader="exact").load("test")
    table = pa.table({"question": ["why?"], "gold": ["abcd"]})
    parquet = tmp_path / "data.parquet"
    pq.write_table(table, parquet, compression="none", use_dictionary=False)
    parquet.write_bytes(parquet.read_bytes().replace(b"why?", b"wh\xff?"))
    with pytest.raises(UserError, match=r"data\.parquet: not a parquet file"):
        get_task("jsonl", parquet, grader="exact").load("test")


def test_without_a_hub_there_is_one_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries of `datasets` would take half a minute."""
    nowhere = "http://127.0.0.1:9"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", nowhere)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", nowhere)
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("waits to try again"))
    with pytest.raises(UserError, match=r"gsm8k.* hub \(which cannot be reached.* --data"):
        get_task("gsm8k").load("test")
    assert not constants.HF_HUB_OFFLINE  # the next one is asked for again


def test_what_is_no_file_in_a_folder_of_data_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "test.jsonl")
    (tmp_path / "train.jsonl").symlink_to("/dev/zero")
    with pytest.raises(UserError, match="no data files"):
        local_rows(tmp_path, "test")


def test_names_that_are_too_long_for_a_path(tmp_path: Path) -> None:
    long = "a" * 9999
    with pytest.raises(UserError, match="does not exist"):
        local_rows(Path(long), "test")
    given = {"task": "jsonl", "out": str(tmp_path), "model": f"./{long}", "data": long}
    assert METHODS["rise"].settings.model_validate(given).data == Path(long)
