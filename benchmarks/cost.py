"""How the cost of a SCoRe step grows with turns, samples, model size and processes.

    python benchmarks/cost.py                      # what is missing, and the page
    python benchmarks/cost.py turns --again        # those points once more; the faster counts
    python benchmarks/cost.py --page-only

One thing is varied, the rest is held (`BASE`). Every point is a run of the project's own training
in fresh processes, whose first step warms up and is left out; the fastest of the others counts,
because other work on the machine only makes a step slower.
Points are kept in results/cost.json as they are measured, so an interrupted run goes on; the page
is docs/results/cost.md. Seconds are processor time (`--clock cpu`) or, on a quiet machine,
`--clock wall`, which several processes need: their seconds are shown only where each had a core of
its own.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from pydantic import Field

from cost_page import write_page
from learner import model_flops, peak_memory
from redraft.methods.score import ScoreConfig
from redraft.storage import write_json
from redraft.system import environment, usable_cores
from rollout import CLOCKS
from shapes import folder_of
from sharding import launched
from timed_steps import Step, timed_steps

ROOT = Path(__file__).parents[1]


class AnyAttempts(ScoreConfig):
    """SCoRe's Stage II with any number of attempts."""

    attempts: int = Field(default=2, ge=1)  # type: ignore[assignment]


@dataclasses.dataclass(frozen=True)
class Point:
    """A run that is measured; the defaults are what is held."""

    model: str = "llama-5m"
    attempts: int = 2
    samples: int = 4
    problems: int = 4
    max_tokens: int = 32
    prompts: str | None = None
    processes: int = 1
    sharding: str = "none"
    steps: int = 4
    trimmed: bool = False
    """Give freed memory back to the system, as sharded training on a CPU does by itself."""

    @property
    def name(self) -> str:
        """What tells it from the others."""
        told = dataclasses.asdict(self)
        return " ".join(f"{k}={v}" for k, v in told.items() if v != getattr(BASE, k)) or "base"


BASE = Point()
AXES: dict[str, list[Point]] = {
    "turns": [
        Point(model=model, attempts=turns, steps=steps)
        for model, steps in (("lab", 9), ("llama-5m", BASE.steps))
        for turns in (1, 2, 3, 5, 8)
    ],
    "samples": [
        Point(samples=samples, problems=2, prompts="score-math") for samples in (2, 4, 8, 16)
    ],
    "size": [
        Point(model="lab", steps=9), BASE, Point(model="llama-20m"),
        Point(model="smollm2-135m", steps=3),
    ],
    "processes": [
        Point(model="llama-20m", processes=count, sharding=how, trimmed=True)
        for count, how in ((1, "none"), (2, "none"), (2, "fsdp2"), (4, "none"), (4, "fsdp2"))
    ],
}  # fmt: skip


def measure(point: Point, out: Path, arguments: argparse.Namespace) -> None:
    """Run a point's steps, on this process with the others of its group; the first prints what all
    of them found."""
    import psutil
    import torch

    torch.set_num_threads(arguments.threads)
    held = psutil.Process().memory_info().rss
    config = AnyAttempts(
        model=folder_of(point.model),
        out=out,
        task="lab/arithmetic",
        prompts=point.prompts,
        variant="no-stage-one",
        stage_one_steps=0,
        stage_two_steps=point.steps,
        attempts=point.attempts,
        samples=point.samples,
        problems_per_step=point.problems,
        max_tokens=point.max_tokens,
        sharding=point.sharding,
        device="cpu",
        keep_going=True,
        checkpoint_every=10**9,
    )
    steps, run = timed_steps(config, CLOCKS[arguments.clock])
    measured, model = steps[1:], run.policy.model
    everyones = run.processes.gather([[step.seconds for step in measured]])
    slowest = [max(took) for took in zip(*everyones, strict=True)]
    best = measured[slowest.index(min(slowest))]
    products, attention = model_flops(model, best.lengths, best.sampled)
    mine = {
        "seconds": seconds(best),
        "step": best.seconds,
        "sampled": best.sampled,
        "rows": len(best.lengths),
        "row_tokens": sum(best.lengths),
        "written": best.written,
        "attention": attention / (products + attention),
        "operations": products + attention,
        "held": held,
        "peak": peak_memory(torch.device("cpu")),
        "parameters": sum(weight.numel() for weight in model.parameters()),
    }
    found = run.processes.gather([mine])
    if run.processes.main:
        print(json.dumps(found), flush=True)


def seconds(step: Step) -> dict[str, float]:
    """Those of each part, which add up to the step's."""
    parts = dict(step.parts)
    parts["rollout"] -= parts["grading"]
    return parts | {"other": step.seconds - sum(parts.values())}


def run_point(point: Point, arguments: argparse.Namespace) -> dict[str, Any]:
    """What a point's processes found."""
    folder_of(point.model)  # made once, before several processes want it
    more = {"MALLOC_MMAP_THRESHOLD_": str(2**20)} if point.trimmed else {}
    with tempfile.TemporaryDirectory() as folder:
        told = json.dumps([dataclasses.asdict(point), f"{folder}/run"])
        how = ["--clock", arguments.clock, "--threads", str(arguments.threads)]
        command = launched(point.processes, __file__, "--child", told, *how)
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, **more}
        )
    found = json.loads(done.stdout.splitlines()[-1])
    return {"clock": arguments.clock, "cores": usable_cores(), "found": found}


def faster(now: dict[str, Any], before: dict[str, Any] | None) -> dict[str, Any]:
    """The one of two measurements of a point whose slowest process was faster."""
    each = [now] if before is None else [now, before]
    return min(each, key=lambda kept: max(one["step"] for one in kept["found"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("axes", nargs="*", metavar="AXIS", help=f"of {', '.join(AXES)}; all")
    parser.add_argument("--again", action="store_true", help="measure what is there once more")
    parser.add_argument("--page-only", action="store_true")
    parser.add_argument("--clock", choices=CLOCKS, default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--points", type=Path, default=ROOT / "benchmarks/results/cost.json")
    parser.add_argument("--page", type=Path, default=ROOT / "docs/results/cost.md")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        point, out = json.loads(arguments.child)
        return measure(Point(**point), Path(out), arguments)
    if unknown := sorted({*arguments.axes} - {*AXES}):
        parser.error(f"{unknown[0]}: no such axis; choose from {', '.join(AXES)}")
    known = json.loads(arguments.points.read_text()) if arguments.points.exists() else {}
    points = [point for axis in arguments.axes or AXES for point in AXES[axis]]
    for point in [] if arguments.page_only else dict.fromkeys(points):
        before = known.get(point.name)
        if before is None or arguments.again:
            print(point.name, flush=True)
            known[point.name] = faster(run_point(point, arguments), before)
            known["machine"] = environment()
            write_json(arguments.points, known)
    write_page(known, AXES, arguments.page)


if __name__ == "__main__":
    main()
