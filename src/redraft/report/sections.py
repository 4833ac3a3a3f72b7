"""The sections of a report, in order."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from redraft.report.content import Measured, Part, Section, Table, Text
from redraft.report.curves import compute, edits, training
from redraft.report.facts import costs, grading, others, settings
from redraft.report.results import attempts, headline, levels
from redraft.report.runs import Run

SECTIONS: Mapping[str, Callable[[Sequence[Measured]], Iterator[Part]]] = {
    "Result": headline,
    "Attempts and flips": attempts,
    "Training": training,
    "Equal compute": compute,
    "Edit distance": edits,
    "Levels": levels,
    "Other evaluations": others,
    "Grading": grading,
    "Costs": costs,
    "Configuration": settings,
}


def sections(runs: Sequence[Run], plotted: bool = True) -> list[Section]:
    """Everything there is to say of some runs; without what they have no data for.

    `plotted` False leaves out figures and what is folded away, for readers that show neither.
    """
    every = [Measured(run, number, plotted) for number, run in enumerate(runs)]
    found = []
    for title, parts_of in SECTIONS.items():
        parts = [part for part in parts_of(every) if plotted or isinstance(part, Table | Text)]
        if parts:
            found.append(Section(title.lower().replace(" ", "-"), title, parts))
    return found
