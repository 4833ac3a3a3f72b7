"""Rollout: what an episode holds, who gets to know what, and what is asked of engine and grader."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from guessing_model import guessing_llama
from redraft.chat.prompts import PROMPTS, ImprovementPrompts, Prompts
from redraft.chat.protocols import Intrinsic, Protocol, Say, SelfImprove, Wait
from redraft.chat.protocols import Oracle as RealOracle
from redraft.chat.rollout import lay_out, rollout
from redraft.engines import Failed, Reply, Request, Response, Sampling, Watch
from redraft.engines.local import LocalEngine
from redraft.engines.scripted import ScriptedEngine
from redraft.engines.template import ChatTemplate
from redraft.errors import UserError
from redraft.grading import ExactGrader, Grader, grade_all
from redraft.learning.credit import advantage_rows
from redraft.learning.imitation import Example, to_rows
from redraft.learning.rows import sequences
from redraft.types import Episode, Grade, Message, Outcome, Problem, Turn, without_failed
from tiny_models import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
MODEL = guessing_llama(TOKENIZER)
TEMPLATE = ChatTemplate(TOKENIZER)
WINDOW = MODEL.config.max_position_embeddings
PROBLEMS = [
    Problem(id=f"p{index}", task="t", question=f"{index}+1?", gold=gold)
    for index, gold in enumerate("121")
]
LONG = Problem(id="endless", task="t", question="1+" * WINDOW, gold="1")
SAMPLING = Sampling(max_tokens=4, seed=3)
SAMPLES = 6
RETRY = PROMPTS["lab"].retry
SHORT = Prompts("short", "{question}", "Again.")
BRIEF = ImprovementPrompts("brief", "Check.", "Update.", "right", "right")


def play(protocol: Protocol, **changes: Any) -> list[Episode]:
    """A rollout of the guessing model."""
    arguments: dict[str, Any] = {
        "problems": PROBLEMS,
        "engine": LocalEngine(MODEL, TEMPLATE),
        "grader": ExactGrader(),
        "sampling": SAMPLING,
        "samples": SAMPLES,
        "policy": "tiny",
    }
    return rollout(protocol=protocol, **{**arguments, **changes})


def alike(some: Sequence[Episode], others: Sequence[Episode]) -> bool:
    """Whether episodes are equal but for the rounding of log-probabilities, which depends on how
    many rows a batch has."""

    def split(episodes: Sequence[Episode]) -> tuple[list[dict[str, Any]], list[float]]:
        dumped = [episode.model_dump() for episode in episodes]
        turns = [turn for values in dumped for turn in values["turns"]]
        return dumped, [logprob for turn in turns for logprob in turn.pop("logprobs")]

    (values, logprobs), (other_values, other_logprobs) = split(some), split(others)
    return values == other_values and logprobs == pytest.approx(other_logprobs, abs=1e-4)


Script = Callable[[Request, int], str | Failed]


@dataclass
class TokenScript:
    """An engine of tokens whose responses a function of the request and the response's number
    gives; remembers what it was asked, with the tokens before every response."""

    script: Script
    window: int = 100_000
    finish: Literal["stop", "length"] = "stop"
    template: ChatTemplate = TEMPLATE
    requests: list[Request] = field(default_factory=list)
    asked: dict[tuple[str, int, int], list[int]] = field(default_factory=dict)

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        reply: Reply | None = None,
        watch: Watch | None = None,
    ) -> list[list[Response | Failed]]:
        self.requests += requests
        return [self._row(row, request, reply) for row, request in enumerate(requests)]

    def _row(self, row: int, request: Request, reply: Reply | None) -> list[Response | Failed]:
        responses: list[Response | Failed] = []
        tokens: list[int] = list(request.tokens)
        number = request.turn
        while True:
            if len(tokens) > self.window:
                return [*responses, Failed("too long", context_full=True)]
            said = self.script(request, number)
            if isinstance(said, Failed):
                return [*responses, said]
            self.asked[request.problem, request.sample, number] = list(tokens)
            ids = self.template.response(said)
            responses.append(Response(said, self.finish, ids, [-1.0] * len(ids)))
            more = reply(row, responses[-1]) if reply else None
            if more is None:
                return responses
            tokens, number = [*tokens, *ids, *more], number + 1

    def sync_weights(self, version: str) -> None:
        pass


def lines(*texts: str) -> Script:
    """The response with this number, for every problem."""
    return lambda request, number: texts[number]


@dataclass
class Oracle:
    """Says when an answer is wrong, and stops when one is right."""

    turns: int = 3
    needs_grades: bool = True
    seen: list[list[Grade | None]] = field(default_factory=list)
    name: str = "oracle"

    def opening(self, problem: Problem) -> list[Message]:
        return [Message(role="user", content=problem.question)]

    def prefill(self, responses: Sequence[Turn]) -> str:
        return ""

    def after(self, problem: Problem, responses: Sequence[Turn]) -> Say | Outcome:
        self.seen.append([turn.grade for turn in responses])
        if (grade := responses[-1].grade) and grade.correct:
            return "solved"
        return Say("Wrong.") if len(responses) < self.turns else "finished"

    def is_answer(self, responses: Sequence[Turn]) -> bool:
        return True


@dataclass
class CountingGrader:
    """Notes in `events` when it is asked."""

    events: list[str]

    def __call__(self, problem: Problem, attempt: str) -> Grade:
        self.events.append("grade")
        return ExactGrader()(problem, attempt)


# One sequence


@pytest.fixture(scope="module", params=[2, 3])
def episodes(request: pytest.FixtureRequest) -> list[Episode]:
    """Intrinsic episodes of two, and of three responses."""
    return play(Intrinsic(PROMPTS["lab"], request.param))


def test_neighbours_are_the_samples_of_one_problem(episodes: list[Episode]) -> None:
    assert [episode.problem.id for episode in episodes] == [
        problem.id for problem in PROBLEMS for _ in range(SAMPLES)
    ]
    assert [episode.sample for episode in episodes] == list(range(SAMPLES)) * len(PROBLEMS)
    assert {episode.protocol for episode in episodes} == {"intrinsic"}
    assert {episode.policy for episode in episodes} == {"tiny"}
    assert {episode.outcome for episode in episodes} == {"finished"}


def test_tokens_are_what_the_template_gives_for_what_was_sampled(episodes: list[Episode]) -> None:
    for episode in episodes:
        assert len(episode.responses) in (2, 3)
        tokens = TEMPLATE.start([message.model_dump() for message in episode.messages])
        assert episode.prompt_tokens == tokens
        for index, turn in enumerate(episode.responses):
            if index:
                tokens += TEMPLATE.bridge(episode.responses[index - 1].tokens, RETRY)
            tokens += turn.tokens
            assert turn.text == TEMPLATE.decode(turn.tokens)
            assert turn.sampled
        assert episode.tokens == tokens


def test_every_response_but_the_last_is_followed_by_the_retry_text(
    episodes: list[Episode],
) -> None:
    for episode in episodes:
        *earlier, last = [episode.said_after(i) for i in range(len(episode.responses))]
        assert earlier == [RETRY] * len(earlier)
        assert last is None
        authors = [turn.author for turn in episode.turns]
        assert authors == ["policy", "environment"] * len(earlier) + ["policy"]


def test_grades_are_those_of_the_grader(episodes: list[Episode]) -> None:
    turns = [(episode.problem, turn) for episode in episodes for turn in episode.responses]
    assert {turn.truncated for _, turn in turns} == {True, False}
    assert {turn.grade.correct for _, turn in turns if turn.grade} == {True, False}
    for problem, turn in turns:
        if not turn.truncated:
            assert turn.grade == ExactGrader()(problem, turn.text)
    assert all(t.grade is None for e in episodes for t in e.turns if t.author == "environment")


def test_a_truncated_response_is_wrong_whatever_it_says() -> None:
    """The response `1` is right, and wrong when it had no room to end."""
    cut = play(Intrinsic(PROMPTS["lab"]), sampling=Sampling(max_tokens=1, seed=3))
    right = [
        turn
        for episode in cut
        for turn in episode.responses
        if turn.truncated and turn.text == episode.problem.gold
    ]
    assert right
    for turn in right:
        assert turn.grade is not None
        assert (turn.grade.correct, turn.grade.status) == (False, "truncated")


def test_the_same_seed_gives_the_same_episodes_and_another_gives_others() -> None:
    protocol = Intrinsic(PROMPTS["lab"])
    first = play(protocol)
    assert play(protocol) == first
    other = play(protocol, sampling=Sampling(max_tokens=4, seed=4))
    assert [episode.tokens for episode in other] != [episode.tokens for episode in first]


def test_a_token_engine_is_asked_once_where_nothing_has_to_happen_in_between() -> None:
    engine = TokenScript(lines("a", "b", "c"))
    play(Intrinsic(SHORT, 3), engine=engine)
    assert len(engine.requests) == len(PROBLEMS) * SAMPLES


def test_each_response_is_decoded_by_the_engine_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> str:
        raise AssertionError("rollout decodes")

    monkeypatch.setattr(ChatTemplate, "decode", refuse)
    episodes = play(RealOracle(SHORT, 3), engine=TokenScript(lines("a", "b", "1")))
    assert episodes[0].correct == [False, False, True]
    lay_out(PROBLEMS[0], episodes[0].messages, episodes[0].turns, TEMPLATE)


def test_the_opening_is_put_into_tokens_once_for_all_samples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started = Counter[str]()
    start = ChatTemplate.start

    def counted(self: ChatTemplate, messages: Sequence[dict[str, str]]) -> list[int]:
        started[messages[0]["content"]] += 1
        return start(self, messages)

    monkeypatch.setattr(ChatTemplate, "start", counted)
    play(Intrinsic(SHORT), engine=TokenScript(lines("a", "b")))
    assert set(started.values()) == {1}


def test_responses_are_reported_while_they_are_under_way() -> None:
    told: list[tuple[int, int]] = []
    episodes = play(Intrinsic(SHORT), watch=lambda *counts: told.append(counts))
    responses = [turn for episode in episodes for turn in episode.responses]
    assert sum(count for _, count in told) == len(responses)
    assert sum(tokens for tokens, _ in told) == sum(len(turn.tokens) for turn in responses)


@pytest.mark.parametrize("text_only", [False, True])
def test_responses_are_followed_and_an_episode_can_be_given_up(text_only: bool) -> None:
    told: dict[tuple[int, int], str] = {}

    def follow(episode: int, response: int, read: Callable[[], str], whole: bool) -> bool:
        if whole:
            told[episode, response] = read()
        return (episode, response) != (1, 0)

    arguments: dict[str, Any] = {"samples": 1, "follow": follow}
    if text_only:
        arguments["engine"] = ScriptedEngine(lambda messages: f"{len(messages)}")
    episodes = play(Intrinsic(SHORT), **arguments)
    assert [one.outcome for one in episodes] == ["finished", "failed", "finished"]
    assert [len(one.responses) for one in episodes] == [2, 1, 2]
    assert told == {
        (place, number): turn.text
        for place, episode in enumerate(episodes)
        for number, turn in enumerate(episode.responses)
    }


# Problems more than once, samples, and what a draw depends on


def test_a_problem_that_is_listed_again_goes_on_with_its_samples() -> None:
    listed = [PROBLEMS[0], PROBLEMS[1], PROBLEMS[0]]
    episodes = play(Intrinsic(SHORT, 1), problems=listed, samples=2)
    assert [(e.problem.id, e.sample) for e in episodes] == [
        ("p0", 0),
        ("p0", 1),
        ("p1", 0),
        ("p1", 1),
        ("p0", 2),
        ("p0", 3),
    ]
    again = play(Intrinsic(SHORT, 1), problems=[PROBLEMS[0]], samples=4)
    assert alike([e for e in episodes if e.problem.id == "p0"], again)


@pytest.mark.parametrize("history_turns", [None, 1])
def test_what_is_drawn_does_not_depend_on_the_grouping(history_turns: int | None) -> None:
    protocol = Intrinsic(PROMPTS["lab"], 3)
    whole = play(protocol, history_turns=history_turns)
    one_by_one = [
        episode
        for problem in PROBLEMS
        for episode in play(protocol, problems=[problem], history_turns=history_turns)
    ]
    assert alike(one_by_one, whole)
    fewer = play(protocol, samples=2, history_turns=history_turns)
    assert alike(fewer, [episode for episode in whole if episode.sample < 2])


def test_requests_name_problem_sample_and_turn() -> None:
    def keys(problems: Sequence[Problem]) -> list[tuple[str, int, int]]:
        engine = TokenScript(lines("a", "b", "1"))
        play(Oracle(), problems=problems, engine=engine, samples=2)
        return [(r.problem, r.sample, r.turn) for r in engine.requests]

    whole = keys(PROBLEMS)
    assert sorted(whole) == sorted(key for problem in PROBLEMS for key in keys([problem]))
    assert set(whole) == {
        (p.id, sample, turn) for p in PROBLEMS for sample in range(2) for turn in range(3)
    }


def test_no_problems_no_episodes() -> None:
    assert play(Intrinsic(SHORT), problems=[]) == []
    assert play(Intrinsic(SHORT), problems=[], given=[]) == []
    assert play(Intrinsic(SHORT), samples=0) == []


# Who knows what


def test_a_protocol_that_needs_grades_gets_them_and_ends_the_episode() -> None:
    oracle = Oracle()
    episodes = play(oracle, samples=16)
    assert {len(episode.responses) for episode in episodes} == {1, 2, 3}
    for episode in episodes:
        *earlier, last = episode.correct
        assert not any(earlier)
        assert last or len(episode.responses) == 3
        assert episode.outcome == ("solved" if last else "finished")
    told = [
        tuple(episode.correct[:made])
        for episode in episodes
        for made in range(1, len(episode.responses) + 1)
    ]
    seen = [tuple(grade.correct for grade in grades if grade) for grades in oracle.seen]
    assert sorted(seen) == sorted(told)


def test_a_protocol_that_does_not_need_grades_never_sees_one() -> None:
    blind = Oracle(needs_grades=False)
    episodes = play(blind, engine=TokenScript(lines("1", "2", "1")))
    assert {grade for grades in blind.seen for grade in grades} == {None}
    assert {tuple(e.correct) for e in episodes} == {(True, False, True), (False, True, False)}


@pytest.mark.parametrize("text", [False, True])
def test_a_protocol_does_not_see_the_grades_of_given_turns_either(text: bool) -> None:
    right = Turn(author="teacher", text="1", grade=Grade(score=1, decided_by="string"))
    blind = Oracle(needs_grades=False)
    engine = ScriptedEngine(lambda messages: "2") if text else TokenScript(lines("", "2", "2"))
    episodes = play(blind, given=[[right]] * 3, samples=1, engine=engine)
    assert {grade for grades in blind.seen for grade in grades} == {None}
    assert [len(episode.responses) for episode in episodes] == [3, 3, 3]
    assert all(episode.grades[0] == right.grade for episode in episodes)


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many answers were given to the grader together, each time that any were."""
    sizes: list[int] = []

    def counted(grader: Grader, attempts: Sequence[Any], *more: Any) -> list[Grade]:
        sizes.append(len(attempts))
        return grade_all(grader, attempts, *more)

    monkeypatch.setattr("redraft.chat.rollout.grade_all", counted)
    return sizes


@pytest.mark.parametrize("text", [False, True])
def test_grading_on_the_way_waits_for_all_responses_of_a_round(
    text: bool, batches: list[int]
) -> None:
    """Eight episodes, three rounds: eight responses, then eight grades together, and so on."""
    events: list[str] = []
    said = iter(["2"] * 100)

    def respond(*_: object) -> str:
        events.append("respond")
        return next(said)

    engine = ScriptedEngine(respond) if text else TokenScript(respond)
    grader = CountingGrader(events)
    problems = [Problem(id=str(n), task="t", question="?", gold="1") for n in range(4)]
    play(Oracle(), problems=problems, samples=2, engine=engine, grader=grader)
    assert events == (["respond"] * 8 + ["grade"] * 8) * 3
    assert [size for size in batches if size] == [8] * 3


def test_grading_after_the_fact_is_one_batch(batches: list[int]) -> None:
    events: list[str] = []
    engine = TokenScript(lambda request, number: events.append("respond") or "2")  # type: ignore[func-returns-value]
    play(Intrinsic(SHORT, 3), engine=engine, grader=CountingGrader(events))
    made = len(PROBLEMS) * SAMPLES * 3
    assert events == ["respond"] * made + ["grade"] * made
    assert [size for size in batches if size] == [made]


# Turns that were there before, or by somebody else


def first_turns(author: str) -> list[list[Turn]]:
    made = play(Intrinsic(PROMPTS["lab"], 1))
    told = {"author": author, "source": "somebody", "completion_tokens": 7}
    return [[e.turns[0].model_copy(update=told)] for e in made]


def test_given_turns_are_kept_as_they_are() -> None:
    given_turns = first_turns("teacher")
    mixed = [[] if index % 3 == 0 else turns for index, turns in enumerate(given_turns)]
    episodes = play(Intrinsic(PROMPTS["lab"]), sampling=Sampling(max_tokens=4, seed=9), given=mixed)
    for episode, turns in zip(episodes, mixed, strict=True):
        first, bridge, second = episode.turns
        assert first.author == ("teacher" if turns else "policy")
        assert second.author == "policy"
        assert bridge.tokens == TEMPLATE.bridge(first.tokens, RETRY)
        if turns:
            assert first == turns[0]


def test_the_policys_own_earlier_turns_stay_its_own() -> None:
    whole = play(Intrinsic(PROMPTS["lab"], 3))
    responses = [episode.responses for episode in whole]
    assert play(Intrinsic(PROMPTS["lab"], 3), given=responses) == whole
    partly = [turns[: index % 4] for index, turns in enumerate(responses)]
    assert alike(play(Intrinsic(PROMPTS["lab"], 3), given=partly), whole)


def test_an_oracle_hears_of_given_responses_too() -> None:
    given_turns = first_turns("teacher")
    episodes = play(Oracle(), given=given_turns)
    for episode, [turn] in zip(episodes, given_turns, strict=True):
        assert turn.grade is not None
        assert (len(episode.responses) == 1) == turn.grade.correct
        assert episode.responses[0].author == "teacher"
        assert all(later.author == "policy" for later in episode.responses[1:])


def test_given_turns_without_grades_are_graded_before_an_oracle_sees_them() -> None:
    """Together, like all others: the first responses of all episodes, then the second ones."""
    given_turns = [[Turn(author="teacher", text="2"), Turn(author="teacher", text="1")]] * 3
    events: list[str] = []
    problems = [problem.model_copy(update={"gold": "1"}) for problem in PROBLEMS]
    engine = TokenScript(lines())
    episodes = play(
        Oracle(),
        problems=problems,
        samples=1,
        given=given_turns,
        engine=engine,
        grader=CountingGrader(events),
    )
    assert [episode.correct for episode in episodes] == [[False, True]] * 3
    assert {episode.outcome for episode in episodes} == {"solved"}
    assert len(events) == 6
    assert not engine.requests


def test_given_texts_get_the_templates_tokens() -> None:
    given_turns = [[Turn(author="teacher", text="so 1 <eos>")]] * len(PROBLEMS)
    for episode in play(Intrinsic(SHORT), given=given_turns, samples=1):
        first = episode.turns[0]
        assert first.tokens == TEMPLATE.response("so 1 <eos>")
        assert not first.sampled
        assert episode.turns[1].tokens == TEMPLATE.bridge(first.tokens, "Again.")


def test_given_turns_for_every_episode_or_for_none_at_all() -> None:
    for wrong in ([], [[]]):
        with pytest.raises(ValueError, match=f"for {len(wrong)} episodes of 18"):
            play(Intrinsic(PROMPTS["lab"]), given=wrong)


def test_given_turns_beyond_the_protocols_end_are_an_error() -> None:
    given_turns = [[Turn(author="teacher", text="1")] * 3] * len(PROBLEMS)
    with pytest.raises(ValueError, match=r"problem p0: given turns continue .* \(finished\)"):
        play(Intrinsic(SHORT, 2), given=given_turns, samples=1)


# Episodes that could not be had, or outgrew the context


def played_long(**changes: Any) -> list[Episode]:
    return play(Intrinsic(SHORT, 3), problems=[*PROBLEMS, LONG, PROBLEMS[0]], samples=2, **changes)


@pytest.mark.parametrize("history_turns", [None, 1, 2])
def test_a_problem_that_outgrows_the_context_stops_no_other(history_turns: int | None) -> None:
    episodes = played_long(history_turns=history_turns)
    assert [episode.problem.id for episode in episodes[6:8]] == ["endless"] * 2
    for episode in episodes[6:8]:
        assert (episode.outcome, episode.turns) == ("truncated", [])
        assert f"exceed the model's window of {WINDOW}" in episode.note
        assert (episode.answers, episode.tokens) == ([], episode.prompt_tokens)
    others = [*episodes[:6], *episodes[8:]]
    assert {episode.outcome for episode in others} == {"finished"}
    assert [len(episode.responses) for episode in others] == [3] * 8
    assert without_failed(episodes) == (episodes, {})


@pytest.mark.parametrize("protocol", [Intrinsic(SHORT, 9), RealOracle(SHORT, 9)])
@pytest.mark.parametrize("history_turns", [None, 4])
def test_a_context_that_is_full_after_a_response_ends_the_episode_there(
    protocol: Protocol, history_turns: int | None
) -> None:
    engine = TokenScript(lambda request, number: "2" * 20, window=80)
    for episode in play(protocol, engine=engine, samples=1, history_turns=history_turns):
        assert (episode.outcome, episode.note) == ("truncated", "too long")
        assert 1 < len(episode.responses) < 9
        assert episode.turns[-1].author == "policy"
        assert len(episode.grades) == len(episode.responses)


def test_a_real_engine_ends_an_episode_whose_context_is_full() -> None:
    question = "1+" * (WINDOW // 2 - 20)
    problem = Problem(id="long", task="t", question=question, gold="1")
    [episode] = play(Intrinsic(SHORT, 9), problems=[problem], samples=1)
    assert episode.outcome == "truncated"
    assert 1 <= len(episode.responses) < 9
    assert episode.turns[-1].author == "policy"


@pytest.mark.parametrize("history_turns", [None, 2])
def test_given_turns_that_outgrow_the_context(history_turns: int | None) -> None:
    given_turns = [[Turn(author="teacher", text="1" * WINDOW)], [], []]
    episodes = play(Intrinsic(SHORT, 2), given=given_turns, samples=1, history_turns=history_turns)
    assert [episode.outcome for episode in episodes] == ["truncated", "finished", "finished"]
    assert [len(episode.turns) for episode in episodes] == [1, 3, 3]
    assert episodes[0].correct == [False]
    assert episodes[0].note


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("full", [False, True])
def test_a_response_that_cannot_be_had_is_noted(text: bool, full: bool) -> None:
    def respond(question: str, number: int) -> str | Failed:
        trouble = question.startswith("1") and number == 1
        return Failed("no luck", context_full=full) if trouble else "1"

    engine: Any = TokenScript(lambda r, number: respond(r.messages[0].content, number))
    if text:
        engine = ScriptedEngine(lambda m: respond(m[0].content, len(m) // 2))
    episodes = play(Intrinsic(SHORT, 3), engine=engine, samples=2)
    ends = ["truncated" if full else "failed"] * 2
    assert [e.outcome for e in episodes] == ["finished"] * 2 + ends + ["finished"] * 2
    assert [len(e.turns) for e in episodes] == [5, 5, 1, 1, 5, 5]
    assert [e.note for e in episodes[2:4]] == ["no luck"] * 2
    assert [e.correct for e in episodes[2:4]] == [[False]] * 2
    kept, failed = without_failed(episodes)
    assert failed == ({} if full else {"p1": "no luck"})
    assert len(kept) == (6 if full else 4)


def test_all_episodes_may_fail() -> None:
    engine = ScriptedEngine(lambda messages: Failed("closed"))
    episodes = play(Oracle(), engine=engine, samples=2)
    assert {(e.outcome, e.note, len(e.turns)) for e in episodes} == {("failed", "closed", 0)}
    assert without_failed(episodes) == ([], dict.fromkeys(("p0", "p1", "p2"), "closed"))


def test_an_opening_that_the_template_refuses_is_the_users_mistake() -> None:
    refusing = ChatTemplate(
        TOKENIZER,
        chat_template="{% for message in messages %}{% if message['role'] == 'system' %}"
        "{{ raise_exception('no system messages') }}{% endif %}"
        "<user>{{ message['content'] }}<eos>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}",
    )
    prompts = Prompts("s", "{question}", "Again.", "Be brief.", instructions_as="system")
    with pytest.raises(UserError, match="no system messages"):
        play(Intrinsic(prompts), engine=TokenScript(lines(), template=refusing))


# What the policy sees


@pytest.mark.parametrize("history", [1, 2, 3, 9])
def test_a_short_history_shows_the_problem_and_the_latest_responses(history: int) -> None:
    for episode in play(Intrinsic(PROMPTS["lab"], 4), history_turns=history):
        assert len(episode.responses) == 4
        places = [i for i, turn in enumerate(episode.turns) if turn.author == "policy"]
        for number, place in enumerate(places):
            latest = episode.responses[max(0, number - (history - 1)) : number]
            bridged = [[*e.tokens, *TEMPLATE.bridge(e.tokens, RETRY)] for e in latest]
            expected = [*episode.prompt_tokens, *(t for tokens in bridged for t in tokens)]
            assert episode.context(place) == expected
            said = [message.content for message in episode.shown(place)]
            told = [text for e in latest for text in (e.text, RETRY)]
            assert said == [episode.problem.question, *told]


def test_a_history_as_long_as_the_episode_hides_nothing() -> None:
    protocol = Intrinsic(PROMPTS["lab"], 3)
    assert play(protocol, history_turns=3) == play(protocol)
    for episode in play(protocol, history_turns=2):
        with pytest.raises(ValueError, match="not one sequence"):
            _ = episode.tokens


HISTORY_OF_TWO = [
    ["0+1?"],
    ["0+1?", "r1", "Again."],
    ["0+1?", "r2", "Again."],
    ["0+1?", "r3", "Again."],
]


def test_history_reaches_an_engine_of_text() -> None:
    seen: list[list[str]] = []

    def respond(messages: Sequence[Message]) -> str:
        seen.append([message.content for message in messages])
        return f"r{len(seen)}"

    engine = ScriptedEngine(respond)
    play(Intrinsic(SHORT, 4), engine=engine, problems=PROBLEMS[:1], samples=1, history_turns=2)
    assert seen == HISTORY_OF_TWO


def test_history_reaches_an_engine_of_tokens() -> None:
    engine = TokenScript(lines("r1", "r2", "r3", "r4"))
    play(Intrinsic(SHORT, 4), engine=engine, problems=PROBLEMS[:1], samples=1, history_turns=2)
    roles = ("user", "assistant", "user")
    for number, texts in enumerate(HISTORY_OF_TWO):
        messages = [{"role": r, "content": t} for r, t in zip(roles, texts, strict=False)]
        assert engine.asked["p0", 0, number] == TEMPLATE.start(messages)


def test_rounds_of_a_history_have_random_numbers_of_their_own() -> None:
    episodes = play(Intrinsic(PROMPTS["lab"], 4), history_turns=1)
    assert any(len({turn.text for turn in episode.responses}) > 1 for episode in episodes)


def test_an_oracle_stops_an_episode_with_a_short_history_too() -> None:
    for episode in play(Oracle(), history_turns=2):
        assert not any(episode.correct[:-1])
        assert episode.correct[-1] or len(episode.responses) == 3


# Engines of text


def test_an_engine_of_text_plays_by_the_same_rules() -> None:
    seen: list[list[Message]] = []

    def respond(messages: Sequence[Message]) -> str:
        seen.append(list(messages))
        return "12"[len(messages) // 2]

    engine = ScriptedEngine(respond)
    episodes = play(RealOracle(SHORT, 2), engine=engine, samples=2)
    assert [[turn.text for turn in e.responses] for e in episodes] == (
        [["1"]] * 2 + [["1", "2"]] * 2 + [["1"]] * 2
    )
    assert [e.correct for e in episodes] == [[True]] * 2 + [[False, True]] * 2 + [[True]] * 2
    for episode in episodes:
        assert episode.prompt_tokens == []
        assert all(turn.tokens == [] == turn.logprobs for turn in episode.turns)
        assert all(turn.completion_tokens == 0 for turn in episode.responses)
    roles = [message.role for message in seen[-1]]
    assert roles == ["user", "assistant", "user"]
    assert seen[-1] == episodes[2].shown(2)


# Self-improvement


def improved(replies: Sequence[str], **changes: Any) -> tuple[Episode, list[list[str]]]:
    """A self-improvement of a model that says these, and the conversations that it saw."""
    seen: list[list[str]] = []
    rest = iter(replies)

    def respond(messages: Sequence[Message]) -> str:
        seen.append([message.content for message in messages])
        return next(rest)

    problem = Problem(id="p", task="t", question="2?", gold="2")
    [episode] = play(
        SelfImprove(SHORT, BRIEF, **changes),
        engine=ScriptedEngine(respond),
        problems=[problem],
        samples=1,
    )
    return episode, seen


def answers(episode: Episode) -> list[str]:
    return [turn.text for turn in episode.answers]


def test_self_improvement_ends_when_the_model_says_that_it_is_right() -> None:
    one, _ = improved(["2", "right"])
    assert (answers(one), one.outcome) == (["2"], "confirmed")
    one, _ = improved(["1", "step 1 wrong", "2", "right"])
    assert (answers(one), one.outcome) == (["1", "2"], "confirmed")
    assert [turn.grade is None for turn in one.responses] == [False, True, False, True]


def test_a_wrong_answer_that_the_model_believes_in_stays() -> None:
    """No gold answer takes part."""
    one, _ = improved(["1", "right"])
    assert (answers(one), one.outcome) == (["1"], "confirmed")
    one, _ = improved(["2", "step 1 wrong", "1", "right"])
    assert answers(one) == ["2", "1"]


def test_no_more_than_so_many_updates() -> None:
    one, _ = improved(["a", "wrong", "b", "wrong", "c"], updates=2)
    assert (answers(one), one.outcome) == (["a", "b", "c"], "finished")
    one, seen = improved(["a"], updates=0)
    assert (answers(one), one.outcome, len(seen)) == (["a"], "finished", 1)


def test_the_model_sees_the_problem_and_its_latest_answer_with_the_critique_of_it() -> None:
    one, seen = improved(["a", "x", "b", "y", "c", "right"])
    assert seen == [
        ["2?"],
        ["2?", "a", "Check."],
        ["2?", "a", "Check.", "x", "Update."],
        ["2?", "b", "Check."],
        ["2?", "b", "Check.", "y", "Update."],
        ["2?", "c", "Check."],
    ]
    places = [i for i, turn in enumerate(one.turns) if turn.author == "policy"]
    shown = [[message.content for message in one.shown(place)] for place in places]
    assert shown == seen


def test_an_oracle_stops_at_the_first_right_answer() -> None:
    one, seen = improved(["2"], oracle=True)
    assert (answers(one), one.outcome, len(seen)) == (["2"], "solved", 1)
    one, _ = improved(["1", "x", "2"], oracle=True)
    assert (answers(one), one.outcome) == (["1", "2"], "solved")
    assert one.protocol == "self-improve-oracle"


def test_the_tokens_of_a_self_improvement_are_what_the_engine_was_asked_with() -> None:
    engine = TokenScript(lines("a", "x", "b", "y", "c", "z", "d"))
    protocol = SelfImprove(SHORT, BRIEF)
    [episode] = play(protocol, engine=engine, problems=PROBLEMS[:1], samples=1)
    places = [i for i, turn in enumerate(episode.turns) if turn.author == "policy"]
    for number, place in enumerate(places):
        asked = engine.asked["p0", 0, number]
        assert episode.context(place) == asked
        assert TEMPLATE.start([m.model_dump() for m in episode.shown(place)]) == asked
    assert [turn.history for turn in episode.responses] == [0, 0, 0, 4, 4, 8, 8]


# Turns laid out


def test_an_episode_laid_out_is_the_one_that_was_played() -> None:
    for history in (None, 2):
        for episode in play(Intrinsic(PROMPTS["lab"], 4), history_turns=history):
            bare = [
                turn.model_copy(update={"tokens": []}) if turn.author == "environment" else turn
                for turn in episode.turns
            ]
            fields = {"protocol": "intrinsic", "policy": "tiny", "sample": episode.sample}
            laid = lay_out(
                episode.problem, episode.messages, bare, TEMPLATE, history_turns=history, **fields
            )
            assert laid == episode


def test_texts_laid_out_get_the_templates_tokens() -> None:
    turns = [
        Turn(author="teacher", text="a"),
        Turn(author="environment", text="Again."),
        Turn(author="teacher", text="b", grade=Grade(score=1, decided_by="string")),
    ]
    opening = [Message(role="user", content="?")]
    laid = lay_out(PROBLEMS[0], opening, turns, TEMPLATE, tags={"kind": "gold"})
    first, said = TEMPLATE.response("a"), TEMPLATE.bridge(TEMPLATE.response("a"), "Again.")
    assert [turn.tokens for turn in laid.turns] == [first, said, TEMPLATE.response("b")]
    assert laid.tokens == [
        *TEMPLATE.start([{"role": "user", "content": "?"}]),
        *(token for turn in laid.turns for token in turn.tokens),
    ]
    assert (laid.tags, laid.correct) == ({"kind": "gold"}, [True])


def test_without_a_template_there_are_no_tokens() -> None:
    [episode] = play(Intrinsic(SHORT), problems=PROBLEMS[:1], samples=1)
    laid = lay_out(episode.problem, episode.messages, episode.turns, None)
    assert laid.tokens == []
    assert [turn.text for turn in laid.turns] == [turn.text for turn in episode.turns]
    assert Episode.model_validate_json(laid.model_dump_json()) == laid


# All protocols


@dataclass(frozen=True)
class Random:
    """Keeps what it is told to, and ends when it is told to."""

    keeps: tuple[int | None, ...]
    needs_grades: bool
    critiques: frozenset[int]
    name: str = "random"

    @property
    def turns(self) -> int:
        return len(self.keeps) + 1

    def opening(self, problem: Problem) -> list[Message]:
        return [Message(role="user", content=problem.question)]

    def prefill(self, responses: Sequence[Turn]) -> str:
        return ""

    def after(self, problem: Problem, responses: Sequence[Turn]) -> Say | Outcome:
        made = len(responses)
        grade = responses[-1].grade
        if self.needs_grades and grade and grade.correct:
            return "solved"
        return Say(f"s{made}", self.keeps[made - 1]) if made < self.turns else "finished"

    def is_answer(self, responses: Sequence[Turn]) -> bool:
        return len(responses) - 1 not in self.critiques


PROTOCOLS = st.builds(
    Random,
    st.lists(st.none() | st.integers(0, 3), max_size=5).map(tuple),
    st.booleans(),
    st.frozensets(st.integers(0, 5), max_size=3),
)


@given(
    protocol=PROTOCOLS,
    texts=st.lists(st.sampled_from(["1", "2", "3", "full", "fail", ""]), min_size=24, max_size=24),
    given_texts=st.lists(st.sampled_from(["2", "3"]), max_size=1),
    history=st.none() | st.integers(1, 4),
    samples=st.integers(1, 2),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_contexts_are_what_the_engine_was_asked_with_and_rows_cover_each_response_once(
    protocol: Random,
    texts: list[str],
    given_texts: list[str],
    history: int | None,
    samples: int,
) -> None:
    def script(request: Request, number: int) -> str | Failed:
        text = texts[(int(request.problem[1:]) * 2 + request.sample) * 6 % 18 + number]
        failed = {"full": Failed("full", context_full=True), "fail": Failed("no")}
        return failed.get(text, text)

    engine = TokenScript(script)
    begun = [[Turn(author="teacher", text=text) for text in given_texts]] * (2 * samples)
    episodes = play(
        protocol,
        engine=engine,
        problems=PROBLEMS[:2],
        samples=samples,
        given=begun,
        history_turns=history,
    )
    assert len(episodes) == 2 * samples
    for episode in episodes:
        places = [i for i, turn in enumerate(episode.turns) if turn.author != "environment"]
        for number, place in enumerate(places):
            key = (episode.problem.id, episode.sample, number)
            if number >= len(given_texts):
                assert episode.context(place) == engine.asked[key]
                shown = [m.model_dump() for m in episode.shown(place)]
                assert TEMPLATE.start(shown) == engine.asked[key]
            graded = episode.turns[place].grade is not None
            assert graded == (number not in protocol.critiques)
        covered = Counter(
            index for _, turns in sequences(episode) for index, written in turns if written
        )
        assert covered == Counter(places)
        for opening, turns in sequences(episode):
            tokens = list(opening)
            for index, written in turns:
                if written:
                    assert episode.context(index) == tokens
                tokens += episode.turns[index].tokens
        assert Episode.model_validate_json(episode.model_dump_json()) == episode
        if not episode.turns:
            assert episode.outcome in ("failed", "truncated")
        else:
            assert episode.turns[-1].author != "environment"


def test_what_was_hidden_once_stays_hidden() -> None:
    protocol = Random((0, 3, None), needs_grades=False, critiques=frozenset())
    engine = TokenScript(lines("a", "b", "c", "d"))
    [episode] = play(protocol, engine=engine, problems=PROBLEMS[:1], samples=1)
    shown = [[m.content for m in episode.shown(place)] for place in (0, 2, 4, 6)]
    assert shown == [["0+1?"], ["0+1?"], ["0+1?", "b", "s2"], ["0+1?", "b", "s2", "c", "s3"]]


# What a response is given to begin with

OPENED = Prompts("opened", "{question}", "Again.", prefill="x=")


def test_a_prefill_is_given_to_every_response_and_part_of_it() -> None:
    engine = TokenScript(lines("1", "2"))
    (episode,) = play(Intrinsic(OPENED, 2), problems=PROBLEMS[:1], samples=1, engine=engine)
    given = TEMPLATE.prefill("x=")
    assert TEMPLATE.text(given) == "x="
    first, _, second = episode.turns
    assert (first.text, second.text) == ("x=1", "x=2")
    assert first.tokens == [*given, *TEMPLATE.response("1")] == TEMPLATE.response("x=1")
    assert (first.given, first.generated) == (2, 2)
    assert len(first.logprobs) == 2
    for number, place in enumerate((0, 2)):
        asked = engine.asked["p0", 0, number]
        assert asked == [*episode.context(place), *given]
    assert TEMPLATE.text(episode.tokens).count("x=") == 2


def test_a_model_continues_its_prefill() -> None:
    opened = play(Intrinsic(OPENED, 2), samples=2)
    assert all(turn.text.startswith("x=") for one in opened for turn in one.responses)
    # The same tokens before the first response, said in the question, make the same response.
    tokens = [*opened[0].prompt_tokens, *TEMPLATE.prefill("x=")]
    request = Request([], tokens, problem="p0")
    (response,) = LocalEngine(MODEL, TEMPLATE).generate([request], SAMPLING)[0]
    assert isinstance(response, Response)
    assert opened[0].turns[0].text == f"x={response.text}"


def test_a_reopened_response_keeps_its_tokens_and_loses_its_end() -> None:
    engine = TokenScript(lines("1", ", 2"))
    (episode,) = play(Wait(SHORT), problems=PROBLEMS[:1], samples=1, engine=engine)
    first, word, second = episode.turns
    assert (first.text, word.text, second.text) == ("1", " Wait", "1 Wait, 2")
    asked = [*episode.prompt_tokens, *first.tokens[:-1], *TEMPLATE.prefill(" Wait")]
    assert engine.asked["p0", 0, 1] == asked
    assert [*episode.context(2), *second.tokens[: second.given]] == asked
    assert second.generated == len(", 2") + 1
    assert word.tokens == []
    assert [message.content for message in episode.shown(2)] == ["0+1?"]


def test_a_reopened_response_is_not_tokenised_again() -> None:
    sampled = [*TEMPLATE.prefill("1"), *TOKENIZER.convert_tokens_to_ids(["<user>", "<eos>"])]
    opened = TEMPLATE.reopened(sampled, "1<user>", "1<user> Wait")
    assert opened == [*sampled[:-1], *TEMPLATE.prefill(" Wait")]
    cut = TEMPLATE.reopened(sampled, "1", "1 Wait")  # where a stop string was cut from the text
    assert cut == TEMPLATE.prefill("1 Wait")


def test_an_error_that_was_put_into_the_response_is_continued() -> None:
    given = [[Turn(author="teacher", text="7")]]
    engine = TokenScript(lines("", " no, 8"))
    protocol = Wait(SHORT, word="")
    (episode,) = play(protocol, problems=PROBLEMS[:1], samples=1, engine=engine, given=given)
    assert [turn.text for turn in episode.answers] == ["7", "7 no, 8"]
    assert engine.asked["p0", 0, 1] == [*episode.prompt_tokens, *TEMPLATE.prefill("7")]
    assert episode.protocol == "continue"


def test_nothing_is_learned_from_a_prefill() -> None:
    engine = TokenScript(lines("1", "2"))
    (episode,) = play(Intrinsic(OPENED, 2), problems=PROBLEMS[:1], samples=1, engine=engine)
    (reinforced,) = advantage_rows([episode], np.array([[1.0, 2.0]]), [0.5, 0.5])
    (imitated,) = to_rows([Example(episode=episode, weights=[1.0, 1.0])])
    before = len(episode.prompt_tokens)
    between = len(episode.turns[1].tokens)
    places = [*range(before + 2, before + 4), *range(before + 4 + between + 2, len(reinforced))]
    assert np.flatnonzero(reinforced.advantage).tolist() == places
    assert np.flatnonzero(reinforced.kl_weight).tolist() == places
    assert np.flatnonzero(reinforced.old_logprob).tolist() == places
    assert np.flatnonzero(imitated.loss_weight).tolist() == places
    assert np.flatnonzero(imitated.turn).tolist() == places


def test_an_engine_of_text_cannot_be_given_a_prefill() -> None:
    engine = ScriptedEngine(lambda messages: "1")
    with pytest.raises(UserError, match=r"open a response with 'x='.*endpoint.*--prompts"):
        play(Intrinsic(OPENED, 2), engine=engine)


# Answers that were whole before they were cut off


@dataclass(frozen=True)
class ToFullStop:
    """Judges a text up to its full stop, and can tell whether there is one."""

    def __call__(self, problem: Problem, attempt: str) -> Grade:
        right = attempt.partition(".")[0] == problem.gold
        return Grade(score=float(right), decided_by="test")

    def is_whole(self, problem: Problem, attempt: str) -> bool:
        return "." in attempt


@pytest.mark.parametrize("count_whole", [False, True])
def test_a_cut_answer_that_was_whole_counts_where_it_is_asked_for(count_whole: bool) -> None:
    said = {"p0": "1. And", "p1": "2", "p2": "2. And"}  # right, right but cut, wrong
    episodes = play(
        Intrinsic(SHORT, 1),
        samples=1,
        engine=TokenScript(lambda request, number: said[request.problem], finish="length"),
        grader=ToFullStop(),
        count_whole=count_whole,
    )
    statuses = [grade.status for one in episodes for grade in one.grades]
    assert all(turn.truncated for one in episodes for turn in one.turns)
    if count_whole:
        assert [one.correct for one in episodes] == [[True], [False], [False]]
        assert statuses == ["graded", "truncated", "graded"]
    else:
        assert statuses == ["truncated"] * 3
