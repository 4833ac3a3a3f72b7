"""`redraft train METHOD`: a command for each method, made from the method's own settings."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from redraft.cli.flags import command
from redraft.cli.progress import terminal_progress
from redraft.cli.terminal import Json, print_outcome
from redraft.methods.baselines_config import (
    BestOfNConfig,
    LmsiConfig,
    OffPolicyConfig,
    PairSftConfig,
    StarConfig,
)
from redraft.methods.cap_config import CapConfig
from redraft.methods.rise_config import RiseConfig
from redraft.methods.score_config import ScoreConfig
from redraft.methods.train_config import TrainConfig
from redraft.methods.tripost_config import DemonstrationConfig, RationaleConfig, TripostConfig


def _command(settings: type[TrainConfig], method: str, *before: str) -> Callable[..., int | None]:
    """A command that trains by `redraft.methods.METHOD.train(*before, settings)`."""

    def run(config: Any, *, json: Json = False) -> None:
        train: Callable[..., Path] = importlib.import_module(f"redraft.methods.{method}").train
        try:
            folder = train(*before, config, progress=terminal_progress())
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"go on with `redraft resume {config.out}`") from None
        print_outcome(folder, json)

    return command(settings, run)


score = _command(ScoreConfig, "score")
rise = _command(RiseConfig, "rise")
star = _command(StarConfig, "baselines", "star")
pair_sft = _command(PairSftConfig, "baselines", "pair-sft")
bon_sft = _command(BestOfNConfig, "baselines", "bon-sft")
off_policy_sft = _command(OffPolicyConfig, "baselines", "off-policy-sft")
lmsi = _command(LmsiConfig, "baselines", "lmsi")
cap = _command(CapConfig, "cap")
tripost = _command(TripostConfig, "tripost", "tripost")
rationale_sft = _command(RationaleConfig, "tripost", "rationale-sft")
si_demo_sft = _command(DemonstrationConfig, "tripost", "si-demo-sft")
