"""What a CaP run samples, and which programs it imitates."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from redraft.chat.prompts import find_program_prompts
from redraft.chat.protocols import ChainToProgram, Intrinsic, ProgramAlone
from redraft.chat.rollout import rollout
from redraft.evaluation.metrics import LABELS, label_of
from redraft.grading.program import ProgramGrader
from redraft.learning.imitation import Chosen, Example
from redraft.methods.cap.pairs import after_right_chain, chain_of, supervised_set
from redraft.methods.cap.settings import POLICY, CapConfig
from redraft.training.run import Evaluation
from redraft.training.supervised import SupervisedRun
from redraft.training.teacher import Teacher, open_teacher
from redraft.types import Episode, Problem, Turn

CapRun = SupervisedRun[CapConfig]


class Cap:
    """The recipe of the supervised stage; see `training.supervised.Recipe`."""

    def __init__(self, run: CapRun) -> None:
        """Load or reach the models that chains are asked of.

        Raises:
            UserError: one cannot be loaded, or an endpoint's key is missing.
        """
        config = run.config
        named = config.program_prompts
        self.programs = run.task.programs if named is None else find_program_prompts(named)
        self.grader = ProgramGrader(run.task.grader, config.limits)
        run.evaluation = (
            Evaluation(ProgramAlone(self.programs), 1, grader=self.grader)
            if config.variant == "pot"
            else Evaluation(
                ChainToProgram(run.prompts, self.programs),
                2,
                grader=self.grader,
                first=Intrinsic(run.prompts, 1),
            )
        )
        self.sources = run.together(lambda: _open_sources(run))

    def collect(self, run: CapRun, problems: Sequence[Problem]) -> list[Episode]:
        """Chains, and programs after each; or programs after the question alone.

        Chains that failed, or for which the context had no room, come back without a program.
        """
        config = run.config
        if config.variant == "pot":
            alone = ProgramAlone(self.programs)
            samples = config.chains * config.programs
            return labelled(run.sample(problems, alone, samples=samples, grader=self.grader))
        place = {problem.id: index for index, problem in enumerate(problems)}
        every = [e for name in config.source_names for e in self._chains(run, name, problems)]
        every.sort(key=lambda episode: place[episode.problem.id])
        chains = [episode for episode in every if episode.turns]
        played = run.sample(
            [chain.problem for chain in chains],
            ChainToProgram(run.prompts, self.programs),
            samples=config.programs,
            key=1,
            given=[chain.turns for chain in chains for _ in range(config.programs)],
            grader=self.grader,
        )
        return [*(episode for episode in every if not episode.turns), *labelled(played)]

    def choose(self, run: CapRun, episodes: Sequence[Episode]) -> Chosen:
        """Right programs, as many after right chains as after wrong ones, none twice."""
        config = run.config
        right = supervised_set(
            episodes, ratio=config.ratio, per_question=config.examples_per_question
        )
        examples = [
            Example(episode=episode, weights=[*[0.0] * (len(episode.responses) - 1), 1.0])
            for episode in right
        ]
        counts = count_by_label(episodes)
        counts["after_right_chain"] = sum(map(after_right_chain, right))
        counts["after_wrong_chain"] = len(right) - counts["after_right_chain"]
        return Chosen(examples, counts)

    def _chains(self, run: CapRun, source: str, problems: Sequence[Problem]) -> list[Episode]:
        """Graded chains of one source: episodes of one turn, or of none where it failed."""
        config, alone = run.config, Intrinsic(run.prompts, 1)
        if source == POLICY:
            return [
                by(POLICY, episode)
                for episode in run.sample(problems, alone, samples=config.chains)
            ]
        teacher, key = self.sources[source], 2 + config.source_names.index(source)
        draws = run.sampling(key)  # the policy's own temperature and length limit
        played = rollout(
            problems,
            alone,
            teacher.engine,
            run.task.grader,
            replace(teacher.sampling, seed=draws.seed, stop=draws.stop),
            samples=config.chains,
        )
        return [by(source, episode) for episode in played]


def _open_sources(run: CapRun) -> dict[str, Teacher]:
    """The models that chains are asked of beside the policy, by name."""
    config = run.config
    if config.variant != "cap":
        return {}
    return {
        name: open_teacher(
            config.teacher_of(name),
            run.directory.folder / "sources" / f"{number}",
            run.progress,
            flag="--sources",
            process=run.processes.rank,
        )
        for number, name in enumerate(config.source_names)
        if name != POLICY
    }


def by(source: str, episode: Episode) -> Episode:
    """A chain under its source's name; without token ids where these are another model's."""
    if not episode.turns:
        return episode.model_copy(update={"note": f"{source}: {episode.note}"})
    chain = episode.turns[0]
    update: dict[str, object] = {"source": source}
    if source != POLICY:
        update |= {"author": "teacher", "completion_tokens": chain.generated}
        update |= {"tokens": [], "logprobs": []}
    return episode.model_copy(update={"turns": [chain.model_copy(update=update)]})


def labelled(episodes: Sequence[Episode]) -> list[Episode]:
    """The episodes with each program's output as a last turn, and its label in `tags`."""
    done = []
    for episode in episodes:
        label = label_of(episode)
        if label is not None:
            turns, grade = list(episode.turns), episode.grades[-1]
            if grade.output:
                turns.append(Turn(author="environment", text=grade.output))
            update = {"turns": turns, "tags": {**episode.tags, "label": label}}
            episode = episode.model_copy(update=update)
        done.append(episode)
    return done


def count_by_label(episodes: Sequence[Episode]) -> dict[str, float]:
    """Programs by label, every label named; those after a wrong chain; and episodes without a
    program, if there are any."""
    counts = Counter(episode.tags.get("label") for episode in episodes)
    named: dict[str, float] = {name: counts[name] for name in LABELS}
    named["wrong_chains"] = sum(
        chain_of(episode) is not None and not after_right_chain(episode) for episode in episodes
    )
    return named | ({"no_program": counts[None]} if counts[None] else {})
