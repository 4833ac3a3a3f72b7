"""What is said to get a program, and the two ways of asking for one.

CaP (arXiv 2412.16871) conditions a program on a chain of thought, the plain baseline on the
question alone. Its prompts are not known to us: the texts here are this project's own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from redraft.config import read_yaml
from redraft.episode import Grade, Message, Problem
from redraft.errors import UserError
from redraft.protocols.prompts import Prompts


@dataclass(frozen=True)
class ProgramPrompts:
    """How a program is asked for.

    `alone` is the whole first message, with `{question}` where the question goes; `refine` is said
    after an attempt at the question, which the policy sees as its own earlier message.
    """

    name: str
    alone: str
    refine: str

    def opening(self, problem: Problem) -> list[Message]:
        """The dialogue before a program that no attempt comes before."""
        posed = self.alone.replace("{question}", problem.question)
        return [Message(role="user", content=posed)]


_FORM = (
    "The program computes every number itself and prints the final answer, and nothing else, with "
    "print(). Output the program alone, in one ```python block."
)

PYTHON = ProgramPrompts(
    name="python",
    alone=f"{{question}}\n\nWrite a Python program that solves this problem. {_FORM}",
    refine=(
        "The solution above may contain mistakes. Write a Python program that solves the original "
        f"problem; where the solution is wrong, the program does not repeat it. {_FORM}"
    ),
)
"""For instruct models on problems with an answer that can be printed."""

LAB_PROGRAMS = ProgramPrompts(
    name="lab",
    alone="{question} Write a program.",
    refine="Write a program.",
)
"""The lab's texts: those its base model was pretrained on."""

PROGRAM_PROMPTS = {prompts.name: prompts for prompts in (PYTHON, LAB_PROGRAMS)}
"""Every set of texts by name."""


def program_prompts_for(task: str, name: str | None = None) -> ProgramPrompts:
    """The texts called `name`, those of a YAML file with `alone` and `refine`, or a task's default.

    Raises:
        UserError: no such texts, or a file that does not make them.
    """
    if name is None:
        return LAB_PROGRAMS if task.startswith("lab/") else PYTHON
    if name.endswith((".yaml", ".yml")):
        return _from_file(Path(name))
    if name not in PROGRAM_PROMPTS:
        known = ", ".join(PROGRAM_PROMPTS)
        raise UserError(f"--program-prompts {name}: unknown; expected {known}, or a file NAME.yaml")
    return PROGRAM_PROMPTS[name]


def _from_file(path: Path) -> ProgramPrompts:
    values = read_yaml(path)
    if unknown := sorted(set(values) - {"alone", "refine"}):
        raise UserError(f"{path}: unknown field {unknown[0]!r}; expected alone, refine")
    for field in ("alone", "refine"):
        if not isinstance(values.get(field), str) or not values[field].strip():
            raise UserError(f"{path}: field {field!r} with a text is missing")
    if "{question}" not in values["alone"]:
        raise UserError(f"{path}: field 'alone' has no {{question}}, the place of the problem")
    return ProgramPrompts(name=str(path), **values)


@dataclass(frozen=True)
class ProgramAlone:
    """One attempt, a program, at the bare question."""

    programs: ProgramPrompts

    name: ClassVar[str] = "program"
    turns: ClassVar[int] = 1
    uses_grades: ClassVar[bool] = False

    def opening(self, problem: Problem) -> list[Message]:
        """The question with the request for a program."""
        return self.programs.opening(problem)

    def feedback(
        self, problem: Problem, attempts: Sequence[str], grades: Sequence[Grade]
    ) -> str | None:
        """Nothing: the program is all."""
        return None


@dataclass(frozen=True)
class ChainToProgram:
    """An attempt in words, then a program that refines it."""

    prompts: Prompts
    programs: ProgramPrompts

    name: ClassVar[str] = "cap"
    turns: ClassVar[int] = 2
    uses_grades: ClassVar[bool] = False

    def opening(self, problem: Problem) -> list[Message]:
        """The problem as `prompts` pose it."""
        return self.prompts.opening(problem)

    def feedback(
        self, problem: Problem, attempts: Sequence[str], grades: Sequence[Grade]
    ) -> str | None:
        """The request for a program, after the first attempt; whatever it is worth."""
        return self.programs.refine if len(attempts) == 1 else None
