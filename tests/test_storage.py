"""Files: JSON Lines whose last line a crash may have cut anywhere, and run directories."""

import json
import math
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from redraft import storage
from redraft.config import Settings, resolve
from redraft.errors import UserError
from redraft.run_directory import RunDirectory, run_locks
from redraft.storage import (
    append_jsonl,
    complete_lines,
    damage,
    read_checked,
    read_jsonl,
    seal,
    write_checked,
    write_text,
)
from redraft.types import Episode, Grade, Message, Problem, Turn

# JSON Lines


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


# Run directories


class Training(Settings):
    steps: int = 3
    """Optimiser steps."""
    seed: int = 7
    """Seed of everything."""


def episode(number: int) -> Episode:
    problem = Problem(id=str(number), task="toy", question="1+1?", gold="2")
    turn = Turn(author="policy", text="2", grade=Grade(score=1, decided_by="string"))
    return Episode(
        problem=problem,
        messages=[Message(role="user", content="1+1?")],
        turns=[turn],
        protocol="intrinsic",
    )


def metrics(run: RunDirectory, folder: str = ".") -> list[dict[str, Any]]:
    lines = (run.folder / folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run", Training(steps=5), "train score")


def test_a_new_run_says_what_it_is(run: RunDirectory) -> None:
    assert resolve(Training, file=run.folder / "config.yaml") == Training(steps=5)
    facts = json.loads((run.folder / "environment.json").read_text())
    assert facts["command"] == "train score"
    assert facts["seed"] == 7
    assert facts["packages"]["torch"] == torch.__version__
    assert facts["cores"] >= 1
    assert {"python", "platform", "cpu", "gpus", "commit", "argv"} <= facts.keys()


def test_an_opened_run_is_the_one_that_was_created(run: RunDirectory) -> None:
    opened = RunDirectory.open(run.folder)
    assert opened.command == "train score"
    assert opened.config(Training) == (Training(steps=5), {})


def test_a_run_is_never_written_over(run: RunDirectory) -> None:
    run.log({"loss": 1.0}, step=1)
    before = (run.folder / "environment.json").read_bytes()
    with pytest.raises(UserError, match=rf"redraft resume {run.folder}"):
        RunDirectory.create(run.folder, Training(), "train score")
    assert (run.folder / "environment.json").read_bytes() == before


def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="not empty; give another --out"):
        RunDirectory.create(tmp_path, Training(), "train score")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_run_that_never_began_is_started_over(run: RunDirectory) -> None:
    again = RunDirectory.create(run.folder, Training(steps=9), "train score")
    assert again.config(Training) == (Training(steps=9), {})


def test_an_empty_folder_will_do(tmp_path: Path) -> None:
    assert RunDirectory.create(tmp_path, Training(), "eval").folder == tmp_path


def test_out_that_is_a_file_is_a_users_mistake(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(UserError, match="give another --out"):
        RunDirectory.create(file, Training(), "eval")
    with pytest.raises(UserError, match="give another --out"):
        RunDirectory.create(file / "below", Training(), "eval")


@pytest.mark.parametrize("damage", ["missing", "foreign", "cut short"])
def test_open_refuses_what_is_no_run(run: RunDirectory, damage: str) -> None:
    folder = run.folder
    if damage == "missing":
        folder = run.folder / "nowhere"
    elif damage == "foreign":
        folder = run.folder / "checkpoints"
        folder.mkdir()
    else:
        (folder / "environment.json").write_text('{"command": "tr')
    refusals = rf"^{folder}(: no such folder|: not a run's folder|/environment.json: damaged)"
    with pytest.raises(UserError, match=refusals):
        RunDirectory.open(folder)


def test_metrics_are_one_line_of_valid_json_a_step(run: RunDirectory) -> None:
    run.log({"accuracy": [0.5, 0.75], "loss": torch.tensor(1.5), "n": np.int64(3)}, step=1)
    run.log({"loss": math.nan, "by_turn": np.array([1.0, math.inf]), "stage": "II"}, step=2)
    first, second = metrics(run)
    assert first.pop("time") <= second.pop("time")
    assert first == {"step": 1, "accuracy": [0.5, 0.75], "loss": 1.5, "n": 3}
    assert second == {"step": 2, "loss": None, "by_turn": [1.0, None], "stage": "II"}


def test_summary_is_valid_json_too(run: RunDirectory) -> None:
    run.summary({"delta_t1_t2": np.float64(0.25), "ci95": {"delta_t1_t2": (0.1, math.nan)}})
    summary = json.loads((run.folder / "summary.json").read_text())
    assert summary == {"delta_t1_t2": 0.25, "ci95": {"delta_t1_t2": [0.1, None]}}


def test_a_write_that_fails_leaves_the_old_content(tmp_path: Path) -> None:
    file = tmp_path / "summary.json"
    write_text(file, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(file, "\ud800")
    assert file.read_text() == "old"


def test_episodes_are_appended_by_name_and_step(run: RunDirectory) -> None:
    path = run.episodes("train", [episode(1)], step=3)
    run.episodes("train", [episode(2)], step=3)
    assert path == run.folder / "episodes" / "train-000003.jsonl"
    assert [e.problem.id for e in read_jsonl(path, Episode)] == ["1", "2"]
    assert run.episodes("base", [episode(1)]).name == "base.jsonl"


def test_rewind_moves_what_came_after_and_loses_nothing(run: RunDirectory) -> None:
    run.episodes("base", [episode(0)])
    for step in range(1, 5):
        run.log({"loss": float(step)}, step)
        run.episodes("train", [episode(step)], step)
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')  # killed in the middle of a line
    run.summary({"accuracy": [1.0]})

    aside = run.rewind(2)

    assert aside == run.folder / "interrupted" / "001"
    assert [line["step"] for line in metrics(run)] == [1, 2]
    moved = (aside / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in moved[:2]] == [3, 4]
    assert moved[2:] == ['{"step": 5, "lo']
    names = sorted(path.name for path in (run.folder / "episodes").iterdir())
    assert names == ["base.jsonl", "train-000001.jsonl", "train-000002.jsonl"]
    moved_names = sorted(path.name for path in (aside / "episodes").iterdir())
    assert moved_names == ["train-000003.jsonl", "train-000004.jsonl"]
    assert (aside / "summary.json").exists()
    assert not (run.folder / "summary.json").exists()

    run.log({"loss": 30.0}, step=3)  # the resumed run goes on with a whole line
    assert [line["step"] for line in metrics(run)] == [1, 2, 3]
    assert run.rewind(0) == run.folder / "interrupted" / "002"
    assert metrics(run, "interrupted/002")[-1]["loss"] == 30.0


def test_rewind_with_nothing_after_leaves_no_trace(run: RunDirectory) -> None:
    assert run.rewind(0) is None
    run.log({"loss": 1.0}, step=1)
    run.episodes("train", [episode(1)], step=1)
    assert run.rewind(1) is None
    assert not (run.folder / "interrupted").exists()
    assert [line["step"] for line in metrics(run)] == [1]


def test_the_summary_of_a_run_that_had_ended_stays(run: RunDirectory) -> None:
    run.log({"loss": 1.0}, step=1)
    run.summary({"steps": 1})
    assert run.rewind(1) is None
    assert (run.folder / "summary.json").exists()


def test_logged_metrics_are_read_back(run: RunDirectory) -> None:
    assert run.metrics() == []
    run.log({"loss": 1.0}, step=1)
    run.log({"loss": math.nan}, step=2)
    assert [(line["step"], line["loss"]) for line in run.metrics()] == [(1, 1.0), (2, None)]


# Another process


@pytest.fixture
def in_use(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A run's folder that another process has made and is in, and the process."""
    folder, (ready, tell) = tmp_path / "run", os.pipe()
    child = os.fork()
    if not child:
        RunDirectory.create(folder, Training(), "train score")
        os.write(tell, b".")
        signal.pause()
    os.read(ready, 1)
    yield folder, child
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


@pytest.mark.parametrize("steps", [0, 1])
def test_a_run_in_use_is_left_alone_until_its_process_has_ended(
    in_use: tuple[Path, int], steps: int
) -> None:
    folder, child = in_use
    if steps:
        RunDirectory(folder, "").log({"loss": 1.0}, 1)
    before = (folder / "config.yaml").read_text()
    for attempt in (
        lambda: RunDirectory.create(folder, Training(seed=8), "train score"),
        lambda: RunDirectory.open(folder).lock(),
    ):
        with pytest.raises(UserError, match=rf"in use by process {child} on \S+ since 20\d\d-"):
            attempt()
    assert (folder / "config.yaml").read_text() == before

    os.kill(child, signal.SIGKILL)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    with run_locks():
        RunDirectory.open(folder).lock()


def test_a_lock_is_a_file_of_the_folders_own(tmp_path: Path) -> None:
    run, precious = RunDirectory(tmp_path / "run", ""), tmp_path / "precious"
    precious.write_text("kept")
    run.folder.mkdir()
    lock = run.folder / "run.lock"
    puts: list[Callable[[], object]] = [
        lambda: lock.symlink_to(precious),
        lambda: lock.symlink_to(lock),
        lambda: os.mkfifo(lock),
        lambda: lock.mkdir(),
    ]
    for put in puts:
        put()
        with pytest.raises(UserError, match=r"run\.lock: no file of a run's own; remove it"):
            run.lock()
        if not lock.is_dir():
            lock.unlink()
    assert precious.read_text() == "kept"


@pytest.mark.parametrize("name", ["metrics.jsonl", "checkpoints/step-000001/learner.pt"])
def test_a_pipe_is_not_waited_for(name: str, run: RunDirectory) -> None:
    path = run.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)
    with pytest.raises(UserError, match="neither a file nor a folder; remove it"):
        RunDirectory.open(run.folder)


@pytest.mark.parametrize("name", ["episodes", "checkpoints", "interrupted"])
def test_a_file_in_a_folders_place_is_refused(name: str, run: RunDirectory) -> None:
    (run.folder / name).write_text("")
    with pytest.raises(UserError, match=f"{name}: not a folder"):
        RunDirectory.open(run.folder)


def test_other_names_among_the_interrupted_are_passed_over(run: RunDirectory) -> None:
    for name in ("001.bak", "004"):
        (run.folder / "interrupted" / name).mkdir(parents=True)
    run.log({"loss": 1.0}, 1)
    assert run.rewind(0) == run.folder / "interrupted" / "005"


def test_a_lock_is_given_up_with_the_work(tmp_path: Path) -> None:
    with run_locks():
        run = RunDirectory.create(tmp_path, Training(), "eval")
    child = os.fork()
    if not child:
        run.lock()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


# Killed at the beginning


class KilledError(BaseException):
    """Ends a test's work where a kill would have."""


@pytest.mark.parametrize("writes", range(7))
def test_a_run_killed_while_it_was_created_can_begin_or_be_resumed(
    writes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before each of its files is there, and before each has its name."""
    left = [writes]
    replace = Path.replace

    def count(*_: object) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KilledError

    def counted_replace(self: Path, target: Path) -> Path:
        count()
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", count)
    monkeypatch.setattr(Path, "replace", counted_replace)
    folder = tmp_path / "run"
    try:
        RunDirectory.create(folder, Training(), "train score", {"level": "none"})
        assert writes == 6
    except KilledError:
        monkeypatch.undo()
        with pytest.raises(UserError, match=r"ended before it began; give the command .* again"):
            RunDirectory.open(folder)
    monkeypatch.undo()
    again = RunDirectory.create(folder, Training(steps=9), "eval")
    assert again.config(Training) == (Training(steps=9), {})
    assert RunDirectory.open(folder).command == "eval"


# Damage


def test_a_configuration_that_was_cut_is_refused_and_an_edited_one_is_told(
    run: RunDirectory,
) -> None:
    file = run.folder / "config.yaml"
    whole = file.read_text()
    file.write_text(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"config\.yaml: lacks 2 settings .* first 'steps'"):
        run.config(Training)
    file.write_text(whole.replace("seed: 7", "seed: 8"))
    config, edits = run.config(Training)
    assert config.seed == 8
    assert edits == {"seed": f"{file}: seed is 8, and was 7 when the run began"}


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b'{"step": 2, "loss": \xff\xfe}\n',
        b'{"step": "2"}\n',
        b"[2]\n",
        b'{"step": 2.5}\n',
        b'{"step": true}\n',
        b"[" * 100_000 + b"\n",
    ],
)
def test_metrics_that_are_damaged_are_found_and_put_aside(line: bytes, run: RunDirectory) -> None:
    for step in (1, 2, 3):
        run.log({"loss": 1.0}, step)
    file = run.folder / "metrics.jsonl"
    first, _, third = file.read_bytes().splitlines(True)
    file.write_bytes(first + line + third)
    assert run.lost_metrics(1) is None
    lost = f"{file} lacks 1 lines of earlier steps, first of step 2"
    assert run.lost_metrics(3) == lost
    if line:
        with pytest.raises(UserError, match=r"metrics\.jsonl:2: "):
            run.metrics()
    aside = run.rewind(1)
    assert aside is not None
    assert (aside / "metrics.jsonl").read_bytes() == line + third
    assert [one["step"] for one in run.metrics()] == [1]


def test_a_file_that_was_changed_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "examples.jsonl"
    records = [problem("1"), problem("2")]
    write_checked(file, storage.to_jsonl(records))
    assert read_checked(file, Problem) == records
    file.write_bytes(file.read_bytes().splitlines(True)[0])
    with pytest.raises(UserError, match=r"examples\.jsonl: damaged, .* delete \S+checksums\.json"):
        read_checked(file, Problem)
    (tmp_path / "checksums.json").unlink()
    assert read_checked(file, Problem) == records[:1]


def test_a_checked_file_is_whole_wherever_its_writing_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "examples.jsonl"
    write_checked(file, storage.to_jsonl([problem("1")]))

    def killed(*_: object) -> None:
        raise KilledError

    monkeypatch.setattr(storage, "write_text", killed)
    monkeypatch.setattr(
        storage, "write_json", lambda path, content: write_text(path, json.dumps(content))
    )
    with pytest.raises(KilledError):
        write_checked(file, storage.to_jsonl([problem("2")]))
    assert read_checked(file, Problem) == [problem("1")]


def test_a_sealed_folder_tells_of_every_change(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    for name in ("weights", "below/more"):
        (tmp_path / name).write_bytes(bytes(range(256)))
    assert damage(tmp_path) is None
    seal(tmp_path)
    assert damage(tmp_path) is None
    flipped = bytearray((tmp_path / "below" / "more").read_bytes())
    flipped[77] ^= 4
    (tmp_path / "below" / "more").write_bytes(flipped)
    assert damage(tmp_path) == "below/more is not as it was written"
    (tmp_path / "below" / "more").unlink()
    assert "No such file" in str(damage(tmp_path))


def test_checksums_of_a_file_that_no_disk_can_hold(tmp_path: Path) -> None:
    (tmp_path / "checksums.json").write_text('{"a\\ud800": ["x"]}')
    assert "surrogates" in str(damage(tmp_path))


@pytest.mark.parametrize("sums", [5, "text", None, {}, [5]])
def test_checksums_that_are_none(sums: object, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text("{}")
    (tmp_path / "checksums.json").write_text(json.dumps({"config.json": sums}))
    assert damage(tmp_path) == "config.json is not as it was written"
    if sums is not None:
        with pytest.raises(UserError, match="not as the run wrote it"):
            read_checked(file, Problem)


def test_a_sealed_file_that_became_a_pipe_is_damage(tmp_path: Path) -> None:
    (tmp_path / "learner.pt").write_text("x")
    seal(tmp_path)
    (tmp_path / "learner.pt").unlink()
    os.mkfifo(tmp_path / "learner.pt")
    assert "no regular file" in str(damage(tmp_path))
