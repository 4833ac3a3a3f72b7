"""Sequential against parallel attempts as tables: one system by strategy, or systems side by side.

The tables read the content of `sequential.summarise_sequential`, fresh or from a file. Shares are
in percent, differences in percentage points, tokens are generated tokens a problem.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from redraft.errors import UserError
from redraft.evaluation.examples import printable
from redraft.evaluation.sequential import compared
from redraft.evaluation.table import FEW_PROBLEMS

Summary = Mapping[str, Any]


def strategy_table(summary: Summary, title: str = "") -> Table:
    """One system: a row per strategy with its value, 95 % interval and tokens, then differences."""
    table = Table(title=_title(title), caption=_caption([summary]))
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
        value, interval = _percent(summary[name], "+"), _interval(summary, name, "+")
        table.add_row(f"{_short(labels[a])} − {_short(labels[b])}", value, interval, "")
    return table


def sequential_table(summaries: Mapping[str, Summary], title: str = "") -> Table:
    """Several systems by name, a row each; fits a terminal of 80 columns.

    Raises:
        UserError: no systems, or systems with different numbers of turns.
    """
    table = Table(
        title=_title(title),
        caption=f"{_caption(list(summaries.values()))} {_legend(_turns(summaries))}",
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
        box=None,
        header_style="bold",
    )
    table.add_column("system", overflow="fold")
    for header in _headers(_turns(summaries)):
        table.add_column(header, justify="right", no_wrap=True)
    for name, summary in summaries.items():
        table.add_row(Text(printable(name)), *_cells(summary))
    return table


def sequential_markdown(summaries: Mapping[str, Summary]) -> str:
    """The comparison of systems as a Markdown table, for a results page.

    Raises:
        UserError: as `sequential_table`.
    """
    headers = ["system", *_headers(_turns(summaries))]
    rows = [[_plain(name), *_cells(summary)] for name, summary in summaries.items()]
    lines = [headers, ["---", *("---:" for _ in headers[1:])], *rows]
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    return f"{table}\n\n{_caption(list(summaries.values()))} {_legend(_turns(summaries))}\n"


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
        _percent(summary[gain], "+"),
        _interval(summary, gain, "+"),
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


def _percent(share: float | None, sign: str = "") -> str:
    """A share in percent; `sign` "+" marks values above 0 too."""
    if share is None:
        return "–"
    shown = round(100 * share, 1) + 0.0  # no "-0.0"
    return f"{shown:{sign if shown else ''}.1f}"


def _interval(summary: Summary, name: str, sign: str = "") -> str:
    interval: Sequence[float] | None = summary["ci95"][name]
    if interval is None:
        return "–"
    low, high = (_percent(bound, sign) for bound in interval)
    return f"[{low}, {high}]"


def _tokens(count: float | None) -> str:
    return "–" if count is None else f"{count:,.1f}"


def _title(title: str) -> Text | None:
    return Text(printable(title)) if title else None


def _caption(summaries: Sequence[Summary]) -> str:
    problems = sorted({summary["n_problems"] for summary in summaries})
    span = f"{problems[0]:,}" if len(problems) == 1 else f"{problems[0]:,} to {problems[-1]:,}"
    caption = f"Percent; 95 % bootstrap intervals over {span} problems."
    if problems[0] < FEW_PROBLEMS:
        caption += f" Fewer than {FEW_PROBLEMS} problems: intervals too narrow."
    short = max(summary["short_of_samples"] or 0.0 for summary in summaries)
    if short:
        caption += (
            f" Up to {_percent(short)} % of the parallel votes at equal tokens ran out of samples "
            "before tokens, which favours the turns."
        )
    return caption


def _plain(name: str) -> str:
    """A name as one line of Markdown in which nothing is markup."""
    one_line = " ".join(printable(name).split())
    return "".join(
        f"\\{character}" if character in "\\`*_|<>[]" else character for character in one_line
    )
