"""The engine whose responses come from a Python function, and what importing engines loads."""

import subprocess
import sys
from collections.abc import Sequence

from redraft.engines import Engine, Failed, Request, Response, Sampling
from redraft.engines.scripted import ScriptedEngine
from redraft.types import Message

QUESTION = [Message(role="user", content="What is 1+1?")]


def test_a_function_answers() -> None:
    def expert(messages: Sequence[Message]) -> str | Failed:
        if len(messages) > 1:
            return Failed("only first questions")
        return messages[-1].content.upper()

    engine: Engine = ScriptedEngine(expert)
    calls: list[tuple[int, int]] = []
    longer = [*QUESTION, Message(role="assistant", content="3"), *QUESTION]
    requests = [Request(QUESTION), Request(longer), Request(QUESTION)]
    rows = engine.generate(requests, Sampling(), watch=lambda *counts: calls.append(counts))
    said = Response("WHAT IS 1+1?", "stop", [], [], completion_tokens=0)
    assert rows == [[said], [Failed("only first questions")], [said]]
    assert calls == [(0, 1), (0, 1)]
    assert engine.template is None


def test_the_contract_is_light_to_import() -> None:
    code = "import sys, redraft.engines.scripted; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
