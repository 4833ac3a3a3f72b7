"""The learner's step on preference pairs: by hand, in any split, and its refusals."""

import copy
import math

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import PreTrainedModel

from redraft.errors import UserError
from redraft.learning.config import LearnerConfig
from redraft.learning.learner import Learner, NonFiniteLoss
from redraft.learning.pairs import PreferencePair, with_unrelated
from redraft.learning.preference_config import PreferenceConfig
from tiny_models import tiny_llama
from training_rows import VOCABULARY, completion, pair, preference_pairs, with_gradient


def policy(seed: int = 0, vocabulary: int = VOCABULARY) -> PreTrainedModel:
    return tiny_llama(vocabulary, hidden_size=16, layers=1, seed=seed, spread=3.0)


def config(**changes: object) -> LearnerConfig:
    return LearnerConfig.model_validate({"max_grad_norm": None, **changes})


def logprobs(model: PreTrainedModel, tokens: list[int]) -> Tensor:
    """Log-probability of every token but the first from the model's own logits, [time - 1]."""
    logits = model(input_ids=torch.tensor([tokens])).logits[0, :-1]
    return logits.log_softmax(-1).gather(-1, torch.tensor(tokens[1:])[:, None])[:, 0]


def of_completion(model: PreTrainedModel, pair: PreferencePair, side: str) -> float:
    said = pair.completions[side]
    own = logprobs(model, [*pair.prompt, *said.tokens])[len(pair.prompt) - 1 :]
    return own[torch.tensor(said.mask or [True] * len(said.tokens))].sum().item()


# ---- by hand ----


def test_dpo_of_two_tokens_and_one() -> None:
    model = policy()
    one = pair([3, 4], completion([7, 9], ref_logprob=-5.0), completion([5], ref_logprob=-3.0))
    chosen, rejected = logprobs(model, [3, 4, 7, 9])[1:].sum(), logprobs(model, [3, 4, 5])[1]
    margin = 0.5 * ((chosen + 5.0) - (rejected + 3.0))
    loss = -torch.nn.functional.logsigmoid(margin) - 0.2 * chosen / 2
    names, parameters = zip(*model.named_parameters(), strict=True)
    wanted = dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))
    learner = Learner(model, config())
    preference = PreferenceConfig(loss="sigmoid+0.2*nll", beta=0.5)
    metrics, gradient = with_gradient(learner, lambda: learner.preference_step([one], preference))
    for name in names:
        torch.testing.assert_close(gradient[name], wanted[name], rtol=1e-4, atol=1e-6)
    chosen, rejected = chosen.item(), rejected.item()
    expected = {
        "loss": loss.item(),
        "loss/sigmoid": math.log1p(math.exp(-margin.item())),
        "loss/nll": -0.2 * chosen / 2,
        "rewards/chosen": 0.5 * (chosen + 5),
        "rewards/rejected": 0.5 * (rejected + 3),
        "rewards/margins": margin.item(),
        "rewards/accuracies": float(margin > 0),
        "logps/chosen": chosen,
        "logps/rejected": rejected,
        "logps/chosen_per_token": chosen / 2,
        "logps/rejected_per_token": rejected,
        "logps/chosen_change": chosen + 5,
        "logps/rejected_change": rejected + 3,
        "logps/chosen_fell": float(chosen < -5),
        "pairs": 1,
        "tokens": 7,
        "padding_share": 1 / 8,
    }
    assert metrics.keys() == expected.keys() | {"grad_norm", "learning_rate"}
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name


def test_masked_tokens_are_seen_and_not_scored() -> None:
    model = policy()
    own = logprobs(model, [3, 7, 9, 8])
    chosen = (own[0] + own[2]) / 2
    rejected = logprobs(model, [3, 5])[0]
    one = pair([3], completion([7, 9, 8], mask=[True, False, True]), [5])
    metrics = Learner(model, config()).preference_step(
        [one], PreferenceConfig(loss="simpo", beta=2.0, gamma=0.5)
    )
    margin = (2.0 * (chosen - rejected)).item()
    assert metrics["loss"] == pytest.approx(math.log1p(math.exp(0.5 - margin)), rel=1e-4)
    assert metrics["rewards/margins"] == pytest.approx(margin, rel=1e-4)
    assert metrics["logps/chosen_per_token"] == pytest.approx(chosen.item(), rel=1e-4)
    assert "logps/chosen_change" not in metrics  # there is no reference


@pytest.mark.parametrize("loss", ["sigmoid+0.5*nll", "orpo", "dpop"])
def test_gradient_equals_finite_differences(loss: str) -> None:
    """Of the step's reported loss, by a quarter of the head's weights; five tokens in all."""
    model, reference = policy(vocabulary=5), policy(seed=1, vocabulary=5)
    learner = Learner(model, config(learning_rate=1e-30), reference=reference)  # stays in place
    pairs = learner.pairs_with_reference(
        [
            pair([3], [1, 4, 2], [2]),
            pair([4, 4], [3], [1, 0]),
        ]
    )
    constants = {"dpop_penalty": 2.0} if loss == "dpop" else {}
    preference = PreferenceConfig(loss=loss, beta=0.5, **constants)
    _, gradient = with_gradient(learner, lambda: learner.preference_step(pairs, preference))
    weight = model.get_output_embeddings().weight
    numeric = torch.zeros(5, 4)  # the first 4 of 16 columns
    for index in np.ndindex(5, 4):
        ends = []
        for step in (1e-2, -1e-2):
            with torch.no_grad():
                weight[index] += step
            ends.append(learner.preference_step(pairs, preference)["loss"])
            with torch.no_grad():
                weight[index] -= step
        numeric[index] = (ends[0] - ends[1]) / 2e-2
    torch.testing.assert_close(gradient["lm_head.weight"][:, :4], numeric, rtol=2e-2, atol=2e-4)
    assert numeric.abs().max() > 1e-2


# ---- what must not matter ----


@pytest.mark.parametrize(
    "loss", ["sigmoid+0.3*nll", "kto", "orpo", "ipo+sigmoid_norm", "robust+0.1*dpop+simpo"]
)
def test_a_split_batch_equals_the_whole_batch(loss: str) -> None:
    model, reference = policy(), policy(seed=1)
    preference = PreferenceConfig(loss=loss, beta=0.4)
    results = []
    for budget, chunk in ((100_000, None), (60, None), (33, 7), (1, 3)):
        settings = config(tokens_per_microbatch=budget, logit_chunk=chunk)
        learner = Learner(copy.deepcopy(model), settings, reference=reference)
        pairs = learner.pairs_with_reference(with_unrelated(preference_pairs(9)))
        results.append(
            with_gradient(learner, lambda: learner.preference_step(pairs, preference))  # noqa: B023
        )
    whole, gradient = results[0]
    assert whole["pairs"] == 9
    assert whole["grad_norm"] > 1e-2
    for metrics, split in results[1:]:
        assert metrics.keys() == whole.keys()
        for name in metrics.keys() - {"padding_share"}:
            assert metrics[name] == pytest.approx(whole[name], rel=1e-4, abs=1e-6), name
        for name, wanted in gradient.items():
            torch.testing.assert_close(split[name], wanted, rtol=1e-4, atol=1e-6)


def test_the_kl_of_kto_is_one_number_for_the_whole_batch() -> None:
    """However small the micro-batches: the mean over the batch's unrelated completions."""
    model, reference = policy(), policy(seed=1)
    pairs = with_unrelated(preference_pairs(9))
    ratios = [
        of_completion(reference, one, "unrelated") - of_completion(model, one, "unrelated")
        for one in pairs
    ]
    mean = sum(ratios) / 9
    model, reference = (reference, model) if mean > 0 else (model, reference)
    learner = Learner(model, config(tokens_per_microbatch=8), reference=reference)
    pairs = learner.pairs_with_reference(pairs)
    metrics = learner.preference_step(pairs, PreferenceConfig(loss="kto"))
    assert metrics["kl"] == pytest.approx(abs(mean), rel=1e-4)


# ---- the reference ----


def test_reference_scores_each_completion_after_its_prompt() -> None:
    shared = completion([5, 6])  # one object in two pairs with different prompts
    pairs = [
        pair([3], shared, [4]),
        pair([9, 9, 9], [4, 4], shared),
    ]
    reference = policy(seed=1)
    learner = Learner(policy(), config(tokens_per_microbatch=7), reference=reference)
    done = learner.pairs_with_reference(with_unrelated(pairs))
    for one in done:
        for side, said in one.completions.items():
            expected = of_completion(reference, one, side)
            assert said.ref_logprob == pytest.approx(expected, rel=1e-5), side
    assert learner.pairs_with_reference(done) == done


def test_the_policy_as_its_own_reference() -> None:
    """Also with an adapter, whose base is not the policy that preference training starts from."""
    torch.manual_seed(0)
    lora = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    learner = Learner(get_peft_model(policy(), lora), config(learning_rate=1e-2))
    preference = PreferenceConfig(loss="sigmoid+0.1*nll")
    base = learner.pairs_with_reference(preference_pairs(4))
    assert learner.preference_step(base, preference)["loss/sigmoid"] != pytest.approx(math.log(2))
    pairs = learner.pairs_with_reference(preference_pairs(4), from_policy=True)
    first = learner.preference_step(pairs, preference)
    assert first["loss/sigmoid"] == pytest.approx(math.log(2), rel=1e-5)
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-5)
    for _ in range(10):
        last = learner.preference_step(pairs, preference)
    assert last["rewards/margins"] > first["rewards/margins"]
    assert last["rewards/accuracies"] == 1


# ---- refusals and failures ----


def test_what_a_loss_lacks_is_said() -> None:
    learner, pairs = Learner(policy(), config()), preference_pairs(3)
    with pytest.raises(UserError, match="no preference pair"):
        learner.preference_step([], PreferenceConfig())
    with pytest.raises(UserError, match=r"'sigmoid' compares with a reference, and 3 of 3 pairs"):
        learner.preference_step(pairs, PreferenceConfig())
    with pytest.raises(UserError, match="there is no reference; give the learner"):
        learner.pairs_with_reference(pairs)
    anchored = learner.pairs_with_reference(pairs, from_policy=True)
    with pytest.raises(UserError, match=r"3 of 3 have none; pass all pairs through with_unrelated"):
        learner.preference_step(anchored, PreferenceConfig(loss="kto"))
    later = with_unrelated(anchored)
    with pytest.raises(UserError, match=r"'kto' compares with a reference, and 3 of 3 pairs"):
        learner.preference_step(later, PreferenceConfig(loss="kto"))
    assert learner.steps == 0
    learner.preference_step(later, PreferenceConfig())  # which the unrelated ones do not concern
    learner.preference_step(pairs, PreferenceConfig(loss="simpo"))
    assert learner.steps == 2


def test_a_non_finite_step_leaves_the_weights_alone() -> None:
    model = policy()
    learner = Learner(model, config(tokens_per_microbatch=12))
    pairs = [pair([3], [i, 1], [i, 2]) for i in (7, 8, 23, 9)]
    with torch.no_grad():
        model.get_input_embeddings().weight[23] = float("nan")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(NonFiniteLoss, match=r"^loss nan") as caught:
        learner.preference_step(pairs, PreferenceConfig(loss="simpo"))
    assert len(caught.value.rows) == 4  # two pairs to a micro-batch
    assert {3, 23, 1} in [set(row.tokens.tolist()) for row in caught.value.rows]
    assert learner.steps == 0
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weight, before[name], rtol=0, atol=0, equal_nan=True)


# ---- pairs ----


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: completion([]), "no token that counts"),
        (lambda: completion([1, 2], mask=[False, False]), "no token that counts"),
        (lambda: completion([1, 2], mask=[True]), "mask has 1 entries for 2 tokens"),
        (lambda: completion([1], ref_logprob=float("nan")), "ref_logprob nan is not finite"),
        (lambda: completion([1]).with_reference(float("nan")), "ref_logprob nan is not finite"),
        (lambda: pair([], [1], [2]), "at least 1 item"),
        (lambda: pair([1], [2], [2]), "the same tokens"),
    ],
)
def test_pairs_that_are_none(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


def test_a_line_of_a_file_is_the_pair_that_is_learned_from() -> None:
    known = completion([5, 6], mask=[True, False], ref_logprob=-0.1 - 0.2)
    stored = PreferencePair(
        problem="p", kind="fix", prompt=[3], chosen=known, rejected=completion([4])
    )
    assert PreferencePair.model_validate_json(stored.model_dump_json()) == stored


def test_unrelated_completions_belong_to_other_prompts() -> None:
    pairs = [pair([prompt], [prompt, 1], [prompt, 2]) for prompt in (5, 5, 6, 7)]
    unrelated = [one.unrelated for one in with_unrelated(pairs)]
    # By turns the chosen and the rejected one of the next pair with another prompt.
    assert [c.tokens for c in unrelated if c] == [[6, 1], [6, 2], [7, 1], [5, 2]]
    with pytest.raises(UserError, match="all 2 preference pairs have the same one"):
        with_unrelated(pairs[:2])
