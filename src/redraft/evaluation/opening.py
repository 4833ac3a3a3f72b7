"""From settings to what an evaluation is played with: engines, samplers, a protocol."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from redraft.chat.prompts import Prompts, find_program_prompts
from redraft.chat.protocols import Intrinsic, Oracle, Protocol, SelfImprove, SelfRefine, Wait
from redraft.engines.base import ENGINES, Engine, Sampling
from redraft.engines.endpoints import is_endpoint
from redraft.errors import UserError
from redraft.evaluation.settings import ModelSettings, RolloutSettings, StrategyChoice
from redraft.evaluation.strategies import SELF, Sampler
from redraft.grading import ExactGrader, runs_programs
from redraft.grading.program import ProgramGrader
from redraft.progress import Progress

if TYPE_CHECKING:
    from redraft.tasks.base import Task


def open_engine(
    config: ModelSettings,
    model: str,
    cache: Path | None = None,
    progress: Progress | None = None,
    process: int = 0,
) -> Engine:
    """The engine of a model: in this process, or behind an endpoint.

    Args:
        config: how to load or to ask it.
        model: its name, which need not be the settings' own.
        cache: folder for the answers of an endpoint; None: they are not kept.
        progress: is told what is worth knowing.
        process: number of this process among those that use `cache`.

    Raises:
        UserError: there is no such engine, the model cannot be loaded, or the endpoint cannot be
            reached.
    """
    if is_endpoint(model):
        from redraft.engines.openai import OpenAIEngine

        endpoint = OpenAIEngine.from_url(model, config.http, cache=cache, process=process)
        endpoint.check()
        return endpoint
    from redraft.engines.template import ChatTemplate
    from redraft.models import check_window, load_model

    entry = ENGINES[config.engine]
    check_window(model, config.max_tokens)
    loaded, tokenizer = load_model(model, dtype=config.dtype, device=config.device)
    template = ChatTemplate(
        tokenizer,
        generation_config=loaded.generation_config,
        chat_template_kwargs=config.template_values,
    )
    if template.rewrites_history and progress is not None:
        progress.note(template.rewrites_history)
    if process and config.engine != "local":
        raise UserError(
            f"--engine {config.engine}: in several processes name its server as the model, "
            "--model http://HOST:PORT/v1#MODEL"
        )
    return entry.open(
        loaded, template, max_rows=config.max_rows, dtype=None, settings=config, processes=None
    )


def open_samplers(
    config: ModelSettings,
    choice: StrategyChoice,
    task: "Task",
    engine: Engine,
    prompts: Prompts,
    folder: Path | None = None,
    progress: Progress | None = None,
    process: int = 0,
) -> list[Sampler]:
    """What strategies draw their samples from, for each source of chains.

    Raises:
        UserError: a source cannot be loaded or reached, or there are no such texts.
    """
    asked = choice.program_prompts
    first = Sampler(
        name="",
        prompts=prompts,
        programs=task.programs if asked is None else find_program_prompts(asked),
        engine=engine,
        grader=task.grader,
        program_grader=ProgramGrader(task.grader, choice.limits),
        sampling=sampling_of(config, prompts),
        policy=config.model,
    )
    samplers = []
    for number, source in enumerate(choice.source_names):
        cache = None if folder is None else folder / f"source-{number}" / "endpoint"
        writer = None
        if source != SELF:
            writer = open_engine(config, source, cache, progress, process)
        samplers.append(replace(first, source=source, writer=writer))
    return samplers


def sampling_of(config: ModelSettings, prompts: Prompts) -> Sampling:
    """How the settings draw tokens."""
    return Sampling(
        config.temperature, max_tokens=config.max_tokens, stop=prompts.stop, seed=config.seed
    )


def open_protocol(config: RolloutSettings, prompts: Prompts, task: "Task") -> Protocol:
    """The protocol that the settings name; for `blind-spot` that of the model's own error.

    Raises:
        UserError: responses cannot be reopened, because of the prompts or the task's grader.
    """
    whole = prompts.stop or runs_programs(task.grader) or isinstance(task.grader, ExactGrader)
    if config.protocol in ("wait", "blind-spot") and whole:
        raise UserError(
            f"--protocol {config.protocol} reopens a response and reads the last answer in it: it "
            "needs --prompts without `stop`, and a task whose answers are marked in a text (not "
            "code, not --grader exact)"
        )
    match config.protocol:
        case "wait":
            return Wait(prompts, config.turns)
        case "blind-spot":
            return Wait(prompts, word="")
        case "oracle":
            return Oracle(prompts, config.turns)
        case "self-refine":
            return SelfRefine(prompts, config.turns)
        case "self-improve":
            return SelfImprove(prompts, task.improvement, config.updates, config.oracle_stop)
    return Intrinsic(prompts, config.turns)
