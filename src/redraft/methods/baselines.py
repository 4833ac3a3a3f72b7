"""What RISE and SCoRe are compared with: supervised methods on the same loop.

`star` and `pair-sft` are SCoRe's baselines (arXiv 2409.12917, section 6 and appendix), each as D
and, with `plus`, as D+; `bon-sft` is RISE's data without its weights; `off-policy-sft` learns from
a teacher's traces; `lmsi` from the policy's own majority. In all of them but `bon-sft` an example's
last response carries the loss, and what comes before it is context.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeVar

import numpy as np
from pydantic import Field, model_validator

from redraft.chat.protocols import Intrinsic
from redraft.chat.rollout import lay_out
from redraft.learning.imitation import Chosen, Criterion, Example, defect
from redraft.methods.rise import Rise, RiseConfig, first_responses, taught
from redraft.training.method import Method
from redraft.training.settings import SupervisedConfig, TeacherConfig
from redraft.types import Episode, Problem, Turn, same_problem_groups

if TYPE_CHECKING:
    from redraft.training.supervised import SupervisedRun

S = TypeVar("S", bound=SupervisedConfig)


def _without_window(config: S, why: str) -> S:
    """Refuse a window where it would change nothing, or take away what is to be learned."""
    if config.window is not None:
        raise ValueError(f"window {config.window}: {why}; leave the window out")
    return config


class StarConfig(SupervisedConfig):
    """STaR on corrections: imitate the second responses that repaired a wrong first one."""

    iterations: int = Field(default=3, ge=1)
    """Rounds of collecting and fine-tuning (SCoRe's baseline: 3)."""
    start: Literal["previous", "base"] = "base"
    """Weights that each iteration fine-tunes: the base model's, as in ReST-EM, whose form of STaR
    SCoRe's baseline has, or those of the iteration before. Responses are always collected from the
    newest policy."""
    plus: bool = False
    """D+: also the second responses that kept a right first one right."""
    samples: int = Field(default=8, ge=1)
    """Two-response episodes of each problem."""


class PairSftConfig(SupervisedConfig):
    """Pair-SFT (Welleck et al., in SCoRe's form): random wrong and right responses at a problem,
    put together to a synthetic correction."""

    epochs: float = Field(default=1.0, gt=0)
    """Passes over the examples (SCoRe's baseline: 1)."""
    plus: bool = False
    """D+: also pairs of two right responses."""
    samples: int = Field(default=8, ge=2)
    """Two-response episodes of each problem whose responses are paired."""

    @model_validator(mode="after")
    def _sees_the_response_before(self) -> Self:
        return _without_window(self, "a pair is the problem and both responses")


class BestOfNConfig(RiseConfig):
    """Best-of-N fine-tuning: RISE's data, right responses only, all with weight 1."""

    criterion: Criterion = "success"
    """Responses that are learned from: `success`, the right ones; nothing else is best of N."""
    normalize_weights: bool = True
    """Right responses have one weight, which becomes 1; always so."""

    @model_validator(mode="after")
    def _is_best_of_n(self) -> Self:
        if self.criterion != "success" or self.centred or not self.normalize_weights:
            raise ValueError(
                "bon-sft learns from right responses alone and from all alike: it needs criterion "
                "success, normalize_weights true and centred false; other weights are `redraft "
                "train rise`"
            )
        return self


class OffPolicyConfig(TeacherConfig):
    """Fine-tuning on the teacher's own multi-turn traces: none of the policy's mistakes in them."""

    attempts: int = Field(default=2, ge=1)
    """Responses of the teacher to a problem; it stops when it is right."""
    needs_teacher: ClassVar[bool] = True


class LmsiConfig(SupervisedConfig):
    """LMSI (arXiv 2210.11610): imitate the samples that agree with their majority; no gold."""

    samples: int = Field(default=16, ge=2)
    """First responses at each problem that vote."""
    agreement: float = Field(default=0.0, ge=0, le=1)
    """Share of the samples that must agree for a problem to count."""

    @model_validator(mode="after")
    def _makes_first_responses(self) -> Self:
        return _without_window(self, "a first response has nothing before it")


class Star:
    """Second responses that are right, after first ones that were not (D+: or that were)."""

    def collect(
        self, run: "SupervisedRun[StarConfig]", problems: Sequence[Problem]
    ) -> list[Episode]:
        """Two responses at a time."""
        config = run.config
        return run.sample(
            problems,
            Intrinsic(run.prompts, 2),
            samples=config.samples,
            history_turns=config.window,
        )

    def choose(self, run: "SupervisedRun[StarConfig]", episodes: Sequence[Episode]) -> Chosen:
        """Traces from wrong to right, and with `plus` from right to right."""
        wanted = {(False, True), (True, True)} if run.config.plus else {(False, True)}
        chosen = [
            Example(episode=episode, weights=[0.0, 1.0])
            for episode in episodes
            if tuple(episode.correct) in wanted and not defect(episode.answers[-1])
        ]
        return Chosen(chosen, _by_kind(chosen))


class PairSft:
    """A wrong response and a right one to the same problem, drawn from all that were made."""

    def collect(
        self, run: "SupervisedRun[PairSftConfig]", problems: Sequence[Problem]
    ) -> list[Episode]:
        """Two responses at a time: first and second ones go into one pool."""
        return run.sample(problems, Intrinsic(run.prompts, 2), samples=run.config.samples)

    def choose(self, run: "SupervisedRun[PairSftConfig]", episodes: Sequence[Episode]) -> Chosen:
        """One synthetic trace per problem, or two with `plus`, as far as its pool goes.

        The two responses of a trace are different samples. Two right ones may still read alike:
        what is known of the paper says nothing about it, so a sample with another text is drawn if
        there is one, and the same text again if there is not.
        """
        rng = np.random.default_rng([run.config.seed, run.iteration])
        chosen = []
        for group in same_problem_groups(episodes):
            pool = [turn for i in group for turn in episodes[i].answers if not defect(turn)]
            wrong = [turn for turn in pool if not _right(turn)]
            right = [turn for turn in pool if _right(turn)]
            for before in [wrong, right] if run.config.plus else [wrong]:
                if trace := _trace(before, right, rng):
                    episode = _laid_out(run, episodes[group[0]].problem, trace)
                    chosen.append(Example(episode=episode, weights=[0.0, 1.0]))
        return Chosen(chosen, _by_kind(chosen))


def _right(turn: Turn) -> bool:
    return turn.grade is not None and turn.grade.correct


def _trace(
    before: Sequence[Turn], after: Sequence[Turn], rng: np.random.Generator
) -> list[Turn] | None:
    """A response from each, not the same one and if possible of another text."""
    if not before:
        return None
    first = before[int(rng.integers(len(before)))]
    others = [turn for turn in after if turn is not first]
    seconds = [turn for turn in others if turn.text != first.text] or others
    return [first, seconds[int(rng.integers(len(seconds)))]] if seconds else None


def _laid_out(
    run: "SupervisedRun[PairSftConfig]", problem: Problem, trace: Sequence[Turn]
) -> Episode:
    """Two responses with the retry instruction between them."""
    first, second = trace
    again = Turn(author="environment", text=run.prompts.again(problem))
    return lay_out(
        problem,
        run.prompts.opening(problem),
        [first, again, second],
        run.policy.template,
        protocol=Intrinsic.name,
    )


class OffPolicy:
    """The teacher's traces, up to its first right response."""

    def __init__(self, run: "SupervisedRun[OffPolicyConfig]") -> None:
        """For a run whose configuration names a teacher."""
        turns = max(2, run.config.attempts)
        run.evaluation = replace(
            run.evaluation, protocol=Intrinsic(run.prompts, turns), answers=turns
        )
        self.teacher = run.open_teacher()

    def collect(
        self, run: "SupervisedRun[OffPolicyConfig]", problems: Sequence[Problem]
    ) -> list[Episode]:
        """First responses, then again and again where they were wrong."""
        episodes = first_responses(run, self.teacher, problems)
        for _ in range(run.config.attempts - 1):
            wrong = [episode for episode in episodes if episode.outcome == "finished"]
            done = [episode for episode in episodes if episode.outcome != "finished"]
            episodes = done + taught(run, self.teacher, wrong)
        return episodes

    def choose(self, run: "SupervisedRun[OffPolicyConfig]", episodes: Sequence[Episode]) -> Chosen:
        """The traces that end right; the last response is learned from."""
        right = [e for e in episodes if e.correct[-1:] == [True] and not defect(e.answers[-1])]
        chosen = [Example(episode=e, weights=[*[0.0] * (len(e.answers) - 1), 1.0]) for e in right]
        return Chosen(chosen, _by_kind(chosen))


class Lmsi:
    """First responses that agree with the majority of their problem's."""

    def __init__(self, run: "SupervisedRun[LmsiConfig]") -> None:
        """For a run whose held-out problems are answered once, too."""
        run.evaluation = replace(run.evaluation, protocol=Intrinsic(run.prompts, 1), answers=1)

    def collect(
        self, run: "SupervisedRun[LmsiConfig]", problems: Sequence[Problem]
    ) -> list[Episode]:
        """Many first responses."""
        return run.sample(problems, Intrinsic(run.prompts, 1), samples=run.config.samples)

    def choose(self, run: "SupervisedRun[LmsiConfig]", episodes: Sequence[Episode]) -> Chosen:
        """Distinct responses whose answer won their problem's vote; gold answers play no part."""
        from redraft.evaluation.voting import majority_group  # scipy would slow `--help` down

        chosen = []
        answered = [episode for episode in episodes if episode.answers]
        for group in same_problem_groups(answered):
            members = [answered[index] for index in group]
            agreeing = majority_group([episode.grades[0].answer for episode in members])
            if len(agreeing) < run.config.agreement * len(members):
                continue
            said: set[str] = set()
            for index in agreeing:
                turn = members[index].answers[0]
                if not defect(turn) and turn.text not in said:
                    said.add(turn.text)
                    chosen.append(Example(episode=members[index], weights=[1.0]))
        right = sum(example.episode.correct[0] for example in chosen)
        return Chosen(chosen, {"attempts_right": right})


def _by_kind(examples: Sequence[Example]) -> dict[str, float]:
    """How many examples correct something and how many confirm it."""
    corrected = sum(not all(example.episode.correct[:-1]) for example in examples)
    return {"corrections": corrected, "confirmations": len(examples) - corrected}


def _method(
    name: str, help: str, settings: type[SupervisedConfig], recipe: Callable[[Any], Any]
) -> Method:
    """A baseline that iterates over what `recipe` makes of the run."""

    def train(run: "SupervisedRun[Any]") -> None:
        from redraft.training.supervised import iterate

        iterate(run, recipe(run))

    return Method(name, help, settings, train, "supervised", baseline=True)


METHODS = [
    _method(
        "star",
        "Baseline: STaR on second responses that repaired a wrong first one.",
        StarConfig,
        lambda run: Star(),
    ),
    _method(
        "pair-sft",
        "Baseline: fine-tuning on random pairs of a wrong and a right response.",
        PairSftConfig,
        lambda run: PairSft(),
    ),
    _method(
        "bon-sft",
        "Baseline: RISE's data, right responses only, all with one weight.",
        BestOfNConfig,
        Rise,
    ),
    _method(
        "off-policy-sft",
        "Baseline: fine-tuning on a teacher's own traces.",
        OffPolicyConfig,
        OffPolicy,
    ),
    _method(
        "lmsi",
        "Baseline: fine-tuning on samples that agree with their majority; no gold answers.",
        LmsiConfig,
        Lmsi,
    ),
]
