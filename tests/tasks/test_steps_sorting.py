"""The step checker of word sorting, its worked solutions, and the script that mends wrong ones."""

import json
import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redraft.tasks.bbh.formats import SORTING, SORTING_SCRIPT
from redraft.tasks.bbh.steps.sorting_rationale import improve, rationale
from redraft.tasks.steps import QUOTE_LIMIT, StepVerdict

CHECKER = SORTING_SCRIPT
QUESTION = "Sort the following words alphabetically: List: cake card acorn cat bean"
WORKED = [
    '(1) The first letter: "cake"="c" (3), "card"="c" (3), "acorn"="a" (1), "cat"="c" (3), '
    '"bean"="b" (2).',
    '(2) We now have: (1) "acorn" < (2) "bean" < (3) ["cake" ? "card" ? "cat"].',
    '(3) Now let\'s sort this subpart ["cake" ? "card" ? "cat"] by looking at their second '
    'letters: "cake"="a" (1), "card"="a" (1), "cat"="a" (1).',
    '(3.1) We now have: (1) ["cake" ? "card" ? "cat"].',
    '(3.2) Sort ["cake" ? "card" ? "cat"] again by looking at their third letters: '
    '"cake"="k" (11), "card"="r" (18), "cat"="t" (20).',
    '(3.3) We now have: (11) "cake" < (18) "card" < (20) "cat".',
    '(3.4) Hence, we have "cake" < "card" < "cat".',
    '(4) Hence, we have "acorn" < "bean" < "cake" < "card" < "cat".',
    "(Final response) So the answer is: acorn bean cake card cat.",
]


def posed(words: list[str]) -> str:
    return "Sort the following words alphabetically: List: " + " ".join(words)


def with_line(index: int, old: str, new: str) -> list[str]:
    assert old in WORKED[index]
    return [*WORKED[:index], WORKED[index].replace(old, new, 1), *WORKED[index + 1 :]]


def test_the_papers_lines() -> None:
    assert rationale(QUESTION) == WORKED
    assert CHECKER.check(QUESTION, WORKED).confirms
    nested = rationale(posed(["purloin", "percept", "purcell"]))
    assert [line.split()[0] for line in nested] == [
        *("(1)", "(2)", "(3)", "(3.1)", "(3.2)", "(3.2.1)", "(3.2.2)", "(3.2.3)", "(3.2.4)"),
        *("(3.3)", "(4)", "(Final"),
    ]
    with pytest.raises(ValueError, match="no words"):
        rationale("Sort the following words alphabetically: List: ")


@pytest.mark.parametrize(
    ("index", "old", "new", "check", "span", "reason"),
    [
        (0, '"card"="c"', '"card"="k"', "to_num", '"card"="k" (3)', "first letter"),
        (0, '"bean"="b" (2)', '"bean"="b" (4)', "to_num", '"bean"="b" (4)', "not 4"),
        (4, '"cat"="t" (20)', '"cat"="a" (1)', "to_num", '"cat"="a" (1)', 'is "t", not "a"'),
        (0, ', "cat"="c" (3)', "", "self_consistent", "bean", '"cat" is missing'),
        (0, '"cat"="c"', '"cot"="c"', "self_consistent", '"cot"', "not one of the words"),
        (1, '"card" ? "cat"', '"cat"', "self_consistent", "acorn", '"card" is missing'),
        (1, '"acorn" <', '"acorn" < (1) "acorn" <', "self_consistent", "acorn", "more often"),
        (2, '["cake" ? "card" ? "cat"]', '["cake" ? "cat"]', "self_consistent", "cake", "card"),
        (2, "second", "third", "letter_to_sort", "cake", "second letters next"),
        (
            3,
            '["cake" ? "card" ? "cat"]',
            '"cake" < (1) "card" < (1) "cat"',
            "sort",
            "cake",
            "apart",
        ),
        (1, '(1) "acorn" < (2) "bean"', '(2) "bean" < (1) "acorn"', "sort", "bean", "acorn"),
        (5, '(11) "cake" < (18) "card"', '(18) "card" < (11) "cake"', "sort", "card", "before"),
        (5, '(18) "card"', '(9) "card"', "to_num", '(9) "card"', "number 9"),
        (6, '"cake" < "card"', '"card" < "cake"', "combine", "card", "cake"),
        (7, '"cake" < "card"', '["cake" ? "card"]', "combine", "cake", "known already"),
        (7, '"bean" < ', "", "self_consistent", "acorn", '"bean" is missing'),
        (8, "acorn bean", "bean acorn", "final", "bean acorn", "alphabet"),
        (8, " cat.", ".", "final", "answer is", '"cat" is missing'),
    ],
)
def test_planted_errors(index: int, old: str, new: str, check: str, span: str, reason: str) -> None:
    steps = with_line(index, old, new)
    verdict = CHECKER.check(QUESTION, steps)
    assert (verdict.step, verdict.check) == (index, check)
    assert span in verdict.span
    assert verdict.span in steps[index]
    assert reason in verdict.reason
    mended = improve(QUESTION, steps, verdict)
    assert mended[:index] == steps[:index]
    assert CHECKER.check(QUESTION, mended).confirms
    assert f"In step ({index + 1})" in SORTING.critique(steps, verdict).text


def test_steps_left_out() -> None:
    words = posed(["cake", "card", "bean", "bear"])
    gold = rationale(words)
    beans = [line for line in gold if not line.startswith("(3")]
    verdict = CHECKER.check(words, beans)
    assert (verdict.step, verdict.check) == (2, "to_subpart")  # goes on to "c" with "b" open
    assert '["bean" ? "bear"]' in verdict.reason
    unsorted = [*gold[:2], gold[-1]]
    verdict = CHECKER.check(words, unsorted)
    assert (verdict.step, verdict.check) == (2, "final")
    skipped = [line.replace("second letters", "third letters") for line in gold[:3]]
    skipped[2] = re.sub(r': "be.*', ".", skipped[2])
    verdict = CHECKER.check(words, skipped)
    assert (verdict.step, verdict.check) == (2, "letter_to_sort")
    verdict = CHECKER.check(words, gold[:-1])
    assert (verdict.step, verdict.check) == (len(gold) - 2, "final")
    assert "without a final answer" in verdict.reason


WORDS = st.lists(st.from_regex(r"[abc]{1,4}('[abc]{1,2})?", fullmatch=True), min_size=1, max_size=9)


@settings(max_examples=150, deadline=None)
@given(WORDS)
def test_worked_solutions_are_always_confirmed(words: list[str]) -> None:
    gold = rationale(posed(words))
    assert CHECKER.check(posed(words), gold).confirms
    assert gold[-1] == f"(Final response) So the answer is: {' '.join(sorted(words))}."
    assert CHECKER.check(posed(words), ["\n".join(gold)]).confirms


LETTER = re.compile(r'"=".?"')
PIECE = re.compile(r'"[^"]+" < \(\d+\) "[^"]+"|"[^"]+" < "[^"]+"')


@settings(max_examples=150, deadline=None)
@given(WORDS, st.data())
def test_any_planted_error_is_located_and_mended(words: list[str], data: st.DataObject) -> None:
    question = posed(words)
    gold = rationale(question)
    index = data.draw(st.integers(0, len(gold) - 1))
    line = gold[index]
    spots = list(LETTER.finditer(line)) or list(PIECE.finditer(line))
    if not spots:
        return
    spot = data.draw(st.sampled_from(spots))
    wrong = '"="z"'
    if '"="' not in spot.group():
        first, second = re.findall(r'"([^"]+)"', spot.group())
        if first == second:
            return
        wrong = spot.group().replace(f'"{first}"', '"_"').replace(f'"{second}"', f'"{first}"')
        wrong = wrong.replace('"_"', f'"{second}"')
    steps = list(gold)
    steps[index] = line[: spot.start()] + wrong + line[spot.end() :]
    verdict = CHECKER.check(question, steps)
    assert verdict.step == index, (steps[index], verdict)
    assert verdict.span in steps[index]
    mended = improve(question, steps, verdict)
    assert mended == gold


def test_free_text() -> None:
    right = [
        "I should start by looking at the first letters. cake: c (3), card: c (3), acorn: a (1), "
        "cat: c (3), bean: b (2).",
        "Now we have (1) acorn < (2) bean < (3) [cake ? card ? cat].",
        "Hence, let's sort this subpart (3) [cake ? card ? cat] by their second letters. "
        "The second letters: cake: a (1), card: a (1), cat: a (1).",
        "We get (1) “cake” = “card” = “cat”. As they are equal we look at the third letters: "
        "cake: k (11), card: r (18), cat: t (20).",
        "We now have (11) cake < (18) card < (20) cat for the subpart. Hence, we have acorn < bean "
        "< cake < card < cat.",
        "I have sorted the words. The answer is acorn, bean, cake, card, and cat. I hope it helps!",
    ]
    assert CHECKER.check(QUESTION, right).confirms
    stale = [*right[:4], right[4].replace("acorn < bean", "bean < acorn"), right[5]]
    assert CHECKER.check(QUESTION, stale).step == 4
    mended = improve(QUESTION, stale, CHECKER.check(QUESTION, stale))
    assert mended[:4] == stale[:4]
    assert not any(line.startswith("(") for line in mended)
    assert CHECKER.check(QUESTION, mended).confirms


@pytest.mark.parametrize(
    ("steps", "wrong"),
    [
        (["The sorted list is:\n1. acorn\n2. bean\n3. cake\n4. card\n5. cat"], None),
        (["**Answer:** acorn bean cake card cat"], None),
        (["First, the list: cake card acorn cat bean.", "Sorted: acorn bean cake card cat."], None),
        (["cake comes before card", "Final answer: acorn bean cake card cat"], None),
        (['cake starts with "k".', "Final answer: acorn bean cake card cat"], 0),
        (['"cat" > "card" > "cake"', "The answer is acorn bean cake card cat"], None),
        (['"cat" < "card"', "The answer is acorn bean cake card cat"], 0),
        (["Let me think.", "The answer is acorn bean card cake cat."], 1),
    ],
)
def test_looser_wordings(steps: list[str], wrong: int | None) -> None:
    verdict = CHECKER.check(QUESTION, steps)
    assert verdict.readable
    assert verdict.step == wrong


def test_questions_of_every_form() -> None:
    for question in (
        "cake card acorn cat bean",
        "Sort cake card acorn cat bean",
        f"Q: {QUESTION}\nA: Let's think step by step.",
        "Sort these words: cake, card, acorn, cat, bean",
        "Sort the following words alphabetically:\nList: Cake Card Acorn Cat Bean\nAnswer: ...",
    ):
        assert CHECKER.check(question, WORKED).confirms, question


@pytest.mark.parametrize("steps", [[], [""], ["Hello!", "I cannot help with that."], ["\0", "?"]])
def test_unreadable(steps: list[str]) -> None:
    verdict = CHECKER.check(QUESTION, steps)
    assert not verdict.readable
    assert not verdict.confirms
    assert improve(QUESTION, steps, verdict) == WORKED


@pytest.mark.parametrize(
    "text",
    [
        "[" * 20_000,
        '["cake" ? ' * 3_000,
        '"cake" < "cat". ' * 1_500,
        "'" * 20_000,
        "sorted: " * 3_000,
        "9" * 1_000_000,
        "(" + "9" * 20_000 + ")",
        "\n" * 20_000,
        "__import__('os').abort() < cake < cat ? ",
        '"cake": "c" (3) ' * 1_500,
    ],
)
def test_hostile_text_neither_hangs_nor_raises(text: str) -> None:
    begun = time.process_time()
    for steps in ([text], [*WORKED[:3], text], [text, WORKED[-1]]):
        assert isinstance(CHECKER.check(QUESTION, steps), StepVerdict)
    assert isinstance(CHECKER.check(text, WORKED), StepVerdict)
    assert time.process_time() - begun < 10


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text('"<?[]():= cakerdtz1.\n', max_size=60), max_size=5))
def test_any_text_gets_a_verdict_and_can_be_mended(steps: list[str]) -> None:
    verdict = CHECKER.check(QUESTION, steps)
    if verdict.step is not None:
        assert verdict.span in steps[verdict.step]
        assert verdict.reason
    assert CHECKER.check(QUESTION, improve(QUESTION, steps, verdict)).confirms


def test_first_mistakes_as_annotated(shared_data: Path) -> None:
    """BIG-Bench-Mistake: the one miss is "improvise" for "improvisate", overlooked there."""
    path = shared_data / "bigbench_mistake" / "word_sorting.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    verdicts = [CHECKER.check(row["input"], row["steps"]) for row in rows]
    assert all(verdict.readable for verdict in verdicts)
    missed = [
        index
        for index, (row, verdict) in enumerate(zip(rows, verdicts, strict=True))
        if verdict.step != row["mistake_index"]
    ]
    assert missed == [41]
    for row, verdict in zip(rows, verdicts, strict=True):
        assert CHECKER.check(row["input"], improve(row["input"], row["steps"], verdict)).confirms


def test_another_models_solutions(shared_data: Path) -> None:
    """Solutions of code-davinci-002: right answers and no mistake go together, but for slips."""
    path = shared_data / "transcripts" / "bbh_code-davinci-002_cot" / "word_sorting.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    confirmed_right = right = 0
    for row in rows:
        verdict = CHECKER.check(row["input"], row["prediction"].split("\n"))
        assert verdict.readable
        if row["prediction"].endswith(f"answer is {row['target']}."):
            right += 1
            misplaced = verdict.check == "to_num"  # 'l' as letter 11: a mistake without effect
            confirmed_right += verdict.confirms or misplaced
        else:
            assert verdict.step is not None
    assert right == 101
    assert confirmed_right >= 99


@pytest.mark.parametrize(
    "steps",
    [
        ["ant", "z" * 150_000, "bee"],
        ["bee ant " + "z" * 150_000],
        ['The first letter: "' + "z" * 50 + '": "z" (26). ' * 2000],
        ["The answer is " + "z" * 150_000 + " ant"],
        ["The answer is " + "zz " * 50_000],
    ],
)
def test_quotations_are_short(steps: list[str]) -> None:
    verdict = SORTING_SCRIPT.check("Sort: List: bee ant", steps)
    assert len(verdict.span) <= QUOTE_LIMIT
    assert len(verdict.reason) <= QUOTE_LIMIT
    assert verdict.step is None or verdict.span in steps[verdict.step]


def test_long_words_of_a_question_are_not_quoted_in_full() -> None:
    question = f"Sort: List: {'b' * 50_000} {'a' * 50_000}"
    verdict = SORTING_SCRIPT.check(question, ["The answer is b a"])
    assert verdict.step == 0
    assert len(verdict.reason) <= QUOTE_LIMIT


def test_groups_in_round_brackets() -> None:
    round_ones = [step.replace("[", "(").replace("]", ")") for step in WORKED]
    assert CHECKER.check(QUESTION, round_ones).confirms
    round_ones[1] = '(2) We now have: (1) "acorn" < (2) "bean" < (3) ("cake" ? "cat").'
    verdict = CHECKER.check(QUESTION, round_ones)
    assert (verdict.step, verdict.check) == (1, "self_consistent")
    bare = [step.replace('"', "") if step[:3] == "(2)" else step for step in WORKED]
    assert CHECKER.check(QUESTION, [s.replace("[", "(").replace("]", ")") for s in bare]).confirms


@pytest.mark.parametrize(
    ("question", "answer", "right"),
    [
        ("is answer the", "The answer is answer is the", True),
        ("is answer the", "So the answer is: answer, is, the.", True),
        ("is answer the", "The answer is is answer the", False),
        ("is answer aged", "The answer is answer is aged. No, the answer is aged answer is", True),
        ("is answer", "The answer is answer is", True),
        ("is the answer", "The answer is not clear. The answer is answer is the.", True),
    ],
)
def test_answers_of_the_words_answer_and_is(question: str, answer: str, right: bool) -> None:
    verdict = CHECKER.check(f"Sort: List: {question}", [answer])
    assert verdict.readable
    assert verdict.confirms is right, verdict


def test_an_order_that_is_not_written_down() -> None:
    """What the letters say holds although no step says it."""
    assert CHECKER.check(QUESTION, [WORKED[0], *WORKED[2:]]).confirms
    wrong = WORKED[2].replace(' ? "cat"]', "]").replace(', "cat"="a" (1)', "")
    verdict = CHECKER.check(QUESTION, [WORKED[0], wrong, *WORKED[3:]])
    assert (verdict.step, verdict.check) == (1, "to_subpart")
    third = '(3) Now sort ["cake" ? "card" ? "cat"] by their third letters: ' + WORKED[4][67:]
    assert CHECKER.check(QUESTION, [WORKED[0], third, *WORKED[5:]]).step == 1


# Ties, lost words and words that end, in the wording of BIG-bench

LOST = 'We now have: (4) "card" for the subpart.'
TIED = [
    'The first letter: "sun": "s" (19). "card": "c" (3). "cart": "c" (3). "ant": "a" (1).',
    'We now have: (1) "ant" < (3) ["card" ? "cart"] < (19) "sun".',
    'Now let\'s sort this subpart ["card" ? "cart"] by looking at their second letters. '
    'The second letter: "card": "a" (1). "cart": "a" (1).',
    'We now have: (1) ["card" ? "cart"] for the subpart.',
    'Now let\'s sort this subpart ["card" ? "cart"] by looking at their third letters. '
    'The third letter: "card": "r" (18). "cart": "r" (18).',
    'We now have: (18) ["card" ? "cart"] for the subpart.',
    'Now let\'s sort this subpart ["card" ? "cart"] by looking at their fourth letters. '
    'The fourth letter: "card": "d" (4). "cart": "t" (20).',
    'We now have: (4) "card" < (20) "cart" for the subpart.',
    "I have now sorted all the words. The answer is ant card cart sun",
]


@pytest.mark.parametrize(
    ("steps", "wrong"),
    [
        (TIED, None),
        ([*TIED[:3], *TIED[4:]], None),  # the tie is not said again
        ([*TIED[:3], TIED[4], *TIED[6:]], None),
        ([*TIED[:3], *TIED[6:]], 3),  # the third letters were never looked at
        ([*TIED[:2], *TIED[4:]], 2),
        ([*TIED[:3], 'We now have: (1) "card" = (1) "cart" for the subpart.', *TIED[4:]], None),
        ([*TIED[:3], 'We now have: (1) "card" < (1) "cart" for the subpart.', *TIED[4:]], 3),
        ([*TIED[:7], LOST, TIED[8]], 7),
        ([*TIED[:7], '(1) "card" has d there.\n(2) "cart" has t.', *TIED[7:]], None),
        ([TIED[0].replace("(19)", "(99999999999999999999)"), *TIED[1:]], 0),
    ],
)
def test_ties(steps: list[str], wrong: int | None) -> None:
    verdict = CHECKER.check("Sort: List: sun card cart ant", steps)
    assert verdict.readable
    assert verdict.step == wrong, verdict


@pytest.mark.parametrize(
    "ended", ['"sun": (0).', '"sun": no third letter (0).', '"sun": "" (0).', '"sun": none.']
)
def test_a_word_that_has_ended(ended: str) -> None:
    steps = [
        'The first letter: "sun": "s" (19). "su": "s" (19).',
        'We now have: (19) ["sun" ? "su"].',
        'Let\'s sort this subpart ["sun" ? "su"] by the second letter: "sun": "u" (21). '
        '"su": "u" (21).',
        f'Let\'s sort this subpart ["sun" ? "su"] by the third letter: "sun": "n" (14). '
        f"{ended.replace('sun', 'su')}",
        'We now have: (0) "su" < (14) "sun" for the subpart.',
        "The answer is su sun",
    ]
    assert CHECKER.check("Sort: List: sun su", steps).confirms


def test_what_a_word_begins_with() -> None:
    steps = ["The word cat starts with c and bat begins with d.", "The answer is bat cat"]
    verdict = CHECKER.check("Sort: List: cat bat", steps)
    assert (verdict.step, verdict.check) == (0, "to_num")
