"""Systems side by side: the frame of every comparison, in a terminal and on a results page."""

from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

from redraft.evaluation.examples import printable

FEW_PROBLEMS = 30  # below this the intervals cover less than they claim, see `statistics`


def system_table(
    rows: Mapping[str, Sequence[str]], headers: Sequence[str], title: str, caption: str
) -> Table:
    """A row of cells for each system, by its name; fits a terminal of 80 columns."""
    table = Table(
        title=heading(title),
        caption=caption,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
        box=None,
        header_style="bold",
    )
    table.add_column("system", overflow="fold")
    for header in headers:
        table.add_column(header, justify="right", no_wrap=True)
    for name, cells in rows.items():
        table.add_row(Text(printable(name)), *cells)
    return table


def system_markdown(rows: Mapping[str, Sequence[str]], headers: Sequence[str], caption: str) -> str:
    """The same as a Markdown table."""
    lines = [
        ["system", *headers],
        ["---", *("---:" for _ in headers)],
        *([_plain(name), *cells] for name, cells in rows.items()),
    ]
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    return f"{table}\n\n{caption}\n"


def heading(title: str) -> Text | None:
    """A table's title, in which nothing is markup; None for none."""
    return Text(printable(title)) if title else None


def few(problems: Sequence[int]) -> str:
    """What a caption says if there are few problems, after a blank."""
    if min(problems) >= FEW_PROBLEMS:
        return ""
    return f" Fewer than {FEW_PROBLEMS} problems: intervals too narrow."


def span(numbers: Sequence[int]) -> str:
    """From the smallest to the largest, or the one that all are."""
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def rounded(value: float, decimals: int, signed: bool = False) -> str:
    """A number with so many decimals, never "-0.0"; `signed` marks those above 0 with a plus."""
    shown = round(value, decimals) + 0.0
    return f"{shown:{'+' if signed and shown else ''}.{decimals}f}"


def _plain(name: str) -> str:
    """A name as one line of Markdown in which nothing is markup."""
    one_line = " ".join(printable(name).split())
    return "".join(
        f"\\{character}" if character in "\\`*_|<>[]" else character for character in one_line
    )
