"""What RISE trains on is what the policy saw, on the chat templates of real model families.

The released code trains with another template than it samples with, puts the first message into a
system slot, and on Llama-3 and Qwen masks every label with no more than a warning.
"""

from collections.abc import Callable, Sequence

import pytest

from chat_families import FAMILIES, base_tokenizer, chat_tokenizer, sentencepiece_tokenizer
from redraft.credit.imitation import Example, to_rows
from redraft.dialogue import Dialogue
from redraft.engines import Sample, Sampling
from redraft.engines.base import Reply
from redraft.episode import Episode, Grade, Problem, Turn
from redraft.learning import TokenStreams
from redraft.protocols import PROMPTS, Oracle
from redraft.rollout import rollout

PROBLEM = Problem(id="p", task="t", question="What is 12 + 30?", gold="42")
SAID = ["12 + 30 = 41.\nAnswer: \\boxed{41}", "Three times 14.\n\nAnswer: \\boxed{43}"]
"""The policy's attempts, both wrong."""
TAUGHT = "Step 1: 12 + 30 = 42.\nAnswer: \\boxed{42}"
"""The teacher's."""

every_family = pytest.mark.parametrize("family", FAMILIES)


class Reciting:
    """An engine that says `SAID` and keeps every sequence it was shown."""

    def __init__(self, dialogue: Dialogue, said: Sequence[str] = SAID) -> None:
        self.dialogue, self.said = dialogue, said
        self.shown: list[list[int]] = []

    def converse(
        self,
        prompts: Sequence[Sequence[int]],
        reply: Reply,
        sampling: Sampling,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Sample]]:
        played = []
        for row, prompt in enumerate(prompts):
            sequence, made = list(prompt), list[Sample]()
            for text in self.said:
                self.shown.append(sequence)
                tokens = self.dialogue.attempt(text)
                made.append(Sample(tokens, [-1.0] * len(tokens), text, "stop"))
                more = reply(row, made)
                if more is None:
                    break
                sequence = [*sequence, *tokens, *more]
            played.append(made)
        return played


def grade(problem: Problem, attempt: str) -> Grade:
    correct = "42}" in attempt
    return Grade(correct=correct, answer=attempt[-3:-1], decided_by="string")


def play(dialogue: Dialogue, engine: Reciting, turns: int, given: Sequence[Turn] = ()) -> Episode:
    protocol = Oracle(PROMPTS["rise"], turns)
    [episode] = rollout(
        [PROBLEM], protocol, engine, dialogue, grade, Sampling(), given=[list(given)]
    )
    return episode


def taught_row(dialogue: Dialogue) -> tuple[Episode, TokenStreams, list[list[int]]]:
    """An episode of two wrong attempts and a teacher's, its row, and what the engine saw."""
    engine = Reciting(dialogue)
    rolled = play(dialogue, engine, 2)
    teacher = Turn(
        attempt=TAUGHT,
        finish="stop",
        grade=grade(PROBLEM, TAUGHT),
        attempt_tokens=dialogue.attempt(TAUGHT),
        on_policy=False,
    )
    episode = play(dialogue, engine, 3, given=[*rolled.turns, teacher])
    [row] = to_rows([Example(episode=episode, weights=[1.0, 1.0, 12.18])])
    return episode, row, engine.shown


@every_family
def test_training_rows_are_the_sequences_that_the_engine_saw(family: str) -> None:
    """Templates of training and of inference are one: the tokens are the same ones."""
    dialogue = Dialogue(chat_tokenizer(family))
    episode, row, shown = taught_row(dialogue)
    assert len(shown) == 2
    for prompt, text in zip(shown, SAID, strict=True):
        seen = [*prompt, *dialogue.attempt(text)]
        assert row.tokens[: len(seen)].tolist() == seen
    assert row.tokens.tolist() == episode.tokens


@every_family
def test_the_first_message_is_a_user_message_in_training_and_in_inference(family: str) -> None:
    tokenizer = chat_tokenizer(family)
    messages = PROMPTS["rise"].opening(PROBLEM)
    assert [message.role for message in messages] == ["user", "assistant", "user"]
    _, row, shown = taught_row(Dialogue(tokenizer))
    own = tokenizer.apply_chat_template(
        [message.model_dump() for message in messages], add_generation_prompt=True
    )["input_ids"]
    assert shown[0] == own
    assert row.tokens[: len(own)].tolist() == own


@every_family
def test_the_attempts_and_only_they_carry_loss(family: str) -> None:
    """Decoded, so that an offset by one would be seen."""
    tokenizer = chat_tokenizer(family)
    dialogue = Dialogue(tokenizer)
    _, row, _ = taught_row(dialogue)
    assert row.loss_weight is not None
    end_of_turn = tokenizer.decode(dialogue.stop_token_ids[0])
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
    dialogue = Dialogue(tokenizer)
    episode, row, shown = taught_row(dialogue)
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
    dialogue = Dialogue(chat_tokenizer(family))
    engine = Reciting(dialogue, said=SAID[:1])
    [episode] = rollout(
        [PROBLEM],
        Oracle(PROMPTS["rise"], 3),
        engine,
        dialogue,
        grade,
        Sampling(),
        window=window,
    )
    opening = dialogue.start([m.model_dump() for m in PROMPTS["rise"].opening(PROBLEM)])
    attempt = dialogue.attempt(SAID[0])
    again = [*attempt, *dialogue.bridge(attempt, PROMPTS["rise"].again(PROBLEM))]
    later = opening if window == 1 else [*opening, *again]
    assert engine.shown == [opening, later, later]
    rows = to_rows([Example(episode=episode, weights=[1.0, 1.0, 1.0])])
    assert [row.tokens.tolist() for row in rows] == [[*seen, *attempt] for seen in engine.shown]
