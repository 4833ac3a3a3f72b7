"""`redraft train METHOD`: a command for each method, made from the method's own settings."""

from redraft.cli.flags import command
from redraft.cli.progress import terminal_progress
from redraft.cli.terminal import console
from redraft.methods.score_config import ScoreConfig


def _score(config: ScoreConfig) -> None:
    from redraft.methods.score import train

    try:
        folder = train(config, progress=terminal_progress())
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"go on with `redraft resume {config.out}`") from None
    console().print(f"Everything is in {folder}", soft_wrap=True)


score = command(ScoreConfig, _score)
