"""How well a policy corrects itself, with intervals."""

from redraft.evaluation.evaluate import collect, evaluate, resume
from redraft.evaluation.result import Result

__all__ = ["Result", "collect", "evaluate", "resume"]
