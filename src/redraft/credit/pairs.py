"""Training data of CaP: programs that refine a chain of thought, labelled, chosen and paired.

The paper (arXiv 2412.16871) says that refinement is trained by supervised learning on (question,
chain) → right program and then by preference optimisation. How programs are labelled, which enter
the supervised set and which pairs are made is this project's own specification. All of it is pure:
records in, records out, in an order that depends on nothing but the input.
"""

import io
import operator
import tokenize
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from textwrap import dedent
from typing import Literal, TypeVar, get_args

Label = Literal["right", "wrong", "copy", "error", "timeout", "silent"]
"""What a program is worth: `copy` is wrong with the chain's own wrong answer, `silent` ran to its
end without an answer, `error` covers all that ended half-way (memory and output limits too)."""

PairKind = Literal["fix", "fix-hard", "preserve", "exec"]
"""What a pair teaches: after a wrong chain, not to copy it (`fix`) and not to be wrong in another
way (`fix-hard`); after a right chain, not to spoil it (`preserve`); after any, to run and to answer
(`exec`)."""

PAIR_KINDS: tuple[PairKind, ...] = get_args(PairKind)

T = TypeVar("T")


@dataclass(frozen=True)
class Chain:
    """One chain of thought on one problem: its text, the answer read from it (None: there is none),
    whether that is right, and the model that wrote it."""

    problem: str
    text: str
    answer: str | None
    correct: bool
    source: str = ""

    @property
    def prompt(self) -> tuple[str, str]:
        """What a refinement is conditioned on: chains of one text are one prompt."""
        return self.problem, self.text


@dataclass(frozen=True)
class Outcome:
    """How a program's run ended, in the sandbox's words, and what it answered.

    `answer` is None where nothing was printed that is an answer. Only a finished run can be
    correct; another is so by accident of what it printed before, and is not rewarded.
    """

    status: Literal["finished", "error", "timeout", "memory", "output", "infrastructure"]
    answer: str | None = None
    correct: bool = False

    def __post_init__(self) -> None:
        if self.correct and (self.status != "finished" or self.answer is None):
            raise ValueError(
                f"a run with status {self.status!r} and answer {self.answer!r} cannot be correct"
            )


@dataclass(frozen=True)
class Program:
    """A program written after a chain of thought, and what came of running it."""

    chain: Chain
    code: str
    outcome: Outcome

    @cached_property
    def normalised(self) -> str:
        """The code as `normalised_code` has it."""
        return normalised_code(self.code)


@dataclass(frozen=True)
class ProgramPair:
    """Two programs on one prompt, the first right and the second not."""

    kind: PairKind
    chosen: Program
    rejected: Program

    @property
    def chain(self) -> Chain:
        """The chain both refine."""
        return self.chosen.chain


@dataclass(frozen=True)
class PairSet:
    """Pairs for the preference stage; how many there were of each kind before the caps, and are."""

    pairs: list[ProgramPair]
    found: dict[PairKind, int]
    kept: dict[PairKind, int]


Same = Callable[[str, str], bool]
"""Whether two answers are the same, as the task's grader sees it."""


def label(program: Program, same: Same = operator.eq) -> Label | None:
    """The program's label; None where the sandbox failed, which is nobody's mistake.

    Args:
        program: with its outcome.
        same: decides whether a wrong answer is the chain's own.
    """
    chain, outcome = program.chain, program.outcome
    match outcome.status:
        case "infrastructure":
            return None
        case "timeout":
            return "timeout"
        case "error" | "memory" | "output":
            return "error"
    if outcome.answer is None:
        return "silent"
    if outcome.correct:
        return "right"
    if not chain.correct and chain.answer is not None and same(outcome.answer, chain.answer):
        return "copy"
    return "wrong"


def count_labels(programs: Iterable[Program], same: Same = operator.eq) -> dict[str, int]:
    """Number of programs by label, every label named; `infrastructure` where there is none."""
    counts = Counter(label(program, same) or "infrastructure" for program in programs)
    return {name: counts[name] for name in (*get_args(Label), "infrastructure")}


def normalised_code(code: str) -> str:
    """Python code without comments, blank lines, spacing and common indentation: programs that are
    equal but for these have the same.

    It is read token by token and never parsed or run. What is not Python is compared by its words.
    """
    words = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(dedent(code)).readline):
            if token.type in (tokenize.INDENT, tokenize.DEDENT, tokenize.NEWLINE):
                words.append(tokenize.tok_name[token.type])
            elif token.type not in (tokenize.COMMENT, tokenize.NL, tokenize.ENDMARKER):
                words.append(token.string)
    except (tokenize.TokenError, SyntaxError):
        words = code.split()
    return " ".join(words)


def sft_examples(
    programs: Iterable[Program],
    *,
    ratio: tuple[int, int] | None = (1, 1),
    per_question: int | None = 4,
) -> list[Program]:
    """Right programs to imitate: (question, chain) → program.

    Of programs on one question that are the same code, one is kept after right and one after wrong
    chains: saying a right chain in code and repairing a wrong one are two lessons.

    Args:
        programs: any; those that are not right are left out.
        ratio: examples with right chains to examples with wrong chains. The side that has too many
            gives some up, from the questions with most of them; one with none leaves none of the
            other. None: as they come.
        per_question: at most so many examples of one question, by turns with wrong and right
            chains. None: all.

    Raises:
        ValueError: a negative share in `ratio`, two zeros, or `per_question` below 1.
    """
    if ratio is not None and (min(ratio) < 0 or max(ratio) == 0):
        raise ValueError(f"ratio {ratio}: expected two numbers, not negative and not both 0")
    _check_cap(per_question)
    right = [program for program in programs if label(program) == "right"]
    right = _unique(right, lambda p: (p.chain.problem, p.chain.correct, p.normalised))
    examples: list[Program] = []
    for group in _groups(right, lambda p: p.chain.problem):
        wrong_chain_first = sorted(group, key=lambda p: p.chain.correct)
        examples += _spread(wrong_chain_first, lambda p: p.chain.correct)[:per_question]
    if ratio is None:
        return examples
    sides = [[p for p in examples if p.chain.correct is correct] for correct in (True, False)]
    kept: set[int] = set()
    for side, count in zip(sides, _balanced(len(sides[0]), len(sides[1]), ratio), strict=True):
        kept |= {id(p) for p in _spread(side, lambda p: p.chain.problem)[:count]}
    return [program for program in examples if id(program) in kept]


def preference_pairs(
    programs: Iterable[Program],
    *,
    same: Same = operator.eq,
    per_question: int | None = 8,
    exec_share: float = 0.25,
) -> PairSet:
    """Typed pairs of programs on the same prompt, the chosen one right.

    Each right program meets as many different rejected ones as the caps allow. A program that did
    not answer (`silent`) is rejected beside those that did not run (`exec`).

    Args:
        programs: any number after each chain.
        same: decides what is a copy, see `label`.
        per_question: at most so many pairs of one kind on one question, spread over its prompts.
            None: all.
        exec_share: `exec` pairs are at most this share of all pairs: they are the easiest to learn.

    Raises:
        ValueError: `exec_share` outside [0, 1], or `per_question` below 1.
    """
    if not 0 <= exec_share <= 1:
        raise ValueError(f"exec_share {exec_share}: expected a share between 0 and 1")
    _check_cap(per_question)
    found = [
        pair
        for group in _groups(programs, lambda p: p.chain.prompt)
        for pair in _pairs_of_prompt(group, same)
    ]
    capped = [
        pair
        for group in _groups(found, lambda pair: (pair.chain.problem, pair.kind))
        for pair in _spread(group, lambda pair: pair.chain.prompt)[:per_question]
    ]
    others = [pair for pair in capped if pair.kind != "exec"]
    easy = _spread([p for p in capped if p.kind == "exec"], lambda pair: pair.chain.problem)
    if exec_share < 1:
        most = exec_share * len(others) / (1 - exec_share)
        easy = easy[: int(most + 1e-9)]  # 0.25 of 12 beside 9 others is 3, not 2.999...
    pairs = others + easy
    return PairSet(pairs, found=_count(found), kept=_count(pairs))


def _pairs_of_prompt(programs: Sequence[Program], same: Same) -> Iterator[ProgramPair]:
    """All pairs on one prompt, ordered so that no program comes again sooner than it must."""
    labelled = [(program, label(program, same)) for program in programs]
    right = [program for program, name in labelled if name == "right"]
    right = _unique(right, lambda p: p.normalised)
    # The same code may be right in one run and cut off by the clock in another.
    known = {program.normalised for program in right}
    rejected: dict[PairKind, list[Program]] = defaultdict(list)
    for program, name in labelled:
        if name is not None and name != "right" and program.normalised not in known:
            rejected[_kind(name, program.chain.correct)].append(program)
    for kind in PAIR_KINDS:
        losers = _unique(rejected[kind], lambda p: p.normalised)
        for shift in range(len(losers)):
            for index, winner in enumerate(right):
                yield ProgramPair(kind, winner, losers[(index + shift) % len(losers)])


def _kind(name: Label, chain_correct: bool) -> PairKind:
    if name in ("error", "timeout", "silent"):
        return "exec"
    if chain_correct:
        return "preserve"
    return "fix" if name == "copy" else "fix-hard"


def _count(pairs: Iterable[ProgramPair]) -> dict[PairKind, int]:
    counts = Counter(pair.kind for pair in pairs)
    return {kind: counts[kind] for kind in PAIR_KINDS}


def _balanced(right: int, wrong: int, ratio: tuple[int, int]) -> tuple[int, int]:
    """How many of each side to keep; a share that is no whole number is rounded up."""
    a, b = ratio
    return (
        right if b == 0 else min(right, -(-wrong * a // b)),
        wrong if a == 0 else min(wrong, -(-right * b // a)),
    )


def _check_cap(per_question: int | None) -> None:
    if per_question is not None and per_question < 1:
        raise ValueError(f"per_question {per_question}: expected at least 1, or None for no limit")


def _groups(items: Iterable[T], key: Callable[[T], Hashable]) -> list[list[T]]:
    """Items by key, groups and members in order of first appearance."""
    groups: dict[Hashable, list[T]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return list(groups.values())


def _spread(items: Iterable[T], key: Callable[[T], Hashable]) -> list[T]:
    """The items, by turns from each key's group: any beginning takes from as many as it can."""
    groups = _groups(items, key)
    longest = max(map(len, groups), default=0)
    return [group[i] for i in range(longest) for group in groups if i < len(group)]


def _unique(items: Iterable[T], key: Callable[[T], Hashable]) -> list[T]:
    """The first item of each key."""
    return [group[0] for group in _groups(items, key)]
