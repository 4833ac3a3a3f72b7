"""`redraft eval` and `redraft collect`."""

from typing import Annotated

from cyclopts import Parameter

from redraft.cli.flags import command
from redraft.cli.progress import terminal_progress
from redraft.cli.terminal import console, print_json
from redraft.evaluation.settings import CollectSettings, EvaluationSettings

Json = Annotated[bool, Parameter(help="Print the summary as one JSON document.", negative=())]


def _evaluate(config: EvaluationSettings, *, json: Json = False) -> None:
    from redraft.evaluation import evaluate
    from redraft.evaluation.sequential_table import strategy_table
    from redraft.evaluation.table import summary_table

    summary = evaluate(config, progress=terminal_progress())
    if json:
        print_json(summary)
        return
    title = f"{config.model} on {config.task}"
    console().print(summary_table(summary, title))
    if "sequential" in summary:
        console().print(strategy_table(summary["sequential"], f"{title}: turns against votes"))


def _collect(config: CollectSettings) -> None:
    from redraft.evaluation import collect

    path = collect(config, progress=terminal_progress())
    console().print(f"Everything is in {path}", soft_wrap=True)


evaluate_command = command(EvaluationSettings, _evaluate)
collect_command = command(CollectSettings, _collect)
