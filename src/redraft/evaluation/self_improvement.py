"""What self-improvement brings: problems solved directly, gained by updates, and lost by them.

An episode holds the attempts of one self-improvement (`redraft.rounds`), as many as the model made;
its answer is that of the last one. With r₁ the grade of the first attempt and r that of the last,

    accuracy = mean r = solved_directly + gained      solved_directly = mean r₁ r
    first_accuracy = mean r₁ = solved_directly + lost     gained = mean (1 - r₁) r
    delta = gained - lost                             lost = mean r₁ (1 - r)

all fractions of all episodes, so that the parts add up.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from redraft.chat_rollout import Played
from redraft.episode import Episode, Problem, Turn, append_jsonl
from redraft.errors import UserError
from redraft.evaluation.examples import printable
from redraft.evaluation.failures import left_out, listed, tell
from redraft.evaluation.metrics import Ratio, counts
from redraft.evaluation.player import Player, open_player
from redraft.evaluation.settings import EvaluationSettings
from redraft.evaluation.statistics import bootstrap_intervals, summarise
from redraft.progress import Phase, Progress
from redraft.protocols import Protocol, prompts_for
from redraft.protocols.self_improve import SelfImprove, improvement_prompts_for
from redraft.rounds import Improvement, Play, Stop, play_rounds
from redraft.runs import Run
from redraft.tasks import Loaded

AT_ONCE = 512
"""Self-improvements that are played, and then written, together."""

STOPS: tuple[Stop, ...] = (
    "confirmed",
    "updates",
    "unchanged",
    "repetitive",
    "truncated",
    "oracle",
)
SHARES = {
    "accuracy": "accuracy",
    "first_accuracy": "first attempt right",
    "solved_directly": "solved directly",
    "gained": "gained by self-improvement",
    "lost": "right → wrong",
    "delta": "Δ",
    "updated": "updated at all",
}
"""Metrics of a table, and what they are called there."""


def improvement_ratios(
    episodes: Sequence[Episode], stops: Sequence[Stop] | None = None
) -> dict[str, Ratio]:
    """Every metric by name, as sums over episodes [N].

    `updated` is the share of episodes with an update, `updates` their mean number; with `stops`,
    one for each episode, `stopped_WHY` the share that ended for that reason.
    """
    first = np.array([episode.turns[0].grade.correct for episode in episodes], float)
    last = np.array([episode.turns[-1].grade.correct for episode in episodes], float)
    updates = np.array([len(episode.turns) - 1 for episode in episodes], float)
    every = np.ones(len(episodes))
    found = {
        "accuracy": last,
        "first_accuracy": first,
        "solved_directly": first * last,
        "gained": (1 - first) * last,
        "lost": first * (1 - last),
        "delta": last - first,
        "updated": (updates > 0).astype(float),
        "updates": updates,
    }
    if stops is not None:
        for why in STOPS:
            found[f"stopped_{why}"] = np.array([stop == why for stop in stops], float)
    return {name: Ratio(values, every) for name, values in found.items()}


def summarise_improvement(
    episodes: Sequence[Episode], stops: Sequence[Stop] | None = None, seed: int = 0
) -> dict[str, Any]:
    """Every metric with its 95 % bootstrap interval over problems: of all problems, and of those
    that are seen and unseen and of each cell where the problems' metadata says so.

    Raises:
        UserError: there are no episodes.
    """
    if not episodes:
        raise UserError("no self-improvement to measure: the list of episodes is empty")

    def of(chosen: Sequence[int]) -> dict[str, Any]:
        theirs = [episodes[index] for index in chosen]
        why = None if stops is None else [stops[index] for index in chosen]
        metrics = improvement_ratios(theirs, why)
        values = {name: ratio.value for name, ratio in metrics.items()}
        intervals = bootstrap_intervals(theirs, metrics, seed)
        return {**counts(theirs), **values, "ci95": intervals}

    found: dict[str, Any] = {"all": of(range(len(episodes)))}
    kinds = [episode.problem.metadata.get("seen") for episode in episodes]
    for name, kind in (("seen", True), ("unseen", False)):
        if chosen := [index for index, seen in enumerate(kinds) if seen is kind]:
            found[name] = of(chosen)
    cells = [episode.problem.metadata.get("cell") for episode in episodes]
    names = [str(name) for name in dict.fromkeys(cells) if name is not None]
    found["cells"] = {
        name: of([index for index, cell in enumerate(cells) if str(cell) == name]) for name in names
    }
    return found


def evaluate_self_improvement(
    config: EvaluationSettings, loaded: Loaded, run: Run | None, progress: Progress
) -> dict[str, Any]:
    """Play the settings' self-improvements; episodes are written as they come.

    Returns:
        The content of `summary.json`: the metrics of any evaluation, by attempt, and under
        `self_improvement` those of `summarise_improvement`.

    Raises:
        UserError: the model cannot be loaded, or no problem could be played.
    """
    prompts = prompts_for(config.task, config.prompts)
    player = open_player(config, prompts, run.folder if run else None, progress)
    protocol = SelfImprove(prompts, improvement_prompts_for(config.task), config.oracle_stop)
    size = max(1, AT_ONCE // config.samples)
    episodes: list[Episode] = []
    stops: list[Stop] = []
    failed: dict[str, str] = {}
    most = config.samples * (1 + 2 * config.updates)  # an attempt, and feedback and update by turns
    with progress.phase("self-improvement", len(loaded.problems) * most) as bar:
        for begin in range(0, len(loaded.problems), size):
            chunk = loaded.problems[begin : begin + size]
            replies = _Replies(bar, len(chunk) * most)
            play = _playing(player, begin, replies.made)
            done, missing = play_rounds(
                chunk, protocol, config.updates, play, samples=config.samples
            )
            made = [one.episode(protocol.name, config.model) for one in done]
            episodes, failed = episodes + made, failed | missing
            stops += [_stop(one) for one in done]
            replies.end()
            if run is not None:
                append_jsonl(run.folder / "episodes.jsonl", made)
    tell(failed, progress)
    kept = [index for index, one in enumerate(episodes) if one.problem.id not in failed]
    episodes, stops = [episodes[index] for index in kept], [stops[index] for index in kept]
    if not episodes:
        why = next(iter(failed.values()), "no reason was given")
        raise UserError(f"--model {config.model}: not one problem could be played; first: {why}")
    return {
        "protocol": protocol.name,
        "upper_bound": config.oracle_stop,
        **summarise(episodes, config.seed, config.updates + 1),
        "self_improvement": summarise_improvement(episodes, stops, config.seed),
        **listed(failed),
    }


@dataclass
class _Replies:
    """What some problems may still ask of the model, as a bar is told of it."""

    bar: Phase
    left: int

    def made(self, count: int) -> None:
        """The model has replied so often."""
        self.bar.advance(count)
        self.left -= count

    def end(self) -> None:
        """All that was not needed is done, too."""
        self.bar.advance(self.left)


def _playing(player: Player, begin: int, progress: Callable[[int], None]) -> Play:
    def play(
        problems: Sequence[Problem],
        protocol: Protocol,
        *,
        samples: int,
        number: int,
        given: Sequence[Sequence[Turn]] | None,
    ) -> Played:
        return player.play(
            problems,
            protocol,
            samples=samples,
            stream=[begin, number],
            progress=progress,
            given=given,
        )

    return play


def _stop(one: Improvement) -> Stop:
    assert one.stopped is not None
    return one.stopped


def improvement_table(summary: Mapping[str, Any], title: str = "") -> Table:
    """Seen, unseen and all problems side by side, with intervals; percent."""
    groups = [name for name in ("seen", "unseen", "all") if name in summary["self_improvement"]]
    oracle = "An oracle stopped at the first right attempt: an upper bound. "
    table = Table(
        title=Text(printable(title)) if title else None,
        caption=(oracle if summary["upper_bound"] else "")
        + "Percent of problems; 95 % bootstrap intervals over problems."
        + left_out([summary]),
    )
    table.add_column("metric")
    for name in groups:
        count = summary["self_improvement"][name]["n_problems"]
        table.add_column(f"{name} ({count:,})", justify="right")
    for metric, label in SHARES.items():
        cells = [_cell(summary["self_improvement"][name], metric) for name in groups]
        table.add_row(label, *cells)
    return table


def _cell(found: Mapping[str, Any], metric: str) -> str:
    low, high = found["ci95"][metric]
    return f"{100 * found[metric]:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
