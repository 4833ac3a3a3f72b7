"""Calls between a program and its tests, which run in processes of their own.

Either side asks the other to do something with an object that the other keeps, and waits for the
answer; meanwhile it answers what it is asked itself, because a test may give the program a
function. A message is a line of JSON. Plain data goes by value: it arrives as the exact types of
`_CONTAINERS` and `_SCALARS`, whatever a subclass says about itself. Every other object stays where
it is, and the other side gets a `Remote`.
"""

import builtins
import json
import os
from _thread import RLock
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import islice
from typing import Any, ClassVar

LARGEST_MIB = 16
"""The longest message that is read."""

_LARGEST = LARGEST_MIB * 2**20
_RAW = (bool, float, str, type(None))
_TYPES = {name: kind for name, kind in vars(builtins).items() if isinstance(kind, type)}
_BASES: tuple[type[Any], ...] = (int, float, str, bytes, list, tuple, set, frozenset, dict)


def _flat(mapping: dict[Any, Any]) -> list[Any]:
    return [part for pair in mapping.items() for part in pair]


def _pairs(parts: list[Any]) -> dict[Any, Any]:
    return dict(zip(parts[::2], parts[1::2], strict=True))


_Kind = tuple[type, Callable[[Any], list[Any]], Callable[..., Any]]
_CONTAINERS: dict[str, _Kind] = {  # name: (type, to its parts, from its parts)
    **{kind.__name__: (kind, list, kind) for kind in (list, tuple, frozenset, deque)},
    "set": (set, list, lambda parts: set(frozenset(parts))),  # in the order of a set's literal
    "dict": (dict, _flat, _pairs),
    "OrderedDict": (OrderedDict, _flat, lambda parts: OrderedDict(_pairs(parts))),
    "Counter": (Counter, _flat, lambda parts: Counter(_pairs(parts))),
    "defaultdict": (defaultdict, _flat, lambda parts: defaultdict(None, _pairs(parts))),
}
_SCALARS: dict[str, _Kind] = {  # the parts are numbers and texts
    "int": (int, lambda value: [hex(value)], lambda text: int(text, 16)),
    "complex": (complex, lambda value: [value.real, value.imag], complex),
    "bytes": (bytes, lambda value: [value.decode("latin-1")], lambda t: bytes(t, "latin-1")),
    "bytearray": (
        *(bytearray, lambda value: [value.decode("latin-1")]),
        lambda text: bytearray(text, "latin-1"),
    ),
    "range": (range, lambda value: [value.start, value.stop, value.step], range),
    "Decimal": (Decimal, lambda value: [str(value)], Decimal),
    "Fraction": (Fraction, lambda value: [str(value)], Fraction),
    "timedelta": (
        *(timedelta, lambda value: [value.days, value.seconds, value.microseconds]),
        timedelta,
    ),
    **{
        kind.__name__: (kind, lambda value: [value.isoformat()], kind.fromisoformat)
        for kind in (date, datetime, time)
    },
}
_NAMES = {kind: name for name, (kind, *_) in (_CONTAINERS | _SCALARS).items()}


class ChannelError(BaseException):
    """The other side sent what it never sends."""


class ChannelEndedError(ChannelError):
    """The other side has gone."""


class Remote:
    """An object of the other side: it can be called, asked for attributes, items and truth, and
    given back, but it is equal to nothing, because the other side would say whether it is.
    """

    def __init__(self, channel: "Channel", number: int, kind: str) -> None:
        vars(self).update(_channel=channel, _number=number, _kind=kind)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        values = (*arguments, *named.values())
        return self._channel.ask("call", self._number, values, tuple(named))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._channel.ask("get", self._number, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._channel.ask("set", self._number, name, value)

    def __getitem__(self, key: Any) -> Any:
        return self._channel.ask("item", self._number, key)

    def __iter__(self) -> Iterator[Any]:
        iterator = self._channel.ask("iter", self._number)
        while found := self._channel.ask("next", iterator._number):
            yield found[0]

    def __next__(self) -> Any:
        for found in self._channel.ask("next", self._number):
            return found
        raise StopIteration

    def __len__(self) -> int:
        return int(self._channel.ask("len", self._number))

    def __bool__(self) -> bool:
        return self._channel.ask("bool", self._number) is True

    def __str__(self) -> str:
        return str(self._channel.ask("str", self._number))

    def __repr__(self) -> str:
        return str(self._channel.ask("repr", self._number))

    def __eq__(self, other: object) -> bool:
        raise TypeError(f"objects of the other process cannot be compared: a {self._kind}")

    __hash__ = None  # type: ignore[assignment]


class Channel:
    """One side's end.

    `operations` are what the other side may ask for, by name: functions of an object that this side
    keeps, and of operands.
    """

    operations: ClassVar[dict[str, Callable[..., Any]]] = {
        "call": lambda function, values, names: _call(function, values, names),
        "iter": iter,
        "next": lambda iterator: list(islice(iterator, 1)),
    }

    def __init__(self, incoming: int, outgoing: int) -> None:
        self._incoming, self._outgoing = os.fdopen(incoming, "rb"), os.fdopen(outgoing, "wb")
        self._kept: list[object] = []
        self._numbers: dict[int, int] = {}  # in `_kept`, by the object's id
        self._remotes: dict[int, Remote] = {}
        self._asking = RLock()  # `threading` has no other, and costs each fork its import

    def ask(self, operation: str, number: int, *operands: Any) -> Any:
        """What the other side's object `number` answers; what it does to lists, sets and dicts in
        the first operand is done to those here.

        Raises:
            ChannelError: there was no answer, or none that can be read.
            Exception: the one that the operation raised there, as the nearest built-in type.
        """
        with self._asking:
            self.send("ask", operation, number, [self._encoded(operand) for operand in operands])
            while True:
                match self.receive():
                    case ["ask", str(asked), int(own), list(encoded)]:
                        self.answer("ask", asked, own, encoded)
                    case ["done", result, now]:
                        if now is not None:
                            _restore(operands[0], self._decoded(now))
                        return self._decoded(result)
                    case ["raised", list(names), list(arguments)]:
                        raise _rebuilt(names, arguments)
                    case _:
                        raise ChannelError("a message of no known form")

    def answer(self, ask: str, operation: str, number: int, encoded: list[Any]) -> None:
        """Do what a message of the other side asks for.

        Raises:
            ChannelError: it cannot be read, or its answer not be written.
        """
        try:
            operands = [self._decoded(operand) for operand in encoded]
            if operation not in self.operations:
                raise TypeError(f"{operation!r} is refused to the other process")
            result = self.operations[operation](self._kept[number], *operands)
            now = [self._encoded(operand) for operand in operands[:1]]
            changed = now[0] if now != encoded[:1] else None
            said: list[Any] = ["done", self._encoded(result), changed]
        except ChannelError:
            raise
        except BaseException as error:
            said = ["raised", *_described(error)]
        self.send(*said)

    def send(self, *message: Any) -> None:
        """Write a message.

        Raises:
            ChannelEndedError: nobody will read it.
        """
        try:
            self._outgoing.write(json.dumps(message).encode() + b"\n")
            self._outgoing.flush()
        except OSError as error:
            raise ChannelEndedError("the other process has ended") from error

    def receive(self) -> Any:
        """The next message.

        Raises:
            ChannelError: there is none, or it is too long or no JSON.
        """
        line = self._incoming.readline(_LARGEST)
        if not line:
            raise ChannelEndedError("the other process has ended")
        if not line.endswith(b"\n"):
            raise ChannelError(f"a message of more than {LARGEST_MIB} MiB, or half of one")
        try:
            return json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ChannelError("a message that is no JSON, or too deep") from error

    def keep(self, value: object) -> int:
        """The number by which the other side may ask for an object from now on."""
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self._kept)
            self._kept.append(value)
        return self._numbers[id(value)]

    def _encoded(self, value: Any) -> Any:
        kind = type(value)
        if kind in _RAW or (kind is int and -(2**63) < value < 2**63):
            return value
        if name := _NAMES.get(kind):
            if scalar := _SCALARS.get(name):
                return [name, scalar[1](value)]
            return [name, [self._encoded(part) for part in _CONTAINERS[name][1](value)]]
        if kind is Remote:
            return ["yours", value._number]
        if isinstance(value, type) and _TYPES.get(value.__name__) is value:
            return ["type", value.__name__]
        for base in _BASES:
            if isinstance(value, base):
                return self._encoded(base(value))
        if getattr(value, "ndim", None) == 0:  # a number of numpy or torch
            return self._encoded(value.item())
        return ["mine", self.keep(value), kind.__name__]

    def _decoded(self, encoded: Any) -> Any:
        """Raises ChannelError where the other side sent what `_encoded` never makes."""
        try:
            return self._value(encoded)
        except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
            raise ChannelError(f"a value that cannot be read: {error}") from error

    def _value(self, encoded: Any) -> Any:
        match encoded:
            case bool() | int() | float() | str() | None:
                return encoded
            case ["mine", int(number), str(kind)]:
                return self._remotes.setdefault(number, Remote(self, number, kind))
            case ["yours", int(number)]:
                return self._kept[number]
            case ["type", str(name)]:
                return _TYPES[name]
            case [str(name), list(parts)] if name in _CONTAINERS:
                return _CONTAINERS[name][2]([self._value(part) for part in parts])
            case [str(name), list(parts)] if all(type(p) in (int, float, str) for p in parts):
                return _SCALARS[name][2](*parts)
        raise ValueError("no known form")


def _call(function: Callable[..., Any], values: tuple[Any, ...], names: tuple[str, ...]) -> Any:
    """`names` are those of the last values."""
    positional = len(values) - len(names)
    return function(*values[:positional], **dict(zip(names, values[positional:], strict=True)))


def _restore(values: tuple[Any, ...], now: tuple[Any, ...]) -> None:
    """Make the lists, sets and dicts among `values` what the other side's copies are now."""
    for value, new in zip(values, now, strict=True):
        if type(value) is not type(new):
            continue
        if isinstance(value, list | bytearray):
            value[:] = new
        elif isinstance(value, deque):
            value.clear()
            value.extend(new)
        elif isinstance(value, set | dict):
            value.clear()
            value.update(new)


def _described(error: BaseException) -> tuple[list[str], list[Any]]:
    """The names of an exception's class and its bases, and its arguments."""
    first, *others = type(error).__mro__
    builtin = first.__module__ == "builtins"
    name = first.__qualname__ if builtin else f"{first.__module__}.{first.__qualname__}"
    simple = all(type(argument) in (*_RAW, int) for argument in error.args)
    arguments = list(error.args) if simple else [str(error)]
    return [name, *(kind.__name__ for kind in others)], arguments


def _rebuilt(names: list[Any], arguments: list[Any]) -> BaseException:
    """An exception of the nearest built-in class.

    That is never `StopIteration`, which would end the loop of a `map` over the function that is
    tested, and with it the tests.
    """
    for name in names:
        kind = _TYPES.get(name) if isinstance(name, str) else None
        stops = (StopIteration, StopAsyncIteration)
        if kind is None or not issubclass(kind, BaseException) or issubclass(kind, stops):
            continue
        try:
            named = (
                kind if name == names[0] else type(names[0], (kind,), {"__module__": "builtins"})
            )
            return named(*arguments)
        except Exception:
            break
    return RuntimeError(*map(str, (names[:1] + arguments)))
