"""How a report with many episodes is written, opened, filtered and searched.

    python benchmarks/report_size.py [--episodes 10000 100000]

writes `benchmarks/results/report-size.md`, in some minutes. Needs Chromium and Playwright.
"""

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
import psutil
from playwright.sync_api import Page, sync_playwright

from redraft.config import Settings
from redraft.evaluation.statistics import summarise
from redraft.evaluation.table_parts import markdown_lines
from redraft.report.page import write_report
from redraft.run_directory import RunDirectory
from redraft.storage import write_text
from redraft.types import Episode, Grade, Message, Problem, Turn

PAGE = Path(__file__).parent / "results" / "report-size.md"
WORDS = 140
"""Words of an answer, about as many as a worked solution of GSM8K."""

INTRO = """# Reports with many episodes

`python benchmarks/report_size.py` writes this page: generated evaluations of two answers of {words}
random words each to a question of 40, ten samples a problem, of which the second answer is a copy
in 60 % of the episodes and has one word in ten changed in the others. Written by `redraft report
--episodes N` on one core, opened from disk in headless Chromium {chromium}. Opening is up to the
whole report laid out, the list up to its first rows, a filter and a search up to the number of
episodes found and their rows, a step up to the episode with its difference; the best of three, a
search of one. Memory: of the writer at its largest, of Chromium's page with everything that was
asked of it. Load average of the machine, whose cores others shared: {load:.0f}.

"""


class Choice(Settings):
    """What the generated run was told."""

    model: str = "none"
    task: str = "generated"
    turns: int = 2


def episodes(count: int) -> list[Episode]:
    """Ten samples a problem, with texts of random words."""
    random = np.random.default_rng(0)
    known = np.array([f"word{number}" for number in range(5000)])
    said = "Is there an error? Correct it."
    found = []
    for number in range(count):
        if number % 10 == 0:
            problem = Problem(
                id=f"generated/test/{number // 10}",
                task="generated",
                question=" ".join(random.choice(known, 40)),
                gold="7",
                metadata={"level": int(random.integers(1, 6))},
            )
        words = random.choice(known, WORDS)
        second = words.copy()
        if random.random() < 0.4:
            places = random.random(WORDS) < 0.1
            second[places] = random.choice(known, int(places.sum()))
        right = random.random() < 0.5
        verdicts = (right, right if random.random() < 0.9 else not right)
        turns = [
            Turn(
                author="policy", text=" ".join(text), grade=graded(verdict), completion_tokens=WORDS
            )
            for text, verdict in zip((words, second), verdicts, strict=True)
        ]
        between = Turn(author="environment", text=said)
        asked = [Message(role="user", content=problem.question)]
        found.append(
            Episode(
                problem=problem,
                messages=asked,
                turns=[turns[0], between, turns[1]],
                protocol="intrinsic",
                sample=number % 10,
            )
        )
    return found


def graded(right: bool) -> Grade:
    """A verdict as the grader of numbers gives it."""
    return Grade(score=float(right), answer="7" if right else "8", decided_by="number")


def seconds(work: Callable[[], object]) -> float:
    """Seconds that some work takes."""
    began = time.monotonic()
    work()
    return time.monotonic() - began


def opened(page: Page, file: Path) -> dict[str, float]:
    """Seconds of what a reader does, by name."""

    def go(address: str, shown: str) -> None:
        page.evaluate("(address) => { location.hash = address }", address)
        page.locator(shown).first.wait_for(timeout=600_000)

    def load() -> None:
        page.goto("about:blank")
        page.goto(file.as_uri(), timeout=600_000)
        page.locator("#costs").wait_for(timeout=600_000)

    def step() -> None:
        before = page.url
        page.keyboard.press("n")
        page.wait_for_function("(url) => location.href !== url", arg=before)
        page.locator("ins, .turn").first.wait_for()

    def filtered(filters: str) -> Callable[[], None]:
        def show() -> None:
            go("#", "#report")
            go(f"#rows?{filters}", "a.row")

        return show

    took = {"open": min(seconds(load) for _ in range(3))}
    took["list of all"] = min(seconds(filtered("")) for _ in range(3))
    took["filter: wrong, then right"] = min(
        seconds(filtered(f"t1=wrong&t2=right&x={n}")) for n in range(3)
    )
    took["filter: flipped, of a level"] = min(
        seconds(filtered(f"flipped=1&level.level=3&x={n}")) for n in range(3)
    )
    go("#rows?flipped=1", "a.row")
    took["step to the next flipped"] = min(seconds(step) for _ in range(3))
    took["search in all texts"] = seconds(filtered("q=word77 "))
    return took


def measured(count: int, browser: Any) -> dict[str, str]:
    """What one size takes, by name."""
    with tempfile.TemporaryDirectory() as place:
        folder, file = Path(place) / "run", Path(place) / "report.html"
        made = episodes(count)
        run = RunDirectory.create(folder, Choice(), "eval")
        run.episodes("turns", made)
        run.summary(summarise(made, turns=2).to_summary())
        del made
        wrote = seconds(lambda: write_report([folder], file, count))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        before = {one.pid for one in psutil.Process().children(recursive=True)}
        page = browser.new_page()
        took = opened(page, file)
        mine = psutil.Process().children(recursive=True)
        memory = max(one.memory_info().rss for one in mine if one.pid not in before) / 2**30
        page.close()
        size = file.stat().st_size / 2**20
    return {
        "file, MiB": f"{size:,.0f}",
        "written in, s": f"{wrote:.1f}",
        "memory of the writer, GiB": f"{peak:.1f}",
        **{f"{name}, s": f"{value:.2f}" for name, value in took.items()},
        "memory of the page, GiB": f"{memory:.1f}",
    }


def main() -> None:
    """Measure each size and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, nargs="+", default=[10_000, 100_000])
    sizes = parser.parse_args().episodes
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=which("chromium"), args=["--no-sandbox"])
        found = {size: measured(size, browser) for size in sizes}
        version = browser.version
    rows = [[name, *(one[name] for one in found.values())] for name in found[sizes[0]]]
    heads = ["", *(f"{size:,} episodes" for size in sizes)]
    intro = INTRO.format(words=WORDS, chromium=version, load=os.getloadavg()[1])
    write_text(PAGE, f"{intro}{markdown_lines(heads, rows)}\n")


if __name__ == "__main__":
    main()
