"""`redraft demo`: the whole story on the lab."""

from redraft.cli.flags import command
from redraft.cli.progress import terminal_progress
from redraft.demo import DemoConfig, run


def _demo(config: DemoConfig) -> None:
    run(config, progress=terminal_progress())


demo = command(DemoConfig, _demo)
