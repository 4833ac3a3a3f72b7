"""Evaluations of strategies as tables: what each reaches and costs, and programs after chains."""

from rich.table import Table

from redraft.evaluation.result import Result
from redraft.evaluation.table_parts import (
    Summary,
    add_right,
    content_of,
    empty_table,
    interval,
    left_out_note,
    percent,
    price_note,
    systems_table,
)

REFINEMENT = {
    "accuracy": "accuracy",
    "delta_t1_t2": "program − chain",
    "i_to_c": "wrong → right",
    "c_to_i": "right → wrong",
    "repaired": "wrong: repaired",
    "copy_rate": "wrong: copied",
    "spoiled": "right: spoiled",
    "executed": "programs that ran",
    "copy": "copy of its chain",
    "wrong": "wrong otherwise",
    "error": "error",
    "timeout": "out of time",
    "silent": "no answer printed",
}
"""Metrics of programs after chains in the order of the table."""


def strategies_table(outcome: Result | Summary, title: str = "") -> Table:
    """A row for each strategy: accuracy with its interval, and what it cost a problem."""
    summary = content_of(outcome)

    def cells(one: Summary) -> list[str]:
        counted = [one["samples"], one["tokens"], one["executions"]]
        shown = [f"{percent(one['accuracy'])} {interval(one['ci95']['accuracy'])}"]
        shown += ["–" if value is None else _amount(value) for value in counted]
        for kind in ("chains", "programs"):
            accuracy = one.get(f"vote_{kind}_at_its_cost")
            peer = "" if accuracy is None else f" ×{_amount(one[f'vote_{kind}_samples'])}"
            shown.append(f"{percent(accuracy)}{peer}")
        return shown

    problems = summary["n_problems"]
    caption = (
        f"Percent [95 % interval over {problems:,} problems]. Samples, generated tokens "
        "and runs of programs a problem. chains@, progs@: a vote over so many (×) chains, or "
        "programs, that they cost as many tokens (and runs) on average, up to the budget of "
        f"{summary['budget']}; – where that is not one a problem, or majority-chains, "
        "majority-programs were not run." + left_out_note([summary]) + price_note(summary)
    )
    rows = {
        f"{name} (oracle: upper bound)" if one["upper_bound"] else name: cells(one)
        for name, one in summary["strategies"].items()
    }
    heads = ("accuracy", "samples", "tokens", "runs", "chains@", "progs@")
    return systems_table(heads, rows, caption, title, first="strategy")


def refinement_table(summary: Summary, title: str = "") -> Table:
    """Metrics of programs after chains: all, after wrong chains and after right chains. `summary`
    is the part `refinement` of an evaluation's."""
    parts = {
        "all": summary,
        "wrong chains": summary["after_wrong_chain"],
        "right chains": summary["after_right_chain"],
    }
    parts = {name: one for name, one in parts.items() if one is not None}
    said = f"{summary['n_samples']:,} programs on {summary['n_problems']:,} problems."
    if failed := summary["n_infrastructure"]:
        said += f" {failed:,} more could not be run by the sandbox."
    table = empty_table(title, f"Percent, 95 % intervals. {said}", ["metric"])
    add_right(table, parts)
    for name, label in REFINEMENT.items():
        turns = [(0, ", chain"), (1, ", program")] if name == "accuracy" else [(None, "")]
        for turn, where in turns:
            cells = []
            for one in parts.values():
                value, spread = one[name], one["ci95"][name]
                if turn is not None:
                    value, spread = value[turn], spread[turn]
                cells.append("–" if value is None else f"{percent(value)} {interval(spread)}")
            table.add_row(label + where, *cells)
    table.add_row("programs", *[f"{one['n_samples']:,}" for one in parts.values()])
    return table


def sources_table(summary: Summary, title: str = "") -> Table:
    """A row for each model whose chains were refined. `summary` is as for `refinement_table`."""
    heads = ("chain", "program", "95 % interval", "copied", "repaired", "spoiled", "ran")
    rows = {
        name: [
            *map(percent, one["accuracy"]),
            interval(one["ci95"]["accuracy"][1]),
            *(percent(one[key]) for key in ("copy_rate", "repaired", "spoiled", "executed")),
        ]
        for name, one in summary["by_source"].items()
    }
    caption = "Percent; copied, repaired: of wrong chains; spoiled: of right ones."
    return systems_table(heads, rows, caption, title, first="chains of")


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 or value == round(value) else f"{value:,.1f}"
