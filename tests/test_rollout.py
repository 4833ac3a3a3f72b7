"""Rollout with a real engine: what an episode holds, and who gets to know what."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from guessing_model import guessing_llama
from redraft.dialogue import Dialogue
from redraft.engines import Sampling
from redraft.engines.local import LocalEngine
from redraft.episode import Episode, Grade, Message, Problem, Turn
from redraft.errors import UserError
from redraft.grading import ExactGrader
from redraft.protocols import PROMPTS, Intrinsic, Protocol
from redraft.rollout import rollout
from tiny_models import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
MODEL = guessing_llama(TOKENIZER)
DIALOGUE = Dialogue(TOKENIZER)
PROBLEMS = [
    Problem(id=f"p{index}", task="t", question=f"{index}+1?", gold=gold)
    for index, gold in enumerate("121")
]
SAMPLING = Sampling(max_tokens=4, seed=3)
SAMPLES = 6
RETRY = PROMPTS["lab"].retry


def play(
    protocol: Protocol,
    *,
    sampling: Sampling = SAMPLING,
    samples: int = SAMPLES,
    given: Sequence[Sequence[Turn]] | None = None,
    window: int | None = None,
) -> list[Episode]:
    return rollout(
        PROBLEMS,
        protocol,
        LocalEngine(MODEL, TOKENIZER),
        DIALOGUE,
        ExactGrader(),
        sampling,
        samples=samples,
        policy="tiny",
        given=given,
        window=window,
    )


@dataclass
class Oracle:
    """Says when an attempt is wrong, and stops when one is right."""

    turns: int = 3
    uses_grades: bool = True
    seen: list[list[bool]] = field(default_factory=list)
    name: str = "oracle"

    def opening(self, problem: Problem) -> list[Message]:
        return [Message(role="user", content=problem.question)]

    def feedback(
        self, problem: Problem, attempts: Sequence[str], grades: Sequence[Grade]
    ) -> str | None:
        self.seen.append([grade.correct for grade in grades])
        if grades and grades[-1].correct:
            return None
        return "Wrong." if len(attempts) < self.turns else None


@pytest.fixture(scope="module", params=[2, 3])
def episodes(request: pytest.FixtureRequest) -> list[Episode]:
    """Intrinsic episodes of two, and of three attempts."""
    return play(Intrinsic(PROMPTS["lab"], request.param))


def test_neighbours_are_the_samples_of_one_problem(episodes: list[Episode]) -> None:
    assert [episode.problem.id for episode in episodes] == [
        problem.id for problem in PROBLEMS for _ in range(SAMPLES)
    ]
    assert [episode.sample for episode in episodes] == list(range(SAMPLES)) * len(PROBLEMS)
    assert {episode.protocol for episode in episodes} == {"intrinsic"}
    assert {episode.policy for episode in episodes} == {"tiny"}


def test_tokens_are_what_dialogue_gives_for_what_was_sampled(episodes: list[Episode]) -> None:
    for episode in episodes:
        assert len(episode.turns) in (2, 3)
        tokens = DIALOGUE.start([message.model_dump() for message in episode.messages])
        for index, turn in enumerate(episode.turns):
            if index:
                tokens += DIALOGUE.bridge(episode.turns[index - 1].attempt_tokens, RETRY)
            tokens += turn.attempt_tokens
            assert turn.attempt == DIALOGUE.decode(turn.attempt_tokens)
        assert episode.tokens == tokens


def test_every_attempt_but_the_last_is_followed_by_the_retry_text(episodes: list[Episode]) -> None:
    for episode in episodes:
        *earlier, last = [turn.feedback for turn in episode.turns]
        assert earlier == [RETRY] * len(earlier)
        assert last is None


def test_grades_are_those_of_the_grader(episodes: list[Episode]) -> None:
    turns = [(episode.problem, turn) for episode in episodes for turn in episode.turns]
    assert {turn.truncated for _, turn in turns} == {True, False}
    assert {turn.grade.correct for _, turn in turns} == {True, False}
    for problem, turn in turns:
        if not turn.truncated:
            assert turn.grade == ExactGrader()(problem, turn.attempt)


def test_a_truncated_attempt_is_wrong_whatever_it_says() -> None:
    """The attempt `1` is right, and wrong when it had no room to end."""
    cut = play(Intrinsic(PROMPTS["lab"]), sampling=Sampling(max_tokens=1, seed=3))
    right = [
        turn
        for episode in cut
        for turn in episode.turns
        if turn.truncated and turn.attempt == episode.problem.gold
    ]
    assert right
    for turn in right:
        assert not turn.grade.correct
        assert turn.grade.decided_by == "truncated"


def test_the_same_seed_gives_the_same_episodes_and_another_gives_others() -> None:
    protocol = Intrinsic(PROMPTS["lab"])
    first = play(protocol)
    assert play(protocol) == first
    other = play(protocol, sampling=Sampling(max_tokens=4, seed=4))
    assert [episode.tokens for episode in other] != [episode.tokens for episode in first]


# Who knows what


def test_a_protocol_that_uses_grades_gets_them_and_ends_the_episode() -> None:
    oracle = Oracle()
    episodes = play(oracle, samples=16)
    assert {len(episode.turns) for episode in episodes} == {1, 2, 3}
    for episode in episodes:
        *earlier, last = episode.correct
        assert not any(earlier)
        assert last or len(episode.turns) == 3
    told = [
        tuple(episode.correct[:made])
        for episode in episodes
        for made in range(1, len(episode.turns) + 1)
    ]
    assert sorted(map(tuple, oracle.seen)) == sorted(told)


def test_a_protocol_that_does_not_use_grades_never_sees_one() -> None:
    blind = Oracle(uses_grades=False)
    episodes = play(blind)
    assert blind.seen == [[]] * len(episodes) * 3
    assert any(episode.correct[0] for episode in episodes)


# Turns made before, or by somebody else


def first_turns(*, on_policy: bool) -> list[list[Turn]]:
    made = play(Intrinsic(PROMPTS["lab"], 1))
    told = {"on_policy": on_policy, "source": "somebody", "completion_tokens": 7}
    return [[e.turns[0].model_copy(update=told)] for e in made]


def test_given_turns_are_kept_as_they_are() -> None:
    given = first_turns(on_policy=False)
    mixed = [[] if index % 3 == 0 else turns for index, turns in enumerate(given)]
    episodes = play(Intrinsic(PROMPTS["lab"]), sampling=Sampling(max_tokens=4, seed=9), given=mixed)
    for episode, turns in zip(episodes, mixed, strict=True):
        first, second = episode.turns
        assert first.on_policy == (not turns)
        assert second.on_policy
        assert first.prompt_tokens == DIALOGUE.start([m.model_dump() for m in episode.messages])
        assert second.prompt_tokens == DIALOGUE.bridge(first.attempt_tokens, RETRY)
        if turns:
            new = {"feedback", "prompt_tokens"}
            assert first.model_dump(exclude=new) == turns[0].model_dump(exclude=new)


def test_the_policys_own_earlier_turns_stay_its_own() -> None:
    whole = play(Intrinsic(PROMPTS["lab"], 3))
    again = play(Intrinsic(PROMPTS["lab"], 3), given=[episode.turns for episode in whole])
    assert again == whole


def test_an_oracle_hears_of_given_attempts_too() -> None:
    given = first_turns(on_policy=False)
    episodes = play(Oracle(), given=given)
    for episode, [turn] in zip(episodes, given, strict=True):
        assert (len(episode.turns) == 1) == turn.grade.correct
        assert not episode.turns[0].on_policy
        assert all(later.on_policy for later in episode.turns[1:])


def test_given_turns_for_every_episode_or_for_none_at_all() -> None:
    with pytest.raises(ValueError, match="zip"):
        play(Intrinsic(PROMPTS["lab"]), given=[[]])


def test_a_dialogue_that_outgrows_the_models_window_names_its_problem() -> None:
    window = MODEL.config.max_position_embeddings
    long = Problem(id="endless", task="t", question="1+" * window, gold="1")
    for seen in (None, 2):
        with pytest.raises(
            UserError, match=f"^problem endless: a context of .* window of {window}"
        ):
            rollout(
                [*PROBLEMS, long],
                Intrinsic(PROMPTS["lab"]),
                LocalEngine(MODEL, TOKENIZER),
                DIALOGUE,
                ExactGrader(),
                SAMPLING,
                window=seen,
            )


# Windows


@pytest.mark.parametrize("window", [1, 2, 3, 9])
def test_a_window_shows_the_problem_and_the_latest_attempts(window: int) -> None:
    for episode in play(Intrinsic(PROMPTS["lab"], 4), window=window):
        start = DIALOGUE.start([message.model_dump() for message in episode.messages])
        assert episode.window == window
        assert len(episode.turns) == 4
        for number, turn in enumerate(episode.turns):
            latest = episode.turns[max(0, number - (window - 1)) : number]
            said = [t for e in latest for t in DIALOGUE.bridge(e.attempt_tokens, RETRY)]
            assert turn.prompt_tokens[: len(start)] == start
            assert len(turn.prompt_tokens) == len(start) + len(said) + sum(
                len(e.attempt_tokens) for e in latest
            )
            if window == 1:
                assert turn.prompt_tokens == start
            if latest:
                assert turn.prompt_tokens[len(start) :][: len(latest[0].attempt_tokens)] == (
                    latest[0].attempt_tokens
                )


def test_a_window_as_long_as_the_episode_hides_nothing() -> None:
    greedy = Sampling(max_tokens=4, temperature=0)
    protocol = Intrinsic(PROMPTS["lab"], 3)
    seen = play(protocol, sampling=greedy, samples=1)
    windowed = play(protocol, sampling=greedy, samples=1, window=3)
    for one, other in zip(seen, windowed, strict=True):
        assert [turn.attempt for turn in one.turns] == [turn.attempt for turn in other.turns]
        last = other.turns[-1]
        assert one.tokens == [*last.prompt_tokens, *last.attempt_tokens]
        with pytest.raises(ValueError, match="not one sequence"):
            _ = other.tokens


def test_rounds_of_a_window_have_random_numbers_of_their_own() -> None:
    episodes = play(Intrinsic(PROMPTS["lab"], 4), window=1)
    assert any(len({turn.attempt for turn in episode.turns}) > 1 for episode in episodes)


def test_an_oracle_stops_a_windowed_episode_too() -> None:
    for episode in play(Oracle(), window=2):
        assert not any(episode.correct[:-1])
        assert episode.correct[-1] or len(episode.turns) == 3
