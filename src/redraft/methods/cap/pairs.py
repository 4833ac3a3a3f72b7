"""CaP's training data: programs that refine a chain of thought, chosen and paired. Pure functions.

The paper (arXiv 2412.16871) says that refinement is trained by supervised learning on (question,
chain) → right program and then by preference optimisation. Which programs enter the supervised set
and which pairs are made is this project's own specification. Programs are episodes whose label
(`evaluation.metrics.Label`) is in `tags["label"]`; those without one are left out. The order of
what is returned depends on nothing but the input.
"""

import io
import tokenize
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from functools import lru_cache
from textwrap import dedent
from typing import Literal, NamedTuple, TypeVar, get_args

from redraft.grading.program_text import extract_program
from redraft.types import Episode, Turn

PairKind = Literal["fix", "fix-hard", "preserve", "exec"]
"""What a pair teaches: after a wrong chain, not to copy it (`fix`) and not to be wrong in another
way (`fix-hard`); after a right chain, not to spoil it (`preserve`); after any, to run and to answer
(`exec`)."""

PAIR_KINDS: tuple[PairKind, ...] = get_args(PairKind)

T = TypeVar("T")


class Pair(NamedTuple):
    """Two programs on one prompt, the first right and the second not."""

    kind: PairKind
    chosen: Episode
    rejected: Episode


def supervised_set(
    episodes: Iterable[Episode],
    *,
    ratio: tuple[int, int] | None = (1, 1),
    per_question: int | None = 4,
) -> list[Episode]:
    """Right programs to imitate: (question, chain) → program.

    Of programs on one question that are the same code, one is kept after right and one after wrong
    chains: saying a right chain in code and repairing a wrong one are two lessons.

    Args:
        episodes: any; those that are not right are left out.
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
    right = [episode for episode in episodes if episode.tags.get("label") == "right"]
    right = _unique(right, lambda e: (e.problem.id, after_right_chain(e), code(e)))
    examples: list[Episode] = []
    for group in _groups(right, _question):
        wrong_chain_first = sorted(group, key=after_right_chain)
        examples += _spread(wrong_chain_first, after_right_chain)[:per_question]
    if ratio is None:
        return examples
    right_chain = [after_right_chain(example) for example in examples]
    counts = _balanced(right_chain.count(True), right_chain.count(False), ratio)
    kept: set[int] = set()
    for side, count in zip((True, False), counts, strict=True):
        places = [index for index, is_right in enumerate(right_chain) if is_right is side]
        kept.update(_spread(places, lambda index: examples[index].problem.id)[:count])
    return [examples[index] for index in sorted(kept)]


def all_pairs(episodes: Iterable[Episode]) -> list[Pair]:
    """Every pair of a right and another program on the same prompt.

    A program that did not answer (`silent`) is rejected beside those that did not run (`exec`).
    The pairs of one prompt and kind are ordered so that no program comes again sooner than it must:
    any beginning has as many different programs as it can.
    """
    labelled = [episode for episode in episodes if "label" in episode.tags]
    return [pair for group in _groups(labelled, _prompt) for pair in _pairs_of_prompt(group)]


def capped(
    pairs: Sequence[Pair], *, per_question: int | None = 8, exec_share: float = 0.25
) -> list[Pair]:
    """The pairs to learn from.

    Args:
        pairs: as `all_pairs` orders them.
        per_question: at most so many pairs of one kind on one question, spread over its prompts.
            None: all.
        exec_share: `exec` pairs are at most this share of all pairs: they are the easiest to learn.

    Raises:
        ValueError: `exec_share` outside [0, 1], or `per_question` below 1.
    """
    if not 0 <= exec_share <= 1:
        raise ValueError(f"exec_share {exec_share}: expected a share between 0 and 1")
    _check_cap(per_question)
    few = [
        pair
        for group in _groups(pairs, lambda pair: (pair.chosen.problem.id, pair.kind))
        for pair in _spread(group, lambda pair: _prompt(pair.chosen))[:per_question]
    ]
    others = [pair for pair in few if pair.kind != "exec"]
    easy = [pair for pair in few if pair.kind == "exec"]
    easy = _spread(easy, lambda pair: _question(pair.chosen))
    if exec_share < 1:
        most = exec_share * len(others) / (1 - exec_share)
        easy = easy[: int(most + 1e-9)]  # 0.25 of 12 beside 9 others is 3, not 2.999...
    return others + easy


def count_kinds(pairs: Iterable[Pair]) -> dict[PairKind, int]:
    """Number of pairs by kind, every kind named."""
    counts = Counter(pair.kind for pair in pairs)
    return {kind: counts[kind] for kind in PAIR_KINDS}


def chain_of(episode: Episode) -> Turn | None:
    """The chain that a program refines; None for a program of the bare question."""
    return episode.responses[0] if len(episode.responses) == 2 else None


def after_right_chain(episode: Episode) -> bool:
    """Whether the chain that a program refines is right."""
    chain = chain_of(episode)
    return chain is not None and chain.grade is not None and chain.grade.correct


def code(episode: Episode) -> str:
    """An episode's program as `normalised_code` has it."""
    return normalised_code(extract_program(episode.responses[-1].text))


@lru_cache(maxsize=4096)  # the programs of one prompt are compared again and again
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


def _pairs_of_prompt(episodes: Sequence[Episode]) -> Iterator[Pair]:
    """All pairs on one prompt, in the order that `all_pairs` promises."""
    right = _unique((e for e in episodes if e.tags["label"] == "right"), code)
    # The same code may be right in one run and cut off by the clock in another.
    known = {code(episode) for episode in right}
    rejected: dict[PairKind, list[Episode]] = defaultdict(list)
    for episode in episodes:
        if code(episode) not in known:
            rejected[_kind(episode)].append(episode)
    for kind in PAIR_KINDS:
        losers = _unique(rejected[kind], code)
        for shift in range(len(losers)):
            for index, winner in enumerate(right):
                yield Pair(kind, winner, losers[(index + shift) % len(losers)])


def _kind(rejected: Episode) -> PairKind:
    """What is learned by rejecting a program."""
    label = rejected.tags["label"]
    if label in ("error", "timeout", "silent"):
        return "exec"
    if after_right_chain(rejected):
        return "preserve"
    return "fix" if label == "copy" else "fix-hard"


def _question(episode: Episode) -> str:
    return episode.problem.id


def _prompt(episode: Episode) -> tuple[str, str]:
    """What a program is conditioned on: chains of one text are one prompt."""
    chain = chain_of(episode)
    return episode.problem.id, "" if chain is None else chain.text


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
