"""How many problems a Δ needs, by hand and by simulation."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from redraft.cli import run
from redraft.errors import UserError
from redraft.evaluation.planning import mcnemar_power, problems_needed
from report_runs import evaluation, verdicts


def test_power_by_hand() -> None:
    # Six problems, all discordant and all gains but one in ten: 2 / 2^6 = 0.031 for 6 of one kind,
    # 14 / 64 for 5. So the test rejects at 6 gains, 0.9^6, or 6 losses, 0.1^6.
    assert mcnemar_power(6, 0.8, 1.0) == pytest.approx(0.9**6 + 0.1**6)
    assert mcnemar_power(5, 1.0, 1.0) == 0  # 2 / 2^5 = 0.0625


@pytest.mark.parametrize(("delta", "discordant"), [(0.1, 0.2), (0.05, 0.05), (0.2, 0.6)])
def test_as_many_problems_find_it_in_four_of_five_evaluations(
    delta: float, discordant: float
) -> None:
    problems = problems_needed(delta, discordant)
    gain, loss = (discordant + delta) / 2, (discordant - delta) / 2
    random = np.random.default_rng(0)
    drawn = random.multinomial(problems, [gain, loss, 1 - discordant], size=2000)
    splits, times = np.unique(drawn[:, :2], axis=0, return_counts=True)
    found = [b + c > 0 and binomtest(b, b + c).pvalue <= 0.05 for b, c in splits.tolist()]
    assert times @ found / 2000 == pytest.approx(0.8, abs=0.035)  # four standard errors
    assert mcnemar_power(problems - 1, delta, discordant) < 0.8


def test_the_approximation_of_connor_is_near_for_many_problems() -> None:
    # (1.95996 √0.1 + 0.84162 √(0.1 - 0.0001))² / 0.0001 = 7847
    assert problems_needed(0.01, 0.1) == pytest.approx(7847, rel=0.03)


@pytest.mark.parametrize(("delta", "discordant"), [(0.1, 0.05), (0, 0.1), (-0.1, 0.1), (0.1, 1.1)])
def test_what_cannot_be_is_refused(delta: float, discordant: float) -> None:
    with pytest.raises(UserError, match="expected a Δ above 0"):
        problems_needed(delta, discordant)


def test_the_command_takes_an_earlier_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = evaluation(tmp_path / "run", verdicts({"11": 10, "10": 2, "01": 4, "00": 24}))
    assert run(["eval", "--plan", "5", "--from", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    [plan] = found.pop("plans")
    assert found == {"delta": 0.05, "power": 0.8, "level": 0.05}
    assert plan["discordant"] == pytest.approx(6 / 40)
    assert plan["n_problems"] == problems_needed(0.05, 6 / 40)
    assert run(["eval", "--plan", "5", "--discordant", "15"]) == 0
    assert f"{plan['n_problems']:,} problems if 15.0 %" in capsys.readouterr().out
    assert run(["eval", "--plan", "5"]) == 0
    shares = [line.split()[3] for line in capsys.readouterr().out.splitlines() if " if " in line]
    assert shares == ["5.0", "10.0", "20.0", "30.0", "50.0"]


def test_a_run_without_flips_still_says_something(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = evaluation(tmp_path / "run", verdicts({"11": 20, "00": 20}))
    assert run(["eval", "--plan", "2", "--from", str(folder)]) == 0
    told = capsys.readouterr()
    # By hand: Wilson's interval of 0 of 40 ends at 1.96² / (40 + 1.96²) = 8.8 %.
    assert "0.0 % of its 40 pairs are discordant, and at most 8.8 % of all" in told.err
    shares = [line.split()[3] for line in told.out.splitlines() if " if " in line]
    assert shares == ["2.0", "5.0", "8.8"]
    assert run(["eval", "--plan", "20", "--from", str(folder)]) == 2
    assert "a Δ of 20 points needs as many at least" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--discordant", "3"], "belongs to --plan"),
        (["--plan", "2", "--discordant", "1"], "from Δ to 100 %"),
        (["--plan", "2", "--from", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["eval", *arguments]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
