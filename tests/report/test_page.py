"""The report as a page: its numbers, what it allows, what it does with bad runs; no browser."""

import base64
import hashlib
import json
import os
import re
import shutil
import threading
import zlib
from html.parser import HTMLParser
from pathlib import Path

import pytest

import report_runs
from evaluation_episodes import turn
from redraft.errors import UserError
from redraft.evaluation.statistics import mcnemar
from redraft.report import plots
from redraft.report.numbers import compared as compared_episodes
from redraft.report.numbers import equal_compute
from redraft.report.page import as_csv, markdown, watched, write_report
from redraft.report.plots import Axis, Line
from redraft.report.runs import read_runs
from redraft.report.sections import sections
from redraft.report.traces import BADGES
from redraft.run_directory import RunDirectory
from redraft.storage import append_jsonl
from report_runs import HOSTILE, asked, evaluation, hostile, training, verdicts

FLIPS = {"11": 5, "10": 2, "01": 3, "00": 10}
"""20 episodes: 7 right at first, 8 at last."""


class Elements(HTMLParser):
    """Every element of a page with its attributes, and the text in scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.raw: list[tuple[dict[str, str | None], str]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.raw.append((dict(attrs) | {"tag": tag}, ""))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem:
            attributes, text = self.raw[-1]
            self.raw[-1] = (attributes, text + data)
        else:
            self.text += data

    def script(self, id: str) -> str:
        return next(text for attributes, text in self.raw if attributes.get("id") == id)


def page_of(*folders: Path, episodes: int = 20_000) -> Elements:
    out = folders[0].parent / "report.html"
    return Elements(write_report(folders, out, episodes).read_text("utf-8"))


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Elements:
    """Two evaluations of the same 20 problems and a training run, on one page."""
    root = tmp_path_factory.mktemp("runs")
    base = evaluation(root / "base", verdicts({"11": 7, "00": 13}, level=True))
    return page_of(
        base, evaluation(root / "tuned", verdicts(FLIPS, level=True)), training(root / "t")
    )


def test_numbers_are_those_of_the_episodes_and_lead_to_them(tmp_path: Path) -> None:
    text = markdown([evaluation(tmp_path / "run", verdicts(FLIPS))])
    row = re.findall(r"^\| run \|.*", text, re.MULTILINE)[0]
    cells = [cell.split()[0] for cell in row.split("|")[2:-1]]
    assert cells[:6] == ["35.0", "40.0", "+5.0", "15.0", "10.0", "25.0"]
    page = page_of(tmp_path / "run")
    links = [attributes.get("href") for tag, attributes in page.elements if tag == "a"]
    assert links.count("#rows?run=0&part=turns&t1=wrong&t2=right") >= 3  # table, matrix, flow


def test_costs_add_up_what_each_part_and_each_resumed_run_took(tmp_path: Path) -> None:
    folder = evaluation(tmp_path / "run", verdicts(FLIPS))
    for part, seconds in (("turns", 30.5), ("turns", 10.0), ("parallel", 20.0)):
        RunDirectory(folder, "eval").took(part, seconds)
    row = re.findall(r"^\| run \| eval \|.*", markdown([folder]), re.MULTILINE)[0]
    assert [cell.strip() for cell in row.split("|")[3:7]] == ["20", "160", "8.0", "60"]
    (folder / "timing.json").write_text("[half")
    assert "timing.json is damaged and left out" in markdown([folder])


def test_paired_differences_and_mcnemar_are_said(compared: Elements) -> None:
    assert "Difference from base, in pairs" in compared.text
    assert "1 gained, 0 lost" not in compared.text  # of 20 last answers: 3 gained, 2 lost
    assert "3 gained, 2 lost" in compared.text
    for title in ("Result", "Attempts and flips", "Levels", "Training", "Costs", "Configuration"):
        assert title in compared.text


def test_page_allows_its_own_script_and_style_and_nothing_else(compared: Elements) -> None:
    [policy] = [
        attributes["content"]
        for _, attributes in compared.elements
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for attributes, text in compared.raw:
        if attributes.get("type") not in ("application/json", "text/plain"):
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            assert f"{attributes['tag']}-src 'sha256-{digest}'" in policy
    assert sum(attributes["tag"] == "style" for attributes, _ in compared.raw) == 1
    for tag, attributes in compared.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag
        for name in ("href", "src"):
            assert (attributes.get(name) or "#").startswith(("#", "data:,")), (tag, attributes)
    ids = [a["id"] for _, a in compared.elements if a.get("id")]
    assert len(ids) == len(set(ids))


def test_hostile_texts_make_no_elements_and_come_back_as_they_were(tmp_path: Path) -> None:
    tame = page_of(evaluation(tmp_path / "tame", verdicts({"01": 41})))
    page = page_of(hostile(tmp_path / "hostile"))
    kinds = {tag for tag, _ in page.elements} - {tag for tag, _ in tame.elements}
    assert not kinds & {"iframe", "img", "object", "form", "base", "math", "textarea"}
    plain = [a for a, _ in page.raw if a.get("type") is None and a["tag"] == "script"]
    assert len(plain) == 1
    assert len(json.loads(page.script("index"))["episodes"]["run"]) == len(HOSTILE) + 1
    packed = base64.b64decode(page.script("episode-0"))
    lines = zlib.decompress(packed, wbits=-15).decode().split("\n")
    texts = [json.loads(line)["turns"][0]["text"] for line in lines]
    assert texts[: len(HOSTILE)] == HOSTILE


def test_cut_first_responses_are_said_beside_delta(tmp_path: Path) -> None:
    def cut(name: str) -> report_runs.Episode:
        first = turn(False, finish="length", answer=None, status="truncated")
        return asked(name, [first, turn(True)])

    whole = verdicts({"11": 4, "10": 1, "00": 5})
    text = markdown([evaluation(tmp_path / "run", [*whole, cut("c1"), cut("c2")], max_tokens=24)])
    [note] = [line for line in text.splitlines() if "were cut at" in line]
    assert "16.7 % of the first responses were cut at the limit of 24 tokens" in note
    assert "Over complete first responses Δ(t1,t2) is -10.0" in note
    assert "| +8.3" in text  # Δ over all 12: (2 - 1) / 12


def test_badges_say_what_a_second_answer_did(tmp_path: Path) -> None:
    long = "the same long text about nothing in particular"
    pairs = {
        "copy": (turn(False, long), turn(False, long)),
        "near": (turn(False, long), turn(True, long + ".")),
        "other": (turn(False, "a"), turn(True, "b", finish="length")),
    }
    page = page_of(evaluation(tmp_path / "run", [asked(n, two) for n, two in pairs.items()]))
    bits = json.loads(page.script("index"))["episodes"]["badges"]
    named = [{name for bit, name in enumerate(BADGES) if mask & 1 << bit} for mask in bits]
    assert named == [{"copied", "same answer"}, {"near copy"}, {"truncated"}]


def test_evaluations_of_different_tasks_are_not_subtracted(tmp_path: Path) -> None:
    first = evaluation(tmp_path / "a", verdicts(FLIPS))
    other = [asked(f"q{k}", [turn(True), turn(True)], task="other") for k in range(3)]
    text = markdown([first, evaluation(tmp_path / "b", other)])
    assert "b and a are of different tasks" in text
    assert "in pairs" not in text


def test_runs_that_are_half_written_or_damaged_are_shown_as_far_as_they_go(tmp_path: Path) -> None:
    run = evaluation(tmp_path / "run", verdicts(FLIPS))
    (run / "summary.json").unlink()
    file = run / "episodes" / "turns.jsonl"
    lines = file.read_text("utf-8").splitlines(keepends=True)
    file.write_text("".join([*lines[:10], "{}\n", *lines[10:], lines[0][:50]]), "utf-8")
    text = markdown([run])
    assert "run is unfinished: its numbers are of 20 episodes" in text
    assert "turns.jsonl:11: not an episode" in text
    (run / "config.yaml").write_text("a: [", "utf-8")
    (run / "environment.json").write_text("{", "utf-8")
    assert "environment.json is damaged" in markdown([run])


@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "summary.json", "config.yaml", "environment.json",
             "episodes/turns.jsonl", "episodes/x-000001.jsonl", "endpoint/usage.json"]
)  # fmt: skip
def test_a_pipe_in_a_runs_folder_is_not_waited_for(name: str, tmp_path: Path) -> None:
    run = evaluation(tmp_path / "run", verdicts(FLIPS))
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).unlink(missing_ok=True)
    os.mkfifo(run / name)
    for read in (read_runs, markdown, as_csv, lambda runs: list(watched(runs, tmp_path / "page"))):
        with pytest.raises(UserError, match=f"{name}: neither a file nor a folder; remove it"):
            read([run])


def test_runs_of_the_first_format_are_read(tmp_path: Path) -> None:
    run = evaluation(tmp_path / "run", verdicts(FLIPS))
    (run / "summary.json").write_text('{"accuracy": [0.1, 0.2]}', "utf-8")
    shutil.move(run / "episodes" / "turns.jsonl", run / "episodes.jsonl")
    shutil.rmtree(run / "episodes")
    text = markdown([run])
    assert "35.0" in text
    assert "of an older version and was made anew" in text


@pytest.mark.parametrize("inside", [[], ["notes.txt"], ["deeper/notes.txt"]])
def test_a_report_of_nothing_is_a_line(tmp_path: Path, inside: list[str]) -> None:
    for name in inside:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    with pytest.raises(UserError, match="holds no run"):
        read_runs([tmp_path])
    with pytest.raises(UserError, match="no such folder"):
        read_runs([tmp_path / "missing"])
    with pytest.raises(UserError, match="no folder given"):
        read_runs([])


def test_a_folder_of_runs_stands_for_all_of_them(tmp_path: Path) -> None:
    evaluation(tmp_path / "demo" / "base" / "evaluation", verdicts(FLIPS))
    training(tmp_path / "demo" / "tuned" / "training")
    assert [run.name for run in read_runs([tmp_path / "demo"])] == ["base", "tuned/training"]


def test_of_training_the_problems_with_a_flip_are_kept_first(tmp_path: Path) -> None:
    index = json.loads(page_of(training(tmp_path / "run", 4), episodes=12).script("index"))
    kept = list(zip(index["episodes"]["step"], index["episodes"]["verdicts"], strict=True))
    assert [step for step, _ in kept].count(4) == 3
    assert all(found in ("10", "01", "11") for _, found in kept)
    assert {found for step, found in kept if step == 4} == {"10"}


def test_csv_has_every_number_and_no_formula(tmp_path: Path) -> None:
    evaluation(tmp_path / "runs" / "=1+1", verdicts(FLIPS))
    training(tmp_path / "runs" / "t")
    lines = as_csv([tmp_path / "runs"]).splitlines()
    assert any(line.startswith("'=1+1,,accuracy/turn1,,0.35,") for line in lines)
    assert "t,training,c_to_i,3,0.375,," in lines


def test_watching_writes_again_when_a_run_goes_on(tmp_path: Path) -> None:
    run, out = training(tmp_path / "run"), tmp_path / "report.html"
    writing = watched([run], out, seconds=0.01)
    assert 'http-equiv="refresh"' in next(writing).read_text("utf-8")
    before = out.read_text("utf-8")
    training(tmp_path / "more", 4)
    shutil.copy(tmp_path / "more" / "metrics.jsonl", run / "metrics.jsonl")
    assert next(writing).read_text("utf-8") != before
    (run / "summary.json").write_text("{}")
    assert len(list(writing)) == 1  # the last one, as the run has ended
    assert 'http-equiv="refresh"' not in out.read_text("utf-8")


def test_watching_begins_before_a_run_has_anything_to_show(tmp_path: Path) -> None:
    out, begun = tmp_path / "report.html", tmp_path / "run"
    with pytest.raises(UserError, match="no such folder"):
        next(watched([begun], out))
    begun.mkdir()
    with pytest.raises(UserError, match="holds no run"):
        next(watched([begun], out))
    (begun / "environment.json").write_text("{}")
    later = threading.Timer(0.2, lambda: training(begun))
    later.start()
    assert next(watched([begun], out, seconds=0.05)) == out
    later.join()


def test_a_page_of_short_episodes_is_small(tmp_path: Path) -> None:
    few, many = (
        write_report([evaluation(tmp_path / name, verdicts({"01": n}))], tmp_path / f"{name}.html")
        for name, n in (("few", 10), ("many", 1010))
    )
    assert (many.stat().st_size - few.stat().st_size) / 1000 < 150  # bytes an episode


def test_sections_without_data_are_left_out(tmp_path: Path) -> None:
    titles = [s.title for s in sections(read_runs([training(tmp_path / "run")]), plotted=False)]
    assert titles == ["Result", "Training", "Costs"]  # the result: that there is no summary yet


def test_flips_between_systems_are_counted_where_a_problem_has_one_sample() -> None:
    base, other = verdicts({"00": 3, "11": 2}), verdicts({"11": 4, "00": 1})
    found = compared_episodes(other, base)
    assert (found.gained, found.lost, found.p) == (3, 1, mcnemar(3, 1))
    twice = [*other, *(one.model_copy(update={"sample": 1}) for one in other)]
    found = compared_episodes(twice, base)
    assert (found.gained, found.lost, found.p) == (None, None, None)


def test_curves_begin_with_their_own_first_responses(tmp_path: Path) -> None:
    """Attempts of which half are right, beside first responses of which none is."""
    halves = verdicts({"11": 2, "00": 2})
    turns = [one.model_copy(update={"sample": n}) for n in range(2) for one in halves]
    first = [
        one.model_copy(update={"sample": n, "turns": one.turns[:1]})
        for n in range(2)
        for one in verdicts({"00": 4})
    ]
    folder = evaluation(tmp_path / "run", turns)
    append_jsonl(folder / "episodes" / "parallel.jsonl", first)
    [run] = read_runs([folder])
    curves = equal_compute(run)
    assert [point.row.value for point in curves["last turn"]] == [0.5, 0.5]
    assert [point.row.value for point in curves["parallel vote"]] == [0, 0]


def test_ticks_of_steps_are_whole_numbers() -> None:
    drawn = plots.lines([Axis("loss", "step", [Line("a", [1, 2, 3], [5, 5, 5])], whole=True)])
    ticks = re.findall(r">([\d.]+)</text>", drawn)
    assert {"1", "2", "3"} <= set(ticks)
    assert not {"1.5", "2.5"} & set(ticks)


def test_ticks_of_logarithmic_axes_are_plain_numbers() -> None:
    drawn = plots.lines([Axis("s", "weights", [Line("a", [0.4, 135], [30, 2000])], log=True)])
    ticks = re.findall(r">([^<>]+)</text>", drawn)
    assert {"0.5", "1", "2", "5", "100", "1000"} <= set(ticks)


def test_an_axis_begins_at_zero_where_asked() -> None:
    line = Line("a", [1, 2], [8, 9])
    for zero in (False, True):
        drawn = plots.lines([Axis("s", "step", [line], zero=zero)])
        assert ("0" in re.findall(r">([^<>]+)</text>", drawn)) == zero
