"""`redraft locate`: rows in, rows with the first wrong step out."""

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from redraft.cli import run
from redraft.cli.locate import locate_rows
from redraft.errors import UserError
from redraft.grading.pool import Reply
from redraft.storage import numbered_lines
from redraft.tasks.bbh.formats import ARITHMETIC
from redraft.tasks.steps import verdict_of

RIGHT = {"input": "(1 + 2) * 4 =", "steps": ["1 + 2 = 3", "3 * 4 = 12"]}
WRONG = {"input": "(1 + 2) * 4 =", "steps": ["1 + 2 = 3", "3 * 4 = 13"]}
NOTHING = {"input": "(1 + 2) * 4 =", "steps": ["well"]}


def jsonl(*rows: object) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def rows_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def mistake(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that a user's mistake gets, where nothing has been written yet."""
    assert run([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize(
    "task", ["bbh/multistep_arithmetic", "multistep_arithmetic", "bbh/multistep_arithmetic-cells"]
)
def test_rows_keep_their_fields(
    task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(jsonl(RIGHT | {"id": 7}, WRONG, NOTHING))
    assert run(["locate", "--task", task, str(file)]) == 0
    out, err = capsys.readouterr()
    none = {"mistake_index": None, "span": "", "check": ""}
    assert rows_of(out) == [
        RIGHT | {"id": 7} | none | {"reason": "", "readable": True},
        WRONG
        | {
            "mistake_index": 1,
            "span": "3 * 4 = 13",
            "reason": "3 * 4 is 12 and not 13",
            "check": "calculate",
            "readable": True,
        },
        NOTHING | none | {"reason": "no step has anything that can be checked", "readable": False},
    ]
    assert err == "3 rows: 1 with a wrong step, 1 without, 1 unreadable\n"


def test_labels_from_stdin(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    labelled = [RIGHT | {"mistake_index": None}, WRONG | {"mistake_index": 0}]
    unreadable = NOTHING | {"mistake_index": None}  # agrees with nothing
    given = jsonl(*labelled, unreadable, RIGHT)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(given)))
    assert run(["locate", "--task", "multistep_arithmetic", "-", "--json"]) == 0
    out, err = capsys.readouterr()
    found = rows_of(out)
    assert [row.get("label", "-") for row in found] == [None, 0, None, "-"]
    assert [row["mistake_index"] for row in found] == [None, 1, None, None]
    assert json.loads(err) == {
        "rows": 4,
        "wrong": 1,
        "unreadable": 1,
        "labelled": 3,
        "agreeing": 1,
    }
    again = io.StringIO()
    lines = numbered_lines(io.BytesIO(out.encode()), "again")
    assert locate_rows(lines, ARITHMETIC, again, "again").labelled == 3
    assert again.getvalue() == out


def test_shared_rows(shared_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = shared_data / "bigbench_mistake" / "multistep_arithmetic.jsonl"
    assert run(["locate", "--task", "bbh/multistep_arithmetic", str(file)]) == 0
    out, err = capsys.readouterr()
    assert len(rows_of(out)) == 50
    assert float(err.split("agreement with labels: ")[1].split(" %")[0]) >= 92


class TestMistakes:
    @pytest.mark.parametrize(
        ("row", "said"),
        [
            ([1], "expected"),
            ({"steps": []}, "rows.jsonl:1: the row lacks field 'input'"),
            ({"input": "1 + 1"}, "rows.jsonl:1: the row lacks field 'steps'"),
            ({"input": "1 + 1", "steps": "1 + 1 = 2"}, "'steps' is not a list of text"),
            ({"input": "1 + 1", "steps": [1]}, "'steps' is not a list of text"),
            ({"input": ["1"], "steps": []}, "field 'input' is a list; expected text"),
            (
                RIGHT | {"mistake_index": "1"},
                "field 'mistake_index' is \"1\"; expected the 0-based",
            ),
            (RIGHT | {"mistake_index": -1}, "field 'mistake_index' is -1"),
            (RIGHT | {"mistake_index": True}, "field 'mistake_index' is true"),
        ],
    )
    def test_rows(
        self, row: object, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file = tmp_path / "rows.jsonl"
        file.write_bytes(jsonl(row))
        assert said in mistake(capsys, "locate", "--task", "multistep_arithmetic", file)

    def test_task(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert mistake(capsys, "locate", "--task", "gsm8k", tmp_path / "no") == (
            "redraft: error: task 'gsm8k' has no script that checks steps; "
            "bbh/multistep_arithmetic and bbh/word_sorting have one\n"
        )

    def test_files(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        empty = tmp_path / "empty.jsonl"
        empty.touch()
        task = ("locate", "--task", "multistep_arithmetic")
        assert "no rows to check" in mistake(capsys, *task, empty)
        assert "cannot be read" in mistake(capsys, *task, tmp_path / "missing.jsonl")

    def test_rows_before_a_broken_one_are_written(self) -> None:
        out = io.StringIO()
        lines = numbered_lines(io.BytesIO(jsonl(WRONG) + b"no\n" + jsonl(RIGHT)), "rows")
        with pytest.raises(UserError, match="rows:2: not JSON"):
            locate_rows(lines, ARITHMETIC, out, "rows")
        assert [row["mistake_index"] for row in rows_of(out.getvalue())] == [1]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply("timeout"), "the check took more than 10 s"),
        (Reply("error", error="KeyError: 'x'"), "the check failed (KeyError: 'x')"),
        (Reply("died", error="the grading process ended"), "the check failed (the grading"),
    ],
)
def test_a_checker_that_fails_claims_nothing(reply: Reply, reason: str) -> None:
    verdict = verdict_of(reply)
    assert not verdict.readable
    assert verdict.step is None
    assert verdict.reason.startswith(reason)


def test_hostile_rows_harm_no_other() -> None:
    hostile = [
        {"input": "1 + 1 =", "steps": ["9" * 10**6]},
        {"input": "(" * 1000 + "1" + ")" * 1000, "steps": ["(" * 1000 + "1" + ")" * 1000 + " = 1"]},
        {"input": "1 + 1 =", "steps": ["__import__('os')._exit(1)", "9**9**9**9 = 2"]},
        {"input": "9" * 10**6, "steps": ["1 = \ud800"]},
    ]
    out = io.StringIO()
    lines = numbered_lines(io.BytesIO(jsonl(*hostile, WRONG)), "rows")
    locate_rows(lines, ARITHMETIC, out, "rows")
    found = rows_of(out.getvalue())
    assert [row["readable"] for row in found] == [False, False, False, False, True]
    assert found[-1]["mistake_index"] == 1


@pytest.mark.parametrize("stdin", [False, True])
def test_a_byte_order_mark_is_passed_over(
    stdin: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    content = b"\xef\xbb\xbf" + jsonl(RIGHT, WRONG)
    file = tmp_path / "rows.jsonl"
    file.write_bytes(content)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    assert run(["locate", "--task", "multistep_arithmetic", "-" if stdin else str(file)]) == 0
    assert [row["mistake_index"] for row in rows_of(capsys.readouterr().out)] == [None, 1]
