"""What is said to a policy: the paper's texts to the letter, and when an episode ends."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from redraft.chat.prompts import PROMPTS, PYTHON, STEPS, Prompts, find_prompts
from redraft.chat.protocols import (
    ChainToProgram,
    Intrinsic,
    Oracle,
    ProgramAlone,
    Protocol,
    Say,
    SelfImprove,
    SelfRefine,
    in_circles,
    stuck,
)
from redraft.errors import UserError
from redraft.types import Grade, Message, Outcome, Problem, Turn

PROBLEM = Problem(id="p", task="t", question="What is {x} if x = 1?", gold="1")
WRONG = Grade(score=0, answer="2", decided_by="string")
RIGHT = Grade(score=1, answer="1", decided_by="string")


def turns(texts: Sequence[str], grade: Grade | None = None) -> list[Turn]:
    """Responses with these texts, all of one grade."""
    return [Turn(author="policy", text=text, grade=grade) for text in texts]


def after(
    protocol: Protocol, *texts: str, grade: Grade | None = None, problem: Problem = PROBLEM
) -> Say | Outcome:
    """What a protocol says after these responses."""
    return protocol.after(problem, turns(texts, grade))


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
        ("I am not sure it is correct.", False),
        ("I doubt that it is correct. Final Answer: The final answer is $4$.", False),
        ("Is there an error? I do not find one. It is correct.", True),
        ("I am not sure it is correct. I add again: 3+4=7. Now it is correct.", True),
        ("It is **correct**: no. **It is correct.** The answer is $7$.", True),
        ("It is correct\nFinal Answer: The final answer is $4$. I hope it is correct.", True),
        ("it is correct that 3+4=7, but step 2 is wrong", False),
        ("It is correct up to step 2, but then wrong.", False),
        ("It is correct, except for step 2.", False),
        ("It is correct, but step 2 is missing.", False),
        ("It is correct? No: 3+4 is 8.", False),
        ("Final Answer: The final answer is $4$. I hope\nit is  correct.", False),
        ("", False),
    ],
)
def test_self_refine_ends_when_a_reply_finds_no_error(reply: str, ends: bool) -> None:
    protocol = SelfRefine(PROMPTS["self-refine"], 4)
    retry = Say(PROMPTS["self-refine"].again(PROBLEM))
    assert after(protocol, "x = 3", reply) == ("confirmed" if ends else retry)
    assert protocol.is_answer(turns(["x = 3", reply])) is not ends


def test_self_refine_never_ends_at_the_first_attempt_and_always_at_the_last() -> None:
    protocol = SelfRefine(PROMPTS["self-refine"], 3)
    assert protocol.opening(PROBLEM) == PROMPTS["self-refine"].opening(PROBLEM)
    retry = Say(PROMPTS["self-refine"].again(PROBLEM))
    assert after(protocol, "x = 1, it is correct") == retry
    assert protocol.is_answer(turns(["x = 1, it is correct"]))
    assert after(protocol, "x = 1, it is correct", "x = 2") == retry
    assert after(protocol, "x = 1", "x = 2", "x = 3") == "finished"
    assert after(protocol, "x = 1", "x = 2", "it is correct") == "confirmed"


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
    said = after(Intrinsic(PROMPTS["rise"], 3), "\\boxed{1}")
    assert said == Say(PROMPTS["rise"].again(PROBLEM))


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
        assert after(protocol, "1", grade=WRONG, problem=odd) == Say(prompts.again(odd))
    assert PROMPTS["lab"].again(odd) == PROMPTS["lab"].retry


@pytest.mark.parametrize("most", [1, 2, 4])
def test_an_oracle_asks_again_after_wrong_answers_until_the_last(most: int) -> None:
    protocol = Oracle(PROMPTS["lab"], most)
    said = [after(protocol, *["2"] * n, grade=WRONG) for n in range(1, most + 1)]
    assert said == [Say(PROMPTS["lab"].retry)] * (most - 1) + ["finished"]
    assert protocol.needs_grades
    assert protocol.opening(PROBLEM) == PROMPTS["lab"].opening(PROBLEM)


def test_an_oracle_ends_with_the_first_right_answer() -> None:
    protocol = Oracle(PROMPTS["rise"], 5)
    assert after(protocol, "1", grade=RIGHT) == "solved"
    both = [*turns(["2"], WRONG), *turns(["1"], RIGHT)]
    assert protocol.after(PROBLEM, both) == "solved"
    assert after(protocol, "2", grade=WRONG) == Say(PROMPTS["rise"].again(PROBLEM))


def test_a_right_last_answer_is_solved_and_not_only_finished() -> None:
    assert after(Oracle(PROMPTS["rise"], 1), "1", grade=RIGHT) == "solved"


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


@pytest.mark.parametrize("most", [1, 2, 3, 5])
def test_intrinsic_ends_after_its_turns_whatever_was_said(most: int) -> None:
    protocol = Intrinsic(PROMPTS["lab"], most)
    said = [after(protocol, *["1"] * made) for made in range(1, most + 1)]
    assert said == [Say(PROMPTS["lab"].retry)] * (most - 1) + ["finished"]
    assert not protocol.needs_grades
    assert protocol.opening(PROBLEM) == PROMPTS["lab"].opening(PROBLEM)


def test_programs_alone_and_after_a_chain() -> None:
    alone, chained = ProgramAlone(PYTHON), ChainToProgram(PROMPTS["boxed"], PYTHON)
    assert alone.opening(PROBLEM) == PYTHON.opening(PROBLEM)
    assert after(alone, "print(1)") == "finished"
    assert chained.opening(PROBLEM) == PROMPTS["boxed"].opening(PROBLEM)
    assert after(chained, "\\boxed{1}") == Say(PYTHON.refine)
    assert after(chained, "\\boxed{1}", "print(1)") == "finished"
    assert (alone.turns, chained.turns) == (1, 2)
    assert all(chained.is_answer(turns(["a"] * n)) for n in (1, 2))


# Self-improvement


def improving(updates: int = 3, oracle: bool = False) -> SelfImprove:
    return SelfImprove(PROMPTS["boxed"], STEPS, updates, oracle)


def test_self_improvement_asks_for_critiques_and_updates_by_turns() -> None:
    protocol = improving()
    assert after(protocol, "a") == Say(STEPS.feedback, keep=1)
    assert after(protocol, "a", "Step (1) is wrong.") == Say(STEPS.update, keep=2)
    assert after(protocol, "a", "Step (1) is wrong.", "b") == Say(STEPS.feedback, keep=1)
    assert after(protocol, "a", STEPS.confirmation) == "confirmed"
    answers = [protocol.is_answer(turns(["a"] * n)) for n in range(1, 6)]
    assert answers == [True, False, True, False, True]
    assert not protocol.needs_grades
    assert (protocol.name, improving(oracle=True).name) == ("self-improve", "self-improve-oracle")


def test_self_improvement_ends_after_its_updates() -> None:
    assert after(improving(2), "a", "x", "b", "x", "c") == "finished"
    assert after(improving(0), "a") == "finished"
    assert (improving(2).turns, improving(0).turns) == (5, 1)


def test_an_oracle_ends_a_self_improvement_at_a_right_answer() -> None:
    protocol = improving(oracle=True)
    assert protocol.needs_grades
    assert after(protocol, "a", grade=RIGHT) == "solved"
    assert after(protocol, "a", "x", "b", grade=RIGHT) == "solved"
    assert after(protocol, "a", grade=WRONG) == Say(STEPS.feedback, keep=1)
    assert after(improving(), "a", grade=RIGHT) == Say(STEPS.feedback, keep=1)


def test_of_several_reasons_stuck_comes_before_the_limit_and_the_limit_before_the_oracle() -> None:
    protocol = improving(1, oracle=True)
    assert after(protocol, "a", "x", "a", grade=RIGHT) == "unchanged"
    assert after(protocol, "a", "x", "b", grade=RIGHT) == "finished"
    assert after(improving(0, oracle=True), "a", grade=RIGHT) == "finished"
    assert after(improving(2, oracle=True), "a", "x", "b", grade=RIGHT) == "solved"


def test_an_update_without_progress_ends_it() -> None:
    assert after(improving(), "so\n1", "x", "hence\n1 ") == "unchanged"
    assert after(improving(), "1", "x", "no no no no no") == "repetitive"


@pytest.mark.parametrize(
    ("text", "circles"),
    [
        ("(1) A = 2\n(15) B = 3", False),
        ("(1) A = 2\n(16) B = 3", True),
        ("(3.2.1) fine", False),
        ("go go go go go", True),
        ("go go go go", False),
        ("abcabc" * 10, True),
        ("x = 1 ; " * 10, True),
        ("The quick brown fox jumps over the lazy dog, and then it sleeps.", False),
        ("qwertyuiopasdfghjklzxcvbnm" * 2, True),
        ("", False),
    ],
)
def test_loops_are_recognised(text: str, circles: bool) -> None:
    assert in_circles(text) is circles


def test_an_update_that_was_cut_off_ends_it() -> None:
    before, update = turns(["a", "b"])
    assert stuck(before, update) is None
    assert stuck(before, update.model_copy(update={"finish": "length"})) == "truncated"


def test_confirmation_is_read_from_the_last_line() -> None:
    assert STEPS.confirms("All steps are correct. The final response is also correct.")
    assert STEPS.confirms("Looked at it.\nThe final  response is ALSO correct")
    assert not STEPS.confirms("The final response is also correct.\nNo, step 2 is wrong.")
    assert not STEPS.confirms("Fine. I do not think that the final response is also correct.")
    assert STEPS.confirms("I do not see a mistake. The final response is also correct.")
    assert not STEPS.confirms("The final response is also correct? No.")
    assert not STEPS.confirms("")


# Prefill


def test_answers_are_opened_and_critiques_and_programs_are_not() -> None:
    opened = Prompts("opened", "{question}", "Again.", prefill="```")
    made = [turns(["x"] * count) for count in range(3)]
    for protocol, expected in (
        (Intrinsic(opened, 3), ["```", "```", "```"]),
        (Oracle(opened, 3), ["```", "```", "```"]),
        (SelfRefine(opened, 3), ["```", "", ""]),
        (SelfImprove(opened, STEPS), ["```", "", "```"]),
        (ChainToProgram(opened, PYTHON), ["```", "", ""]),
        (ProgramAlone(PYTHON), ["", "", ""]),
    ):
        assert [protocol.prefill(responses) for responses in made] == expected


# Prompts by name and from files


def test_prompts_by_name() -> None:
    assert find_prompts("boxed") is PROMPTS["boxed"]
    with pytest.raises(UserError, match="boxd"):
        find_prompts("boxd")


def test_prompts_of_ones_own_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "first: 'Q: {question}'\nretry: Again.\nstop: [END]\ninstructions: Be brief.\nprefill: 'A:'"
    )
    found = find_prompts(str(file))
    expected = Prompts(str(file), "Q: {question}", "Again.", "Be brief.", "user", "A:", ("END",))
    assert found == expected


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("first: '{question}'", "field 'retry' with a text is missing"),
        ("first: 3\nretry: Again.", "field 'first' with a text is missing"),
        ("first: Go!\nretry: Again.", "field 'first' has no {question}"),
        ("first: '{question}'\nretry: Again.\nsecond: x", "unknown field 'second'; expected first"),
        ("first: '{question}'\nretry: Again.\ninstructions_as: x", "must be user or system"),
        ("first: '{question}'\nretry: Again.\ninstructions: [x]", "must be a text"),
        ("first: '{question}'\nretry: Again.\nprefill: 1", "'prefill' must be a text"),
        ("first: '{question}'\nretry: Again.\nstop: 5", "'stop' must be a text or a list of texts"),
        ("first: '{question}'\nretry: Again.\nstop: ['']", "none empty"),
        ("- a list", "expected `field: value` lines"),
    ],
)
def test_a_file_that_makes_no_prompts(text: str, complaint: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yml"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        find_prompts(str(file))
    assert str(caught.value).startswith(str(file))
    assert complaint in str(caught.value)
