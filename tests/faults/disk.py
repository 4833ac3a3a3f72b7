"""Training onto file systems of several sizes until they are full, and into folders that may not be
written to; each run is resumed when there is room.

    .venv/bin/python tests/faults/disk.py --out runs/faults

Mounts tmpfs in a mount namespace of its own (`unshare`), so it needs Linux and either root or user
namespaces. Results go to `disk.json`.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import torch
from kills import command, commands, outcome

from redraft.run_directory import is_run
from score_runs import make_world

SIZES = [4, 16, 64, 128, 200, 300, 400, 600, 800, 1200, 1600]
"""In KiB; a run of the tiny model takes about 2 MiB."""

PLACES = [".", "checkpoints", "episodes"]
"""Folders of a run that may not be written to."""


@contextmanager
def tmpfs(place: Path, kib: int) -> Iterator[None]:
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "none", place], check=True)
    try:
        yield
    finally:
        unmount(place)


def unmount(place: Path) -> None:
    """Unmount, once the last process of a run that has just ended has left it."""
    for _ in range(100):
        if subprocess.run(["umount", place], capture_output=True).returncode == 0:
            return
        time.sleep(0.1)
    raise SystemExit(f"{place} cannot be unmounted")


def tried(begin: list[str], run: Path, log: Path) -> tuple[int, bool, str]:
    """Exit code of the command, whether there was a traceback, and its last line."""
    log.unlink(missing_ok=True)
    code = command(["resume", str(run)] if is_run(run) else [*begin, "--out", str(run)], log)
    text = log.read_text()
    return code, "Traceback" in text, text.strip().splitlines()[-1] if text.strip() else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/faults"))
    arguments = parser.parse_args()
    if "REDRAFT_OWN_MOUNTS" not in os.environ:
        how = ["-m"] if os.geteuid() == 0 else ["-r", "-m"]
        os.environ["REDRAFT_OWN_MOUNTS"] = "1"
        sys.exit(subprocess.call(["unshare", *how, sys.executable, *sys.argv]))
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="redraft-disk-") as folder:
        place = Path(folder)
        told, settings = commands(make_world(place))["score"]
        (place / "config.json").write_text(json.dumps(settings))
        begin, log = [*told, "--config", str(place / "config.json")], place / "log"
        assert tried(begin, place / "unbroken", log)[0] == 0, log.read_text()
        expected = outcome(place / "unbroken")
        for kib in SIZES:
            disk = place / f"disk-{kib}"
            with tmpfs(disk, kib):
                code, traceback, line = tried(begin, disk / "run", log)
                subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
                then, again, _ = tried(begin, disk / "run", log)
                alike = outcome(disk / "run") == expected
            results.append({
                "what": f"{kib} KiB", "code": code, "line": line, "traceback": traceback or again,
                "then": then, "alike": alike,
            })  # fmt: skip
            _tell(arguments.out, results)
        for name in PLACES:
            results.append(_forbidden(begin, place, name, log, expected))
            _tell(arguments.out, results)


def _tell(out: Path, results: list[dict[str, Any]]) -> None:
    print(json.dumps(results[-1]), flush=True)
    (out / "disk.json").write_text(json.dumps(results, indent=1) + "\n")


def _forbidden(
    begin: list[str], place: Path, name: str, log: Path, expected: dict[str, str]
) -> dict[str, Any]:
    """A run resumed, by a user without root's rights, while one of its folders is read-only."""
    run = place / "forbidden"
    shutil.copytree(place / "unbroken", run)
    for newest in (run / "checkpoints").glob("step-000005"):
        shutil.rmtree(newest)
    inside, mode = run / name, 0o555
    if os.geteuid() == 0:  # which may write anywhere but to a read-only mount
        subprocess.run(["mount", "--bind", "-o", "ro", inside, inside], check=True)
    else:
        inside.chmod(mode)
    code, traceback, line = tried(begin, run, log)
    if os.geteuid() == 0:
        unmount(inside)
    else:
        inside.chmod(0o755)
    then, again, _ = tried(begin, run, log)
    result = {
        "what": f"read-only {name}", "code": code, "line": line, "traceback": traceback or again,
        "then": then, "alike": outcome(run) == expected,
    }  # fmt: skip
    shutil.rmtree(run)
    return result


if __name__ == "__main__":
    main()
