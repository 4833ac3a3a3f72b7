"""CaP (arXiv 2412.16871): refining a chain of thought with a program that really runs.

    sample       n_C chains of each question, from the policy or from other models
                 n_P programs after each chain, from the policy; run in the sandbox, labelled
    fine-tune    (question, chain) → right program; nothing else carries loss
    prefer       right over copied, wrong and broken programs, on the same question and chain

The two training stages are the paper's; labels, pair types and all numbers are this project's
(`docs/methods/cap.md`). The variant `pot` is the baseline: question → program, no chain.

    settings     the settings of a run
    recipe       what is sampled, and which programs are imitated
    pairs        which episodes make a preference pair
    preference   the preference stage
"""

from typing import TYPE_CHECKING

from redraft.methods.cap.settings import CapConfig
from redraft.training.method import Method

if TYPE_CHECKING:
    from redraft.training.supervised import SupervisedRun


def train(run: "SupervisedRun[CapConfig]") -> None:
    """Fine-tune on right programs, iteration by iteration, and then on preference pairs.

    Raises:
        UserError: there is nothing to learn from, too many questions failed, or whatever training
            raises.
    """
    from redraft.methods.cap.preference import prefer
    from redraft.methods.cap.recipe import Cap
    from redraft.training.supervised import iterate

    recipe = Cap(run)
    iterate(run, recipe)
    if run.config.preference is not None and run.iteration == run.config.iterations + 1:
        prefer(run, recipe, run.config.preference)


METHOD = Method(
    name="cap",
    help="""CaP: programs that refine chains of thought, fine-tuning and preferences.

    Samples chains of thought and programs after each, runs the programs, fine-tunes on the right
    ones, and then prefers them to copies of wrong chains and other failures.
    """,
    settings=CapConfig,
    train=train,
    run="supervised",
    paper="arXiv 2412.16871",
)
