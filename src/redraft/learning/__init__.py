"""Token streams and preference pairs, the losses on them, and the learner that changes weights."""

from redraft.learning.config import LearnerConfig
from redraft.learning.learner import Learner, NonFiniteLoss
from redraft.learning.pairs import Completion, PreferencePair, with_unrelated
from redraft.learning.preference_config import PreferenceConfig
from redraft.learning.streams import TokenStreams

__all__ = [
    "Completion",
    "Learner",
    "LearnerConfig",
    "NonFiniteLoss",
    "PreferenceConfig",
    "PreferencePair",
    "TokenStreams",
    "with_unrelated",
]
