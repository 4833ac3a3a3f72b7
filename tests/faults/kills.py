"""Commands ended at random moments, resumed, and compared with a run that nothing happened to.

    .venv/bin/python tests/faults/kills.py --kills 50 --out runs/faults

A kill comes by SIGKILL at a random file operation in the run's folder (so also within checkpoints,
and while the folder is created), or by SIGKILL, SIGTERM or SIGINT at a random moment of processor
time. A third of the resumed runs are ended once more. Whatever command the folder then needs is
given: the one that began the run, or `redraft resume`. Results go to `kills.jsonl` as they come; a
kill that is there already is not tried again.
"""

import argparse
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import torch

import redraft.evaluation
import redraft.training.launch
from redraft import interruption
from redraft.cli import run as redraft
from redraft.run_directory import is_run
from score_runs import make_world

LIMIT_S = 600  # by the clock, of one command
TIMED = ("time", "seconds/", "tokens_per_second/")

FEW = {"learning_rate": 1e-2, "device": "cpu", "precision": "float32", "max_tokens": 4}
LAB = {"model": "lab", "learning_rate": 1e-4, "device": "cpu", "precision": "float32"}
SHORT = {"batch_size": 4, "epochs": 1.0, "collect_at_once": 2, "checkpoint_every": 2}
STEPS = {"problems_per_step": 3, "samples": 4, "seed": 5, "checkpoint_every": 2}
SUMS = {**LAB, "task": "lab/arithmetic-cells", "limit": 6, "max_tokens": 48, "batch_size": 8}
ASKED = {"samples": 2, "temperature": 1.0, "max_tokens": 4, "device": "cpu"}


def commands(world: Path) -> dict[str, tuple[list[str], dict[str, Any]]]:
    """By name a command and its settings, small."""
    (world / "program.yaml").write_text(
        "alone: '{question} Write a program.'\nrefine: A program.\n"
    )
    guesses = {
        "model": str(world / "model"),
        "task": "jsonl",
        "data": str(world / "problems.jsonl"),
        "grader": "exact",
        "prompts": "lab",
    }
    tiny, asked = guesses | FEW, guesses | ASKED
    cap = {
        "program_prompts": str(world / "program.yaml"),
        "chains": 8,
        "programs": 8,
        "chain_ratio": "any",
        "preference_learning_rate": 1e-2,
        "preference_batch_size": 8,
    }
    methods: dict[str, dict[str, Any]] = {
        "score": tiny | STEPS | {"stage_one_steps": 2, "stage_two_steps": 3, "select": "best"},
        "oracle-retry": tiny | STEPS | {"steps": 4},
        "rise": tiny | SHORT | {"iterations": 2, "samples": 2, "best_of": 2, "start": "base"},
        "star": tiny | SHORT | {"samples": 24, "iterations": 2},
        "pair-sft": tiny | SHORT | {"samples": 16},
        "bon-sft": tiny | SHORT | {"samples": 8, "best_of": 4},
        "lmsi": tiny | SHORT | {"samples": 16},
        "off-policy-sft": LAB | SHORT | {
            "task": "lab/sorting", "limit": 6, "max_tokens": 32, "teacher": "expert"
        },
        "cap": tiny | SHORT | cap,
        "tripost": SUMS | SHORT | {"rationale_epochs": 1.0, "iterations": 2, "own_updates": 1,
                                   "samples": 2},
        "rationale-sft": SUMS | SHORT,
        "si-demo-sft": SUMS | SHORT,
    }  # fmt: skip
    every = {name: (["train", name], settings) for name, settings in methods.items()}
    every["eval"] = (["eval"], asked | {"turns": 2, "parallel": True})
    every["collect"] = (["collect"], asked | {"turns": 2})
    demo = {"problems": 4, "stage_one_steps": 1, "stage_two_steps": 2, "device": "cpu"}
    return every | {"demo": (["demo"], demo)}


def outcome(run: Path) -> dict[str, str]:
    """What a run has led to, by file: weights to the bit, lines without the times in them
    and the run's own place."""
    found = {}
    for path in sorted(run.rglob("*")):
        place = str(path.relative_to(run))
        if path.suffix == ".safetensors" and "checkpoints" not in place:
            found[place] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.suffix == ".jsonl" and "interrupted" not in place:
            text = path.read_text("utf-8").replace(str(run), "RUN")
            lines = [json.loads(line) for line in text.splitlines()]
            found[place] = json.dumps([_timeless(line) for line in lines])
    return found


def _timeless(value: Any) -> Any:
    """A JSON value without times, nor log-probabilities, which depend on the batch in an evaluation
    (where a run learns from them, its weights tell)."""
    if isinstance(value, dict):
        return {
            name: _timeless(inner)
            for name, inner in value.items()
            if not name.startswith(TIMED) and name != "logprobs"
        }
    return [_timeless(inner) for inner in value] if isinstance(value, list) else value


class Fault:
    """Where and how a command is ended."""

    def __init__(self, rng: random.Random, operations: int, seconds: float) -> None:
        self.number = rng.choice([None, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
        """The signal at a moment of processor time; None: SIGKILL at a file operation."""
        self.operation = rng.randrange(operations) + 1
        self.seconds = rng.uniform(0.001, seconds)

    def __str__(self) -> str:
        if self.number is None:
            return f"file operation {self.operation}"
        return f"{self.number.name} after {self.seconds:.2f} s"

    def arm(self, folder: Path) -> None:
        """Have this process end there."""
        if self.number is None:
            _count(folder, self.operation)
            return
        number = self.number
        signal.signal(signal.SIGPROF, lambda *_: os.kill(os.getpid(), number))
        signal.setitimer(signal.ITIMER_PROF, self.seconds)


def _count(folder: Path, fatal: int) -> list[int]:
    """Count the file operations of this process in a folder, and end it at the fatal one."""
    seen = [0]
    watched = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate"}

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in watched and str(folder) in str(arguments[0]):
            seen[0] += 1
            if seen[0] == fatal:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return seen


def command(
    arguments: list[str],
    log: Path,
    begin: Callable[[], object] = lambda: None,
    limit_s: int = LIMIT_S,
) -> int:
    """Run a command in a fork of this process; its exit code, negative for a signal."""
    child = os.fork()
    if not child:
        out = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        signal.alarm(limit_s)
        interruption.heed_signals()
        begin()
        try:
            os._exit(redraft(arguments))
        except BaseException:  # it must not come to the parent's own ends
            traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class System:
    """One command with its settings, and what it leads to unbroken."""

    def __init__(self, name: str, told: list[str], settings: dict[str, Any], place: Path) -> None:
        self.name, self.place, self.told = name, place, told
        self.file = place / f"{name}.json"
        self.file.write_text(json.dumps(settings))
        run, log = place / f"{name}-unbroken", place / f"{name}.log"
        counted = place / f"{name}.count"

        def count() -> None:
            seen = _count(run, 0)
            began = time.process_time()

            def tell(*_: object) -> None:
                spent = time.process_time() - began
                counted.write_text(json.dumps([seen[0], spent]))

            end = os._exit
            os._exit = lambda code: (tell(), end(code))  # type: ignore[assignment]

        code = command(self.begin(run), log, count)
        if code:
            raise SystemExit(f"{name}: ended with {code}: {log.read_text()}")
        self.operations, self.seconds = json.loads(counted.read_text())
        self.unbroken = outcome(run)

    def begin(self, run: Path) -> list[str]:
        return [*self.told, "--config", str(self.file), "--out", str(run)]

    def kill(self, number: int) -> dict[str, Any]:
        """End the command at random, go on until it is done, and compare."""
        rng = random.Random(f"{self.name}-{number}")
        run, log = self.place / f"{self.name}-{number}", self.place / f"{self.name}-{number}.log"
        faults, ends, began = [], [], time.monotonic()
        for attempt in range(60):
            fault = Fault(rng, self.operations, self.seconds)
            broken = attempt == 0 or (len(faults) == 1 and rng.random() < 1 / 3)
            arguments = ["resume", str(run)] if is_run(run) else self.begin(run)
            code = command(arguments, log, lambda f=fault, b=broken: f.arm(run) if b else None)
            if broken:
                faults.append(str(fault))
            ends.append(code)
            if code == 0:
                break
            if not broken and "in use by" not in log.read_text().splitlines()[-1]:
                break
            time.sleep(0.0 if broken else 1.0)  # a demo's orphans end when they next report
        text = log.read_text(errors="replace") if log.exists() else ""
        alike = code == 0 and outcome(run) == self.unbroken
        result = {
            "system": self.name,
            "number": number,
            "faults": faults,
            "ends": ends,
            "alike": alike,
            "traceback": "Traceback" in text,
            "seconds": round(time.monotonic() - began, 1),
        }
        if alike and not result["traceback"]:
            shutil.rmtree(run)
        return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="of each command")
    parser.add_argument("--out", type=Path, default=Path("runs/faults"))
    parser.add_argument("--only", nargs="*", help="names of commands")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long")
    arguments = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    arguments.out.mkdir(parents=True, exist_ok=True)
    results, began = arguments.out / "kills.jsonl", time.monotonic()
    lines = results.read_text().splitlines() if results.exists() else []
    done = {(line["system"], line["number"]) for line in map(json.loads, lines)}
    with tempfile.TemporaryDirectory(prefix="redraft-kills-") as folder:
        place = Path(folder)
        every = commands(make_world(place))
        systems: dict[str, System] = {}
        for number in range(arguments.kills):
            for name in arguments.only or every:
                if (name, number) in done or (name == "demo" and number % 10):
                    continue  # a demo is three runs
                if time.monotonic() - began > arguments.seconds:
                    return
                if name not in systems:
                    systems[name] = System(name, *every[name], place)
                result = systems[name].kill(number)
                if not result["alike"] or result["traceback"]:
                    kept = arguments.out / f"{name}-{number}"
                    shutil.rmtree(kept, ignore_errors=True)
                    if (place / kept.name).exists():
                        shutil.copytree(place / kept.name, kept)
                    shutil.copy(place / f"{kept.name}.log", f"{kept}.log")
                with results.open("a") as file:
                    file.write(json.dumps(result) + "\n")
                print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
