"""The command line as a user meets it: exit codes, one line for each mistake, no traceback."""

import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import pytest
from cyclopts import App
from pydantic import Field

from redraft.cli import run
from redraft.cli.flags import command
from redraft.cli.progress import LineProgress
from redraft.cli.terminal import print_outcome
from redraft.config import Settings
from redraft.run_directory import RunDirectory


class Outcome:
    """What a command left: exit code and what it printed."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err

    @property
    def mistake(self) -> str:
        """The one line on stderr that a user's mistake gets."""
        assert self.code == 2
        assert self.out == ""
        found = re.fullmatch(r"redraft: error: (.+)\n", self.err)
        assert found, self.err
        return found[1]


class Redraft:
    """Runs commands in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: object) -> Outcome:
        self._capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        return Outcome(code, *self._capsys.readouterr())


@pytest.fixture
def redraft(capsys: pytest.CaptureFixture[str]) -> Redraft:
    return Redraft(capsys)


def jsonl(file: Path, *rows: object) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


# What there is


@pytest.mark.parametrize(
    ("arguments", "listed"),
    [
        ("--help", ["demo", "train", "resume", "eval", "collect", "grade", "locate", "tasks"]),
        ("train --help", ["cap", "rise", "score", "tripost"]),
        ("train score --help", ["--model", "--task", "--out", "--alpha", "--config", "--preset"]),
        ("tasks", []),
    ],
)
def test_help_comes_in_the_order_of_use_and_imports_no_model_library(
    arguments: str, listed: list[str]
) -> None:
    script = (
        "import sys\n"
        "from redraft.cli import run\n"
        f"code = run({arguments.split()})\n"
        "heavy = {'torch', 'transformers', 'datasets', 'sympy', 'scipy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else code)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = re.findall(r"^│ ([\w-]+) ", done.stdout, re.MULTILINE)
    assert [name for name in found if name in listed] == listed


def test_version(redraft: Redraft) -> None:
    outcome = redraft("--version")
    assert outcome.code == 0
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", outcome.out)


def test_tasks_as_a_table_and_as_json(redraft: Redraft) -> None:
    descriptions = json.loads(redraft("tasks", "--json").out)
    assert {"gsm8k", "math", "jsonl"} < descriptions.keys()
    assert any(name.startswith("lab/") for name in descriptions)
    table = redraft("tasks").out
    assert all(name in table for name in descriptions)


def test_doctor_finds_what_is_here(redraft: Redraft) -> None:
    report = json.loads(redraft("doctor", "--json").out)
    findings = {finding["name"]: finding for finding in report["findings"]}
    assert findings["python"]["found"] == report["environment"]["python"]
    assert all(findings[name]["ok"] for name in ("torch", "transformers", "cpu"))
    missing = [finding for finding in report["findings"] if not finding["ok"]]
    assert all(finding["remedy"] for finding in missing)
    table = redraft("doctor")
    assert table.code == 0
    assert report["environment"]["packages"]["torch"] in table.out


@pytest.mark.parametrize("command", ["eval", "train score", "train rise"])
def test_the_first_flags_are_model_and_task(redraft: Redraft, command: str) -> None:
    text = redraft(*command.split(), "--help").out
    groups = re.findall(r"^╭─ (.+?) ─+╮$", text, re.MULTILINE)
    assert groups[0] == "Model, problems and prompts"
    assert groups[-1] == "Configuration and output"
    assert re.findall(r"^│ \*? *(--[\w-]+)", text, re.MULTILINE)[:2] == ["--model", "--task"]
    about_model = text[text.index("--model") : text.index("--task")]
    assert ("http://" in about_model) == (command == "eval")  # an endpoint cannot be trained


def test_a_row_without_a_question_names_the_flag(redraft: Redraft, tmp_path: Path) -> None:
    file = jsonl(tmp_path / "problems.jsonl", {"text": "1+1?", "gold": "2"})
    said = redraft("eval", "--task", "jsonl", "--data", file).mistake
    assert said.endswith("(it has: text, gold); name the one that is meant with --question-field")
    file.write_text('{"question": "1+1?", "result": "2"}\n')
    assert "with --gold-field" in redraft("eval", "--task", "jsonl", "--data", file).mistake


def test_limits_are_checked_before_the_model_is_loaded(
    redraft: Redraft, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("models", "training.policy"):
        name = f"redraft.{module}.load_model"
        monkeypatch.setattr(name, lambda *_, **__: pytest.fail("was loaded"))
    flags = ("--task", "lab/sorting", "--max-tokens", "5000", "--out", tmp_path / "run")
    for words in (["eval"], ["train", "score"]):
        assert "context window of 4096" in redraft(*words, *flags).err


def test_every_field_of_a_method_is_a_flag(redraft: Redraft) -> None:
    from redraft.methods.score import ScoreConfig

    text = redraft("train", "score", "--help").out
    flags = set(re.findall(r"--[a-z0-9-]+", text))
    expected = {"--" + name.replace("_", "-") for name in ScoreConfig.model_fields}
    assert expected | {"--config", "--preset"} <= flags


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("trian", "unknown command 'trian' of redraft; did you mean train?"),
        ("xyz", "there is: demo, train, resume, eval"),
        ("train scoer", "unknown command 'scoer' of train; did you mean score?"),
        ("eval --modle lab", "unknown option --modle; did you mean --model?"),
        ("eval --task lab/sorting --max-new-tokens=9", "did you mean --max-tokens?"),
        ("eval --frobnicate", "unknown option --frobnicate; see --help"),
        (
            "train score --steps 3",
            "unknown option --steps; did you mean --stage-one-steps or --stage-two-steps?",
        ),
        ("train rise --steps 3", "did you mean --epochs?"),
        ("train oracle-retry --max-steps 3", "did you mean --steps?"),
        ("train score --report-to wandb", "did you mean --track?"),
        ("train score --preset lab --out x --track tb", "unknown tracker 'tb'; expected some of"),
        ("eval --task sorting", "unknown task 'sorting'; did you mean lab/sorting"),
        ("eval --task gsmk", "unknown task 'gsmk'; did you mean gsm8k?"),
        (
            "eval --task lab/sorting --max-tokens 4096",
            "--max-tokens 4096: --model lab has a context window of 4096 tokens",
        ),
        ("eval --turns two", 'Invalid value for --turns: unable to convert "two" into int.'),
        ("eval --out", "parameter --out requires an argument"),
        ("eval stray", "unexpected argument 'stray'"),
        ("eval", "--task is required"),
        ("eval --task gsm8k --turns 0", "--turns 0: should be greater than or equal to 1"),
        ("eval --task gsm8k --samples 4", "--samples 4 at --temperature 0 would be equal"),
        ("eval --task gsm8k --protocol telepathy", 'Invalid value "telepathy" for --protocol'),
        ("eval --config nowhere.yaml", "nowhere.yaml: cannot be read"),
        ("collect --task gsm8k", "--out is required"),
        ("train score --out x --preset mth", 'Invalid value "mth" for --preset'),
        ("train score --out x --alpha high", "--alpha"),
        ("train score --out x", "--task is required"),
        (
            "train score --out x --preset lab --stage-one-steps 0 --stage-two-steps 0",
            "nothing to train",
        ),
        ("resume", "FOLDER"),
        ("resume nowhere", "nowhere: no such folder"),
        ("grade", "--task"),
        ("grade --task gms8k", "unknown task 'gms8k'"),
        ("grade nowhere.jsonl --task gsm8k", "nowhere.jsonl: cannot be read"),
        ("grade --task jsonl --grader nonsense", "unknown grader 'nonsense'"),
        ("grade --task gsm8k --grader math", "takes no --grader"),
        ("lab build --seed x", "--seed"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    redraft: Redraft, arguments: str, complaint: str
) -> None:
    assert complaint in redraft(*arguments.split()).mistake


def test_resume_refuses_what_it_cannot_resume(redraft: Redraft, tmp_path: Path) -> None:
    assert "not a run's folder" in redraft("resume", tmp_path).mistake
    RunDirectory.create(tmp_path / "run", Settings(), "lab build")
    assert "made by `redraft lab build`" in redraft("resume", tmp_path / "run").mistake
    RunDirectory.create(tmp_path / "other", Settings(), "train nothing")
    assert "unknown method 'nothing'" in redraft("resume", tmp_path / "other").mistake


def test_an_unknown_key_in_a_configuration_file(redraft: Redraft, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("task: gsm8k\ntemprature: 0.7\n")
    message = redraft("eval", "--config", file).mistake
    assert message == f"{file}: unknown field 'temprature'; did you mean temperature?"


def test_a_folder_that_cannot_be_written_to(redraft: Redraft, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    message = redraft(
        "train", "score", "--preset", "lab", "--out", tmp_path / "file" / "below"
    ).mistake
    assert str(tmp_path / "file") in message


# Grading


def test_grade_gives_a_line_for_each_line(redraft: Redraft, tmp_path: Path) -> None:
    rows = [{"gold": "1,600", "pred": "So it is 1600."}, {"gold": "2", "pred": "I cannot say."}]
    file = jsonl(tmp_path / "answers.jsonl", *rows)
    outcome = redraft("grade", file, "--task", "gsm8k")
    assert outcome.code == 0
    first, second = map(json.loads, outcome.out.splitlines())
    assert first == {
        "correct": True,
        "answer": "1600",
        "decided_by": "number",
        "reason": "number 1600 = number 1600",
    }
    assert (second["correct"], second["decided_by"]) == (False, "none")
    assert outcome.err.startswith("50.00 % correct, 1 of 2")
    summary = json.loads(redraft("grade", file, "--task", "gsm8k", "--json").err)
    assert summary["rows"] == 2


def stdin_of(content: bytes) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(content), encoding="utf-8")


def test_grade_reads_stdin(redraft: Redraft, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", stdin_of(b'{"gold": "a b", "pred": "a b"}\n'))
    outcome = redraft("grade", "--task", "jsonl", "--grader", "exact")
    assert outcome.code == 0
    assert json.loads(outcome.out)["correct"] is True


@pytest.mark.parametrize(
    ("content", "mistake"),
    [
        (b"", "no rows to grade"),
        (b"\n \n", "no rows to grade"),
        (b"hello world", ":1: not JSON"),
        (b"\xff\xfe\n", ":1: not UTF-8 text"),
    ],
)
def test_what_is_not_json_lines_is_refused_from_a_file_and_from_stdin(
    redraft: Redraft,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: bytes,
    mistake: str,
) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_bytes(content)
    monkeypatch.setattr("sys.stdin", stdin_of(content))
    from_file = redraft("grade", file, "--task", "gsm8k").mistake
    assert mistake in from_file
    assert redraft("grade", "-", "--task", "gsm8k").mistake == from_file.replace(str(file), "stdin")


def test_a_cut_last_line_is_dropped_from_a_file_and_from_stdin(
    redraft: Redraft, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = '{"gold": "2", "pred": "2"}\n{"gold": "2", "pred": "é'.encode()[:-1]
    file = tmp_path / "answers.jsonl"
    file.write_bytes(content)
    monkeypatch.setattr("sys.stdin", stdin_of(content))
    with pytest.warns(UserWarning, match=r"answers.jsonl:2: unfinished last line dropped"):
        from_file = redraft("grade", file, "--task", "gsm8k")
    with pytest.warns(UserWarning, match=r"stdin:2: unfinished last line dropped"):
        from_stdin = redraft("grade", "--task", "gsm8k")
    assert (from_file.code, len(from_file.out.splitlines())) == (0, 1)
    assert (from_stdin.code, from_stdin.out) == (0, from_file.out)


def test_what_was_graded_before_a_broken_line_is_kept(redraft: Redraft, tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_text('{"gold": "2", "pred": "2"}\nnot json\n{"gold": "2", "pred": "2"}\n')
    outcome = redraft("grade", file, "--task", "gsm8k")
    assert outcome.code == 2
    assert len(outcome.out.splitlines()) == 1
    assert outcome.err.startswith(f"redraft: error: {file}:2: not JSON")
    assert outcome.err.count("\n") == 1


def test_a_row_without_its_field(redraft: Redraft, tmp_path: Path) -> None:
    file = jsonl(tmp_path / "answers.jsonl", {"gold": "2"})
    assert (
        f"{file}:1: the row lacks field 'pred'" in redraft("grade", file, "--task", "gsm8k").mistake
    )


# Interruptions


def test_an_interruption_is_not_a_traceback(
    redraft: Redraft, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted() -> Iterator[bytes]:
        yield b'{"gold": "2", "pred": "2"}\n'
        raise KeyboardInterrupt

    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=interrupted()))
    outcome = redraft("grade", "--task", "gsm8k")
    assert (outcome.code, outcome.err) == (130, "redraft: interrupted\n")


@pytest.mark.parametrize(("rank", "printed"), [("0", True), ("1", False)])
def test_of_several_processes_one_prints_the_outcome(
    rank: str,
    printed: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RANK", rank)
    print_outcome(tmp_path, json=True)
    assert bool(capsys.readouterr().out) == printed


def test_a_closed_pipe_is_silent(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "answers.jsonl", *[{"gold": "2", "pred": "2"}] * 5000)
    arguments = [sys.executable, "-c", "from redraft.cli import main; main()"]
    process = subprocess.Popen(
        [*arguments, "grade", str(file), "--task", "gsm8k"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert json.loads(process.stdout.readline())["correct"] is True
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait() == 141


def test_main_prints_warnings_as_lines(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_text('{"gold": "2", "pred": "2"}\n{"gold": "2", "pr')
    arguments = [sys.executable, "-c", "from redraft.cli import main; main()"]
    done = subprocess.run(
        [*arguments, "grade", str(file), "--task", "gsm8k"], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 1
    warning, accuracy = done.stderr.splitlines()
    assert warning.startswith(f"redraft: warning: {file}:2: unfinished last line dropped")
    assert accuracy.startswith("100.00 % correct")


# Flags made from settings


class Group(Settings):
    rate: float = Field(default=0.5, gt=0)
    """A rate."""


class Knobs(Settings):
    required: str
    """Must be given."""
    count: int = 3
    """How many."""
    kind: Literal["plain", "fancy"] = "plain"
    """Which."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Two numbers."""
    path: Path | None = None
    """Where."""
    names: tuple[str, ...] = ()
    """Who."""
    on: bool = True
    """Whether."""
    group: Group = Group()
    """More."""

    presets: ClassVar[dict[str, dict[str, Any]]] = {"many": {"count": 100, "on": False}}


def parsed(*arguments: str) -> Knobs:
    """The settings that a command gets."""
    received: list[Knobs] = []
    app = App(result_action="return_value", default_command=command(Knobs, received.append))
    app(arguments, exit_on_error=False, print_error=False)
    return received[0]


def test_flags_that_are_not_given_leave_the_defaults() -> None:
    assert parsed("--required", "x") == Knobs(required="x")


def test_every_kind_of_field_can_be_a_flag() -> None:
    arguments = (
        "--required x --count 5 --kind fancy --betas 0.5 0.75 --path a/b --names p --names q"
        " --no-on --group.rate 2"
    )
    assert parsed(*arguments.split()) == Knobs(
        required="x",
        count=5,
        kind="fancy",
        betas=(0.5, 0.75),
        path=Path("a/b"),
        names=("p", "q"),
        on=False,
        group=Group(rate=2.0),
    )


def test_a_flag_comes_before_the_file_before_the_preset(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("required: file\nkind: fancy\ngroup: {rate: 7}\n")
    knobs = parsed("--config", str(file), "--preset", "many", "--kind", "plain")
    assert knobs == Knobs(required="file", count=100, kind="plain", on=False, group=Group(rate=7.0))


# Progress in a log


def test_progress_in_a_log_is_a_few_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    progress = LineProgress(sys.stdout)
    with progress.phase("train", 200) as phase:
        for step in range(200):
            with progress.phase("rollout", 8) as inner:
                inner.advance(8)
            phase.advance(accuracy=step / 200)
        progress.note("a remark")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "train: begins, 200 steps"
    assert re.fullmatch(r"train 10/200, eta \d+:\d\d  accuracy 0.045", lines[1])
    assert len(lines) == 23
    assert lines[-2] == "a remark"
    assert re.fullmatch(r"train: done in \d+:\d\d", lines[-1])
