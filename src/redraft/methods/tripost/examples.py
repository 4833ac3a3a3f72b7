"""From edited trajectories to training examples (arXiv 2310.13522, stage (b)).

For training a trajectory is cut into examples, each a conversation of its own:

    x_SI   problem, answer, critique, next answer
    x_T    problem, right answer, confirming critique (or, of a trajectory that went backwards, its
           answer with the first critique)

which are balanced with each other and with gold solutions, each with a confirming critique. The tag
`example` says which of the three an example is.
"""

import math
from collections.abc import Sequence

import numpy as np

from redraft.learning.imitation import Example
from redraft.methods.tripost.editing import DROPPED, KEPT, OUT_OF_FORM, REASON, TAG, WORSE
from redraft.types import Episode

KIND = "example"
"""Tag of an example's episode: `IMPROVE` (x_SI), `CONFIRM` (x_T) or `GOLD`."""
IMPROVE, CONFIRM, GOLD = "improve", "confirm", "gold"


def slices(
    episode: Episode, feedback_weight: float = 1.0, train_attempt: bool = True
) -> list[Example]:
    """The examples in an edited trajectory that has the tokens of a rollout.

    None updates an answer that was right. An answer has loss weight 1, and everything from the
    critique on `feedback_weight`, or 1 where the teacher had no part in the trajectory. Without
    `train_attempt` a wrong answer that a critique is about is context only, with weight 0.
    """
    tag, turns = episode.tags[TAG], episode.turns
    if tag in (WORSE, DROPPED):
        return []
    later = 1.0 if tag == KEPT else feedback_weight
    pieces = [turns[begin : begin + 5] for begin in range(0, len(turns), 4)]
    if episode.tags.get(REASON) == OUT_OF_FORM:
        pieces = pieces[-1:]
    examples = []
    for piece in pieces:
        right = piece[0].grade is not None and piece[0].grade.correct
        improves = len(piece) == 5
        if improves and right:
            continue
        kind = {KIND: IMPROVE if improves else CONFIRM}
        first = 1.0 if train_attempt or right else 0.0
        alone = [turn.model_copy(update={"history": 0}) for turn in piece]
        cut = episode.model_copy(update={"turns": alone, "tags": episode.tags | kind})
        examples.append(Example(episode=cut, weights=[first, *[later] * (len(piece) // 2)]))
    return examples


def said(example: Example) -> tuple[str, ...]:
    """Question and responses without surrounding white space; examples that have these in common
    are duplicates."""
    episode = example.episode
    return (episode.problem.question, *(turn.text.strip() for turn in episode.responses))


def without_duplicates(examples: Sequence[Example]) -> list[Example]:
    """The first of all examples that say the same."""
    first: dict[tuple[str, ...], Example] = {}
    for example in examples:
        first.setdefault(said(example), example)
    return list(first.values())


def ratio_of(p: float) -> float:
    """r of x_SI : x_T : gold = r : 1 : 1 for a share p of x_SI: p = r / (r + 2), so 1.5 for 3/7."""
    return 2 * p / (1 - p) if p < 1 else math.inf


def balanced(
    found: Sequence[Example],
    gold: Sequence[Example],
    p: float,
    rng: np.random.Generator,
    most: int | None = None,
) -> list[Example]:
    """Examples in the proportions x_SI : x_T : gold = r : 1 : 1.

    x_T is sampled down to ceil(n_SI / r), never up; gold that says something else is added up to
    the number of x_T. With `most` x_SI is first sampled down so that the whole has at most `most`
    examples. p = 0 takes no x_SI and leaves x_T as it is, p = 1 takes x_SI alone. Where there is no
    x_SI, because the policy was always right, x_T stays as it is too.

    Returns:
        Examples in the order of `found`, x_SI before x_T, then gold.
    """
    improving = [one for one in found if one.episode.tags[KIND] == IMPROVE]
    confirming = [one for one in found if one.episode.tags[KIND] == CONFIRM]
    if most is not None:
        improving = _sampled(improving, max(1, round(p * most)), rng)
        confirming = confirming if p and improving else _sampled(confirming, most // 2, rng)
    if p == 0:
        improving = []
    elif p == 1:
        confirming = []
    elif improving:
        confirming = _sampled(confirming, math.ceil(len(improving) / ratio_of(p)), rng)
    known = set(map(said, confirming))
    other = [one for one in gold if said(one) not in known]
    return [*improving, *confirming, *_sampled(other, len(confirming), rng)]


def _sampled(found: Sequence[Example], count: int, rng: np.random.Generator) -> list[Example]:
    if count >= len(found):
        return list(found)
    chosen = rng.choice(len(found), size=count, replace=False)
    return [found[index] for index in sorted(chosen.tolist())]
