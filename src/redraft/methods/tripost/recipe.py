"""TriPosT (arXiv 2310.13522): learning from corrections of one's own mistakes.

    stage 0    fine-tune on gold rationales
    for k in 1..3
        collect      the policy answers, and from k = 2 on criticises itself and updates
        edit         at its first wrong critique the teacher takes over and finishes (`editing`)
        balance      x_SI : x_T : gold = 1.5 : 1 : 1 (`examples`)
        fine-tune    cross-entropy, weight 1.5 from the critique on, 1 before it

A trajectory has three forms: the episode that rollout samples, the episode that editing makes of it
(on disk in `episodes-*.jsonl`), and the examples that are cut from that (`examples.jsonl`).
`docs/methods/tripost.md` says which fact is the paper's and which ours.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from redraft.chat.protocols import Intrinsic, SelfImprove
from redraft.chat.rollout import lay_out
from redraft.engines.base import Failed, Request, Response, Sampling
from redraft.engines.scripted import ScriptedEngine
from redraft.grading import grade_all
from redraft.learning.imitation import Chosen, Example
from redraft.methods.tripost.config import DemonstrationConfig
from redraft.methods.tripost.editing import (
    DROPPED,
    EDITED,
    REASON,
    SCRIPT,
    TAG,
    TAGS,
    WORSE,
    Rules,
    critique_turn,
    edit,
    edit_all,
    trajectory_turns,
)
from redraft.methods.tripost.examples import (
    CONFIRM,
    GOLD,
    IMPROVE,
    KIND,
    balanced,
    slices,
    without_duplicates,
)
from redraft.methods.tripost.modules import Script, Taught, answer_turns
from redraft.storage import read_checked, to_jsonl, write_checked
from redraft.tasks.steps import LINES
from redraft.training.run import Evaluation
from redraft.training.settings import EXPERT
from redraft.training.supervised import SupervisedRun
from redraft.training.teacher import Teacher
from redraft.types import Episode, Problem, Turn, without_failed

WORSE_FILE = "ended-worse.jsonl"
"""File in an iteration's folder: the trajectories with a right answer that end wrong."""

Run = SupervisedRun[Any]


class Rationales:
    """Gold solutions of the problems: stage 0, and the whole of the baseline `rationale-sft`."""

    def __init__(self, run: Run) -> None:
        config = run.config
        self.form, self.grader = run.task.steps or LINES, run.task.grader
        self.protocol = SelfImprove(run.prompts, self.form.prompts)
        run.evaluation = Evaluation(Intrinsic(run.prompts, 1), 1)
        self.teacher = run.open_teacher() if config.asks_a_teacher else None

    def collect(self, run: Run, problems: Sequence[Problem]) -> list[Episode]:
        """A solution of each problem, by the script (where it has one) or by the teacher."""
        if run.config.rationales == "script":
            return [
                self.laid_out(run, problem, [turn]) for problem, turn in self.solutions(problems)
            ]
        assert self.teacher is not None
        return self.answered(run, problems, self.teacher)

    def choose(self, run: Run, episodes: Sequence[Episode]) -> Chosen:
        """The right ones."""
        right = [episode for episode in episodes if episode.correct[:1] == [True]]
        missing = len(run.iteration_problems()) - len(right)
        examples = [Example(episode=episode, weights=[1.0]) for episode in right]
        return Chosen(examples, {"without_rationale": missing})

    def solutions(self, problems: Sequence[Problem]) -> list[tuple[Problem, Turn]]:
        """The script's graded solutions of the problems that it can solve."""
        found = self.form.solve([problem.question for problem in problems])
        had = [(p, s) for p, s in zip(problems, found, strict=True) if s is not None]
        solved = [problem for problem, _ in had]
        texts = [self.form.join(steps) for _, steps in had]
        turns = answer_turns(self.grader, solved, texts, SCRIPT)
        return list(zip(solved, turns, strict=True))

    def answered(self, run: Run, problems: Sequence[Problem], teacher: Teacher) -> list[Episode]:
        """A teacher's answers to the problems, graded; failed where it has none,
        truncated where its context is full."""
        requests = [Request(run.prompts.opening(one), problem=one.id) for one in problems]
        answers = teacher.answer(requests)
        had = [(p, a) for p, a in zip(problems, answers, strict=True) if isinstance(a, Response)]
        grades = iter(
            grade_all(
                self.grader,
                [(problem, answer.text) for problem, answer in had],
                [answer.finish == "length" for _, answer in had],
            )
        )
        episodes = []
        for problem, answer in zip(problems, answers, strict=True):
            if isinstance(answer, Failed):
                empty = self.laid_out(run, problem, [])
                episodes.append(empty.unanswered(answer.reason, context_full=answer.context_full))
            else:
                turn = teacher.turn(answer).model_copy(update={"grade": next(grades)})
                episodes.append(self.laid_out(run, problem, [turn]))
        return episodes

    def laid_out(self, run: Run, problem: Problem, turns: Sequence[Turn], **fields: Any) -> Episode:
        """These turns with the tokens of a rollout."""
        opening = self.protocol.opening(problem)
        fields = {"protocol": self.protocol.name, **fields}
        return lay_out(problem, opening, turns, run.policy.template, **fields)


class Tripost(Rationales):
    """The recipe: stage 0, then repeats of editing what the policy has written."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        config = run.config
        script = Script(self.form, self.grader)
        taught = self.teacher and Taught(self.form, self.grader, self.teacher)
        feedback = taught if taught and config.feedback == "teacher" else script
        improve = taught if taught and config.improve == "teacher" else script
        critic = feedback.teacher.name if isinstance(feedback, Taught) else SCRIPT
        self.rules = Rules(self.form, config.updates, critic)
        self.judge, self.rewrite = feedback.judge, improve.rewrite
        updates = config.own_updates
        run.evaluation = Evaluation(replace(self.protocol, updates=updates), 1 + updates)

    def collect(self, run: Run, problems: Sequence[Problem]) -> list[Episode]:
        """The policy's own trajectories, edited."""
        if run.iteration == 0:
            return super().collect(run, problems)
        made = self.attempted(run, problems)
        played, failed = without_failed(made)
        editings = [edit(episode, self.rules) for episode in self.cleaned(played)]
        kept = {"policy", "sample", "outcome", "note", "tags"}
        edited = [
            self.laid_out(run, one.problem, one.turns, **one.model_dump(include=kept))
            for one in edit_all(editings, self.judge, self.rewrite)
        ]
        missing = [one.failed(failed[one.problem.id]) for one in made if one.problem.id in failed]
        return [*edited, *missing]

    def attempted(self, run: Run, problems: Sequence[Problem]) -> list[Episode]:
        """What the policy writes, with the run's own sampling settings in every repeat."""
        updates = run.config.own_updates if run.iteration > 1 else 0
        protocol = replace(self.protocol, updates=updates)
        return run.sample(problems, protocol, samples=run.config.samples)

    def cleaned(self, episodes: Sequence[Episode]) -> list[Episode]:
        """The trajectories with answers that are steps and nothing else; answers whose text changes
        by this are graded anew."""

        def other_text(turn: Turn) -> str | None:
            text = self.form.join(self.form.split(turn.text))
            answers = turn.grade is not None and not turn.truncated
            return text if answers and text != turn.text.strip() else None

        changed = [
            (one.problem, text)
            for one in episodes
            for turn in one.turns
            if (text := other_text(turn)) is not None
        ]
        grades = iter(grade_all(self.grader, changed))
        cleaned = []
        for one in episodes:
            turns = list(one.turns)
            for index, turn in enumerate(turns):
                if (text := other_text(turn)) is not None:
                    update = {"text": text, "grade": next(grades), "tokens": [], "logprobs": []}
                    turns[index] = turn.model_copy(update=update)
            cleaned.append(one.model_copy(update={"turns": turns}))
        return cleaned

    def choose(self, run: Run, episodes: Sequence[Episode]) -> Chosen:
        """Slices of the usable trajectories, balanced and weighted."""
        if run.iteration == 0:
            return super().choose(run, episodes)
        config = run.config
        worse = [episode for episode in episodes if episode.tags[TAG] == WORSE]
        run.processes.on_main(lambda: write_checked(run.folder() / WORSE_FILE, to_jsonl(worse)))
        every = [
            example
            for episode in episodes
            for example in slices(episode, config.feedback_weight, config.train_attempt)
        ]
        found = chosen = without_duplicates(every)
        if config.balance:
            rng = np.random.default_rng([config.seed, run.iteration])
            chosen = balanced(found, self.gold(run), config.p, rng, config.most_examples)
        tags = Counter(episode.tags[TAG] for episode in episodes)
        reasons = Counter(e.tags[REASON] for e in episodes if e.tags[TAG] == DROPPED)
        kinds = Counter(example.episode.tags[KIND] for example in chosen)
        if not tags[EDITED] and tags[DROPPED]:
            run.progress.note(
                f"repeat {run.iteration}: no trajectory could be edited; {tags[DROPPED]} were "
                f"dropped, most as {reasons.most_common(1)[0][0]}"
            )
        counts = {
            "duplicates": len(every) - len(found),
            **{tag: tags[tag] for tag in TAGS},
            **{f"dropped_{reason}": count for reason, count in reasons.items()},
            **{kind: kinds[kind] for kind in (IMPROVE, CONFIRM, GOLD)},
            "p": kinds[IMPROVE] / len(chosen) if chosen else 0.0,
            "first_attempts_right": sum(episode.correct[:1] == [True] for episode in episodes),
        }
        return Chosen(chosen, counts)

    def gold(self, run: Run) -> list[Example]:
        """Gold solutions with confirming critiques: the script's, or those of stage 0."""
        if run.config.rationales == "script":
            solved = self.solutions(run.iteration_problems())
            solutions = [(p, turn) for p, turn in solved if turn.grade and turn.grade.correct]
        else:
            place = run.folder(0) / "examples.jsonl"
            had = read_checked(place, Example) if place.exists() else []
            solutions = [(one.episode.problem, one.episode.turns[0]) for one in had]
        examples = []
        for problem, turn in solutions:
            if steps := self.form.split(turn.text):
                critique = critique_turn(self.form.confirmation(steps), SCRIPT)
                turns = trajectory_turns([turn], [critique], self.form)
                episode = self.laid_out(run, problem, turns, tags={KIND: GOLD})
                examples.append(Example(episode=episode, weights=[1.0, 1.0]))
        return examples


class Demonstrations(Tripost):
    """TriPosT's data without the policy: the first answers are not the policy's either."""

    def attempted(self, run: Run, problems: Sequence[Problem]) -> list[Episode]:
        """First answers of the teacher at temperature 1, or of the task's expert, which errs."""
        config: DemonstrationConfig = run.config
        if config.attempts == "teacher":
            assert self.teacher is not None
            teacher = self.teacher.at(1.0, seed=config.seed + run.iteration)
            return self.answered(run, problems, teacher)
        expert = run.task.expert
        assert expert is not None, "the settings have checked it"
        engine = ScriptedEngine(expert(config.seed + run.iteration))
        return self.answered(run, problems, Teacher(engine, Sampling(), EXPERT))
