"""The estimate of the time that is left, on simulated runs, and what a log shows of it."""

import io
import itertools
import re
import time
from collections.abc import Iterator

import numpy as np
import pytest
from rich.console import Console

from redraft.cli.progress import BarProgress, LineProgress
from redraft.evaluation.headline import headline
from redraft.progress import Forecast, Longer


class Clock:
    """A clock that a simulation sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


Event = tuple[float, int, int]
"""Seconds since the beginning; tokens and responses since the event before."""


def decoding(lengths: list[int], slots: int, per_step: float, per_row: float) -> Iterator[Event]:
    """A local engine: free slots are filled at once; it reports when a response has ended, and
    every 16 steps."""
    queue, rows = list(lengths), list[int]()
    now, tokens = 0.0, 0
    for step in itertools.count(1):
        while queue and len(rows) < slots:
            rows.append(queue.pop(0))
        if not rows:
            return
        now, tokens = now + per_step + per_row * len(rows), tokens + len(rows)
        ended = sum(left == 1 for left in rows)
        rows = [left - 1 for left in rows if left > 1]
        if ended or step % 16 == 0:
            yield now, tokens, ended
            tokens = 0


def asking(lengths: list[int], at_once: int, counted: bool) -> Iterator[Event]:
    """An endpoint, whose responses take as long as they have tokens."""
    free = [0.0] * at_once
    ends = []
    for length in lengths:
        begin = min(free)
        free[free.index(begin)] = begin + length
        ends.append((begin + length, length if counted else 0, 1))
    return iter(sorted(ends))


def lengths(kind: str, count: int, most: int) -> list[int]:
    random = np.random.default_rng(0)
    drawn = {
        "exponential": random.exponential(most / 5, count),
        "mixed": np.where(random.random(count) < 0.3, most, random.integers(10, most // 4, count)),
        "all cut": np.full(count, most),
    }[kind]
    return [int(length) for length in np.clip(drawn, 1, most)]


RUNS = {
    "one batch": (decoding(lengths("exponential", 512, 400), 512, 0.002, 0.001), 512),
    "one batch, all cut": (decoding(lengths("all cut", 100, 400), 100, 0.002, 0.001), 100),
    "many batches": (decoding(lengths("exponential", 1000, 400), 64, 0.05, 0.001), 1000),
    "mixed lengths": (decoding(lengths("mixed", 1000, 400), 64, 0.05, 0.001), 1000),
    "endpoint": (asking(lengths("mixed", 1600, 400), 16, counted=True), 1600),
    "endpoint without counts": (asking(lengths("exponential", 1600, 400), 16, False), 1600),
}


@pytest.mark.parametrize("name", RUNS)
def test_from_a_tenth_of_the_run_on_the_estimate_is_within_half_of_the_truth(name: str) -> None:
    run, total = RUNS[name]
    events = list(run)
    end = events[-1][0]
    clock = Clock()
    forecast = Forecast(total, 400, clock=clock)
    shares = []
    for now, tokens, responses in events:
        clock.now = now
        forecast.add(tokens, responses)
        shares.append(forecast.share)
        if 0.1 * end <= now:
            left, truth = forecast.seconds_left, end - now
            assert left is not None
            near = abs(left - truth) <= 0.1 * end  # the last rows of a batch are the slowest
            assert near or truth / 1.5 <= left <= 1.5 * truth, now / end
    assert forecast.seconds_left == 0
    assert shares[-1] == 1
    assert 0 < shares[0] < 0.1  # it moves from the beginning on


def test_before_the_first_response_the_estimate_is_an_upper_bound() -> None:
    clock = Clock()
    forecast = Forecast(10, 100, clock=clock)
    assert forecast.seconds_left is None
    clock.now = 2.0
    forecast.add(200, 0)  # 100 a second, and at most 800 to come
    assert forecast.seconds_left == pytest.approx(8)


def test_steps_that_are_no_responses() -> None:
    clock = Clock()
    forecast = Forecast(10, clock=clock)
    for step in range(1, 5):
        clock.now = 3.0 * step
        forecast.add(0, 1)
    assert forecast.share == pytest.approx(0.4)
    assert forecast.seconds_left == pytest.approx(18)
    assert Forecast(None).seconds_left is None


@pytest.mark.parametrize("guess", [0.0, 0.5, 3.0])
def test_a_whole_training_run_with_evaluations_is_foreseen(guess: float) -> None:
    """Forty steps of 10 s or so, getting longer; every eighth with an evaluation of 20 s."""
    random = np.random.default_rng(1)
    steps = 10 * random.lognormal(0, 0.15, 40) * np.linspace(1, 1.2, 40)
    ends = np.cumsum(steps + 20 * (np.arange(1, 41) % 8 == 0))
    clock = Clock()
    forecast = Forecast(40, None, Longer(8, guess), clock)
    for now in ends:
        clock.now = now
        forecast.add(0, 1)
        left, truth = forecast.seconds_left, ends[-1] - now
        assert left is not None
        if ends[-1] / 5 <= now:
            assert left == pytest.approx(truth, rel=0.25), now / ends[-1]
    assert forecast.seconds_left == 0


def test_the_time_that_is_left_does_not_jump_between_two_steps() -> None:
    clock = Clock()
    forecast = Forecast(10, clock=clock)
    shown = []
    for second in range(1, 61):
        clock.now = second
        if second % 10 == 0:
            forecast.add(0, 1)
        shown.append(forecast.seconds_left)
    assert shown[9:] == [pytest.approx(left) for left in range(90, 39, -1)]
    clock.now = 100.0  # a step that takes longer than the others is not more than them
    assert forecast.seconds_left == pytest.approx(30)


def test_what_an_evaluation_has_on_disk_or_does_not_need_takes_no_time() -> None:
    clock = Clock()
    forecast = Forecast(100, 50, clock=clock)
    clock.now = 10.0
    forecast.add(1000, 40)  # 25 tokens a response, 100 a second
    forecast.skip(40)
    assert forecast.seconds_left == pytest.approx(20 * 25 / 100)


def test_a_log_has_a_line_at_least_every_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    stream = io.StringIO()
    with LineProgress(stream).phase("turns", 1000, 100) as phase:
        for _ in range(120):
            clock.now += 1
            phase.watch(50, 0)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "turns: begins, 1000 responses"
    assert lines[1].startswith("turns 0/1000, eta 32:20  3,000 tokens, 50 a second")
    assert len(lines) == 4


def test_what_was_done_before_a_run_was_resumed_took_no_time() -> None:
    clock = Clock()
    forecast = Forecast(10, clock=clock)
    forecast.skip(4)
    assert forecast.seconds_left is None
    clock.now = 3.0
    forecast.add(0, 1)
    assert (forecast.share, forecast.seconds_left) == (0.5, pytest.approx(15))
    stream = io.StringIO()
    with LineProgress(stream).phase("stage I", 20) as phase:
        phase.skip(19)
        phase.advance(loss=0.5)
    assert re.fullmatch(r"stage I 20/20, eta 0:00  loss 0.5", stream.getvalue().splitlines()[1])


def test_the_view_on_a_terminal_has_the_numbers_below_the_bars() -> None:
    stream = io.StringIO()
    progress = BarProgress(Console(file=stream, force_terminal=True, width=60))
    shown = {"accuracy": "0.41 0.52", "Δ": "+0.110", "KL": "0.01 0.02", "memory": "1.5 GiB"}
    with progress.phase("stage I", 10) as phase, progress.phase("sampling", 512, 100) as inner:
        phase.skip(4)
        phase.advance(1, **shown)
        inner.watch(3000, 7)
        time.sleep(0.3)  # it is painted ten times a second
    lines = re.sub(r"\x1b\[[\d;?]*\w", "", stream.getvalue()).replace("\r", "\n").splitlines()
    place = max(i for i, line in enumerate(lines) if re.match(r"stage I .* 5/10 0:00:00 eta", line))
    assert lines[place + 1] == "  accuracy 0.41 0.52  Δ +0.110  KL 0.01 0.02  memory 1.5 GiB"
    assert not any("sampling" in line for line in lines)  # too short to be worth a bar
    assert any(line.startswith("✓ stage I  0:0") for line in lines)


def test_the_headline_of_a_step() -> None:
    metrics = {
        "accuracy/turn1": 0.4126,
        "accuracy/turn2": 0.5,
        "delta_t1_t2": 0.0874,
        "kl/turn1": 0.001,
        "kl_k3/turn1": 5.0,
        "tokens_per_second/rollout": 12345.6,
        "held_out/accuracy/turn1": 0.3,
    }
    shown = headline(metrics)
    assert re.fullmatch(r"\d+\.\d GiB", shown.pop("memory"))
    assert shown == {
        "accuracy": "0.413 0.5",
        "Δ": "+0.087",
        "KL": "0.001",
        "held out": "0.3",
        "tokens/s": "12,346",
    }
