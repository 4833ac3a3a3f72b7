"""Engines turn prompts into responses; see `redraft.engines.base` for the contract."""

from typing import Any

from redraft.engines.base import (
    Engine,
    EngineEntry,
    Failed,
    Follow,
    Reply,
    Request,
    Response,
    Sampling,
    Watch,
)


def _open_local(model: Any, template: Any, *, max_rows: Any, dtype: Any, **_: Any) -> Engine:
    from redraft.engines.local import LocalEngine

    return LocalEngine(model, template, max_rows=max_rows, dtype=dtype)


LOCAL = EngineEntry("local", "the model in this process, sharing its weights", _open_local)
"""What this package registers under `redraft.engines`."""

__all__ = [
    "LOCAL",
    "Engine",
    "Failed",
    "Follow",
    "Reply",
    "Request",
    "Response",
    "Sampling",
    "Watch",
]
