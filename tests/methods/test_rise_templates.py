"""What RISE trains on is what the policy saw, on the chat templates of real model families.

The released code trains with another template than it samples with, puts the first message into a
system slot, and on Llama-3 and Qwen masks every label with no more than a warning.
"""

from collections.abc import Sequence

import pytest

from chat_families import FAMILIES, base_tokenizer, chat_tokenizer, sentencepiece_tokenizer
from redraft.chat.prompts import RISE
from redraft.chat.protocols import Oracle
from redraft.chat.rollout import lay_out, rollout
from redraft.engines.base import Failed, Reply, Request, Response, Sampling, Watch
from redraft.engines.template import ChatTemplate
from redraft.learning.imitation import Example, to_rows
from redraft.learning.rows import TrainingRow
from redraft.types import Episode, Grade, Problem, Turn

PROBLEM = Problem(id="p", task="t", question="What is 12 + 30?", gold="42")
SAID = ["12 + 30 = 41.\nAnswer: \\boxed{41}", "Three times 14.\n\nAnswer: \\boxed{43}"]
"""The policy's attempts, both wrong."""
TAUGHT = "Step 1: 12 + 30 = 42.\nAnswer: \\boxed{42}"
"""The teacher's."""

every_family = pytest.mark.parametrize("family", FAMILIES)


class Reciting:
    """An engine that says one text of `said` after another and keeps what it was shown."""

    def __init__(self, template: ChatTemplate, said: Sequence[str] = SAID) -> None:
        self.template, self.said = template, list(said)
        self.shown: list[list[int]] = []

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        reply: Reply | None = None,
        watch: Watch | None = None,
    ) -> list[list[Response | Failed]]:
        [request] = requests
        sequence, made = list(request.tokens), list[Response | Failed]()
        while True:
            self.shown.append(sequence)
            text = self.said[len(self.shown) - 1]
            tokens = self.template.response(text)
            response = Response(text, "stop", tokens, [-1.0] * len(tokens))
            made.append(response)
            more = reply(0, response) if reply is not None else None
            if more is None:
                return [made]
            sequence = [*sequence, *tokens, *more]

    def sync_weights(self, version: str) -> None:
        """It has none."""


def grade(problem: Problem, attempt: str) -> Grade:
    right = "42}" in attempt
    return Grade(score=float(right), answer=attempt[-3:-1], decided_by="string")


def taught_row(template: ChatTemplate) -> tuple[Episode, TrainingRow, list[list[int]]]:
    """An episode of two wrong attempts and a teacher's, its row, and what the engine saw."""
    engine = Reciting(template)
    [rolled] = rollout([PROBLEM], Oracle(RISE, 2), engine, grade, Sampling())
    again = Turn(author="environment", text=RISE.again(PROBLEM))
    teachers = Turn(author="teacher", text=TAUGHT, grade=grade(PROBLEM, TAUGHT))
    turns = [*rolled.turns, again, teachers]
    episode = lay_out(PROBLEM, rolled.messages, turns, template)
    [row] = to_rows([Example(episode=episode, weights=[1.0, 1.0, 12.18])])
    return episode, row, engine.shown


@every_family
def test_training_rows_are_the_sequences_that_the_engine_saw(family: str) -> None:
    """Templates of training and of inference are one: the tokens are the same ones."""
    template = ChatTemplate(chat_tokenizer(family))
    episode, row, shown = taught_row(template)
    assert len(shown) == 2
    for prompt, text in zip(shown, SAID, strict=True):
        seen = [*prompt, *template.response(text)]
        assert row.tokens[: len(seen)].tolist() == seen
    assert row.tokens.tolist() == episode.tokens


@every_family
def test_the_first_message_is_a_user_message_in_training_and_in_inference(family: str) -> None:
    tokenizer = chat_tokenizer(family)
    messages = RISE.opening(PROBLEM)
    assert [message.role for message in messages] == ["user", "assistant", "user"]
    _, row, shown = taught_row(ChatTemplate(tokenizer))
    own = tokenizer.apply_chat_template(
        [message.model_dump() for message in messages], add_generation_prompt=True
    )["input_ids"]
    assert shown[0] == own
    assert row.tokens[: len(own)].tolist() == own


@every_family
def test_the_attempts_and_only_they_carry_loss(family: str) -> None:
    """Decoded, so that an offset by one would be seen."""
    tokenizer = chat_tokenizer(family)
    template = ChatTemplate(tokenizer)
    _, row, _ = taught_row(template)
    assert row.loss_weight is not None
    end_of_turn = tokenizer.decode(template.stop_token_ids[0])
    for number, (text, weight) in enumerate(zip([*SAID, TAUGHT], [1, 1, 12.18], strict=True), 1):
        own = row.tokens[row.turn == number]
        leading = " " if family == "Mistral-v0.3" else ""  # its template puts it there
        assert tokenizer.decode(own) == leading + text + end_of_turn
        assert row.loss_weight[row.turn == number].tolist() == pytest.approx([weight] * len(own))
    assert not row.loss_weight[row.turn == 0].any()
    between = tokenizer.decode(row.tokens[row.turn == 0])
    assert not any(text in between for text in [*SAID, TAUGHT])
    assert between.count("The answer is incorrect. Please try again.") == 2


@pytest.mark.parametrize("kind", ["base", "base-with-bos", "sentencepiece"])
def test_so_it_is_without_a_chat_template(kind: str) -> None:
    tokenizer = {
        "base": lambda: base_tokenizer(),
        "base-with-bos": lambda: base_tokenizer("<s>"),
        "sentencepiece": lambda: sentencepiece_tokenizer(None),
    }[kind]()
    template = ChatTemplate(tokenizer)
    episode, row, shown = taught_row(template)
    assert row.tokens.tolist() == episode.tokens
    assert episode.tokens[: len(shown[1])] == shown[1]
    for number in (1, 2, 3):
        own = row.tokens[row.turn == number].tolist()
        assert own[-1] == tokenizer.eos_token_id
        if kind != "sentencepiece":  # its small alphabet lacks some of the characters
            assert tokenizer.decode(own[:-1]) == [*SAID, TAUGHT][number - 1]


@every_family
@pytest.mark.parametrize("window", [1, 2])
def test_a_window_shows_the_problem_and_the_latest_attempts(family: str, window: int) -> None:
    """The released code's slice `[-0:]` shows the whole history at window 1."""
    template = ChatTemplate(chat_tokenizer(family))
    engine = Reciting(template, said=SAID[:1] * 3)
    [episode] = rollout([PROBLEM], Oracle(RISE, 3), engine, grade, Sampling(), history_turns=window)
    opening = template.start([m.model_dump() for m in RISE.opening(PROBLEM)])
    attempt = template.response(SAID[0])
    again = [*attempt, *template.bridge(attempt, RISE.again(PROBLEM))]
    later = opening if window == 1 else [*opening, *again]
    assert engine.shown == [opening, later, later]
    rows = to_rows([Example(episode=episode, weights=[1.0, 1.0, 1.0])])
    shown = engine.shown[window - 1 :]  # at window 2 the second sequence goes on from the first
    assert [row.tokens.tolist() for row in rows] == [[*seen, *attempt] for seen in shown]
    learned = [row.tokens[row.turn > 0].tolist() for row in rows]
    assert learned == ([attempt] * 3 if window == 1 else [[*attempt, *attempt], attempt])
