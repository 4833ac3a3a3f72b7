"""Runs of reinforcement learning: every step samples new episodes and learns from them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from accelerate import Accelerator

from redraft.chat.protocols import Intrinsic, Protocol
from redraft.engines.base import Sampling, WeightsLostError
from redraft.errors import UserError
from redraft.learning.checkpoint import newest_complete
from redraft.learning.config import LearnerConfig
from redraft.learning.credit import Rewards, rewards_by_answer, with_credit
from redraft.learning.rows import TrainingRow
from redraft.progress import Longer, Phase, Progress
from redraft.run_directory import RunDirectory
from redraft.training.ahead import Ahead
from redraft.training.diagnostics import (
    FIRST_REWARDS,
    FIRST_STEPS,
    flat_note,
    no_signal,
    unfit_note,
)
from redraft.training.order import ProblemOrder
from redraft.training.reward import check_reward, with_rewards
from redraft.training.run import TrainingRun
from redraft.training.settings import OnPolicyConfig
from redraft.types import Episode, Problem, Turn, without_failed

C = TypeVar("C", bound=OnPolicyConfig)


class OnPolicyRun(TrainingRun[C]):
    """A run whose steps sample `samples` episodes of `problems_per_step` problems each."""

    def __init__(
        self,
        config: C,
        directory: RunDirectory,
        progress: Progress,
        accelerator: Accelerator,
        checkpoint: Path | None = None,
    ) -> None:
        if config.problems_per_step < accelerator.num_processes:
            raise UserError(
                f"--problems-per-step {config.problems_per_step}: every one of the "
                f"{accelerator.num_processes} processes needs at least 1"
            )
        if config.reward is not None:
            check_reward(config.reward)
        super().__init__(config, directory, progress, accelerator, checkpoint)
        self.order = ProblemOrder(
            config.seed,
            len(self.problems),
            config.problems_per_step,
            accelerator.process_index,
            accelerator.num_processes,
        )
        # Mean last score of each step since the last checkpoint that came by `checkpoint_every`.
        nothing: list[float] = []
        self._recent = self.restore("recent", lambda scores: [*map(float, scores)], nothing)
        self._signal: dict[str, float] = {}
        self._ahead: Ahead[list[Episode]] | None = None  # episodes of the next step, under way
        # Of the run's first steps: the rewards, and which responses were cut off; None once they
        # differ, and where the run is resumed later on.
        self._first: tuple[list[float], list[bool]] | None = None if self.step else ([], [])

    def learner_config(self, **settings: Any) -> LearnerConfig:
        """See `TrainingRun.learner_config`; log-probabilities are taken at the sampling
        temperature."""
        config = self.config
        reinforcement = {
            "temperature": config.temperature,
            "normalize": config.normalize,
            "warmup_steps": config.warmup_steps,
            "schedule": config.schedule,
            "clip_low": config.clip_low,
            "clip_high": config.clip_high,
            "importance_cap": config.importance_cap,
            "kl_estimator": config.kl_estimator,
            "entropy_weight": config.entropy_weight,
        }
        return super().learner_config(**reinforcement | settings)

    @contextmanager
    def steps(self, total: int) -> Iterator[Phase]:
        """Shows how far the run of `total` steps is; those with an evaluation take longer."""
        config = self.config
        sampled = config.problems_per_step * config.samples
        every, share = config.evaluate_every, len(self._held_out) / sampled
        longer = Longer(every, share) if every else None
        with self.progress.phase("training", total, None, longer) as bar:
            bar.skip(self.step)
            yield bar

    def state(self) -> dict[str, Any]:
        """The scores that the next checkpoint's is the mean of."""
        return {"recent": self._recent}

    def play(self, protocol: Protocol, offline_share: float = 0.0, until: int = 0) -> list[Episode]:
        """This process's episodes of the next step: `samples` of each problem, without the problems
        that could not be sampled or graded.

        They are sampled now, or with `overlap` were while the last step was learned from; then
        those of the step after are begun, if that is not beyond step `until` and the policy is not
        evaluated or written to a checkpoint between the two. So a resumed run samples what the run
        would have sampled.

        For `offline_share` of the problems, counted over steps, the first responses come from the
        reference.

        Raises:
            UserError: the policy's weights have diverged, or nothing could
                be sampled and graded. Names the newest checkpoint.
        """

        def sample() -> list[Episode]:
            problems, given = self._begun(self.step, offline_share)
            return self.sample(problems, protocol, samples=self.config.samples, given=given)

        def episodes() -> list[Episode]:
            found = self._sampled_ahead(protocol)
            return self.together(sample) if found is None else found

        try:
            usable = self._usable(self.timed("rollout", episodes))
            done = self.step + 1  # when this step is
            pauses = self.evaluates_after(done) or self.checkpoints_after(done)
            if self.config.overlap and done < until and not pauses:
                self._ahead = self.together(
                    lambda: self._sampling_of(done, protocol, offline_share)
                )
            if (reward := self.config.reward) is None:
                return usable
            return self.together(lambda: with_rewards(reward, usable))
        except UserError as error:
            newest = newest_complete(self.directory.checkpoints)
            raise UserError(f"step {self.step + 1}: {error}; newest checkpoint: {newest}") from None

    def publish(self) -> None:
        """See `TrainingRun.publish`; an engine that samples the next step gets them afterwards."""
        if self._ahead is None:
            super().publish()

    def stop(self) -> None:
        """See `TrainingRun.stop`."""
        if self._ahead is not None:
            self._ahead.stop()

    def _begun(
        self, step: int, offline_share: float
    ) -> tuple[list[Problem], list[list[Turn]] | None]:
        """This process's problems of the step after `step`, and what their episodes begin with."""
        problems = [self.problems[index] for index in self.order.problems(step)]
        return problems, self._offline_turns(
            problems, self.order.chosen(step, offline_share), self.sampling(1, step)
        )

    def _sampling_of(
        self, step: int, protocol: Protocol, offline_share: float
    ) -> Ahead[list[Episode]]:
        """The sampling of the step after `step`, begun with the weights as they are."""
        problems, given = self._begun(step, offline_share)
        sample = partial(
            self.policy.sample,
            problems,
            protocol,
            self.task.grader,
            self.sampling(step=step),
            samples=self.config.samples,
            name=self.version,
            given=given,
        )
        return Ahead(lambda watch: sample(watch=watch))

    def _sampled_ahead(self, protocol: Protocol) -> list[Episode] | None:
        """The episodes that were begun for this step; the engine gets the weights as they are then.
        None if there are none, or the engine has lost the weights that it sampled with."""
        if (ahead := self._ahead) is None:
            return None

        def take() -> list[Episode] | None:
            count = self.config.samples * len(self.order.problems(self.step))
            with self._sampling(count, protocol) as bar, suppress(WeightsLostError):
                return ahead.result(bar.watch)
            return None

        episodes = self.together(take)
        self._ahead = None
        self._gap_noted = True  # from here on the gap is also that of a step of training
        self.publish()
        if any(self.processes.gather([episodes is None])):
            return None
        self._beside["rollout"] = ahead.seconds
        return episodes

    def rewards(
        self, episodes: Sequence[Episode], answers: int, counted: Sequence[int] | None = None
    ) -> Rewards:
        """Rewards by answer, [episodes, answers]; says so when all of a step's are alike.

        `counted` are the answers (0-based) whose rewards are learned from; by default all. The
        step's metrics will have `no_signal/turnT`, the share of problems (of all processes) whose
        samples have one and the same reward for answer T, and `reward/turnT`, the mean reward
        where it is not the grade's score.

        Raises:
            UserError: all rewards of the run's first steps were the same, and `keep_going` is off.
        """
        rewards = rewards_by_answer(episodes, answers)
        chosen = list(range(answers) if counted is None else counted)
        everyones = np.array(self.processes.gather(rewards.tolist())).reshape(-1, answers)
        columns = dict(enumerate(everyones.T, start=1))
        learned = [number + 1 for number in chosen]
        self._signal = {
            f"no_signal/turn{turn}": share
            for turn in learned
            if (share := no_signal(columns[turn], self.config.samples)) is not None
        }
        if self.config.reward is not None:
            means = {turn: column[~np.isnan(column)] for turn, column in columns.items()}
            self._signal |= {
                f"reward/turn{turn}": float(m.mean()) for turn, m in means.items() if len(m)
            }
        flat = everyones[:, chosen]
        if note := self._unfit(flat, episodes) or flat_note(flat, learned, self.config.reward):
            self.progress.note(f"step {self.step + 1}: {note}")
        return rewards

    def _unfit(self, rewards: Rewards, episodes: Sequence[Episode]) -> str | None:
        """What to say once all rewards of the run's first steps were the same.

        Raises:
            UserError: the same, unless `keep_going` is on.
        """
        if self._first is None:
            return None
        known, cut = self._first
        known += rewards[~np.isnan(rewards)].tolist()
        mine = [turn.truncated for episode in episodes for turn in episode.responses]
        cut += self.processes.gather(mine)
        alike = not known or min(known) == max(known)
        if alike and (self.step + 1 < FIRST_STEPS or len(known) < FIRST_REWARDS):
            return None
        self._first, config = None, self.config
        if not alike:
            return None
        share = float(np.mean(cut)) if cut else 0.0
        why = unfit_note(known[0], share, config.max_tokens, self.prompts.name, config.reward)
        if config.keep_going:
            return why
        raise UserError(f"step {self.step + 1}: {why}; --keep-going trains all the same")

    def learn(
        self,
        rows: Sequence[TrainingRow],
        episodes: Sequence[Episode],
        phase: str,
        answers: int = 1,
    ) -> dict[str, float]:
        """One optimiser step on the rows; writes metrics, episodes and, when due, a checkpoint.

        There are metrics of `answers` answers at least, although all episodes may have ended
        earlier; `answers` is the most that the protocol allows.

        Raises:
            UserError: the step met numbers that are not finite (`TrainingRun.update`).
        """
        rows = self.timed("reference", lambda: self.learner.with_reference(rows))
        learned = self.update(rows)
        measured = self.measured(episodes, answers)
        last = [episode.scores[-1] if episode.scores else 0.0 for episode in episodes]
        sums = np.array(self.processes.gather([[sum(last), len(last)]])).sum(axis=0)
        self._recent.append(float(sums[0] / max(sums[1], 1)))
        score = float(np.mean(self._recent))
        if self.config.checkpoint_every and (self.step % self.config.checkpoint_every == 0):
            self._recent = []
        measured |= {**self._signal, **learned}
        return self.record(phase, measured, with_credit(episodes, rows), score)

    def _usable(self, episodes: Sequence[Episode]) -> list[Episode]:
        """The episodes without those of problems with a failed or ungraded one: the samples of a
        problem are compared with each other.

        Raises:
            UserError: no process has such a problem, or none of the run's problems fits the
                context window. A step without one that fits is noted, and there is no more to it.
        """
        kept, failed = without_failed(episodes)
        if everyones := self.processes.gather([*failed.items()]):
            name, why = everyones[0]
            if not any(self.processes.gather([bool(kept)])):
                raise UserError(f"no problem could be sampled and graded, first {name}: {why}")
            self.progress.note(
                f"step {self.step + 1}: learns nothing from {len(everyones)} problems that could "
                f"not be sampled or graded, first {name}: {why}"
            )
        if not any(self.processes.gather([any(episode.turns for episode in kept)])):
            self.together(self._check_that_some_fit)
            why = [f"{episode.problem.id}: {episode.note}" for episode in kept[:1]]
            first = self.processes.gather(why)[0]
            self.progress.note(
                f"step {self.step + 1}: no problem fits the context window, first {first}"
            )
        return kept

    def _check_that_some_fit(self) -> None:
        """Raise a UserError where the run's shortest problem outgrows the context too."""
        shortest = min(self.problems, key=lambda problem: len(problem.question))
        [episode] = self.sample([shortest], Intrinsic(self.prompts, 1))
        if not episode.turns:
            raise UserError(
                f"no problem fits the context window, not even the shortest, {shortest.id}: "
                f"{episode.note}"
            )

    def _offline_turns(
        self, problems: Sequence[Problem], offline: Sequence[bool], sampling: Sampling
    ) -> list[list[Turn]] | None:
        """First responses of the reference to the problems that are `offline`, by episode."""
        if not any(offline):
            return None
        chosen = [p for p, is_offline in zip(problems, offline, strict=True) if is_offline]
        samples = self.config.samples
        made = self.policy.sample_reference(
            chosen, Intrinsic(self.prompts, 1), self.task.grader, sampling, samples
        )
        as_given = {"author": "teacher", "logprobs": [], "source": "reference"}
        turns = iter([turn.model_copy(update=as_given) for turn in e.turns[:1]] for e in made)
        return [next(turns) if is_offline else [] for is_offline in offline for _ in range(samples)]
