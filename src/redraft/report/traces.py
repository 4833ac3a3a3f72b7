"""The data of the trace viewer: an index of all episodes, and their texts in pieces.

The index is small and read when the page opens; `viewer.js` filters and lists by it. Texts are JSON
Lines in pieces of `PIECE` records, compressed (raw deflate, base64), each read when it is needed.
Nothing here is trusted: the page puts it in data blocks, the viewer into text nodes.
"""

import base64
import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from json import dumps
from pathlib import Path
from typing import Any

from rapidfuzz.distance import Indel
from tokenizers import Tokenizer

from redraft.evaluation.examples import changes
from redraft.evaluation.metrics import CUT, answer_of, counted, edit_distance_ratio
from redraft.models import MODELS
from redraft.report.numbers import LEVELS
from redraft.report.runs import EpisodeFile, Run
from redraft.types import Episode, Turn, same_problem_groups, without_failed

PIECE = 200
"""Records in a piece."""
NEAR = 0.1
"""Edit-distance ratio below which a response that is no copy is a near copy."""
BADGES = ("copied", "near copy", "same answer", "truncated", "no answer", "left out")
"""What is marked; each a bit of `badges` in the index."""
MOST_TOKENS = 2_000_000
"""Tokens whose log-probabilities a page shows; those of later episodes are left out."""
LONGEST_DIFFERENCE = 40_000
"""Characters of two responses whose difference is worked out."""


COLUMNS = ("run", "part", "step", "problem", "sample", "verdicts", "badges", "edit", "tokens")
"""Columns of the index: one entry an episode."""


@dataclass
class Traces:
    """Episodes of several runs, as they are added."""

    runs: list[dict[str, Any]] = field(default_factory=list)
    problems: dict[tuple[str, str, str], int] = field(default_factory=dict)
    """Number of each problem by task, id and question."""
    problem_records: list[str] = field(default_factory=list)
    problem_index: dict[str, list[Any]] = field(
        default_factory=lambda: {"id": [], "title": [], "level": []}
    )
    records: list[str] = field(default_factory=list)
    columns: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in COLUMNS})
    tokens_left: int = MOST_TOKENS

    def add_run(self, run: Run) -> int:
        """Begin a run; returns its number."""
        self.runs.append({"name": run.name, "command": run.command, "folder": str(run.folder)})
        return len(self.runs) - 1

    def add(self, run: Run, number: int, file: EpisodeFile, episodes: Sequence[Episode]) -> None:
        """Add the episodes of one part or step of run `number`."""
        counted = {id(episode) for episode in without_failed(episodes)[0]}
        baselines = _others(episodes)
        texts = token_texts(run)
        for episode, others in zip(episodes, baselines, strict=True):
            row = _row(episode, left_out=id(episode) not in counted)
            row |= {"run": number, "part": file.part, "step": file.step}
            row["problem"] = self._problem(episode)
            for name, value in row.items():
                self.columns[name].append(value)
            shown = texts if self.tokens_left > 0 else None
            record = _record(episode, shown)
            if others is not None:
                record["others"] = others
            self.tokens_left -= sum(len(t.get("logprobs", ())) for t in record["turns"])
            self.records.append(_line(record))

    def _problem(self, episode: Episode) -> int:
        problem = episode.problem
        key = (problem.task, problem.id, problem.question)
        if key not in self.problems:
            self.problems[key] = len(self.problems)
            self.problem_records.append(_line(problem.model_dump()))
            self.problem_index["id"].append(problem.id[:80])
            self.problem_index["title"].append(" ".join(problem.question[:300].split())[:90])
            known = [name for name in LEVELS if problem.metadata.get(name) is not None]
            levels = {name: str(problem.metadata[name])[:40] for name in known}
            self.problem_index["level"].append(levels)
        return self.problems[key]

    def index(self) -> str:
        """The index as JSON that may stand in a script element."""
        content = {
            "runs": self.runs,
            "badges": BADGES,
            "piece": PIECE,
            "problems": self.problem_index,
            "episodes": self.columns,
        }
        return in_script(dumps(content, ensure_ascii=False, separators=(",", ":")))

    def pieces(self) -> dict[str, str]:
        """The texts by the id of their script element, compressed."""
        return {
            f"{name}-{start // PIECE}": _compressed("\n".join(records[start : start + PIECE]))
            for name, records in (("problem", self.problem_records), ("episode", self.records))
            for start in range(0, len(records), PIECE)
        }


def in_script(json: str) -> str:
    """JSON for a script element: no `<` that could end it, and no lone surrogate."""
    safe = json.replace("<", "\\u003c")
    return safe.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def _line(record: dict[str, Any]) -> str:
    return dumps(record, ensure_ascii=False, separators=(",", ":"))


def _compressed(text: str) -> str:
    packer = zlib.compressobj(6, wbits=-15)  # raw deflate, as DecompressionStream reads it
    content = text.encode("utf-8", "replace")
    return base64.b64encode(packer.compress(content) + packer.flush()).decode()


def _row(episode: Episode, left_out: bool) -> dict[str, Any]:
    """An episode's entry of each column that is its own."""
    answers, written = episode.answers, episode.responses
    badges = _badges(episode)
    edit = None
    if len(answers) > 1 and answers[0].has_text and answers[1].has_text:
        edit = round(float(edit_distance_ratio([answers[0].text], [answers[1].text])[0]), 3)
    verdicts = "".join("1" if right else "0" for right in episode.correct) or "0"
    if left_out:
        badges, verdicts = badges | {"left out"}, ""
    return {
        "sample": episode.sample,
        "verdicts": verdicts,
        "badges": sum(1 << BADGES.index(name) for name in badges),
        "edit": edit,
        "tokens": sum(turn.generated for turn in written) if all(map(counted, written)) else None,
    }


def _badges(episode: Episode) -> set[str]:
    """What is to be marked of an episode's answers, each compared with the one before it."""
    found = set()
    answers = episode.answers
    for before, after in pairwise(answers):
        if not (before.has_text and after.has_text):
            continue
        if before.text == after.text:
            found |= {"copied"} if after.text else set()
        elif Indel.normalized_distance(before.text, after.text) < NEAR:
            found.add("near copy")
        if (answer := answer_of(after)) is not None and answer == answer_of(before):
            found.add("same answer")
    for turn in answers or [CUT]:
        if turn.truncated:
            found.add("truncated")
        elif turn.has_text and answer_of(turn) is None:
            found.add("no answer")
    return found


def _others(episodes: Sequence[Episode]) -> list[float | None]:
    """For each episode the mean last score of the other samples of its problem, the leave-one-out
    baseline; None where there is none."""
    found: list[float | None] = [None] * len(episodes)
    for group in same_problem_groups(episodes):
        scores = {i: episodes[i].scores[-1] for i in group if episodes[i].scores}
        for i in scores:
            if len(scores) > 1:
                found[i] = round((sum(scores.values()) - scores[i]) / (len(scores) - 1), 3)
    return found


def _short(before: Turn, after: Turn) -> bool:
    return len(before.text) + len(after.text) <= LONGEST_DIFFERENCE


def _record(episode: Episode, texts: "TokenTexts | None") -> dict[str, Any]:
    """What the viewer shows of an episode; fields that say nothing are left out."""
    turns: list[dict[str, Any]] = []
    before: Turn | None = None
    for turn in episode.turns:
        one: dict[str, Any] = {
            "author": turn.author,
            "text": turn.text,
            "finish": "" if turn.finish == "stop" else turn.finish,
            "source": turn.source,
            "reward": turn.reward,
            "advantage": turn.advantage,
            "tokens": turn.generated if turn.author != "environment" and counted(turn) else None,
            "grade": None if turn.grade is None else turn.grade.model_dump(),
        }
        if texts is not None and turn.logprobs:
            one["logprobs"] = [round(value, 2) for value in turn.logprobs]
            one["pieces"] = texts.of(turn.tokens)
            one["kl"] = [
                round(a - b, 3) for a, b in zip(turn.logprobs, turn.ref_logprobs, strict=False)
            ]
        if turn.grade is not None:
            if before is not None and turn.has_text and _short(before, turn):
                one["changes"] = changes(before.text, turn.text)
            before = turn if turn.has_text else None
        turns.append({name: value for name, value in one.items() if value not in (None, "", [])})
    whole = {
        "messages": [[message.role, message.content] for message in episode.messages],
        "turns": turns,
        "protocol": episode.protocol,
        "policy": episode.policy,
        "outcome": episode.outcome,
        "note": episode.note,
        "tags": episode.tags,
    }
    return {name: value for name, value in whole.items() if value or name == "turns"}


# Tokens as text


class TokenTexts:
    """What each token of a run adds to the text before it; its number where there is no
    tokenizer."""

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self._tokenizer = tokenizer
        self._known: dict[tuple[int, int], str] = {}

    def of(self, tokens: Sequence[int]) -> list[str]:
        """The text of each token."""
        if self._tokenizer is None:
            return [f"⟨{token}⟩" for token in tokens]
        return [self._piece(a, b) for a, b in zip([-1, *tokens], tokens, strict=False)]

    def _piece(self, before: int, token: int) -> str:
        if (before, token) not in self._known:
            assert self._tokenizer is not None
            context = [before] if before >= 0 else []
            text = self._tokenizer.decode([*context, token], skip_special_tokens=False)
            known = self._tokenizer.decode(context, skip_special_tokens=False) if context else ""
            piece = text.removeprefix(known) if text.startswith(known) else text
            self._known[before, token] = piece
        return self._known[before, token]


def token_texts(run: Run) -> TokenTexts:
    """The tokens of a run by the tokenizer of its model, if that is on this machine."""
    model = str(run.config.get("model", ""))
    return _token_texts(run.folder, model)


@cache
def _token_texts(folder: Path, model: str) -> TokenTexts:
    for place in _model_folders(folder, model):
        if (file := place / "tokenizer.json").is_file():
            try:
                return TokenTexts(Tokenizer.from_file(str(file)))
            except Exception:  # the library raises its own; numbers are shown then
                break
    return TokenTexts(None)


def _model_folders(folder: Path, model: str) -> Iterable[Path]:
    yield folder / "model"
    yield Path(model)
    if model in MODELS:
        yield MODELS[model].folder()
    from huggingface_hub import try_to_load_from_cache

    if re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        cached = try_to_load_from_cache(model, "tokenizer.json")
        if isinstance(cached, str):
            yield Path(cached).parent
