"""Every `redraft` command line that is written down is one that the program takes."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from redraft.cli.app import redraft_app
from redraft.config import Settings, flag, resolve
from redraft.config import fields as fields_of
from redraft.evaluation.settings import CollectSettings, EvaluationSettings
from redraft.registry import COMMANDS
from redraft.training.method import METHODS

ROOT = Path(__file__).parents[2]

SETTINGS: dict[str, type[Settings]] = {
    "eval": EvaluationSettings,
    "collect": CollectSettings,
    **{f"train {name}": method.settings for name, method in METHODS.items()},
}
"""What the flags of a command make."""

pages = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("recipes/*")])


def shell_lines(page: Path) -> Iterator[str]:
    """The lines of a page's code blocks, or of a recipe's head, continued ones joined."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".md":
        blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    else:
        blocks = ["\n".join(line[1:] for line in text.splitlines() if line.startswith("#"))]
    for block in blocks:
        yield from re.sub(r"\\\n", " ", block).splitlines()


def commands(page: Path) -> Iterator[list[str]]:
    """The arguments of every whole `redraft` command: comments, pipes and ellipses left out."""
    for line in shell_lines(page):
        found = re.match(r"\s*(?:\$ )?(?:.* -m )?redraft\s+(.*)", line)
        if found is None:
            continue
        tokens = shlex.split(re.split(r"\s[#|>]", found.group(1))[0])
        yield [
            "some" if token == "..." else token
            for before, token in zip(["", *tokens], tokens, strict=False)
            if token != "..." or before.startswith("--")  # else more flags are meant
        ]


def mentions(page: Path) -> Iterator[list[str]]:
    """The words of every command that is mentioned in a sentence, with placeholders for values."""
    if page.suffix == ".md":
        prose = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
        for found in re.findall(r"`redraft ([^`]+)`", prose):
            yield found.split()


WHOLE = [(page, words) for page in pages for words in commands(page)]
MENTIONED = [(page, words) for page in pages for words in mentions(page)]


def told(case: object) -> str:
    return case.name if isinstance(case, Path) else " ".join(case)  # type: ignore[arg-type]


def command_of(words: list[str]) -> str:
    """The command that arguments begin with."""
    return " ".join(words[:2] if words[0] in ("train", *COMMANDS) else words[:1])


def bound(words: list[str]) -> dict[str, Any]:
    """The command line as the program reads it; the work is not begun."""
    _, arguments, _ = redraft_app().parse_args(words, print_error=False, exit_on_error=False)
    return arguments.kwargs


def test_commands_are_found() -> None:
    assert {page.name for page, _ in WHOLE} >= {
        *("README.md", "rise.md", "cap.md", "tripost.md", "score.md", "grading.md"),
        *(path.name for path in ROOT.glob("recipes/*")),
    }
    assert {"train rise", "train star", "eval", "resume", "grade", "solve"} <= {
        command_of(words) for _, words in WHOLE
    }


@pytest.mark.parametrize(("page", "words"), WHOLE, ids=told)
def test_a_whole_command_is_taken(
    page: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its flags exist and have values of their kind, and together they make settings."""
    monkeypatch.chdir(ROOT)
    given = bound(words)
    if kind := SETTINGS.get(command_of(words)):
        file, preset = given.pop("config", None), given.pop("preset", None)
        values = {name.replace("__", "."): value for name, value in given.items()}
        known = {name: value for name, value in values.items() if name in fields_of(kind)}
        method = METHODS[words[1]] if words[0] == "train" else None
        presets = kind.presets if method is None else method.presets
        resolve(kind, file=file, preset=preset, overrides=known, presets=presets)


@pytest.mark.parametrize(("page", "words"), MENTIONED, ids=told)
def test_a_mentioned_command_has_the_flags_it_is_mentioned_with(
    page: Path, words: list[str]
) -> None:
    command = command_of(words)
    bound([*command.split(), "--help"])  # there is such a command
    flags = {re.split(r"[=\[|]", word)[0] for word in words if word.startswith("--")}
    if kind := SETTINGS.get(command):
        assert flags <= {flag(name) for name in fields_of(kind)} | {
            "--config",
            "--preset",
            "--json",
            "--plan",
            "--from",
            "--help",
        }
