"""What is said to a policy between its attempts."""

from redraft.protocols.base import Protocol
from redraft.protocols.intrinsic import Intrinsic
from redraft.protocols.prompts import PROMPTS, Prompts, prompts_for

__all__ = ["PROMPTS", "Intrinsic", "Prompts", "Protocol", "prompts_for"]
