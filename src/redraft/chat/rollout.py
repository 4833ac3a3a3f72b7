"""Rollout: many episodes at once. The protocol says what, the engine how, the grader whether.

    problems --opening--> engine --responses--> grader --> episodes
                            ^           |
                            +--protocol-+      until the protocol ends the episode

One loop serves engines that know tokens and engines that know only text. An engine that knows
tokens continues a conversation in the same sequence. Where the protocol needs grades or drops
history, or the engine knows only text, the responses of a round are collected and graded together,
and the next round starts from what the policy then sees. The
token sequence only ever grows: what was sampled is what is trained on.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from redraft.chat.protocols import Protocol
from redraft.engines.base import Engine, Failed, Request, Response, Sampling, Watch
from redraft.engines.template import ChatTemplate
from redraft.errors import UserError
from redraft.grading import Grader, grade_all, is_whole
from redraft.types import Episode, Message, Outcome, Problem, Turn, shown

FollowEpisode = Callable[[int, int, Callable[[], str], bool], bool]
"""(index of the episode, number of its response, reads the text so far, whether that is all of it)
to whether the episode is still wanted; see `engines.base.Follow`. Called for every response once it
is whole, whatever the engine."""


def rollout(
    problems: Sequence[Problem],
    protocol: Protocol,
    engine: Engine,
    grader: Grader,
    sampling: Sampling,
    *,
    samples: int = 1,
    policy: str = "",
    given: Sequence[Sequence[Turn]] | None = None,
    history_turns: int | None = None,
    count_whole: bool = False,
    watch: Watch | None = None,
    follow: FollowEpisode | None = None,
) -> list[Episode]:
    """Sample `samples` episodes of every problem.

    Args:
        problems: each is sampled `samples` times; the episodes of one problem are neighbours.
        protocol: what is said before and between responses.
        engine: writes the responses.
        grader: judges the answers, many at a time; truncated ones are wrong without its verdict.
        sampling: how tokens are drawn, the length limit of a response, and the seed.
        samples: episodes per problem, G.
        policy: name of the weights, written into the episodes.
        given: for each of the problems x samples episodes the responses it begins with; texts,
            tokens, authors and grades are kept as they are.
        history_turns: how many interactions the policy sees at most, the one in progress included:
            the opening and the latest `history_turns - 1` responses with what was said about them.
            None: all that the protocol keeps.
        count_whole: also ask the grader about truncated answers that it can tell to be whole.
        watch: called while responses are under way; see `Engine.generate`.
        follow: is shown the responses as they are written; an episode that it does not want any
            more ends as `failed`.

    Returns:
        problems x samples episodes, in order. One whose response failed has the outcome `failed`,
        one that outgrew the model's context window `truncated`, each with a `note`; such an
        episode may have no turns.

    Raises:
        UserError: the chat template refuses an opening, the prompts open responses and the engine
            knows only text, or a grader of the user's failed.
        ValueError: `given` has not one entry for each episode, or continues after its
            protocol ended the episode.
    """
    numbers: Counter[str] = Counter()  # a problem may be listed more than once
    plays = []
    for problem in problems:
        messages = protocol.opening(problem)
        start = _start(messages, engine.template)
        for _ in range(samples):
            sample = numbers[problem.id]
            numbers[problem.id] += 1
            plays.append(
                _EpisodeInProgress(
                    problem, sample, messages, start, protocol, engine.template, history_turns
                )
            )
    for place, play in enumerate(plays):
        play.follow = partial(follow, place) if follow else None
    if given is not None:
        _begin_with(given, plays, protocol, grader, count_whole)

    def reply(row: int, response: Response) -> Sequence[int] | None:
        play = active[row]
        play.respond(response)
        goes_on = play.outcome is None and not protocol.needs_grades and play.proceed()
        return [*play.turns[-1].tokens, *play.opened()[1]] if goes_on else None

    while active := [play for play in plays if play.outcome is None]:
        requests = [play.request() for play in active]
        results = engine.generate(
            requests,
            sampling,
            reply if engine.template else None,
            watch,
            **({"follow": lambda row, read: active[row].wanted(read)} if follow else {}),
        )
        for play, responses in zip(active, results, strict=True):
            if isinstance(last := responses[-1], Failed):
                play.end("truncated" if last.context_full else "failed", last.reason)
            elif engine.template is None:
                play.respond(last)
        if protocol.needs_grades:
            _grade(plays, grader, count_whole)
        for play in active:
            if play.outcome is None and not play.asked:
                play.proceed()
    _grade(plays, grader, count_whole)
    return [play.episode(policy) for play in plays]


def _begin_with(
    given: Sequence[Sequence[Turn]],
    plays: "Sequence[_EpisodeInProgress]",
    protocol: Protocol,
    grader: Grader,
    count_whole: bool,
) -> None:
    """Play the responses that the episodes begin with, a round at a time."""
    if len(given) != len(plays):
        raise ValueError(f"given turns for {len(given)} episodes of {len(plays)}")
    for number in range(max(map(len, given), default=0)):
        pairs = zip(plays, given, strict=True)
        begun = [(play, turns[number]) for play, turns in pairs if number < len(turns)]
        for play, turn in begun:
            play.begin_with(turn)
        if protocol.needs_grades:
            _grade(plays, grader, count_whole)
        for play, _ in begun:
            play.proceed()


def lay_out(
    problem: Problem,
    messages: Sequence[Message],
    turns: Sequence[Turn],
    template: ChatTemplate | None,
    *,
    history_turns: int | None = None,
    **fields: Any,
) -> Episode:
    """An episode of turns that are all there already, with the tokens of a rollout.

    Responses that have tokens keep them; those without get the template's for their text, and every
    environment turn what the template puts between its neighbours. Without a template there are no
    tokens. For `history_turns` see `rollout`; `fields` are further fields of the episode.
    """
    done: list[Turn] = []
    for turn in turns:
        update: dict[str, Any] = {} if template else {"tokens": [], "logprobs": []}
        if turn.author == "environment":
            update["history"] = done[-1].history
            if template:
                update["tokens"] = template.bridge(done[-1].tokens, turn.text)
        else:
            if template and not turn.tokens:
                update["tokens"] = template.response(turn.text)
            if history_turns is not None:
                update["history"] = first_shown(done, history_turns - 1)
        done.append(turn.model_copy(update=update))
    return Episode(
        problem=problem,
        messages=list(messages),
        prompt_tokens=_start(messages, template),
        turns=done,
        **{"protocol": "", **fields},
    )


def _start(messages: Sequence[Message], template: ChatTemplate | None) -> list[int]:
    """Tokens of an opening; none without a template."""
    return template.start([m.model_dump() for m in messages]) if template else []


def first_shown(turns: Sequence[Turn], keep: int) -> int:
    """Index of the first turn that is shown when the latest `keep` responses are, with what was
    said after each."""
    places = [index for index, turn in enumerate(turns) if turn.author != "environment"]
    if keep <= 0:
        return len(turns)
    return places[-keep] if keep < len(places) else 0


@dataclass
class _EpisodeInProgress:
    """One episode in progress."""

    problem: Problem
    sample: int
    messages: list[Message]
    start: list[int]  # tokens of `messages`
    protocol: Protocol
    template: ChatTemplate | None
    history_turns: int | None
    turns: list[Turn] = field(default_factory=list)
    first: int = 0  # index of the first turn that the next response sees
    outcome: Outcome | None = None
    note: str = ""
    ungraded: list[int] = field(default_factory=list)  # indices of answers without a grade
    follow: Callable[[int, Callable[[], str], bool], bool] | None = None

    @property
    def asked(self) -> bool:
        """Whether the environment has spoken last, so that a response is due."""
        return not self.turns or self.turns[-1].author == "environment"

    @property
    def responses(self) -> list[Turn]:
        return [turn for turn in self.turns if turn.author != "environment"]

    def opened(self) -> tuple[str, list[int]]:
        """What the next response begins with: the text and its tokens.

        Raises:
            UserError: something, and the engine knows only text.
        """
        responses = self.responses
        text = self.protocol.prefill(responses)
        if not text:
            return "", []
        if self.template is None:
            raise UserError(
                f"the prompts open a response with {text!r}, which a model in this process can be "
                "given but an endpoint cannot; take other --prompts, or a file without `prefill`"
            )
        if responses and text.startswith(responses[-1].text):
            return text, self.template.reopened(responses[-1].tokens, responses[-1].text, text)
        return text, self.template.prefill(text)

    def request(self) -> Request:
        """What the policy sees now."""
        visible = self.turns[self.first :]
        tokens = [*self.start, *(token for turn in visible for token in turn.tokens)]
        tokens += self.opened()[1]
        return Request(
            shown(self.messages, visible),
            tokens if self.template else (),
            self.problem.id,
            self.sample,
            len(self.responses),
        )

    def begin_with(self, turn: Turn) -> None:
        """Take up a response that was there before.

        Raises:
            ValueError: the protocol has ended the episode before it.
        """
        if self.outcome is not None:
            raise ValueError(
                f"problem {self.problem.id}: given turns continue after protocol "
                f"{self.protocol.name!r} has ended the episode ({self.outcome})"
            )
        if self.template and not turn.tokens:
            turn = turn.model_copy(update={"tokens": self.template.response(turn.text)})
        self.add(turn)

    def respond(self, response: Response) -> None:
        """Take up what the engine has written."""
        text, tokens = self.opened()
        wanted = self.wanted(lambda: response.text, whole=True)
        self.add(
            Turn(
                author="policy",
                text=text + response.text,
                tokens=[*tokens, *response.tokens],
                logprobs=response.logprobs,
                finish=response.finish,
                completion_tokens=response.completion_tokens,
            )
        )
        if not wanted:
            self.end("failed", "nobody waits for the response any more")

    def wanted(self, read: Callable[[], str], whole: bool = False) -> bool:
        """Whether the response under way is still wanted by whoever follows the episode."""
        if self.follow is None:
            return True
        text, _ = self.opened()
        return self.follow(len(self.responses), lambda: text + read(), whole)

    def add(self, turn: Turn) -> None:
        """Add a response to what was shown before it."""
        self.turns.append(turn.model_copy(update={"history": self.first}))
        if turn.grade is None and self.protocol.is_answer(self.responses):
            self.ungraded.append(len(self.turns) - 1)

    def proceed(self) -> bool:
        """Ask the protocol what comes after the last response; returns whether the next response
        continues the same sequence."""
        responses = self.responses
        if not self.protocol.needs_grades:
            responses = [turn.model_copy(update={"grade": None}) for turn in responses]
        said = self.protocol.after(self.problem, responses)
        if isinstance(said, str):
            self.outcome = said
            return False
        last = self.turns[-1]
        shows = self.template if said.keep != 0 else None
        tokens = shows.bridge(last.tokens, said.text) if shows else []
        self.turns.append(
            Turn(author="environment", text=said.text, tokens=tokens, history=last.history)
        )
        limits = [said.keep, None if self.history_turns is None else self.history_turns - 1]
        before = self.first
        if keeps := [limit for limit in limits if limit is not None]:
            self.first = max(before, first_shown(self.turns, min(keeps)))
        return self.first == before

    def end(self, outcome: Outcome, note: str) -> None:
        """End without a response to what was said last."""
        self.outcome, self.note = outcome, note
        if self.turns and self.asked:
            self.turns.pop()

    def episode(self, policy: str) -> Episode:
        """The finished record."""
        assert self.outcome is not None
        return Episode(
            problem=self.problem,
            messages=self.messages,
            prompt_tokens=self.start,
            turns=self.turns,
            protocol=self.protocol.name,
            policy=policy,
            sample=self.sample,
            outcome=self.outcome,
            note=self.note,
        )


def _grade(plays: Sequence[_EpisodeInProgress], grader: Grader, count_whole: bool = False) -> None:
    """Grade all answers that have no grade yet, together."""
    waiting = [(play, index) for play in plays for index in play.ungraded]
    attempts = [(play.problem, play.turns[index].text) for play, index in waiting]
    wrong = [
        play.turns[index].truncated and not (count_whole and is_whole(grader, *attempt))
        for (play, index), attempt in zip(waiting, attempts, strict=True)
    ]
    grades = grade_all(grader, attempts, wrong)
    for (play, index), grade in zip(waiting, grades, strict=True):
        play.turns[index] = play.turns[index].model_copy(update={"grade": grade})
    for play in plays:
        play.ungraded.clear()
