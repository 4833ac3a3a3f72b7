"""What the tables of evaluations are made of: numbers as text, captions, columns and rows."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from redraft.evaluation.examples import printable
from redraft.evaluation.result import Result

Summary = Mapping[str, Any]


def percent(share: float | None, signed: bool = False) -> str:
    """A share in percent, "–" for None; `signed` marks values above 0 with a plus."""
    return "–" if share is None else rounded(100 * share, 1, signed)


def interval(bounds: Sequence[float] | None, signed: bool = False) -> str:
    """`[low, high]` in percent."""
    if bounds is None:
        return "–"
    return "[" + ", ".join(percent(bound, signed) for bound in bounds) + "]"


def rounded(value: float, decimals: int, signed: bool = False) -> str:
    """A number with so many decimals, never "-0.0"; `signed` marks those above 0 with a plus."""
    shown = round(value, decimals) + 0.0
    return f"{shown:{'+' if signed and shown else ''}.{decimals}f}"


def span(numbers: Sequence[int]) -> str:
    """From the smallest to the largest, or the one that all are."""
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def content_of(outcome: Result | Summary) -> Summary:
    return outcome.to_summary() if isinstance(outcome, Result) else outcome


def left_out_note(summaries: Sequence[Summary]) -> str:
    """What a caption says, after a blank, of problems that failed: an endpoint that gives no
    response and a sandbox that fails are no mistakes of the model."""
    failed = [summary.get("n_failed", 0) for summary in summaries]
    if not any(failed):
        return ""
    played = [one["n_problems"] + n for one, n in zip(summaries, failed, strict=True)]
    return f" {span(failed)} of {span(played)} problems left out: they could not be run or graded."


def first_cut_note(summary: Summary, limit: int | None = None) -> str:
    """What is said of first responses that were cut off, at a `limit` of tokens: Δ over those that
    were not; empty where none was, or nobody had a second turn."""
    share = (summary["truncated"] or [0])[0]
    if not share or summary.get("delta_t1_t2") is None:
        return ""
    limit = summary.get("max_tokens", limit)
    at = "the length limit" if limit is None else f"the limit of {limit:,} tokens (--max-tokens)"
    whole = summary.get("delta_t1_t2_complete")
    spread = interval(summary["ci95"].get("delta_t1_t2_complete"), signed=True)
    known = "" if whole is None else f"{percent(whole, signed=True)} {spread}"
    return (
        f"{percent(share)} % of the first responses were cut at {at}; a second response may only "
        "have finished them, which counts as a repair. Over complete first responses Δ(t1,t2) is "
        f"{known or 'undefined'}. A higher limit makes the comparison fair."
    )


def asked_note(summaries: Sequence[Summary]) -> str:
    """What a caption says, after a blank, of the prompts and the length limit."""
    known = [one for one in summaries if "prompts" in one and "max_tokens" in one]
    said = [f"prompts {one['prompts']}, at most {one['max_tokens']:,} tokens" for one in known]
    return f" With {'; '.join(dict.fromkeys(said))} a response." if said else ""


def p_text(p: float) -> str:
    """A p-value as text."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def cut_note(summaries: Sequence[Summary]) -> str:
    """What a caption says, after a blank, where most responses were cut off: at which limit, and
    what they were asked for with."""
    cut = [one for one in summaries if max(filter(None, one["truncated"]), default=0) > 0.5]
    places = {(one["max_tokens"], one["prompts"]) for one in cut if "max_tokens" in one}
    return "".join(
        f" Most responses of a turn were cut off at --max-tokens {limit} with --prompts {prompts}: "
        "raise the limit, or ask for less (for programs: --prompts code)."
        for limit, prompts in sorted(places)
    )


def price_note(summary: Summary) -> str:
    """What a caption says, after a blank, of an endpoint: the tokens it took, and their price."""
    took = summary.get("endpoint")
    if not took:
        return ""
    tokens = f"{took['prompt_tokens']:,} prompt and {took['completion_tokens']:,} generated tokens"
    cost = (
        f"cost {took['cost']:,.4f}"
        if took["cost"] is not None
        else ("have no price (--http.prompt-price, --http.completion-price)")
    )
    mixed = models_note(took.get("models", []))
    mixed = f" {mixed[0].upper()}{mixed[1:]}." if mixed else ""
    return f" {took['requests']:,} requests; {tokens} {cost}.{mixed}"


def models_note(models: Sequence[str]) -> str:
    """What to say of an endpoint whose answers name several models; else nothing."""
    if len(models) < 2:
        return ""
    named = ", ".join(models)
    return f"the endpoint's answers come from {len(models)} models ({named}): the numbers mix them"


def empty_table(title: str, caption: str, names: Iterable[str], *, framed: bool = False) -> Table:
    """An empty table with its columns of names; without a frame it fits a terminal."""
    plain: dict[str, Any] = {
        "padding": (0, 1, 0, 0),
        "pad_edge": False,
        "show_edge": False,
        "box": None,
        "header_style": "bold",
    }
    shown = Text(printable(title)) if title else None
    table = Table(title=shown, caption=caption, **({} if framed else plain))
    for name in names:
        table.add_column(name, overflow="fold")
    return table


def add_right(table: Table, headers: Iterable[str]) -> None:
    for header in headers:
        table.add_column(header, justify="right", no_wrap=True)


def systems_table(
    headers: Sequence[str],
    rows: Mapping[str, Sequence[str]],
    caption: str,
    title: str = "",
    first: str = "system",
) -> Table:
    """A row of cells for each system, by its name; fits a terminal of 80 columns."""
    table = empty_table(title, caption, [first])
    add_right(table, headers)
    for name, cells in rows.items():
        table.add_row(Text(printable(name)), *cells)
    return table


def systems_markdown(
    headers: Sequence[str],
    rows: Mapping[str, Sequence[str]],
    caption: str,
    first: str = "system",
) -> str:
    """The same as a Markdown table."""
    lines = [[plain_markdown(name), *cells] for name, cells in rows.items()]
    return f"{markdown_lines([first, *headers], lines)}\n\n{caption}\n"


def markdown_lines(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, all but its first column on the right."""
    lines = [headers, ["---", *("---:" for _ in headers[1:])], *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def plain_markdown(name: str) -> str:
    """A name as one line of Markdown in which nothing is markup."""
    one_line = " ".join(printable(name).split())
    return "".join(f"\\{sign}" if sign in "\\`*_|<>[]" else sign for sign in one_line)
