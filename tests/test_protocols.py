"""What is said to a policy: the paper's texts to the letter, and when an episode ends."""

from pathlib import Path

import pytest

from redraft.episode import Grade, Message, Problem
from redraft.errors import UserError
from redraft.protocols import PROMPTS, Intrinsic, Oracle, Prompts, SelfRefine, prompts_for

PROBLEM = Problem(id="p", task="t", question="What is {x} if x = 1?", gold="1")


def test_math_prompts_are_those_of_the_paper() -> None:
    """arXiv 2409.12917, Appendix C."""
    [message] = PROMPTS["score-math"].opening(PROBLEM)
    assert message == Message(
        role="user",
        content=(
            "You are a math expert. When you respond, respond only with the Solution of the final "
            "Problem, thinking step by step. At the end of the Solution, when you give your final "
            'answer, write it in the form "Final Answer: The final answer is $answer$. I hope it '
            'is correct."\n\nWhat is {x} if x = 1?'
        ),
    )
    assert PROMPTS["score-math"].retry == (
        "There might be an error in the solution above because of lack of understanding of the "
        "question. Please correct the error, if any, and rewrite the solution. Only output the "
        "final solution! At the end of the Solution, when you give your final answer, write it in "
        'the form "Final Answer: The final answer is $answer$. I hope it is correct."'
    )


def test_code_prompts_are_those_of_the_paper() -> None:
    assert PROMPTS["score-code"].retry == (
        "# There might be an error in the code above because of lack of understanding of the "
        "question. Please correct the error, if any, and rewrite the solution. Only output the "
        "final correct Python program!"
    )
    [message] = PROMPTS["score-code"].opening(PROBLEM)
    assert message.content.startswith("You are an expert Python programmer, and here is your task:")
    assert PROMPTS["score-code"].stop == ("[DONE]",)


def test_boxed_prompts_say_the_same_with_the_answer_in_a_box() -> None:
    retry = PROMPTS["boxed"].retry
    assert retry.endswith("Only output the final solution! Put your final answer within \\boxed{}.")
    assert "Final Answer" not in retry


def test_rise_neutral_is_rises_opening_and_scores_instruction() -> None:
    neutral, rise = PROMPTS["rise-neutral"], PROMPTS["rise"]
    assert neutral.opening(PROBLEM) == rise.opening(PROBLEM)
    assert neutral.again(PROBLEM) == (
        "There might be an error in the solution above because of lack of understanding of the "
        "question. Please correct the error, if any, and rewrite the solution. Only output the "
        "final solution! Put your final answer within \\boxed{}."
    )


def test_self_refine_prompts_to_the_letter() -> None:
    """The first attempt is SCoRe's; the request is Self-Refine's in this project's words."""
    prompts = PROMPTS["self-refine"]
    assert prompts.opening(PROBLEM) == PROMPTS["score-math"].opening(PROBLEM)
    assert prompts.again(PROBLEM) == (
        "There might be an error in the solution above because of lack of understanding of the "
        "question. What is the error? Name it first, then rewrite the whole solution. If there is "
        "no error, say only: it is correct. At the end of the Solution, when you give your final "
        'answer, write it in the form "Final Answer: The final answer is $answer$. I hope it is '
        'correct."'
    )


@pytest.mark.parametrize(
    ("reply", "ends"),
    [
        ("It is correct.", True),
        ("Step by step, it is correct!", True),
        ("Step 2 is wrong. Final Answer: The final answer is $4$. I hope it is correct.", False),
        ("It is correct. Final Answer: The final answer is $4$. I hope it is correct.", True),
        ("The error is in step 2. It follows that x = 4.", False),
        ("", False),
    ],
)
def test_self_refine_ends_when_a_reply_finds_no_error(reply: str, ends: bool) -> None:
    protocol = SelfRefine(PROMPTS["self-refine"], 4)
    said = protocol.feedback(PROBLEM, ["x = 3", reply], [])
    assert said == (None if ends else PROMPTS["self-refine"].again(PROBLEM))


def test_self_refine_never_ends_at_the_first_attempt_and_always_at_the_last() -> None:
    protocol = SelfRefine(PROMPTS["self-refine"], 3)
    assert protocol.opening(PROBLEM) == PROMPTS["self-refine"].opening(PROBLEM)
    assert protocol.feedback(PROBLEM, ["x = 1, it is correct"], []) is not None
    assert protocol.feedback(PROBLEM, ["x = 1, it is correct", "x = 2"], []) is not None
    assert protocol.feedback(PROBLEM, ["x = 1", "x = 2", "x = 3"], []) is None


def test_rise_prompts_are_those_of_its_code() -> None:
    """arXiv 2407.18219: one demonstration, then the problem, all in user and assistant messages.
    The demonstration's solution is this project's wording, its question and answer are not."""
    first, shown, second = PROMPTS["rise"].opening(PROBLEM)
    assert first == Message(
        role="user",
        content=(
            "You are an AI language model designed to assist with math problem-solving. In this "
            "task, I will provide you with math problems. Your goal is to solve the problem "
            "step-by-step, showing your reasoning at each step. After you have finished solving "
            "the problem, present your final answer as \\boxed{Your Answer}.\n\nHere is the math "
            "word problem for you to solve:\n\nOf the 60 students in the drama club, 36 take "
            "mathematics, 27 take physics and 20 students take both mathematics and physics. How "
            "many drama club students take neither mathematics nor physics?"
        ),
    )
    assert shown.role == "assistant"
    assert shown.content.count("Step ") == 5
    assert shown.content.endswith("Answer: \\boxed{17}")
    assert second == Message(
        role="user",
        content=(
            "Great job! You've successfully answered the question. Now, let's move on to the next "
            "one.\nWhat is {x} if x = 1?"
        ),
    )
    assert PROMPTS["rise"].again(PROBLEM) == (
        "The answer is incorrect. Please try again. Here's the question: What is {x} if x = 1?"
    )


def test_without_an_oracle_rise_says_incorrect_whatever_the_truth() -> None:
    """So that it reveals nothing: protocols without grades never see one."""
    said = Intrinsic(PROMPTS["rise"], 3).feedback(PROBLEM, ["\\boxed{1}"], [])
    assert said == PROMPTS["rise"].again(PROBLEM)


def test_shots_are_turns_before_the_question() -> None:
    shots = (("1+1?", "2"), ("1+2?", "3"))
    prompts = Prompts("mine", "{question}", "Again.", "Be brief.", shots=shots)
    dialogue = [(message.role, message.content) for message in prompts.opening(PROBLEM)]
    assert dialogue == [
        ("user", "Be brief.\n\n1+1?"),
        ("assistant", "2"),
        ("user", "1+2?"),
        ("assistant", "3"),
        ("user", PROBLEM.question),
    ]
    apart = Prompts("mine", "{question}", "Again.", "Be brief.", "system", shots=shots)
    system, first, *_ = apart.opening(PROBLEM)
    assert (system.role, system.content, first.content) == ("system", "Be brief.", "1+1?")


def test_a_question_in_the_retry_is_put_in_literally() -> None:
    """Braces in a question are its own, and so is what looks like the place for one."""
    odd = Problem(id="p", task="t", question="What is {question} in \\frac{1}{2}?", gold="1")
    prompts = Prompts("mine", "Q: {question}", "No. {question} And {question}")
    assert prompts.opening(odd)[0].content == f"Q: {odd.question}"
    assert prompts.again(odd) == f"No. {odd.question} And {odd.question}"
    for protocol in (Intrinsic(prompts, 2), Oracle(prompts, 2)):
        assert protocol.feedback(odd, ["1"], [WRONG]) == prompts.again(odd)
    assert PROMPTS["lab"].again(odd) == PROMPTS["lab"].retry


WRONG = Grade(correct=False, answer="2", decided_by="string")
RIGHT = Grade(correct=True, answer="1", decided_by="string")


@pytest.mark.parametrize("turns", [1, 2, 4])
def test_an_oracle_asks_again_after_wrong_attempts_until_the_last(turns: int) -> None:
    protocol = Oracle(PROMPTS["lab"], turns)
    said = [protocol.feedback(PROBLEM, ["2"] * n, [WRONG] * n) for n in range(1, turns + 1)]
    assert said == [PROMPTS["lab"].retry] * (turns - 1) + [None]
    assert protocol.uses_grades
    assert protocol.opening(PROBLEM) == PROMPTS["lab"].opening(PROBLEM)


def test_an_oracle_ends_with_the_first_right_attempt() -> None:
    protocol = Oracle(PROMPTS["rise"], 5)
    assert protocol.feedback(PROBLEM, ["1"], [RIGHT]) is None
    assert protocol.feedback(PROBLEM, ["2", "1"], [WRONG, RIGHT]) is None
    assert protocol.feedback(PROBLEM, ["2"], [WRONG]) == PROMPTS["rise"].again(PROBLEM)


@pytest.mark.parametrize("name", PROMPTS)
def test_no_prompt_reveals_whether_an_attempt_was_right(name: str) -> None:
    assert "is wrong" not in PROMPTS[name].retry
    assert "is right" not in PROMPTS[name].retry


@pytest.mark.parametrize("name", PROMPTS)
def test_the_question_is_posed_to_the_letter(name: str) -> None:
    assert sum(PROBLEM.question in m.content for m in PROMPTS[name].opening(PROBLEM)) == 1


def test_instructions_may_be_a_system_message() -> None:
    prompts = Prompts("mine", "Q: {question}", "Again.", "Be brief.", instructions_as="system")
    assert prompts.opening(PROBLEM) == [
        Message(role="system", content="Be brief."),
        Message(role="user", content="Q: What is {x} if x = 1?"),
    ]


@pytest.mark.parametrize("turns", [1, 2, 3, 5])
def test_intrinsic_ends_after_its_turns_whatever_was_said(turns: int) -> None:
    protocol = Intrinsic(PROMPTS["lab"], turns)
    said = [protocol.feedback(PROBLEM, ["1"] * made, []) for made in range(1, turns + 1)]
    assert said == [PROMPTS["lab"].retry] * (turns - 1) + [None]
    assert not protocol.uses_grades
    assert protocol.opening(PROBLEM) == PROMPTS["lab"].opening(PROBLEM)


def test_a_tasks_prompts_by_default_and_by_name() -> None:
    assert prompts_for("lab/sorting") is PROMPTS["lab"]
    assert prompts_for("math") is prompts_for("gsm8k") is PROMPTS["score-math"]
    assert prompts_for("jsonl") is PROMPTS["plain"]
    assert prompts_for("lab/sorting", "boxed") is PROMPTS["boxed"]
    with pytest.raises(UserError, match=r"--prompts boxd: unknown; expected score-math, "):
        prompts_for("math", "boxd")


def test_prompts_of_ones_own_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("first: 'Q: {question}'\nretry: Again.\nstop: [END]\ninstructions: Be brief.\n")
    found = prompts_for("math", str(file))
    assert found == Prompts(str(file), "Q: {question}", "Again.", "Be brief.", stop=("END",))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("first: '{question}'", "field 'retry' with a text is missing"),
        ("first: 3\nretry: Again.", "field 'first' with a text is missing"),
        ("first: Go!\nretry: Again.", "field 'first' has no {question}"),
        ("first: '{question}'\nretry: Again.\nsecond: x", "unknown field 'second'; expected first"),
        ("first: '{question}'\nretry: Again.\ninstructions_as: x", "must be user or system"),
        ("first: '{question}'\nretry: Again.\ninstructions: [x]", "must be a text"),
        ("first: '{question}'\nretry: Again.\nstop: 5", "'stop' must be a text or a list of texts"),
        ("first: '{question}'\nretry: Again.\nstop: ['']", "none empty"),
        ("- a list", "expected `field: value` lines"),
    ],
)
def test_a_file_that_makes_no_prompts(text: str, complaint: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yml"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        prompts_for("math", str(file))
    assert str(caught.value).startswith(str(file))
    assert complaint in str(caught.value)
