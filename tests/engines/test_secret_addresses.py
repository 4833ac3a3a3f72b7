"""An address with a secret in it is refused before anything is written, and is not repeated."""

from pathlib import Path

import pytest

from redraft.cli import run as redraft

SECRET = "SECRETPW"

ADDRESSES = [
    f"http://user:{SECRET}@127.0.0.1:9/v1#m",
    f"https://{SECRET}@127.0.0.1:9/v1#m",
    f"http://127.0.0.1:9/v1?api_key={SECRET}#m",
    f"http://127.0.0.1:9/v1#m?api_key={SECRET}",
    f"http:///user:{SECRET}@127.0.0.1:9/v1#m",
    f"user:{SECRET}@127.0.0.1:9/v1#m",
]

COMMANDS = [
    "train rise --improve teacher --teacher",
    "train bon-sft --improve teacher --teacher",
    "train off-policy-sft --teacher",
    "train rise --model",
    "train tripost --feedback teacher --teacher",
    "train cap --task lab/arithmetic --sources",
    "eval --task lab/sorting --model",
    "eval --task lab/arithmetic --strategy cap --sources",
    "collect --task lab/sorting --model",
]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("address", ADDRESSES)
def test_no_secret_is_written_or_shown(
    address: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert redraft([*command.split(), address, "--out", str(out)]) == 2
    assert not out.exists()
    shown = capsys.readouterr()
    [line] = shown.err.splitlines()
    assert line.startswith("redraft: error: ")
    assert SECRET not in shown.out + shown.err


@pytest.mark.parametrize("option", ["--teacher", "--sources", "--model"])
def test_none_is_shown_where_something_else_is_wrong_too(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    method = "cap" if option == "--sources" else "rise"
    wrong = [option, f"{ADDRESSES[0]},{ADDRESSES[0]}", "--epochs", "-1"]
    assert redraft(["train", method, *wrong, "--out", str(tmp_path / "run")]) == 2
    assert SECRET not in capsys.readouterr().err


def test_one_in_a_file_is_refused_as_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(f"improve: teacher\nteacher: {ADDRESSES[0]}\n")
    out = tmp_path / "run"
    assert redraft(["train", "rise", "--config", str(file), "--out", str(out)]) == 2
    assert not out.exists()
    assert SECRET not in capsys.readouterr().err


def test_a_folder_may_have_an_at_sign_in_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model@home"
    folder.mkdir()
    wanted = ["--task", "lab/sorting", "--model", str(folder), "--out", str(tmp_path / "run")]
    assert redraft(["eval", *wanted]) == 2
    assert "model@home" in capsys.readouterr().err
