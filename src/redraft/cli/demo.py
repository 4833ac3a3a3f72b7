"""`redraft demo`: the whole story on the lab."""

from collections.abc import Mapping
from pathlib import Path

from redraft.cli.flags import command
from redraft.cli.progress import terminal_progress
from redraft.cli.report import print_report
from redraft.cli.terminal import Json, console, print_outcome, resumable
from redraft.demo import DemoConfig, System, new_folder, run


def _demo(config: DemoConfig, *, json: Json = False) -> None:
    """Evaluate the lab's base model, train it to correct itself, and evaluate it again.

    Offline and on a CPU, in minutes. Prints the base model, plain multi-turn reinforcement learning
    and SCoRe side by side on held-out problems, and some of the answers that were repaired.
    """
    folder = config.out or new_folder()
    with resumable(folder):
        _, systems = run(config.model_copy(update={"out": folder}), terminal_progress())
    show(folder, config, systems, json)


def show(folder: Path, config: DemoConfig, systems: Mapping[str, System], json: bool) -> None:
    """Print the systems side by side, and some answers that were repaired."""
    from redraft.evaluation.examples import example_panel, repaired
    from redraft.evaluation.statistics import paired_difference
    from redraft.evaluation.tables import comparison_table, difference_text
    from redraft.report.page import write_report

    page = write_report([folder], folder / "report.html")
    if json:
        return print_outcome(folder, json)
    out, ours = console(), systems["SCoRe"]
    for episode in repaired(ours.episodes, 3):
        out.print(example_panel(episode))
    decoding = f"temperature {config.temperature:g}" if config.temperature else "greedy decoding"
    title = f"Held-out problems of {config.task}, {decoding}"
    out.print(comparison_table({name: s.result for name, s in systems.items()}, title))
    for name, system in systems.items():
        if system is not ours:
            estimate = paired_difference(ours.episodes, system.episodes)
            out.print(f"Δ(t1,t2) of SCoRe minus {name}: {difference_text(estimate)}")
    out.print(f"Everything is in {folder}", soft_wrap=True)
    print_report(page)


demo = command(DemoConfig, _demo)
