"""The server: the socket, the thread that speaks HTTP, and the loop that plays the strategy."""

import ipaddress
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from redraft.chat.prompts import ProgramPrompts, Prompts
from redraft.errors import UserError
from redraft.evaluation.solve import Solver
from redraft.evaluation.strategies import Sampler, Trial, play_strategy
from redraft.progress import Progress, Silent
from redraft.serving.fields import RefusedError
from redraft.serving.jobs import Job, Jobs
from redraft.serving.settings import ServeSettings
from redraft.types import Message, Problem

if TYPE_CHECKING:
    from uvicorn import Server

_LOG = logging.getLogger(__name__)

_GRACE_S = 3.0  # for responses that are being sent when the server ends
_LOOK_S = 0.5  # between two looks at whether the thread that speaks HTTP is alive


def serve(config: ServeSettings, progress: Progress | None = None) -> None:
    """Answer requests until a signal ends the process.

    Raises:
        UserError: the packages are not installed, an address that cannot be listened on or needs a
            key, or whatever cannot work in the settings, the model or the sandbox.
    """
    try:
        import uvicorn

        from redraft.serving.app import Endpoint
    except ImportError:
        raise UserError(
            "serve: needs packages that are not installed; pip install 'redraft[serve]'"
        ) from None
    progress, key = progress or Silent(), config.key()
    with _listening(config, key) as listener:
        solver, jobs = Solver.open(config, progress), Jobs()
        endpoint = Endpoint(config, jobs, solver.task_of, key)
        settings = uvicorn.Config(
            endpoint.app(),
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=int(_GRACE_S),
        )
        server = uvicorn.Server(settings)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        host, port = listener.getsockname()[:2]
        progress.note(
            f"http://{f'[{host}]' if ':' in host else host}:{port}/v1 answers as model "
            f"{config.model_name} with strategy {config.strategy}; Ctrl-C ends it"
        )
        _answer(solver, jobs, config.at_once, server, thread)


def _answer(
    solver: Solver, jobs: Jobs, at_once: int, server: "Server", thread: threading.Thread
) -> None:
    """Answer what comes, until a signal interrupts it."""
    taken: list[Job] = []
    try:
        while thread.is_alive():
            if taken := jobs.take(at_once, _LOOK_S):
                _play(solver, taken)
    finally:
        server.should_exit = True
        jobs.refuse(RefusedError(503, "the endpoint is ending"), taken)
        thread.join(2 * _GRACE_S)
    raise UserError("serve: the thread that speaks HTTP has ended; its error is above")


def _play(solver: Solver, jobs: Sequence[Job]) -> None:
    """Answer some requests together."""
    try:
        sampler = _sampler(solver, jobs[0])
        posed = [job for job in jobs if _can_be_posed(job, sampler)]
        by_problem = {job.problem.id: job for job in posed}

        def follow(trial: Trial, sample: int, read: Callable[[], str], whole: bool) -> bool:
            return by_problem[trial.problem.id].follow(sample, read)

        problems = [job.problem for job in posed]
        followed = replace(sampler, follow=follow)
        trials = play_strategy(solver.strategy, followed, problems, solver.config)
        for job, trial in zip(posed, trials, strict=True):
            job.tell(trial)
    except UserError as error:
        for job in jobs:
            job.tell(RefusedError(503, str(error)))
    except Exception:  # the next requests may fare better
        _LOG.exception("requests could not be answered")
        for job in jobs:
            job.tell(RefusedError(500, "the endpoint failed; its log says why"))


def _sampler(solver: Solver, job: Job) -> Sampler:
    """What answers a request and those like it."""
    sampler = solver.sampler(job.task)
    return replace(
        sampler,
        prompts=_ConversationPrompts(**vars(sampler.prompts)),
        programs=_ConversationProgramPrompts(**vars(sampler.programs)),
        sampling=replace(job.sampling, stop=(*sampler.sampling.stop, *job.sampling.stop)),
    )


def _can_be_posed(job: Job, sampler: Sampler) -> bool:
    """Whether the model's chat template takes the messages; refuses the request if not."""
    template = sampler.engine.template
    try:
        if template is not None:
            template.check([one.model_dump() for one in sampler.prompts.opening(job.problem)])
    except UserError as error:
        job.tell(RefusedError(422, str(error), param="messages"))
        return False
    except Exception:  # one request that cannot be posed fails no other
        _LOG.exception("a request could not be posed")
        job.tell(RefusedError(500, "the endpoint failed; its log says why"))
        return False
    return True


class _ConversationPrompts(Prompts):
    """Prompts that pose a question at the end of a conversation."""

    def opening(self, problem: Problem) -> list[Message]:
        return _in_conversation(super().opening(problem), problem)


class _ConversationProgramPrompts(ProgramPrompts):
    """Prompts that ask for a program at the end of a conversation."""

    def opening(self, problem: Problem) -> list[Message]:
        return _in_conversation(super().opening(problem), problem)


def _in_conversation(opening: Sequence[Message], problem: Problem) -> list[Message]:
    """An opening with what the client's conversation had before the question: its system message
    before the prompts' own, the rest between the prompts' worked examples and the question."""
    system = [problem.metadata["system"]] if problem.metadata["system"] else []
    *shown, posed = opening
    if shown and shown[0].role == "system":
        system.append(shown.pop(0).content)
    head = [Message(role="system", content="\n\n".join(system))] if system else []
    before = [Message(**message) for message in problem.metadata["before"]]
    return [*head, *shown, *before, posed]


@contextmanager
def _listening(config: ServeSettings, key: str | None) -> Iterator[socket.socket]:
    """The socket, bound before the model is loaded, so that a mistake is reported at once."""
    host, port = config.host, config.port
    try:
        [(family, _, _, _, address), *_] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        raise UserError(f"--host {host}: no such address") from None
    if key is None and not ipaddress.ip_address(address[0]).is_loopback:
        raise UserError(
            f"--host {host}: other machines could use the model; export a key that clients have to "
            f"send as {config.key_variable}, or leave --host out"
        )
    try:
        listener = socket.create_server(address[:2], family=family)
    except OSError as error:
        raise UserError(
            f"--port {port}: cannot be listened on at {host} ({os.strerror(error.errno or 0)}); "
            "give another --port, or 0 for any that is free"
        ) from None
    if timeout := getattr(socket, "TCP_USER_TIMEOUT", None):  # connections inherit it
        listener.setsockopt(socket.IPPROTO_TCP, timeout, round(1000 * config.read_seconds))
    with listener:
        yield listener
