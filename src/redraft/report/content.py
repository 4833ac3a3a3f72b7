"""What a report is made of, whatever shows it: sections of tables, figures and sentences."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar
from urllib.parse import urlencode

from redraft.evaluation.examples import printable
from redraft.report.numbers import episodes_of, summary_of
from redraft.report.runs import Run
from redraft.types import Episode

Summary = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, the address of the episodes behind it, and what is small."""

    text: str
    link: str = ""
    small: str = ""


@dataclass(frozen=True)
class Table:
    """A table; its first column names the rows."""

    heads: Sequence[Cell]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    title: str = ""
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Figure:
    """A plot and what it shows."""

    svg: str
    caption: str


@dataclass(frozen=True)
class Figures:
    """Plots side by side."""

    figures: Sequence[Figure]
    kind: ClassVar[str] = "figures"

    @classmethod
    def of(cls, svg: str, caption: str) -> "Figures":
        """One plot alone."""
        return cls([Figure(svg, caption)])


@dataclass(frozen=True)
class Text:
    """A sentence or two; `warns` where a number would mislead without it."""

    text: str
    warns: bool = False
    link: str = ""
    kind: ClassVar[str] = "text"


@dataclass(frozen=True)
class Details:
    """Preformatted text that is folded away."""

    title: str
    text: str
    kind: ClassVar[str] = "details"


Part = Table | Figures | Text | Details


@dataclass(frozen=True)
class Section:
    """A section of the report; `id` is its address."""

    id: str
    title: str
    parts: Sequence[Part]


@dataclass
class Measured:
    """A run with its place in the report, its summary and the episodes that count."""

    run: Run
    number: int
    plotted: bool = True
    summary: Summary = field(init=False)
    episodes: list[Episode] = field(init=False)

    def __post_init__(self) -> None:
        self.summary = summary_of(self.run)
        self.episodes = episodes_of(self.run)

    @property
    def corrects(self) -> bool:
        """Whether it is an evaluation with the metrics of self-correction."""
        return "accuracy" in self.summary

    @property
    def name(self) -> str:
        """What the report calls it."""
        return self.run.name

    def rows(self, **filters: object) -> str:
        """The address of its episodes that fit some filters of the viewer."""
        return "#rows?" + urlencode({"run": self.number, "part": "turns", **filters})


def cells_of(texts: Iterable[object]) -> list[Cell]:
    """Cells of text alone."""
    return [Cell(printable(str(text))) for text in texts]
