"""What is said to the lab's model: the texts that its corpus has."""

from redraft.chat.prompts import ImprovementPrompts, ProgramPrompts, Prompts
from redraft.lab.corpus import PROGRAM, RETRY

PROMPTS = Prompts(name="lab", first="{question}", retry=RETRY)

PROGRAM_PROMPTS = ProgramPrompts(name="lab", alone=f"{{question}} {PROGRAM}", refine=PROGRAM)

IMPROVEMENT_PROMPTS = ImprovementPrompts(
    name="lab",
    feedback="Feedback :",
    update=RETRY,
    confirmation="{attempt} right",
    confirmed_by="right",
)
"""The corpus has no critiques. These repeat the response up to the first mistake, so that a small
model decides word by word, as it writes, and not all at once: the paper's three sentences likewise
say what is right, what is wrong, and why."""
