"""What turns token prompts into samples with log-probabilities."""

from redraft.engines.base import Engine, Reply, Sample, Sampling

__all__ = ["Engine", "Reply", "Sample", "Sampling"]
