"""Mathematical answers: reading them into types and comparing them by rules.

`lexer` and `reader` turn a text into a `Node`, `equality` holds the rules, `algebra` decides
whether two expressions are equal, `units` is the table of units.
"""

from redraft.grading.math.equality import Decision, decide, is_number, key
from redraft.grading.math.nodes import Node, show
from redraft.grading.math.reader import LENGTH_LIMIT, is_readable, read

__all__ = [
    "LENGTH_LIMIT",
    "Decision",
    "Node",
    "decide",
    "is_number",
    "is_readable",
    "key",
    "read",
    "show",
]
