"""Settings of every command that has a model respond to problems."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, field_validator

from redraft.chat.prompts import Prompts, find_prompts
from redraft.config import Settings
from redraft.engines.endpoints import model_name
from redraft.errors import UserError
from redraft.grading import GRADERS, runs_programs
from redraft.grading.confinement import SandboxNeed, check_sandbox
from redraft.models import MODELS
from redraft.tasks import Task, get_task, jsonl


class AttemptSettings(Settings):
    """Model, problems and prompts."""

    model: str = Field(default_factory=lambda: next(iter(MODELS)))
    """A folder in Hugging Face format, a model id of the Hugging Face hub, the name of a model that
    a package brings (by default the small one that ships), or an endpoint,
    `http://HOST:PORT/v1#MODEL`."""
    task: str
    """Where the problems come from; `redraft tasks` lists the names."""
    data: Path | None = None
    """Read the task from this local file or folder instead of the hub."""
    grader: str | None = None
    """Grader for `--task jsonl`: exact, number, math (the default), choice, or
    `module:function`."""
    question_field: str | None = None
    """Field with the question, for `--task jsonl`."""
    gold_field: str | None = None
    """Field with the gold answer, for `--task jsonl`."""
    limit: int | None = Field(default=None, ge=1)
    """Take this many problems, chosen by the seed; by default all."""
    prompts: str | None = None
    """Texts that are said to the model: score-math, score-code, score-mbpp, code, rise,
    rise-neutral, self-refine, boxed, plain, one that a package registers, or a YAML file with
    `first`, `retry` and, if wanted, `instructions`, `instructions_as`, `prefill` (what every
    response begins with) and `stop`; by default the task's own."""
    thinking: bool | None = None
    """Switch the model's thinking on or off, for chat templates that know `enable_thinking`."""
    max_rows: int | None = Field(default=None, ge=1)
    """Conversations that are continued at once: bounds the memory of rollout; by default as many as
    fit into free memory."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    workers: int | None = Field(default=None, ge=1)
    """Most worker processes for grading, and most for running programs; by default one per core."""
    sandbox: SandboxNeed = "best"
    """How programs that the model writes are confined. `best`: as well as this machine can.
    `strict`: refuse to run any where one could reach the network, connect to a service of this
    machine, or write outside its folder."""

    @field_validator("model")
    @classmethod
    def _holds_no_secret(cls, model: str) -> str:
        return model_name(model)

    @property
    def template_values(self) -> dict[str, bool]:
        """Variables for the chat template."""
        return {} if self.thinking is None else {"enable_thinking": self.thinking}

    @property
    def runs_programs(self) -> bool:
        """Whether anything that the model writes is run."""
        return runs_programs(self.open_task().grader)

    def confinement(self) -> Mapping[str, object] | None:
        """How programs are confined on this machine, for the run's records; None where none run.

        Raises:
            UserError: not as well as `sandbox` asks for, or there is no such task.
        """
        return check_sandbox(self.sandbox) if self.runs_programs else None

    def check_answers_are_printed(self) -> None:
        """Refuse a task whose answers are programs.

        Raises:
            ValueError: the task's answers are programs themselves, judged by their tests.
            UserError: as `open_task`.
        """
        if runs_programs(self.open_task().grader):
            raise ValueError(
                f"--task {self.task}: an answer is a program, judged by its tests and not by what "
                "it prints; give a task whose answer a program can print"
            )

    def open_task(self) -> Task:
        """The task.

        Raises:
            UserError: no such task, or a setting that does not fit it.
        """
        return get_task(
            self.task,
            self.data,
            grader=self.grader,
            question_field=self.question_field,
            gold_field=self.gold_field,
        )

    @property
    def grader_note(self) -> str | None:
        """What is said where the user's own problems are graded as no flag has asked for."""
        if self.task != jsonl.NAME or self.grader is not None:
            return None
        others = ", ".join(name for name in GRADERS if name != jsonl.GRADER)
        return (
            f"graded with --grader {jsonl.GRADER}, as none is named; others: {others}, "
            "module:function"
        )

    def open_prompts(self) -> Prompts:
        """What is said to the model, with the task's worked examples where the prompts show some.

        Raises:
            UserError: no such prompts, or examples that the task does not have.
        """
        task = self.open_task()
        prompts = task.prompts if self.prompts is None else find_prompts(self.prompts)
        if not prompts.example:
            return prompts
        examples = task.examples()
        if not examples:
            raise UserError(
                f"--prompts {prompts.name}: shows worked examples, which task {self.task!r} does "
                "not have; give --prompts score-code"
            )
        return prompts.with_examples(examples)
