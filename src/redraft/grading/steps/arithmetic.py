"""Finding the first wrong step of a worked arithmetic problem.

Steps are read in order, and in each the checks of TriPosT's verifier (arXiv 2310.13522) are made in
theirs: *partition* (letters put back give the problem), *calculate* (neighbours in a chain of `=`
are equal), *combine* (the last expression in letters is the problem, its values are those
calculated), *final* (the answer is the problem's value). A step counts as wrong for what it does
itself. Since reading stops at the first wrong step, nothing is ever held against a step that only
carries on with an earlier mistake.

Free text has steps that can be true and yet lead astray (a sum that is nowhere in the problem).
Those are suspects: the first is blamed if the solution ends with a wrong answer.
"""

import re
from collections.abc import Sequence

from redraft.grading.steps.arithmetic_problem import Problem
from redraft.grading.steps.arithmetic_reading import (
    MAX_CHARACTERS,
    Chain,
    Step,
    Term,
    is_operations,
    read_step,
)
from redraft.grading.steps.arithmetic_replay import Replay
from redraft.grading.steps.base import StepVerdict
from redraft.grading.steps.expression import (
    Node,
    UnreadableError,
    Value,
    evaluate,
    is_whole,
    nodes,
    question_expression,
    values,
    write_value,
)

_PASSES = 30
"""Times that definitions by other letters are followed."""

_WHOLE = re.compile(r"\b(?:final|whole|entire|full|original)\b", re.IGNORECASE)
_PART = re.compile(
    r"\b(?:part|side|half|left|right|inner|bracket\w*|parenthes\w+)\b", re.IGNORECASE
)
_FINAL_RESPONSE = re.compile(r"\s*\(\s*final response", re.IGNORECASE)


class ArithmeticChecker:
    """The first mistake in a solution of a problem of whole numbers with + - * and brackets.

    Reads chains of thought in free text, TriPosT's line format, and bare operations
    (`7 + 2 = 9`), one or several (`;`) to a step. A solution in which nothing can be checked, or to
    a question without an expression, is unreadable.
    """

    @property
    def name(self) -> str:
        """What `--task` calls it."""
        return "multistep_arithmetic"

    def check(self, question: str, steps: Sequence[str]) -> StepVerdict:
        """The first mistake in `steps`; the answer is worked out from `question`."""
        if sum(map(len, steps)) > MAX_CHARACTERS or len(question) > MAX_CHARACTERS:
            return StepVerdict(readable=False, reason="the text is too long to check")
        try:
            problem = Problem(question_expression(question))
        except UnreadableError:
            return StepVerdict(readable=False, reason="the question has no expression to evaluate")
        read = [read_step(text, index) for index, text in enumerate(steps)]
        return Solution(problem, read).verdict().shortened()


class Solution:
    """A solution while it is read, step by step."""

    def __init__(self, problem: Problem, steps: Sequence[Step]) -> None:
        self.problem = problem
        self.steps = steps
        self.letters: dict[str, Value] = {}
        self.definitions: dict[str, tuple[int, Chain]] = {}
        self.calculated: set[str] = set()
        self.formula: tuple[int, Term] | None = None
        self.formula_holds = False
        self.suspects: list[StepVerdict] = []
        self.last: tuple[int, Chain, Value] | None = None  # step, chain and its value
        self.tail: Value | None = None  # the value that a line opening with `=` goes on from
        self.checked = 0
        has_letters = any(chain.letter for step in steps for chain in step.chains)
        follows = not has_letters and Replay.can_follow(problem.root)
        self.replay = Replay(problem.root) if follows else None
        self.only_operations = follows and is_operations(steps)
        self.has_final_response = any(_FINAL_RESPONSE.match(step.text) for step in steps)

    def verdict(self) -> StepVerdict:
        """The first mistake."""
        return self.read() or self.final()

    def read(self) -> StepVerdict | None:
        """Read the steps up to the first that is wrong in itself."""
        for index, step in enumerate(self.steps):
            fault = self.partition(index, step)
            for chain in step.chains:
                fault = fault or self.operation(index, step, chain)
                fault = fault or self.calculate(index, step, chain)
                fault = fault or self.combine(index, step, chain)
            if fault:
                return fault
        return None

    def value(self, term: Term) -> Value | None:
        """A term's value where all of its letters have one."""
        if term.node is None:
            return None
        try:
            return evaluate(term.node, self.letters)
        except UnreadableError:
            return None

    def partition(self, index: int, step: Step) -> StepVerdict | None:
        """Letters put back into the first expression in letters give the problem."""
        for chain in step.chains:
            if chain.letter:
                self.definitions.setdefault(chain.letter, (index, chain))
        self._resolve()
        if self.formula is None and not self.calculated:
            mentions = (chain.terms[0] for chain in step.chains if len(chain.terms) == 1)
            formula = next((term for term in mentions if _is_formula(term)), None)
            self.formula = None if formula is None else (index, formula)
        if self.formula is None or self.formula_holds:
            return None
        where, formula = self.formula
        value = self.value(formula)
        if value is None:
            return None
        self.checked += 1
        is_part = _PART.search(self.steps[where].text) and value in self.problem.part_values
        if value != self.problem.value and not is_part:
            return self._misquoted(formula) or self._wrong_formula(where, formula, value)
        self.formula_holds = True
        return self._misquoted(formula)  # times nought, a wrong part makes no difference

    def _resolve(self) -> None:
        """Give each letter the value of what it stands for, where that can be read."""
        for _ in range(_PASSES):
            known = len(self.letters)
            for letter, (_, chain) in self.definitions.items():
                if letter not in self.letters:
                    readable = (v for v in map(self.value, chain.terms[1:]) if v is not None)
                    value = next(readable, None)
                    if value is not None:
                        self.letters[letter] = value
            if len(self.letters) == known:
                return

    def _misquoted(self, formula: Term) -> StepVerdict | None:
        """A letter of the formula that stands for something which is not in the problem."""
        for letter in sorted(formula.names):
            index, chain = self.definitions[letter]
            quoted, value = chain.terms[1], self.letters[letter]
            if quoted.node is None or quoted.names or not quoted.node.arguments:
                continue
            if not self.problem.holds(quoted.node, value):
                return self._not_in_problem(index, chain)
        return None

    def _not_in_problem(self, index: int, chain: Chain) -> StepVerdict:
        step, quoted = self.steps[index], chain.terms[1]
        reason = f"{_shown(step.quote(quoted))} does not stand in the problem"
        return StepVerdict(index, step.quote(chain.terms[0], quoted), reason, "partition")

    def _wrong_formula(self, where: int, formula: Term, value: Value) -> StepVerdict:
        reason = (
            f"with its letters put back it is {_shown(value)}, "
            f"and the problem is {_shown(self.problem.value)}"
        )
        return StepVerdict(where, self.steps[where].quote(formula), reason, "partition")

    def operation(self, index: int, step: Step, chain: Chain) -> StepVerdict | None:
        """Where there are no letters: what is worked out is part of what is left to do."""
        first, last = chain.terms[0], chain.terms[-1]
        if self.replay is None or first.node is None or first.names or chain.continues:
            return None
        value = self.value(first)
        if value == self.problem.value and last.node is not None and last.node.arguments:
            if Replay.can_follow(last.node):
                self.replay = Replay(last.node)  # the whole problem, written anew
            return None
        if not first.node.arguments or value is None:
            return None
        if self._replayed(first.node) or value == self.problem.value:
            return None
        fault = StepVerdict(
            index,
            step.quote(first, last),
            f"{_shown(step.quote(first))} is not part of what is left to work out",
            "combine" if self._uses_results(first.node) else "partition",
        )
        if self.only_operations:
            return fault
        self.suspects.append(fault)
        return None

    def _uses_results(self, operation: Node) -> bool:
        """Whether an operand is no number of the problem's own."""
        given = {node.number for node in nodes(self.problem.root) if node.kind == "number"}
        return any(n.kind == "number" and n.number not in given for n in nodes(operation))

    def _replayed(self, expression: Node) -> bool:
        """Take every operation of an expression out of the problem, or leave it as it is."""
        assert self.replay is not None
        if not Replay.can_follow(expression):
            return False
        before = self.replay.states
        found = self.replay.take(expression)
        if not found and expression.kind in ("+", "-", "*"):
            results: dict[Node, Value] = dict(values(expression))
            found = all(
                self.replay.take(
                    Node(node.kind, arguments=tuple(_number(results[a]) for a in node.arguments))
                )
                for node in nodes(expression)
                if node.kind in ("+", "-", "*")
            )
        if not found:
            self.replay.states = before
        return found

    def calculate(self, index: int, step: Step, chain: Chain) -> StepVerdict | None:
        """Neighbours in a chain are equal."""
        previous: tuple[Term | None, Value] | None = None
        if chain.continues and self.tail is not None:
            previous = (None, self.tail)
        elif len(chain.terms) < 2:
            self.tail = self.value(chain.terms[0])
            return None
        for term in chain.terms:
            value = self.value(term)
            if value is None:
                continue
            if previous is not None:
                self.checked += 1
                if value != previous[1]:
                    return self._unequal(index, step, chain, previous, (term, value))
            previous = (term, value)
        if previous is not None:
            self.last = (index, chain, previous[1])
            self.tail = previous[1]
            if chain.letter and chain.terms[-1].is_number:
                self.calculated.add(chain.letter)
        return None

    def _unequal(
        self,
        index: int,
        step: Step,
        chain: Chain,
        before: tuple[Term | None, Value],
        after: tuple[Term, Value],
    ) -> StepVerdict:
        left, right = before[0], after[0]
        span = step.quote(left or right, right)
        is_combination = bool(chain.terms[0].names) and not chain.letter
        check = "combine" if is_combination else "calculate"
        shown = "what stands before it" if left is None else _shown(step.quote(left))
        if right.is_number:
            reason = f"{shown} is {_shown(before[1])} and not {_shown(after[1])}"
        elif left is not None and left.letter:
            reason = (
                f"{shown} stands for another expression, of value {_shown(before[1])}, "
                f"and {_shown(step.quote(right))} is {_shown(after[1])}"
            )
        else:
            reason = (
                f"{shown} is {_shown(before[1])}, but {_shown(step.quote(right))} is "
                f"{_shown(after[1])}"
            )
        return StepVerdict(index, span, reason, check)

    def combine(self, index: int, step: Step, chain: Chain) -> StepVerdict | None:
        """The final expression in letters is the problem, of letters that were calculated."""
        first = chain.terms[0]
        value = self.value(first)
        if len(chain.terms) < 2 or not first.names or chain.letter or value is None:
            return None
        fault: StepVerdict | None = None
        if value != self.problem.value:
            reason = (
                f"{_shown(step.quote(first))} is {_shown(value)}, "
                f"and the problem is {_shown(self.problem.value)}"
            )
            fault = StepVerdict(index, step.quote(first), reason, "combine")
            if not _WHOLE.search(step.text):
                if value not in self.problem.part_values:
                    self.suspects.append(fault)
                fault = None
        missing = sorted(first.names - self.calculated - self._given())
        if fault is None and missing and self.has_final_response:
            reason = f"{missing[0]} has not been calculated"
            fault = StepVerdict(index, step.quote(first), reason, "combine")
        return fault

    def _given(self) -> set[str]:
        """Letters that stand for a number as it is."""
        return {
            letter for letter, (_, chain) in self.definitions.items() if chain.terms[1].is_number
        }

    def final(self) -> StepVerdict:
        """The answer is the problem's value; else the first suspect is to blame."""
        target = self.problem.value
        answers = [
            (index, step, term, value)
            for index, step in enumerate(self.steps)
            if (term := step.answer or self._bare_answer(index)) is not None
            and (value := self.value(term)) is not None
        ]
        if not answers and not self.checked:
            return StepVerdict(readable=False, reason="no step has anything that can be checked")
        wrong = next((answer for answer in answers if answer[3] != target), None)
        if wrong is None and (answers or self._ends_right()):
            return StepVerdict()
        if wrong and self.last and self.last[2] == target and self.last[0] <= wrong[0]:
            return self._wrong_answer(wrong[0], wrong[1].quote(wrong[2]), wrong[3])
        self._suspect_definitions()
        if self.suspects:
            return min(self.suspects, key=lambda verdict: verdict.step or 0)
        if wrong:
            if self.last and self.last[2] == wrong[3] and self.last[0] < wrong[0]:
                index, chain, value = self.last
                span = self.steps[index].quote(chain.terms[0], chain.terms[-1])
                reason = f"the problem is {_shown(target)} and not {_shown(value)}"
                return StepVerdict(index, span, reason, "combine")
            return self._wrong_answer(wrong[0], wrong[1].quote(wrong[2]), wrong[3])
        return self._stops_short()

    def _ends_right(self) -> bool:
        """Whether the last number of the solution is the problem's value."""
        chains = (chain for step in reversed(self.steps) for chain in reversed(step.chains))
        ending = next(chains, None)
        if ending is None or ending.unfinished or not ending.terms[-1].is_number:
            return False
        return self.value(ending.terms[-1]) == self.problem.value

    def _bare_answer(self, index: int) -> Term | None:
        """The number that the last step is, if it is nothing else."""
        step = self.steps[index]
        if index < len(self.steps) - 1 or step.wordy or len(step.chains) != 1:
            return None
        chain = step.chains[0]
        alone = len(chain.terms) == 1 and chain.terms[0].is_number and not chain.continues
        return chain.terms[0] if alone else None

    def _wrong_answer(self, index: int, span: str, value: Value) -> StepVerdict:
        reason = f"the problem is {_shown(self.problem.value)} and not {_shown(value)}"
        if self.last and self.last[2] != value and self.last[0] <= index:
            reason += f"; the last calculation gives {_shown(self.last[2])}"
        return StepVerdict(index, span, reason, "final")

    def _stops_short(self) -> StepVerdict:
        index = max((i for i, step in enumerate(self.steps) if step.text.strip()), default=0)
        step = self.steps[index]
        span = step.text[step.chains[-1].terms[0].start :] if step.chains else step.text
        span = span.strip()[-80:]
        return StepVerdict(index, span, "the solution ends before the problem is solved", "final")

    def _suspect_definitions(self) -> None:
        """Without an expression in letters to check, a letter should at least be a part."""
        for letter, (index, chain) in self.definitions.items():
            value = self.letters.get(letter)
            if self.formula_holds or value is None or value in self.problem.part_values:
                continue
            self.suspects.append(self._not_in_problem(index, chain))


def _is_formula(term: Term) -> bool:
    """Whether a term is an expression in letters; "A/B" may be no more than a choice of words."""
    return term.node is not None and bool(term.names) and not term.letter and is_whole(term.node)


def _number(value: Value) -> Node:
    return Node("number", value)


def _shown(value: Value | str) -> str:
    """A value or a quotation, shortened in the middle where it is long."""
    text = value if isinstance(value, str) else write_value(value)
    return text if len(text) <= 100 else f"{text[:60]}...{text[-30:]}"
