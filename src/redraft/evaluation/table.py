"""Evaluations as tables: one evaluation with its intervals, or several side by side.

All tables read the content of `summary.json` (`statistics.summarise`), so they show a file written
long ago as well as a fresh evaluation. Shares are in percent, differences in percentage points.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from redraft.evaluation.failures import left_out
from redraft.evaluation.side_by_side import (
    few,
    heading,
    rounded,
    span,
    system_markdown,
    system_table,
)
from redraft.evaluation.statistics import Estimate

# In the order of the table; what is not a share in percent stands in NOT_SHARES.
TITLES = {
    "accuracy": "accuracy",
    "delta_t1_t2": "Δ(t1,t2)",
    "i_to_c": "wrong → right",
    "c_to_i": "right → wrong",
    "confidence_level": "right stays right",
    "critique_score": "wrong gets right",
    "changed": "answer changed",
    "verbatim_copy": "verbatim copy",
    "edit_distance_ratio": "edit-distance ratio",
    "attempted": "attempted",
    "truncated": "truncated",
    "no_answer": "no answer found",
    "timed_out": "grading timed out",
    "off_policy": "not from the policy",
    "attempt_tokens": "attempt tokens",
}
NOT_SHARES = {"edit_distance_ratio": 3, "attempt_tokens": 1}  # decimals
ONLY_IF_ANY = {"timed_out", "off_policy"}
ONE_POINT = "An interval of one point means that no variation was seen, not certainty."
COLUMNS = "copies: identical text; cut: attempts that hit the length limit (worst turn)."


def summary_table(summary: Mapping[str, Any], title: str = "") -> Table:
    """One evaluation: a row per metric (and turn) with its value and 95 % interval.

    Metrics that nothing defines (those of a second attempt when there is none) have no row.
    """
    table = Table(
        title=heading(title),
        caption=f"{_caption([summary])} {ONE_POINT}",
    )
    table.add_column("metric")
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("95 % interval", justify="right", no_wrap=True)
    for name, label in _rows(summary):
        value, interval = summary[name], summary["ci95"][name]
        if name in ONLY_IF_ANY and not any(value):
            continue
        if name == "attempted" and all(share == 1 for share in value):
            continue
        by_turn = isinstance(value, list)
        pairs = zip(value, interval, strict=True) if by_turn else [(value, interval)]
        for turn, (v, i) in enumerate(pairs, start=1):
            if v is not None:
                where = f"{label}, turn {turn}" if by_turn else label
                table.add_row(where, _number(name, v), _interval(name, i))
    return table


def comparison_table(summaries: Mapping[str, Mapping[str, Any]], title: str = "") -> Table:
    """Several evaluations by name, a row each; fits a terminal of 80 columns.

    The interval beside Δ is the evaluation's own. Whether two systems differ is a question for
    `statistics.paired_difference`: intervals that overlap do not answer it.
    """
    caption = f"{_caption(list(summaries.values()))} {COLUMNS}"
    return system_table(_by_system(summaries), _headers(summaries), title, caption)


def comparison_markdown(summaries: Mapping[str, Mapping[str, Any]]) -> str:
    """The comparison as a Markdown table, for a results page."""
    caption = f"{_caption(list(summaries.values()))} {COLUMNS}"
    return system_markdown(_by_system(summaries), _headers(summaries), caption)


def difference_text(estimate: Estimate | None, metric: str = "delta_t1_t2") -> str:
    """A paired difference as text: `+5.2 [+3.1, +7.4]` in percentage points."""
    if estimate is None:
        return "undefined"
    interval = _interval(metric, [estimate.low, estimate.high], signed=True)
    return f"{_number(metric, estimate.value, signed=True)} {interval}"


def _rows(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name and label of the metrics a summary has, Δ of later turns after Δ(t1,t2)."""
    rows = []
    for name, label in TITLES.items():
        if name in summary:
            rows.append((name, label))
        if name == "delta_t1_t2":
            later = [k for k in summary if k.startswith("delta_") and k != name]
            rows += [(k, f"Δ({k.removeprefix('delta_').replace('_', ',')})") for k in later]
    return rows


def _headers(summaries: Mapping[str, Mapping[str, Any]]) -> list[str]:
    last = _last_turn(summaries)
    return [
        "t1",
        "t2",
        *([f"t{last}"] if last > 2 else []),
        "Δ(t1,t2)",
        "95 % interval",
        "i→c",
        "c→i",
        "changed",
        "copies",
        "cut",
    ]


def _by_system(summaries: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    last = _last_turn(summaries)
    return {name: _cells(summary, last) for name, summary in summaries.items()}


def _cells(summary: Mapping[str, Any], last: int) -> list[str]:
    accuracy = summary["accuracy"]
    shown = [accuracy[turn - 1] if turn <= len(accuracy) else None for turn in (1, 2)]
    if last > 2:
        shown.append(accuracy[last - 1] if last <= len(accuracy) else None)
    return [
        *(_number("accuracy", value) for value in shown),
        _number("delta_t1_t2", summary["delta_t1_t2"]),
        _interval("delta_t1_t2", summary["ci95"]["delta_t1_t2"]),
        *(_number(name, summary[name]) for name in ("i_to_c", "c_to_i", "changed")),
        _number("verbatim_copy", summary["verbatim_copy"]),
        _number("truncated", max(summary["truncated"])),
    ]


def _last_turn(summaries: Mapping[str, Mapping[str, Any]]) -> int:
    return max(len(summary["accuracy"]) for summary in summaries.values())


def _number(name: str, value: float | None, signed: bool = False) -> str:
    if value is None:
        return "–"
    shown = value if name in NOT_SHARES else 100 * value
    return rounded(shown, NOT_SHARES.get(name, 1), signed or name.startswith("delta_"))


def _interval(name: str, interval: Sequence[float] | None, signed: bool = False) -> str:
    if interval is None:
        return "–"
    low, high = (_number(name, bound, signed) for bound in interval)
    return f"[{low}, {high}]"


def _caption(summaries: Sequence[Mapping[str, Any]]) -> str:
    problems = [summary["n_problems"] for summary in summaries]
    samples = [summary["n_samples"] for summary in summaries]
    caption = f"Percent; 95 % bootstrap intervals over {span(problems)} problems "
    return f"{caption}({span(samples)} samples).{few(problems)}{left_out(summaries)}"
