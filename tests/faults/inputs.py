"""Fuzzed inputs over everything that reads what somebody else wrote.

    .venv/bin/python tests/faults/inputs.py --inputs 100000 --out runs/faults

Each reader gets valid texts that were mutated (cut, repeated, spliced, with bytes flipped), and
texts of up to a million characters. It may refuse with a `UserError`, or where it is documented a
`ValueError`; anything else is a traceback. One that takes more than 2 seconds of processor time is
killed and counted as a hang. Results go to `inputs.jsonl`, a line for each batch, as they come; a
batch that is there already is not tried again.
"""

import argparse
import contextlib
import io
import json
import mmap
import os
import random
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from chat_families import base_tokenizer
from redraft.chat.prompts import find_program_prompts, find_prompts
from redraft.cli import run as redraft
from redraft.config import resolve
from redraft.engines.endpoints import EndpointSettings, Usage, split_address
from redraft.engines.openai_client import _context_full, _read, _refusal, _RequestError
from redraft.engines.template import PLAIN_TEMPLATE, ChatTemplate
from redraft.errors import UserError
from redraft.evaluation.settings import EvaluationSettings
from redraft.grading.extract import extract_answer, joined_boxes, unmarked_answer
from redraft.grading.math.equality import decide
from redraft.grading.program_text import extract_program
from redraft.learning.checkpoint import read_extra
from redraft.run_directory import RunDirectory
from redraft.storage import damage, read_checked, read_json
from redraft.tasks import get_task
from redraft.tasks.rows import local_rows
from redraft.types import Episode

HANG_S = 2.0
BATCH = 200
BIG = 20
"""One input in so many is up to a million characters."""

CONFIG = """model: lab
task: lab/sorting
seed: 3
temperature: 0.7
strategy: null
http: {concurrency: 4, extra_body: {top_k: 5, list: [1, 2.5, ~, yes, 2026-11-30]}}
"""
PROMPTS = "first: |\n  {question}\nretry: 'Again, {question}?'\nstop: ['a', \"b\\n\"]\n"
ANSWER = """Let $x = \\frac{3}{4}$. Then <think>no</think> **Answer:** \\boxed{x^2 + \\sqrt[3]{2}}.
```python
def f(x: int) -> str:
    return f"{x!r}"
```
The final answer is $\\left(1, \\frac{\\pi}{2}\\right]$. I hope it is correct. (B) 12,345.6 %"""
EPISODE = (
    '{"problem": {"id": "a", "task": "t", "question": "q", "gold": "1"}, "turns": [{"author": '
    '"policy", "text": "1", "tokens": [1, 2], "logprobs": [-0.5, -1e-3]}], "protocol": "p", '
    '"messages": []}\n'
)
METRICS = '{"step": 1, "time": 1.5, "loss": null}\n{"step": 2, "loss": 1e5}\n'
COMPLETION = json.dumps(
    {
        "id": "x",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "42"},
                     "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 1},
        "error": {"message": "context length", "code": 400},
    }
)  # fmt: skip
TEMPLATE = (
    PLAIN_TEMPLATE
    + "{% set n = namespace(s='x') %}{% macro m(a) %}{{ a * 3 ** 2 }}{% endmacro %}"
    + "{% for i in range(3) %}{% set n.s = n.s ~ i %}{{ m(i) }}{% endfor %}"
    + "{{ raise_exception('\x1b[31m') if 0 else 1 / 1 }}{{ messages | tojson(indent=2) }}"
)
SUM = "Calculate 3 + 4 * (2 - 1).\n4 * 1 = 4\n3 + 4 = 7\nThe answer is 7."
FORMULAS = ["\\frac{1}{2} + \\sqrt{x^2}", "(1, 2] \\cup \\{3\\}"]
FLAGS = "eval --task lab/sorting --http.extra-body {} --turns 2"
ADDRESS = "http://127.0.0.1:8000/v1/path$NAME/sk-x#model@1?query"


class Readers:
    """What reads what somebody else wrote, by name, each with valid texts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tokenizer = base_tokenizer()
        self.steps = [get_task(name).steps for name in ("lab/arithmetic", "lab/sorting")]
        self.choice = [
            get_task(
                "jsonl", self._write("p.jsonl", b'{"question": "q", "gold": "1"}'), grader=name
            ).grader
            for name in ("exact", "number", "choice")
        ]
        self.problem = Episode.model_validate_json(EPISODE).problem
        self.run = RunDirectory.create(folder / "run", EvaluationSettings(task="lab/sorting"), "t")

    def _write(self, name: str, content: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content)
        return path

    def all(self) -> dict[str, tuple[list[str], Callable[[bytes], object]]]:
        return {
            "YAML settings": ([CONFIG], self.settings),
            "YAML prompts": ([PROMPTS], self.prompts),
            "chat template": ([TEMPLATE, PLAIN_TEMPLATE], self.template),
            "episodes": ([EPISODE * 3], self.episodes),
            "metrics": ([METRICS * 3], self.metrics),
            "run's files": (['{"step": 3, "score": 0.5, "recent": [1]}'], self.files),
            "rows of data": (['{"question": "q", "gold": "1", "pred": "2"}\n' * 3], self.rows),
            "redraft grade": (['{"gold": "1", "pred": "\\\\boxed{1}"}\n' * 3], self.grade),
            "answers": ([ANSWER, SUM], self.answers),
            "mathematics": ([*FORMULAS, ANSWER], self.math),
            "programs": ([ANSWER], self.programs),
            "steps": ([SUM, "beach card\napple beach"], self.read_steps),
            "endpoint's answer": ([COMPLETION], self.completion),
            "endpoint's address": ([ADDRESS], self.address),
            "command line": ([FLAGS], self.flags),
        }  # fmt: skip

    def settings(self, content: bytes) -> None:
        resolve(EvaluationSettings, file=self._write("config.yaml", content))

    def prompts(self, content: bytes) -> None:
        file = str(self._write("prompts.yaml", content))
        for find in (find_prompts, find_program_prompts):
            with contextlib.suppress(UserError):
                find(file)

    def template(self, content: bytes) -> None:
        source = content.decode(errors="replace")
        ChatTemplate(self.tokenizer, chat_template=source).start(
            [{"role": "user", "content": "Hi"}]
        )

    def episodes(self, content: bytes) -> None:
        read_checked(self._write("episodes.jsonl", content), Episode)

    def metrics(self, content: bytes) -> None:
        (self.run.folder / "metrics.jsonl").write_bytes(content)
        with contextlib.suppress(UserError):
            self.run.metrics()
        self.run.lost_metrics(3)

    def files(self, content: bytes) -> None:
        self._write("extra.json", content)
        self._write("checksums.json", content)
        damage(self.folder)
        for read in (read_extra, lambda folder: read_json(folder / "checksums.json")):
            with contextlib.suppress(UserError):
                read(self.folder)
        self._write("checksums.json", b"{}")

    def rows(self, content: bytes) -> None:
        for name in ("data.jsonl", "data.json"):
            with contextlib.suppress(UserError):
                local_rows(self._write(name, content), "train")

    def grade(self, content: bytes) -> None:
        file = self._write("grade.jsonl", content)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            redraft(["grade", "--task", "lab/sorting", str(file)])

    def answers(self, content: bytes) -> None:
        text = content.decode(errors="replace")
        for read in (extract_answer, joined_boxes, unmarked_answer):
            read(text)
        for grader in self.choice:
            grader(self.problem, text)

    def math(self, content: bytes) -> None:
        text = content.decode(errors="replace")
        decide("\\frac{1}{2}", text)
        decide(text, "(1, 2]")

    def programs(self, content: bytes) -> None:
        extract_program(content.decode(errors="replace"), "f", "def f(x):\n")

    def read_steps(self, content: bytes) -> None:
        text = content.decode(errors="replace")
        for form in self.steps:
            if form is not None and (found := form.split(text)):
                form.check([(self.problem.question, found)])

    def completion(self, content: bytes) -> None:
        import httpx2

        for status in (200, 400, 500):
            _context_full(status, content)
            _refusal(httpx2.Response(status, content=content, extensions={"sent": status}))
        with contextlib.suppress(_RequestError):
            _read(content, ["\n\n"], Usage())

    def address(self, content: bytes) -> None:
        text = content.decode(errors="replace")
        with contextlib.suppress(UserError):
            split_address(text)
        EndpointSettings(extra_body={"user": text[:1000]})

    def flags(self, content: bytes) -> None:
        words = content.decode(errors="replace").replace("\0", "").split(" ")[:200]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            redraft([*words, "--model", "/nowhere"])


def mutated(rng: random.Random, seeds: list[str], big: bool) -> bytes:
    """One of the texts, changed; `big`: up to a million characters of it."""
    text = rng.choice(seeds).encode()
    for _ in range(rng.randrange(1, 5)):
        at = rng.randrange(len(text) + 1)
        end = min(len(text), at + rng.choice([1, 2, 5, 20]))
        match rng.randrange(7):
            case 0:
                text = text[:at]
            case 1:
                text = text[:at] + text[end:]
            case 2:
                text = text[:at] + text[at:end] * rng.choice([2, 10, 100]) + text[end:]
            case 3:
                text = text[:at] + bytes(rng.randrange(256) for _ in range(3)) + text[end:]
            case 4:
                text = text[:at] + rng.choice(PIECES) + text[end:]
            case 5:
                other = rng.choice(seeds).encode()
                text = text[:at] + other[rng.randrange(len(other)) :]
            case 6:
                text = text[:at] + rng.choice(PIECES) * rng.choice([1, 30, 1000]) + text[end:]
        text = text[: 10**6] or b"x"
    if big:
        at = rng.randrange(len(text))
        piece = rng.choice([text[at : at + rng.randrange(1, 30)], text, rng.choice(PIECES)])
        times = 10 ** rng.randrange(3, 7) // len(piece)
        text = (text[:at] + piece * times + text[at:])[: 10**6]
    return text


PIECES = [
    *(one.encode() for one in "[{(\"'$\\#&*!%<>|:;,.-+^_=~?@/ \n\t\r"),
    b"&a [1]", b"*a", b"!!set {x}", b"!!binary aGk=", b"0x1F", b"1:59:59", b".inf", b"? [a]",
    b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b"\x1b[2J", b"\xe2\x80\xa8", b"1e999", b"-0", b"NaN",
    b"9" * 400, b"!!int x", b"!!bool z", b"2026-13-45", b"\\frac{", b"\\left(", b"{{", b"}}", b"{%",
    b"{{ 'x' * 99999999999 }}", b"{{ 1/0 }}", b"{% for a in range(99999) %}", b"{% endfor %}",
    b"```", b"\\boxed{", b"null", b'{"a":', b"]]>", b"\xf0\x9f\x99\x82", b"\\u0000", b"\\ud800",
]  # fmt: skip


def batch(readers: Readers, reader: str, number: int) -> dict[str, object]:
    """Try the inputs of a batch in forks of this process, another one after each hang."""
    under_way = mmap.mmap(-1, 8)
    found_file = readers.folder / "found"
    found_file.write_text("[]")
    hangs: list[int] = []
    first, began = 0, time.monotonic()
    while first < BATCH:
        child = os.fork()
        if not child:
            try:
                _try(readers, reader, number, range(first, BATCH), found_file, under_way)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status == 0:
            break
        at = int.from_bytes(under_way[:], "little")
        if status == -signal.SIGPROF:
            hangs.append(at)
        else:
            _add(found_file, f"{at}: its process ended with {status}")
        first = at + 1
    return {
        "reader": reader,
        "number": number,
        "inputs": BATCH,
        "tracebacks": json.loads(found_file.read_text()),
        "hangs": hangs,
        "seconds": round(time.monotonic() - began, 1),
    }


def _try(
    readers: Readers, reader: str, number: int, inputs: range, found: Path, under_way: mmap.mmap
) -> None:
    seeds, read = readers.all()[reader]
    with contextlib.suppress(UserError):
        read(seeds[-1].encode())  # starts what is started late
    for index in inputs:
        under_way[:] = index.to_bytes(8, "little")
        rng = random.Random(f"{reader}-{number}-{index}")
        content = mutated(rng, seeds, big=index % BIG == 0)
        signal.setitimer(signal.ITIMER_PROF, HANG_S)
        try:
            read(content)
        except UserError:
            pass
        except Exception:
            signal.setitimer(signal.ITIMER_PROF, 0)
            _add(found, f"{index}: {traceback.format_exc(limit=-4)}")
        signal.setitimer(signal.ITIMER_PROF, 0)


def _add(file: Path, line: str) -> None:
    file.write_text(json.dumps([*json.loads(file.read_text()), line]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=100_000, help="over all readers")
    parser.add_argument("--out", type=Path, default=Path("runs/faults"))
    parser.add_argument("--only", nargs="*", help="names of readers")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    arguments.out.mkdir(parents=True, exist_ok=True)
    results, began = arguments.out / "inputs.jsonl", time.monotonic()
    lines = results.read_text().splitlines() if results.exists() else []
    done = {(line["reader"], line["number"]) for line in map(json.loads, lines)}
    with tempfile.TemporaryDirectory(prefix="redraft-inputs-") as folder:
        readers = Readers(Path(folder))
        names = arguments.only or list(readers.all())
        for number in range(-(-arguments.inputs // (BATCH * len(names)))):
            for name in names:
                if (name, number) in done:
                    continue
                if time.monotonic() - began > arguments.seconds:
                    return
                result = batch(readers, name, number)
                with results.open("a") as file:
                    file.write(json.dumps(result) + "\n")
                print(json.dumps(result)[:400], flush=True)


if __name__ == "__main__":
    main()
