"""Attempts made elsewhere become evaluations."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from redraft.cli import run
from redraft.errors import UserError
from redraft.evaluation.result import read_episodes
from redraft.report.imports import ImportSettings, import_attempts
from redraft.report.page import markdown
from redraft.report.runs import EpisodeFile, read_runs
from redraft.report.traces import Traces


def imported(folder: Path, *rows: object, **settings: Any) -> Path:
    file = folder / "attempts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    [out] = import_attempts(ImportSettings(out=folder / "out", **settings), file)
    return out


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text("utf-8"))


ROWS = [
    {"problem": "1 + 1?", "gold": "2", "attempts": ["The answer is 3.", "The answer is 2."]},
    {"problem": "2 + 2?", "gold": "4", "attempts": ["The answer is 4.", "The answer is 5."]},
    {"problem": "3 + 3?", "gold": "6", "attempts": ["The answer is 6."]},
]


def test_attempts_are_graded_and_measured_as_an_evaluation_is(tmp_path: Path) -> None:
    out = imported(tmp_path, *ROWS, grader="number")
    found = summary(out)
    assert found["accuracy"] == [pytest.approx(2 / 3), pytest.approx(2 / 3)]
    assert (found["i_to_c"], found["c_to_i"]) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert found["n_problems"] == 3
    page = markdown([out])
    assert "66.7" in page
    assert "math-verify alone differs on 0 of the answers in 3 of 3 episodes" in page


def test_attempts_bring_critiques_cuts_and_verdicts(tmp_path: Path) -> None:
    first = {"text": "3", "critique": "off by one", "correct": True, "tokens": 7}
    row = {"problem": "?", "gold": "2", "attempts": [first, {"text": "2", "truncated": True}]}
    [episode] = read_episodes(imported(tmp_path, row, grader="number"))
    assert [turn.text for turn in episode.turns] == ["3", "off by one", "2"]
    assert episode.correct == [False, False]  # wrong, and cut
    assert episode.answers[0].generated == 7
    (tmp_path / "again").mkdir()
    trusted = imported(tmp_path / "again", row, grader="number", verdicts="recorded")
    assert read_episodes(trusted)[0].correct == [True, False]


def test_samples_of_a_problem_stay_together(tmp_path: Path) -> None:
    rows = [{**ROWS[0], "id": "one", "sample": k} for k in range(3)]
    assert summary(imported(tmp_path, *rows, grader="number"))["n_problems"] == 1


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"problem": "?", "gold": "2"}, "'attempts' is missing"),
        ({"problem": "?", "gold": "2", "attempts": []}, "'attempts' is missing"),
        ({"problem": "?", "gold": "2", "attempts": [3]}, "neither a text nor an object"),
        ({"problem": "?", "gold": "2", "attempts": [{"txt": "2"}]}, "field 'txt' of an attempt"),
        ({"gold": "2", "attempts": ["2"]}, "lacks field 'question' or 'problem'"),
        ({"problem": "?", "gold": "2", "attempts": ["2"], "sample": "a"}, "field 'sample' is 'a'"),
        ([], "the row is a list"),
        *(
            ({"problem": "?", "gold": "2", "attempts": [one]}, said)
            for one, said in (
                ({"text": None}, "neither `text` nor `correct`"),
                ({"text": "2", "truncated": "false"}, "field 'truncated' of an attempt"),
                ({"text": "2", "correct": 1}, "field 'correct' of an attempt"),
                ({"text": "2", "tokens": "7"}, "field 'tokens' of an attempt"),
                ({"text": "2", "critique": 3}, "field 'critique' of an attempt"),
            )
        ),
    ],
)
def test_rows_that_cannot_be_read_are_named(tmp_path: Path, row: object, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        imported(tmp_path, ROWS[0], row, grader="number")
    assert "attempts.jsonl:2" in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"problem": "2 + 2?", "sample": 1}, "with another question or gold"),
        ({"gold": "3", "sample": 1}, "with another question or gold"),
        ({}, "sample 0 of id 'one' is also at"),
    ],
)
def test_problems_and_samples_are_not_mixed(
    tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    row = {**ROWS[0], "id": "one"}
    with pytest.raises(UserError, match=said) as caught:
        imported(tmp_path, row, {**row, **changed}, grader="number")
    assert all(f"attempts.jsonl:{line}" in str(caught.value) for line in (1, 2))


def test_a_text_that_is_not_in_the_file_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    attempts = [{"text": None, "correct": False}, {"text": None, "correct": False}, "2"]
    out = imported(tmp_path, {"problem": "?", "gold": "2", "attempts": attempts}, grader="number")
    assert [turn.has_text for turn in read_episodes(out)[0].turns] == [False, False, True]
    assert summary(out)["no_answer"] == [0, 0, 0]
    assert run(["show", str(out), "--copied"]) == 0
    assert "0 of 0 episodes shown" in capsys.readouterr().out
    assert run(["show", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "attempt 2: wrong\n" in re.sub(" *│? *\n", "\n", shown)
    assert shown.count("text not in the file") == 2
    traces = Traces()
    [read] = read_runs([out])
    traces.add(read, traces.add_run(read), EpisodeFile(out, "turns"), read.parts["turns"])
    assert (traces.columns["badges"], traces.columns["edit"]) == ([0], [None])
    assert traces.columns["tokens"] == [None]
    first, _, last = json.loads(traces.records[0])["turns"]
    assert "tokens" not in first
    assert "changes" not in last


def test_an_empty_file_and_an_unclear_layout_are_a_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no attempts"):
        imported(tmp_path)
    with pytest.raises(UserError, match="--task"):
        imported(tmp_path, {}, layout="bbh-cot")


@pytest.mark.parametrize("name", ["..", ".", "a/b", "a\0b", ""])
def test_a_system_is_the_name_of_a_folder_below_out(name: str, tmp_path: Path) -> None:
    row = {"question": "?", "answer": "2", "ground_truth": "2", name: {"solution": "2"}}
    with pytest.raises(UserError, match="cannot be the name of a folder"):
        imported(tmp_path, row, layout="systems")


@pytest.mark.parametrize("layout", ["reflexion", "first-programs", "systems"])
def test_a_verdict_is_true_or_false(layout: str, tmp_path: Path) -> None:
    row = {"reflections": [], "solution": "2", "is_solved": "None"}
    row["175b"] = {"solution": "2", "is_correct": "None"}
    with pytest.raises(UserError, match="is 'None'; expected true, false or null"):
        imported(tmp_path, row, layout=layout, verdicts="recorded")


def test_systems_of_one_row_become_runs_side_by_side(shared_data: Path, tmp_path: Path) -> None:
    whole = (shared_data / "transcripts" / "gsm8k_test_openai_6b_175b.jsonl").read_text("utf-8")
    file = tmp_path / "few.jsonl"
    file.write_text("".join(whole.splitlines(keepends=True)[:50]), "utf-8")
    settings = ImportSettings(out=tmp_path / "out", layout="systems")
    folders = import_attempts(settings, file)
    assert {folder.name for folder in folders} == {
        f"{size}_{how}" for size in ("6b", "175b") for how in ("finetuning", "verification")
    }
    for folder in folders:
        recorded = summary(folder)["recorded"]["last"]
        assert recorded["agreeing"] == recorded["episodes"] == 50


def reflexion(shared_data: Path, tmp_path: Path, keep: Any) -> dict[str, Any]:
    source = shared_data / "transcripts" / "humaneval_reflexion_gpt4.jsonl"
    rows = [json.loads(line) for line in source.read_text("utf-8").splitlines()]
    return summary(imported(tmp_path, *filter(keep, rows), layout="reflexion"))


def test_unrecorded_attempts_of_reflexion_count_as_its_run_took_them(
    shared_data: Path, tmp_path: Path
) -> None:
    found = reflexion(shared_data, tmp_path, lambda row: len(row["reflections"]) in (1, 2))
    assert found["recorded"]["last"] == {"correct": 8, "agreeing": 9, "episodes": 9}
    assert found["accuracy"][0] == 0
    assert found["verbatim_copy"] is None  # those texts are not in the file


@pytest.mark.slow
def test_reflexion_is_solved_as_its_own_flags_say(shared_data: Path, tmp_path: Path) -> None:
    found = reflexion(shared_data, tmp_path, lambda row: True)
    assert found["recorded"] == {
        "first": {"correct": 134, "agreeing": 164, "episodes": 164},
        "last": {"correct": 150, "agreeing": 164, "episodes": 164},
    }
    assert found["accuracy"][0] == 134 / 164
    assert found["accuracy"][-1] == 150 / 164
