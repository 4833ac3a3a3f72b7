"""RISE and the supervised baselines on the lab, over seeds: the page docs/results/rise-lab.md.

    python benchmarks/rise_lab.py                                  # everything, over an hour
    python benchmarks/rise_lab.py --seeds 1 --systems base RISE    # a part
    python benchmarks/rise_lab.py --page-only                      # the page again

Every system collects on the same number of problems in each iteration and is fine-tuned with the
same learning rate and batch; iterations and epochs are the papers' where they are known. All are
evaluated on the same held-out problems: five attempts in a row at temperature 1 without an oracle,
and five first attempts side by side. What lies in the folder already is not run again, so parts may
run side by side; what was made with other settings is refused, and what was cut off is gone on
with.
"""

import argparse
from pathlib import Path

from redraft.cli.progress import terminal_progress
from rise_lab_page import page
from rise_lab_systems import SYSTEMS, lab_study
from rise_study import place_in, run, summary_of


def main() -> None:
    """Run what is missing, then write the page if everything is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/rise-lab"))
    parser.add_argument("--page", type=Path, default=Path("docs/results/rise-lab.md"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--problems", type=int, default=500)
    parser.add_argument("--page-only", action="store_true")
    options = parser.parse_args()
    study = lab_study(options.problems)
    if not options.page_only:
        for seed in options.seeds:
            for name in options.systems:
                place = place_in(options.out, seed, name)
                run(study, name, place, seed, terminal_progress())
    places = {
        seed: {name: place_in(options.out, seed, name) for name in SYSTEMS}
        for seed in options.seeds
    }
    if all(summary_of(place).exists() for of in places.values() for place in of.values()):
        options.page.parent.mkdir(parents=True, exist_ok=True)
        options.page.write_text(page(places, options.problems), encoding="utf-8")


if __name__ == "__main__":
    main()
