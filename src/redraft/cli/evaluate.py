"""`redraft eval` and `redraft collect`."""

from redraft.cli.flags import command
from redraft.cli.progress import terminal_progress
from redraft.cli.terminal import (
    Json,
    console,
    main_process,
    print_json,
    print_outcome,
    report_hint,
    resumable,
)
from redraft.evaluation.settings import CollectSettings, EvaluationSettings


def _evaluate(config: EvaluationSettings, *, json: Json = False) -> None:
    from redraft.evaluation import evaluate
    from redraft.evaluation.tables import tables

    with resumable(config.out):
        result = evaluate(config, progress=terminal_progress())
    if not main_process():
        return
    if json:
        print_json(result.to_summary())
        return
    for table in tables(result, f"{config.model} on {config.task}"):
        console().print(table)
    if result.folder is not None:
        report_hint(result.folder)


def _collect(config: CollectSettings, *, json: Json = False) -> None:
    from redraft.evaluation import collect

    with resumable(config.out):
        folder = collect(config, progress=terminal_progress())
    print_outcome(folder, json)


evaluate_command = command(EvaluationSettings, _evaluate)
collect_command = command(CollectSettings, _collect)
