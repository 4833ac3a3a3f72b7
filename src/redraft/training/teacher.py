"""The teacher: a script, an API endpoint or a local model."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from redraft.engines.base import Engine, Failed, Request, Response, Sampling
from redraft.engines.endpoints import is_endpoint
from redraft.engines.scripted import ScriptedEngine
from redraft.engines.template import ChatTemplate
from redraft.errors import UserError
from redraft.models import load_model
from redraft.progress import Progress
from redraft.training.settings import EXPERT, TeacherConfig
from redraft.types import Turn


@dataclass(frozen=True)
class Teacher:
    """An engine with the sampling that a run asks of it."""

    engine: Engine
    sampling: Sampling
    name: str

    def answer(self, requests: Sequence[Request]) -> list[Response | Failed]:
        """The teacher's next message in each conversation."""
        return [answers[0] for answers in self.engine.generate(requests, self.sampling)]

    def at(self, temperature: float, seed: int | None = None) -> "Teacher":
        """The same teacher at another temperature, and with other draws if there is a `seed`."""
        seed = self.sampling.seed if seed is None else seed
        sampling = replace(self.sampling, temperature=temperature, seed=seed)
        return replace(self, sampling=sampling)

    def turn(self, response: Response) -> Turn:
        """A response of the teacher as a turn that the policy may see; without token ids, which
        are the teacher's own."""
        return Turn(
            author="teacher",
            text=response.text,
            finish=response.finish,
            source=self.name,
            completion_tokens=response.completion_tokens,
        )


def open_teacher(
    config: TeacherConfig,
    folder: Path,
    progress: Progress,
    *,
    flag: str = "--teacher",
    process: int = 0,
) -> Teacher:
    """The teacher of a run, named with `flag`; an endpoint's answers are cached in `folder`,
    which several processes may share, each with its number.

    Raises:
        UserError: it cannot be loaded, or the endpoint's key is missing. An endpoint that cannot
            be reached is noted and is no error: what it does not answer fails problem by problem
            and is asked again by `redraft resume`.
        ValueError: no teacher is named.
    """
    prompts = config.open_prompts()
    sampling = Sampling(
        config.teacher_temperature,
        max_tokens=config.teacher_max_tokens,
        # A teacher is asked what the policy is asked, but writes the opening of a response itself.
        stop=() if prompts.prefill else prompts.stop,
        seed=config.seed,
    )
    name = config.teacher
    if name is None:
        raise ValueError("the configuration names no teacher, and was not to be read without one")
    if name == EXPERT:
        expert = config.open_task().expert
        assert expert is not None, "the settings have checked it"
        return Teacher(ScriptedEngine(expert(config.seed)), sampling, name)
    if is_endpoint(name):
        from redraft.engines.openai import OpenAIEngine

        endpoint = OpenAIEngine.from_url(name, config.teacher_http, cache=folder, process=process)
        try:
            endpoint.check()
        except UserError as error:
            progress.note(str(error))
        return Teacher(endpoint, sampling, name)
    from redraft.engines.local import LocalEngine

    try:
        model, tokenizer = load_model(name, device=config.device)
    except UserError as error:
        raise UserError(str(error).replace("--model", flag, 1)) from None
    template = ChatTemplate(tokenizer, generation_config=model.generation_config)
    return Teacher(LocalEngine(model, template, max_rows=config.max_rows), sampling, name)
