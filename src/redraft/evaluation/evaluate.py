"""How well a model corrects itself: problems in, episodes and a summary with intervals out."""

from pathlib import Path
from typing import Any

from redraft.episode import Episode, Problem, append_jsonl
from redraft.errors import UserError
from redraft.evaluation.failures import listed, tell
from redraft.evaluation.settings import CollectSettings, EvaluationSettings, RolloutSettings
from redraft.evaluation.standing import settled
from redraft.evaluation.statistics import summarise
from redraft.progress import Progress, Silent
from redraft.protocols import Intrinsic, Oracle, Protocol, SelfRefine
from redraft.runs import Run
from redraft.tasks import Loaded

EPISODES_AT_ONCE = 512
"""Episodes that are played, and then written, together."""


def evaluate(config: EvaluationSettings, progress: Progress | None = None) -> dict[str, Any]:
    """Play every problem of the settings and summarise; with `out`, write it all to that folder.

    Returns:
        The content of `summary.json`: metrics and `ci95`, their 95 % bootstrap intervals, and with
        `parallel` the comparison of turns with first attempts under `sequential`. With `strategy`
        what `evaluate_strategies` returns, with the protocol `self-improve` what
        `evaluate_self_improvement` does.

    Raises:
        UserError: anything in the settings, the model or the data that cannot work. Episodes that
            were played before it are in the folder.
    """
    from redraft.evaluation.self_improvement import evaluate_self_improvement
    from redraft.evaluation.sequential import summarise_sequential
    from redraft.evaluation.strategies_run import evaluate_strategies

    progress = progress or Silent()
    confinement = config.confinement()
    run = Run.create(config.out, config, "eval", confinement) if config.out else None
    loaded = _load(config, progress)
    dropped = [{"id": name, "reason": reason} for name, reason in loaded.dropped]
    counted: dict[str, Any] = {"n_dropped": len(dropped), "dropped": dropped}
    if confinement is not None:
        counted["sandbox"] = confinement
    if config.strategy is not None:
        summary = evaluate_strategies(config, loaded, run, progress) | counted
        if run is not None:
            run.summary(summary)
        return summary
    if config.protocol == "self-improve":
        summary = evaluate_self_improvement(config, loaded, run, progress) | counted
        if run is not None:
            run.summary(summary)
        return summary
    stage = _Stage(config, progress, run)
    episodes = stage.play("episodes", loaded.problems, _protocol(config), config.samples)
    parallel = []
    if config.parallel and stage.without_failed(episodes):
        single = Intrinsic(config.open_prompts(), 1)
        parallel = stage.play("parallel", loaded.problems, single, config.turns, stream=1)
    kept = stage.without_failed(episodes)
    if not kept:
        why = next(iter(stage.failed.values()), "no reason was given")
        raise UserError(f"--model {config.model}: not one problem could be played; first: {why}")
    metrics = summarise([settled(episode) for episode in kept], config.seed, config.turns)
    summary = {"protocol": config.protocol, **metrics, **listed(stage.failed), **counted}
    if config.parallel:
        compared = summarise_sequential(
            kept, stage.without_failed(parallel), config.turns, seed=config.seed
        )
        summary["sequential"] = {**compared, "n_failed": len(stage.failed)}
    if run is not None:
        run.summary(summary)
    return summary


def collect(config: CollectSettings, progress: Progress | None = None) -> Path:
    """Play every problem of the settings and write the episodes to `out`/episodes.jsonl.

    Raises:
        UserError: as `evaluate`.
    """
    progress = progress or Silent()
    run = Run.create(config.out, config, "collect", config.confinement())
    stage = _Stage(config, progress, run)
    stage.play("episodes", _load(config, progress).problems, _protocol(config), config.samples)
    return run.folder


def _protocol(config: RolloutSettings) -> Protocol:
    prompts = config.open_prompts()
    if config.protocol == "oracle":
        return Oracle(prompts, config.turns)
    if config.protocol == "self-refine":
        return SelfRefine(prompts, config.turns)
    return Intrinsic(prompts, config.turns)


def _load(config: RolloutSettings, progress: Progress) -> Loaded:
    """The problems of the settings; says how many were dropped because no answer can be right."""
    loaded = config.open_task().load(config.split, config.limit, config.seed)
    if loaded.dropped:
        name, why = loaded.dropped[0]
        progress.note(f"{len(loaded.dropped)} problems dropped, first {name}: {why}")
    if not loaded.problems:
        raise UserError(f"--task {config.task}: no problem is left to play")
    return loaded


class _Stage:
    """Where an evaluation's episodes are played, and written down some problems at a time, so that
    what was played is not lost with what was not."""

    def __init__(self, config: RolloutSettings, progress: Progress, run: Run | None) -> None:
        from redraft.evaluation.player import open_player

        self.config, self.progress, self.run = config, progress, run
        prompts = config.open_prompts()
        self.player = open_player(config, prompts, run.folder if run else None, progress)
        self.failed: dict[str, str] = {}
        """By problem, why an episode of it could not be played, in any phase."""

    def play(
        self,
        name: str,
        problems: list[Problem],
        protocol: Protocol,
        samples: int,
        stream: int = 0,
    ) -> list[Episode]:
        """All episodes, which also go to `NAME.jsonl`."""
        size = max(1, EPISODES_AT_ONCE // samples)
        episodes: list[Episode] = []
        with self.progress.phase("attempts", len(problems) * samples * protocol.turns) as bar:
            for begin in range(0, len(problems), size):
                played = self.player.play(
                    problems[begin : begin + size],
                    protocol,
                    samples=samples,
                    stream=[begin, stream] if stream else [begin],
                    progress=bar.advance,
                )
                episodes += played.episodes
                self.failed |= played.failed
                if self.run is not None:
                    append_jsonl(self.run.folder / f"{name}.jsonl", played.episodes)
        tell(self.failed, self.progress)
        return episodes

    def without_failed(self, episodes: list[Episode]) -> list[Episode]:
        """The episodes of problems of which nothing has failed so far."""
        return [episode for episode in episodes if episode.problem.id not in self.failed]
