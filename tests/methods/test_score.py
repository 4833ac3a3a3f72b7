"""SCoRe's objective: its phases, the published settings, and where its gradients go.

Where they go is seen on a real learner: Stage I without KL leaves the first attempt alone, and the
bonus never reaches it. That a truncated attempt scores 0 is in `test_rollout.py`.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from episodes import Answer, episode
from redraft.config import resolve
from redraft.errors import UserError
from redraft.learning.config import LearnerConfig
from redraft.learning.credit import advantage_rows, rewards_by_answer
from redraft.learning.learner import Learner
from redraft.methods.score import Phase, ScoreConfig, advantages, plan
from redraft.training.method import METHODS
from redraft.types import Episode, same_problem_groups
from tiny_models import tiny_llama

PROMPT, BRIDGE, ATTEMPT = 3, 2, 4  # tokens
FIRST = slice(PROMPT, PROMPT + ATTEMPT)
SECOND = slice(FIRST.stop + BRIDGE, FIRST.stop + BRIDGE + ATTEMPT)
OUTCOMES = [(0, 1), (1, 0), (1, 1), (0, 0), (0, 1), (0, 0), (0, 0), (1, 1)]
"""Verdicts on both attempts of eight episodes, four of each of two problems."""


def config(**fields: Any) -> ScoreConfig:
    return ScoreConfig(out=Path("run"), task="gsm8k", **fields)


def episodes() -> list[Episode]:
    """Two-turn episodes of random tokens, all of one shape."""
    generator = np.random.default_rng(0)

    def answer(correct: int, before: int) -> Answer:
        shown, made = (generator.integers(5, 60, n).tolist() for n in (before, ATTEMPT))
        return Answer(bool(correct), shown=shown, made=made, logprobs=[-4.0] * ATTEMPT)

    return [
        episode(answer(first, PROMPT), answer(second, BRIDGE), problem=f"p{index // 4}")
        for index, (first, second) in enumerate(OUTCOMES)
    ]


def gradient(phase: Phase) -> torch.Tensor:
    """Gradient of a step's loss by the final hidden states, [episodes, time, hidden].

    The state at position i decides the distribution of token i + 1 and nothing else, so its
    gradient is what the loss does to that token's log-probability.
    """
    played = episodes()
    worth = advantages(
        phase, rewards_by_answer(played, phase.attempts), same_problem_groups(played)
    )
    model = tiny_llama()
    caught: list[torch.Tensor] = []

    def keep(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> None:
        if output.requires_grad:
            output.register_hook(caught.append)

    model.model.norm.register_forward_hook(keep)
    learner = Learner(model, LearnerConfig(learning_rate=1e-3), reference=tiny_llama(seed=1))
    rows = learner.with_reference(advantage_rows(played, worth, phase.kl_weights))
    learner.step(rows)
    [found] = caught
    return found


def of(turn: slice, gradients: torch.Tensor) -> torch.Tensor:
    """The part of a gradient that belongs to an attempt's tokens: one position earlier."""
    return gradients[:, turn.start - 1 : turn.stop - 1]


def stages(**fields: Any) -> tuple[Phase, Phase]:
    one, two = plan(config(**fields))
    return one, two


# Gradients


def test_stage_one_without_kl_leaves_the_first_attempt_alone() -> None:
    found = gradient(stages(beta1=0, beta2=0)[0])
    assert not of(FIRST, found).any()
    assert (of(SECOND, found)[[0, 1, 2, 3]].abs().amax(-1) > 0).all()


@pytest.mark.parametrize(("beta1", "beta2"), [(0.01, 0), (0, 0.1)])
def test_stage_one_holds_the_first_attempt_with_either_beta(beta1: float, beta2: float) -> None:
    found = gradient(stages(beta1=beta1, beta2=beta2)[0])
    assert (of(FIRST, found).abs().amax(-1) > 0).all()


def test_stage_ones_anchor_on_the_first_attempt_is_the_sum_of_the_betas() -> None:
    alone = of(FIRST, gradient(stages(beta1=0.1, beta2=0)[0]))
    both = of(FIRST, gradient(stages(beta1=0.1, beta2=0.3)[0]))
    torch.testing.assert_close(both, 4 * alone)


def test_alpha_never_alters_the_gradient_of_the_first_attempt() -> None:
    without, with_bonus = (gradient(stages(alpha=alpha)[1]) for alpha in (0, 10))
    assert of(FIRST, without).any()
    assert torch.equal(of(FIRST, without), of(FIRST, with_bonus))
    assert not torch.allclose(of(SECOND, without), of(SECOND, with_bonus))


def test_no_gradient_reaches_prompt_and_bridge() -> None:
    for phase in stages():
        found = gradient(phase)
        of(FIRST, found).zero_()
        of(SECOND, found).zero_()
        assert not found.any()


@pytest.mark.parametrize("credit", ["multi-turn-last", "multi-turn-sum"])
def test_plain_multi_turn_rl_does_reward_the_first_attempt_for_the_second(credit: str) -> None:
    """The tests above can fail: shared credit is what they would catch."""
    [phase] = plan(config(variant=credit, beta1=0))
    own = Phase("own", 1, (True, True), (0.0, 0.0))
    assert not torch.allclose(of(FIRST, gradient(phase)), of(FIRST, gradient(own)))


# Advantages of a phase, by hand: one problem, rewards (0, 1), (1, 0), (1, 1)

REWARDS = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])


@pytest.mark.parametrize(
    ("phase", "expected"),
    [
        (Phase("I", 1, (False, True), (0, 0)), [[0, 0.5], [0, -1], [0, 0.5]]),
        # Shaped second rewards with alpha 2 are 3, -2 and 1.
        (
            Phase("II", 1, (True, True), (0, 0), alpha=2),
            [[-1, 3.5], [0.5, -4], [0.5, 0.5]],
        ),
        (
            Phase("last", 1, (True, True), (0, 0), credit="last"),
            [[0.5, 0.5], [-1, -1], [0.5, 0.5]],
        ),
        # Returns from the first attempt on are 1, 1 and 2.
        (
            Phase("sum", 1, (True, True), (0, 0), credit="sum"),
            [[-0.5, 0.5], [-0.5, -1], [1, 0.5]],
        ),
    ],
)
def test_advantages_by_hand(phase: Phase, expected: list[list[float]]) -> None:
    np.testing.assert_allclose(advantages(phase, REWARDS, [[0, 1, 2]]), expected)


# The plan

STEPS = {"stage_one_steps": 7, "stage_two_steps": 5}


def test_score_has_two_stages() -> None:
    assert plan(config(**STEPS, beta1=0.25, beta2=0.5, alpha=4, offline_share=0.5)) == [
        Phase("stage I", 7, (False, True), (0.75, 0.25)),
        Phase("stage II", 5, (True, True), (0.25, 0.25), alpha=4, offline_share=0.5),
    ]


def test_three_attempts_have_a_stage_one_for_each_correction() -> None:
    assert plan(config(**STEPS, beta1=0.25, beta2=0.5, alpha=4, attempts=3)) == [
        Phase("stage I", 7, (False, True), (0.75, 0.25)),
        Phase("stage I(b)", 7, (False, False, True), (0.75, 0.75, 0.25), new_reference=True),
        Phase("stage II", 5, (True, True, True), (0.25, 0.25, 0.25), alpha=4),
    ]


def test_ablations() -> None:
    def variant(name: str, **fields: Any) -> list[Phase]:
        return plan(config(**STEPS, variant=name, beta1=0.25, alpha=4, **fields))

    low = (0.25, 0.25)
    assert variant("no-stage-one") == [Phase("stage II", 12, (True, True), low, alpha=4)]
    assert [phase.alpha for phase in variant("no-bonus")] == [0, 0]
    assert variant("single-turn") == [Phase("single-turn RL", 12, (True,), (0.25,))]
    [last], [total] = variant("multi-turn-last"), variant("multi-turn-sum")
    assert last == Phase("multi-turn RL (last)", 12, (True, True), low, "last")
    assert total == Phase("multi-turn RL (sum)", 12, (True, True), low, "sum")


@pytest.mark.parametrize("attempts", [2, 3])
@pytest.mark.parametrize(
    "variant", ["score", "no-stage-one", "no-bonus", "multi-turn-last", "multi-turn-sum"]
)
def test_every_variant_trains_for_the_same_number_of_steps(variant: str, attempts: int) -> None:
    phases = plan(config(**STEPS, variant=variant, attempts=attempts))
    assert sum(phase.steps for phase in phases) == 7 * (attempts - 1) + 5
    assert phases[-1].attempts == attempts


def test_only_stage_two_has_a_bonus_and_offline_attempts() -> None:
    for attempts in (2, 3):
        *first, second = plan(config(attempts=attempts, alpha=10, offline_share=1))
        assert all(phase.alpha == 0 and phase.offline_share == 0 for phase in first)
        assert second.alpha == 10
        assert second.offline_share == 1


def test_a_stage_of_no_steps_is_left_out() -> None:
    assert [p.name for p in plan(config(stage_one_steps=0, stage_two_steps=5))] == ["stage II"]
    assert [p.name for p in plan(config(stage_one_steps=7, stage_two_steps=0))] == ["stage I"]


def test_a_schedule_is_as_long_as_its_phase_or_as_the_run() -> None:
    """With the optimiser kept there is one schedule for both stages, so a warm-up may be longer
    than one of them."""
    assert config(schedule="cosine", warmup_steps=60, fresh_optimizer=False)


# Settings


@pytest.mark.parametrize(
    ("preset", "rate", "steps", "batch", "betas"),
    [("math", 5e-6, 3000, 512, (0.01, 0.1)), ("mbpp", 1e-5, 1500, 128, (0.01, 0.25))],
)
def test_presets_are_table_8_of_the_paper(
    preset: str, rate: float, steps: int, batch: int, betas: tuple[float, float]
) -> None:
    found = resolve(ScoreConfig, preset=preset, overrides={"out": "run"})
    assert found.learning_rate == rate
    assert found.stage_one_steps + found.stage_two_steps == steps
    assert found.problems_per_step * found.samples == batch
    assert (found.beta1, found.beta2) == betas
    assert found.alpha == 10
    assert found.temperature == 1.0
    assert found.prompts == {"math": "score-math", "mbpp": "score-mbpp"}[preset]


@pytest.mark.parametrize("preset", METHODS["score"].presets)
def test_every_preset_resolves_to_a_plan(preset: str) -> None:
    """The method's own and those that packages bring for it, such as the lab's."""
    assert plan(METHODS["score"].configure(preset=preset, overrides={"out": "run"}))


def test_the_lab_brings_presets() -> None:
    assert {"lab", "math", "mbpp"} <= METHODS["score"].presets.keys()


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"stage_one_steps": 0, "stage_two_steps": 0}, "nothing to train"),
        ({"attempts": 3, "variant": "single-turn"}, "attempts 3 has no meaning"),
        ({"attempts": 4}, "--attempts 4: should be 2 or 3"),
        ({"samples": 1}, "--samples 1: should be greater than or equal to 2"),
        ({"alpha": -1}, "--alpha -1: should be greater than or equal to 0"),
        ({"alpha": "inf"}, "--alpha 'inf': should be a finite number"),
        ({"learning_rate": "nan"}, "--learning-rate 'nan': should be a finite number"),
        ({"offline_share": 1.5}, "--offline-share 1.5: should be less than or equal to 1"),
        ({"variant": "scoer"}, "--variant 'scoer': should be 'score', 'no-stage-one'"),
        ({"lora_rnak": 4}, "did you mean lora_rank"),
        (
            {"schedule": "cosine", "warmup_steps": 60},
            "warmup_steps 60: a phase has 60 steps, which leaves none for schedule 'cosine'",
        ),
    ],
)
def test_meaningless_settings_are_refused(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError) as caught:
        resolve(ScoreConfig, overrides={"out": "run", "task": "gsm8k", **fields})
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)
