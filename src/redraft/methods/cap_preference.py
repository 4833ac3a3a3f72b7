"""The preference stage of CaP: typed pairs of programs on the same question and chain.

It leaves everything in the folder of the iteration after the supervised ones::

    iterations/02/episodes-0000.jsonl   with `resample`: what the fine-tuned policy was seen to do
    iterations/02/pairs.jsonl           the pairs as tokens, with the reference's log-probabilities
    iterations/02/summary.json          how many pairs there were of each type, and were kept
    iterations/02/model/                the policy after it

The reference is the policy as the stage finds it. Once pairs are on disk they stay as they are, so
that a killed run ends at the same weights.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from redraft.credit.pairs import PAIR_KINDS, PairKind, PairSet, ProgramPair, preference_pairs
from redraft.episode import Episode, Record, read_jsonl, to_jsonl
from redraft.errors import UserError
from redraft.evaluation.refinement import label_of, program_of, same_answer
from redraft.learning.pair_metrics import ChosenWatch
from redraft.learning.pairs import Completion, PreferencePair, with_unrelated
from redraft.learning.preference_config import PreferenceConfig
from redraft.methods.cap_config import CapConfig
from redraft.methods.order import ProblemOrder
from redraft.methods.supervised import Recipe, SupervisedSession, collect
from redraft.runs import write_json, write_text

PHASE = "preferences"

CapSession = SupervisedSession[CapConfig]


class Scored(Record):
    """A completion's tokens and the reference's log-probability of them (None: not needed)."""

    tokens: list[int]
    ref_logprob: float | None = None


class StoredPair(Record):
    """A preference pair as it lies on disk; see `learning.pairs.PreferencePair`."""

    problem: str
    kind: PairKind
    prompt: list[int]
    chosen: Scored
    rejected: Scored
    unrelated: Scored | None = None

    def loaded(self) -> PreferencePair:
        """The pair as the learner takes it."""
        sides = {
            name: Completion(side.tokens, ref_logprob=side.ref_logprob)
            for name, side in (("chosen", self.chosen), ("rejected", self.rejected))
        }
        if self.unrelated is not None:
            other = self.unrelated
            sides["unrelated"] = Completion(other.tokens, ref_logprob=other.ref_logprob)
        return PreferencePair(self.prompt, **sides)


def prefer(session: CapSession, recipe: Recipe[Any], preference: PreferenceConfig) -> None:
    """Go through the preference stage, or through what is left of it.

    Raises:
        UserError: there is no pair, too many questions failed, or whatever training raises.
    """
    path = session.folder / "pairs.jsonl"
    pairs = [] if path.exists() else _make_pairs(session, recipe, preference)
    count = len(read_jsonl(path, StoredPair)) if path.exists() else len(pairs)
    config = session.config
    size = min(config.preference_batch_size, count)
    steps = math.ceil(config.preference_epochs * count / size)
    learner = session.learner_config(
        schedule=config.schedule,
        warmup_steps=min(round(config.warmup_share * steps), steps - 1),
        total_steps=steps,
    ).model_copy(update={"learning_rate": config.preference_learning_rate})
    session.begin_phase(session.iteration, session.began, learner)
    if pairs:
        _write(session, path, _with_reference(session, pairs, preference))
    stored = [one.loaded() for one in read_jsonl(path, StoredPair)]
    _descend(session, stored, preference, size, steps)
    session.end_iteration()


def _make_pairs(
    session: CapSession, recipe: Recipe[Any], preference: PreferenceConfig
) -> list[tuple[ProgramPair, PreferencePair]]:
    """Typed pairs of what was sampled; says how many there are, and refuses none."""
    session.folder.mkdir(parents=True, exist_ok=True)
    episodes = collect(session, recipe) if session.config.resample else _sampled_before(session)
    programs = [program_of(episode) for episode in episodes]
    of = {id(program): e for program, e in zip(programs, episodes, strict=True)}
    found = preference_pairs(
        programs,
        same=same_answer,
        per_question=session.config.pairs_per_question,
        exec_share=session.config.exec_share,
    )
    if session.accelerator.is_main_process:
        counted = {"episodes": len(episodes), "pairs": len(found.pairs)}
        write_json(
            session.folder / "summary.json",
            {**counted, "found": found.found, "kept": found.kept, "loss": preference.terms},
        )
    _tell(session, found, episodes)
    tokens = [_tokens(of[id(pair.chosen)], of[id(pair.rejected)]) for pair in found.pairs]
    if preference.needs_unrelated:
        tokens = with_unrelated(tokens)
    return list(zip(found.pairs, tokens, strict=True))


def _sampled_before(session: CapSession) -> list[Episode]:
    """What the last supervised iteration played."""
    folder = session.folder.parent / f"{session.iteration - 1:02d}"
    return [
        e for file in sorted(folder.glob("episodes-*.jsonl")) for e in read_jsonl(file, Episode)
    ]


def _tell(session: CapSession, found: PairSet, episodes: Sequence[Episode]) -> None:
    """Say which types of pairs there are.

    Raises:
        UserError: there is none.
    """
    kinds = ", ".join(f"{kind} {found.kept[kind]} of {found.found[kind]}" for kind in PAIR_KINDS)
    if not found.pairs:
        right = sum(label_of(episode) == "right" for episode in episodes)
        model = session.folder.parent / f"{session.iteration - 1:02d}" / "model"
        raise UserError(
            f"no preference pairs ({kinds}; {right} of {len(episodes)} programs right): a pair "
            "needs a right and another program on one prompt; use more --programs, other "
            "questions, a higher --exec-share, or --loss none. The fine-tuned model is in "
            f"{model}"
        )
    session.progress.note(f"{len(found.pairs)} preference pairs ({kinds})")
    kept = [kind for kind in PAIR_KINDS if found.kept[kind]]
    if len(kept) == 1:
        session.progress.note(
            f"all preference pairs are of type {kept[0]!r}: nothing else can be learned from them; "
            "fix pairs need wrong chains that some program repeats and another corrects"
        )


def _tokens(chosen: Episode, rejected: Episode) -> PreferencePair:
    """Both programs after the chosen one's prompt: question, chain, request."""
    prompt = chosen.tokens[: -len(chosen.turns[-1].attempt_tokens)]
    sides = [Completion(episode.turns[-1].attempt_tokens) for episode in (chosen, rejected)]
    return PreferencePair(prompt, *sides)


def _with_reference(
    session: CapSession,
    pairs: Sequence[tuple[ProgramPair, PreferencePair]],
    preference: PreferenceConfig,
) -> list[StoredPair]:
    """The pairs as they are stored, scored by the policy as it is now."""
    process, processes = session.accelerator.process_index, session.accelerator.num_processes
    mine = [pair for _, pair in pairs[process::processes]]
    if preference.needs_reference:
        mine = session.learner.pairs_with_reference(mine, from_policy=True)
    numbers = range(process, len(pairs), processes)
    stored = [
        (number, _stored(pairs[number][0], pair))
        for number, pair in zip(numbers, mine, strict=True)
    ]
    return [pair for _, pair in sorted(session.everyones(stored), key=lambda item: item[0])]


def _stored(typed: ProgramPair, pair: PreferencePair) -> StoredPair:
    sides = {
        name: Scored(tokens=side.tokens.tolist(), ref_logprob=side.ref_logprob)
        for name, side in pair.completions.items()
    }
    return StoredPair(
        problem=typed.chain.problem, kind=typed.kind, prompt=pair.prompt.tolist(), **sides
    )


def _write(session: CapSession, path: Path, pairs: Sequence[StoredPair]) -> None:
    if session.accelerator.is_main_process:
        write_text(path, to_jsonl(pairs))
    session.accelerator.wait_for_everyone()


def _descend(
    session: CapSession,
    pairs: Sequence[PreferencePair],
    preference: PreferenceConfig,
    size: int,
    steps: int,
) -> None:
    """The optimiser steps that are left; says once when the chosen programs become less likely."""
    watch = ChosenWatch()
    for line in session.run.metrics():
        if line.get("phase") == PHASE:
            watch.warning(line)  # it was told before the run was interrupted
    order = ProblemOrder(
        session.config.seed + session.iteration,
        len(pairs),
        size,
        session.accelerator.process_index,
        session.accelerator.num_processes,
    )
    begin = session.began
    with session.progress.phase(f"{PHASE} {session.iteration}", steps) as bar:
        bar.advance(session.step - begin)
        while session.step < begin + steps:
            batch = [pairs[index] for index in order.problems(session.step - begin)]
            metrics = session.record(PHASE, session.prefer(batch, preference))
            if note := watch.warning(metrics):
                session.progress.note(f"step {session.step}: {note}")
            bar.advance(1, loss=metrics["loss"], margin=metrics["rewards/margins"])
