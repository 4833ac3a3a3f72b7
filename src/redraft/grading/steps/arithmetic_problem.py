"""A problem of multistep arithmetic: its value, and what counts as a part of it."""

from functools import cached_property

from redraft.grading.steps.expression import Node, Value, values, write


class Problem:
    """A problem, its value and its parts."""

    def __init__(self, root: Node) -> None:
        self.root = root
        parts = dict(values(root))
        self.value = parts[root]
        self.part_values = frozenset(value for node, value in parts.items() if node.arguments)

    @cached_property
    def text(self) -> str:
        """The problem without spaces."""
        return _plain(self.root)

    def holds(self, quoted: Node, value: Value) -> bool:
        """Whether an expression is a part of the problem, as it stands there or as it comes out."""
        return value in self.part_values or _plain(quoted) in self.text


def _plain(node: Node) -> str:
    text = write(node).replace(" ", "")
    return text[1:-1] if node.brackets and text[0] == "(" else text
