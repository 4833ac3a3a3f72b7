"""Run directories for the tests of reports, written as an evaluation and a training run write
them, and forty texts that try not to stay text."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluation_episodes import critique, turn
from redraft.config import Settings
from redraft.evaluation.statistics import summarise
from redraft.run_directory import RunDirectory
from redraft.types import Episode, Message, Problem, Turn

HOSTILE = [
    "<script>window.hacked=1</script>",
    "</script><script>window.hacked=1</script>",
    "</SCRIPT ><svg onload=window.hacked=1>",
    "<!-- <script> -->",
    "--><script>window.hacked=1</script>",
    "<img src=x onerror=window.hacked=1>",
    '<a href="javascript:window.hacked=1">click</a>',
    "javascript:window.hacked=1",
    '"><script>window.hacked=1</script>',
    "'><script>window.hacked=1</script>",
    '" onmouseover="window.hacked=1',
    "' onfocus='window.hacked=1' autofocus='",
    "<svg><script>window.hacked=1</script></svg>",
    "<style>*{display:none}</style>",
    "</style><script>window.hacked=1</script>",
    "</textarea></title></pre><script>window.hacked=1</script>",
    "<iframe srcdoc='<script>parent.hacked=1</script>'></iframe>",
    "<meta http-equiv=refresh content='0;url=http://127.0.0.1:9/'>",
    "<base href='http://127.0.0.1:9/'>",
    "<link rel=stylesheet href='http://127.0.0.1:9/x.css'>",
    "<object data='http://127.0.0.1:9/x'></object>",
    "<form action='http://127.0.0.1:9/'><input></form>",
    "{{ 7 * 7 }} {% raw %} ${7*7} #{7*7}",
    "{{ config.__class__ }}",
    "&lt;script&gt; &amp; &#60;",
    "\\u003cscript\\u003e \\x3cscript",
    "]]><script>window.hacked=1</script>",
    "<math><mtext><script>window.hacked=1</script></mtext></math>",
    "\u202egnihtyreve esrever\u202c",
    "\u2066isolated\u2069 \u200fmark\u200e \u061c",
    "\x1b[31mred\x1b[0m \x1b]8;;http://127.0.0.1:9/\x07link",
    "\x00 nul \x08\x08 back \x7f",
    "line\u2028separator\u2029paragraph\x85next",
    "\ufeffmark \ufffe \ufdd0",
    "Z̸͎̭̈a̴l̵g̶o̷" * 20,
    "😀👩‍👩‍👧‍👦 \U0001f468",
    "`${window.hacked=1}`; */ // <!-- \\",
    "__proto__ constructor toString",
    "data:text/html,<script>window.hacked=1</script>",
    "[x](javascript:window.hacked=1) | a | b |\n|---|",
]
"""Texts of a model that must stay text."""


class Choice(Settings):
    """What the runs of these tests were told."""

    model: str = "lab"
    task: str = "test"
    turns: int = 2
    max_tokens: int = 24
    prompts: str | None = None
    seed: int = 0


def asked(name: str, turns: Sequence[Turn], sample: int = 0, **problem: Any) -> Episode:
    """An episode on the problem called `name`."""
    fields = {"task": "test", "question": f"question {name}", "gold": "right", "metadata": {}}
    posed = Problem(id=name, **{**fields, **problem})
    said = [Message(role="user", content=posed.question)]
    between = Turn(author="environment", text="Please correct any error.")
    told = [one for place, turn in enumerate(turns) for one in ([between] * bool(place) + [turn])]
    return Episode(problem=posed, messages=said, turns=told, protocol="intrinsic", sample=sample)


def evaluation(folder: Path, episodes: Sequence[Episode], **told: Any) -> Path:
    """A finished evaluation of these episodes."""
    run = RunDirectory.create(folder, Choice(**told), "eval")
    run.episodes("turns", episodes)
    run.summary(summarise(episodes, turns=2).to_summary())
    return folder


def verdicts(counts: dict[str, int], level: bool = False, name: str = "p") -> list[Episode]:
    """Episodes by two verdicts each, `01` being wrong first and right second."""
    listed = [pair for pair, count in counts.items() for _ in range(count)]
    return [
        asked(
            f"{name}{number}",
            [
                turn(sign == "1", f"text {number} of attempt {k}", tokens=4)
                for k, sign in enumerate(pair)
            ],
            metadata={"level": number % 3 + 1} if level else {},
        )
        for number, pair in enumerate(listed)
    ]


def training(folder: Path, steps: int = 3) -> Path:
    """A training run whose flips to wrong rise with the step."""
    run = RunDirectory.create(folder, Choice(), "train score")
    for step in range(1, steps + 1):
        episodes = verdicts({"11": 4, "10": step, "01": 1}, name="t")
        for episode in episodes:
            credit = {"tokens": [5, 6], "logprobs": [-0.1, -3.0], "ref_logprobs": [-0.2, -1.0]}
            for place in (0, 2):
                update = credit | {"advantage": place / 4 - 0.25}
                episode.turns[place] = episode.turns[place].model_copy(update=update)
        run.episodes("train", episodes, step)
        spoiled = step / len(episodes)
        metrics = {"accuracy/turn1": 0.5, "accuracy/turn2": 0.6, "delta_t1_t2": 0.1}
        run.log({**metrics, "i_to_c": 0.2, "c_to_i": spoiled, "kl/turn1": 0.01 * step}, step)
    return folder


def hostile(folder: Path) -> Path:
    """An evaluation in which everything that a model or a data set can write is hostile."""
    episodes = [
        asked(
            f"h{number} {text[:60]}",
            [turn(False, text), critique(text), turn(True, f"{text} again", answer=text)],
            question=text,
            gold=text,
            metadata={"note": text, "level": text[:30]},
        )
        for number, text in enumerate(HOSTILE)
    ]
    long = "one line without a break <script>" * 30_000  # 1 MB
    return evaluation(
        folder, [*episodes, asked("long", [turn(False, long), turn(True, long + ".")])]
    )
