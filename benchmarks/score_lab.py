"""SCoRe and the ablations of its paper on the lab, over seeds: the table of docs/results/score-lab.md.

    python benchmarks/score_lab.py --out runs/score-lab            # everything, about 90 minutes
    python benchmarks/score_lab.py --seeds 1 --systems base SCoRe  # a part

Each seed is one `redraft demo` with more systems: all are trained for the same number of steps on
the same number of episodes and evaluated on the same held-out problems. A (seed, system) whose
evaluation lies in the folder already is read and not run again.
"""

import argparse
import json
from pathlib import Path

from redraft.cli.progress import terminal_progress
from redraft.demo import DemoConfig, place_of, run_system
from redraft.environment import environment
from redraft.episode import Episode, read_jsonl
from redraft.evaluation.statistics import paired_difference, summarise
from redraft.evaluation.table import comparison_markdown, difference_text
from redraft.methods.score_config import Variant

SYSTEMS: dict[str, Variant | None] = {
    "base": None,
    "single-turn RL": "single-turn",
    "multi-turn RL (last)": "multi-turn-last",
    "multi-turn RL (sum)": "multi-turn-sum",
    "SCoRe without stage I": "no-stage-one",
    "SCoRe without bonus": "no-bonus",
    "SCoRe": "score",
}


def main() -> None:
    """Run what is missing, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/score-lab"))
    parser.add_argument("--page", type=Path, default=Path("docs/results/score-lab.md"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--task", default="lab/sorting")
    options = parser.parse_args()
    progress = terminal_progress()
    for seed in options.seeds:
        for name in options.systems:
            folder = options.out / f"seed-{seed}"
            if not (folder / place_of(name) / "evaluation" / "summary.json").exists():
                config = DemoConfig(out=folder, seed=seed, task=options.task)
                run_system(name, SYSTEMS[name], config, folder, progress)
    options.page.write_text(page(options.out, options.seeds, options.systems), encoding="utf-8")


def page(out: Path, seeds: list[int], systems: list[str]) -> str:
    """The results as Markdown."""
    episodes = {
        (seed, name): read_jsonl(
            out / f"seed-{seed}" / place_of(name) / "evaluation" / "episodes.jsonl", Episode
        )
        for seed in seeds
        for name in systems
    }
    machine = environment()
    lines = ["# SCoRe on the lab", "", "Made by `python benchmarks/score_lab.py`.", ""]
    lines += ["```json", json.dumps(machine, indent=1), "```", ""]
    for seed in seeds:
        summaries = {name: summarise(episodes[seed, name]) for name in systems}
        lines += [f"## Seed {seed}", "", comparison_markdown(summaries), ""]
        for name in systems:
            if name != "SCoRe" and "SCoRe" in systems:
                estimate = paired_difference(episodes[seed, "SCoRe"], episodes[seed, name])
                if estimate is not None:
                    lines.append(f"- Δ of SCoRe minus {name}: {difference_text(estimate)}")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
