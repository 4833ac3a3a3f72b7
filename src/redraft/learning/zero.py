"""DeepSpeed's ZeRO (arXiv 1910.02054): gradients and the optimiser's state shared out over all
processes (stage 2), the weights too (stage 3).

Its engine reduces gradients within every backward pass, clips them, and leaves weights and moments
alone where they are not finite. It is used without accelerate, whose plugin needs a GPU.
"""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from redraft.errors import UserError

Stage = Literal[2, 3]

_BUCKET = 2**26
"""Numbers that are exchanged at once at most."""


def check_installed(device: torch.device) -> None:
    """Find out that DeepSpeed can be used.

    Raises:
        UserError: it is not installed.
    """
    try:
        _deepspeed(device)
    except ImportError as error:
        raise UserError(
            f"--sharding zero2 and zero3 need DeepSpeed ({error}): pip install 'redraft[deepspeed]'"
        ) from None


def partition(model: Any, device: torch.device) -> None:
    """Share a model's weights out over all processes for stage 3, in place; all processes must call
    this. Every weight gets `full_tensor()`, as those of FSDP2 have.
    """
    deepspeed = _deepspeed(device)
    with _quietly():
        deepspeed.zero.Init(module=model, config_dict_or_path=_config(model, 3, None))
    for weight in model.parameters():
        weight.full_tensor = partial(_full, weight)
    _engines[model] = start(model, 3, device)


_engines: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()
"""With what partitioned models compute until a learner has an engine for them."""


def start(
    scorer: nn.Module,
    stage: Stage,
    device: torch.device,
    optimizer: torch.optim.Optimizer | None = None,
    max_grad_norm: float | None = None,
) -> Any:
    """A DeepSpeed engine around a scorer, which is called as the scorer is; all processes must call
    this, and its `destroy` before the model gets another engine of this kind.

    Args:
        scorer: a `TokenScorer`; for stage 3 its model has been through `partition`.
        stage: of ZeRO.
        device: where this process computes.
        optimizer: of the scorer's trained weights; None: it is not trained.
        max_grad_norm: gradients are clipped to this norm; None: they are not.
    """
    for model in [one for one in scorer.modules() if one in _engines]:
        _engines.pop(model).destroy()
    with _quietly():
        engine, *_ = _deepspeed(device).initialize(
            model=scorer, optimizer=optimizer, config=_config(scorer, stage, max_grad_norm)
        )
    return engine


def optimizer_state(
    engine: Any, plain: dict[str, Any], weights: Sequence[Any], *, main: bool
) -> dict[str, Any]:
    """The state of an engine's AdamW as `state_dict` of one without DeepSpeed, on the CPU of the
    main process; all processes must call this.

    Args:
        engine: of `start`.
        plain: `state_dict` of its optimiser before it had the engine.
        weights: its trained weights, in the order of the optimiser's groups.
        main: whether this is the main process.
    """
    from deepspeed.utils import safe_get_full_optimizer_state

    taken = next((state["step"] for state in engine.optimizer.state.values()), None)
    if taken is None:
        return plain
    _link_state(engine)
    state: dict[int, dict[str, Tensor]] = {}
    for number, weight in enumerate(weights):
        state[number] = {"step": taken.clone()}
        for name in _MOMENTS:
            moment = safe_get_full_optimizer_state(weight, name)
            if main:
                state[number][name] = moment.cpu()
    return {**plain, "state": state}


def load_optimizer_state(engine: Any, state: dict[int, Any], weights: Sequence[Any]) -> None:
    """Take up what `optimizer_state`, or an AdamW without DeepSpeed, had; all processes must call
    this.

    Raises:
        ValueError: it is another model's.
    """
    from deepspeed.utils import safe_set_full_optimizer_state

    if not state:
        return
    shapes = [tuple(getattr(weight, "ds_shape", weight.shape)) for weight in weights]
    if [tuple(state[n]["exp_avg"].shape) for n in sorted(state)] != shapes:
        raise ValueError("its moments have other shapes")
    rates = [group["lr"] for group in engine.optimizer.param_groups]
    for group in engine.optimizer.param_groups:
        group["lr"] = 0.0
    # DeepSpeed has no moments to be set before there was a step: this one changes nothing.
    one = torch.zeros(1, 1, dtype=torch.long, device=engine.device)
    logprob, _ = engine(one, one[0], one[0])
    engine.set_gradient_accumulation_boundary(True)
    engine.backward(0.0 * logprob.sum())
    engine.step()
    for group, rate in zip(engine.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    _link_state(engine)
    for number, weight in enumerate(weights):
        for name in _MOMENTS:
            value = state[number][name].to(engine.device)
            safe_set_full_optimizer_state(weight, value, name)
    for own in engine.optimizer.state.values():
        own["step"].copy_(state[0]["step"])


def _link_state(engine: Any) -> None:
    """Have stage 2 find the moments of all groups; DeepSpeed 0.19 only links those of the first."""
    from deepspeed.utils import lazy_init_hp_params_optimizer_state

    zero = engine.optimizer
    for number, weights in enumerate(getattr(zero, "bit16_groups", ())):
        flat = zero.single_partition_of_fp32_groups[number]
        lazy_init_hp_params_optimizer_state(weights, flat, zero.state)


_MOMENTS = ("exp_avg", "exp_avg_sq")


def _config(module: nn.Module, stage: Stage, max_grad_norm: float | None) -> dict[str, Any]:
    sizes = [getattr(weight, "ds_numel", weight.numel()) for weight in module.parameters()]
    bucket = min(_BUCKET, sum(sizes))
    return {
        "zero_optimization": {
            "stage": stage,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
            # Of the weights two units at a time, as those of the next one are fetched ahead.
            "stage3_prefetch_bucket_size": max(sizes),
            "stage3_max_live_parameters": 2 * max(sizes),
            "stage3_max_reuse_distance": 2 * max(sizes),
        },
        "train_micro_batch_size_per_gpu": 1,  # it wants a number; batches are the learner's
        "gradient_clipping": max_grad_norm or 0.0,
        "zero_allow_untested_optimizer": True,  # torch's own AdamW, on CPUs too
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": sys.maxsize,
    }


def _full(weight: Any) -> Tensor:
    """A partitioned weight in full; all processes must call this."""
    with _deepspeed(weight.device).zero.GatheredParameters([weight]):
        return weight.detach().clone()


def part(weight: Any) -> Tensor:
    """What this process has of a partitioned weight, without what it is filled up with."""
    own: Tensor = weight.ds_tensor
    left = weight.ds_numel - torch.distributed.get_rank() * own.numel()
    return own[: max(0, left)]


def set_full(weight: Any, value: Tensor) -> None:
    """Give a partitioned weight another value, the main process's; all processes must call this."""
    gathered = _deepspeed(weight.device).zero.GatheredParameters([weight], modifier_rank=0)
    with torch.no_grad(), gathered:
        if torch.distributed.get_rank() == 0:
            weight.copy_(value)


def _deepspeed(device: torch.device) -> Any:
    """DeepSpeed, for this kind of device, imported when it is needed: that takes seconds."""
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    with _quietly():
        import deepspeed
    return deepspeed


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """DeepSpeed tells what it does on standard output, which is for results."""
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(sys.stderr):
        yield
