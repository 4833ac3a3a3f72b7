"""Evaluations as tables, on a terminal and in Markdown: one with its intervals, or several side by
side.

Every table reads the content of `summary.json` or the `Result` that it is made from, so that files
of long ago are shown as fresh evaluations are. Shares are in percent, differences in percentage
points, tokens are generated ones a problem. In names nothing is markup.
"""

from collections.abc import Mapping, Sequence

from rich.table import Table

from redraft.errors import UserError
from redraft.evaluation.result import Result
from redraft.evaluation.sequential import compared
from redraft.evaluation.statistics import Estimate
from redraft.evaluation.strategy_tables import refinement_table, sources_table, strategies_table
from redraft.evaluation.table_parts import (
    Summary,
    add_right,
    asked_note,
    content_of,
    cut_note,
    empty_table,
    first_cut_note,
    interval,
    left_out_note,
    p_text,
    percent,
    price_note,
    rounded,
    span,
    systems_markdown,
    systems_table,
)

# Metrics of self-correction in the order of the table; what is not a share is in NOT_SHARES.
TITLES = {
    "accuracy": "accuracy",
    "delta_t1_t2": "Δ(t1,t2)",
    "delta_t1_t2_complete": "Δ(t1,t2), first complete",
    "i_to_c": "wrong → right",
    "c_to_i": "right → wrong",
    "confidence_level": "right stays right",
    "critique_score": "wrong gets right",
    "changed": "answer changed",
    "repeated_wrong": "wrong answer repeated",
    "verbatim_copy": "verbatim copy",
    "edit_distance_ratio": "edit-distance ratio",
    "attempted": "attempted",
    "truncated": "truncated",
    "no_answer": "no answer found",
    "timed_out": "grading timed out",
    "off_policy": "not from the policy",
    "attempt_tokens": "response tokens",
}
NOT_SHARES = {"edit_distance_ratio": 3, "attempt_tokens": 1}  # decimals
ONLY_IF_ANY = {"timed_out", "off_policy"}
COLUMNS = "copies: identical text; cut: responses that hit the length limit (worst turn)."

IMPROVEMENT = {
    "accuracy": "accuracy",
    "first_accuracy": "first response right",
    "solved_directly": "solved directly",
    "gained": "gained by self-improvement",
    "lost": "right → wrong",
    "delta": "Δ",
    "updated": "updated at all",
}
"""Metrics of self-improvement in the order of the table."""


def tables(outcome: Result | Summary, title: str = "") -> list[Table]:
    """All that there is to show of one evaluation."""
    summary = content_of(outcome)
    if "strategies" in summary:
        shown = [strategies_table(summary, title)]
        if refined := summary.get("refinement"):
            told = f"{title}: programs after chains, by `{refined['strategy']}`"
            shown.append(refinement_table(refined, told))
            if len(refined["by_source"]) > 1:
                shown.append(sources_table(refined, f"{title}: by source of the chains"))
        return shown
    if "self_improvement" in summary:
        return [improvement_table(summary, title)]
    shown = [summary_table(summary, title)]
    if "blind_spot" in summary:
        shown.append(blind_spot_table(summary["blind_spot"], f"{title}: the blind spot"))
    if "sequential" in summary:
        shown.append(sequential_table(summary["sequential"], f"{title}: turns against votes"))
    return shown


# Self-correction


def summary_table(outcome: Result | Summary, title: str = "") -> Table:
    """One evaluation: a row per metric (and turn) with its value and 95 % interval.

    Metrics that nothing defines (those of a second response when there is none) have no row.
    """
    summary = content_of(outcome)
    caption = f"{_caption({'': summary})}{price_note(summary)}"
    table = empty_table(title, caption, ["metric"], framed=True)
    add_right(table, ["value", "95 % interval"])
    for name, label in _rows(summary):
        value, interval = summary[name], summary["ci95"][name]
        if name in ONLY_IF_ANY and not any(value):
            continue
        if name == "attempted" and all(share == 1 for share in value):
            continue
        if name == "delta_t1_t2_complete" and not summary["truncated"][0]:
            continue
        by_turn = isinstance(value, list)
        pairs = zip(value, interval, strict=True) if by_turn else [(value, interval)]
        for turn, (v, i) in enumerate(pairs, start=1):
            if v is not None:
                where = f"{label}, turn {turn}" if by_turn else label
                table.add_row(where, _number(name, v), _metric_interval(name, i))
        if name == "c_to_i" and (p := summary.get("flips_p")) is not None:
            table.add_row("repaired as often as spoiled: p", p_text(p), "")
    return table


def comparison_table(outcomes: Mapping[str, Result | Summary], title: str = "") -> Table:
    """Several evaluations by name, a row each; fits a terminal of 80 columns.

    The interval beside Δ is the evaluation's own. Whether two systems differ is a question for
    `statistics.paired_difference`: intervals that overlap do not answer it.
    """
    return systems_table(*_compared_systems(outcomes), title)


def comparison_markdown(outcomes: Mapping[str, Result | Summary]) -> str:
    """The comparison as a Markdown table, for a results page."""
    return systems_markdown(*_compared_systems(outcomes))


def difference_text(estimate: Estimate | None, metric: str = "delta_t1_t2") -> str:
    """A paired difference as text: `+5.2 [+3.1, +7.4]` in percentage points."""
    if estimate is None:
        return "undefined"
    interval = _metric_interval(metric, [estimate.low, estimate.high], signed=True)
    return f"{_number(metric, estimate.value, signed=True)} {interval}"


def _rows(summary: Summary) -> list[tuple[str, str]]:
    """Name and label of the metrics a summary has, Δ of later turns after Δ(t1,t2)."""
    rows = []
    for name, label in TITLES.items():
        if name in summary:
            rows.append((name, label))
        if name == "delta_t1_t2":
            later = [k for k in summary if k.startswith("delta_") and k not in TITLES]
            rows += [(k, delta_label(k)) for k in later]
    return rows


def delta_label(metric: str) -> str:
    """A difference of accuracies as a heading: `delta_t1_t3` is Δ(t1,t3)."""
    turns = metric.removeprefix("delta_").replace("_", ",")
    return TITLES.get(metric, f"Δ({turns})")


def _compared_systems(
    outcomes: Mapping[str, Result | Summary],
) -> tuple[list[str], dict[str, list[str]], str]:
    """Headers, cells by system, and the caption."""
    summaries = {name: content_of(outcome) for name, outcome in outcomes.items()}
    last = max(len(summary["accuracy"]) for summary in summaries.values())
    turns = [1, 2, last] if last > 2 else [1, 2]
    heads = [f"t{turn}" for turn in turns]
    heads += ["Δ(t1,t2)", "95 % interval", "i→c", "c→i", "changed", "copies", "cut"]

    def cells(summary: Summary) -> list[str]:
        accuracy = summary["accuracy"]
        shown = [accuracy[turn - 1] if turn <= len(accuracy) else None for turn in turns]
        return [
            *(_number("accuracy", value) for value in shown),
            _number("delta_t1_t2", summary["delta_t1_t2"]),
            _metric_interval("delta_t1_t2", summary["ci95"]["delta_t1_t2"]),
            *(_number(name, summary[name]) for name in ("i_to_c", "c_to_i", "changed")),
            _number("verbatim_copy", summary["verbatim_copy"]),
            _number("truncated", max(summary["truncated"])),
        ]

    tests = [f"{n} {p_text(s['flips_p'])}" for n, s in summaries.items() if s.get("flips_p")]
    caption = f"{_caption(summaries)} {COLUMNS}"
    caption += f" McNemar's p of i→c = c→i: {', '.join(tests)}." if tests else ""
    return heads, {name: cells(summary) for name, summary in summaries.items()}, caption


def _number(name: str, value: float | None, signed: bool = False) -> str:
    signed = signed or name.startswith("delta_")
    if name in NOT_SHARES and value is not None:
        return rounded(value, NOT_SHARES[name], signed)
    return percent(value, signed)


def _metric_interval(name: str, interval: Sequence[float] | None, signed: bool = False) -> str:
    if interval is None:
        return "–"
    low, high = (_number(name, bound, signed) for bound in interval)
    return f"[{low}, {high}]"


def _caption(by_name: Mapping[str, Summary]) -> str:
    summaries = list(by_name.values())
    problems = [summary["n_problems"] for summary in summaries]
    samples = [summary["n_samples"] for summary in summaries]
    caption = f"Percent; 95 % intervals over {span(problems)} problems ({span(samples)} samples)."
    caption += asked_note(summaries) + left_out_note(summaries)
    for name, summary in by_name.items():
        if note := first_cut_note(summary):
            caption += f" {name}{name and ': '}{note}"
    return caption + cut_note(summaries)


# Self-improvement


def improvement_table(outcome: Result | Summary, title: str = "") -> Table:
    """Seen, unseen and all problems side by side, with intervals."""
    summary = content_of(outcome)
    found = summary["self_improvement"]
    groups = [name for name in ("seen", "unseen", "all") if name in found]
    oracle = "An oracle stopped at the first right response: an upper bound. "
    caption = (oracle if summary["upper_bound"] else "") + (
        "Percent of problems; 95 % intervals over problems."
        + left_out_note([summary])
        + price_note(summary)
    )
    table = empty_table(title, caption, ["metric"], framed=True)
    add_right(table, [f"{name} ({found[name]['n_problems']:,})" for name in groups])
    for metric, label in IMPROVEMENT.items():
        parts = [found[name] for name in groups]
        cells = [f"{percent(one[metric])} {interval(one['ci95'][metric])}" for one in parts]
        table.add_row(label, *cells)
    return table


BLIND_SPOT = {
    "own": "corrected in its own response",
    "wait": 'the same after "Wait"',
    "user": "corrected in the user's message",
    "blind_spot": "blind spot",
    "blind_spot_wait": 'blind spot after "Wait"',
}


def blind_spot_table(found: Summary, title: str = "") -> Table:
    """Shares corrected and blind spots; `found` is the part `blind_spot` of a summary."""
    n = found["n_problems"]
    caption = (
        f"Percent; 95 % intervals over {n:,} problems. The blind spot is (user - "
        "own) / user; – where no error of the user's was corrected."
    )
    table = empty_table(title, caption, ["the same error"], framed=True)
    add_right(table, ["value", "95 % interval"])
    for name, label in BLIND_SPOT.items():
        table.add_row(label, percent(found[name]), interval(found["ci95"][name]))
    return table


# Sequential against parallel


def sequential_table(summary: Summary, title: str = "") -> Table:
    """One system: a row per way to spend K responses with its value, 95 % interval and tokens, then
    the differences. `summary` is the part `sequential` of an evaluation's."""
    k = summary["turns"]
    table = empty_table(title, _sequential_caption([summary]), ["strategy"], framed=True)
    add_right(table, ["value", "95 % interval", "tokens"])
    labels = {
        "m1_t1": "m1@t1, one first response",
        f"m{k}_t1": f"m{k}@t1, vote over {k} in parallel",
        "m_t1_equal_tokens": f"m@t1, vote at the tokens of m1@t{k}",
        f"m1_t{k}": f"m1@t{k}, vote over {k} turns",
        f"last_t{k}": f"last@t{k}, the last of {k} turns",
        f"p1_t{k}": f"p1@t{k}, any of {k} turns (oracle)",
        f"pass_{k}": f"pass@{k}, any of {k} in parallel (oracle)",
    }
    for name, label in labels.items():
        spent = summary[f"tokens_m1_t{k}" if name == f"last_t{k}" else f"tokens_{name}"]
        tokens = "–" if spent is None else f"{spent:,.1f}"
        table.add_row(label, percent(summary[name]), interval(summary["ci95"][name]), tokens)
    table.add_section()
    short = {name: label.split(",")[0] for name, label in labels.items()}
    short["m_t1_equal_tokens"] = "m@t1 at its tokens"
    for a, b in compared(k):
        name = f"{a}_minus_{b}"
        spread = interval(summary["ci95"][name], signed=True)
        table.add_row(f"{short[a]} − {short[b]}", percent(summary[name], signed=True), spread, "")
    return table


def sequential_comparison(summaries: Mapping[str, Summary], title: str = "") -> Table:
    """Several systems by name, a row each; fits a terminal of 80 columns.

    Raises:
        UserError: no systems, or systems with different numbers of turns.
    """
    return systems_table(*_sequential_systems(summaries), title)


def sequential_markdown(summaries: Mapping[str, Summary]) -> str:
    """The comparison of systems as a Markdown table, for a results page.

    Raises:
        UserError: as `sequential_comparison`.
    """
    return systems_markdown(*_sequential_systems(summaries))


def _sequential_systems(
    summaries: Mapping[str, Summary],
) -> tuple[list[str], dict[str, list[str]], str]:
    """Headers, cells by system, and the caption."""
    turns = sorted({summary["turns"] for summary in summaries.values()})
    if len(turns) != 1:
        raise UserError(
            f"systems with {', '.join(map(str, turns)) or 'no'} turns in one table: "
            "give it summaries with the same number of turns"
        )
    k = int(turns[0])
    heads = ["m1@t1", f"m{k}@t1", f"m1@t{k}", "gain", "95 % interval", "m@tok"]
    heads += [f"p1@t{k}", f"pass@{k}", "tok"]
    gain = f"m1_t{k}_minus_m{k}_t1"

    def cells(summary: Summary) -> list[str]:
        sequential, parallel = summary[f"tokens_m1_t{k}"], summary[f"tokens_m{k}_t1"]
        return [
            *(percent(summary[name]) for name in ("m1_t1", f"m{k}_t1", f"m1_t{k}")),
            percent(summary[gain], signed=True),
            interval(summary["ci95"][gain], signed=True),
            *(percent(summary[name]) for name in ("m_t1_equal_tokens", f"p1_t{k}", f"pass_{k}")),
            f"{sequential / parallel:.2f}" if sequential and parallel else "–",
        ]

    legend = (
        f"gain: m1@t{k} − m{k}@t1, with its interval; m@tok: parallel vote at the tokens of "
        f"m1@t{k}; p1 and pass stop at the gold answer; tok: tokens of m1@t{k} over m{k}@t1."
    )
    caption = f"{_sequential_caption(list(summaries.values()))} {legend}"
    return heads, {name: cells(summary) for name, summary in summaries.items()}, caption


def _sequential_caption(summaries: Sequence[Summary]) -> str:
    problems = [summary["n_problems"] for summary in summaries]
    caption = f"Percent; 95 % intervals over {span(problems)} problems."
    caption += left_out_note(summaries)
    short = max(summary["short_of_samples"] or 0.0 for summary in summaries)
    if short:
        caption += (
            f" Up to {percent(short)} % of the parallel votes at equal tokens ran out of samples "
            "before tokens, which favours the turns."
        )
    return caption
