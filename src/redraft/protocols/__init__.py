"""What is said to a policy between its attempts."""

from redraft.protocols.base import Protocol
from redraft.protocols.intrinsic import Intrinsic
from redraft.protocols.oracle import Oracle
from redraft.protocols.prompts import PROMPTS, Prompts, prompts_for

__all__ = ["PROMPTS", "Intrinsic", "Oracle", "Prompts", "Protocol", "prompts_for"]
