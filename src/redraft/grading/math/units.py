"""Units: a table of names, and what a phrase of them comes to."""

from dataclasses import dataclass
from fractions import Fraction

_PREFIXES: dict[str, int | Fraction] = {
    **{"G": 10**9, "M": 10**6, "k": 10**3, "h": 100, "c": Fraction(1, 100), "d": Fraction(1, 10)},
    **{"m": Fraction(1, 10**3), "μ": Fraction(1, 10**6), "µ": Fraction(1, 10**6)},
    **{"n": Fraction(1, 10**9), "p": Fraction(1, 10**12)},
}
_PREFIX_WORDS: dict[str, int | Fraction] = {
    **{"giga": 10**9, "mega": 10**6, "kilo": 10**3, "hecto": 100, "deci": Fraction(1, 10)},
    **{"centi": Fraction(1, 100), "milli": Fraction(1, 10**3), "micro": Fraction(1, 10**6)},
    **{"nano": Fraction(1, 10**9)},
}

# symbols with SI prefixes | words with SI prefixes | other names | factor | dimensions
_TABLE = """
m | meter metre | | 1 | m
g | gram gramme | | 1 | g
s | second | sec secs | 1 | s
L l | liter litre | | 1/1000 | m3
Hz | hertz | | 1 | s-1
N | newton | | 1000 | g m s-2
J | joule | | 1000 | g m2 s-2
W | watt | | 1000 | g m2 s-3
Wh | | | 3600000 | g m2 s-2
Pa | pascal | | 1000 | g m-1 s-2
A | ampere amp | | 1 | A
C | coulomb | | 1 | A s
V | volt | | 1000 | g m2 s-3 A-1
Ω | ohm | | 1000 | g m2 s-3 A-2
K | kelvin | | 1 | K
mol | mole | | 1 | mol
eV | | | 1 | eV
cal | calorie | Calories | 1 | cal
B | byte | | 8 | bit
bit | | bits | 1 | bit
| | in inch inches | 127/5000 | m
| | ft foot feet | 381/1250 | m
| | yd yard yards | 1143/1250 | m
| | mi mile miles | 201168/125 | m
| | lb lbs pound pounds | 16 | oz
| | oz ounce ounces | 1 | oz
| | ton tons tonne tonnes | 1000000 | g
| | acre acres | 1 | acre
| | ha hectare hectares | 10000 | m2
| | gal gallon gallons | 1 | gallon
| | qt quart quarts | 1/4 | gallon
| | min mins minute minutes | 60 | s
| | h hr hrs hour hours | 3600 | s
| | day days | 86400 | s
| | week weeks | 604800 | s
| | month months | 1 | month
| | yr yrs year years | 12 | month
| | mph | 1397/3125 | m s-1
| | kph kmh | 5/18 | m s-1
| | ° deg degree degrees | 1 | deg
| | ′ arcmin arcminutes | 1/60 | deg
| | ″ arcsec arcseconds | 1/3600 | deg
| | rad rads radian radians | 1 | rad
| | °C celsius | 1 | celsius
| | °F fahrenheit | 1 | fahrenheit
| | $ dollar dollars usd USD US$ | 1 | dollar
| | ¢ cent cents | 1/100 | dollar
| | € euro euros eur EUR | 1 | euro
| | £ gbp GBP | 1 | sterling
| | ¥ yen yuan rmb RMB JPY CNY | 1 | yen
| | ₹ rs Rs rupee rupees INR | 1 | rupee
| | R$ real reais BRL | 1 | real
| | ₩ won KRW | 1 | won
| | ₽ ruble rubles | 1 | ruble
"""
CURRENCIES = frozenset("$€£¥₹₩₽¢")
NOUNS = frozenset(("unit", "units"))
"""Words that name no unit, though they take powers ("square units")."""

Dimensions = tuple[tuple[str, int], ...]


def _table() -> dict[str, tuple[Fraction, Dimensions]]:
    units: dict[str, tuple[Fraction, Dimensions]] = {}
    for line in _TABLE.strip().splitlines():
        symbols, words, others, factor, dimensions = (part.split() for part in line.split("|"))
        base = Fraction(factor[0])
        powers = tuple(
            sorted(
                (d.rstrip("-0123456789"), int(d.lstrip("abcdefghijklmnopqrstuvwxyzAKV") or 1))
                for d in dimensions
            )
        )
        scaled = dict.fromkeys((*symbols, *others), base)
        for symbol in symbols:
            scaled |= {prefix + symbol: base * scale for prefix, scale in _PREFIXES.items()}
        for word in words:
            for prefix, scale in {"": 1, **_PREFIX_WORDS}.items():
                scaled |= {prefix + word: base * scale, prefix + word + "s": base * scale}
        for name, value in scaled.items():
            units.setdefault(name, (value, powers))
    return units


UNITS = _table()


@dataclass(frozen=True)
class Unit:
    """A product of powers of units.

    `factor` is the size in base units, `dimensions` the powers of those, `nouns` words that are no
    unit we know; they say what is counted and are not compared unless both sides have them.
    `words` is the phrase as it prints.
    """

    factor: Fraction
    dimensions: Dimensions
    nouns: tuple[str, ...]
    words: str

    def __str__(self) -> str:
        return self.words

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Unit):
            return NotImplemented
        return self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[Fraction, Dimensions, tuple[str, ...]]:
        return self.factor, self.dimensions, self.nouns


def lookup(word: str) -> tuple[Fraction, Dimensions] | None:
    """Factor and dimensions of a unit's name; symbols keep their case (MW is not mW)."""
    return UNITS.get(word) or (UNITS.get(word.lower()) if len(word) > 2 else None)


_SINGULARS = {"people": "person", "children": "child", "men": "man", "women": "woman"}


def _singular(word: str) -> str:
    """A noun as it counts one; what is cut off too much is cut off of both sides."""
    if word.endswith("ies"):
        return word[:-3] + "y"
    ending = "es" if word.endswith(("ses", "xes", "zes", "ches", "shes", "oes")) else "s"
    return _SINGULARS.get(word, word.removesuffix(ending))


def unit(parts: list[tuple[str, int]], words: str) -> Unit:
    """The unit of a phrase, given as names with their powers."""
    factor, powers, nouns = Fraction(1), dict[str, int](), []
    for name, power in parts:
        known = lookup(name)
        if known is None:
            if name not in NOUNS:
                nouns.append(_singular(name.lower()))
            elif power != 1:
                nouns.append(f"unit{power}")
            continue
        factor *= known[0] ** power
        for dimension, exponent in known[1]:
            powers[dimension] = powers.get(dimension, 0) + exponent * power
    return Unit(factor, tuple(sorted((d, p) for d, p in powers.items() if p)), tuple(nouns), words)
