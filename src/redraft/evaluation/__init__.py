"""How well a policy corrects itself, with intervals."""

from redraft.evaluation.evaluate import collect, evaluate

__all__ = ["collect", "evaluate"]
