"""Finding the first wrong step of a worked arithmetic problem.

Steps are read in order, and in each the checks of TriPosT's verifier (arXiv 2310.13522) are made in
theirs: *partition* (letters put back give the problem), *calculate* (neighbours in a chain of `=`
are equal), *combine* (the last expression in letters is the problem, its values are those
calculated), *final* (the answer is the problem's value). A step counts as wrong for what it does
itself. Since reading stops at the first wrong step, nothing is ever held against a step that only
carries on with an earlier mistake.
"""

from collections.abc import Sequence
from fractions import Fraction

from redraft.tasks.bbh.steps import WrongStepError
from redraft.tasks.bbh.steps.arithmetic_reading import Chain, Step, Term, defined, read_step
from redraft.tasks.bbh.steps.arithmetic_replay import Replay
from redraft.tasks.bbh.steps.expression import (
    Expression,
    UnreadableError,
    evaluate,
    question_expression,
    write,
    write_value,
)
from redraft.tasks.steps import StepVerdict

MAX_CHARACTERS = 50_000
"""Length of one solution, all steps together; a longer one is not read."""
MAX_REPLAYED = 1000
"""Characters of a problem, as written without spaces, whose operations are followed."""

_PASSES = 30
"""Times that definitions by other letters are followed."""


class ArithmeticChecker:
    """The first mistake in a solution of a problem of whole numbers with + - * and brackets.

    Reads chains of thought in free text, TriPosT's line format, and bare operations
    (`7 + 2 = 9`), one or several (`;`) to a step. A solution in which nothing can be checked, or to
    a question without an expression, is unreadable.
    """

    def check(self, question: str, steps: Sequence[str]) -> StepVerdict:
        """The first mistake in `steps`; the answer is worked out from `question`."""
        if sum(map(len, steps)) > MAX_CHARACTERS or len(question) > MAX_CHARACTERS:
            return StepVerdict(readable=False, reason="the text is too long to check")
        try:
            problem = question_expression(question)
            solution = Solution(problem, [read_step(text, i) for i, text in enumerate(steps)])
        except UnreadableError:
            return StepVerdict(readable=False, reason="the question has no expression to evaluate")
        return (solution.read() or solution.final()).shortened()


class Solution:
    """A solution while it is read, step by step.

    `target` is the problem's value, `results` those of the operations in it. `letters` are the
    values of letters, `definitions` the chains that introduced them, `calculated` those that some
    chain has brought to a number. `formula` is the first expression in letters, and `holds` says
    that it is the problem. `replay` is what is left of the problem where nothing but operations on
    two numbers are written.
    `last` is the last chain that was worked out and its value, `checked` whether anything was.
    """

    def __init__(self, problem: Expression, steps: Sequence[Step]) -> None:
        """Nothing is read yet.

        Raises:
            UnreadableError: the problem has no value within the bounds.
        """
        self.problem, self.steps, self.text = problem, steps, _compact(problem)
        self.results: list[Fraction] = []
        self.target = evaluate(problem, results=self.results)
        self.letters: dict[str, Fraction] = {}
        self.definitions: dict[str, tuple[Step, Chain]] = {}
        self.calculated: set[str] = set()
        self.formula: tuple[Step, Term] | None = None
        self.holds = self.checked = False
        self.last: tuple[Step, Chain, Fraction] | None = None
        self.tail: Fraction | None = None  # the value that a line opening with `=` goes on from
        lines = [step for step in steps if step.answer is None]
        chains = [chain for step in lines for chain in step.chains if len(chain) > 1]
        is_bare = bool(chains) and not any(step.is_wordy for step in lines)
        follows = is_bare and all(map(_is_operation, chains)) and len(self.text) <= MAX_REPLAYED
        self.replay = Replay(problem) if follows else None

    def read(self) -> StepVerdict | None:
        """Read the steps up to the first that is wrong in itself."""
        try:
            for step in self.steps:
                self._partition(step)
                for chain in step.chains:
                    self._operation(step, chain)
                    self._calculate(step, chain)
                    self._combine(step, chain)
        except WrongStepError as error:
            return error.verdict
        return None

    def value(self, term: Term) -> Fraction | None:
        """A term's value where all of its letters have one."""
        try:
            return evaluate(term.expression, self.letters)
        except UnreadableError:
            return None

    def _partition(self, step: Step) -> None:
        """Letters put back into the first expression in letters give the problem."""
        for chain in step.chains:
            if defined(chain):
                self.definitions.setdefault(defined(chain), (step, chain))
        self._resolve()
        if self.formula is None and not self.calculated:
            mentions = [chain[0] for chain in step.chains if len(chain) == 1]
            formulas = [term for term in mentions if _is_formula(term.expression)]
            self.formula = (step, formulas[0]) if formulas else None
        if self.formula is None or self.holds or (value := self.value(self.formula[1])) is None:
            return
        where, formula = self.formula
        self.checked = True
        for letter in sorted(formula.expression.letters):  # a wrong part counts even times zero
            self._quoted(letter)
        if value != self.target:
            reason = f"with its letters put back it is {_shown(value)}, {self._problem_is()}"
            raise WrongStepError("partition", where.index, where.quote(formula), reason)
        self.holds = True

    def _resolve(self) -> None:
        """Give each letter the value of what it stands for, where that can be read."""
        for _ in range(_PASSES):
            known = len(self.letters)
            for letter, (_, chain) in self.definitions.items():
                for term in chain[1:] if letter not in self.letters else ():
                    if (value := self.value(term)) is not None:
                        self.letters.setdefault(letter, value)
            if len(self.letters) == known:
                return

    def _quoted(self, letter: str) -> None:
        """What a letter stands for is part of the problem, as written or as it comes out."""
        step, chain = self.definitions[letter]
        quoted = chain[1].expression
        if not quoted.operands or quoted.letters or self.letters.get(letter) in self.results:
            return
        if _compact(quoted) not in self.text:
            reason = f"{_shown(step.quote(chain[1]))} does not stand in the problem"
            raise WrongStepError("partition", step.index, step.quote(*chain[:2]), reason)

    def _operation(self, step: Step, chain: Chain) -> None:
        """Where there are only operations: each is part of what is left to do."""
        operation = chain[0].expression
        if self.replay is None or len(chain) < 2 or self.replay.take(operation):
            return
        if self.value(chain[0]) != self.target:
            reason = f"{_shown(step.quote(chain[0]))} is not part of what is left to work out"
            given = {part.value for part in self.problem.parts()}
            check = (
                "partition" if {part.value for part in operation.parts()} <= given else "combine"
            )
            raise WrongStepError(check, step.index, step.quote(chain[0], chain[-1]), reason)

    def _calculate(self, step: Step, chain: Chain) -> None:
        """Neighbours in a chain are equal."""
        left, there = chain[0], self.value(chain[0])
        if left.start == left.end:
            there = self.tail
        for right in chain[1:]:
            here = self.value(right)
            self.checked = self.checked or (there is not None and here is not None)
            if there is not None and here is not None and there != here:
                shown = _shown(step.quote(left)) or "what stands before it"
                reason = f"{shown} is {_shown(there)} and not {_shown(here)}"
                if not right.is_number:
                    quoted = _shown(step.quote(right))
                    reason = f"{shown} is {_shown(there)}, but {quoted} is {_shown(here)}"
                is_combination = not defined(chain) and chain[0].expression.letters
                check = "combine" if is_combination else "calculate"
                raise WrongStepError(check, step.index, step.quote(left, right), reason)
            left, there = (left, there) if here is None else (right, here)
        self.tail = there
        if len(chain) > 1 and there is not None:
            self.last = (step, chain, there)
            if chain[-1].is_number:
                self.calculated.add(defined(chain))

    def _combine(self, step: Step, chain: Chain) -> None:
        """The final expression in letters is the problem, of letters that were calculated."""
        letters, value = chain[0].expression.letters, self.value(chain[0])
        if len(chain) < 2 or not letters or defined(chain) or value is None:
            return
        span = step.quote(chain[0])
        if value != self.target and value not in self.results:
            reason = f"{_shown(span)} is {_shown(value)}, {self._problem_is()}"
            raise WrongStepError("combine", step.index, span, reason)
        given = {name for name, (_, known) in self.definitions.items() if known[1].is_number}
        missing = sorted(letters - self.calculated - given)
        if missing and any(each.is_final for each in self.steps):
            reason = f"{missing[0]} has not been calculated"
            raise WrongStepError("combine", step.index, span, reason)

    def final(self) -> StepVerdict:
        """The answer is the problem's value; else the last calculation or the answer is wrong."""
        answers = [
            (step, step.answer, value)
            for step in self.steps
            if step.answer is not None and (value := self.value(step.answer)) is not None
        ]
        end = self.steps[-1] if self.steps else Step(0, "=")
        ending = end.chains[-1][-1] if end.chains and end.text.rstrip()[-1] != "=" else None
        ends_right = ending is not None and ending.is_number and self.value(ending) == self.target
        is_bare = ends_right and not end.is_wordy and len(end.chains[-1]) == 1
        if not (answers or self.checked or is_bare):
            return StepVerdict(readable=False, reason="no step has anything that can be checked")
        wrong = next((answer for answer in answers if answer[2] != self.target), None)
        if wrong is None and (answers or ends_right):
            return StepVerdict()
        if wrong is None:
            end = next(step for step in reversed(self.steps) if step.text.strip())
            start = end.chains[-1][0].start if end.chains else 0
            reason = "the solution ends before the problem is solved"
            return StepVerdict(end.index, end.text[start:].strip()[-80:], reason, "final")
        step, term, value = wrong
        reason = f"the problem is {_shown(self.target)} and not {_shown(value)}"
        if self.last and self.last[0].index <= step.index:
            before, chain, result = self.last
            if result == value and before is not step:
                return StepVerdict(
                    before.index, before.quote(chain[0], chain[-1]), reason, "combine"
                )
            if result != value:
                reason += f"; the last calculation gives {_shown(result)}"
        return StepVerdict(step.index, step.quote(term), reason, "final")

    def _problem_is(self) -> str:
        return f"and the problem is {_shown(self.target)}"


def _is_formula(expression: Expression) -> bool:
    """Whether it is an expression in letters; "A/B" may be no more than a choice of words."""
    return bool(expression.operands and expression.letters) and expression.is_whole


def _is_operation(chain: Chain) -> bool:
    """Whether a chain is the result of an operation on two numbers."""
    first = chain[0].expression.operands
    return len(chain) == 2 and len(first) == 2 and all(part.value is not None for part in first)


def _compact(expression: Expression) -> str:
    """An expression without spaces and outer brackets."""
    text = write(expression).replace(" ", "")
    return text[1:-1] if expression.brackets and text[0] == "(" else text


def _shown(value: Fraction | str) -> str:
    """A value or a quotation, shortened in the middle where it is long."""
    text = value if isinstance(value, str) else write_value(value)
    return text if len(text) <= 100 else f"{text[:60]}...{text[-30:]}"
