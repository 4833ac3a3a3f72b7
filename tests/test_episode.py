"""Records on disk: JSON Lines whose last line a crash may have cut anywhere."""

import json
from pathlib import Path

import pytest

from redraft.episode import Problem, append_jsonl, complete_lines, read_jsonl
from redraft.errors import UserError


def problem(id: str) -> Problem:
    return Problem(id=id, task="t", question="Combien coûte « ça » ? 答案 🙂", gold="1")


@pytest.fixture
def whole(tmp_path: Path) -> bytes:
    """The bytes of a file of two problems."""
    path = tmp_path / "whole.jsonl"
    append_jsonl(path, [problem("1"), problem("2")])
    return path.read_bytes()


def test_records_come_back(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "a.jsonl"
    append_jsonl(path, [problem("1")])
    append_jsonl(path, [])
    append_jsonl(path, [problem("2\u2028\x85")])  # line ends to str.splitlines, not to JSON Lines
    assert read_jsonl(path, Problem) == [problem("1"), problem("2\u2028\x85")]


def test_a_cut_at_any_byte_costs_at_most_the_last_record(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "cut.jsonl"
    first = whole.index(b"\n") + 1
    for end in range(first, len(whole) + 1):
        path.write_bytes(whole[:end])
        if first < end < len(whole) - 1:
            with pytest.warns(UserWarning, match=r"cut\.jsonl:2: unfinished last line dropped"):
                assert read_jsonl(path, Problem) == [problem("1")]
        else:
            count = 1 if end == first else 2
            assert read_jsonl(path, Problem) == [problem("1"), problem("2")][:count]


def test_appending_after_a_cut_at_any_byte(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "cut.jsonl"
    first = whole.index(b"\n") + 1
    for end in range(len(whole) + 1):
        path.write_bytes(whole[:end])
        if 0 < end < first - 1 or first < end < len(whole) - 1:
            line = 1 if end < first else 2
            with pytest.warns(UserWarning, match=rf"cut\.jsonl:{line}: unfinished last line"):
                append_jsonl(path, [problem("3")])
        else:
            append_jsonl(path, [problem("3")])
        kept = (end >= first - 1) + (end >= len(whole) - 1)
        expected = [*[problem("1"), problem("2")][:kept], problem("3")]
        assert read_jsonl(path, Problem) == expected


def test_nothing_is_appended_to_a_file_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("one\nhello world")
    with pytest.raises(UserError, match=r"notes\.txt:2: not a JSON object"):
        append_jsonl(path, [problem("1")])
    assert path.read_text() == "one\nhello world"


def test_a_bad_line_before_the_last_is_named(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "bad.jsonl"
    cut_in_a_character = whole[: whole.index("答".encode()) + 1]
    path.write_bytes(whole + cut_in_a_character + b"\n" + whole)
    with pytest.raises(UserError, match=r"bad\.jsonl:3: not UTF-8 text \(byte \d+ of the line\)"):
        read_jsonl(path, Problem)
    path.write_bytes(whole + b'{"id": \n')
    with pytest.raises(UserError, match=r"bad\.jsonl:3: Invalid JSON"):
        read_jsonl(path, Problem)
    path.write_bytes(b'\n\n{"id": "1", "task": "t", "question": "q"}\n')
    with pytest.raises(UserError, match=r"bad\.jsonl:3: field 'gold': Field required"):
        read_jsonl(path, Problem)


@pytest.mark.parametrize("content", [b"hello world", b"\xff\xfe", b"[1, 2"])
def test_only_a_cut_object_is_an_unfinished_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"other:1: "):
        read_jsonl(path, Problem)


def test_lines_keep_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text('\n{"a": 1}\r\n  \n{"a": 2}')
    assert [(n, json.loads(line)) for n, line in complete_lines(path)] == [
        (2, {"a": 1}),
        (4, {"a": 2}),
    ]
    with pytest.raises(UserError, match="nowhere: cannot be read"):
        list(complete_lines(tmp_path / "nowhere"))


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "marked.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + whole)
    assert [p.id for p in read_jsonl(path, Problem)] == ["1", "2"]
    append_jsonl(path, [problem("3")])
    assert [p.id for p in read_jsonl(path, Problem)] == ["1", "2", "3"]


def test_an_unfinished_line_behind_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "marked.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b'{"id": "a')
    with pytest.warns(UserWarning, match="unfinished last line"):
        assert list(complete_lines(path)) == []
    with pytest.warns(UserWarning, match="unfinished last line"):
        append_jsonl(path, [problem("b")])
    assert [p.id for p in read_jsonl(path, Problem)] == ["b"]
    path.write_bytes(b"\xef\xbb\xbf")
    assert list(complete_lines(path)) == []
