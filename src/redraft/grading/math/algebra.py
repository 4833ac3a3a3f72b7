r"""Whether two expressions have the same value, for every value of their variables.

Values are exact fractions as long as the operations on them are; else they are complex numbers with
hundreds of digits. Variables get values drawn from a hash of their names: an identity of the
functions read here that holds at several such points holds everywhere (Schwartz and Zippel for
polynomials). Whether an inexact difference is zero is seen by computing it twice: with twice the
digits a true zero shrinks by as many digits as were added, and anything else stays.

Every operation has a price by its digits and an expression has a budget, so that no answer is slow.
"""

import hashlib
import threading
from collections.abc import Callable
from fractions import Fraction
from functools import reduce
from math import comb, factorial, gcd, isqrt, lcm
from operator import add, mod, mul, truediv
from typing import Any

import mpmath  # type: ignore[import-untyped]

from redraft.grading.math.nodes import Node, show

BITS = 160_000
"""Size of an exact number, in bits, above which it is not computed."""

PRECISION = 320
"""Bits of an inexact number, beyond what the numbers in the expression have."""

PRECISION_LIMIT = 10_000
"""Bits of an inexact number above which it is not computed."""

BUDGET = 25_000.0
"""Price of one comparison above which it is given up; one price is about ten microseconds."""

POINTS = 6
"""Points at which two expressions are compared."""

FEWEST = 3
"""Points at which both must have a value, for a verdict."""

Value = Any
"""A `Fraction` or an `mpmath.mpc`."""


class TooLargeError(Exception):
    """A value, or the work for it, is out of bounds."""


class NoValueError(Exception):
    """An expression has no value here, or holds what has no value at all."""


class Context:
    """One evaluation: where the variables lie, with how many bits, and what may yet be spent."""

    def __init__(self, point: int, bits: int, budget: list[float]) -> None:
        self.point, self.bits, self.budget = point, bits, budget
        self.given: dict[str, Value] = {}
        self.span = 0
        self.mp = _arithmetic(bits)

    def note(self, value: Value) -> None:
        """Widen `span`, the bits between the sizes of the values met and 1."""
        if isinstance(value, Fraction):
            top, bottom = value.numerator.bit_length(), value.denominator.bit_length()
            self.span = max(self.span, abs(top - bottom) if self.given else max(top, bottom))
        elif value:
            self.span = max(self.span, abs(self.mp.mag(value)))

    def pay(self, price: float) -> None:
        """Take the price of one operation from the budget."""
        self.budget[0] -= price
        if self.budget[0] < 0:
            raise TooLargeError("the expression takes too long to compute")

    def variable(self, name: str) -> Value:
        """The value of a variable: positive and negative, by turns and by its name."""
        if name not in self.given:
            digest = hashlib.sha256(f"{name}|{self.point // 2}".encode()).digest()
            value = Fraction(int.from_bytes(digest[:5], "big"), 2**39) + Fraction(1, 5)
            positive = (digest[5] + self.point) % 2
            self.given[name] = value if positive else -value
        return self.given[name]

    def inexact(self, value: Value) -> Any:
        """A value as a complex number of this many bits."""
        if isinstance(value, Fraction):
            return self.mp.mpc(self.mp.mpf(value.numerator) / value.denominator)
        return value


_of_this_thread = threading.local()


def _arithmetic(bits: int) -> Any:
    """mpmath with this many bits; made once for each thread, since making one takes a while."""
    made: dict[Any, Any] = _of_this_thread.__dict__
    if bits not in made:
        if len(made) >= 16:
            made.clear()
        made[bits] = mpmath.mp.clone()
        made[bits].prec = bits
    return made[bits]


def equal(first: Node, second: Node) -> bool | None:
    """Whether two expressions have the same value wherever both have one; None: not known.

    Raises:
        TooLargeError: a value is out of bounds.
    """
    if not (variables(first) | variables(second)):
        return _equal_at(first, second, [(0, 0)], fewest=1)
    return _equal_at(first, second, [(point, point) for point in range(POINTS)], FEWEST)


def constant_ratio(first: Node, second: Node) -> int:
    """The sign (1 or -1) of the constant c with `first` = c · `second` everywhere; 0 if there is
    none but zero.

    Raises:
        TooLargeError: a value is out of bounds.
    """
    if not variables(first) or variables(first) != variables(second):
        return 0
    ratio = Node("/", (first, second))
    if not _equal_at(ratio, ratio, [(0, point) for point in range(1, POINTS)], FEWEST - 1):
        return 0
    value = _evaluate(ratio, Context(0, PRECISION, [BUDGET]))
    return int(value.real > 0) - int(value.real < 0)


def exact_value(node: Node) -> Fraction | None:
    """The value of an expression without variables that is a fraction exactly."""
    try:
        value = _evaluate(node, Context(0, PRECISION, [BUDGET]))
    except (NoValueError, TooLargeError):
        return None
    return value if isinstance(value, Fraction) and not variables(node) else None


def float_value(node: Node) -> float | None:
    """The real value of an expression without variables, rounded; infinity for ∞."""
    if node.kind == "name" and node.value == "infty":
        return float("inf")
    if node.kind == "-" and node.args[0].value == "infty":
        return float("-inf")
    if variables(node):
        return None
    try:
        value = complex(Context(0, 64, [0.0]).inexact(_evaluate(node, Context(0, 64, [BUDGET]))))
    except (NoValueError, TooLargeError, OverflowError):
        return None
    return value.real if abs(value.imag) <= 1e-9 * abs(value) else None


def variables(node: Node) -> frozenset[str]:
    """Names of the variables in an expression; functions that are not known count as one each."""
    if node.kind == "name":
        return frozenset() if node.value in ("pi", "e", "i") else frozenset((node.value,))
    found = frozenset[str]().union(*map(variables, node.args))
    return found | {node.value} if node.kind == "call" and node.value not in FUNCTIONS else found


def _equal_at(first: Node, second: Node, points: list[tuple[int, int]], fewest: int) -> bool | None:
    """Whether two expressions, each at its point, are equal at all of these pairs of points; None
    where fewer than `fewest` of them give both a value."""
    budget, compared = [BUDGET], 0
    for place in points:
        same = _equal_there(first, second, place, budget)
        if same is False:
            return False
        compared += same is True
    return True if compared >= fewest else None


def _equal_there(
    first: Node, second: Node, place: tuple[int, int], budget: list[float]
) -> bool | None:
    try:
        a, b, context = _both(first, second, place, PRECISION, budget)
        if isinstance(a, Fraction) and isinstance(b, Fraction):
            return a == b
        bits, rough = PRECISION, context.inexact(a) - context.inexact(b)
        if 2 * context.span > PRECISION // 2:
            bits += 2 * context.span
            if bits > PRECISION_LIMIT and not context.given:
                raise TooLargeError("an inexact number has too many digits")
            bits = min(bits, PRECISION_LIMIT)
            a, b, context = _both(first, second, place, bits, budget)
            rough = context.inexact(a) - context.inexact(b)
        a, b, context = _both(first, second, place, 2 * bits, budget)
    except NoValueError:
        return None
    fine = context.inexact(a) - context.inexact(b)
    return _vanishes(rough, fine, context.inexact(a), bits, context)


def _both(
    first: Node, second: Node, place: tuple[int, int], bits: int, budget: list[float]
) -> tuple[Value, Value, Context]:
    """Two expressions' values, each at its point, and a context with the span of both."""
    here, there = (Context(point, bits, budget) for point in place)
    a, b = _evaluate(first, here), _evaluate(second, there)
    here.span = max(here.span, there.span)
    return a, b, here


def _vanishes(rough: Any, fine: Any, scale: Any, bits: int, context: Context) -> bool:
    """Whether a difference is zero, computed with `bits` bits and with twice as many."""
    if not fine:
        return True
    mp = context.mp
    before = abs(rough) or abs(scale) * mp.mpf(2) ** -bits
    return bool(abs(fine) < before * mp.mpf(2) ** (-bits // 2))


def _evaluate(node: Node, context: Context) -> Value:
    """The value of an expression.

    Raises:
        NoValueError: it has none at this point. TooLargeError: it is out of bounds.
    """
    context.pay(0.2)
    try:
        value = _computed(node, context)
        context.note(value)
    except ZeroDivisionError:
        raise NoValueError("a division by zero") from None
    except (ArithmeticError, ValueError, MemoryError, RecursionError):
        raise TooLargeError("a value is out of bounds") from None
    return value


def _computed(node: Node, context: Context) -> Value:
    match node.kind:
        case "number":
            return node.value
        case "name":
            return _name(node.value, context)
        case "+":
            return reduce(lambda a, b: _apply(add, a, b, context), _values(node, context))
        case "*":
            return reduce(lambda a, b: _apply(mul, a, b, context), _values(node, context))
        case "-":
            return -_evaluate(node.args[0], context)
        case "/" if _is_derivative(node):
            return context.variable(show(node))
        case "/":
            top, bottom = _values(node, context)
            return _apply(truediv, top, bottom, context)
        case "^":
            base, exponent = _values(node, context)
            return _power(base, exponent, context)
        case "!":
            return _factorial(_evaluate(node.args[0], context), context)
        case "call" if node.value in ("overrightarrow", "vec") and is_letters(node.args[0]):
            return context.variable(show(node))
        case "call":
            return _call(node.value, _values(node, context), context)
    raise NoValueError(node.kind)


def is_letters(node: Node) -> bool:
    """Whether a node is capital letters side by side: the ends of a line, a row of outcomes."""
    return node.kind == "*" and all(n.kind == "name" and n.value.isupper() for n in node.args)


def _is_derivative(node: Node) -> bool:
    """Whether a quotient is dy/dx."""
    return all(n.kind == "*" and n.args[0].value in ("d", "partial") for n in node.args)


def _values(node: Node, context: Context) -> list[Value]:
    return [_evaluate(arg, context) for arg in node.args]


def _name(name: str, context: Context) -> Value:
    if name == "pi":
        return context.mp.mpc(+context.mp.pi)
    if name == "e":
        return context.mp.mpc(+context.mp.e)
    if name == "i":
        return context.mp.mpc(0, 1)
    if name in ("infty", "emptyset") or name.startswith("\\"):
        raise NoValueError(f"{name} is no number")
    return context.variable(name)


def _checked(value: Value, context: Context) -> Value:
    """A value within bounds; large fractions have their price."""
    if isinstance(value, Fraction):
        bits = value.numerator.bit_length() + value.denominator.bit_length()
        if bits > BITS:
            raise TooLargeError("a number has too many digits")
        context.pay((bits / 3000) ** 2)
    elif not mpmath.isfinite(value):
        raise NoValueError("infinite")
    return value


def _apply(operation: Callable[[Any, Any], Any], a: Value, b: Value, context: Context) -> Value:
    """A sum, product or quotient: exact where both values are."""
    if not (isinstance(a, Fraction) and isinstance(b, Fraction)):
        a, b = context.inexact(a), context.inexact(b)
    return _checked(operation(a, b), context)


def _power(base: Value, exponent: Value, context: Context) -> Value:
    if not isinstance(exponent, Fraction):
        return _inexact_power(base, exponent, context)
    if not base:
        if exponent <= 0:
            raise NoValueError("zero to the power of zero or less")
        return base
    if exponent.denominator == 1 and isinstance(base, Fraction):
        size = (base.numerator.bit_length() + base.denominator.bit_length()) * abs(exponent)
        if base in (1, -1):
            return base ** int(exponent % 2)
        if size <= BITS:
            return _checked(base ** int(exponent), context)
        if not context.given:
            raise TooLargeError("a power has too many digits")
    context.pay((context.bits / 300) ** 1.2)
    if isinstance(base, Fraction) and base > 0 and 1 < exponent.denominator <= 64:
        digits = base.numerator.bit_length() + base.denominator.bit_length()
        context.pay((digits / 1000) ** 2)
        top, bottom = (_root(part, exponent.denominator) for part in base.as_integer_ratio())
        if top is not None and bottom is not None:
            return _power(Fraction(top, bottom), Fraction(exponent.numerator), context)
    return _inexact_power(base, exponent, context)


def _root(value: int, degree: int) -> int | None:
    """The root of a natural number where it is one itself."""
    if degree == 2:
        root = isqrt(value)
        return root if root * root == value else None
    root, lower = 0, 1 << (value.bit_length() // degree + 1)
    while lower != root:  # Newton's method, from above
        root = lower
        lower = min(root, ((degree - 1) * root + value // root ** (degree - 1)) // degree)
    return root if root**degree == value else None


def _inexact_power(base: Value, exponent: Value, context: Context) -> Value:
    base, exponent = context.inexact(base), context.inexact(exponent)
    if not base:
        raise NoValueError("zero to an inexact power")
    context.pay((context.bits / 300) ** 1.6)
    return _exp(exponent * context.mp.log(base), context)


def _exp(value: Any, context: Context) -> Any:
    if abs(value) > 1e6:
        raise TooLargeError("an exponential is out of bounds")
    return _checked(context.mp.exp(value), context)


def _factorial(value: Value, context: Context) -> Value:
    if isinstance(value, Fraction) and value.denominator == 1:
        if value < 0:
            raise NoValueError("factorial of a negative number")
        if value > 12_000:
            raise TooLargeError("a factorial has too many digits")
        context.pay(float(value) ** 1.5 / 1e4)
        return Fraction(factorial(int(value)))
    return _gamma(context.inexact(value) + 1, context)


def _gamma(value: Any, context: Context) -> Any:
    if abs(value) > 1e5:
        raise TooLargeError("a gamma function is out of bounds")
    context.pay(10 * (context.bits / 300) ** 3)
    try:
        return _checked(context.mp.gamma(value), context)
    except ValueError:
        raise NoValueError("a pole") from None


# ---- functions ----


def _of_mpmath(name: str) -> Callable[[list[Value], Context], Value]:
    def function(values: list[Value], context: Context) -> Value:
        (value,) = (context.inexact(v) for v in values)
        if abs(value) > 1e9 and name in ("sin", "cos", "tan", "cot", "sec", "csc"):
            raise TooLargeError("an angle is out of bounds")
        if name in ("sinh", "cosh", "tanh", "coth"):
            if abs(value) > 1e5:
                raise TooLargeError("an exponential is out of bounds")
            context.span = max(context.span, int(3 * abs(value)))
        context.pay(2 * (context.bits / 300) ** 1.6)
        try:
            return _checked(context.mp.mpc(getattr(context.mp, name)(value)), context)
        except ValueError:
            raise NoValueError(f"{name} has a pole") from None

    return function


def _log(values: list[Value], context: Context) -> Value:
    if not all(values):
        raise NoValueError("logarithm of zero")
    context.pay(2 * (context.bits / 300) ** 1.6)
    logs = [context.mp.log(context.inexact(value)) for value in values]
    return (
        _apply(truediv, logs[0], logs[1], context) if len(logs) == 2 else _checked(logs[0], context)
    )


def _of_integers(function: Callable[..., int]) -> Callable[[list[Value], Context], Value]:
    def apply(values: list[Value], context: Context) -> Value:
        if all(isinstance(value, Fraction) and value.denominator == 1 for value in values):
            return Fraction(function(*(int(value) for value in values)))
        raise NoValueError("not of integers")

    return apply


def _binomial(values: list[Value], context: Context) -> Value:
    n, k = values
    if all(isinstance(value, Fraction) and value.denominator == 1 for value in values) and n >= 0:
        if k < 0:
            return Fraction(0)
        if n > 100_000 or min(k, n - k) > 12_000:
            raise TooLargeError("a binomial coefficient has too many digits")
        context.pay(float(min(k, n - k)) ** 2 / 6e4)
        return _checked(Fraction(comb(int(n), int(k))), context)
    n, k = context.inexact(n), context.inexact(k)
    below = _gamma(k + 1, context) * _gamma(n - k + 1, context)
    return _apply(truediv, _gamma(n + 1, context), below, context)


def _absolute(values: list[Value], context: Context) -> Value:
    (value,) = values
    return abs(value) if isinstance(value, Fraction) else context.mp.mpc(abs(value))


def _rounded(up: bool) -> Callable[[list[Value], Context], Value]:
    def apply(values: list[Value], context: Context) -> Value:
        (value,) = values
        if not isinstance(value, Fraction):
            raise NoValueError("rounding of an inexact number")
        return Fraction(-(-value // 1) if up else value // 1)

    return apply


def _extreme(choose: Callable[..., Fraction]) -> Callable[[list[Value], Context], Value]:
    def apply(values: list[Value], context: Context) -> Value:
        if all(isinstance(value, Fraction) for value in values):
            return choose(values)
        raise NoValueError("an extreme of inexact numbers")

    return apply


FUNCTIONS: dict[str, Callable[[list[Value], Context], Value]] = {
    **{
        name: _of_mpmath(name)
        for name in ["sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "coth"]
    },
    **{f"arc{name}": _of_mpmath(f"a{name}") for name in ("sin", "cos", "tan", "cot")},
    **dict.fromkeys(("ln", "log"), _log),
    "lg": lambda values, context: _log([*values, Fraction(10)], context),
    "log2": lambda values, context: _log([*values, Fraction(2)], context),
    "log10": lambda values, context: _log([*values, Fraction(10)], context),
    "exp": lambda values, context: _exp(context.inexact(values[0]), context),
    "abs": _absolute,
    "binom": _binomial,
    "gcd": _of_integers(gcd),
    "lcm": _of_integers(lcm),
    "mod": _of_integers(mod),
    "floor": _rounded(up=False),
    **dict.fromkeys(("ceil", "ceiling"), _rounded(up=True)),
    "max": _extreme(max),
    "min": _extreme(min),
}


def _call(name: str, values: list[Value], context: Context) -> Value:
    known = FUNCTIONS.get(name)
    if known is not None:
        try:
            return known(values, context)
        except (TypeError, ValueError):
            raise NoValueError(f"{name} of {len(values)} values") from None
    shown = [
        str(v) if isinstance(v, Fraction) else mpmath.nstr(v, 40) for v in values
    ]  # of a function that is not known: one variable for each value of its arguments
    return context.variable(f"{name}({'|'.join(shown)})")
