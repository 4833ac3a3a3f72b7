"""What commands there are: names and what they are for, so that `--help` need import nothing.

A command's first paragraph stands in the list of commands, all of it on its own help page.
"""

from cyclopts import App, Parameter

from redraft import __version__

app = App(
    name="redraft",
    help="""Train language models to find and fix their own mistakes, and measure whether they do.

Start with `redraft demo`. Each command explains itself with `--help`.""",
    version=__version__,
    default_parameter=Parameter(negative_iterable=()),
    suppress_keyboard_interrupt=False,
)
train = App(name="train", help="Train a model with one of the methods.", sort_key=1)
lab = App(name="lab", help="The small offline world that ships with the package.", sort_key=8)

app.command(
    "redraft.cli.demo:demo",
    name="demo",
    sort_key=0,
    help="""The whole story on the lab, offline and on a CPU, in minutes.

Evaluates the lab's base model, trains it to correct itself, and evaluates it again. Prints the base
model, plain multi-turn reinforcement learning and SCoRe side by side on held-out problems, some
attempts that were repaired, and where everything was written.""",
)
app.command(train)
train.command(
    "redraft.cli.train:score",
    name="score",
    help="""SCoRe (arXiv 2409.12917): multi-turn reinforcement learning in two stages.

Stage I holds the first attempt where the base model has it and trains the second. Stage II trains
both, with a bonus for second attempts that change the verdict for the better. The presets are the
published settings.""",
)
train.command(
    "redraft.cli.train:rise",
    name="rise",
    help="""RISE (arXiv 2407.18219): iterative, reward-weighted fine-tuning on its own turns.

The policy tries each problem until it is right, a teacher or the best of N of its own attempts
improves on where it got stuck, and every attempt is imitated with weight exp(reward / 0.4).""",
)
train.command(
    "redraft.cli.train:cap",
    name="cap",
    help="""CaP (arXiv 2412.16871): refining a chain of thought with a program that really runs.

Samples chains of thought, from the policy or other models, and programs after each; runs them in
the sandbox; imitates the right ones, then prefers them to those that copy a wrong chain, go wrong
in another way or do not run.""",
)
train.command(
    "redraft.cli.train:tripost",
    name="tripost",
    help="""TriPosT (arXiv 2310.13522): learning from corrections of its own mistakes.

Fine-tunes on gold rationales; then the policy attempts, a script or a teacher finds where its
feedback on itself is first wrong and finishes the solution from there, and what comes of it is
imitated, feedback and updates more than the rest. Three repeats.""",
)
train.command(
    "redraft.cli.train:star",
    name="star",
    help="Baseline: STaR on second attempts that repaired a wrong first one.",
)
train.command(
    "redraft.cli.train:pair_sft",
    name="pair-sft",
    help="Baseline: fine-tuning on random pairs of a wrong and a right attempt.",
)
train.command(
    "redraft.cli.train:bon_sft",
    name="bon-sft",
    help="Baseline: RISE's data, right attempts only, all with one weight.",
)
train.command(
    "redraft.cli.train:off_policy_sft",
    name="off-policy-sft",
    help="Baseline: fine-tuning on a teacher's own traces.",
)
train.command(
    "redraft.cli.train:lmsi",
    name="lmsi",
    help="Baseline: fine-tuning on samples that agree with their majority; no gold answers.",
)
train.command(
    "redraft.cli.train:rationale_sft",
    name="rationale-sft",
    help="Baseline: fine-tuning on gold rationales.",
)
train.command(
    "redraft.cli.train:si_demo_sft",
    name="si-demo-sft",
    help="Baseline: fine-tuning on self-improvement that somebody else has demonstrated.",
)
app.command(
    "redraft.cli.resume:resume",
    name="resume",
    sort_key=2,
    help="""Go on with a training run that stopped.

It goes on from its newest complete checkpoint and ends as if it had never stopped. What it had
written after that checkpoint is moved to `interrupted/` in its folder.""",
)
app.command(
    "redraft.cli.evaluate:evaluate_command",
    name="eval",
    sort_key=3,
    help="""How well a model corrects itself.

Plays episodes and reports accuracy by turn, what changed from wrong to right and from right to
wrong, and more, each with a 95 % bootstrap interval over problems.""",
)
app.command(
    "redraft.cli.evaluate:collect_command",
    name="collect",
    sort_key=4,
    help="Episodes only, to a folder.",
)
app.command(
    "redraft.cli.solve:solve",
    name="solve",
    sort_key=9,
    help="""Answer a question, or a file of them, with a chosen strategy.

Shows every attempt: chains of thought, programs and what they put out, and the answer that the
strategy chose.""",
)
app.command(
    "redraft.cli.grade:grade",
    name="grade",
    sort_key=5,
    help="""Grade answers given as JSON Lines.

A line holds `gold` and `pred`; or the task's own fields and `pred`; or, instead of `pred`, several
systems by name, each with a `solution`. For each line in there is one line out, with `correct`,
`answer` and `decided_by`. The accuracy goes to stderr.""",
)
app.command(
    "redraft.cli.locate:locate",
    name="locate",
    sort_key=5.5,
    help="""Find the first wrong step of worked solutions given as JSON Lines.

A line holds `input`, the question, and `steps`, a list of text. Each comes back with
`mistake_index` (0-based, null for none), `span`, `reason`, `check` and `readable`. A
`mistake_index` that it brings is a label: it comes back as `label`, and the agreement goes to
stderr.""",
)
app.command("redraft.cli.tasks:tasks", name="tasks", sort_key=6, help="What there is to train on.")
app.command(
    "redraft.cli.doctor:doctor",
    name="doctor",
    sort_key=7,
    help="What this machine offers, and what is missing for what.",
)
app.command(lab)
lab.command(
    "redraft.cli.lab:build",
    name="build",
    help="""Make the lab's model anew from its seed.

Generates the corpus and pretrains the model on it: up to an hour on 2 CPU cores.""",
)
