"""How well programs must be confined for a run to begin, and how well they were."""

from typing import Literal

from redraft.sandbox import level, require_strict

SandboxNeed = Literal["best", "strict"]
"""`strict` refuses to run where a program could reach the network, connect to a service of this
machine, or write outside its folder."""


def check_sandbox(need: SandboxNeed) -> dict[str, object]:
    """The sandbox level of this machine as a run writes it down.

    Raises:
        UserError: no sandbox can be started, or the level does not satisfy `strict`.
    """
    found = level()
    if need == "strict":
        require_strict(found)
    return {**vars(found), "strict": found.strict, "mechanisms": found.mechanisms}
