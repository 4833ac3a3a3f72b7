"""Sequential against parallel attempts as tables: one system by strategy, or systems side by side.

The tables read the content of `sequential.summarise_sequential`, fresh or from a file. Shares are
in percent, differences in percentage points, tokens are generated tokens a problem.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from redraft.errors import UserError
from redraft.evaluation.failures import left_out
from redraft.evaluation.sequential import compared
from redraft.evaluation.side_by_side import (
    few,
    heading,
    rounded,
    span,
    system_markdown,
    system_table,
)

Summary = Mapping[str, Any]


def strategy_table(summary: Summary, title: str = "") -> Table:
    """One system: a row per strategy with its value, 95 % interval and tokens, then differences."""
    table = Table(title=heading(title), caption=_caption([summary]))
    table.add_column("strategy")
    for header in ("value", "95 % interval", "tokens"):
        table.add_column(header, justify="right", no_wrap=True)
    labels = _labels(summary["turns"])
    for name, label in labels.items():
        spent = _tokens(summary[_tokens_of(name, summary["turns"])])
        table.add_row(label, _percent(summary[name]), _interval(summary, name), spent)
    table.add_section()
    for a, b in compared(summary["turns"]):
        name = f"{a}_minus_{b}"
        label = f"{_short(labels[a])} − {_short(labels[b])}"
        value = _percent(summary[name], signed=True)
        table.add_row(label, value, _interval(summary, name, signed=True), "")
    return table


def sequential_table(summaries: Mapping[str, Summary], title: str = "") -> Table:
    """Several systems by name, a row each; fits a terminal of 80 columns.

    Raises:
        UserError: no systems, or systems with different numbers of turns.
    """
    rows = {name: _cells(summary) for name, summary in summaries.items()}
    return system_table(rows, _headers(_turns(summaries)), title, _caption_below(summaries))


def sequential_markdown(summaries: Mapping[str, Summary]) -> str:
    """The comparison of systems as a Markdown table, for a results page.

    Raises:
        UserError: as `sequential_table`.
    """
    rows = {name: _cells(summary) for name, summary in summaries.items()}
    return system_markdown(rows, _headers(_turns(summaries)), _caption_below(summaries))


def _labels(k: int) -> dict[str, str]:
    """Strategies in the order of the table."""
    return {
        "m1_t1": "m1@t1, one first attempt",
        f"m{k}_t1": f"m{k}@t1, vote over {k} in parallel",
        "m_t1_equal_tokens": f"m@t1, vote at the tokens of m1@t{k}",
        f"m1_t{k}": f"m1@t{k}, vote over {k} turns",
        f"last_t{k}": f"last@t{k}, the last of {k} turns",
        f"p1_t{k}": f"p1@t{k}, any of {k} turns (oracle)",
        f"pass_{k}": f"pass@{k}, any of {k} in parallel (oracle)",
    }


def _short(label: str) -> str:
    return "m@t1 at its tokens" if label.startswith("m@t1") else label.split(",")[0]


def _tokens_of(name: str, k: int) -> str:
    return f"tokens_m1_t{k}" if name == f"last_t{k}" else f"tokens_{name}"


def _headers(k: int) -> list[str]:
    names = ["m1@t1", f"m{k}@t1", f"m1@t{k}", "gain", "95 % interval", "m@tok"]
    return [*names, f"p1@t{k}", f"pass@{k}", "tok"]


def _legend(k: int) -> str:
    return (
        f"gain: m1@t{k} − m{k}@t1, with its interval; m@tok: parallel vote at the tokens of "
        f"m1@t{k}; p1 and pass stop at the gold answer; tok: tokens of m1@t{k} over m{k}@t1."
    )


def _cells(summary: Summary) -> list[str]:
    k = summary["turns"]
    gain = f"m1_t{k}_minus_m{k}_t1"
    sequential, parallel = summary[f"tokens_m1_t{k}"], summary[f"tokens_m{k}_t1"]
    return [
        *(_percent(summary[name]) for name in ("m1_t1", f"m{k}_t1", f"m1_t{k}")),
        _percent(summary[gain], signed=True),
        _interval(summary, gain, signed=True),
        *(_percent(summary[name]) for name in ("m_t1_equal_tokens", f"p1_t{k}", f"pass_{k}")),
        f"{sequential / parallel:.2f}" if sequential and parallel else "–",
    ]


def _turns(summaries: Mapping[str, Summary]) -> int:
    turns = sorted({summary["turns"] for summary in summaries.values()})
    if len(turns) != 1:
        raise UserError(
            f"systems with {', '.join(map(str, turns)) or 'no'} turns in one table: "
            "give it summaries with the same number of turns"
        )
    return int(turns[0])


def _percent(share: float | None, signed: bool = False) -> str:
    """A share in percent; `signed` marks values above 0 too."""
    return "–" if share is None else rounded(100 * share, 1, signed)


def _interval(summary: Summary, name: str, signed: bool = False) -> str:
    interval: Sequence[float] | None = summary["ci95"][name]
    if interval is None:
        return "–"
    low, high = (_percent(bound, signed) for bound in interval)
    return f"[{low}, {high}]"


def _tokens(count: float | None) -> str:
    return "–" if count is None else f"{count:,.1f}"


def _caption_below(summaries: Mapping[str, Summary]) -> str:
    """Under systems side by side: what the columns are, too."""
    return f"{_caption(list(summaries.values()))} {_legend(_turns(summaries))}"


def _caption(summaries: Sequence[Summary]) -> str:
    problems = [summary["n_problems"] for summary in summaries]
    caption = f"Percent; 95 % bootstrap intervals over {span(problems)} problems.{few(problems)}"
    caption += left_out(summaries)
    short = max(summary["short_of_samples"] or 0.0 for summary in summaries)
    if short:
        caption += (
            f" Up to {_percent(short)} % of the parallel votes at equal tokens ran out of samples "
            "before tokens, which favours the turns."
        )
    return caption
