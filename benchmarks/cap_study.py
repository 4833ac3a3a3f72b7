"""Studies of CaP over seeds and preference losses, and their tables: `cap_lab.py` on the lab,
`cap_real.py` on a real model.

Each seed samples chains and programs once and fine-tunes on them once; every preference loss goes
on from there, on the same pairs. All systems are evaluated on the same held-out problems: programs
at the bare question, and programs after the chains of the base model (the same wrong chains for
all) and of other models; greedily, and at temperature 1 with several programs after each chain.
What lies in the folder already is not run again and what was interrupted goes on, so parts may run
side by side; what was made with other settings is refused.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from page_parts import bootstrap, percentile_levels
from redraft.config import resolve, to_yaml
from redraft.demo import place_of
from redraft.evaluation.metrics import refinement_ratios
from redraft.evaluation.settings import EvaluationSettings
from redraft.evaluation.summaries import summarise_refinement
from redraft.methods.cap import METHOD, CapConfig
from redraft.progress import Progress
from redraft.storage import read_jsonl, write_text
from redraft.types import Episode
from resumable import evaluated, made_with, trained

PROMPTED, PLAIN, SFT = "prompted", "plain Q → P SFT", "CaP SFT"
CONTROL = "CaP SFT + nll"
BASE_CHAINS = "the base model"
"""What the tables call the model that all begin with, as a source of chains."""
SMOOTHED = {"robust": 0.1}
"""Losses that make no sense without label smoothing."""


@dataclass(frozen=True)
class System:
    """What is compared: a model trained with settings of its own, or the supervised one trained on
    with a preference loss; with neither the base model."""

    told: dict[str, Any] | None = None
    loss: str | None = None


def with_losses(losses: Sequence[str]) -> dict[str, System]:
    """The supervised model, and what each preference loss makes of it."""
    return {
        SFT: System({"loss": "none"}),
        **{f"{SFT} + {loss}": System(loss=loss) for loss in losses},
    }


@dataclass(frozen=True)
class Study:
    """What is compared, and on what."""

    base: str
    """The model that all begin with."""
    systems: Mapping[str, System]
    source: Mapping[str, Any]
    """The settings that name the problems and what is said, the same for all."""
    training: Mapping[str, Any]
    """The settings of training, unless a system has others."""
    problems: int
    """Held-out problems."""
    programs: int = 4
    """Programs sampled after each chain at temperature 1."""
    others: Mapping[str, str] = field(default_factory=dict)
    """By model what the tables call it: further models whose chains are refined; `self` is the
    system itself."""

    @property
    def chains_of(self) -> dict[str, str]:
        """By model what the tables call it: all whose chains are refined."""
        return {self.base: BASE_CHAINS, **self.others}


def place_in(out: Path, task: str, seed: int, name: str) -> Path:
    """Where everything of a system is."""
    return out / place_of(task) / f"seed-{seed}" / place_of(name)


def configured(study: Study, name: str, place: Path, seed: int) -> CapConfig | None:
    """What a system is trained with; None for the base."""
    system = study.systems[name]
    if system.loss is not None:
        smoothing = SMOOTHED.get(system.loss, 0.0)
        told: dict[str, Any] = {"loss": system.loss, "label_smoothing": smoothing}
    elif system.told is not None:
        told = system.told
    else:
        return None
    shared = {**study.training, "model": study.base, **study.source}
    config: CapConfig = METHOD.configure(
        overrides={**shared, **told, "seed": seed, "out": place / "training"}
    )
    return config


def run(study: Study, name: str, place: Path, seed: int, progress: Progress) -> None:
    """Train and evaluate one system, as far as that was not done already; the supervised one, which
    lies beside it, before those that go on from it.

    Raises:
        UserError: what lies there was made with other settings; and whatever training raises.
    """
    model = study.base
    if study.systems[name].told is not None or study.systems[name].loss is not None:
        model = str(trained_system(study, name, place, seed, progress))
    settings = EvaluationSettings(
        **study.source,
        model=model,
        limit=study.problems,
        strategy="program,cap,best-cap",
        budget=1 + study.programs,
        select="vote",
        sources=",".join(study.chains_of),
        temperature=1.0,
        seed=seed,
        out=place / "evaluation",
    )
    made_with(place / "evaluation", settings)
    evaluated(settings, progress)


def trained_system(study: Study, name: str, place: Path, seed: int, progress: Progress) -> Path:
    """The model of a system, trained as far as it is not there."""
    config = configured(study, name, place, seed)
    assert config is not None
    if study.systems[name].loss is not None and not config.out.exists():
        sft = place.with_name(place_of(SFT))
        trained_system(study, SFT, sft, seed, progress)
        branch(sft / "training", config)
    made_with(config.out, config)
    return trained(METHOD.name, config, progress, keep_checkpoints=name == SFT)


def branch(sft: Path, config: CapConfig) -> None:
    """Make a run of a supervised one that has ended, as if its preference stage had been asked for
    at once and were about to begin."""
    partial = config.out.with_name(f".{config.out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(sft, partial)
    (partial / "summary.json").unlink()
    told = {"out": config.out, "loss": config.loss, "label_smoothing": config.label_smoothing}
    changed = resolve(CapConfig, file=partial / "config.yaml").model_copy(update=told)
    write_text(partial / "config.yaml", to_yaml(changed, f"redraft train {METHOD.name}"))
    partial.rename(config.out)


def summary_of(place: Path) -> Path:
    """Where a system's evaluation is summarised."""
    return place / "evaluation" / "summary.json"


Figures = dict[str, Any]
"""What the tables say of a system of a seed, as JSON; see `figures_of`."""

Found = Mapping[tuple[str, int], Figures]
"""By system and seed."""


def figures_of(study: Study, place: Path) -> Figures:
    """What the tables say of a finished system: programs alone, programs after the chains of each
    model, greedily and at temperature 1, the sums of `sums_in`, and what it was trained on."""
    summary = _json(summary_of(place))
    sampled = summarise_refinement(sampled_in(place)).to_summary()["refinement"]
    strategies = summary["strategies"].values()
    return {
        "program": next(one for one in strategies if one["strategy"] == "program"),
        "greedy": _named(study, summary["refinement"]["by_source"]),
        "sampled": _named(study, sampled["by_source"]),
        "sums": sums_in(place, study.base),
        "trained": trained_on(place / "training"),
    }


def _named(study: Study, by_source: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of each source of chains, by what the tables call it."""
    return {study.chains_of[source]: of for source, of in by_source.items()}


def sampled_in(place: Path) -> list[Episode]:
    """A system's programs at temperature 1, each after its chain, and the chains."""
    files = sorted((place / "evaluation" / "episodes").glob("best-cap*.jsonl"))
    return [episode for file in files for episode in read_jsonl(file, Episode)]


def sums_in(place: Path, base: str) -> dict[str, list[float]]:
    """By problem, of the programs sampled after the base model's chains: how many are right and how
    many copies, how many there are, and how many after wrong chains; [4] each."""
    episodes = [
        episode
        for episode in sampled_in(place)
        if len(episode.grades) == 2 and episode.responses[0].source == base
    ]
    metrics = refinement_ratios(episodes)
    right, copies = metrics["accuracy/turn2"], metrics["copy_rate"]
    rows = np.stack(
        [right.numerator, copies.numerator, right.denominator, copies.denominator], axis=1
    )
    sums: dict[str, Any] = {}
    for episode, row in zip(episodes, rows, strict=True):
        sums[episode.problem.id] = sums.get(episode.problem.id, 0) + row
    return {problem: row.tolist() for problem, row in sums.items()}


def trained_on(folder: Path) -> dict[str, Any]:
    """How many supervised examples and pairs of each kind there were, and how the stages went."""
    first, second = (folder / f"iterations/{number}/summary.json" for number in ("01", "02"))
    if not first.exists():
        return {}
    counts = {"supervised": _json(first)}
    if not second.exists():
        return counts
    last = list(_preference_lines(folder))[-1]
    shown = ("rewards/accuracies", "logps/chosen_change")
    return counts | {"pairs": _json(second)["kept"], **{name: last.get(name) for name in shown}}


def against(found: Found, reference: str) -> str:
    """Programs sampled after the base model's chains: accuracy and copies less those of a
    reference, the same chains on both sides, over the seeds that both have; "" without others."""
    rows = []
    for name in dict.fromkeys(name for name, _ in found if name != reference):
        seeds = [seed for of, seed in found if of == name and (reference, seed) in found]
        if not seeds:
            continue
        problems = sorted({p for seed in seeds for p in found[reference, seed]["sums"]})
        # By problem: right programs, copies, programs, programs after wrong chains.
        ours, theirs = (
            np.array(
                [
                    sum(np.array(found[one, seed]["sums"].get(p, [0.0] * 4)) for seed in seeds)
                    for p in problems
                ]
            )
            for one in (name, reference)
        )  # [P, 4]
        numerators, denominators = ours[:, :2] - theirs[:, :2], theirs[:, 2:]
        draws = bootstrap(numerators, denominators)  # [draws, 2]
        levels = percentile_levels(len(problems))
        cells = []
        for column, (fewer, more) in enumerate((("worse", "better"), ("fewer", "more"))):
            value = numerators[:, column].sum() / denominators[:, column].sum()
            low, high = np.quantile(draws[:, column], levels)
            told = more if low > 0 else fewer if high < 0 else "not told apart"
            cells += [f"{100 * value:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]", told]
        rows.append([name, *cells])
    return table(["system", "accuracy", "", "copied", ""], rows) if rows else ""


def means(found: Found) -> str:
    """A row for each system: greedy programs alone and after base chains, then sampled ones."""
    rows = []
    for name, of in by_system(found).items():
        cells = [name, mean([one["program"]["accuracy"] for one in of])]
        for kind in ("greedy", "sampled"):
            base = [one[kind][BASE_CHAINS] for one in of]
            cells += [mean([one["accuracy"][turn] for one in base]) for turn in (0, 1)]
            cells += [
                mean([one[key] for one in base]) for key in ("copy_rate", "repaired", "spoiled")
            ]
        rows.append(cells)
    columns = ["chain", "program after it", "copied", "repaired", "spoiled"]
    sampled = [f"{column}, T = 1" for column in columns]
    return table(["system", "program alone", *columns, *sampled], rows)


def intervals(found: Found) -> str:
    """Accuracy and copy rate of each seed's sampled programs, with intervals."""
    seeds = list(dict.fromkeys(seed for _, seed in found))
    rows = []
    for name in dict.fromkeys(name for name, _ in found):
        base = [
            found[name, seed]["sampled"][BASE_CHAINS] if (name, seed) in found else None
            for seed in seeds
        ]
        rows.append(
            [name]
            + [with_interval(one["accuracy"][1], one["ci95"]["accuracy"][1]) if one else ""
               for one in base]
            + [with_interval(one["copy_rate"], one["ci95"]["copy_rate"]) if one else ""
               for one in base]
        )  # fmt: skip
    heads = [f"accuracy, seed {seed}" for seed in seeds] + [f"copied, seed {s}" for s in seeds]
    return table(["system", *heads], rows)


def cross_model(found: Found, chains_of: Sequence[str]) -> str:
    """Accuracy before and after, by the model that wrote the chains."""
    rows = []
    for name, of in by_system(found).items():
        by = [one["sampled"] for one in of]
        cells = [
            f"{mean([one[source]['accuracy'][0] for one in by])} → "
            f"{mean([one[source]['accuracy'][1] for one in by])} "
            f"(copied {mean([one[source]['copy_rate'] for one in by])})"
            for source in chains_of
        ]
        rows.append([name, *cells])
    return table(["system", *(f"chains of {name}" for name in chains_of)], rows)


def pairs(found: Found) -> str:
    """How many supervised examples and pairs there were, by type, and how the stage went; "" where
    nothing was trained."""
    rows = []
    for name, of in by_system(found).items():
        trained_ = [one["trained"] for one in of if one["trained"]]
        if not trained_:
            continue
        cells = [name, f"{np.mean([one['supervised']['examples'] for one in trained_]):.0f}"]
        if "pairs" in trained_[0]:
            kept = [one["pairs"] for one in trained_]
            cells += [f"{np.mean([one[kind] for one in kept]):.0f}" for kind in kept[0]]
            cells.append(f"{np.mean([one['rewards/accuracies'] for one in trained_]):.2f}")
            fell = [one["logps/chosen_change"] for one in trained_]
            cells.append(
                "" if None in fell else f"{np.mean([x for x in fell if x is not None]):+.2f}"
            )
        rows.append(cells + [""] * (8 - len(cells)))
    heads = ["system", "examples", "fix", "fix-hard", "preserve", "exec"]
    heads += ["pairs told apart, last step", "chosen log-prob, change"]
    return table(heads, rows) if rows else ""


def by_system(found: Found) -> dict[str, list[Figures]]:
    """The figures of each system's seeds."""
    names = dict.fromkeys(name for name, _ in found)
    return {name: [one for (of, _), one in found.items() if of == name] for name in names}


def _preference_lines(folder: Path) -> Iterator[dict[str, Any]]:
    for text in (folder / "metrics.jsonl").read_text("utf-8").splitlines():
        line = json.loads(text)
        if line["phase"] == "preferences":
            yield line


def _json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return content


def mean(values: list[float | None]) -> str:
    """In percent; over the seeds that define it."""
    known = [value for value in values if value is not None]
    return f"{100 * np.mean(known):.1f}" if known else "–"


def with_interval(value: float | None, interval: list[float] | None) -> str:
    """In percent."""
    if value is None or interval is None:
        return "–"
    return f"{100 * value:.1f} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def table(heads: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
