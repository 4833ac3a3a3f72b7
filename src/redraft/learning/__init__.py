"""Token streams, the losses on them, and the learner that changes weights."""

from redraft.learning.config import LearnerConfig
from redraft.learning.learner import Learner, NonFiniteLoss
from redraft.learning.streams import TokenStreams

__all__ = ["Learner", "LearnerConfig", "NonFiniteLoss", "TokenStreams"]
