"""`redraft eval` and `redraft collect`."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Group, Parameter

from redraft.cli.flags import command
from redraft.cli.progress import terminal_progress
from redraft.cli.terminal import (
    Json,
    console,
    error_console,
    main_process,
    print_json,
    print_outcome,
    report_hint,
    resumable,
)
from redraft.errors import UserError
from redraft.evaluation.settings import CollectSettings, EvaluationSettings

PLANNING = Group("Planning: how many problems are needed", sort_key=999)


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


def _plan(
    *,
    plan: Annotated[
        float | None,
        Parameter(
            help="Only say how many problems show a Δ of this many percentage points, with 80 % "
            "power in a two-sided test at 5 %; nothing is loaded.",
            group=PLANNING,
        ),
    ] = None,
    since: Annotated[
        Path | None,
        Parameter(
            name="--from",
            help="An earlier run's folder: its share of discordant pairs (right at one of the "
            "first two attempts only).",
            group=PLANNING,
        ),
    ] = None,
    discordant: Annotated[
        float | None,
        Parameter(
            help="The share of discordant pairs in percent, assumed; of two systems that of "
            "problems gained or lost. Without it, several.",
            group=PLANNING,
        ),
    ] = None,
    json: Json = False,
) -> None:
    from redraft.cli.report import read_evaluation
    from redraft.evaluation.planning import LEVEL, POWER, SHARES, problems_needed
    from redraft.evaluation.table_parts import percent
    from redraft.report.numbers import summary_of

    if plan is None or (since and discordant is not None):
        raise UserError("--from FOLDER or --discordant PERCENT belongs to --plan POINTS")
    delta = plan / 100
    shares = [share for share in SHARES if share >= delta] or [delta]
    if discordant is not None:
        shares = [discordant / 100]
    if since is not None:
        summary = summary_of(read_evaluation(since))
        if summary.get("delta_t1_t2") is None:
            raise UserError(f"{since}: has no second attempts; give --discordant PERCENT")
        shares = _discordant(since, summary, delta)
    needed = {share: problems_needed(delta, share) for share in shares}
    if json:
        plans = [{"discordant": share, "n_problems": n} for share, n in needed.items()]
        print_json({"delta": delta, "power": POWER, "level": LEVEL, "plans": plans})
        return
    out = console()
    out.print(
        f"A Δ of {plan:g} points is seen with {percent(POWER)} % power by McNemar's exact test, "
        f"two-sided at {percent(LEVEL)} %, one sample a problem, with:"
    )
    for share, n in needed.items():
        out.print(f"{n:>11,} problems if {percent(share):>4} % of the pairs are discordant")


def _discordant(folder: Path, summary: Mapping[str, Any], delta: float) -> list[float]:
    """The share of discordant pairs that a run had; where it is below Δ, those from Δ to the upper
    end of its 95 % interval."""
    import numpy as np

    from redraft.evaluation.planning import SHARES
    from redraft.evaluation.statistics import share_interval
    from redraft.evaluation.table_parts import percent

    share, n = summary["i_to_c"] + summary["c_to_i"], summary["n_problems"]
    if share >= delta:
        return [share]
    _, most = share_interval((np.arange(n) < round(share * n)).astype(float), np.ones(n))
    said = (
        f"{folder}: {percent(share)} % of its {n:,} pairs are discordant, and at most "
        f"{percent(most)} % of all such by the 95 % interval"
    )
    if most < delta:
        raise UserError(
            f"{said}: a Δ of {100 * delta:g} points needs as many at least; give a smaller --plan, "
            "or --discordant PERCENT"
        )
    error_console().print(f"{said}; so the plan is for more than were seen", soft_wrap=True)
    return [*(one for one in SHARES if delta <= one < most), most]


_measure = command(EvaluationSettings, _evaluate)
_PLAN = {
    name: parameter
    for name, parameter in inspect.signature(_plan).parameters.items()
    if name != "json"
}


def evaluate_command(**given: Any) -> int | None:
    """`redraft eval`, or with `--plan` how large it should be."""
    planned = {name: given.pop(name) for name in _PLAN if name in given}
    if any(value is not None for value in planned.values()):
        _plan(**planned, json=given.get("json", False))
        return None
    return _measure(**given)


_flags = [*inspect.signature(_measure).parameters.values(), *_PLAN.values()]
evaluate_command.__signature__ = inspect.Signature(_flags)  # type: ignore[attr-defined]
collect_command = command(CollectSettings, _collect)
