"""RISE (arXiv 2407.18219): iterative, reward-weighted fine-tuning on the model's own turns.

    for k in 1..K
        roll-in      the policy tries each problem up to k times at T = 1, until it is right
        improvement  at the state reached: a teacher's response, or the best of N of its own
        weighting    w_t = exp(r_t / τ) for every response of the episode
        fine-tuning  Σ_t w_t · (-log π(y_t | s_t)), then the next iteration

`docs/methods/rise.md` maps the paper to functions and says what was not disclosed.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from redraft.chat.protocols import Intrinsic, Oracle
from redraft.chat.rollout import first_shown, lay_out
from redraft.engines.base import Failed, Request
from redraft.grading import grade_all
from redraft.learning.imitation import (
    Chosen,
    Criterion,
    Example,
    accepted,
    defect,
    rewards,
    weigh,
    without_duplicates,
)
from redraft.training.method import Method
from redraft.training.settings import TeacherConfig
from redraft.types import Episode, Message, Problem, Turn, same_problem_groups, shown

if TYPE_CHECKING:
    from redraft.training.supervised import SupervisedRun
    from redraft.training.teacher import Teacher

RELEASED: dict[str, Any] = {
    "prompts": "rise",
    "window": 2,
    "learning_rate": 1e-5,
    "epochs": 2.0,
    "batch_size": 64,
    "warmup_share": 0.04,
    "max_tokens": 1000,
    "teacher_temperature": 0.7,
    "teacher_max_tokens": 512,
    "best_of": 16,
}
"""Settings of the released code; 2 epochs is the paper's number as remembered, not as seen."""


class RiseConfig(TeacherConfig):
    """A RISE run, or one of the ablations of its paper."""

    improve: Literal["self", "teacher"] = "self"
    """Who writes the improved response at the state that the roll-in has reached: the policy
    itself, the best of `best_of` samples (self-distillation), or the teacher (distillation)."""
    best_of: int = Field(default=16, ge=2)
    """Responses of self-distillation to choose from (paper: 16)."""
    samples: int = Field(default=1, ge=1)
    """Roll-ins of each problem."""
    reward_temperature: float = Field(default=0.4, gt=0)
    """τ of the weights exp(r/τ) (paper: 0.4, so that a right response counts 12.2 times a wrong
    one)."""
    centred: bool = False
    """Subtract the mean over a problem's responses from its weights, as the paper says and its code
    does not; what falls below 0 becomes 0."""
    normalize_weights: bool = False
    """Divide the weights by their mean, so that the learning rate means the same whatever the
    success rate; the paper's code does not."""
    criterion: Criterion = "all"
    """Responses that are learned from: `all`; `better` than the one before; `best` so far;
    `success`, the right ones only."""
    only_solved: bool = False
    """Leave out problems that were never solved."""
    unparsable_reward: float = 0.0
    """Reward of a response without an answer (the paper's code: -1 on GSM8K, 0 on MATH)."""
    boost_epochs: float = Field(default=0.0, ge=0)
    """Epochs of fine-tuning on the teacher's right first responses before iteration 1 (the paper's
    knowledge boosting, used for Llama-2 only); iteration folder 00."""

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "gsm8k": {"task": "gsm8k", **RELEASED, "unparsable_reward": -1.0},
        "math": {"task": "math", **RELEASED},
    }

    @property
    def first_iteration(self) -> int:
        """0 with knowledge boosting, else 1."""
        return 0 if self.boost_epochs else 1

    def epochs_of(self, iteration: int) -> float:
        """Passes over the examples of an iteration."""
        return self.boost_epochs if iteration == 0 else self.epochs

    @model_validator(mode="after")
    def _weights_are_finite(self) -> Self:
        largest, best = math.log(np.finfo(np.float32).max), max(1.0, self.unparsable_reward)
        if best / self.reward_temperature > largest:
            raise ValueError(
                f"reward_temperature {self.reward_temperature:g}: the weight exp({best:g} / "
                f"{self.reward_temperature:g}) is too large for 32-bit numbers; give more than "
                f"{best / largest:.2g} (paper: 0.4)"
            )
        return self

    @property
    def asks_a_teacher(self) -> bool:
        """Whether the run has a use for a teacher."""
        return self.improve == "teacher" or self.boost_epochs > 0

    @model_validator(mode="after")
    def _has_a_teacher_where_one_is_needed(self) -> Self:
        if self.teacher is not None and not self.asks_a_teacher:
            raise ValueError(
                f"teacher {self.teacher!r} would not be asked; give --improve teacher or "
                "--boost-epochs, or leave the teacher out"
            )
        if self.teacher is None and self.asks_a_teacher:
            wants = "improve 'teacher'" if self.improve == "teacher" else "boost_epochs"
            raise ValueError(
                f"{wants} needs a teacher: --teacher expert, http://HOST:PORT/v1#MODEL or a model"
            )
        return self


class Rise:
    """The recipe: what an iteration samples, and what it learns from."""

    def __init__(self, run: "SupervisedRun[Any]") -> None:
        """For a run whose configuration is a `RiseConfig`."""
        turns = max(2, run.config.iterations + 1)  # of the longest episodes that are learned from
        run.evaluation = replace(
            run.evaluation, protocol=Intrinsic(run.prompts, turns), answers=turns
        )
        self.teacher = run.open_teacher() if run.config.asks_a_teacher else None

    def collect(
        self, run: "SupervisedRun[RiseConfig]", problems: Sequence[Problem]
    ) -> list[Episode]:
        """Roll-in, and where it did not succeed one improved response more."""
        config = run.config
        if run.iteration == 0:
            assert self.teacher is not None
            return first_responses(run, self.teacher, problems)
        protocol = Oracle(run.prompts, run.iteration)
        rolled = run.rolled(
            problems,
            lambda new: run.sample(
                new, protocol, samples=config.samples, history_turns=config.window
            ),
        )
        solved = [episode for episode in rolled if episode.outcome != "finished"]
        unsolved = [episode for episode in rolled if episode.outcome == "finished"]
        if config.improve == "self":
            return solved + best_of_own(run, unsolved)
        assert self.teacher is not None
        answered = {(one.problem.id, one.sample): one for one in run.earlier(problems)}
        had = [(one, answered.get((one.problem.id, one.sample))) for one in unsolved]
        waiting = [one for one, improved in had if improved is None]
        known = [improved for _, improved in had if improved is not None]
        return solved + known + taught(run, self.teacher, waiting)

    def choose(self, run: "SupervisedRun[RiseConfig]", episodes: Sequence[Episode]) -> Chosen:
        """Weights of all responses; those that are unfit, repeated or not accepted get none."""
        config, episodes = run.config, [episode for episode in episodes if episode.answers]
        if run.iteration == 0:
            right = [e for e in episodes if e.correct[0] and not defect(e.answers[0])]
            boosting = [Example(episode=episode, weights=[1.0]) for episode in right]
            counts = {"not_accepted": len(episodes) - len(right), **_of_teacher(episodes)}
            return Chosen(boosting, counts)
        dropped: Counter[str] = Counter()
        examples = []
        for group in same_problem_groups(episodes):
            worth = [rewards(episodes[index], config.unparsable_reward) for index in group]
            weights = weigh(worth, config.reward_temperature, centred=config.centred)
            for index, reward, weight in zip(group, worth, weights, strict=True):
                kept = _filter(episodes[index], reward, config, dropped)
                chosen = [w if keep else 0.0 for w, keep in zip(weight, kept, strict=True)]
                if below := sum(kept) - sum(w > 0 for w in chosen):
                    dropped["below_mean"] += below
                if any(chosen):
                    examples.append(Example(episode=episodes[index], weights=chosen))
        used = [weight for example in examples for weight in example.weights if weight]
        if config.normalize_weights and used:
            mean = float(np.mean(used))
            examples = [
                Example(episode=e.episode, weights=[w / mean for w in e.weights]) for e in examples
            ]
        answered = _of_teacher(episodes) if config.improve == "teacher" else {}
        return Chosen(examples, {**_measures(examples), **answered, **dropped})


def best_of_own(run: "SupervisedRun[RiseConfig]", episodes: Sequence[Episode]) -> list[Episode]:
    """Each episode with the best of N further responses of the policy: the first of those with the
    highest reward."""
    if not episodes:
        return []
    config, size = run.config, run.config.best_of
    made = run.sample(
        [episode.problem for episode in episodes],
        Oracle(run.prompts, run.iteration + 1),
        samples=size,
        key=1,
        given=[episode.responses for episode in episodes for _ in range(size)],
        history_turns=config.window,
    )
    best = []
    for place, episode in enumerate(episodes):
        tried = made[place * size : (place + 1) * size]
        worth = [rewards(one, config.unparsable_reward)[-1] for one in tried]
        chosen = tried[int(np.argmax(worth))]
        best.append(chosen.model_copy(update={"sample": episode.sample}))
    return best


def first_responses(
    run: "SupervisedRun[Any]", teacher: "Teacher", problems: Sequence[Problem]
) -> list[Episode]:
    """The teacher's own first response to each problem."""
    empty = [
        Episode(problem=p, messages=run.prompts.opening(p), turns=[], protocol=Oracle.name)
        for p in problems
    ]
    return with_teacher(run, teacher, empty)


def taught(
    run: "SupervisedRun[Any]", teacher: "Teacher", episodes: Sequence[Episode]
) -> list[Episode]:
    """Each episode with a response that the teacher writes at the state the policy has reached."""
    asked = []
    for episode in episodes:
        said = Turn(author="environment", text=run.prompts.again(episode.problem))
        asked.append(episode.model_copy(update={"turns": [*episode.turns, said]}))
    return with_teacher(run, teacher, asked)


def with_teacher(
    run: "SupervisedRun[Any]", teacher: "Teacher", episodes: Sequence[Episode]
) -> list[Episode]:
    """Episodes, which begin or end with a request for a response, with the teacher's; those that it
    did not answer have failed, or are truncated where its context is full.

    The episodes are laid out with the tokens of a rollout; the teacher's response is the last.
    """
    window = run.config.window
    requests = [
        Request(
            _visible(episode, window),
            problem=episode.problem.id,
            sample=episode.sample,
            turn=len(episode.responses),
        )
        for episode in episodes
    ]
    answers = teacher.answer(requests)
    had = [
        (episode, answer)
        for episode, answer in zip(episodes, answers, strict=True)
        if not isinstance(answer, Failed)
    ]
    grades = iter(
        grade_all(
            run.task.grader,
            [(episode.problem, answer.text) for episode, answer in had],
            [answer.finish == "length" for _, answer in had],
        )
    )
    done = []
    for episode, answer in zip(episodes, answers, strict=True):
        if isinstance(answer, Failed):
            done.append(episode.unanswered(answer.reason, context_full=answer.context_full))
            continue
        turn = teacher.turn(answer).model_copy(update={"grade": next(grades)})
        done.append(
            lay_out(
                episode.problem,
                episode.messages,
                [*episode.turns, turn],
                run.policy.template,
                history_turns=window,
                protocol=episode.protocol,
                policy=episode.policy,
                sample=episode.sample,
                outcome="solved" if turn.grade and turn.grade.correct else "finished",
            )
        )
    return done


def _visible(episode: Episode, window: int | None) -> list[Message]:
    """The conversation that the next response of an episode answers."""
    first = 0 if window is None else first_shown(episode.turns, window - 1)
    return shown(episode.messages, episode.turns[first:])


def _filter(
    episode: Episode, reward: Sequence[float], config: RiseConfig, dropped: Counter[str]
) -> list[bool]:
    """Which responses are learned from; counts why others are not."""
    if config.only_solved and not episode.correct[-1]:
        dropped["unsolved"] += 1
        return [False] * len(reward)
    fresh = without_duplicates(episode)
    wanted = accepted(reward, config.criterion)
    kept = []
    for turn, is_fresh, is_wanted in zip(episode.answers, fresh, wanted, strict=True):
        why = defect(turn) or (None if is_fresh else "duplicate")
        why = why or (None if is_wanted else "not_accepted")
        if why:
            dropped[why] += 1
        kept.append(why is None)
    return kept


def _of_teacher(episodes: Sequence[Episode]) -> dict[str, float]:
    """How often the teacher is right, over all that it has answered."""
    grades = [
        turn.grade
        for episode in episodes
        for turn in episode.answers
        if turn.author == "teacher" and turn.grade is not None
    ]
    return {"teacher_attempts": len(grades), "teacher_right": sum(g.correct for g in grades)}


def _measures(examples: Sequence[Example]) -> dict[str, float]:
    """How much of what is learned from is right."""
    pairs = [
        (weight, correct)
        for example in examples
        for correct, weight in zip(example.episode.correct, example.weights, strict=True)
        if weight
    ]
    right = sum(weight for weight, correct in pairs if correct)
    total = sum(weight for weight, _ in pairs)
    return {
        "attempts": len(pairs),
        "attempts_right": sum(correct for _, correct in pairs),
        "weight_right": right / total if total else 0.0,
    }


def train(run: "SupervisedRun[RiseConfig]") -> None:
    """Go through the iterations that are left."""
    from redraft.training.supervised import iterate

    iterate(run, Rise(run))


METHOD = Method(
    name="rise",
    help="""RISE (arXiv 2407.18219): iterative, reward-weighted fine-tuning on its own turns.

The policy tries each problem until it is right, a teacher or the best of N of its own responses
improves on where it got stuck, and every response is imitated with weight exp(reward / 0.4).""",
    settings=RiseConfig,
    train=train,
    run="supervised",
    paper="arXiv 2407.18219",
)
