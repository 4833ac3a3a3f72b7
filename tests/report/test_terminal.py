"""`redraft report`, `show`, `compare`, `import` and `export` as commands."""

import json
from pathlib import Path

import pytest

from evaluation_episodes import turn
from redraft.cli import run
from redraft.cli.terminal import print_outcome
from report_runs import asked, evaluation, training, verdicts


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    base = evaluation(tmp_path / "base", verdicts({"11": 7, "00": 13}))
    return base, evaluation(tmp_path / "tuned", verdicts({"11": 5, "10": 2, "01": 3, "00": 10}))


def test_a_report_lies_in_the_run_and_says_where(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["report", str(runs[0])]) == 0
    assert capsys.readouterr().out == f"Report: {(runs[0] / 'report.html').resolve().as_uri()}\n"
    assert run(["report", *map(str, runs)]) == 0
    assert (runs[0].parent / "report.html").exists()


def test_show_prints_what_is_asked_for(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["show", str(runs[1]), "--repaired", "--limit", "2"]) == 0
    out = capsys.readouterr().out
    assert "2 of 3 episodes shown, 20 in all" in out
    assert "attempt 2: right" in out
    assert run(["show", str(runs[1]), "--problem", "p0"]) == 0
    assert "1 of 1 episodes shown" in capsys.readouterr().out


def test_show_keeps_terminal_sequences_visible(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = asked("p", [turn(False, "\x1b[31m[bold]a"), turn(True, "\x1b[0m[bold]b")])
    assert run(["show", str(evaluation(tmp_path / "run", [hostile]))]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "[bold]" in out


def test_show_takes_a_step_of_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = training(tmp_path / "run")
    assert run(["show", str(folder), "--spoiled"]) == 0
    assert "3 of 3 episodes shown, 8 in all" in capsys.readouterr().out
    assert run(["show", str(folder), "--spoiled", "--step", "1"]) == 0
    assert "1 of 1 episodes shown" in capsys.readouterr().out


def test_compare_is_the_second_minus_the_first_in_pairs(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["compare", *map(str, runs), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["differences"]["accuracy/turn2"]["value"] == pytest.approx(0.05)
    assert found["mcnemar"] == {"gained": 3, "lost": 2, "p": 1.0}
    assert run(["compare", *map(str, runs)]) == 0
    assert "3 gained, 2 lost; McNemar's exact p 1" in capsys.readouterr().out


def test_an_import_says_how_to_open_its_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "attempts.jsonl"
    file.write_text(json.dumps({"problem": "?", "gold": "2", "attempts": ["1", "2"]}) + "\n")
    out = tmp_path / "a folder"
    assert run(["import", str(file), "--out", str(out), "--grader", "number"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"See it with: redraft report '{out}'"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["report", "DIR/nowhere"], "no such folder"),
        (["report"], "no folder given"),
        (["report", "DIR", "--markdown", "--csv"], "give one of them"),
        (["report", "DIR", "--episodes", "-1"], "expected 0 or more"),
        (["show", "DIR/base", "--step", "3"], "no episodes of step 3"),
        (["compare", "DIR/base", "DIR"], "expected one evaluation"),
        (["compare", "DIR/base", "DIR/other"], "nothing to pair"),
        (["import", "DIR/none.jsonl", "--out", "DIR/x"], "none.jsonl: cannot be read"),
    ],
)
def test_mistakes_are_one_line(
    runs: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    root = runs[0].parent
    evaluation(root / "other", [asked("q", [turn(True), turn(True)], task="another")])
    assert run([one.replace("DIR", str(root)) for one in arguments]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_names_of_folders_are_no_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [evaluation(tmp_path / name / "[/b]", verdicts({"11": 2})) for name in "ab"]
    assert run(["report", str(folders[0])]) == 0
    assert run(["compare", *map(str, folders)]) == 0
    assert "[/b] minus" in capsys.readouterr().out
    print_outcome(folders[0], json=False)
    out = capsys.readouterr().out
    assert f"Everything is in {folders[0]}\n" in out
    assert "[/b]'" in out


@pytest.mark.parametrize(
    "odd", [{"accuracy": ["x", "y"]}, {"accuracy": 5}, {"ci95": []}, {"n_problems": "many"},
            {"truncated": None}, {"delta_t1_t2": "x"}, {"strategies": 5}, {"endpoint": [1]}]
)  # fmt: skip
def test_a_summary_with_odd_values_is_made_anew(
    odd: dict[str, object], runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    file = runs[0] / "summary.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | odd))
    assert run(["compare", *map(str, runs)]) == 0
    capsys.readouterr()
    assert run(["report", str(runs[0])]) == 0
    assert "summary.json is damaged and was made anew" in (runs[0] / "report.html").read_text()
