"""How well a model corrects itself: problems in, episodes and a summary with intervals out."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from redraft.episode import Episode, Problem, append_jsonl
from redraft.errors import UserError
from redraft.evaluation.settings import CollectSettings, EvaluationSettings, RolloutSettings
from redraft.evaluation.statistics import summarise
from redraft.progress import Progress, Silent
from redraft.runs import Run
from redraft.tasks import Loaded

EPISODES_AT_ONCE = 512
"""Episodes that are played, and then written, together."""


def evaluate(config: EvaluationSettings, progress: Progress | None = None) -> dict[str, Any]:
    """Play every problem of the settings and summarise; with `out`, write it all to that folder.

    Returns:
        The content of `summary.json`: metrics and `ci95`, their 95 % bootstrap intervals.

    Raises:
        UserError: anything in the settings, the model or the data that cannot work. Episodes that
            were played before it are in the folder.
    """
    progress = progress or Silent()
    run = Run.create(config.out, config, "eval") if config.out else None
    loaded = _load(config, progress)
    episodes = []
    for batch in _play(config, loaded.problems, progress):
        if run is not None:
            append_jsonl(run.folder / "episodes.jsonl", batch)
        episodes += batch
    dropped = [{"id": name, "reason": reason} for name, reason in loaded.dropped]
    counted = {"n_dropped": len(dropped), "dropped": dropped}
    summary = {**summarise(episodes, seed=config.seed), **counted}
    if run is not None:
        run.summary(summary)
    return summary


def collect(config: CollectSettings, progress: Progress | None = None) -> Path:
    """Play every problem of the settings and write the episodes to `out`/episodes.jsonl.

    Raises:
        UserError: as `evaluate`.
    """
    progress = progress or Silent()
    run = Run.create(config.out, config, "collect")
    for batch in _play(config, _load(config, progress).problems, progress):
        append_jsonl(run.folder / "episodes.jsonl", batch)
    return run.folder


def _load(config: RolloutSettings, progress: Progress) -> Loaded:
    """The problems of the settings; says how many were dropped because no answer can be right."""
    loaded = config.open_task().load(config.split, config.limit, config.seed)
    if loaded.dropped:
        name, why = loaded.dropped[0]
        progress.note(f"{len(loaded.dropped)} problems dropped, first {name}: {why}")
    if not loaded.problems:
        raise UserError(f"--task {config.task}: no problem is left to play")
    return loaded


def _play(
    config: RolloutSettings, problems: list[Problem], progress: Progress
) -> Iterator[list[Episode]]:
    """Episodes, some problems at a time, so that what was played is not lost with what was not."""
    from redraft.dialogue import Dialogue
    from redraft.engines import Sampling
    from redraft.engines.local import LocalEngine
    from redraft.models import load_model
    from redraft.protocols import Intrinsic, prompts_for
    from redraft.rollout import rollout

    prompts = prompts_for(config.task, config.prompts)
    model, tokenizer = load_model(config.model, dtype=config.dtype, device=config.device)
    dialogue = Dialogue(
        tokenizer,
        generation_config=model.generation_config,
        stop=prompts.stop,
        chat_template_kwargs=config.template_values,
    )
    if dialogue.rewrites_history:
        progress.note(dialogue.rewrites_history)
    engine = LocalEngine(model, tokenizer, max_rows=config.max_rows)
    size = max(1, EPISODES_AT_ONCE // config.samples)
    with progress.phase("attempts", len(problems) * config.samples * config.turns) as bar:
        for begin in range(0, len(problems), size):
            yield rollout(
                problems[begin : begin + size],
                Intrinsic(prompts, config.turns),
                engine,
                dialogue,
                config.open_task().grader,
                Sampling(
                    config.temperature,
                    max_tokens=config.max_tokens,
                    seed=int(np.random.SeedSequence([config.seed, begin]).generate_state(1)[0]),
                ),
                samples=config.samples,
                policy=str(config.model),
                progress=bar.advance,
            )
