"""All that the engine for vLLM uses of vLLM, versions 0.28 to 0.33.

Completions of token ids, weight versions and the worker's side of weight transfer are the same in
all of them, over HTTP and in Python. The trainer's side of weight transfer, which changed in 0.33,
is not used.
"""

import os
import re
import uuid
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator

from redraft.engines.endpoints import from_environment, split_address
from redraft.errors import UserError
from redraft.system import free_memory

T = TypeVar("T")

OLDEST, NEWEST = (0, 28), (0, 33)
"""Versions of vLLM."""

_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM can be told

_PLAIN: dict[str, Any] = {
    "min_p": 0.0,  # a server may have other defaults, from the model's generation_config.json
    "repetition_penalty": 1.0,
    "ignore_eos": True,  # what ends a response is said by the template alone
    "skip_special_tokens": False,
    "logprobs": 0,
}
"""Fields of every request, beside those of its sampling."""


class VLLMSettings(BaseModel):
    """Where vLLM is, and how weights get there."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    url: str | None = None
    """Address of a `vllm serve`, `http://HOST:PORT`; by default vLLM is started beside the learner,
    on its device. A key is read from VLLM_API_KEY."""
    folder: Path | None = None
    """Folder for weights on their way to vLLM, which a server must see by the same name; by default
    a temporary one."""
    memory: float = Field(default=0.3, gt=0, lt=1)
    """Share of the GPU's memory, or on a CPU of the free memory, for a vLLM beside the learner."""
    context: int | None = Field(default=None, ge=1)
    """Longest conversation in tokens of a vLLM beside the learner; by default the model's."""
    sleep: bool = True
    """Let a vLLM beside the learner leave the GPU's memory to it between rollouts."""
    timeout: float = Field(default=1800.0, gt=0)
    """Seconds for one response of a server, or for its taking up weights."""

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, url: str | None) -> str | None:
        return None if url is None else split_address(f"{url}#model")[0].removesuffix("/v1")


@dataclass(frozen=True)
class Written:
    """What vLLM wrote: ids, the log-probability of each, and why it ended."""

    tokens: list[int]
    logprobs: list[float]
    finish: Literal["stop", "length"]


class RefusedError(Exception):
    """vLLM's reason for not doing something, in one line."""


class Connection(ABC):
    """vLLM, wherever it is. Every method raises `RefusedError`."""

    window: int
    """Longest conversation, in tokens."""

    @abstractmethod
    async def complete(self, tokens: Sequence[int], params: dict[str, Any]) -> Written:
        """A response to a prompt; `params` are fields of vLLM's `SamplingParams`."""

    @abstractmethod
    async def call(self, method: str, **fields: Any) -> None:
        """A part of a weight update, or of getting ready for it."""

    @abstractmethod
    async def pause(self) -> None:
        """Let no request begin, once those under way have ended."""

    @abstractmethod
    async def resume(self) -> None:
        """Let requests begin again, with an empty prefix cache."""

    @abstractmethod
    async def take_adapter(self, folder: Path) -> None:
        """Respond with the LoRA adapter in a folder from now on."""

    @abstractmethod
    async def version(self) -> str:
        """What the weights were last named."""

    @abstractmethod
    async def name_version(self, version: str) -> None:
        """Give the weights a name."""

    async def wake(self) -> None:  # noqa: B027
        """Take the memory for weights and cache again."""

    async def doze(self) -> None:  # noqa: B027
        """Leave the memory to the learner, if it is shared with it."""

    @abstractmethod
    async def close(self) -> None:
        """End what was started."""


class Server(Connection):
    """A `vllm serve`, asked over HTTP."""

    window = 0

    def __init__(self, settings: VLLMSettings, run: str) -> None:
        try:
            from openai import AsyncOpenAI
        except ImportError:
            raise UserError(
                "--vllm.url: needs the package openai; pip install 'redraft[endpoint]'"
            ) from None
        assert settings.url is not None
        self._url, self._run = from_environment(settings.url), run
        self._client = AsyncOpenAI(
            base_url=f"{self._url}/v1",
            api_key=os.environ.get("VLLM_API_KEY") or "none",
            timeout=settings.timeout,
        )
        self._model = ""

    async def open(self) -> str:
        """Vllm's version, once it is known that there is one."""
        said = await self._ask("get", "/version")
        models = await self._ask("get", "/v1/models")
        served = next(model for model in models["data"] if not model.get("parent"))
        self._model, self.window = served["id"], served["max_model_len"]
        return str(said["version"])

    async def tokens(self, **body: Any) -> list[int] | None:
        """The server's tokens for a text or for messages; None where it gives none."""
        try:
            said = await self._ask("post", "/tokenize", {"model": self._model, **body})
        except RefusedError:
            return None
        tokens: list[int] = said["tokens"]
        return tokens

    async def complete(self, tokens: Sequence[int], params: dict[str, Any]) -> Written:
        body = {"model": self._model, "prompt": list(tokens), "return_token_ids": True}
        said = await self._ask("post", "/v1/completions", body | _PLAIN | params, retries=2)
        try:
            choice = said["choices"][0]
            ids, logprobs = choice["token_ids"], choice["logprobs"]["token_logprobs"]
            return _written(ids, logprobs, choice["finish_reason"])
        except (LookupError, TypeError):
            raise RefusedError("it returns no token ids with log-probabilities") from None

    async def call(self, method: str, **fields: Any) -> None:
        await self._ask("post", f"/{method}", fields)

    async def pause(self) -> None:
        await self._ask("post", "/pause?mode=wait", {})

    async def resume(self) -> None:
        said = await self._ask("post", "/reset_prefix_cache", {})
        await self._ask("post", "/resume", {})
        if not said.get("success", True):
            raise RefusedError("its prefix cache could not be emptied")

    async def take_adapter(self, folder: Path) -> None:
        name = f"redraft-{self._run}"
        body = {"lora_name": name, "lora_path": str(folder), "load_inplace": True}
        try:
            await self._ask("post", "/v1/load_lora_adapter", body)
        except RefusedError as error:
            raise RefusedError(
                f"{error}; for LoRA it needs VLLM_ALLOW_RUNTIME_LORA_UPDATING=1, --enable-lora and "
                "--max-lora-rank"
            ) from None
        self._model = name

    async def version(self) -> str:
        said = await self._ask("get", "/weight_info")
        return str(said["weight_version"])

    async def name_version(self, version: str) -> None:
        await self._ask("post", "/update_weight_version", {"new_version": version})

    async def close(self) -> None:
        await self._client.close()

    async def _ask(self, verb: str, path: str, body: Any = None, retries: int = 0) -> Any:
        """What the server says, as JSON."""
        from openai import APIConnectionError, APIStatusError

        client = self._client.with_options(max_retries=retries)
        fields = {} if verb == "get" else {"body": body}
        try:
            return await getattr(client, verb)(self._url + path, cast_to=object, **fields)
        except APIStatusError as error:
            where = path.partition("?")[0]
            body = error.body
            said = body.get("message") if isinstance(body, dict) else error.response.text
            raise RefusedError(f"{where}: HTTP {error.status_code}: {_reason(str(said))}") from None
        except APIConnectionError as error:
            why = error.__cause__ or error
            raise RefusedError(f"it cannot be reached ({type(why).__name__}: {why})") from None


class Colocated(Connection):
    """vLLM's asynchronous engine, started by this process for its device."""

    def __init__(self, llm: Any, *, sleeps: bool) -> None:
        self._llm, self._sleeps, self._asleep = llm, sleeps, False
        self.window = int(llm.model_config.max_model_len)
        self._adapter: Any = None
        self._adapters = 0

    @classmethod
    async def start(
        cls,
        model: Path,
        settings: VLLMSettings,
        device: Any,
        dtype: Any,
        rows: int,
        lora_rank: int,
    ) -> "Colocated":
        """Start it; its engine is a process of its own, so that no state of torch is shared."""
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        on_gpu = device.type == "cuda"
        arguments: dict[str, Any] = {
            "model": str(model),
            "dtype": str(dtype).removeprefix("torch."),
            "max_model_len": settings.context,
            "logprobs_mode": "processed_logprobs",
            "weight_transfer_config": {"backend": "redraft"},
            "enable_prefix_caching": True,
            "generation_config": "vllm",
            "enable_sleep_mode": on_gpu and settings.sleep,
            "enforce_eager": not on_gpu,  # compiling takes minutes on a CPU
            "disable_log_stats": True,
        }
        if on_gpu:
            arguments["gpu_memory_utilization"] = settings.memory
        else:
            arguments |= {
                "kv_cache_memory_bytes": int(settings.memory * free_memory(device)),
                "max_num_seqs": min(rows, 256),
                # On a CPU vLLM (0.28 to 0.33) fails where a seeded request is read in parts.
                "enable_chunked_prefill": False,
            }
        if lora_rank:
            fitting = next((rank for rank in _LORA_RANKS if rank >= lora_rank), lora_rank)
            arguments |= {"enable_lora": True, "max_lora_rank": fitting}
        try:
            with _only(device):
                llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
        except Exception as error:  # whatever vLLM or a library below it raises
            raise RefusedError(_reason(str(error))) from None
        return cls(llm, sleeps=arguments["enable_sleep_mode"])

    async def complete(self, tokens: Sequence[int], params: dict[str, Any]) -> Written:
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        sampling = SamplingParams(**_PLAIN | params, output_kind=RequestOutputKind.FINAL_ONLY)
        prompt, name = {"prompt_token_ids": list(tokens)}, uuid.uuid4().hex
        try:
            async for last in self._llm.generate(
                prompt, sampling, name, lora_request=self._adapter
            ):
                output = last.outputs[0]
        except Exception as error:  # each part of vLLM raises its own
            raise RefusedError(_reason(str(error))) from None
        ids = list(output.token_ids)
        logprobs = [
            place[token].logprob for token, place in zip(ids, output.logprobs or (), strict=True)
        ]
        return _written(ids, logprobs, output.finish_reason)

    async def call(self, method: str, **fields: Any) -> None:
        await self._try(self._llm.collective_rpc(method, kwargs=fields))

    async def pause(self) -> None:
        await self._try(self._llm.pause_generation(mode="wait"))

    async def resume(self) -> None:
        emptied = await self._try(self._llm.reset_prefix_cache())
        await self._try(self._llm.resume_generation())
        if not emptied:
            raise RefusedError("its prefix cache could not be emptied")

    async def take_adapter(self, folder: Path) -> None:
        from vllm.lora.request import LoRARequest

        self._adapters += 1
        adapter = LoRARequest(f"redraft-{self._adapters}", self._adapters, str(folder))
        await self._try(self._llm.add_lora(adapter))
        if self._adapter is not None:
            await self._try(self._llm.remove_lora(self._adapter.lora_int_id))
        self._adapter = adapter

    async def version(self) -> str:
        return str(await self._try(self._llm.get_weight_version()))

    async def name_version(self, version: str) -> None:
        await self._try(self._llm.update_weight_version(version))

    async def wake(self) -> None:
        if self._asleep:
            await self._try(self._llm.wake_up())
            self._asleep = False

    async def doze(self) -> None:
        if self._sleeps:
            await self._try(self._llm.sleep(level=1))
            self._asleep = True

    async def close(self) -> None:
        self._llm.shutdown()
        self._llm.shutdown = lambda: None  # its `__del__` calls it again, when Python is half gone

    async def _try(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return await work
        except Exception as error:  # as in `complete`
            raise RefusedError(_reason(str(error))) from None


@contextmanager
def _only(device: Any) -> Iterator[None]:
    """Within it a process that is started sees one GPU alone."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    if device.index is not None:
        seen = before.split(",")[device.index] if before else str(device.index)
        os.environ["CUDA_VISIBLE_DEVICES"] = seen
    try:
        yield
    finally:
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        if before is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = before


def check_version(version: str, name: str) -> None:
    """Refuse a version of vLLM that this engine has not been written for.

    Raises:
        UserError: it is none of them.
    """
    parts = version.split(".")
    known = len(parts) > 1 and all(part.isdigit() for part in parts[:2])
    if not known or not OLDEST <= (int(parts[0]), int(parts[1])) <= NEWEST:
        oldest, newest = (".".join(map(str, one)) for one in (OLDEST, NEWEST))
        raise UserError(
            f"{name}: version {version} is not supported; install vLLM {oldest} to {newest}"
        )


def _written(tokens: Sequence[int], logprobs: Sequence[float], finish: Any) -> Written:
    if finish not in ("stop", "length"):  # aborted, say
        raise RefusedError(f"it ended a response early ({finish})")
    return Written(list(tokens), list(logprobs), finish)


def _reason(said: str) -> str:
    """What an error of vLLM says, in one line, without how it came up from a worker."""
    inner = re.search(r"Worker failed with error '(.*)', please check", said, re.DOTALL)
    return " ".join((inner[1] if inner else said).split())[:400]
