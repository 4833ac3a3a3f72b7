"""Solutions read step by step: how they are split, where they go wrong, how that is worded.

A `StepFormat` reads and words the solutions of one family of tasks, and names the `Script` that
solves problems, finds first wrong steps and corrects solutions, where there is one. Whatever a
script reads may be a model's text, so it runs in worker processes with a time limit; nothing is
ever evaluated.
"""

import pkgutil
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from redraft.chat.prompts import STEPS, ImprovementPrompts
from redraft.grading.pool import Reply, shared_pool
from redraft.types import Problem

LIMIT_S = 10.0
"""Wall-clock seconds of a script for one solution."""

QUOTE_LIMIT = 2_000
"""Characters of a verdict's span, and of its reason."""


@dataclass(frozen=True)
class StepVerdict:
    """The first mistake of a worked solution, or that there is none.

    `step` is the 0-based index of the wrong step, None where every step is right, one past the last
    where a step is missing. `span` is the wrong part, quoted from that step, and `reason` says why
    it is wrong, in one sentence without a full stop. `check` names the check that failed
    ("calculate", "sort", ...). `readable` is False for a solution that could not be followed; then
    nothing is claimed about its steps.
    """

    step: int | None = None
    span: str = ""
    reason: str = ""
    check: str = ""
    readable: bool = True

    @property
    def confirms(self) -> bool:
        """Whether the whole solution was read and found right."""
        return self.readable and self.step is None

    def shortened(self) -> Self:
        """The verdict with no more than `QUOTE_LIMIT` characters of span and of reason: of a span
        its beginning, of a reason both ends."""
        reason = self.reason
        if len(reason) > QUOTE_LIMIT:
            reason = f"{reason[: QUOTE_LIMIT - 203]}...{reason[-200:]}"
        return replace(self, span=self.span[:QUOTE_LIMIT].rstrip(), reason=reason)


@dataclass(frozen=True)
class Critique:
    """What is said about a solution: the text, the first wrong step (0-based, None: all is right)
    and the wrong part as it is quoted."""

    text: str
    step: int | None = None
    span: str = ""

    @property
    def confirms(self) -> bool:
        """Whether it says that all is right."""
        return self.step is None


@dataclass(frozen=True)
class Script:
    """What a script can do for one family of problems, from the question alone.

    `solve` gives the steps of a worked solution; `check` finds the first mistake in given steps;
    `correct` gives a right solution that keeps the steps before the wrong one as they are. Any of
    them may raise where it cannot follow the text.
    """

    solve: Callable[[str], list[str]]
    check: Callable[[str, Sequence[str]], StepVerdict]
    correct: Callable[[str, Sequence[str], StepVerdict], list[str]]


def three_sentences(steps: Sequence[str], verdict: StepVerdict) -> str:
    """A critique in the words of arXiv 2310.13522, section 4: which steps are right, which part of
    which step is wrong, and why. Steps are numbered from 1 in text."""
    assert verdict.step is not None
    number = verdict.step + 1
    before = f"Step (1) to step ({number - 1}) are correct. "
    before = {1: "", 2: "Step (1) is correct. "}.get(number, before)
    return (
        f'{before}In step ({number}) the part "{verdict.span}" is incorrect. '
        f"This is because {verdict.reason}."
    )


_NEW_QUESTION = re.compile(r"\s*(?:Q|Question)\s*:", re.IGNORECASE)
_HEADER = re.compile(r"\s*(?:(?:Updated )?Answer\s*:\s*)?Let's think step by step\b", re.IGNORECASE)
_NUMBERED = re.compile(r"\((?:\d[\d.]*|final response)\)", re.IGNORECASE)
_ANSWER_IS = re.compile(r"\banswer is\b", re.IGNORECASE)
_OPTION = re.compile(r"^\(([A-Z])\)\s*(.+)$", re.MULTILINE)
_POINTED = re.compile(
    r'in step \((\d{1,6})\) the part ["“](.*?)["”] is (?:incorrect|wrong)',
    re.IGNORECASE | re.DOTALL,
)


def clean_lines(text: str) -> list[str]:
    """The lines of a solution, up to a new question that the model has made up, without empty lines
    and repeated headers; of numbered steps that come to an answer, nothing but these."""
    lines: list[str] = []
    for line in text.splitlines():
        if _NEW_QUESTION.match(line):
            break
        if line.strip() and not _HEADER.match(line):
            lines.append(line.strip())
    numbered = [line for line in lines if _NUMBERED.match(line)]
    return numbered if any(map(_ANSWER_IS.search, numbered)) else lines


def pointed(critique: str) -> tuple[int, str] | None:
    """Step (0-based) and quoted part that a critique in the paper's words points to."""
    found = _POINTED.search(critique)
    return None if found is None else (int(found[1]) - 1, found[2])


def _points_somewhere(critique: str) -> bool:
    return pointed(critique) is not None


def _states_an_answer(steps: Sequence[str]) -> bool:
    return bool(steps) and bool(_ANSWER_IS.search(steps[-1]))


def _same_place(own: str, other: Critique) -> bool:
    """Same step, and one quotation contains the other (the paper's rule)."""
    place = pointed(own)
    if place is None or place[0] != other.step:
        return False
    mine, theirs = place[1].strip(), other.span.strip()
    return bool(mine and theirs) and (mine in theirs or theirs in mine)


def _chosen_option_stands_in_steps(problem: Problem, steps: Sequence[str]) -> bool:
    """For multiple choice: the right option's wording stands in one of the last two lines."""
    options = {letter: _plain(text) for letter, text in _OPTION.findall(problem.question)}
    chosen = options.get(problem.gold.strip("() "))
    return chosen is None or any(chosen in _plain(line) for line in steps[-2:])


def _plain(text: str) -> str:
    return " ".join(text.casefold().strip(" .").split())


@dataclass(frozen=True)
class StepFormat:
    """How the solutions of a family of tasks are split into steps, criticised and corrected.

    The defaults are the paper's (arXiv 2310.13522): a step a line, and critiques that quote the
    wrong part of a step.
    """

    name: str
    prompts: ImprovementPrompts = STEPS
    """How a critique and an update are asked for, and how a critique confirms."""
    split: Callable[[str], list[str]] = clean_lines
    """The steps of a solution."""
    join: Callable[[Sequence[str]], str] = "\n".join
    """A solution from its steps."""
    ends: Callable[[Sequence[str]], bool] = _states_an_answer
    """Whether steps end in a final response."""
    in_form: Callable[[str], bool] = _points_somewhere
    """Whether a model's critique points to some step."""
    same_place: Callable[[str, Critique], bool] = _same_place
    """Whether a model's critique points to where another one points."""
    consistent: Callable[[Problem, Sequence[str]], bool] = _chosen_option_stands_in_steps
    """Whether the right answer is what the steps before it say."""
    wording: Callable[[Sequence[str], StepVerdict], str] = three_sentences
    """The text of a critique of steps with a wrong one."""
    longest: int = 512
    """Words beyond which a response is not used."""
    span_may_move: bool = False
    """Whether a wrong part can be right in another place of its step, as a word of a list."""
    script: str | None = None
    """Where the `Script` is, as `module:name`, for worker processes to import; None: none."""

    def confirmation(self, steps: Sequence[str]) -> Critique:
        """The critique of a right solution."""
        return Critique(self.prompts.confirmation.replace("{attempt}", self.join(steps)))

    def critique(self, steps: Sequence[str], verdict: StepVerdict) -> Critique:
        """A readable verdict in words."""
        if verdict.step is None:
            return self.confirmation(steps)
        return Critique(self.wording(steps, verdict), verdict.step, verdict.span)

    def agree(self, own: str | None, other: Critique) -> bool:
        """Whether a model's own critique says what another one says.

        Both confirm, or both point to the same place. A model that said nothing has confirmed.
        """
        confirmed = own is None or self.prompts.confirms(own)
        if confirmed or other.confirms:
            return confirmed and other.confirms
        assert own is not None
        return self.same_place(own, other)

    def solve(self, questions: Sequence[str]) -> list[list[str] | None]:
        """The script's solution to each question; None where it cannot solve one."""
        replies = self._call("solve", [(question, []) for question in questions])
        return [reply.value if reply.status == "ok" else None for reply in replies]

    def check(self, solutions: Sequence[tuple[str, Sequence[str]]]) -> list[StepVerdict]:
        """The script's verdict on each solution (question and steps).

        A solution for which it fails or takes more than `LIMIT_S` seconds is unreadable.
        """
        return [verdict_of(reply) for reply in self._call("check", solutions)]

    def inspect(self, solutions: Sequence[tuple[str, Sequence[str]]]) -> list[Critique | None]:
        """The script's critique of each solution (question and steps); None where it cannot be
        followed."""
        return [
            self.critique(steps, verdict) if verdict.readable else None
            for (_, steps), verdict in zip(solutions, self.check(solutions), strict=True)
        ]

    def mend(self, solutions: Sequence[tuple[str, Sequence[str]]]) -> list[list[str] | None]:
        """The script's correction of each solution (question and steps): the steps before the
        first wrong one as they are, and right ones from there. None where it cannot be followed."""
        replies = self._call("correct", solutions)
        return [reply.value if reply.status == "ok" else None for reply in replies]

    def _call(self, action: str, solutions: Sequence[tuple[str, Sequence[str]]]) -> list[Reply]:
        if self.script is None:
            raise ValueError(f"step format {self.name!r} has no script")
        calls = [(self.script, action, question, list(steps)) for question, steps in solutions]
        return shared_pool(f"{__name__}:run_script", LIMIT_S).call_all(calls)


def run_script(script: str, action: str, question: str, steps: list[str]) -> Any:
    """One call of a script, with JSON in and out; what a worker process runs."""
    found: Script = pkgutil.resolve_name(script)
    if action == "solve":
        return found.solve(question)
    verdict = found.check(question, steps)
    if action == "check":
        return asdict(verdict)
    if not verdict.readable:
        raise ValueError(f"the solution cannot be followed: {verdict.reason}")
    return found.correct(question, steps, verdict)


def verdict_of(reply: Reply) -> StepVerdict:
    """What a worker's reply says; no verdict but "unreadable" where the check did not end well."""
    if reply.status == "ok":
        return StepVerdict(**reply.value)
    if reply.status == "timeout":
        return StepVerdict(readable=False, reason=f"the check took more than {LIMIT_S:.0f} s")
    return StepVerdict(readable=False, reason=f"the check failed ({reply.error})")


LINES = StepFormat("lines")
"""For tasks without a format of their own: a step a line, and no script."""
