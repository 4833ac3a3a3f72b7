"""What is said to a policy between its attempts."""

from redraft.protocols.base import Protocol
from redraft.protocols.intrinsic import Intrinsic
from redraft.protocols.oracle import Oracle
from redraft.protocols.programs import (
    ChainToProgram,
    ProgramAlone,
    ProgramPrompts,
    program_prompts_for,
)
from redraft.protocols.prompts import PROMPTS, Prompts, prompts_for
from redraft.protocols.self_refine import SelfRefine

__all__ = [
    "PROMPTS",
    "ChainToProgram",
    "Intrinsic",
    "Oracle",
    "ProgramAlone",
    "ProgramPrompts",
    "Prompts",
    "Protocol",
    "SelfRefine",
    "program_prompts_for",
    "prompts_for",
]
