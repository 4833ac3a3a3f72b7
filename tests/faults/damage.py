"""Run folders of which one file was removed, emptied, cut, or replaced by something else.

    .venv/bin/python tests/faults/damage.py --out runs/faults

Each damaged folder is given to the commands that read one: `resume`, the command that began it,
`report`, `show` and `compare`. Every one of them has to end within five minutes, with exit code 0
or a line and exit code 2. Results go to `damage.jsonl`; what is there already is not tried again.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import matplotlib.figure  # noqa: F401 (which every fork would load)
import torch
from kills import command, commands

import redraft.report.page  # noqa: F401
from score_runs import make_world

LIMIT_S = 300
RUNS = ("eval", "collect", "score", "star")

KINDS: dict[str, Callable[[Path, bytes], object]] = {
    "removed": lambda path, old: None,
    "emptied": lambda path, old: path.write_bytes(b""),
    "cut": lambda path, old: path.write_bytes(old[: len(old) // 2]),
    "cut line": lambda path, old: path.write_bytes(old.rpartition(b"\n")[0].rpartition(b"\n")[0]),
    "noise": lambda path, old: path.write_bytes(bytes(range(256)) * 9),
    "null": lambda path, old: path.write_bytes(b"null\n"),
    "list": lambda path, old: path.write_bytes(b"[1]\n"),
    "other types": lambda path, old: path.write_bytes(_other_types(old)),
    "folder": lambda path, old: (path / "x").mkdir(parents=True),
    "loop": lambda path, old: path.symlink_to(path),
    "zeros": lambda path, old: path.symlink_to("/dev/zero"),
    "pipe": lambda path, old: os.mkfifo(path),
}


def _other_types(content: bytes) -> bytes:
    """JSON or JSON Lines with every number as a text and every text as a number."""

    def other(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: other(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [other(inner) for inner in value]
        return 7 if isinstance(value, str) else str(value)

    try:
        return json.dumps(other(json.loads(content))).encode()
    except ValueError:
        pass
    try:
        lines = [json.loads(line) for line in content.splitlines()]
        return b"".join(json.dumps(other(line)).encode() + b"\n" for line in lines)
    except ValueError:
        return content.replace(b": ", b":\n- ")


def begin(name: str, told: list[str], settings: dict[str, Any], place: Path) -> list[str]:
    """The command of a run, which is done, and then looks as if it had been killed near its end."""
    run, file, log = place / name, place / f"{name}.json", place / "log"
    file.write_text(json.dumps(settings))
    again = [*told, "--config", str(file), "--out", str(run)]
    if code := command(again, log):
        raise SystemExit(f"{name}: ended with {code}: {log.read_text()}")
    (run / "summary.json").rename(place / "summary.json")
    if (run / "model").exists():
        shutil.rmtree(run / "model")
    return again


def tried(arguments: list[str], log: Path) -> dict[str, Any]:
    """How a command ends."""
    log.unlink(missing_ok=True)
    began = time.monotonic()
    code = command(arguments, log, limit_s=LIMIT_S)
    text = log.read_text(errors="replace")
    last = text.strip().splitlines()[-1] if text.strip() else ""
    right = code == 0 or (code == 2 and last.startswith("redraft: error: "))
    seconds = round(time.monotonic() - began, 1)
    return {
        "code": code,
        "seconds": seconds,
        "line": last,
        "right": right and "Traceback" not in text,
    }


def _few(files: list[str]) -> list[str]:
    """The files of a run, of its checkpoints only the newest's."""
    newest = max(
        (name.split("/")[1] for name in files if name.startswith("checkpoints/")), default=""
    )
    return [name for name in files if not name.startswith("checkpoints/") or newest in name]


def _damage(path: Path, put: Callable[[Path, bytes], object], summary: Path) -> None:
    old = (summary if path.name == summary.name else path).read_bytes()
    path.unlink(missing_ok=True)
    put(path, old)


def _commands(damaged: str, kind: str, run: Path, whole: Path, again: list[str]) -> list[list[str]]:
    """What is given a folder; only `resume` reads checkpoints."""
    resume = ["resume", str(run)]
    if "/" in damaged and not damaged.startswith(("episodes", "iterations")):
        return [resume]
    page = ["report", str(run), "--out", str(run.parent / "page.html")]
    pages = [page] if kind in ("other types", "list", "noise", "pipe") else []  # they take long
    readers = [
        *pages,
        ["report", str(run), "--csv"],
        ["show", str(run)],
        ["compare", str(run), str(whole)],
    ]
    return [*readers, again, resume]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/faults"))
    parser.add_argument("--only", nargs="*", default=RUNS, help="names of commands")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    results = arguments.out / "damage.jsonl"
    lines = results.read_text().splitlines() if results.exists() else []
    done = {tuple(json.loads(line)["damage"]) for line in lines}
    with tempfile.TemporaryDirectory(prefix="redraft-damage-") as folder:
        place = Path(folder)
        every, log = commands(make_world(place)), place / "log"
        for name in arguments.only:
            again, run, whole = begin(name, *every[name], place), place / name, place / "whole"
            shutil.rmtree(whole, ignore_errors=True)
            run.rename(whole)
            shutil.copytree(whole, run)
            inside = sorted(str(p.relative_to(whole)) for p in whole.rglob("*") if p.is_file())
            for name_in in [*_few(inside), "summary.json"]:
                for kind, put in KINDS.items():
                    if (name, name_in, kind) in done:
                        continue
                    shutil.rmtree(run)
                    shutil.copytree(whole, run)
                    _damage(run / name_in, put, place / "summary.json")
                    found: dict[str, Any] = {"damage": [name, name_in, kind]}
                    for told in _commands(name_in, kind, run, whole, again):
                        found[" ".join([told[0], told[-1].rpartition("/")[2]])] = tried(told, log)
                    with results.open("a") as file:
                        file.write(json.dumps(found) + "\n")
                    for told, how in found.items():
                        if told != "damage" and not how["right"]:
                            print(*found["damage"], "|", told, how["code"], how["line"], flush=True)


if __name__ == "__main__":
    main()
