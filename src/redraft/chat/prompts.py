"""The exact texts that are said to a policy, as data.

`Prompts` pose a problem and ask for another response, `ProgramPrompts` ask for a program (CaP), and
`ImprovementPrompts` for a critique and an update (TriPosT). The SCoRe texts are verbatim from
arXiv 2409.12917, Appendix C; deviations would change the state the policy is trained on. CaP's
prompts (arXiv 2412.16871) are not known to us, and TriPosT's models (arXiv 2310.13522) have theirs
from fine-tuning alone, so those texts are this project's own.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Literal

from redraft.config import read_yaml
from redraft.errors import UserError
from redraft.registry import Registry
from redraft.types import Message, Problem, Role


@dataclass(frozen=True)
class Prompts:
    """How a problem is posed and how another response is asked for.

    `first` is the text before the first response with `{question}` where the question goes; it is
    substituted literally, so braces in questions are safe. `instructions` go before it, as a system
    message or, for `instructions_as="user"`, at the head of the first user message (templates
    without a system role). `shots` are pairs of a question and the answer it should get, shown as
    earlier turns of the conversation. With an `example` the task's own worked examples come before
    the question, in one message with it (`with_examples`). `retry` is said after every response but
    the last; `{question}` may stand in it too. A response begins with `prefill`, which is given to
    the policy and neither sampled nor learned from, and ends before one of the `stop` strings.
    """

    name: str
    first: str
    retry: str
    instructions: str = ""
    instructions_as: Literal["system", "user"] = "user"
    prefill: str = ""
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
        """The conversation before the first response."""
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
        """What is said after a response to get another."""
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

CODE = Prompts(
    name="code",
    first=(
        "Solve this task in Python:\n\n{question}\n\nOutput the whole function with its imports in "
        "one ```python block, and nothing else."
    ),
    retry=(
        "There might be an error in the code above because of lack of understanding of the "
        "question. Please correct the error, if any, and output the whole function again in one "
        "```python block, and nothing else."
    ),
    prefill="```python\n",
    stop=("\n```",),
)
"""For instruct models on HumanEval and MBPP: code alone. The response opens with the fence, as in
the evaluations of most makers, and ends where the fence is closed."""

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
"""The bare question, for tasks whose questions say what an answer looks like."""

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
that says "incorrect" whatever the truth. This project worded the demonstration's solution."""

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
"""Self-Refine as a prompt: criticise, then redo, in one response. The wording follows its GSM8K
prompt (arXiv 2303.17651) as SCoRe's does; neither RISE nor SCoRe publishes theirs. With the
protocol `self-refine` a reply that says "it is correct" ends the episode."""

RISE_NEUTRAL = replace(RISE, name="rise-neutral", retry=BOXED.retry)
"""RISE's opening and demonstration with SCoRe's neutral instruction between attempts, which calls
no right answer wrong."""


@dataclass(frozen=True)
class ProgramPrompts:
    """How a program is asked for.

    `alone` is the whole first message, with `{question}` where the question goes; `refine` is said
    after a response to the question, which the policy sees as its own earlier message.
    """

    name: str
    alone: str
    refine: str

    def opening(self, problem: Problem) -> list[Message]:
        """The conversation before a program for the bare question."""
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


_DOUBTS = re.compile(r"\b(?:not|whether|if|unless|unsure|doubt|never|hope)\b|n['’]t\b")
_CLAUSE_ENDS = re.compile(
    r"""["'”’)*_]*[^\S\n]*(?:$|\n|[.!,;]|--|—)(?!\W*(?:that|up to|until|but|except)\b)"""
)


def sentence_affirms(text: str, phrase: str) -> bool:
    """Whether `text` (in lower case) says `phrase` at the end of a clause, with no doubt before it.

    "I am not sure it is correct", "it is correct up to step 2" and "it is correct? No" do not
    affirm "it is correct".
    """
    words = r"\b" + r"\s+".join(map(re.escape, phrase.split())) + r"\b"
    return any(
        _CLAUSE_ENDS.match(text, found.end())
        and not _DOUBTS.search(re.split(r"[.!?]", text[: found.start()])[-1])
        for found in re.finditer(words, text)
    )


@dataclass(frozen=True)
class ImprovementPrompts:
    """How a critique and an update are asked for, and how a critique says that all is right.

    `feedback` asks for the critique. `confirmation` is a critique that confirms, as a script writes
    it; `{attempt}` in it stands for the response. A model's critique confirms if its last line
    affirms `confirmed_by` (`sentence_affirms`), whatever the case.
    """

    name: str
    feedback: str
    update: str
    confirmation: str
    confirmed_by: str

    def confirms(self, critique: str) -> bool:
        """Whether a critique says that the response is right."""
        lines = critique.strip().splitlines() or [""]
        return sentence_affirms(lines[-1].casefold(), self.confirmed_by)


STEPS = ImprovementPrompts(
    name="steps",
    feedback=(
        "Feedback: go through the answer above step by step. Find the first step that is wrong, "
        "and reply in this form: Step (1) to step (k-1) are correct. In step (k) the part "
        '"..." is incorrect. This is because ... . If there is no such step, reply: All steps are '
        "correct. The final response is also correct."
    ),
    update=(
        "Updated Answer: keep the steps before the wrong one as they are, and write the answer "
        "anew from there. Output only the updated answer."
    ),
    confirmation="All steps are correct. The final response is also correct.",
    confirmed_by="final response is also correct",
)
"""The paper's form of critiques and its headings; the requests are worded by this project, because
the paper's models have them from fine-tuning alone."""


PROMPTS: Registry[Prompts] = Registry("prompt set", "redraft.prompts")

OURS = [SCORE_MATH, SCORE_CODE, SCORE_MBPP, CODE, RISE, RISE_NEUTRAL, SELF_REFINE, BOXED, PLAIN]
"""What this file registers for `--prompts`."""


def find_prompts(name: str) -> Prompts:
    """The registered prompt set called `name`, or that of a YAML file.

    A file holds the fields of `Prompts` but its name, shots and example.

    Raises:
        UserError: no such prompt set, or a file that does not make one.
    """
    if not name.endswith((".yaml", ".yml")):
        return PROMPTS[name]
    values = read_yaml(path := Path(name))
    known = {"first", "retry", "instructions", "instructions_as", "prefill", "stop"}
    _check_texts(values, path, known, needed=("first", "retry"), posed="first")
    if values.get("instructions_as", "user") not in ("user", "system"):
        raise UserError(f"{path}: instructions_as must be user or system")
    for field in ("instructions", "prefill"):
        if not isinstance(values.get(field, ""), str):
            raise UserError(f"{path}: field {field!r} must be a text")
    stop = values.pop("stop", [])
    stop = [stop] if isinstance(stop, str) else stop
    if not isinstance(stop, list) or not all(isinstance(text, str) and text for text in stop):
        raise UserError(f"{path}: field 'stop' must be a text or a list of texts, none empty")
    return Prompts(name=name, **values, stop=tuple(stop))


def find_program_prompts(name: str) -> ProgramPrompts:
    """The texts `python`, or those of a YAML file with `alone` and `refine`.

    Raises:
        UserError: no such texts, or a file that does not make them.
    """
    if name == PYTHON.name:
        return PYTHON
    if not name.endswith((".yaml", ".yml")):
        raise UserError(
            f"--program-prompts {name}: unknown; expected {PYTHON.name} or a file NAME.yaml"
        )
    values = read_yaml(path := Path(name))
    _check_texts(values, path, {"alone", "refine"}, needed=("alone", "refine"), posed="alone")
    return ProgramPrompts(name=name, **values)


def _check_texts(
    values: Mapping[str, object], path: Path, known: set[str], needed: Sequence[str], posed: str
) -> None:
    """Refuse a file with unknown fields, without the `needed` texts, or whose text `posed` has no
    place for the question."""
    for field in needed:
        text = values.get(field)
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"{path}: field {field!r} with a text is missing")
    if unknown := sorted(set(values) - known):
        raise UserError(
            f"{path}: unknown field {unknown[0]!r}; expected {', '.join(sorted(known))}"
        )
    if "{question}" not in str(values[posed]):
        raise UserError(f"{path}: field {posed!r} has no {{question}}, the place of the problem")
