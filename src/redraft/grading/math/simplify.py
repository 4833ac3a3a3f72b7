"""What is the same answer for every rule: ± spelt out, sums and products of matrices done."""

from redraft.grading.math.nodes import Node, negative, number


def simplified(node: Node) -> Node:
    """± spelt out as a list, sums and products of matrices carried out."""
    if not node.args:
        return node
    if node.kind == "choice" and not node.args:
        return Node("name", (), node.value)
    if has(node, "±") and node.kind != "relation":
        alternatives = _alternatives(node)
        if node.kind in ("list", "group"):
            return alternatives[0]
        return Node("list", tuple(alternatives), "or")
    if node.kind in ("+", "*", "-", "/") and has(node, "matrix"):
        return _matrix_value(node) or node
    return node


def has(node: Node, kind: str) -> bool:
    return node.kind == kind or any(has(arg, kind) for arg in node.args)


def _alternatives(node: Node) -> list[Node]:
    """The two values of an expression with ±; a collection with the values in place of it."""
    if node.kind in ("list", "group"):
        elements = [
            alternative
            for arg in node.args
            for alternative in (_alternatives(arg) if has(arg, "±") else [arg])
        ]
        return [Node(node.kind, tuple(elements), node.value)]
    if node.kind == "relation":
        *sides, last = node.args
        return [Node("relation", (*sides, one), node.value) for one in _alternatives(last)]
    return [_with_sign(node, True), _with_sign(node, False)]


def _with_sign(node: Node, plus: bool) -> Node:
    args = tuple(_with_sign(arg, plus) for arg in node.args)
    if node.kind != "±":
        return Node(node.kind, args, node.value, node.decimals)
    last = args[-1] if plus else negative(args[-1])
    return last if len(args) == 1 else Node("+", (args[0], last))


Rows = tuple[tuple[Node, ...], ...]


def _matrix_value(node: Node) -> Node | None:
    """The one matrix that a sum or product of matrices and factors is; None where it is none."""
    rows = _matrix_rows(node)
    if not isinstance(rows, tuple):
        return None
    return Node("matrix", tuple(Node("row", row) for row in rows), "pmatrix")


def _matrix_rows(node: Node) -> Rows | Node | None:
    """Rows of a matrix, or an expression that is a factor; None where the sizes do not fit."""
    if node.kind == "matrix":
        return tuple(row.args for row in node.args) if node.value == "pmatrix" else None
    if not has(node, "matrix"):
        return node
    if node.kind == "-":
        return _scaled(number(-1), _matrix_rows(node.args[0]))
    if node.kind == "/":
        return _scaled(Node("/", (number(1), node.args[1])), _matrix_rows(node.args[0]))
    if node.kind not in ("+", "*"):
        return None
    parts = [_matrix_rows(arg) for arg in node.args]
    total = parts[0]
    for part in parts[1:]:
        total = _rows_added(total, part) if node.kind == "+" else _rows_multiplied(total, part)
    return total


def _scaled(factor: Node, rows: Rows | Node | None) -> Rows | None:
    if not isinstance(rows, tuple):
        return None
    return tuple(tuple(Node("*", (factor, cell)) for cell in row) for row in rows)


def _rows_added(a: Rows | Node | None, b: Rows | Node | None) -> Rows | None:
    if not (isinstance(a, tuple) and isinstance(b, tuple)):
        return None
    if (len(a), len(a[0])) != (len(b), len(b[0])):
        return None
    return tuple(
        tuple(Node("+", pair) for pair in zip(one, other, strict=True))
        for one, other in zip(a, b, strict=True)
    )


def _rows_multiplied(a: Rows | Node | None, b: Rows | Node | None) -> Rows | Node | None:
    if isinstance(a, Node):
        return _scaled(a, b) if isinstance(b, tuple) else b and Node("*", (a, b))
    if isinstance(b, Node):
        return _scaled(b, a)
    if a is None or b is None or len(a[0]) != len(b) or len(a) * len(b) * len(b[0]) > 1000:
        return None
    return tuple(
        tuple(
            Node("+", tuple(Node("*", pair) for pair in zip(row, column, strict=True)))
            for column in zip(*b, strict=True)
        )
        for row in a
    )
