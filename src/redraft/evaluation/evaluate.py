"""How well a model corrects itself: problems in, episodes and a summary with intervals out."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redraft.episode import Episode, Problem, append_jsonl
from redraft.errors import UserError
from redraft.evaluation.settings import CollectSettings, EvaluationSettings, RolloutSettings
from redraft.evaluation.statistics import summarise
from redraft.progress import Progress, Silent
from redraft.runs import Run
from redraft.tasks import Task, get_task

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def evaluate(config: EvaluationSettings, progress: Progress | None = None) -> dict[str, Any]:
    """Play every problem of the settings and summarise; with `out`, write it all to that folder.

    Returns:
        The content of `summary.json`: metrics and `ci95`, their 95 % bootstrap intervals.

    Raises:
        UserError: anything in the settings, the model or the data that cannot work.
    """
    progress = progress or Silent()
    run = Run.create(config.out, config, "eval") if config.out else None
    episodes, dropped = _episodes(config, progress)
    summary = {**summarise(episodes, seed=config.seed), "n_dropped": dropped}
    if run is not None:
        append_jsonl(run.folder / "episodes.jsonl", episodes)
        run.summary(summary)
    return summary


def collect(config: CollectSettings, progress: Progress | None = None) -> Path:
    """Play every problem of the settings and write the episodes to `out`/episodes.jsonl.

    Raises:
        UserError: as `evaluate`.
    """
    run = Run.create(config.out, config, "collect")
    episodes, _ = _episodes(config, progress or Silent())
    append_jsonl(run.folder / "episodes.jsonl", episodes)
    return run.folder


def play(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    problems: Sequence[Problem],
    config: RolloutSettings,
    progress: Progress,
) -> list[Episode]:
    """Episodes of a model that is in memory, as the settings say; one bar for all attempts."""
    from redraft.dialogue import Dialogue
    from redraft.engines import Sampling
    from redraft.engines.local import LocalEngine
    from redraft.protocols import Intrinsic, prompts_for
    from redraft.rollout import rollout

    prompts = prompts_for(config.task, config.prompts)
    dialogue = Dialogue(tokenizer, generation_config=model.generation_config, stop=prompts.stop)
    if dialogue.rewrites_history:
        progress.note(dialogue.rewrites_history)
    with progress.phase("attempts", len(problems) * config.samples * config.turns) as bar:
        return rollout(
            problems,
            Intrinsic(prompts, config.turns),
            LocalEngine(model, tokenizer, max_rows=config.max_rows),
            dialogue,
            _task(config).grader,
            Sampling(config.temperature, max_tokens=config.max_tokens, seed=config.seed),
            samples=config.samples,
            policy=str(config.model),
            progress=bar.advance,
        )


def _episodes(config: RolloutSettings, progress: Progress) -> tuple[list[Episode], int]:
    """The episodes, and how many problems were dropped because no answer to them can be right."""
    from redraft.models import load_model

    loaded = _task(config).load(config.split, config.limit, config.seed)
    if loaded.dropped:
        name, why = loaded.dropped[0]
        progress.note(f"{len(loaded.dropped)} problems dropped, first {name}: {why}")
    if not loaded.problems:
        raise UserError(f"--task {config.task}: no problem is left to play")
    model, tokenizer = load_model(config.model, dtype=config.dtype, device=config.device)
    return play(model, tokenizer, loaded.problems, config, progress), len(loaded.dropped)


def _task(config: RolloutSettings) -> Task:
    return get_task(
        config.task,
        config.data,
        grader=config.grader,
        question_field=config.question_field,
        gold_field=config.gold_field,
    )
