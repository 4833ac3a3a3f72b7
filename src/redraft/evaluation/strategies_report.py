"""Strategies and refinements as tables, from the content of `summary.json`."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from redraft.evaluation.examples import printable
from redraft.evaluation.failures import left_out
from redraft.evaluation.side_by_side import few

Summary = Mapping[str, Any]

ROWS = {
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
"""Metrics of refinements in the order of the table."""


_HEADS = ("accuracy", "samples", "tokens", "runs", "chains@", "progs@")


def strategies_table(summary: Summary, title: str = "") -> Table:
    """A row for each strategy: accuracy with its interval, and what it cost a problem."""
    table = _compact(title, _caption(summary))
    table.add_column("strategy", overflow="fold")
    for header in _HEADS:
        table.add_column(header, justify="right", no_wrap=True)
    for name, one in summary["strategies"].items():
        shown = f"{name} (oracle: upper bound)" if one["upper_bound"] else name
        table.add_row(Text(printable(shown)), *_cells(one))
    return table


def strategies_markdown(summary: Summary) -> str:
    """The same as a Markdown table, for a results page."""
    lines = [["strategy", *_HEADS], ["---", *["---:"] * len(_HEADS)]]
    for name, one in summary["strategies"].items():
        shown = f"{name} (oracle: upper bound)" if one["upper_bound"] else name
        lines.append([shown, *_cells(one)])
    rows = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    return f"{rows}\n\n{_caption(summary)}\n"


def refinement_table(summary: Summary, title: str = "") -> Table:
    """Metrics of refinements: all, after wrong chains and after right chains."""
    parts = {
        "all": summary,
        "wrong chains": summary["after_wrong_chain"],
        "right chains": summary["after_right_chain"],
    }
    parts = {name: one for name, one in parts.items() if one is not None}
    table = _compact(title, f"Percent, 95 % bootstrap intervals. {_programs(summary)}")
    table.add_column("metric", no_wrap=True)
    for name in parts:
        table.add_column(name, justify="right", no_wrap=True)
    for name, label in ROWS.items():
        for turn, where in _turns(name):
            cells = [_valued(one, name, turn) for one in parts.values()]
            table.add_row(label + where, *cells)
    table.add_row("programs", *[f"{one['n_samples']:,}" for one in parts.values()])
    return table


def sources_table(summary: Summary, title: str = "") -> Table:
    """A row for each model whose chains were refined."""
    table = _compact(title, "Percent; copied, repaired: of wrong chains; spoiled: of right ones.")
    table.add_column("chains of", overflow="fold")
    for header in ("chain", "program", "95 % interval", "copied", "repaired", "spoiled", "ran"):
        table.add_column(header, justify="right", no_wrap=True)
    for name, one in summary["by_source"].items():
        rates = [one[key] for key in ("copy_rate", "repaired", "spoiled", "executed")]
        table.add_row(
            Text(printable(name)),
            *map(_percent, one["accuracy"]),
            _interval(one["ci95"]["accuracy"][1]),
            *("–" if rate is None else _percent(rate) for rate in rates),
        )
    return table


def _compact(title: str, caption: str) -> Table:
    """Fits a terminal of 80 columns."""
    return Table(
        title=Text(printable(title)) if title else None,
        caption=caption,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
        box=None,
        header_style="bold",
    )


def _turns(name: str) -> list[tuple[int | None, str]]:
    return [(0, ", chain"), (1, ", program")] if name == "accuracy" else [(None, "")]


def _valued(one: Summary, name: str, turn: int | None) -> str:
    value, interval = one[name], one["ci95"][name]
    if turn is not None:
        value, interval = value[turn], interval[turn]
    return "–" if value is None else f"{_percent(value)} {_interval(interval)}"


def _cells(one: Summary) -> list[str]:
    counted = [one["samples"], one["tokens"], one["executions"]]
    return [
        f"{_percent(one['accuracy'])} {_interval(one['ci95']['accuracy'])}",
        *("–" if value is None else _number(value) for value in counted),
        *(_peer(one, kind) for kind in ("chains", "programs")),
    ]


def _peer(one: Summary, kind: str) -> str:
    """Accuracy of a vote at the strategy's cost, and over how many samples."""
    accuracy = one.get(f"vote_{kind}_at_its_cost")
    if accuracy is None:
        return "–"
    return f"{_percent(accuracy)} ×{_number(one[f'vote_{kind}_samples'])}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 or value == round(value) else f"{value:,.1f}"


def _percent(share: float) -> str:
    return f"{round(100 * share, 1) + 0.0:.1f}"  # no "-0.0"


def _interval(interval: Sequence[float] | None) -> str:
    return "–" if interval is None else "[" + ", ".join(map(_percent, interval)) + "]"


def _caption(summary: Summary) -> str:
    problems = summary["n_problems"]
    return (
        f"Percent [95 % bootstrap interval over {problems:,} problems]. Samples, generated tokens "
        "and runs of programs a problem. chains@, progs@: a vote over so many (×) chains, or "
        "programs, that they cost as many tokens (and runs) on average, up to the budget of "
        f"{summary['budget']}; – where that is not one a problem, or majority-chains, "
        "majority-programs were not played." + few([problems]) + left_out([summary])
    )


def _programs(summary: Summary) -> str:
    failed = summary["n_infrastructure"]
    said = f"{summary['n_samples']:,} programs on {summary['n_problems']:,} problems."
    return said + (f" {failed:,} more could not be run by the sandbox." if failed else "")
