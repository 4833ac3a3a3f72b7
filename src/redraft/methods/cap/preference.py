"""The preference stage of CaP: pairs of programs on the same question and chain.

It leaves everything in the folder of the iteration after the supervised ones::

    iterations/02/episodes-0000.jsonl   with `resample`: episodes of the fine-tuned policy
    iterations/02/pairs.jsonl           the pairs as tokens, with the reference's log-probabilities
    iterations/02/summary.json          how many pairs there were of each kind, and were kept
    iterations/02/model/                the policy after it

The reference is the policy as it is when the stage begins. Once pairs are on disk they stay as they
are, so that a resumed run ends at the same weights.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from redraft.errors import UserError
from redraft.evaluation.headline import headline
from redraft.learning.pair_metrics import ChosenWatch
from redraft.learning.pairs import Completion, PreferencePair, with_unrelated
from redraft.learning.preference_config import PreferenceConfig
from redraft.methods.cap.pairs import PAIR_KINDS, Pair, PairKind, all_pairs, capped, count_kinds
from redraft.methods.cap.settings import CapConfig
from redraft.storage import read_checked, to_jsonl, write_checked, write_json
from redraft.training.order import ProblemOrder
from redraft.training.supervised import Recipe, SupervisedRun, collect
from redraft.types import Episode

PHASE = "preferences"

CapRun = SupervisedRun[CapConfig]


def prefer(run: CapRun, recipe: Recipe[Any], preference: PreferenceConfig) -> None:
    """Go through the preference stage, or through what is left of it.

    Raises:
        UserError: there is no pair, too many questions failed, or whatever training raises.
    """
    path, config = run.folder() / "pairs.jsonl", run.config
    new = not run.exists(path)
    pairs = _make_pairs(run, recipe, preference) if new else _read(run, path)
    size = min(config.preference_batch_size, len(pairs))
    steps = math.ceil(config.preference_epochs * len(pairs) / size)
    learner = run.learner_config(
        learning_rate=config.preference_learning_rate,
        schedule=config.schedule,
        warmup_steps=min(round(config.warmup_share * steps), steps - 1),
        total_steps=steps,
    )
    run.begin_phase(run.iteration, run.began, learner)
    if new:
        _write(run, path, pairs, preference)
        pairs = _read(run, path)
    _optimise(run, pairs, preference, size, steps)
    run.end_iteration()


def to_tokens(pair: Pair) -> PreferencePair:
    """Both programs after the chosen one's prompt: question, chain, request."""
    sides = []
    for episode in (pair.chosen, pair.rejected):
        places = [i for i, turn in enumerate(episode.turns) if turn.author != "environment"]
        sides.append((episode.context(places[-1]), episode.turns[places[-1]].tokens))
    (prompt, chosen), (_, rejected) = sides
    return PreferencePair(
        problem=pair.chosen.problem.id,
        kind=pair.kind,
        prompt=prompt,
        chosen=Completion(tokens=chosen),
        rejected=Completion(tokens=rejected),
    )


def _make_pairs(
    run: CapRun, recipe: Recipe[Any], preference: PreferenceConfig
) -> list[PreferencePair]:
    """Pairs of what was sampled, counted in `summary.json`.

    Raises:
        UserError: there is none.
    """
    config = run.config
    run.together(lambda: run.folder().mkdir(parents=True, exist_ok=True))

    def earlier() -> list[Episode]:
        files = sorted(run.folder(run.iteration - 1).glob("episodes-*.jsonl"))
        return [episode for file in files for episode in read_checked(file, Episode)]

    episodes = collect(run, recipe) if config.resample else run.together(earlier)
    every = all_pairs(episodes)
    pairs = capped(every, per_question=config.pairs_per_question, exec_share=config.exec_share)
    found, kept = count_kinds(every), count_kinds(pairs)
    counted = {"episodes": len(episodes), "pairs": len(pairs)}
    summary = {**counted, "found": found, "kept": kept, "loss": preference.terms}
    run.processes.on_main(lambda: write_json(run.folder() / "summary.json", summary))
    _report(run, episodes, found, kept)
    tokens = [to_tokens(pair) for pair in pairs]
    return with_unrelated(tokens) if preference.needs_unrelated else tokens


def _report(
    run: CapRun,
    episodes: Sequence[Episode],
    found: Mapping[PairKind, int],
    kept: Mapping[PairKind, int],
) -> None:
    """Note which kinds of pairs there are.

    Raises:
        UserError: there is none.
    """
    kinds = ", ".join(f"{kind} {kept[kind]} of {found[kind]}" for kind in PAIR_KINDS)
    if not sum(kept.values()):
        right = sum(episode.tags.get("label") == "right" for episode in episodes)
        raise UserError(
            f"no preference pairs ({kinds}; {right} of {len(episodes)} programs right): a pair "
            "needs a right and another program on one prompt; use more --programs, other "
            "questions, a higher --exec-share, or --loss none. The fine-tuned model is in "
            f"{run.folder(run.iteration - 1) / 'model'}"
        )
    run.progress.note(f"{sum(kept.values())} preference pairs ({kinds})")
    only = [kind for kind in PAIR_KINDS if kept[kind]]
    if len(only) == 1:
        run.progress.note(
            f"all preference pairs are of type {only[0]!r}: nothing else can be learned from them; "
            "fix pairs need wrong chains that some program repeats and another corrects"
        )


def _write(
    run: CapRun, path: Path, pairs: Sequence[PreferencePair], preference: PreferenceConfig
) -> None:
    """Write the pairs, scored by the policy as it is now if the loss compares with a reference;
    every process scores a share of them."""
    process, processes = run.processes.rank, run.processes.count
    mine = list(pairs[process::processes])
    if preference.needs_reference:
        mine = run.learner.pairs_with_reference(mine, from_policy=True)
    numbered = list(zip(range(process, len(pairs), processes), mine, strict=True))
    everyones = run.processes.gather_to_main(numbered)
    in_order = sorted(everyones, key=lambda item: item[0])
    run.processes.on_main(lambda: write_checked(path, to_jsonl(pair for _, pair in in_order)))


def _read(run: CapRun, path: Path) -> list[PreferencePair]:
    """The pairs on disk."""
    pairs = run.together(lambda: read_checked(path, PreferencePair))
    if not pairs:
        raise UserError(f"{path}: holds no pair; delete it, and they are made anew")
    return pairs


def _optimise(
    run: CapRun,
    pairs: Sequence[PreferencePair],
    preference: PreferenceConfig,
    size: int,
    steps: int,
) -> None:
    """The optimiser steps that are left; notes once when the chosen programs become less likely."""
    watch = ChosenWatch()
    for line in run.directory.metrics():
        if line.get("phase") == PHASE:
            watch.warning(line)  # it was noted before the run was interrupted
    order = ProblemOrder(
        run.config.seed + run.iteration,
        len(pairs),
        size,
        run.processes.rank,
        run.processes.count,
    )
    begin = run.began
    with run.progress.phase(f"{PHASE} {run.iteration}", steps) as bar:
        bar.skip(run.step - begin)
        while run.step < begin + steps:
            batch = [pairs[index] for index in order.problems(run.step - begin)]
            metrics = run.record(PHASE, run.prefer(batch, preference))
            if note := watch.warning(metrics):
                run.progress.note(f"step {run.step}: {note}")
            bar.advance(1, **headline(metrics), margin=metrics["rewards/margins"])
