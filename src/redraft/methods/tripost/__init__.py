"""TriPosT (arXiv 2310.13522) and two baselines of its paper, as `redraft train` finds them.

`recipe` reads like the paper's algorithm; `editing` is its stage (a), `examples` its stage (b),
`modules` who gives feedback and rewrites, `config` the settings.
"""

from typing import TYPE_CHECKING, Any

from redraft.methods.tripost.config import DemonstrationConfig, RationaleConfig, TripostConfig
from redraft.training.method import Method

if TYPE_CHECKING:
    from redraft.training.supervised import SupervisedRun

_PAPER = "arXiv 2310.13522"


def _train(run: "SupervisedRun[Any]") -> None:
    """The loop of the supervised methods, with the recipe that the run's settings belong to."""
    from redraft.methods.tripost.recipe import Demonstrations, Rationales, Tripost
    from redraft.training.supervised import iterate

    recipes = {
        TripostConfig: Tripost,
        RationaleConfig: Rationales,
        DemonstrationConfig: Demonstrations,
    }
    iterate(run, recipes[type(run.config)](run))


METHODS = [
    Method(
        "tripost",
        """TriPosT (arXiv 2310.13522): learning from corrections of its own mistakes.

Fine-tunes on gold rationales. Then the policy answers the problems, a script or a teacher finds
where its critiques of its own answers are first wrong and finishes the solution from there, and the
policy is fine-tuned on the result, with more weight on critiques and updates. Three repeats.""",
        TripostConfig,
        _train,
        run="supervised",
        paper=_PAPER,
    ),
    Method(
        "rationale-sft",
        "Baseline: fine-tuning on gold rationales.",
        RationaleConfig,
        _train,
        run="supervised",
        paper=_PAPER,
        baseline=True,
    ),
    Method(
        "si-demo-sft",
        "Baseline: fine-tuning on demonstrated self-improvement.",
        DemonstrationConfig,
        _train,
        run="supervised",
        paper=_PAPER,
        baseline=True,
    ),
]
