"""The lab: problems with exact answers, a corpus of known proportions, a model one can rebuild."""

import contextlib
import io
import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from transformers import AutoTokenizer

from redraft.evaluation import evaluate
from redraft.evaluation.settings import EvaluationSettings
from redraft.lab import build as lab_build
from redraft.lab import model_path
from redraft.lab.corpus import (
    FAMILIES,
    FIRST_WRONG,
    RETRY,
    SECOND_AFTER_RIGHT,
    SECOND_AFTER_WRONG,
    WITH_SECOND,
    Dialogue,
    dialogues,
)
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
from redraft.lab.tasks import lab_tasks
from redraft.lab.tokenizer import build_tokenizer
from redraft.lab.words import WORDS
from redraft.models import load_model
from redraft.protocols import prompts_for
from redraft.tasks import get_task
from score_runs import same_weights

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")

MANY = 400
SPLITS = ("corpus", "train", "test")


@pytest.fixture(scope="module")
def corpus() -> list[Dialogue]:
    return list(islice(dialogues(0), 6000))


# Problems


def test_problems_are_a_function_of_split_and_index() -> None:
    for make in (sorting, arithmetic):
        for split in SPLITS:
            first = [make(split, index) for index in range(MANY)]
            assert [make(split, index) for index in reversed(range(MANY))] == first[::-1]
            assert len(set(first)) > 0.9 * MANY
    # Pinned: the same on every machine and Python, since the shipped model and results rely on it.
    assert sorting("test", 0).question == "Sort alarm heart autumn crane cricket"
    assert arithmetic("test", 0).question == "Compute (8*8)-(3-4)-(9*1)"


def test_no_sorting_problem_is_in_two_splits() -> None:
    seen = {split: {sorting(split, index) for index in range(3000)} for split in SPLITS}
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


@pytest.mark.parametrize("name", lab_tasks())
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


def test_the_corpus_is_a_function_of_its_seed(corpus: list[Dialogue]) -> None:
    assert list(islice(dialogues(0), 300)) == corpus[:300]
    assert list(islice(dialogues(1), 300)) != corpus[:300]


def test_dialogues_alternate_and_ask_again_in_the_tasks_own_words(corpus: list[Dialogue]) -> None:
    assert prompts_for("lab/sorting").retry == RETRY
    for dialogue in corpus:
        roles = [message["role"] for message in dialogue]
        assert roles == ["user", "assistant"] * (len(dialogue) // 2)
        assert len(dialogue) == 2 or dialogue[2]["content"] == RETRY


def family(dialogue: Dialogue) -> str:
    first = dialogue[0]["content"].split()[0]
    return {"Sort": "sorting", "Compute": "arithmetic", "Write": "program"}[first]


def right_answer(dialogue: Dialogue) -> str:
    question = dialogue[0]["content"]
    if family(dialogue) == "sorting":
        return " ".join(sorted(question.split()[1:]))
    parts = re.findall(r"\((\d)([-+*])(\d)\)", question)
    groups = tuple((int(a), operator, int(b)) for a, operator, b in parts)
    problem = Arithmetic(groups, tuple(re.findall(r"\)([-+])\(", question)))
    assert problem.question == question
    return worked(problem.steps)


def test_the_corpus_has_the_proportions_it_says(corpus: list[Dialogue]) -> None:
    families = Counter(map(family, corpus))
    for name, share in FAMILIES.items():
        assert families[name] / len(corpus) == pytest.approx(share, abs=0.02)
    tried = [dialogue for dialogue in corpus if family(dialogue) != "program"]
    twice = [dialogue for dialogue in tried if len(dialogue) == 4]
    assert len(twice) / len(tried) == pytest.approx(WITH_SECOND, abs=0.02)

    wrong = [dialogue for dialogue in tried if dialogue[1]["content"] != right_answer(dialogue)]
    # A random edit now and then changes nothing, so the share is a bound.
    assert FIRST_WRONG - 0.06 < len(wrong) / len(tried) < FIRST_WRONG + 0.02

    after: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    for dialogue in twice:
        first, second, right = (
            dialogue[1]["content"],
            dialogue[3]["content"],
            right_answer(dialogue),
        )
        kind = "copy" if second == first else "correct" if second == right else "rewrite"
        after[first == right][kind] += 1
    for correct, shares in ((False, SECOND_AFTER_WRONG), (True, SECOND_AFTER_RIGHT)):
        found = after[correct]
        for kind, share in shares.items():
            assert found[kind] / found.total() == pytest.approx(share, abs=0.05), (correct, kind)


def test_asking_again_does_not_help_in_the_corpus(corpus: list[Dialogue]) -> None:
    """What the base model imitates gains nothing from a second attempt."""
    twice = [dialogue for dialogue in corpus if len(dialogue) == 4]
    first = sum(dialogue[1]["content"] == right_answer(dialogue) for dialogue in twice)
    second = sum(dialogue[3]["content"] == right_answer(dialogue) for dialogue in twice)
    assert second <= first


# The tokenizer


def test_every_dialogue_is_whole_pieces_and_round_trips(corpus: list[Dialogue]) -> None:
    tokenizer = build_tokenizer()
    for dialogue in corpus[:1500]:
        text = tokenizer.apply_chat_template(dialogue, tokenize=False)
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert not [t for t in tokenizer.convert_ids_to_tokens(tokens) if t.startswith("<0x")]
        for message in dialogue:
            ids = tokenizer(message["content"], add_special_tokens=False)["input_ids"]
            assert tokenizer.decode(ids) == message["content"]


@pytest.mark.parametrize("text", ["Grüße, 世界! 🙂", "a  b\n\tc", "x**2 - 1 == {y}", "<|end|", ""])
def test_any_other_text_round_trips_as_bytes(text: str) -> None:
    tokenizer = build_tokenizer()
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


# Building the model


@pytest.fixture
def few_dialogues(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Small batches, and no trace of the building's bf16 left in accelerate's global state."""
    monkeypatch.setattr(lab_build, "DIALOGUES_PER_STEP", 8)
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("few_dialogues")
def test_building_gives_a_model_that_loads_and_depends_on_the_seed_alone(tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("two", 0), ("other", 1)):
        torch.rand(3)  # whatever was drawn before
        lab_build.build(tmp_path / name, seed=seed, steps=2)
    assert same_weights(tmp_path / "one", tmp_path / "two")
    assert not same_weights(tmp_path / "one", tmp_path / "other")
    model, tokenizer = load_model(tmp_path / "one", device="cpu")
    assert 500_000 < model.num_parameters() < 3_000_000
    assert model.config.vocab_size == len(tokenizer)
    assert tokenizer.get_vocab() == build_tokenizer().get_vocab()


def test_the_shipped_model_solves_problems_it_has_not_seen() -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_path())
    assert tokenizer.get_vocab() == build_tokenizer().get_vocab()
    assert tokenizer.chat_template == build_tokenizer().chat_template
    settings = EvaluationSettings(task="lab/sorting", limit=60, max_tokens=96, device="cpu")
    first, _ = evaluate(settings)["accuracy"]
    assert first > 0.5
