"""The exact texts that are said to a policy, as data.

A `Prompts` poses a problem and asks for another attempt. The SCoRe texts are verbatim from
arXiv 2409.12917, Appendix C; deviations would change the state the policy is trained on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain
from pathlib import Path
from typing import Literal

from redraft.config import read_yaml
from redraft.episode import Message, Problem, Role
from redraft.errors import UserError


@dataclass(frozen=True)
class Prompts:
    """How a problem is posed and how a further attempt is asked for.

    `first` is the text before the first attempt with `{question}` where the question goes; it is
    substituted literally, so braces in questions are safe. `instructions` go before it, as a system
    message or, for `instructions_as="user"`, at the head of the first user message (templates
    without a system role). `shots` are pairs of a question and the answer it should get, shown as
    earlier turns of the dialogue. With an `example` the task's own worked examples come before the
    question, in one message with it (`with_examples`). `retry` is said after every attempt but the
    last; `{question}` may stand in it too.
    """

    name: str
    first: str
    retry: str
    instructions: str = ""
    instructions_as: Literal["system", "user"] = "user"
    stop: tuple[str, ...] = ()
    shots: tuple[tuple[str, str], ...] = ()
    example: str = ""

    def with_examples(self, worked: Sequence[tuple[str, str]]) -> "Prompts":
        """The prompts with worked examples, pairs of a question and its solution, in front of every
        problem: each as `example` says, with `{solution}` where the solution goes."""
        shown = "".join(
            self.example.replace("{question}", question).replace("{solution}", solution)
            for question, solution in worked
        )
        return replace(self, first=shown + self.first)

    def opening(self, problem: Problem) -> list[Message]:
        """The dialogue before the first attempt."""
        posed = self.first.replace("{question}", problem.question)
        texts = [*chain.from_iterable(self.shots), posed]
        if self.instructions and self.instructions_as == "user":
            texts[0] = f"{self.instructions}\n\n{texts[0]}"
        roles: tuple[Role, Role] = ("user", "assistant")
        messages = [_message(roles[i % 2], text) for i, text in enumerate(texts)]
        if self.instructions and self.instructions_as == "system":
            return [_message("system", self.instructions), *messages]
        return messages

    def again(self, problem: Problem) -> str:
        """What is said after an attempt to get another."""
        return self.retry.replace("{question}", problem.question)


def _message(role: Role, content: str) -> Message:
    return Message(role=role, content=content)


_FINAL_ANSWER = (
    "At the end of the Solution, when you give your final answer, write it in the form "
    '"Final Answer: The final answer is $answer$. I hope it is correct."'
)

SCORE_MATH = Prompts(
    name="score-math",
    instructions=(
        "You are a math expert. When you respond, respond only with the Solution of the final "
        f"Problem, thinking step by step. {_FINAL_ANSWER}"
    ),
    first="{question}",
    retry=(
        "There might be an error in the solution above because of lack of understanding of the "
        "question. Please correct the error, if any, and rewrite the solution. Only output the "
        f"final solution! {_FINAL_ANSWER}"
    ),
)
"""MATH prompts of SCoRe, verbatim."""

SCORE_CODE = Prompts(
    name="score-code",
    first="You are an expert Python programmer, and here is your task: {question}",
    retry=(
        "# There might be an error in the code above because of lack of understanding of the "
        "question. Please correct the error, if any, and rewrite the solution. Only output the "
        "final correct Python program!"
    ),
    stop=("[DONE]",),
)
"""Code prompts of SCoRe without examples, as for HumanEval: the second turn's text is verbatim, the
first turn's is MBPP's task line."""

SCORE_MBPP = Prompts(
    name="score-mbpp",
    first=f"{SCORE_CODE.first}\n[BEGIN]\n",
    retry=SCORE_CODE.retry,
    stop=("[DONE]",),
    example=f"{SCORE_CODE.first}\n[BEGIN]\n{{solution}}\n[DONE]\n\n",
)
"""SCoRe's MBPP prompts: three problems with their solutions first. The examples are MBPP's own and
come with its data."""

BOXED = Prompts(
    name="boxed",
    first="{question}\n\nPlease reason step by step, and put your final answer within \\boxed{}.",
    retry=SCORE_MATH.retry.split(" At the end of the Solution")[0]
    + " Put your final answer within \\boxed{}.",
)
"""SCoRe's neutral instruction with the answer in a box, the usual form of open instruct models."""

PLAIN = Prompts(
    name="plain",
    first="{question}",
    retry=(
        "There might be an error in the answer above. Please correct the error, if any, and give "
        "the whole answer again."
    ),
)
"""Nothing but the question, for tasks that say themselves what an answer looks like."""

RISE = Prompts(
    name="rise",
    instructions=(
        "You are an AI language model designed to assist with math problem-solving. In this task, "
        "I will provide you with math problems. Your goal is to solve the problem step-by-step, "
        "showing your reasoning at each step. After you have finished solving the problem, present "
        "your final answer as \\boxed{Your Answer}."
    ),
    shots=(
        (
            "Here is the math word problem for you to solve:\n\nOf the 60 students in the drama "
            "club, 36 take mathematics, 27 take physics and 20 students take both mathematics and "
            "physics. How many drama club students take neither mathematics nor physics?",
            "Step 1: The club has 60 students: 36 take mathematics, 27 take physics, 20 take "
            "both.\nStep 2: Mathematics alone is taken by 36 - 20 = 16 students.\nStep 3: Physics "
            "alone is taken by 27 - 20 = 7 students.\nStep 4: At least one of the two is taken by "
            "16 + 7 + 20 = 43 students.\nStep 5: Neither is taken by 60 - 43 = 17 students.\n"
            "Answer: \\boxed{17}",
        ),
    ),
    first=(
        "Great job! You've successfully answered the question. Now, let's move on to the next one."
        "\n{question}"
    ),
    retry="The answer is incorrect. Please try again. Here's the question: {question}",
)
"""Prompts of RISE (arXiv 2407.18219, as in its released code): one demonstration, and the message
that says "incorrect" whatever the truth. The demonstration's solution is worded by this project."""

SELF_REFINE = Prompts(
    name="self-refine",
    first=SCORE_MATH.first,
    instructions=SCORE_MATH.instructions,
    retry=(
        "There might be an error in the solution above because of lack of understanding of the "
        "question. What is the error? Name it first, then rewrite the whole solution. If there is "
        f"no error, say only: it is correct. {_FINAL_ANSWER}"
    ),
)
"""Self-Refine as a prompt: criticise, then redo, in one attempt. The wording follows its GSM8K
prompt (arXiv 2303.17651) as SCoRe's does; neither RISE nor SCoRe publishes theirs. With the
protocol `self-refine` a reply that says "it is correct" ends the episode."""

RISE_NEUTRAL = replace(RISE, name="rise-neutral", retry=BOXED.retry)
"""RISE's opening and demonstration with SCoRe's neutral instruction between attempts, which calls
no right answer wrong."""

LAB = Prompts(
    name="lab",
    first="{question}",
    retry="Please correct any error.",
)
"""The lab's texts: those its base model was pretrained on."""

_ALL = (SCORE_MATH, SCORE_CODE, SCORE_MBPP, RISE, RISE_NEUTRAL, SELF_REFINE, BOXED, PLAIN, LAB)
PROMPTS = {prompts.name: prompts for prompts in _ALL}
"""Every prompt set by name."""


def prompts_for(task: str, name: str | None = None) -> Prompts:
    """The prompt set called `name`, that of a YAML file, or a task's default.

    By default the lab's tasks have the lab's texts, `gsm8k` and `math` SCoRe's for MATH,
    `humaneval` and `mbpp` its for code, and any other task `plain`. A file holds the fields of
    `Prompts` but its name and examples.

    Raises:
        UserError: no such prompt set, or a file that does not make one.
    """
    if name is None:
        defaults = {
            "gsm8k": SCORE_MATH,
            "math": SCORE_MATH,
            "humaneval": SCORE_CODE,
            "mbpp": SCORE_MBPP,
        }
        return LAB if task.startswith("lab/") else defaults.get(task, PLAIN)
    if name.endswith((".yaml", ".yml")):
        return _from_file(Path(name))
    if name not in PROMPTS:
        known = ", ".join(PROMPTS)
        raise UserError(f"--prompts {name}: unknown; expected {known}, or a file NAME.yaml")
    return PROMPTS[name]


def _from_file(path: Path) -> Prompts:
    values = read_yaml(path)
    known = [
        field.name for field in fields(Prompts) if field.name not in ("name", "shots", "example")
    ]
    for field in ("first", "retry"):
        if not isinstance(values.get(field), str):
            raise UserError(f"{path}: field {field!r} with a text is missing")
    if unknown := sorted(set(values) - set(known)):
        raise UserError(f"{path}: unknown field {unknown[0]!r}; expected {', '.join(known)}")
    if "{question}" not in values["first"]:
        raise UserError(f"{path}: field 'first' has no {{question}}, the place of the problem")
    if values.get("instructions_as", "user") not in ("user", "system"):
        raise UserError(f"{path}: instructions_as must be user or system")
    if not isinstance(values.get("instructions", ""), str):
        raise UserError(f"{path}: field 'instructions' must be a text")
    stop = values.pop("stop", [])
    stop = [stop] if isinstance(stop, str) else stop
    if not isinstance(stop, list) or not all(isinstance(text, str) and text for text in stop):
        raise UserError(f"{path}: field 'stop' must be a text or a list of texts, none empty")
    return Prompts(name=str(path), **values, stop=tuple(stop))
