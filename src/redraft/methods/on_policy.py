"""A run of reinforcement learning: every step plays new episodes and learns from them."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from accelerate import Accelerator
from peft import PeftModel

from redraft.chat_rollout import Played
from redraft.engines.local import LocalEngine
from redraft.episode import Episode, Problem, Turn
from redraft.errors import UserError
from redraft.evaluation.metrics import flat, self_correction_metrics
from redraft.learning.checkpoint import export_model, newest_complete
from redraft.learning.streams import TokenStreams
from redraft.methods.order import ProblemOrder
from redraft.methods.score_config import ScoreConfig
from redraft.methods.session import Session
from redraft.methods.signs import flat_note, no_signal
from redraft.progress import Progress
from redraft.protocols import Intrinsic
from redraft.runs import Run


class OnPolicySession(Session[ScoreConfig]):
    """A session whose steps sample `samples` episodes of `problems_per_step` problems each."""

    def __init__(
        self,
        config: ScoreConfig,
        run: Run,
        progress: Progress,
        accelerator: Accelerator,
        checkpoint: Path | None = None,
    ) -> None:
        if config.problems_per_step < accelerator.num_processes:
            raise UserError(
                f"--problems-per-step {config.problems_per_step}: every one of the "
                f"{accelerator.num_processes} processes needs at least 1"
            )
        super().__init__(config, run, progress, accelerator, checkpoint)
        self.order = ProblemOrder(
            config.seed,
            len(self.problems),
            config.problems_per_step,
            accelerator.process_index,
            accelerator.num_processes,
        )
        self._best = float(self._restored.get("best", -1.0))
        self._best_step = int(self._restored.get("best_step", -1))
        self._recent: list[float] = []  # rewards of the last attempt since the last checkpoint
        self._signal: dict[str, float] = {}
        self._turns = 0  # attempts per episode of the step in progress

    def play(self, turns: int, offline_share: float = 0.0) -> list[Episode]:
        """This process's episodes of the next step: `samples` of each problem, sampled now, but of
        none with an attempt that could not be judged.

        For `offline_share` of the problems, counted over steps, the first attempts come from the
        reference.

        Raises:
            UserError: the policy cannot go on, because its weights have diverged, a dialogue has
                outgrown its window or nothing could be judged. Names the newest checkpoint.
        """
        started = time.perf_counter()
        problems = [self.problems[index] for index in self.order.problems(self.step)]
        offline = self.order.chosen(self.step, offline_share)
        try:
            given = self._offline_turns(problems, offline)
            protocol = Intrinsic(self.prompts, turns)
            played = self.sample(problems, protocol, samples=self.config.samples, given=given)
            episodes = self._judged(played)
        except UserError as error:
            newest = newest_complete(self.run.checkpoints)
            raise UserError(f"step {self.step + 1}: {error}; newest checkpoint: {newest}") from None
        self._turns = turns
        self._seconds["rollout"] = time.perf_counter() - started
        return episodes

    def learn(
        self, rows: Sequence[TokenStreams], episodes: Sequence[Episode], phase: str
    ) -> dict[str, float]:
        """One optimiser step on the rows; writes metrics, episodes and, when due, a checkpoint.

        Raises:
            UserError: the step met numbers that are not finite (`Session.update`).
        """
        learned = self.update(rows)
        episodes = self.everyones(episodes)
        measured = flat(self_correction_metrics(list(episodes)))
        self._recent.append(float(np.mean([episode.correct[-1] for episode in episodes])))
        return self.record(phase, {**measured, **self._signal, **learned}, episodes)

    def note_if_flat(self, rewards: npt.NDArray[np.float64]) -> None:
        """Measure how many problems' samples agree, and say so when all of a step's do.

        `rewards` are this process's, shape [episodes, rewarded turns]; the rewarded turns are the
        last ones of the episodes. The step's metrics will have `no_signal/turnT`, the share of
        problems (of all processes) whose samples have one and the same reward for turn T.
        """
        rewards = np.array(self.everyones(rewards.tolist()))
        first = self._turns - rewards.shape[1] + 1
        self._signal = {
            f"no_signal/turn{turn}": no_signal(column, self.config.samples)
            for turn, column in enumerate(rewards.T, start=first)
        }
        if note := flat_note(rewards, first):
            self.progress.note(f"step {self.step + 1}: {note}")

    def chosen_weights(self) -> tuple[Path, int]:
        """The last checkpoint, or with `select` best the one with the highest training reward."""
        best = self.run.folder / "best"
        if self.config.select == "best" and best.exists():
            return best, self._best_step
        return super().chosen_weights()

    def state(self) -> dict[str, Any]:
        """The best reward so far, counting the steps since the last checkpoint."""
        reward = float(np.mean(self._recent)) if self._recent else -1.0
        self._recent = []
        if reward > self._best:
            self._best, self._best_step = reward, self.step
        return {"best": self._best, "best_step": self._best_step}

    def checkpoint_written(self) -> None:
        """Copy the checkpoint's model out of the way of pruning if it is the best so far."""
        if self.config.select == "best" and self._best_step == self.step:
            export_model(self._place(), self.run.folder / "best")

    def _judged(self, episodes: Sequence[Episode]) -> list[Episode]:
        """The episodes of the problems all of whose attempts have a verdict: samples of a problem
        are compared with each other."""
        judged = Played.judged(episodes)
        if judged.failed:
            name, why = next(iter(judged.failed.items()))
            if not judged.episodes:
                raise UserError(f"no problem's attempts could be judged, first {name}: {why}")
            self.progress.note(
                f"step {self.step + 1}: learns nothing from {len(judged.failed)} problems whose "
                f"attempts could not be judged, first {name}: {why}"
            )
        return judged.episodes

    def _offline_turns(
        self, problems: Sequence[Problem], offline: Sequence[bool]
    ) -> list[list[Turn]] | None:
        """First attempts of the reference at the problems that are `offline`, by episode."""
        if not any(offline):
            return None
        chosen = [p for p, is_offline in zip(problems, offline, strict=True) if is_offline]
        alone, samples = Intrinsic(self.prompts, 1), self.config.samples
        if self.reference is not None:
            engine = LocalEngine(self.reference, self.tokenizer, max_rows=self.config.max_rows)
            made = self.sample(chosen, alone, samples=samples, stream=1, engine=engine)
        else:
            # No reference of its own: the policy is a PEFT model, its base is the reference.
            with cast(PeftModel, self.model).disable_adapter():
                made = self.sample(chosen, alone, samples=samples, stream=1)
        turns = iter([episode.turns[0].model_copy(update={"on_policy": False})] for episode in made)
        return [next(turns) if is_offline else [] for is_offline in offline for _ in range(samples)]
