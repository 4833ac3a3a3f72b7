"""A training run: a policy, its problems, a run directory, and one step after another.

Methods say what is sampled and what it is worth; a `TrainingRun` samples it, learns from it, writes
it down and can be resumed where a killed process stopped. Whatever a step draws is a function of
the seed and the step's number alone, so a checkpoint needs weights, optimiser and the step.
"""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import numpy as np
from accelerate import Accelerator

from redraft import interruption
from redraft.chat.protocols import Intrinsic, Protocol
from redraft.config import flat
from redraft.engines.base import Sampling
from redraft.errors import UserError
from redraft.evaluation.metrics import Ratio, ratios
from redraft.grading import Grader
from redraft.learning.checkpoint import (
    complete_checkpoints,
    export_model,
    newest_complete,
    prune_checkpoints,
    read_extra,
    restore_replaced,
    write_checkpoint,
)
from redraft.learning.config import LearnerConfig
from redraft.learning.learner import Learner, NonFiniteLoss
from redraft.learning.pairs import PreferencePair
from redraft.learning.parallel import accelerator_on, processes_of
from redraft.learning.preference_config import PreferenceConfig
from redraft.learning.rows import TrainingRow
from redraft.models import torch_device
from redraft.progress import Phase, Progress, Silent
from redraft.run_directory import RunDirectory
from redraft.storage import damage, seal, write_json
from redraft.system import has_bf16
from redraft.training.diagnostics import gap_note
from redraft.training.policy import Policy
from redraft.training.settings import TrainConfig
from redraft.training.summary import speed, summarize
from redraft.training.tracking import Trackers
from redraft.types import Episode, Problem, Turn, same_problem_groups, without_failed
from redraft.workers import set_workers

C = TypeVar("C", bound=TrainConfig)
T = TypeVar("T")


@dataclass(frozen=True)
class Evaluation:
    """How the held-out problems are answered, as the method that is trained answers."""

    protocol: Protocol
    answers: int
    """Most answers that an episode can have; critiques are none."""
    history_turns: int | None = None
    """What is seen of the conversation; see `rollout`."""
    grader: Grader | None = None
    """Judges the answers; by default the task's grader."""
    first: Protocol | None = None
    """Plays the first responses, which the task's grader judges; `protocol` goes on from them."""


class TrainingRun(Generic[C]):
    """One run of one method on one policy."""

    def __init__(
        self,
        config: C,
        directory: RunDirectory,
        progress: Progress,
        accelerator: Accelerator,
        checkpoint: Path | None = None,
    ) -> None:
        set_workers(config.workers)
        self.config, self.directory, self.accelerator = config, directory, accelerator
        self.processes = processes_of(accelerator)
        self.progress = progress if self.processes.main else Silent()
        self.task = config.open_task()
        self.problems = self._load_problems()
        self.prompts = config.open_prompts()
        self.evaluation = Evaluation(Intrinsic(self.prompts, 2), 2)
        """How the held-out problems are answered; a method sets it to what it trains."""
        self._held_out: list[Problem] = self._load_held_out() if config.evaluate_every else []
        self.policy = Policy(config, accelerator, checkpoint or config.model)
        if self.policy.template.rewrites_history:
            self.progress.note(self.policy.template.rewrites_history)
        self._learner: Learner | None = None
        self._checkpoint = checkpoint
        self.restored = {} if checkpoint is None else read_extra(checkpoint)
        """What `state` returned for the checkpoint that the run is resumed from."""
        self.step = self.restore("step", self._of_checkpoint, 0)
        """Optimiser steps taken since the run began."""
        self._score = self.restore("score", _number_or_none, None)
        self._seconds: dict[str, float] = {}
        self._beside: dict[str, float] = {}
        self._gap_noted = False
        self._off_policy = False
        """Whether this step's episodes were sampled with the weights before the last step."""
        self.trackers = Trackers(
            config.trackers if self.processes.main else [],
            directory.folder,
            dict(flat(type(config), config.model_dump(mode="json"))),
            self.step,
            self.progress.note,
        )
        if self.processes.count > 1:
            interruption.hold()  # one process alone must not leave an exchange; see `record`

    @classmethod
    def create(cls, config: C, command: str, progress: Progress) -> Self:
        """A new run in `config.out`.

        Raises:
            UserError: `config.out` holds something, or what the policy writes cannot be run as
                safely as the configuration asks for; nothing has been written then.
        """
        confinement = config.confinement()
        accelerator = _accelerator(config)

        processes = processes_of(accelerator)
        processes.on_main(lambda: RunDirectory.create(config.out, config, command, confinement))
        directory = RunDirectory(config.out, command)
        processes.check_shared(config.out / "environment.json")
        with processes.together():
            run = cls(config, directory, progress, accelerator)
        return run._checked()

    @classmethod
    def reopen(cls, folder: Path, settings: type[C], progress: Progress) -> Self:
        """The run in a folder as it was at its newest complete checkpoint, or at its beginning."""
        directory = RunDirectory.open(folder)
        config, edits = directory.config(settings)
        confinement = config.confinement()
        accelerator = _accelerator(config)
        processes = processes_of(accelerator)
        intact: list[tuple[Path | None, list[str]]] = []

        def find() -> None:
            directory.lock()
            directory.confined(confinement)
            restore_replaced(directory.checkpoints)
            intact.append(_newest_intact(directory))

        processes.on_main(find)
        [(checkpoint, faults)] = processes.gather(intact)
        processes.check_shared(folder / "environment.json")
        with processes.together():
            run = cls._resumed(config, directory, progress, accelerator, checkpoint)
        run._checked()

        def rewind() -> None:
            for said in (*edits.values(), *faults):
                progress.note(said)
            aside = directory.rewind(run.step)
            rest = f"; what had been written after it is in {aside}" if aside else ""
            progress.note(f"resuming after step {run.step}{rest}")
            run.checkpoint_written()  # it may have been killed just before that

        run.processes.on_main(rewind)
        return run

    @classmethod
    def _resumed(
        cls,
        config: C,
        directory: RunDirectory,
        progress: Progress,
        accelerator: Accelerator,
        checkpoint: Path | None,
    ) -> Self:
        """The run from a checkpoint; where that is damaged, says what to do."""
        try:
            return cls(config, directory, progress, accelerator, checkpoint)
        except UserError as error:
            if checkpoint is None or str(checkpoint) not in str(error):
                raise
            raise UserError(
                f"checkpoint {checkpoint}: damaged ({error}); delete this folder, and "
                f"`redraft resume {directory.folder}` resumes from the checkpoint before it"
            ) from None

    def _checked(self) -> Self:
        """The run, once all processes are known to have the same problems and the same weights."""
        problems = repr([(problem.question, problem.gold) for problem in self.problems])
        digest = blake2b(problems.encode(), digest_size=8).hexdigest()
        self.processes.check_same(f"--task {self.config.task}, its problems", digest)
        self.processes.check_same(f"--model {self.config.model}, its weights", self.policy.digest)
        return self

    def restore(self, name: str, read: Callable[[Any], T], otherwise: T) -> T:
        """A value of `state` that the checkpoint holds, `otherwise` without a checkpoint.

        Raises:
            UserError: the checkpoint holds something that `read` refuses.
        """
        value = self.restored.get(name, otherwise)
        try:
            return read(value)
        except (TypeError, ValueError, OverflowError):
            place = f"{self._checkpoint}/extra.json"
            raise UserError(f"{place}: {name} is {str(value)[:80]!r}") from None

    def _of_checkpoint(self, step: Any) -> int:
        """The step that a checkpoint says it is of, which its folder is named after."""
        if self._checkpoint is not None and self._checkpoint.name != f"step-{int(step):06d}":
            raise ValueError
        return int(step)

    @property
    def learner(self) -> Learner:
        """What changes the weights; there is one from the first phase on."""
        if self._learner is None:
            raise RuntimeError("no phase has begun")
        return self._learner

    def learner_config(self, **settings: Any) -> LearnerConfig:
        """The run's settings as the learner takes them, with those of a method or a phase.

        Log-probabilities are taken at temperature 1 unless a method asks for the temperature that
        it samples at, as reinforcement does: imitation is of what was said, however it was drawn.
        """
        config = self.config
        common: dict[str, Any] = {
            "learning_rate": config.learning_rate,
            "betas": (config.adam_beta1, config.adam_beta2),
            "weight_decay": config.weight_decay,
            "max_grad_norm": config.max_grad_norm,
            "tokens_per_microbatch": config.tokens_per_microbatch,
            "gradient_checkpointing": config.gradient_checkpointing,
            "logit_chunk": config.logit_chunk,
        }
        return LearnerConfig(**common | settings)

    def begin_phase(
        self,
        number: int,
        begin: int,
        learner: LearnerConfig,
        *,
        anchored: bool = False,
        new_reference: bool = False,
        fresh_optimizer: bool = True,
    ) -> None:
        """Get ready for phase `number`, whose first step is `begin + 1`.

        With `anchored` the learner gets a reference: the model the run starts from, or with
        `new_reference` the policy as it is when the phase begins. Inside a phase (a resumed run)
        the optimiser comes from the checkpoint; so it does without `fresh_optimizer`, whether the
        run was interrupted there or not, which is why both end at the same weights.
        """
        keeps_optimizer = self.step > begin or (self.step > 0 and not fresh_optimizer)
        if keeps_optimizer and self._checkpoint is None:
            self.write_checkpoint()
            self._checkpoint = self._place()
        if self._learner is not None:
            self._learner.close()
            self._learner = None
        if new_reference:
            kept = self._kept_policy(self.directory.folder / f"reference-{number}", begin)
            self.together(lambda: self.policy.anchor(kept))
        elif anchored:
            self.together(lambda: self.policy.anchor(None))
        self._learner = Learner(
            self.policy.model,
            learner,
            accelerator=self.accelerator,
            reference=self.policy.reference,
            zero=self.policy.zero,
            note=self.progress.note,
        )
        if keeps_optimizer and (checkpoint := self._checkpoint) is not None:
            self.together(lambda: self.learner.load(checkpoint))
        self._checkpoint = None
        self._gap_noted = False
        if self.step == 0 and newest_complete(self.directory.checkpoints) is None:
            self.write_checkpoint()  # good weights to go back to, whatever the first steps do

    def sample(
        self,
        problems: Sequence[Problem],
        protocol: Protocol,
        *,
        samples: int = 1,
        key: int = 0,
        given: Sequence[Sequence[Turn]] | None = None,
        history_turns: int | None = None,
        grader: Grader | None = None,
    ) -> list[Episode]:
        """Episodes of the policy, judged by the task's grader or another; see `rollout`.

        The draws are a function of the run's seed, the step, `key` (which tells apart the samplings
        within a step), the problem, the sample and the turn.
        """
        with self._sampling(len(problems) * samples, protocol) as bar:
            return self.policy.sample(
                problems,
                protocol,
                grader or self.task.grader,
                self.sampling(key),
                samples=samples,
                name=self.version,
                given=given,
                history_turns=history_turns,
                watch=bar.watch,
            )

    def _sampling(self, episodes: int, protocol: Protocol) -> AbstractContextManager[Phase]:
        """Shows how far the sampling of some episodes is."""
        responses = episodes * protocol.turns
        return self.progress.phase("sampling", responses, self.config.max_tokens)

    def sampling(self, key: int = 0, step: int | None = None) -> Sampling:
        """How a step's responses are drawn, by default this one's; see `sample` for `key`."""
        config, step = self.config, self.step if step is None else step
        words = np.random.SeedSequence([config.seed, step, key]).generate_state(1, np.uint64)
        return Sampling(
            config.temperature,
            max_tokens=config.max_tokens,
            stop=self.prompts.stop,
            seed=int(words[0] >> np.uint64(1)),
        )

    def together(self, work: Callable[[], T]) -> T:
        """The result of `work`, once it has succeeded on all processes; see `Processes`."""
        with self.processes.together():
            return work()

    def exists(self, path: Path) -> bool:
        """Whether the main process sees a file, so that all processes go on alike: another one's
        look may come later, or its file system lag behind."""
        return bool(self.processes.gather([path.exists()])[0])

    def update(self, rows: Sequence[TrainingRow]) -> dict[str, float]:
        """One optimiser step on rows that have been through `Learner.with_reference`; returns what
        the learner measured.

        Where no process has a row, as when no problem of a step fits the context, the step counts
        and the weights stay as they are; the metrics are empty then.

        Raises:
            UserError: the step met numbers that are not finite. The last good weights are in a
                checkpoint; the batch that did it, and the weights before it, in the run's folder.
        """
        interruption.hold()
        if not any(self.processes.gather([bool(rows)])):
            self._seconds["update"] = 0.0
            self.step += 1
            self.learner.steps += 1  # so that the learning rate's schedule goes by the run's steps
            return {}
        return self._take_step(lambda: self.learner.step(rows))

    def prefer(
        self, pairs: Sequence[PreferencePair], preference: PreferenceConfig
    ) -> dict[str, float]:
        """One optimiser step on the preference pairs; returns what the learner measured.

        Raises:
            UserError: as `update`, and `Learner.preference_step`.
        """
        interruption.hold()
        self._seconds.pop("reference", None)  # of an earlier phase
        return self._take_step(lambda: self.learner.preference_step(pairs, preference))

    def timed(self, part: str, work: Callable[[], T]) -> T:
        """The result of `work`; its seconds go into the step's metrics as `seconds/PART`."""
        started = time.perf_counter()
        result = work()
        self._seconds[part] = time.perf_counter() - started
        return result

    def _take_step(self, step: Callable[[], dict[str, float]]) -> dict[str, float]:
        try:
            learned = self.timed("update", step)
        except NonFiniteLoss as error:
            raise self._stopped_by(error) from None
        noted = self._gap_noted or self._off_policy
        if not noted and (note := gap_note(learned)):
            self._gap_noted = True  # once a phase is enough
            self.progress.note(f"step {self.step + 1}: {note}")
        self.step += 1
        self.publish()
        return learned

    @property
    def version(self) -> str:
        """Name of the weights as they are."""
        return f"step-{self.step:06d}"

    def publish(self) -> None:
        """Have the engine respond with the weights as they are. All processes must call this."""
        self.policy.updated(self.version)

    def evaluates_after(self, step: int) -> bool:
        """Whether the held-out problems are answered after a step."""
        every = self.config.evaluate_every
        return every > 0 and step % every == 0

    def checkpoints_after(self, step: int) -> bool:
        """Whether a checkpoint is written after a step."""
        best = self.config.select == "best" and self.evaluates_after(step)
        return step % self.config.checkpoint_every == 0 or best

    def record(
        self,
        phase: str,
        metrics: Mapping[str, float],
        episodes: Sequence[Episode] = (),
        score: float | None = None,
    ) -> dict[str, float]:
        """Write down the step just taken, this process's episodes of it, and when due a held-out
        evaluation and a checkpoint.

        `score` is what `select` best goes by where no problems are held out. A SIGTERM that has
        come since `update` is raised at the end, on all processes.

        Returns the metrics with the step's speed: the response tokens of all processes, by phase.
        """
        tokens = sum(turn.generated for episode in episodes for turn in episode.responses)
        complete = {**metrics, **speed(self._seconds, self._beside, tokens, self.accelerator)}
        self._beside = {}
        # One measure for all checkpoints of a run.
        self._score = None if self.config.evaluate_every else score
        if self.evaluates_after(self.step):
            held_out = self.timed("evaluation", self.evaluate)
            self._score = last_accuracy(held_out)
            complete |= {f"held_out/{name}": value for name, value in held_out.items()}
            spent = self.processes.gather([self._seconds.pop("evaluation")])
            complete["seconds/evaluation"] = max(spent)

        def write() -> None:
            process = self.processes.rank
            if episodes:
                name = f"train-process{process}" if process else "train"
                self.directory.episodes(name, episodes, self.step)
            if self.processes.main:
                self.directory.log({"phase": phase, **complete}, self.step)
                self.trackers.log(complete, self.step)

        self.together(write)
        if self.checkpoints_after(self.step):
            self.write_checkpoint()
        if any(self.processes.gather([interruption.asked()])):
            raise interruption.Terminated
        if self.processes.count == 1:
            interruption.release()
        return complete

    def evaluate(self) -> dict[str, float]:
        """Metrics of the policy on the held-out problems, greedily, by flat name, without those
        that could not be sampled or graded, which are noted; all processes share the work and must
        call this."""
        mine = self._held_out[self.processes.rank :: self.processes.count]
        kept, failed = without_failed(self.together(lambda: self._answered(mine)))
        if everyones := self.processes.gather([*failed.items()]):
            name, why = everyones[0]
            self.progress.note(
                f"step {self.step}: {len(everyones)} of {len(self._held_out)} held-out problems "
                f"could not be sampled or graded and are not measured, first {name}: {why}"
            )
        return self.measured(kept, self.evaluation.answers)

    def _answered(self, problems: Sequence[Problem]) -> list[Episode]:
        """Greedy episodes on some held-out problems."""
        if not problems:
            return []
        how, grader = self.evaluation, self.task.grader
        sampling = Sampling(0.0, max_tokens=self.config.max_tokens, stop=self.prompts.stop)
        ended: list[Episode] = []
        begun: list[Episode] | None = None
        if how.first is not None:
            played = self.policy.sample(problems, how.first, grader, sampling)
            ended = [episode for episode in played if not episode.turns]
            begun = [episode for episode in played if episode.turns]
            problems = [episode.problem for episode in begun]
        with self._sampling(len(problems), how.protocol) as bar:
            finished = self.policy.sample(
                problems,
                how.protocol,
                how.grader or grader,
                sampling,
                given=None if begun is None else [episode.turns for episode in begun],
                history_turns=how.history_turns,
                watch=bar.watch,
            )
        return [*ended, *finished]

    def measured(self, episodes: Sequence[Episode], turns: int) -> dict[str, float]:
        """Metrics over the episodes of all processes, by flat name; only their sums travel. There
        are `turns` turns, or as many as an episode of any process has."""
        turns = max(self.processes.gather([max([turns, *(len(e.answers) for e in episodes)])]))
        sums = {
            name: (float(ratio.numerator.sum()), float(ratio.denominator.sum()))
            for name, ratio in (ratios(episodes, turns).items() if episodes else ())
        }
        size = [len(same_problem_groups(episodes)), len(episodes)]
        gathered = self.processes.gather([(size, sums)])
        sizes = np.sum([theirs for theirs, _ in gathered], axis=0).tolist()
        total: dict[str, list[float]] = {}
        for _, theirs in gathered:
            for name, (above, below) in theirs.items():
                one = total.setdefault(name, [0.0, 0.0])
                one[0], one[1] = one[0] + above, one[1] + below
        values = {
            name: Ratio(np.array([above]), np.array([below])).value
            for name, (above, below) in total.items()
        }
        known = {name: value for name, value in values.items() if value is not None}
        return {**dict(zip(("n_problems", "n_samples"), sizes, strict=True)), **known}

    def stop(self) -> None:
        """End what goes on beside the run, which ends for whatever reason."""

    def finish(self) -> Path:
        """Write the chosen weights to the run's `model` folder and the outcome to `summary.json`;
        returns the run's folder."""
        place = self._place()
        if newest_complete(self.directory.checkpoints) != place or _is_stopgap(read_extra(place)):
            self.write_checkpoint()

        def export() -> None:
            chosen = self.chosen_checkpoint()
            export_model(chosen, self.directory.folder / "model")
            outcome = summarize(self.directory.metrics(), self.config.checkpoint_every)
            counts = {"n_problems": len(self.problems), "n_dropped": len(self.dropped)}
            selected = int(read_extra(chosen)["step"])
            outcome |= {"selected_step": selected, **counts, "dropped": self.dropped}
            self.directory.summary(outcome)

        self.processes.on_main(export)
        self.trackers.finish()
        return self.directory.folder

    def chosen_checkpoint(self) -> Path:
        """The checkpoint that becomes the run's `model`: the last one, or with `select` best the
        one with the highest score among those that are there."""
        best = self._best_checkpoint() if self.config.select == "best" else None
        return best or self._place()

    def _best_checkpoint(self) -> Path | None:
        extras = {
            path: read_extra(path) for path in complete_checkpoints(self.directory.checkpoints)
        }
        scores = {
            path: score
            for path, extra in extras.items()
            if not _is_stopgap(extra) and (score := _number_or_none(extra.get("score"))) is not None
        }
        return max(scores, key=lambda path: scores[path], default=None)

    def state(self) -> dict[str, Any]:
        """What a loop wants to find in a checkpoint beside the step; JSON values."""
        return {}

    def checkpoint_written(self) -> None:
        """Called on the main process after every checkpoint, before old ones are deleted."""

    def write_stopgap(self) -> None:
        """Write a checkpoint of the step just taken, where there is none, for a run that is about
        to end too early: it resumes from there, and `select` best does not know of it."""
        if self._learner is not None and newest_complete(self.directory.checkpoints) != (
            self._place()
        ):
            self.write_checkpoint(stopgap=True)

    def write_checkpoint(self, *, stopgap: bool = False) -> None:
        """Write a checkpoint of the step just taken and delete those that are not to be kept."""
        extra = {"step": self.step, "score": self._score, **self.state()}
        write_checkpoint(
            self.directory.checkpoints,
            self.learner,
            self.policy.tokenizer,
            {**extra, "stopgap": True} if stopgap else extra,
            step=self.step,
        )

        def prune() -> None:
            self.checkpoint_written()
            best = self._best_checkpoint() if self.config.select == "best" else None
            prune_checkpoints(self.directory.checkpoints, self.config.keep_checkpoints, best)

        self.processes.on_main(prune)

    def _load_problems(self) -> list[Problem]:
        loaded = self.task.load("train", self.config.limit, self.config.seed)
        if said := self.config.grader_note:
            self.progress.note(said)
        self.dropped = [{"id": name, "reason": why} for name, why in loaded.dropped]
        if loaded.dropped:
            name, why = loaded.dropped[0]
            self.progress.note(
                f"{len(loaded.dropped)} problems dropped, no answer could be right: {name}: {why}"
            )
        if not loaded.problems:
            raise UserError(f"--task {self.config.task}: no problem is left to train on")
        return loaded.problems

    def _load_held_out(self) -> list[Problem]:
        problems = self.task.load("test", self.config.evaluate_problems, 0).problems
        trained = {problem.question for problem in self.problems}  # one file may be both splits
        held_out = [problem for problem in problems if problem.question not in trained]
        if not held_out:
            raise UserError(
                f"--task {self.config.task}: no held-out problems for --evaluate-every; its data "
                "has no test split apart from the problems that are trained on"
            )
        return held_out

    def _kept_policy(self, place: Path, begin: int) -> Path:
        """The policy as it was after step `begin`, on disk for a run that is resumed later."""

        if self.step == begin:
            self.together(lambda: self.policy.save(place))

        def keep() -> None:
            if self.step == begin:
                seal(place)
            elif fault := damage(place):
                raise UserError(f"{place}: damaged ({fault}); put it back from a copy")

        self.processes.on_main(keep)
        return place

    def _place(self) -> Path:
        return self.directory.checkpoints / self.version

    def _stopped_by(self, error: NonFiniteLoss) -> UserError:
        """Put aside what the failed step had: its rows, and the weights before it.

        Weights are known to be good once a step from them was finite. Those before the failed step
        may be what it failed of, so their checkpoint makes way for an older one.
        """
        step, checkpoints, place = self.step + 1, self.directory.checkpoints, self._place()
        aside = self.directory.folder / f"failed-step-{step:06d}"
        rows = self.processes.gather_to_main([row.as_json() for row in error.rows])
        has_checkpoint = self.exists(place)
        self.processes.on_main(lambda: shutil.rmtree(aside, ignore_errors=True))
        if not has_checkpoint and not error.spoiled:
            self.together(lambda: self.policy.save(aside))

        def put_aside() -> None:
            if has_checkpoint and len(complete_checkpoints(checkpoints)) > 1:
                place.rename(aside)
            aside.mkdir(exist_ok=True)
            write_json(aside / "rows.json", {"rows": rows})

        self.processes.on_main(put_aside)
        return UserError(
            f"step {step}: {error}; batch: {aside / 'rows.json'}, last good checkpoint: "
            f"{newest_complete(checkpoints)}; `redraft resume` resumes from it with what "
            f"{self.directory.folder / 'config.yaml'} says then"
        )


def _newest_intact(directory: RunDirectory) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that a run can resume from, None where it has written none, and why not
    from later ones.

    Raises:
        UserError: there are checkpoints, and none can be used.
    """
    faults: list[str] = []
    for path in reversed(complete_checkpoints(directory.checkpoints)):
        fault = damage(path) or directory.lost_metrics(int(path.name.removeprefix("step-")))
        if fault is None:
            return path, faults
        faults.append(f"checkpoint {path} is not used: {fault}")
    if faults:
        raise UserError(
            f"{faults[0]}, and no other is left; put back what is missing from a copy, or begin "
            "again with another --out"
        )
    return None, []


def _is_stopgap(extra: Mapping[str, Any]) -> bool:
    return bool(extra.get("stopgap"))


def _number_or_none(value: Any) -> float | None:
    return None if value is None else float(value)


def last_accuracy(metrics: Mapping[str, float]) -> float | None:
    """The accuracy of the last answer among metrics by flat name; None if there is none."""
    turns = [name for name in metrics if name.startswith("accuracy/turn")]
    last = max(turns, key=lambda name: int(name.removeprefix("accuracy/turn")), default=None)
    return None if last is None else metrics[last]


def _accelerator(config: TrainConfig) -> Accelerator:
    device, precision = torch_device(config.device), config.precision
    bf16 = precision == "bfloat16" or (precision == "auto" and has_bf16(device))
    return accelerator_on(device, bf16=bf16)
