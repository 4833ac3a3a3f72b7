"""What TriPosT must know of a task: what a step is, how feedback is worded, what a script can do.

A world reads and writes the attempts of one family of tasks. Any task has one: without a script of
its own its attempts are lines, and a teacher must be asked.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from redraft.episode import Problem
from redraft.protocols.self_improve import ImprovementPrompts, improvement_prompts_for

_POINTED = re.compile(
    r'in step \((\d{1,6})\) the part ["“](.*?)["”] is (?:incorrect|wrong)',
    re.IGNORECASE | re.DOTALL,
)
_LAB_FORM = re.compile(r"\b(?:wrong|missing|twice)\b")
_NEW_QUESTION = re.compile(r"\s*(?:Q|Question)\s*:", re.IGNORECASE)
_HEADER = re.compile(r"\s*(?:(?:Updated )?Answer\s*:\s*)?Let's think step by step\b", re.IGNORECASE)
_NUMBERED = re.compile(r"\((?:\d[\d.]*|final response)\)", re.IGNORECASE)
_OPTION = re.compile(r"^\(([A-Z])\)\s*(.+)$", re.MULTILINE)
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_ANSWER_IS = re.compile(r"\banswer is\b", re.IGNORECASE)


@dataclass(frozen=True)
class Remark:
    """Feedback on an attempt: its text, the first wrong step (0-based, None: all is right), and the
    wrong part as it is quoted."""

    text: str
    step: int | None = None
    span: str = ""

    @property
    def confirms(self) -> bool:
        """Whether it says that all is right."""
        return self.step is None


@dataclass(frozen=True)
class World:
    """How attempts at a family of tasks are read and written.

    `longest` is the number of words beyond which an attempt is dropped; `script` names the script
    that solves, inspects and mends (`tripost_scripts`), if there is one. `agrees` compares where a
    model's own feedback points with a remark, `in_form` says whether it points anywhere, `ends`
    whether steps end in a final response, and `consistent` whether a right answer is what the steps
    before it say.
    """

    name: str
    prompts: ImprovementPrompts
    split: Callable[[str], list[str]]
    join: Callable[[Sequence[str]], str]
    ends: Callable[[Sequence[str]], bool]
    agrees: Callable[[str, Remark], bool]
    in_form: Callable[[str], bool]
    consistent: Callable[[Problem, Sequence[str]], bool]
    longest: int = 512
    span_may_move: bool = False
    """Whether a wrong part can be right in another place of its step, as a word of a list."""
    script: str | None = None

    def confirmation(self, steps: Sequence[str]) -> Remark:
        """The feedback on a right attempt."""
        return Remark(self.prompts.confirmation.replace("{attempt}", self.join(steps)))

    def agree(self, own: str | None, other: Remark) -> bool:
        """Whether a model's own feedback says what other feedback says.

        Both confirm, or both point to the same place. A model that said nothing has confirmed.
        """
        confirmed = own is None or self.prompts.confirms(own)
        if confirmed or other.confirms:
            return confirmed and other.confirms
        assert own is not None
        return self.agrees(own, other)


def world_for(task: str) -> World:
    """The world of a task."""
    prompts = improvement_prompts_for(task)
    family = task.removesuffix("-cells")
    if family in ("lab/arithmetic", "lab/sorting"):
        between = " ; " if family == "lab/arithmetic" else " "
        return World(
            family,
            prompts,
            split=lambda text: [step.strip() for step in text.split(between.strip() or None)],
            join=between.join,
            ends=lambda steps: bool(steps) and (between == " " or "=" in steps[-1]),
            agrees=lambda own, other: own.split() == other.text.split(),
            in_form=lambda own: bool(_LAB_FORM.search(own)),
            consistent=lambda problem, steps: True,
            script=family,
        )
    script = family.removeprefix("bbh/")
    scripted = script in ("multistep_arithmetic", "word_sorting")
    longest = {"date_understanding": 200, "logical_deduction": 900}.get(script, 512)
    return World(
        script if scripted else "lines",
        prompts,
        split=clean_lines,
        join="\n".join,
        ends=lambda steps: bool(steps) and bool(_ANSWER_IS.search(steps[-1])),
        agrees=_same_place,
        in_form=lambda own: pointed(own) is not None,
        consistent=CONSISTENCY.get(script, _option_was_derived),
        longest=longest,
        span_may_move=script == "word_sorting",
        script=script if scripted else None,
    )


def clean_lines(text: str) -> list[str]:
    """The lines of an attempt, up to a new question that the model has made up, without empty lines
    and repeated headers; of numbered steps that come to an answer, nothing but these."""
    lines: list[str] = []
    for line in text.splitlines():
        if _NEW_QUESTION.match(line):
            break
        if line.strip() and not _HEADER.match(line):
            lines.append(line.strip())
    numbered = [line for line in lines if _NUMBERED.match(line)]
    return numbered if any(map(_ANSWER_IS.search, numbered)) else lines


def pointed(feedback: str) -> tuple[int, str] | None:
    """Step (0-based) and quoted part that feedback in the paper's form points to."""
    found = _POINTED.search(feedback)
    return None if found is None else (int(found[1]) - 1, found[2])


def _same_place(own: str, other: Remark) -> bool:
    """Same step, and one quotation contains the other (the paper's rule)."""
    place = pointed(own)
    if place is None or place[0] != other.step:
        return False
    mine, theirs = place[1].strip(), other.span.strip()
    return bool(mine and theirs) and (mine in theirs or theirs in mine)


def _option_was_derived(problem: Problem, steps: Sequence[str]) -> bool:
    """For multiple choice: the chosen option's wording stands in one of the last two lines."""
    options = {letter: _plain(text) for letter, text in _OPTION.findall(problem.question)}
    chosen = options.get(problem.gold.strip("() "))
    return chosen is None or any(chosen in _plain(line) for line in steps[-2:])


def _number_was_computed(problem: Problem, steps: Sequence[str]) -> bool:
    """For arithmetic: the final number is the result of the last calculation before it."""
    calculated = [line for line in steps[:-1] if "=" in line]
    answer = _NUMBER.findall(steps[-1].replace("−", "-"))
    if not answer or not calculated:
        return True
    results = _NUMBER.findall(calculated[-1].rpartition("=")[2].replace("−", "-"))
    return any(float(answer[-1]) == float(result) for result in results)


def _order_is_known(problem: Problem, steps: Sequence[str]) -> bool:
    """For word sorting: what the steps end with has no "?" in it."""
    return not any("?" in line for line in steps[-2:])


CONSISTENCY = {"multistep_arithmetic": _number_was_computed, "word_sorting": _order_is_known}
"""The paper's checks of a right answer against its steps, beside that of options."""


def _plain(text: str) -> str:
    return " ".join(text.casefold().strip(" .").split())
