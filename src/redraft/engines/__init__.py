"""What turns prompts into samples."""

from redraft.engines.base import (
    ChatEngine,
    ContextTooLongError,
    Engine,
    Failed,
    Messages,
    Reply,
    Sample,
    Sampling,
)

__all__ = [
    "ChatEngine",
    "ContextTooLongError",
    "Engine",
    "Failed",
    "Messages",
    "Reply",
    "Sample",
    "Sampling",
]
