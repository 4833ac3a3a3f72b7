"""TriPosT (arXiv 2310.13522): learning from corrections of one's own mistakes.

    stage 0    fine-tune on gold rationales
    for k in 1..3
        collect      the policy attempts, and from k = 2 on gives itself feedback and updates
        edit         at its first wrong feedback the teacher takes over and finishes (`editing`)
        balance      x_SI : x_T : gold = 1.5 : 1 : 1 (`trajectory`)
        fine-tune    cross-entropy, weight 1.5 from the feedback on, 1 before it

Attempt, feedback and update are turns, each asked for with a fixed message, so a weight per turn is
all that the loss needs. `docs/methods/tripost.md` says which fact is the paper's and which ours.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from redraft.chat_rollout import Played
from redraft.credit.imitation import Example
from redraft.engines import Failed, Sample, Sampling
from redraft.engines.scripted import ScriptedChat
from redraft.episode import Episode, Grade, Problem, Turn, read_jsonl, to_jsonl
from redraft.errors import UserError
from redraft.lab.expert import expert
from redraft.methods.editing import Draft, Modules, Outcome, Rules, edit, edit_all
from redraft.methods.rise import with_attempts
from redraft.methods.supervised import Chosen, Collected, Recipe, SupervisedSession
from redraft.methods.supervised import train as train_supervised
from redraft.methods.teacher import Teacher, open_teacher
from redraft.methods.trajectory import (
    Segment,
    balanced,
    confirmed,
    fate_of,
    segments,
    trajectory,
    without_duplicates,
)
from redraft.methods.tripost_config import DemonstrationConfig, RationaleConfig, TripostConfig
from redraft.methods.tripost_modules import (
    ScriptedFeedback,
    ScriptedImprovement,
    TaughtFeedback,
    TaughtImprovement,
    Writer,
)
from redraft.methods.tripost_scripts import ask_all
from redraft.methods.tripost_world import Remark, World, world_for
from redraft.progress import Progress, Silent
from redraft.protocols import Protocol
from redraft.protocols.self_improve import LaidOut, SelfImprove
from redraft.rounds import Improvement, Play, play_rounds
from redraft.runs import Run, write_text

ASIDE = Grade(correct=False, decided_by="feedback", reason="feedback is no attempt")
"""The grade of a turn that is feedback."""

WORSE = "ended-worse.jsonl"
"""File of an iteration's folder with the trajectories that had a right attempt and end wrong."""

_ROUND = 1_000_000
"""Streams of random numbers between a round and the next: more than there are parts of a step."""


class Rationales:
    """Gold solutions of the problems: stage 0, and the baseline that is no more than that."""

    def __init__(self, session: SupervisedSession[Any]) -> None:
        config = session.config
        self.world = world_for(config.task)
        self.writer = Writer(self.world, session.task.grader, session.dialogue.attempt)
        self.teacher = (
            open_teacher(config, session.teacher_folder, session.progress)
            if config.asks_a_teacher
            else None
        )
        if self.world.script is None and "script" in self.parts(config):
            raise UserError(
                f"--task {config.task}: there is no script for its solutions; give --teacher, and "
                "'teacher' for --rationales, --feedback and --improve"
            )

    def parts(self, config: Any) -> list[str]:
        """Who does what, script or teacher."""
        return [config.rationales]

    def collect(self, session: SupervisedSession[Any], problems: Sequence[Problem]) -> Collected:
        """A solution of each problem, by the script or a teacher."""
        if session.config.rationales == "script":
            drafts = self.solved(problems)
            return Collected(laid_out(session, self.world, [(d.problem, [d.turn]) for d in drafts]))
        assert self.teacher is not None
        openings = [session.prompts.opening(problem) for problem in problems]
        answers = self.teacher.answer([[m.model_dump() for m in one] for one in openings])
        return with_attempts(session, problems, [[] for _ in problems], answers)

    def choose(self, session: SupervisedSession[Any], episodes: Sequence[Episode]) -> Chosen:
        """The right ones."""
        right = [episode for episode in episodes if episode.correct[0]]
        missing = len(session.iteration_problems()) - len(right)
        examples = [Example(episode=episode, weights=[1.0]) for episode in right]
        return Chosen(examples, {"without_rationale": missing})

    def solved(self, problems: Sequence[Problem]) -> list[Draft]:
        """The script's solutions of those problems that it can solve."""
        script = self.world.script
        assert script is not None
        replies = ask_all([(script, "work", problem.question, []) for problem in problems])
        had = [
            (problem, self.world.join(reply.value))
            for problem, reply in zip(problems, replies, strict=True)
            if reply.status == "ok"
        ]
        return self.writer.drafts([p for p, _ in had], [text for _, text in had], "script")


class Tripost(Rationales):
    """The recipe: stage 0, then repeats of editing what the policy has done."""

    def __init__(self, session: SupervisedSession[Any]) -> None:
        super().__init__(session)
        config, world = session.config, self.world
        self.rules = Rules(world, config.updates, checks_right=config.feedback == "script")
        self.modules = Modules(
            ScriptedFeedback(world)
            if config.feedback == "script"
            else TaughtFeedback(world, self._taught),
            ScriptedImprovement(self.writer)
            if config.improve == "script"
            else TaughtImprovement(self.writer, self._taught),
        )

    @property
    def _taught(self) -> Teacher:
        assert self.teacher is not None
        return self.teacher

    def parts(self, config: Any) -> list[str]:
        """Who does what, script or teacher."""
        return [config.rationales, config.feedback, config.improve]

    def collect(self, session: SupervisedSession[Any], problems: Sequence[Problem]) -> Collected:
        """The policy's own trajectories, edited."""
        if session.iteration == 0:
            return super().collect(session, problems)
        made, failed = self.tried(session, problems)
        drafts = self.drafts([turn for one in made for turn in one.attempts], made)
        editings = [
            edit(theirs, one.remarks, self.rules) for one, theirs in zip(made, drafts, strict=True)
        ]
        episodes = []
        for one, outcome in zip(made, edit_all(editings, self.modules), strict=True):
            if outcome.failed:
                failed[one.problem.id] = outcome.reason
            else:
                episodes.append(self.written(session, one, outcome))
        return Collected(episodes, failed)

    def tried(
        self, session: SupervisedSession[Any], problems: Sequence[Problem]
    ) -> tuple[list[Improvement], dict[str, str]]:
        """What the policy does, with the run's own sampling settings in every repeat."""
        config = session.config
        protocol = SelfImprove(session.prompts, self.world.prompts)
        updates = config.own_updates if session.iteration > 1 else 0
        return play_rounds(problems, protocol, updates, playing(session), samples=config.samples)

    def drafts(self, turns: Sequence[Turn], made: Sequence[Improvement]) -> list[list[Draft]]:
        """Each trajectory's attempts in steps; texts that cleaning changes are graded anew."""
        world = self.world
        problems = [one.problem for one in made for _ in one.attempts]
        steps = [world.split(turn.attempt) for turn in turns]
        found = [Draft(p, t, s) for p, t, s in zip(problems, turns, steps, strict=True)]
        changed = [
            index
            for index, draft in enumerate(found)
            if not draft.turn.truncated and world.join(draft.steps) != draft.turn.attempt.strip()
        ]
        texts = [world.join(found[index].steps) for index in changed]
        again = self.writer.drafts([problems[index] for index in changed], texts, "policy")
        for index, draft in zip(changed, again, strict=True):
            found[index] = draft
        rest = iter(found)
        return [[next(rest) for _ in one.attempts] for one in made]

    def written(
        self, session: SupervisedSession[Any], one: Improvement, outcome: Outcome
    ) -> Episode:
        """A trajectory as it goes to disk."""
        turns: list[Turn] = []
        for index, draft in enumerate(outcome.drafts):
            turns.append(draft.turn)
            turns += [self.said(remark) for remark in outcome.remarks[index : index + 1]]
        return trajectory(
            one.problem,
            one.opening,
            turns,
            outcome.fate,
            outcome.reason,
            policy=f"step-{session.step:06d}",
            sample=one.sample,
        )

    def said(self, remark: Turn | Remark) -> Turn:
        """Feedback as a turn."""
        if isinstance(remark, Turn):
            return remark.model_copy(update={"grade": ASIDE})
        return self.writer.turn(remark.text, "feedback", grade=ASIDE)

    def choose(self, session: SupervisedSession[Any], episodes: Sequence[Episode]) -> Chosen:
        """Segments of the trajectories that are of use, balanced and weighted."""
        if session.iteration == 0:
            return super().choose(session, episodes)
        config = session.config
        fates = [fate_of(episode) for episode in episodes]
        kept = [e for e, (fate, _) in zip(episodes, fates, strict=True) if fate not in _UNUSED]
        worse = [e for e, (fate, _) in zip(episodes, fates, strict=True) if fate == "worse"]
        if session.accelerator.is_main_process:
            write_text(session.folder / WORSE, to_jsonl(worse))
        every = [segment for episode in kept for segment in segments(episode)]
        found = without_duplicates(every)
        rng = np.random.default_rng([config.seed, session.iteration])
        chosen = (
            balanced(found, self.gold(session), config.p, rng, config.most_examples)
            if config.balance
            else found
        )
        counts = {"duplicates": float(len(every) - len(found)), **_counted(fates, chosen)}
        counts["first_attempts_right"] = sum(episode.correct[0] for episode in episodes)
        if not counts["edited"] and counts["dropped"]:
            reason = max(
                (name for name in counts if name.startswith("dropped_")), key=counts.__getitem__
            )
            session.progress.note(
                f"repeat {session.iteration}: no trajectory could be edited; {counts['dropped']:g} "
                f"were dropped, most as {reason.removeprefix('dropped_')}"
            )
        return Chosen(self.examples(session, chosen), counts)

    def gold(self, session: SupervisedSession[Any]) -> list[Segment]:
        """Gold solutions with confirming feedback: the script's, or those that stage 0 had."""
        if session.config.rationales == "script":
            drafts = self.solved(session.iteration_problems())
            solutions = [(draft.problem, draft.turn) for draft in drafts if draft.right]
        else:
            place = session.run.folder / "iterations" / "00" / "examples.jsonl"
            had = read_jsonl(place, Example) if place.exists() else []
            solutions = [(one.episode.problem, one.episode.turns[0]) for one in had]
        return [
            confirmed(problem, turn, self.said(self.world.confirmation(steps)))
            for problem, turn in solutions
            if (steps := self.world.split(turn.attempt))
        ]

    def examples(self, session: SupervisedSession[Any], chosen: Sequence[Segment]) -> list[Example]:
        """Segments as examples, in the order they are given."""
        config = session.config
        dialogues = [(segment.problem, segment.turns) for segment in chosen]
        episodes = laid_out(session, self.world, dialogues)
        return [
            Example(
                episode=episode,
                weights=segment.weights(config.feedback_weight, config.train_attempt),
            )
            for segment, episode in zip(chosen, episodes, strict=True)
        ]


class Demonstrations(Tripost):
    """TriPosT's data without the policy: the first attempts are somebody else's too."""

    def tried(
        self, session: SupervisedSession[Any], problems: Sequence[Problem]
    ) -> tuple[list[Improvement], dict[str, str]]:
        """First attempts of the teacher at temperature 1, or of the lab's expert, which errs."""
        config: DemonstrationConfig = session.config
        openings = [session.prompts.opening(problem) for problem in problems]
        dialogues = [[message.model_dump() for message in opening] for opening in openings]
        if config.attempts == "teacher":
            taught = self._taught
            warm = replace(taught, sampling=replace(taught.sampling, temperature=1.0))
            answers = warm.answer(dialogues)
        else:
            script = ScriptedChat(expert(config.seed + session.iteration))
            answers = script.chat(dialogues, Sampling())
        failed = {
            problem.id: answer.reason
            for problem, answer in zip(problems, answers, strict=True)
            if isinstance(answer, Failed)
        }
        had = [
            (problem, opening, answer.text)
            for problem, opening, answer in zip(problems, openings, answers, strict=True)
            if isinstance(answer, Sample)
        ]
        drafts = self.writer.drafts([p for p, _, _ in had], [t for _, _, t in had], "teacher")
        made = [
            Improvement(problem, 0, opening, [draft.turn], stopped="updates")
            for (problem, opening, _), draft in zip(had, drafts, strict=True)
        ]
        return made, failed


_UNUSED = ("worse", "dropped")


def playing(session: SupervisedSession[Any]) -> Play:
    """The session's policy as a player of rounds."""

    def play(
        problems: Sequence[Problem],
        protocol: Protocol,
        *,
        samples: int,
        number: int,
        given: Sequence[Sequence[Turn]] | None,
    ) -> Played:
        stream = (number - 1) * _ROUND
        episodes = session.sample(problems, protocol, samples=samples, stream=stream, given=given)
        return Played(episodes, {})

    return play


def laid_out(
    session: SupervisedSession[Any],
    world: World,
    dialogues: Sequence[tuple[Problem, Sequence[Turn]]],
) -> list[Episode]:
    """Dialogues whose turns are all there, as episodes with the tokens of a rollout, in order."""
    places: dict[int, list[int]] = {}
    for index, (_, turns) in enumerate(dialogues):
        places.setdefault(len(turns), []).append(index)
    done: dict[int, Episode] = {}
    for length, indices in places.items():
        episodes = session.sample(
            [dialogues[index][0] for index in indices],
            LaidOut(session.prompts, world.prompts, length),
            samples=1,
            given=[dialogues[index][1] for index in indices],
        )
        done |= dict(zip(indices, episodes, strict=True))
    return [done[index] for index in range(len(dialogues))]


def _counted(fates: Sequence[tuple[str, str]], chosen: Sequence[Segment]) -> dict[str, float]:
    """How many trajectories met which fate, and how many segments of each kind are learned from."""
    by_fate = Counter(fate for fate, _ in fates)
    reasons = Counter(f"dropped_{reason}" for fate, reason in fates if fate == "dropped")
    kinds = Counter(segment.kind for segment in chosen)
    counts: Mapping[str, float] = {
        **{fate: by_fate[fate] for fate in ("kept", "edited", "first_feedback", *_UNUSED)},
        **reasons,
        "improve": kinds["improve"],
        "confirm": kinds["confirm"],
        "gold": kinds["gold"],
        "p": kinds["improve"] / len(chosen) if chosen else 0.0,
    }
    return dict(counts)


@dataclass(frozen=True)
class Method:
    """TriPosT or one of its baselines: what it can be told, and its recipe."""

    settings: type[RationaleConfig]
    recipe: Callable[[SupervisedSession[Any]], Recipe[Any]]


METHODS = {
    "tripost": Method(TripostConfig, Tripost),
    "rationale-sft": Method(RationaleConfig, Rationales),
    "si-demo-sft": Method(DemonstrationConfig, Demonstrations),
}
"""By the name of the command."""


def train(name: str, config: RationaleConfig, progress: Progress | None = None) -> Path:
    """Train `name`, one of `METHODS`, from the beginning; returns the run's folder.

    Raises:
        UserError: anything in the configuration, the model or the data that cannot work.
    """
    session = SupervisedSession.create(config, f"train {name}", progress or Silent())
    return train_supervised(session, METHODS[name].recipe(session))


def resume(folder: Path, progress: Progress | None = None) -> Path:
    """Go on with a run from its newest complete checkpoint.

    Raises:
        UserError: the folder is not such a run's.
    """
    name = Run.open(folder).command.removeprefix("train ")
    if name not in METHODS:
        raise UserError(f"{folder}: not a run of {', '.join(METHODS)}")
    method = METHODS[name]
    session = SupervisedSession.reopen(folder, method.settings, progress or Silent())
    return train_supervised(session, method.recipe(session))
