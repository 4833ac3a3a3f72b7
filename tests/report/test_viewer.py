"""The trace viewer in a headless browser."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from shutil import which
from typing import Any

import pytest

from evaluation_episodes import turn
from redraft.report.page import Report, render, write_report
from redraft.report.runs import EpisodeFile, Run
from redraft.report.traces import Traces
from redraft.types import Grade, Turn
from report_runs import HOSTILE, asked, evaluation, hostile, training, verdicts

CHROMIUM = which("chromium") or which("chromium-browser") or which("google-chrome")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


class Viewer:
    """A page of a report, which notes whatever goes wrong in it."""

    def __init__(self, browser: Any, file: Path) -> None:
        self.faults: list[str] = []
        self.file = file
        self.page = browser.new_page(viewport={"width": 1280, "height": 800})
        self.page.on("console", lambda message: self.faults.append(message.text))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", self._asked)
        self.page.on("dialog", lambda dialog: self.faults.append("a dialog"))

    def _asked(self, request: Any) -> None:
        if not request.url.startswith(("file:", "data:", "blob:")):
            self.faults.append(request.url)

    def open(self, address: str = "") -> "Viewer":
        self.page.goto("about:blank")
        self.page.goto(f"{self.file.as_uri()}{address}")
        return self

    def sees(self, text: str) -> None:
        whole = re.compile(rf"(?<!\d){re.escape(text)}")  # and not 13 for 3
        self.page.locator("#viewer", has_text=whole).first.wait_for(timeout=30_000)

    def press(self, key: str, then: str) -> None:
        self.page.keyboard.press(key)
        self.sees(then)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    flips = verdicts({"11": 5, "10": 2, "01": 3, "00": 10}, level=True)
    runs = [evaluation(root / "base", verdicts({"11": 7, "00": 13}, level=True))]
    runs += [evaluation(root / "tuned", flips), training(root / "training")]
    return write_report(runs, root / "report.html")


@pytest.fixture
def viewer(browser: Any, report: Path) -> Iterator[Viewer]:
    opened = Viewer(browser, report)
    yield opened
    assert opened.faults == []
    opened.page.close()


def test_a_cell_of_the_flip_matrix_leads_to_its_episodes(viewer: Viewer) -> None:
    viewer.open()
    viewer.page.locator(
        '#attempts-and-flips td a[href*="run=1&part=turns&t1=wrong&t2=right"]'
    ).click()
    viewer.sees("3 of 61 episodes")
    viewer.page.locator("a.row").first.click()
    viewer.sees("1 of 3")
    assert viewer.page.locator("ins").count() == viewer.page.locator("del").count() > 0


def test_keys_go_through_the_list(viewer: Viewer) -> None:
    viewer.open("#rows?run=1&t1=right&t2=wrong")
    viewer.sees("2 of 61 episodes")
    viewer.press("n", "1 of 2")
    viewer.press("n", "2 of 2")
    viewer.press("p", "1 of 2")
    viewer.page.keyboard.press("d")
    viewer.page.wait_for_function("!document.querySelector('ins')")
    viewer.press("t", "1 of 2")
    assert viewer.page.locator(".token").count() > 0
    viewer.open("#rows?run=1")
    viewer.press("f", "5 of 61 episodes")
    viewer.press("f", "20 of 61 episodes")
    viewer.page.keyboard.press("?")
    assert viewer.page.locator("#help[open]").count() == 1
    viewer.page.keyboard.press("Escape")
    viewer.page.keyboard.press("r")
    viewer.page.locator("#report").wait_for()


def test_tokens_show_what_training_made_of_them(viewer: Viewer) -> None:
    viewer.open("#rows?run=2&step=1").sees("6 of 61 episodes")
    viewer.press("n", "1 of 6")
    titles = {
        "log-probability": ["log-probability -0.1, probability 90.5 %", "log-probability -3, "],
        "KL": ["KL 0.1", "KL -2"],
        "advantage": ["advantage -0.25", "advantage -0.25"],
        "mask": ["mask 1", "mask 1"],
    }
    for name, wanted in titles.items():
        viewer.press("t", "1 of 6")
        assert viewer.page.locator("[aria-pressed=true]").last.inner_text() == f"{name} (t)"
        shown = viewer.page.locator(".token").evaluate_all("all => all.map((one) => one.title)")
        assert all(text.startswith(begin) for begin, text in zip(wanted, shown, strict=False))
        assert len(shown) == 4
    assert viewer.page.locator(".token.p2").count() == 4
    viewer.press("t", "1 of 6")
    assert viewer.page.locator(".token").count() == 0


def test_what_is_not_known_is_not_shown(browser: Any, tmp_path: Path) -> None:
    unknown = Grade(score=0, status="no_text", decided_by="recorded")
    bare = Grade(score=0, decided_by="mine:grader")
    answers = [
        Turn(author="policy", text="", grade=unknown),
        Turn(author="policy", text="so be it", grade=bare, advantage=-0.0, reward=-1e-9),
    ]
    folder = evaluation(tmp_path / "run", [asked("p", answers)])
    viewer = Viewer(browser, write_report([folder], tmp_path / "report.html"))
    viewer.open("#episode/0").sees("Attempt 2")
    first, second = (one.inner_text() for one in viewer.page.locator(".turn:not(.said)").all())
    assert "text not in the file" in first
    for text in (first, second):
        assert not re.search("none found|tokens", text)
    assert re.search(r"advantage in training\s+0$", second, re.MULTILINE)
    viewer.open("#problem/0").sees("1 episodes")
    assert "text not in the file →\t" in viewer.page.locator("#viewer tbody tr").inner_text()
    assert viewer.faults == []


def test_search_finds_texts_and_metadata(viewer: Viewer) -> None:
    viewer.open("#rows?run=1")
    viewer.sees("20 of 61 episodes")
    viewer.page.keyboard.press("/")
    viewer.page.keyboard.type("TEXT 7 of attempt 1")
    viewer.page.keyboard.press("Enter")
    viewer.sees("1 of 61 episodes")
    viewer.open("#rows?run=1&q=" + '"level":2')
    viewer.sees("7 of 61 episodes")  # problems 1, 4, ..., 19


def test_every_view_has_an_address(viewer: Viewer) -> None:
    for address, text in {
        "#rows?level.level=3": "12 of 61 episodes",
        "#rows?edit=0..0.01": "No episode",
        "#rows?badge=copied": "No episode",
        "#episode/20?run=1": "1 of 20",
        "#problem/0": "question p0",
        "#episode/999": "There is no episode",
        "#problem/x": "There is no problem",
    }.items():
        viewer.open(address).sees(text)
    viewer.open("#levels")
    assert viewer.page.locator("#report").is_visible()


def test_a_rise_at_a_step_is_three_actions_from_three_examples(viewer: Viewer) -> None:
    viewer.open()
    viewer.page.locator('a[href*="step=3&t1=right&t2=wrong"]').first.click()  # the point of c→i
    viewer.sees("1 of 3")
    viewer.press("n", "2 of 3")
    viewer.press("n", "3 of 3")
    viewer.sees("training, step 3")


def test_all_samples_of_a_problem_stand_side_by_side(browser: Any, tmp_path: Path) -> None:
    samples = [asked("p", [turn(False), turn(k == 0)], sample=k) for k in range(3)]
    runs = [evaluation(tmp_path / name, samples) for name in ("base", "tuned")]
    viewer = Viewer(browser, write_report(runs, tmp_path / "report.html")).open("#problem/0")
    viewer.sees("6 episodes")
    rows = [row.inner_text().split("\t") for row in viewer.page.locator("#viewer tbody tr").all()]
    assert [row[6] for row in rows] == 2 * ["1.000", "-0.500", "-0.500"]  # less the others' mean
    assert {row[0].split(",")[0] for row in rows if len(row) > 8} >= {"base", "tuned"}
    assert viewer.faults == []


def test_hostile_texts_stay_text(browser: Any, tmp_path: Path) -> None:
    folder = hostile(tmp_path / "run <script>window.hacked=1</script>")
    viewer = Viewer(browser, write_report([folder], tmp_path / "report.html")).open()
    for place in range(len(HOSTILE) + 1):
        viewer.page.evaluate("(place) => { location.hash = `#episode/${place}` }", place)
        viewer.sees(f"{place + 1} of {len(HOSTILE) + 1}")
        viewer.sees("Attempt 2")
    shown = viewer.page.locator(".turn .text").first.inner_text()
    assert shown.startswith("one line without a break <script>")
    assert "show all" in shown  # 1 MB is not laid out at once
    viewer.open("#rows?q=" + "%3Cscript%3Ewindow")
    viewer.sees(f"of {len(HOSTILE) + 1} episodes")
    assert viewer.page.evaluate("window.hacked") is None
    assert viewer.faults == []


@pytest.mark.parametrize(
    ("count", "most"), [(10_000, 3), pytest.param(100_000, 10, marks=pytest.mark.slow)]
)
def test_many_episodes_open_within_seconds(
    browser: Any, tmp_path: Path, count: int, most: float
) -> None:
    [one] = verdicts({"01": 1})
    many = [
        one.model_copy(update={"problem": one.problem.model_copy(update={"id": f"p{number}"})})
        for number in range(count)
    ]
    traces, run = Traces(), Run("run", tmp_path, [])
    traces.add(run, traces.add_run(run), EpisodeFile(tmp_path, "turns"), many)
    file = tmp_path / "report.html"
    file.write_text(render(Report("run", []), traces), "utf-8")
    viewer = Viewer(browser, file)
    took = []
    for _ in range(3):  # the machine may be doing something else
        started = time.monotonic()
        viewer.open("#rows?t1=wrong")
        viewer.page.locator("a.row").first.wait_for()
        took.append(time.monotonic() - started)
    viewer.sees(f"{count:,} of {count:,} episodes")
    assert min(took) < most
    started = time.monotonic()
    viewer.page.evaluate("() => { location.hash = '#rows?t1=right' }")
    viewer.sees(f"0 of {count:,} episodes")
    assert time.monotonic() - started < 2
    viewer.open("#rows?t1=wrong").sees(f"{count:,} of {count:,} episodes")
    assert viewer.page.locator("a.row").count() < 100  # what is out of sight is not there
