"""The lab: problems with exact answers, a corpus of known proportions, a model one can rebuild."""

import contextlib
import io
import re
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from transformers import AutoTokenizer

from redraft.evaluation import evaluate
from redraft.evaluation.settings import EvaluationSettings
from redraft.lab import build as lab_build
from redraft.lab import model_path
from redraft.lab.corpus import (
    AGAIN_AFTER_RIGHT,
    AGAIN_AFTER_WRONG,
    FAMILIES,
    HASTY,
    LONG,
    PROGRAM,
    PROGRAM_AFTER_ATTEMPT,
    PROGRAM_SOLVES,
    RETRY,
    SLIPS,
    WITH_ANOTHER,
    Conversation,
    conversations,
    solution,
)
from redraft.lab.expert import read_question
from redraft.lab.problems import (
    ARITHMETIC_GROUPS,
    SORTING_LENGTHS,
    Arithmetic,
    Sorting,
    apply,
    arithmetic,
    sorting,
    worked,
)
from redraft.lab.tasks import TASKS
from redraft.lab.tokenizer import build_tokenizer
from redraft.lab.words import WORDS
from redraft.models import load_model
from redraft.tasks import get_task
from score_runs import same_weights

MANY = 400
SPLITS = ("corpus", "train", "test")


@pytest.fixture(scope="module")
def corpus() -> list[Conversation]:
    return list(islice(conversations(0), 6000))


# Problems


def test_problems_are_a_function_of_split_and_index() -> None:
    for make in (sorting, arithmetic):
        for split in SPLITS:
            first = [make(split, index) for index in range(MANY)]
            assert [make(split, index) for index in reversed(range(MANY))] == first[::-1]
            assert len(set(first)) > 0.9 * MANY
    # Pinned: the same on every machine and Python, since the shipped model and results rely on it.
    assert sorting("test", 0).question == "Sort alarm heart autumn crane cricket fog"
    assert arithmetic("test", 0).question == "Compute (7*7)-(4*0)+(5*9)"


@pytest.mark.parametrize("make", [sorting, arithmetic])
def test_no_problem_is_in_two_splits(make: Callable[[Any, int], Sorting | Arithmetic]) -> None:
    seen = {split: {make(split, index) for index in range(20_000)} for split in SPLITS}
    assert not seen["corpus"] & seen["train"]
    assert not seen["corpus"] & seen["test"]
    assert not seen["train"] & seen["test"]


def test_sorting_golds_are_pythons_own() -> None:
    lengths = Counter()
    for index in range(MANY):
        problem = sorting("train", index)
        words = problem.question.removeprefix("Sort ").split()
        assert problem.gold == " ".join(sorted(words))
        assert len(set(words)) == len(words) == problem.size
        assert set(words) <= set(WORDS)
        lengths[problem.size] += 1
    assert lengths.keys() == set(SORTING_LENGTHS)


def test_arithmetic_golds_and_worked_solutions_are_pythons_own() -> None:
    sizes = Counter()
    for index in range(MANY):
        problem = arithmetic("train", index)
        expression = problem.question.removeprefix("Compute ")
        assert re.fullmatch(r"[-+*()0-9]+", expression)
        assert problem.gold == str(eval(expression))
        equations = worked(problem.steps).split(" ; ")
        for equation in equations:
            left, right = equation.split(" = ")
            assert eval(left) == int(right)
        assert equations[-1].endswith(f"= {problem.gold}")
        assert len(equations) == 2 * problem.size - 1
        sizes[problem.size] += 1
    assert sizes.keys() == set(ARITHMETIC_GROUPS)


@pytest.mark.parametrize("make", [sorting, arithmetic])
def test_programs_print_the_gold(make: type[Sorting] | type[Arithmetic]) -> None:
    for index in range(50):
        problem = make("train", index)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(problem.program)
        assert printed.getvalue() == problem.gold + "\n"


def test_an_operator_the_lab_does_not_have() -> None:
    with pytest.raises(ValueError, match="unknown operator '/'"):
        apply(1, "/", 2)


def test_words_are_distinct_and_in_order() -> None:
    assert list(WORDS) == sorted(set(WORDS))
    assert all(re.fullmatch("[a-z]{3,7}", word) for word in WORDS)


# Tasks


@pytest.mark.parametrize("name", [entry.name for entry in TASKS])
def test_a_lab_task_loads_and_grades_like_any_other(name: str) -> None:
    task = get_task(name)
    train, test = task.load("train", 40).problems, task.load("test", 40).problems
    assert len({problem.id for problem in (*train, *test)}) == 80
    assert task.load("test", 40, seed=5).problems == test
    assert len(task.load("test").problems) == 1000
    for problem, other in zip(test, train, strict=True):
        assert task.grader(problem, problem.gold).correct
        assert task.grader(problem, other.gold).correct == (problem.gold == other.gold)


def test_a_worked_solution_counts_by_its_last_value() -> None:
    task = get_task("lab/arithmetic")
    for index, problem in enumerate(task.load("test", 40).problems):
        solution = worked(arithmetic("test", index).steps)
        assert task.grader(problem, solution).correct
        assert not task.grader(problem, solution + "1").correct


# The corpus


def test_the_corpus_is_a_function_of_its_seed(corpus: list[Conversation]) -> None:
    assert list(islice(conversations(0), 300)) == corpus[:300]
    assert list(islice(conversations(1), 300)) != corpus[:300]


def test_conversations_alternate_and_ask_again_in_the_tasks_own_words(
    corpus: list[Conversation],
) -> None:
    assert get_task("lab/sorting").prompts.retry == RETRY
    for conversation in corpus:
        roles = [message["role"] for message in conversation]
        assert roles == ["user", "assistant"] * (len(conversation) // 2)
        later = {message["content"] for message in conversation[2::2]}
        assert later <= {RETRY} or later == {PROGRAM}


def problem_of(conversation: Conversation) -> Sorting | Arithmetic:
    return read_question(conversation[0]["content"].removesuffix(f" {PROGRAM}"))


def attempts_of(conversation: Conversation) -> list[str]:
    return [message["content"] for message in conversation[1::2]]


def is_program(conversation: Conversation) -> bool:
    return any(message["content"].endswith(PROGRAM) for message in conversation[::2])


def share(members: list[Conversation], where: Callable[[Conversation], bool]) -> float:
    return sum(map(where, members)) / len(members)


def test_the_corpus_has_the_proportions_it_says(corpus: list[Conversation]) -> None:
    tried = [conversation for conversation in corpus if not is_program(conversation)]
    programs = [conversation for conversation in corpus if is_program(conversation)]
    assert len(programs) / len(corpus) == pytest.approx(FAMILIES["program"], abs=0.02)
    for family, kind in (("sorting", Sorting), ("arithmetic", Arithmetic)):
        found = share(corpus, lambda d, kind=kind: not is_program(d) and _is(kind, d))
        assert found == pytest.approx(FAMILIES[family], abs=0.02)
    lasting = tried
    for number, goes_on in enumerate(WITH_ANOTHER, start=1):
        further = [d for d in lasting if len(attempts_of(d)) > number]
        assert len(further) / len(lasting) == pytest.approx(goes_on, abs=0.05)
        lasting = further

    long = [d for d in tried if isinstance(p := problem_of(d), Sorting) and p.size >= LONG]
    short = [d for d in tried if isinstance(p := problem_of(d), Sorting) and p.size < LONG]
    for members, size in ((long, "long"), (short, "short")):
        # A slip hides some of the hasty attempts, and a hasty one is right now and then.
        wrong = share(members, lambda d: attempts_of(d)[0] != solution(problem_of(d))[0])
        expected = 1 - (1 - HASTY[size]) * (1 - SLIPS["sorting"])
        assert expected - 0.08 < wrong < expected + 0.03
    hasty = share(long, lambda d: attempts_of(d)[0] == getattr(problem_of(d), "hasty", None))
    assert hasty == pytest.approx(HASTY["long"] * (1 - SLIPS["sorting"]), abs=0.05)


def test_further_attempts_are_of_the_kinds_it_says(corpus: list[Conversation]) -> None:
    after: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    for conversation in corpus:
        if is_program(conversation):
            continue
        right, said = solution(problem_of(conversation))[0], attempts_of(conversation)
        for before, now in pairwise(said):
            kind = "copy" if now == before else "correct" if now == right else "rewrite"
            after[before == right][kind] += 1
    for correct, shares in ((False, AGAIN_AFTER_WRONG), (True, AGAIN_AFTER_RIGHT)):
        found = after[correct]
        for kind, wanted in shares.items():
            assert found[kind] / found.total() == pytest.approx(wanted, abs=0.05), (correct, kind)


def test_programs_solve_or_repeat(corpus: list[Conversation]) -> None:
    programs = [conversation for conversation in corpus if is_program(conversation)]
    after = [conversation for conversation in programs if len(conversation) == 4]
    assert len(after) / len(programs) == pytest.approx(PROGRAM_AFTER_ATTEMPT, abs=0.04)
    solving = share(after, lambda d: d[3]["content"] == problem_of(d).program)
    assert solving == pytest.approx(PROGRAM_SOLVES, abs=0.04)
    for conversation in after:
        attempt, program = attempts_of(conversation)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(program)
        claimed = attempt if "=" not in attempt else attempt.split("=")[-2].split(";")[-1]
        expected = problem_of(conversation).gold
        if program != problem_of(conversation).program:
            expected = claimed if "=" not in attempt else str(eval(claimed))
        assert printed.getvalue().split() == expected.split()


def test_asking_again_does_not_help_in_the_corpus(corpus: list[Conversation]) -> None:
    """What the base model imitates gains nothing from a second attempt."""
    twice = [d for d in corpus if not is_program(d) and len(d) > 2]
    first = share(twice, lambda d: attempts_of(d)[0] == solution(problem_of(d))[0])
    second = share(twice, lambda d: attempts_of(d)[1] == solution(problem_of(d))[0])
    assert second <= first


def _is(kind: type[Sorting] | type[Arithmetic], conversation: Conversation) -> bool:
    return isinstance(problem_of(conversation), kind)


# The tokenizer


def test_every_conversation_is_whole_pieces_and_round_trips(corpus: list[Conversation]) -> None:
    tokenizer = build_tokenizer()
    for conversation in corpus[:1500]:
        text = tokenizer.apply_chat_template(conversation, tokenize=False)
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert not [t for t in tokenizer.convert_ids_to_tokens(tokens) if t.startswith("<0x")]
        for message in conversation:
            ids = tokenizer(message["content"], add_special_tokens=False)["input_ids"]
            assert tokenizer.decode(ids) == message["content"]


@pytest.mark.parametrize("text", ["Grüße, 世界! 🙂", "a  b\n\tc", "x**2 - 1 == {y}", "<|end|", ""])
def test_any_other_text_round_trips_as_bytes(text: str) -> None:
    tokenizer = build_tokenizer()
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


# Building the model


@pytest.fixture
def few_conversations(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Small batches, and no trace of the building's bf16 left in accelerate's global state."""
    monkeypatch.setattr(lab_build, "CONVERSATIONS_PER_STEP", 8)
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("few_conversations")
def test_building_gives_a_model_that_loads_and_depends_on_the_seed_alone(tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("two", 0), ("other", 1)):
        torch.rand(3)  # whatever was drawn before
        lab_build.build(tmp_path / name, seed=seed, steps=2)
    assert same_weights(tmp_path / "one", tmp_path / "two")
    assert not same_weights(tmp_path / "one", tmp_path / "other")
    model, tokenizer = load_model(tmp_path / "one", device="cpu")
    assert 400_000 < model.num_parameters() < 3_000_000
    assert model.config.vocab_size == len(tokenizer)
    assert tokenizer.get_vocab() == build_tokenizer().get_vocab()


def test_the_shipped_model_solves_problems_it_has_not_seen() -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_path())
    assert tokenizer.get_vocab() == build_tokenizer().get_vocab()
    assert tokenizer.chat_template == build_tokenizer().chat_template
    settings = EvaluationSettings(task="lab/sorting", limit=60, max_tokens=96, device="cpu")
    first, _ = evaluate(settings).to_summary()["accuracy"]
    assert first > 0.3
