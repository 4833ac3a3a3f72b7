"""The commands: names and what they are for, so that `--help` imports none of them.

A command's first paragraph stands in the list of commands, all of it on its own help page.
"""

from functools import cache

from cyclopts import App, Parameter

from redraft import __version__
from redraft.registry import COMMANDS


@cache
def redraft_app() -> App:
    """The command line: our commands in the order of use, then those that packages bring along.

    Raises:
        UserError: a package brings a command that cannot be loaded.
    """
    app = App(
        name="redraft",
        help="""Train language models to find and fix their own mistakes, and measure whether they \
do.

Start with `redraft demo`. Each command explains itself with `--help`.""",
        version=__version__,
        default_parameter=Parameter(negative_iterable=()),
        suppress_keyboard_interrupt=False,
    )
    brought = [(command.name, command.app, command.help) for command in COMMANDS.values()]
    for place, (name, target, text) in enumerate([*_OURS, *brought]):
        app.command(target, name=name, help=text, sort_key=place)
    return app


_OURS = [
    (
        "demo",
        "redraft.cli.demo:demo",
        """Measure, train and measure again on generated problems: offline, on a CPU, in minutes.

Evaluates the base model that ships with the package, trains it to correct itself, and evaluates it
again. Prints the base model, plain multi-turn reinforcement learning and SCoRe side by side on
held-out problems, some responses that were repaired, and where everything was written.""",
    ),
    ("train", "redraft.cli.train:app", "Train a model with one of the methods."),
    (
        "resume",
        "redraft.cli.resume:resume",
        """Resume a training run, an evaluation or a demo that stopped.

A training run resumes from its newest complete checkpoint and ends as if it had never stopped; what
it had written after that checkpoint is moved to `interrupted/` in its folder. An evaluation keeps
the episodes that it has, and a demo does both.""",
    ),
    (
        "eval",
        "redraft.cli.evaluate:evaluate_command",
        """Measure how well a model corrects itself.

Samples episodes and reports accuracy by turn, the shares of answers that changed from wrong to
right and from right to wrong, and more, each with a 95 % interval over problems.""",
    ),
    ("collect", "redraft.cli.evaluate:collect_command", "Sample episodes to a folder."),
    (
        "report",
        "redraft.cli.report:report",
        """Write a page on one run, or on several side by side: numbers, plots, every episode.

The page is one HTML file that needs no network. Numbers lead to the episodes behind them. A folder
that holds several runs, such as that of `redraft demo`, stands for all of them.""",
    ),
    (
        "show",
        "redraft.cli.report:show",
        """Print episodes of a run with what changed between attempts.

Several of the flags together show the episodes that fit all of them.""",
    ),
    (
        "compare",
        "redraft.cli.report:compare",
        """Compare two evaluations: the second minus the first, paired by problem, with intervals.

Problems that only one of them has are left out.""",
    ),
    (
        "import",
        "redraft.cli.report:import_command",
        """Import attempts made elsewhere, given as JSON Lines, as an evaluation.

A row holds `problem`, `gold` and `attempts`: texts, or objects with `text` and, if known,
`critique`, `correct`, `truncated` and `tokens`; or it is laid out as --layout says. Attempts are
graded and measured as those of `redraft eval`.""",
    ),
    (
        "export",
        "redraft.cli.report:export",
        "Export the episodes of an evaluation for TRL, `datasets` or Inspect.",
    ),
    (
        "grade",
        "redraft.cli.grade:grade",
        """Grade answers given as JSON Lines.

A line holds `gold` and `pred`; or the task's own fields and `pred`; or, instead of `pred`, several
systems by name, each with a `solution`. For each line in there is one line out, with `correct`,
`answer` and `decided_by`. The accuracy goes to stderr.""",
    ),
    (
        "locate",
        "redraft.cli.locate:locate",
        """Find the first wrong step of worked solutions given as JSON Lines.

A line holds `input`, the question, and `steps`, a list of text. Each comes back with
`mistake_index` (0-based, null for none), `span`, `reason`, `check` and `readable`. A
`mistake_index` that it brings is a label: it comes back as `label`, and the agreement goes to
stderr.""",
    ),
    ("tasks", "redraft.cli.tasks:tasks", "List the tasks."),
    (
        "doctor",
        "redraft.cli.doctor:doctor",
        "Show what this machine offers, and what is missing for what.",
    ),
    (
        "solve",
        "redraft.cli.solve:solve",
        """Answer a question, or a file of them, with a chosen strategy.

Shows every response: chains of thought, programs and their output, and the answer that the strategy
chose.""",
    ),
    (
        "serve",
        "redraft.cli.serve:serve",
        """Serve a model with a strategy as an OpenAI-compatible endpoint.

Clients ask for chat completions and get the answer of self-correction turns, a vote, or a chain of
thought and a program; with `redraft: {attempts: true}` in the request also every attempt.""",
    ),
]
"""Name, place and help of our commands."""
