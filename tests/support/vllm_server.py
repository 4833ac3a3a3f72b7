"""A stand-in for `vllm serve` on loopback: its requests, a model of its own, and its troubles."""

import copy
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase


class TroubleError(Exception):
    """What the server says with HTTP 500, or another status."""

    def __init__(self, said: str, status: int = 500) -> None:
        super().__init__(said)
        self.status = status


class VLLMServer:
    """Answers like vLLM 0.32 in its development mode.

    `before` is called with the path and the body of every request. It may raise `TroubleError`, or
    change the server.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.before: Callable[[str, dict[str, Any]], None] = lambda path, body: None
        self.release = "0.32.0"
        self.window = 512
        self.logprobs_of = "processed"
        self.lock = threading.Lock()
        self.url = ""
        self.start(model)

    def start(self, model: PreTrainedModel) -> None:
        """With the weights that are on disk, as after a restart."""
        self.model: Any = model
        self.base = model
        self.adapter: Any = None
        self.version, self.updating, self.loaded = "default", False, False
        self.asked: list[str] = []

    def answer(self, path: str, body: dict[str, Any]) -> Any:
        with self.lock:
            self.asked.append(path)
            self.before(path, body)
            name = path.removeprefix("/v1").strip("/").partition("?")[0]
            if not hasattr(self, f"do_{name}"):
                raise TroubleError("Not Found", 404)
            return getattr(self, f"do_{name}")(body)

    def do_version(self, body: dict[str, Any]) -> Any:
        return {"version": self.release}

    def do_models(self, body: dict[str, Any]) -> Any:
        return {"data": [{"id": "tiny", "parent": None, "max_model_len": self.window}]}

    def do_weight_info(self, body: dict[str, Any]) -> Any:
        return {"weight_version": self.version}

    def do_update_weight_version(self, body: dict[str, Any]) -> Any:
        self.version = body["new_version"]

    def do_tokenize(self, body: dict[str, Any]) -> Any:
        if "messages" in body:
            text = self.tokenizer.apply_chat_template(
                body["messages"], tokenize=False, add_generation_prompt=True
            )
        else:
            text = body["prompt"]
        return {"tokens": self.tokenizer(text, add_special_tokens=False)["input_ids"]}

    def do_init_weight_transfer_engine(self, body: dict[str, Any]) -> Any:
        layers = body["init_info"]["model"]["num_hidden_layers"]
        if (served := self.model.config.num_hidden_layers) != layers:
            raise TroubleError(f"redraft: it serves a model with {served} layers, not {layers}")

    def do_pause(self, body: dict[str, Any]) -> Any:
        return {"status": "paused"}

    def do_resume(self, body: dict[str, Any]) -> Any:
        return {"status": "resumed"}

    def do_reset_prefix_cache(self, body: dict[str, Any]) -> Any:
        return {"success": True}

    def do_start_weight_update(self, body: dict[str, Any]) -> Any:
        if self.updating:
            raise TroubleError(
                "start_weight_update called while a weight update is already active."
            )
        self.updating, self.loaded = True, False

    def do_update_weights(self, body: dict[str, Any]) -> Any:
        [file] = Path(body["update_info"]["folder"]).glob("*.safetensors")
        for name, value in load_file(file).items():
            self.model.get_parameter(name).data.copy_(value)
            self.before("/each_weight", {"name": name})
        self.loaded = True

    def do_finish_weight_update(self, body: dict[str, Any]) -> Any:
        assert self.updating
        assert self.loaded
        self.updating = False

    def do_load_lora_adapter(self, body: dict[str, Any]) -> Any:
        self.model = PeftModel.from_pretrained(copy.deepcopy(self.base), body["lora_path"])
        self.adapter = body["lora_name"]

    def do_completions(self, body: dict[str, Any]) -> Any:
        assert body["model"] == (self.adapter or "tiny")
        ids, drawn = list(body["prompt"]), torch.Generator().manual_seed(body.get("seed", 0))
        tokens: list[int] = []
        logprobs: list[float] = []
        while len(tokens) < body["max_tokens"]:
            with torch.no_grad():
                logits = self.model(torch.tensor([ids])).logits[0, -1].double()
            heat = body["temperature"]
            scores = torch.log_softmax(logits / (heat or 1.0), -1)
            token = int(scores.exp().multinomial(1, generator=drawn) if heat else scores.argmax())
            given = scores if self.logprobs_of == "processed" else torch.log_softmax(logits, -1)
            tokens.append(token)
            logprobs.append(float(given[token]))
            ids.append(token)
            if token in body.get("stop_token_ids", ()):
                break
        ended = "length" if tokens[-1] not in body.get("stop_token_ids", ()) else "stop"
        choice = {
            "token_ids": tokens,
            "logprobs": {"token_logprobs": logprobs},
            "finish_reason": ended,
        }
        return {"choices": [choice]}


@contextmanager
def serving_vllm(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> Iterator[VLLMServer]:
    """A server that runs within the block."""
    state = VLLMServer(model, tokenizer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            body = json.loads(self.rfile.read(length) or "{}")
            try:
                status, said = 200, state.answer(self.path, body) or {}
            except TroubleError as trouble:
                status, said = trouble.status, {"error": {"message": str(trouble)}}
            content = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            with suppress(ConnectionError):  # who asked may have given up
                self.wfile.write(content)

        do_GET = do_POST  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.block_on_close = True, False
    state.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
