"""`redraft eval` and `redraft collect`."""

from collections.abc import Mapping
from typing import Any

from redraft.cli.flags import command
from redraft.cli.progress import terminal_progress
from redraft.cli.terminal import Json, console, print_json, print_outcome
from redraft.evaluation.settings import CollectSettings, EvaluationSettings


def _evaluate(config: EvaluationSettings, *, json: Json = False) -> None:
    from redraft.evaluation import evaluate
    from redraft.evaluation.sequential_table import strategy_table
    from redraft.evaluation.table import summary_table

    summary = evaluate(config, progress=terminal_progress())
    if json:
        print_json(summary)
        return
    title = f"{config.model} on {config.task}"
    if "strategies" in summary:
        _show_strategies(summary, title)
        return
    if "self_improvement" in summary:
        from redraft.evaluation.self_improvement import improvement_table

        console().print(improvement_table(summary, title))
        return
    console().print(summary_table(summary, title))
    if "sequential" in summary:
        console().print(strategy_table(summary["sequential"], f"{title}: turns against votes"))


def _show_strategies(summary: Mapping[str, Any], title: str) -> None:
    from redraft.evaluation.strategies_report import (
        refinement_table,
        sources_table,
        strategies_table,
    )

    console().print(strategies_table(summary, title))
    if "refinement" in summary:
        refined = summary["refinement"]
        told = f"{title}: programs after chains, by `{refined['strategy']}`"
        console().print(refinement_table(refined, told))
        if len(refined["by_source"]) > 1:
            console().print(sources_table(refined, f"{title}: by source of the chains"))


def _collect(config: CollectSettings, *, json: Json = False) -> None:
    from redraft.evaluation import collect

    print_outcome(collect(config, progress=terminal_progress()), json)


evaluate_command = command(EvaluationSettings, _evaluate)
collect_command = command(CollectSettings, _collect)
