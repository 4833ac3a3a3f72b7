"""Sandbox throughput: short programs a second, against one `subprocess.run` for each.

    python benchmarks/sandbox.py [--programs N] [--rounds R]

Both run the same programs in the same process, in alternating rounds, so that other load on the
machine meets both; the sandbox once more with tests, which take a second process. The pool has two
workers; the peer is the plain loop that it replaces, which confines nothing. Writes
benchmarks/results/sandbox.md.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from redraft.sandbox import Pool, level
from redraft.system import environment

RESULT = Path(__file__).parent / "results" / "sandbox.md"
WORKERS = 2
TESTS = "for n in range(5):\n    assert solution(n) == sum(i * i for i in range(n)) // 3\n"


def program(number: int) -> str:
    """A short program of the kind that models write."""
    return (
        "def solution(n):\n"
        "    total = sum(i * i for i in range(n))\n"
        "    return total // 3\n"
        f"print(solution({100 + number}))\n"
    )


def in_processes(programs: list[str]) -> list[str]:
    """What the programs print, each run by an interpreter of its own, one after another."""
    command = [sys.executable, "-I", "-c"]
    return [
        subprocess.run([*command, text], capture_output=True, text=True).stdout for text in programs
    ]


def in_pool(pool: Pool, programs: list[str]) -> list[str]:
    """What the programs print, run in the sandbox."""
    return [result.stdout for result in pool.run_all(programs)]


def tested(pool: Pool, programs: list[str]) -> list[str]:
    """The same, each with tests that call it five times."""
    runs = [pool.submit(text, tests=TESTS) for text in programs]
    return [run.result().stdout for run in runs]


def timed(run: Callable[[], list[str]]) -> tuple[float, list[str]]:
    """Seconds, and what was printed."""
    started = time.perf_counter()
    printed = run()
    return time.perf_counter() - started, printed


def main() -> None:
    """Measure, print, write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--programs", type=int, default=200, help="programs a round")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    programs = [program(number) for number in range(options.programs)]
    slow, fast, with_tests = [], [], []
    with Pool(WORKERS) as pool:
        in_pool(pool, programs[: 4 * WORKERS])  # starts the workers
        for _ in range(options.rounds):
            seconds, expected = timed(lambda: in_processes(programs))
            slow.append(options.programs / seconds)
            seconds, printed = timed(lambda: in_pool(pool, programs))
            fast.append(options.programs / seconds)
            assert printed == expected
            seconds, printed = timed(lambda: tested(pool, programs))
            with_tests.append(options.programs / seconds)
            assert printed == expected
    page = report(slow, fast, with_tests)
    print(page)
    RESULT.write_text(page, encoding="utf-8")


def report(slow: list[float], fast: list[float], with_tests: list[float]) -> str:
    """The page."""
    facts = environment()
    ratios, tested_ratios = (
        [f / s for f, s in zip(figures, slow, strict=True)] for figures in (fast, with_tests)
    )
    columns = (slow, fast, ratios, with_tests, tested_ratios)
    rows = [*zip(range(1, len(slow) + 1), *columns, strict=True)]
    rows.append(("median", *map(statistics.median, columns)))
    lines = "\n".join(
        f"| {name} | {s:.0f} | {f:.0f} | {r:.1f} | {t:.0f} | {q:.1f} |"
        for name, s, f, r, t, q in rows
    )
    return f"""# Sandbox throughput

Short programs a second; made by `python benchmarks/sandbox.py` on {facts["cpu"]},
{facts["cores"]} cores, Python {facts["python"]}. Sandbox: {level().mechanisms}; {WORKERS} workers.
Ratios are to `subprocess.run([python, "-I", "-c", ...])`.

| round | `subprocess.run` | sandbox | ratio | with tests | ratio |
|---|---|---|---|---|---|
{lines}
"""


if __name__ == "__main__":
    main()
