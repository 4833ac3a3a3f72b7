"""What turns prompts into samples."""

from redraft.engines.base import ChatEngine, Engine, Failed, Messages, Reply, Sample, Sampling

__all__ = ["ChatEngine", "Engine", "Failed", "Messages", "Reply", "Sample", "Sampling"]
