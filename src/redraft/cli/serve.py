"""`redraft serve`: an OpenAI-compatible endpoint that answers with a strategy."""

from redraft.cli.flags import command
from redraft.cli.progress import terminal_progress
from redraft.serving.settings import ServeSettings


def _serve(config: ServeSettings) -> None:
    from redraft.serving.server import serve

    serve(config, progress=terminal_progress())


serve = command(ServeSettings, _serve)
