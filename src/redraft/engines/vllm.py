"""The engine for vLLM: a server behind HTTP, or one started beside the learner.

Both take token ids and return ids with the log-probabilities of the sampling distribution, both
have a prefix cache for turns and samples, and in both a conversation goes on as soon as its
response ends. vLLM has a copy of the weights. It is given new ones through a folder in Hugging Face
format, by vLLM's own requests for weight updates, which `vllm_worker` carries out inside vLLM: all
weights of a model, or the adapter where LoRA is trained. `vllm_api` has what is used of vLLM.
"""

import asyncio
import math
import shutil
import tempfile
import threading
import uuid
import weakref
from collections.abc import Coroutine, Sequence
from contextlib import nullcontext, suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

from redraft.engines.base import (
    EngineEntry,
    Failed,
    Follow,
    Reply,
    Request,
    Response,
    Sampling,
    Watch,
    WeightsLostError,
)
from redraft.engines.template import ChatTemplate
from redraft.engines.vllm_api import (
    Colocated,
    Connection,
    RefusedError,
    Server,
    VLLMSettings,
    Written,
    check_version,
)
from redraft.errors import UserError
from redraft.processes import Processes

T = TypeVar("T")

START = (
    "VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --logprobs-mode processed_logprobs "
    '--weight-transfer-config \'{"backend": "redraft"}\', with redraft installed beside vLLM'
)
"""How a server is to be started."""

_ROWS = 512  # requests at once; vLLM batches them by its own limits
_TICK = 0.1  # seconds
_PUSHES = 3  # attempts at handing over the same weights
_GAP = 0.2  # nats a token; equal weights in bfloat16 differ by some hundredths
_TEXT = "Sort: pear fig apple. Is 17 + 25 = 42?"
_SHAPE = (
    "model_type",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "vocab_size",
)


class VLLMEngine:
    """Continues conversations in vLLM.

    With the same seed vLLM gives similar responses and not always equal ones: its batches, and with
    them its rounding, depend on when requests arrive.

    Args:
        model: the learner's, whose weights vLLM is given; of a PEFT model the adapter.
        template: turns messages into tokens, and says what ends a response.
        settings: where vLLM is.
        max_rows: most requests at once.
        dtype: what the learner computes in where that is not float32.
        processes: the processes of the run; each has an engine. The first hands the weights over to
            a server; each does to a vLLM of its own, from a folder that one writes for all of its
            host.
        overlap: the learner changes the weights while responses are written, so that they may be
            read in `sync_weights` alone.

    Raises:
        UserError: vLLM is not there, of another version, or has another model, vocabulary, chat
            template or meaning of log-probabilities than the learner.
    """

    def __init__(
        self,
        model: Any,
        template: ChatTemplate,
        settings: VLLMSettings,
        *,
        max_rows: int | None = None,
        dtype: Any = None,
        processes: Processes | None = None,
        overlap: bool = False,
    ) -> None:
        self.model, self.template, self.dtype = model, template, dtype
        self.settings, self.processes = settings, processes or Processes()
        self.name = f"vLLM at {settings.url}" if settings.url else "vLLM"
        self._rows = max_rows or _ROWS
        self._lora, self._overlap = hasattr(model, "peft_config"), overlap
        self._pushes = settings.url is None or self.processes.main
        self._run = self.processes.gather([uuid.uuid4().hex[:12]])[0]
        self._version = f"{self._run}:start"  # of the weights that vLLM should have
        self._held: str | None = None  # of those that it was given; None: unknown, maybe mixed
        if settings.folder is not None:
            settings.folder.mkdir(parents=True, exist_ok=True)
        self._folder, made = self._common_folder()
        self._writes = self._pushes and made
        self._loop, connected = _Loop(), list[Connection]()
        mine = self._folder if made else None
        self.close = weakref.finalize(self, _end, self._loop, connected, mine)
        """Ends a vLLM that was started; so does the end of this process."""
        try:
            self._vllm: Connection = (
                self._server(connected) if settings.url else self._started(connected)
            )
            self.sync_weights("start")
            if self.processes.count == 1:
                self._settle()
            self._compare()
        except BaseException:
            self.close()
            raise

    def sync_weights(self, version: str) -> None:
        """Have the weights handed over before the next response; see `Engine.sync_weights`.

        One process does it when responses are asked for, so that many updates in a row cost
        nothing. With `overlap`, or of several processes, it is done here; all of them must call
        this, as the weights may be gathered from all.

        Raises:
            UserError: they could not be handed over.
        """
        self._version = f"{self._run}:{version}"
        if self.processes.count > 1:
            with self.processes.together():
                folder = self._saved()
            with self.processes.together():
                if self._pushes:
                    self._settle(folder)
                self._held = self._version
            self._tidy(folder)
        elif self._overlap:
            self._settle()

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        reply: Reply | None = None,
        watch: Watch | None = None,
        follow: Follow | None = None,
    ) -> list[list[Response | Failed]]:
        """The responses to each request; see `Engine.generate`. `follow` is not called.

        Raises:
            UserError: a sampling parameter out of range, log-probabilities that are not finite, or
                weights that could not be handed over.
            WeightsLostError: see there.
        """
        sampling.check()
        self._do(self._vllm.wake())
        if self._overlap or self.processes.count > 1:
            self._check_version_held()
        else:
            self._settle()
        rows: list[list[Response | Failed]] = [[] for _ in requests]

        async def converse(row: int, gate: asyncio.Semaphore) -> None:
            tokens = self._prompt(requests[row])
            while not isinstance(tokens, Failed):
                async with gate:
                    response = await self._respond(requests[row], len(rows[row]), tokens, sampling)
                rows[row].append(response)
                if isinstance(response, Failed):
                    return
                if watch is not None:
                    watch(len(response.tokens), 1)
                answer = None if reply is None else reply(row, response)
                if answer is None:
                    return
                tokens = [*tokens, *response.tokens, *answer]
            rows[row].append(tokens)

        async def converse_all() -> None:
            gate = asyncio.Semaphore(self._rows)
            tasks = [asyncio.ensure_future(converse(row, gate)) for row in range(len(requests))]
            ticking: asyncio.Future[Any] = asyncio.ensure_future(_tick(watch))
            try:
                whole: asyncio.Future[Any] = asyncio.gather(*tasks)
                await asyncio.wait([whole, ticking], return_when=asyncio.FIRST_COMPLETED)
                await (ticking if ticking.done() else whole)
            finally:
                for task in (*tasks, ticking):
                    task.cancel()

        self._do(converse_all())
        self._check_version_held()
        self._do(self._vllm.doze())
        return rows

    # Requests

    async def _respond(
        self, request: Request, number: int, tokens: Sequence[int], sampling: Sampling
    ) -> Response | Failed:
        """Response `number` of this call to a request, whose conversation is `tokens` so far."""
        if len(tokens) + sampling.max_tokens > self._vllm.window:
            return Failed(
                f"a context of {len(tokens)} tokens and max_tokens {sampling.max_tokens} exceed "
                f"the window of {self._vllm.window} of {self.name}",
                context_full=True,
            )
        params: dict[str, Any] = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "max_tokens": sampling.max_tokens,
            "stop": [*self.template.stop, *sampling.stop],
            "stop_token_ids": list(self.template.stop_token_ids),
        }
        if sampling.temperature > 0:
            stream = request.stream(sampling.seed, request.turn + number)
            digest = blake2b(repr(stream).encode(), digest_size=8).digest()
            params["seed"] = int.from_bytes(digest, "little") >> 1
        try:
            written = await self._vllm.complete(tokens, params)
        except RefusedError as error:
            return Failed(f"{self.name}: {error}")
        if not all(map(math.isfinite, written.logprobs)):
            raise UserError(
                f"{self.name}: the model's logits are not finite: its weights have diverged; go "
                "back to an earlier checkpoint"
            )
        text = self.template.decode(written.tokens, sampling.stop)
        return Response(text, written.finish, written.tokens, written.logprobs)

    def _prompt(self, request: Request) -> Sequence[int] | Failed:
        if request.tokens:
            return request.tokens
        try:
            return self.template.start([m.model_dump() for m in request.messages])
        except UserError as error:
            return Failed(str(error))

    # Weights

    def _settle(self, saved: Path | None = None) -> None:
        """Make sure that vLLM has the weights that it should have: those `saved` in a folder, by
        default the model's.

        Raises:
            UserError: it could not be given them.
        """
        reason = ""
        for _ in range(_PUSHES):
            try:
                if self._held == self._version == self._do(self._vllm.version()):
                    return
                self._held = None
                folder = saved or self._saved()
                self._do(self._push(folder))
                self._held = self._version
                if saved is None:
                    self._tidy(folder)
                return
            except (RefusedError, OSError) as error:
                reason = str(error)
        raise UserError(
            f"{self.name}: weights {self._version.partition(':')[2]!r} could not be handed over "
            f"({reason}); nothing was sampled from what it has now"
        )

    def _common_folder(self) -> tuple[Path, bool]:
        """A new folder for weights on their way, the same for all processes that see it, and
        whether this process has made it."""
        made = Path(tempfile.mkdtemp(prefix="redraft-vllm-", dir=self.settings.folder))
        made.chmod(0o755)  # for a server of another user
        everyones = [Path(name) for name in self.processes.gather([str(made)])]
        common = next(folder for folder in everyones if folder.is_dir())
        self.processes.gather([None])  # all have looked
        if common != made:
            made.rmdir()
        return common, common == made

    def _saved(self) -> Path:
        """The folder with the weights, or the adapter, that the version names."""
        folder = self._folder / self._version.partition(":")[2]
        if self._writes or _is_sharded(self.model):
            weights = _gathered(self.model, self.dtype, trained=self._lora, keep=self._writes)
            if self._writes:
                self.model.save_pretrained(folder, state_dict=weights)
                folder.chmod(0o755)
        return folder

    def _tidy(self, folder: Path) -> None:
        """Delete what vLLM has read; its adapter it may read again."""
        if self._writes:
            for old in self._folder.iterdir():
                if old != folder or not self._lora:
                    shutil.rmtree(old, ignore_errors=True)

    async def _push(self, folder: Path) -> None:
        """Hand over the weights; only when all are there are they named."""
        vllm = self._vllm
        await vllm.name_version(f"{self._run}:under way")
        await vllm.pause()
        try:
            if self._lora:
                await vllm.take_adapter(folder)
            else:
                with suppress(RefusedError):  # an update that was never finished goes on here
                    await vllm.call("start_weight_update")
                await vllm.call("update_weights", update_info={"folder": str(folder)})
                await vllm.call("finish_weight_update")
        finally:
            await vllm.resume()
        await vllm.name_version(self._version)

    def _check_version_held(self) -> None:
        """Refuse what was written while the weights changed."""
        try:
            version = self._do(self._vllm.version())
        except RefusedError as error:
            version = str(error)
        if version != self._version:
            self._held = None
            raise WeightsLostError(
                f"{self.name}: its weights changed while it wrote (they are now {version!r} and "
                f"not {self._version!r}): it was started again, or another run uses it"
            )

    # Getting ready

    def _server(self, connected: list[Connection]) -> Server:
        """The server, once it is known to have what the learner has."""
        server = Server(self.settings, self._run)
        connected.append(server)
        try:
            check_version(self._do(server.open()), self.name)
            self._do(server.version())
        except RefusedError as error:
            raise UserError(f"{self.name}: {error}; start it with {START}") from None
        tokenizer = self.template.tokenizer
        ours = list(tokenizer(_TEXT, add_special_tokens=False)["input_ids"])
        if self._do(server.tokens(prompt=_TEXT, add_special_tokens=False)) != ours:
            raise UserError(
                f"{self.name}: has another vocabulary than the learner; serve the model that is "
                "trained"
            )
        messages, variables = [{"role": "user", "content": _TEXT}], self.template.variables
        said = self._do(server.tokens(messages=messages, chat_template_kwargs=variables))
        if tokenizer.chat_template and said != self.template.start(messages):
            raise UserError(
                f"{self.name}: has another chat template than the learner; serve the model that is "
                "trained, without --chat-template"
            )
        config = self.model.config.get_text_config()
        shape = {name: getattr(config, name, None) for name in _SHAPE}
        try:
            self._do(server.call("init_weight_transfer_engine", init_info={"model": shape}))
        except RefusedError as error:
            _, by_worker, why = str(error).partition("redraft: ")
            remedy = "serve the model that is trained" if by_worker else f"start it with {START}"
            raise UserError(f"{self.name}: {why or error}; {remedy}") from None
        return server

    def _started(self, connected: list[Connection]) -> Colocated:
        """vLLM beside the learner, with a copy of its model."""
        try:
            from vllm import __version__ as version
        except ImportError:
            raise UserError(
                "--engine vllm: vLLM is not installed; pip install 'redraft[vllm]', or name a "
                "server with --vllm.url"
            ) from None
        check_version(version, "vLLM")
        place, base, rank = self._folder / "model", self.model, 0
        if self._lora:
            base = self.model.get_base_model()
            rank = max(adapter.r for adapter in self.model.peft_config.values())
        low = self.dtype or base.dtype
        with self.processes.together():
            weights = {
                name.replace(".base_layer.", "."): value
                for name, value in _gathered(base, self.dtype, keep=self._writes).items()
                if ".lora_" not in name
            }
            if self._writes:
                base.save_pretrained(place, state_dict=weights)
                self.template.tokenizer.save_pretrained(place)
        start = Colocated.start(place, self.settings, base.device, low, self._rows, rank)
        try:
            vllm = self._do(start)
            connected.append(vllm)
            return vllm
        except RefusedError as error:
            raise UserError(f"vLLM could not be started: {error}") from None

    def _compare(self) -> None:
        """Refuse a vLLM whose log-probabilities are not those of the learner."""
        prompt = self.template.start([{"role": "user", "content": _TEXT}])
        hot = 2.0  # at 1 it would not show that the server means another distribution
        params = {"temperature": hot, "top_p": 1.0, "top_k": 0, "max_tokens": 16, "seed": 1}
        try:
            written = self._do(self._vllm.complete(prompt, params))
        except RefusedError as error:
            raise UserError(f"{self.name}: writes nothing ({error})") from None
        gap = _gap(self.model, prompt, written, hot, self.dtype)
        if not gap <= _GAP:
            raise UserError(
                f"{self.name}: the log-probabilities of what it writes are {gap:.2g} nats a token "
                "from the learner's: it has another base model or another precision, or was "
                "started without --logprobs-mode processed_logprobs"
            )

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run(work)


async def _tick(watch: Watch | None) -> None:
    """Let `watch` end what is under way without waiting for a response."""
    while True:
        await asyncio.sleep(_TICK)
        if watch is not None:
            watch(0, 0)


class _Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, which ends early where this thread is interrupted."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        finally:
            future.cancel()

    def close(self) -> None:
        """End the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _end(loop: _Loop, connected: list[Connection], folder: Path | None) -> None:
    for vllm in connected:
        with suppress(RefusedError):
            loop.run(vllm.close())
    loop.close()
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


def _gathered(
    model: Any, dtype: Any, *, trained: bool = False, keep: bool = True
) -> dict[str, Any]:
    """All weights, or those that are `trained`, in `dtype` if there is one; none without `keep`.
    Where they are sharded all processes must call this; they are gathered one by one, to the CPU.
    """
    found: dict[int, Any] = {}  # tied weights once
    state = model.state_dict(keep_vars=True)
    for weight in state.values():
        if id(weight) in found or (trained and not weight.requires_grad):
            continue
        whole = weight
        if hasattr(weight, "full_tensor"):
            whole = weight.full_tensor()
            whole = whole.cpu() if keep else whole[:0]
        whole = whole.detach()
        low = dtype is not None and whole.is_floating_point()
        found[id(weight)] = whole.to(dtype) if low else whole
    return {name: found[id(weight)] for name, weight in state.items() if id(weight) in found}


def _is_sharded(model: Any) -> bool:
    return any(hasattr(value, "full_tensor") for value in model.parameters())


def _gap(model: Any, prompt: list[int], written: Written, temperature: float, dtype: Any) -> float:
    """Mean difference of log-probabilities between what vLLM wrote and the learner, in nats."""
    import torch

    ids = torch.tensor([[*prompt, *written.tokens]], device=model.device)
    autocast = torch.autocast(model.device.type, dtype) if dtype else nullcontext()
    with torch.no_grad(), autocast:
        logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].float()
    scores = torch.log_softmax(logits / temperature, -1)
    ours = scores.gather(1, ids[0, len(prompt) :, None])[:, 0].cpu()
    return float((ours - torch.tensor(written.logprobs)).abs().mean())


def _open(model: Any, template: ChatTemplate, *, settings: Any, **given: Any) -> VLLMEngine:
    overlap = getattr(settings, "overlap", False)
    return VLLMEngine(model, template, settings.vllm, overlap=overlap, **given)


ENGINE = EngineEntry(
    "vllm",
    "vLLM, a server (--vllm.url) or started beside the learner",
    _open,
    own_weights=True,
)
"""What this package registers under `redraft.engines`."""
