"""What reads what somebody else wrote, by name, each with valid inputs.

A reader may refuse with a `UserError`, or where it is documented a `ValueError`; anything else is a
traceback.
"""

import asyncio
import contextlib
import io
import json
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import pyarrow as pa
import pyarrow.parquet
from peft import LoraConfig, get_peft_model

from chat_families import base_tokenizer
from redraft.chat.prompts import find_program_prompts, find_prompts
from redraft.cli import run as redraft
from redraft.config import Settings, resolve
from redraft.demo import DemoConfig
from redraft.engines.base import Request, Sampling
from redraft.engines.endpoints import EndpointSettings, Usage, split_address
from redraft.engines.openai_client import _context_full, _read, _refusal, _RequestError
from redraft.engines.template import PLAIN_TEMPLATE, ChatTemplate
from redraft.errors import UserError
from redraft.evaluation.opening import open_engine
from redraft.evaluation.settings import CollectSettings, EvaluationSettings, SolveSettings
from redraft.grading.extract import extract_answer, joined_boxes, unmarked_answer
from redraft.grading.math.equality import decide
from redraft.grading.program_text import extract_program
from redraft.learning.checkpoint import read_extra
from redraft.models import parameter_count
from redraft.report.imports import LAYOUTS, ImportSettings, import_attempts
from redraft.run_directory import RunDirectory
from redraft.serving.app import Endpoint
from redraft.serving.fields import ChatRequest, RefusedError
from redraft.serving.jobs import Job, Jobs
from redraft.serving.server import _ConversationPrompts
from redraft.serving.settings import ServeSettings
from redraft.settings import AttemptSettings
from redraft.storage import damage, read_checked, read_json
from redraft.tasks import get_task
from redraft.tasks.rows import local_rows
from redraft.training.method import METHODS
from redraft.types import Episode, Message
from tiny_gguf import write_gguf
from tiny_models import tiny_llama, tiny_tokenizer

Inputs = list[tuple[bytes, Callable[[bytes], object]]]
"""Valid inputs, each with what reads it."""

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


BODY = json.dumps(
    {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Sort <|end|> b"}]},
            {"role": "assistant", "content": "a"},
            {"role": "user", "content": "Again <eos>"},
        ],
        "stop": ["x"], "seed": 1, "temperature": 0.5, "top_p": 0.9, "max_tokens": 7, "stream": True,
        "redraft": {"attempts": True}, "n": 1, "response_format": {"type": "text"},
    }
)  # fmt: skip
HUMANEVAL = {
    "task_id": "a/1",
    "prompt": "def f(x):\n",
    "entry_point": "f",
    "is_solved": True,
    "test": "def check(f):\n    assert f(1) == 1",
    "solution": "    return x\n",
}
ATTEMPT = {"text": "it is 2", "critique": "no", "correct": True, "truncated": False, "tokens": 3}
SOLUTION = {"solution": "A: 2", "is_correct": True}
ROWS: dict[str, dict[str, object]] = {
    "": {"id": "a", "problem": "1+1?", "gold": "2", "attempts": ["1", ATTEMPT]},
    "reflexion": {**HUMANEVAL, "reflections": ["so", "or so"]},
    "first-programs": HUMANEVAL,
    "systems": {"question": "1+1?", "answer": "#### 2", "ground_truth": "2", "175b": SOLUTION},
    "bbh-cot": {"input": "Q: Sort b a", "target": "a b", "prediction": "So the answer is a b."},
}
"""A row of each layout."""
COMMANDS: list[type[Settings]] = [
    EvaluationSettings, CollectSettings, SolveSettings, ServeSettings, ImportSettings, DemoConfig,
    *(method.settings for method in METHODS.values()),
]  # fmt: skip
"""The settings of each command that has `--config`."""
MODEL_FILES = (
    "config.json",
    "tokenizer_config.json",
    "generation_config.json",
    "adapter/adapter_config.json",
)


class Readers:
    """What reads what somebody else wrote, by name, each with valid texts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tokenizer = base_tokenizer()
        self.chat = ChatTemplate(tiny_tokenizer())
        self.steps = [get_task(name).steps for name in ("lab/arithmetic", "lab/sorting")]
        self.choice = [
            get_task(
                "jsonl", self._write("p.jsonl", b'{"question": "q", "gold": "1"}'), grader=name
            ).grader
            for name in ("exact", "number", "choice")
        ]
        self.problem = Episode.model_validate_json(EPISODE).problem
        for place in (folder / "model", folder / "model" / "adapter"):
            tiny_tokenizer().save_pretrained(place)
        model = tiny_llama(layers=1)
        model.save_pretrained(folder / "model")
        model.name_or_path = str(folder / "model")
        lora = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
        get_peft_model(model, lora).save_pretrained(folder / "model" / "adapter")
        self.run = RunDirectory.create(folder / "run", EvaluationSettings(task="lab/sorting"), "t")

    def _write(self, name: str, content: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content)
        return path

    def all(self) -> dict[str, Inputs]:
        """The readers by name."""
        texts: dict[str, tuple[list[str], Callable[[bytes], object]]] = {
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
            "request's body": ([BODY], self.body),
        }  # fmt: skip
        found: dict[str, Inputs] = {
            name: [(text.encode(), read) for text in seeds] for name, (seeds, read) in texts.items()
        }
        found["redraft import"] = [
            (json.dumps(row).encode(), partial(self.imported, layout))
            for layout, row in ROWS.items()
        ]
        found["settings of commands"] = [
            (_as_json(settings), partial(self.configured, settings)) for settings in COMMANDS
        ]
        found["Parquet"] = [(self.parquet_bytes(), self.parquet)]
        found["GGUF"] = [(write_gguf(self.folder / "seed.gguf").read_bytes(), self.gguf)]
        for file in MODEL_FILES:
            content = (self.folder / "model" / file).read_bytes()
            found[f"model's {Path(file).name}"] = [(content, partial(self.model_file, file))]
        return found

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

    def parquet_bytes(self) -> bytes:
        rows = {"question": ["q", "a" * 99, None], "gold": ["1", "2", "3"], "n": [1, 2, 3],
                "list": [[1], [], None], "deep": [{"a": 1}, None, {"a": 2}]}  # fmt: skip
        file = self.folder / "seed.parquet"
        pyarrow.parquet.write_table(pa.table(rows), file)
        return file.read_bytes()

    def parquet(self, content: bytes) -> None:
        local_rows(self._write("data.parquet", content), "train")

    def gguf(self, content: bytes) -> None:
        self.answer(self._write("model.gguf", content))

    def model_file(self, file: str, content: bytes) -> None:
        """A model's folder with one file that is not as it was."""
        place = self.folder / "hostile"
        if not place.exists():
            shutil.copytree(self.folder / "model", place)
        whole = (self.folder / "model" / file).read_bytes()
        (place / file).write_bytes(content)
        try:
            self.answer((place / file).parent)
        finally:
            (place / file).write_bytes(whole)

    def answer(self, model: Path) -> None:
        """What `redraft eval` does with a model until it has an answer."""
        parameter_count(model)
        config = CollectSettings(
            model=str(model), task="lab/sorting", max_tokens=4, device="cpu", out=Path("/nowhere")
        )
        request = Request([Message(role="user", content="Hi")])
        open_engine(config, config.model).generate([request], Sampling(0.0, max_tokens=4))

    def imported(self, layout: str, content: bytes) -> None:
        out = self.folder / "imported"
        config = ImportSettings(
            out=out,
            layout=layout if layout in LAYOUTS else None,
            task="bbh/word_sorting" if layout == "bbh-cot" else None,
            verdicts="recorded",
        )
        try:
            import_attempts(config, self._write("attempts.jsonl", content))
        finally:
            shutil.rmtree(out, ignore_errors=True)

    def configured(self, settings: type[Settings], content: bytes) -> None:
        config = resolve(settings, file=self._write("config.yaml", content))
        if isinstance(config, AttemptSettings):
            config.open_task()
            config.open_prompts()

    def body(self, content: bytes) -> None:
        """What `redraft serve` does with a request until the model is asked."""
        prompts = _ConversationPrompts(**vars(get_task("lab/sorting").prompts))
        with contextlib.suppress(RefusedError):
            job = asyncio.run(self._job(ChatRequest.read(content)))
            self.chat.start([one.model_dump() for one in prompts.opening(job.problem)])

    async def _job(self, chat: ChatRequest) -> Job:
        config = ServeSettings(model="http://127.0.0.1:9/v1#m", strategy="majority-chains")
        return Endpoint(config, Jobs(), lambda question: "lab/sorting", None)._job(chat)


def _as_json(settings: type[Settings]) -> bytes:
    """Valid settings as JSON, which is YAML."""
    given = {"task": "lab/sorting", "out": "/nowhere"}
    if getattr(settings, "needs_teacher", False):
        given["teacher"] = "expert"
    given = {name: value for name, value in given.items() if name in settings.model_fields}
    return settings(**given).model_dump_json().encode()
