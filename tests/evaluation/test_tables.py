"""What a reader of the terminal and of a results page sees."""

import io
import json

import pytest
from rich.console import Console

from evaluation_episodes import episode, episodes_from, turn
from redraft.evaluation.examples import example_panel, printable, repaired
from redraft.evaluation.statistics import Estimate, summarise
from redraft.evaluation.tables import (
    comparison_markdown,
    comparison_table,
    difference_text,
    summary_table,
)

R, W = True, False


def render(item, width=80, colour=False):
    out = io.StringIO()
    colours = "standard" if colour else None
    console = Console(file=out, width=width, force_terminal=colour, color_system=colours)
    console.print(item)
    return out.getvalue()


@pytest.fixture(scope="module")
def summary():
    # 40 problems: 10 right twice, 16 wrong twice, 12 repaired, 2 spoiled.
    kinds = [[R, R]] * 10 + [[W, W]] * 16 + [[W, R]] * 12 + [[R, W]] * 2
    return summarise(episodes_from([[kind] for kind in kinds])).to_summary()


def cells(line):
    return [cell.strip() for cell in line.strip("│ \n").split("│")]


def test_summary_table_shows_values_and_intervals(summary):
    lines = render(summary_table(summary, "base [on] sort")).splitlines()
    rows = {cells(line)[0]: cells(line)[1:] for line in lines if line.startswith("│")}
    assert rows["accuracy, turn 1"][0] == "30.0"
    assert rows["accuracy, turn 2"][0] == "55.0"
    assert rows["Δ(t1,t2)"][0] == "+25.0"
    low, high = summary["ci95"]["delta_t1_t2"]
    assert rows["Δ(t1,t2)"][1] == f"[{100 * low:+.1f}, {100 * high:+.1f}]"
    assert rows["wrong → right"][0] == "30.0"
    assert rows["right → wrong"][0] == "5.0"
    assert rows["wrong gets right"][0] == "42.9"
    assert "base [on] sort" in lines[0]
    assert "40 problems" in " ".join(lines)
    # Nothing to say: no tokens were counted, all played both turns, no grading timed out.
    unsaid = {"attempt tokens, turn 1", "attempted, turn 1", "grading timed out, turn 1"}
    assert not {*unsaid, "Δ(t1,t2), first complete"} & {*rows}
    # By hand: 12 repaired against 2 spoiled, 2 (1 + 14 + 91) / 2^14 = 0.0129.
    assert rows["repaired as often as spoiled: p"][0] == "0.013"
    assert rows["wrong answer repeated, turn 2"][0] == "100.0"


def test_a_table_says_what_delta_is_where_first_responses_were_cut():
    finished = [turn(W, finish="length"), turn(R)]
    rows = [finished] * 8 + [[R, R]] * 20 + [[W, R]] * 2 + [[R, W]] * 2
    result = summarise([episode(f"p{place}", row) for place, row in enumerate(rows)])
    result.note(max_tokens=256, prompts="boxed")
    shown = " ".join(render(summary_table(result, "base")).split())
    assert "With prompts boxed, at most 256 tokens a response." in shown
    low, high = (f"{100 * x:+.1f}" for x in result.to_summary()["ci95"]["delta_t1_t2_complete"])
    assert "25.0 % of the first responses were cut at the limit of 256 tokens" in shown
    assert f"Over complete first responses Δ(t1,t2) is 0.0 [{low}, {high}]" in shown
    both = comparison_markdown({"base": result, "tuned": summarise(episodes_from([[[R, R]]]))})
    assert "base: 25.0 % of the first responses were cut" in both
    assert "tuned: " not in both


def test_a_grader_that_names_no_answers_has_no_rows_of_answers():
    """A bool of the user's own: texts are compared, and nothing is said to be missing."""
    wrong = turn(W, "a", answer=None)
    bare = wrong.grade.model_copy(update={"status": "graded"})
    wrong = wrong.model_copy(update={"grade": bare})
    rows = [wrong, turn(R, "b", answer=None)], [wrong, wrong]
    result = summarise([episode(f"p{n}", row) for n, row in enumerate(rows)])
    lines = [cells(line) for line in render(summary_table(result)).splitlines() if "│" in line]
    found = {line[0]: line[1] for line in lines}
    assert found["answer changed"] == "50.0"
    assert not any(name.startswith(("no answer", "wrong answer repeated")) for name in found)
    assert "(no answer)" not in render(example_panel(episode("p", [wrong])))
    assert "attempt 1: wrong" in render(example_panel(episode("p", [wrong])))


@pytest.mark.parametrize(("cut", "told"), [(20, False), (21, True)])
def test_a_table_says_where_most_responses_were_cut_off(cut, told):
    turns = [turn(W, finish="length")] * cut + [turn(R)] * (40 - cut)
    result = summarise([episode(f"p{place}", [one]) for place, one in enumerate(turns)])
    result.note(max_tokens=384, prompts="score-code")
    shown = " ".join(render(summary_table(result)).split())
    expected = "cut off at --max-tokens 384 with --prompts score-code: raise the limit"
    assert (expected in shown) is told


def test_summary_table_of_one_turn_has_no_rows_for_a_second():
    text = render(summary_table(summarise(episodes_from([[[R]], [[W]]]))))
    assert "accuracy, turn 1" in text
    assert "Δ" not in text


def test_summary_table_names_later_deltas_and_early_stops():
    text = render(summary_table(summarise(episodes_from([[[R]], [[W, R]], [[W, W, R]]]))))
    rows = [cells(line)[0] for line in text.splitlines() if line.startswith("│")]
    assert rows[3:6] == ["Δ(t1,t2)", "Δ(t2,t3)", "Δ(t1,t3)"]
    assert "attempted, turn 3" in rows


@pytest.mark.parametrize("width", [80, 120])
def test_comparison_fits_the_terminal(summary, width):
    worst = summarise(episodes_from([[[W, R]], [[R, R]], [[R, W]]]))
    systems = {"base": summary, "plain multi-turn RL": summary, "[red]SCoRe[/red]": worst}
    lines = render(comparison_table(systems, "Held-out problems"), width).splitlines()
    assert max(len(line.rstrip()) for line in lines) <= width
    row = next(line for line in lines if line.startswith("base"))
    low, high = (100 * bound for bound in summary["ci95"]["delta_t1_t2"])
    shown = f"base 30.0 55.0 +25.0 [{low:+.1f}, {high:+.1f}] 30.0 5.0 35.0 65.0 0.0"
    assert row.split() == shown.split()
    assert any(line.startswith("[red]SCoRe") for line in lines)  # a name is not markup
    assert "…" not in "".join(lines)


def test_comparison_shows_the_last_turn_where_there_are_more(summary):
    longer = summarise(episodes_from([[[W, R, W, R]], [[W, W, W, R]]]))
    lines = render(comparison_table({"two": summary, "four": longer})).splitlines()
    assert lines[0].split()[:4] == ["system", "t1", "t2", "t4"]
    rows = {line.split()[0]: line.split()[1:4] for line in lines[1:3]}
    assert rows == {"two": ["30.0", "55.0", "–"], "four": ["0.0", "50.0", "100.0"]}


def test_comparison_reads_a_summary_from_disk(summary):
    again = json.loads(json.dumps(summary))
    assert render(comparison_table({"a": again})) == render(comparison_table({"a": summary}))


def test_markdown_has_as_many_cells_in_every_row(summary):
    text = comparison_markdown({"base|model\n*new*": summary, "SCoRe": summary})
    lines = text.split("\n\n")[0].splitlines()
    assert lines[0].startswith("| system | t1 | t2 | Δ(t1,t2) | 95 % interval |")
    assert lines[2].startswith("| base\\|model \\*new\\* | 30.0 | 55.0 | +25.0 |")
    assert {line.replace("\\|", "").count("|") for line in lines} == {11}
    assert "over 40 problems" in text


def test_captions_say_what_was_left_out(summary):
    assert "left out" not in render(summary_table({**summary, "n_failed": 0}))
    text = " ".join(render(summary_table({**summary, "n_failed": 3})).split())
    assert "3 of 43 problems left out: they could not be run or graded." in text
    both = comparison_markdown({"a": summary, "b": {**summary, "n_failed": 2}})
    assert "0 to 2 of 40 to 42 problems left out" in both


def test_difference_text():
    assert difference_text(Estimate(0.052, 0.031, 0.0744, 100)) == "+5.2 [+3.1, +7.4]"
    assert difference_text(Estimate(-0.0001, -0.02, 0.02, 9)) == "0.0 [-2.0, +2.0]"
    assert difference_text(Estimate(0.1, 0.0, 0.2, 9), "accuracy/turn2") == "+10.0 [0.0, +20.0]"
    assert difference_text(None) == "undefined"


def test_repaired_takes_the_first_of_each_problem():
    episodes = [
        episode("a", [R, R]),
        episode("b", [W, R], sample=0),
        episode("b", [W, R], sample=1),
        episode("c", [W, W, R]),
        episode("d", [W]),
        episode("e", [W, R, W]),
    ]
    assert [(e.problem.id, e.sample) for e in repaired(episodes, 5)] == [("b", 0), ("e", 0)]
    assert [e.problem.id for e in repaired(episodes, 1)] == ["b"]
    assert repaired([], 3) == []


def test_panel_shows_both_attempts_and_marks_the_change():
    first = turn(W, "so 2 + 2 = 5 at last", answer="5")
    second = turn(R, "so 2 + 2 = 4 at last", answer="4")
    panel = example_panel(episode("sum", [first, second]))
    plain = render(panel)
    assert "question sum" in plain
    assert "so 2 + 2 = 5 at last" in plain
    assert "so 2 + 2 = 4 at last" in plain
    assert "attempt 1: wrong (5)" in plain
    assert "attempt 2: right (4)" in plain
    coloured = render(panel, colour=True)
    assert "\x1b[9;31m5\x1b[0m" in coloured  # struck through, red
    assert "\x1b[1;4;32m4\x1b[0m" in coloured  # underlined, green
    assert "so 2 + 2 = " in coloured  # what both share is unmarked


def test_panel_of_a_single_attempt():
    text = render(example_panel(episode("sum", [turn(W, "no idea", answer=None)])))
    assert "attempt 1: wrong (no answer)" in text
    assert "no idea" in text


def test_hostile_output_is_shown_as_plain_text():
    attack = (
        "[bold]x[/bold] [/nothing] [link=file:///etc]y[/link] \x1b]0;title\x07\x1b[2J \x9b1m :bomb:"
    )
    panel = example_panel(
        episode("a", [turn(W, attack, answer="[red]"), turn(R, "\ud800 \u202e z")])
    )
    plain = render(panel, width=120)
    assert "[bold]x[/bold] [/nothing] [link=file:///etc]y[/link]" in plain
    assert ":bomb:" in plain
    assert "␛]0;title␇␛[2J" in plain
    assert "wrong ([red])" in plain
    assert not {"\x1b", "\x07", "\x9b", "\u202e", "\ud800"} & {*plain}
    plain.encode()  # a lone surrogate would raise


def test_printable_keeps_text_lines_and_tabs():
    text = "naïve 数\tΔ 👩‍🔬\nend"
    assert printable(text) == text


def test_long_attempts_are_cut_after_comparing_the_whole():
    numbers = [str(number) for number in range(1000, 4000)]  # 14,999 characters when joined
    longer = ["inserted", *numbers]
    attempts = [turn(W, " ".join(numbers)), turn(R, " ".join(longer))]
    text = render(example_panel(episode("a", attempts), 500), width=2000, colour=True)
    assert "(14,499 more characters)" in text
    assert "(14,508 more characters)" in text
    assert len(text) < 20_000
    assert "inserted" in text
    assert "\x1b[9;31m" not in text  # the first attempt lost nothing: its tail is in the second
