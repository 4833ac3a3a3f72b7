r"""Reading an answer as an exact number: ``1,600``, ``2\frac{1}{2}``, ``$3.50``, ``7 km``.

Nothing is evaluated: a fixed grammar of literals, with bounds on digits and exponents, gives a
`fractions.Fraction`.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

from redraft.grading.normalise import clean

LENGTH_LIMIT = 200
"""Characters above which a text is not read as a number (no answer needs so many digits)."""

EXPONENT_LIMIT = 400
"""Decimal digits above which a power is left to a slower layer."""

_SIGN = r"(?P<sign>[-+])?\s*"
_CURRENCY = r"(?P<currency>[$€£¥])?\s*"
_INTEGER = r"(?:[1-9]\d{0,2}(?:,\d{3})+(?!\d)|[1-9]\d{0,2}(?: \d{3})+(?!\d)|\d+)"
_DECIMAL = rf"(?:{_INTEGER}(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d{{1,3}}(?![A-Za-z\d]))?"
_SIGNED = rf"-?{_DECIMAL}"
_TAIL = r"\s*(?P<tail>[^\d\s(){}\\^_=<>+*/|,;][^(){}\\^_=<>+*/|,;]{0,40}(?:\^\{?[23]\}?)?)?"
_FORMS = [
    re.compile(f"{_CURRENCY}{_SIGN}{_CURRENCY.replace('currency', 'currency_2')}{form}{_TAIL}")
    for form in (
        rf"(?P<mantissa>{_DECIMAL})\s*(?:\\times|\\cdot|\*|x)\s*10\s*\^\s*"
        r"\{?\s*(?P<ten>-?\d{1,3})\s*\}?",
        r"(?P<base>\d{1,9})\s*\^\s*\{?\s*(?P<exponent>-?\d{1,4})\s*\}?",
        rf"(?P<whole>{_INTEGER})\s*\\frac"
        rf"\{{\s*(?P<top>{_INTEGER})\s*\}}\{{\s*(?P<bottom>{_INTEGER})\s*\}}",
        r"(?P<whole>\d+)\s+(?P<top>\d+)\s*/\s*(?P<bottom>\d+)",
        rf"\\frac\{{\s*(?P<top>{_SIGNED})\s*\}}\{{\s*(?P<bottom>{_SIGNED})\s*\}}",
        rf"\(?(?P<top>{_DECIMAL})\)?\s*/\s*\(?(?P<bottom>{_DECIMAL})\)?",
        rf"(?P<value>{_DECIMAL})",
    )
]
_DECIMAL_COMMA = re.compile(r"(-?\d+),(\d+)")
_PERCENT = frozenset(("%", "percent", "pct", "percentage"))
_SCALES = {
    "hundred": 100,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "dozen": 12,
}
_UNIT_NAMES = {
    "mm": "millimeter millimeters millimetre millimetres",
    "cm": "centimeter centimeters centimetre centimetres",
    "m": "meter meters metre metres",
    "km": "kilometer kilometers kilometre kilometres",
    "in": "inch inches",
    "ft": "foot feet",
    "yd": "yard yards",
    "mi": "mile miles",
    "mg": "milligram milligrams",
    "g": "gram grams",
    "kg": "kilogram kilograms",
    "lb": "lbs pound pounds",
    "oz": "ounce ounces",
    "ml": "milliliter milliliters millilitre millilitres",
    "l": "liter liters litre litres",
    "s": "sec second seconds",
    "min": "mins minute minutes",
    "h": "hr hrs hour hours",
    "day": "days",
    "week": "weeks",
    "month": "months",
    "year": "years",
    "$": "dollar dollars usd",
    "cent": "cents",
    "°": "degree degrees deg",
    "rad": "radian radians",
    "mph": "",
}
_UNITS = {
    name: unit for unit, names in _UNIT_NAMES.items() for name in (unit, *names.split()) if name
}

_WHOLE_NOISE = Fraction(1, 10**6)
"""How far a whole number may be missed by float noise; 1000000.9 is not 1000000."""


@dataclass(frozen=True)
class Number:
    """An exact value and how it was written.

    `decimals` counts the digits after the decimal point (None: no point, so nothing was rounded);
    `percent` leaves the value as written, so 12.5 % has the value 12.5; `unit` is the canonical
    name of a known unit.
    """

    value: Fraction
    decimals: int | None = None
    percent: bool = False
    unit: str | None = None


def parse_number(text: str, *, decimal_comma: bool = False) -> Number | None:
    r"""The number that the whole of `text` writes, or None.

    Read are integers and decimals with thousands separators (``1,600``, ``1 600``, ``1\,600``),
    fractions, mixed numbers, scientific notation, small integer powers; around them a currency
    sign, a percent sign, a scale word ("3 million") and a unit or noun ("7 km", "5 apples").
    With `decimal_comma`, ``1000,99`` is read as 1000.99 too.
    """
    if len(text) > LENGTH_LIMIT:
        return None
    text = clean(text)
    text = _without_parentheses(text)
    if decimal_comma:
        text = _DECIMAL_COMMA.sub(r"\1.\2", text)
    # "$" is a currency before a number and a math delimiter around one.
    if text.count("$") >= 2:
        text = text.replace("$", "")
    elif text.endswith("$"):
        text = "$" + text[:-1].strip()
    for form in _FORMS:
        match = form.fullmatch(text)
        if match:
            number = _read(match.groupdict())
            if number is not None:
                return number
    return None


def same_number(gold: Number, answer: Number) -> bool:
    """Whether two numbers are the same answer.

    Exactly equal; or equal once a percentage is read as hundredths, or, from 1 % up, as a plain
    number (MATH's golds drop the sign); or one is a decimal that differs from the other by rounding
    alone: by less than 1e-6 of it (float noise; of a whole number also by less than 1e-6), or the
    other rounded to the decimals given, at least four of them. Known units that differ (5 m, 5 cm)
    make different answers.
    """
    if gold.unit and answer.unit and gold.unit != answer.unit:
        return False
    if gold.percent == answer.percent or abs(gold.value) >= 1:
        if _same_value(gold.value, answer.value, gold.decimals, answer.decimals):
            return True
        if gold.percent == answer.percent:
            return False
    hundredths = Fraction(1, 100)
    return _same_value(
        gold.value * (hundredths if gold.percent else 1),
        answer.value * (hundredths if answer.percent else 1),
        None if gold.decimals is None else gold.decimals + 2 * gold.percent,
        None if answer.decimals is None else answer.decimals + 2 * answer.percent,
    )


def _same_value(
    gold: Fraction, answer: Fraction, gold_decimals: int | None, answer_decimals: int | None
) -> bool:
    if gold == answer:
        return True
    if gold_decimals is None and answer_decimals is None:
        return False
    noise = max(abs(gold), abs(answer)) / 10**6
    if gold.denominator == 1 or answer.denominator == 1:
        noise = min(noise, _WHOLE_NOISE)
    if abs(gold - answer) <= noise:
        return True
    for exact, rounded, decimals in (
        (gold, answer, answer_decimals if gold_decimals is None else None),
        (answer, gold, gold_decimals if answer_decimals is None else None),
    ):
        if decimals is not None and decimals >= 4 and exact.denominator != 1:
            return round(exact, decimals) == rounded
    return False


def _without_parentheses(text: str) -> str:
    """``(3)`` and ``[3]`` without their brackets, when those enclose the whole and nothing else."""
    match = re.fullmatch(r"[(\[]([^()\[\],;]*)[)\]]", text)
    return match.group(1).strip() if match else text


def _read(groups: dict[str, str | None]) -> Number | None:
    value, decimals = _magnitude(groups)
    if value is None:
        return None
    if groups["sign"] == "-":
        value = -value
    currency = groups["currency"] or groups["currency_2"]
    tail = (groups["tail"] or "").strip().rstrip(".").lower()
    words = tail.replace("$", " $").split()
    unit = "$" if currency == "$" else None
    percent = bool(words) and words[0] in _PERCENT
    if percent:
        words = words[1:]
    while words and words[0] in _SCALES:
        value *= _SCALES[words[0]]
        words = words[1:]
    if not words:
        return Number(value, decimals, percent, unit)
    base_unit = re.sub(r"(?:\^\{?[23]\}?|[²³])$", "", words[0])
    if base_unit in _UNITS:
        return Number(value, decimals, percent, unit or _UNITS[base_unit])
    # An unknown noun may follow ("5 apples"), a lone letter may not: "5 x" is a product.
    if groups["tail"] and len(base_unit) >= 2 and all(_is_noun(word) for word in words):
        return Number(value, decimals, percent, unit)
    return None


def _is_noun(word: str) -> bool:
    return word[0].isalpha() and all(c.isalpha() or c in "-'.²³^{}23" for c in word)


def _magnitude(groups: dict[str, str | None]) -> tuple[Fraction | None, int | None]:
    """Value without sign, and the digits after the decimal point (None: written without one)."""
    if groups.get("mantissa"):
        literal = _literal(groups["mantissa"])
        exponent = int(groups["ten"] or 0)
        return (
            literal * Fraction(10) ** exponent if abs(exponent) <= EXPONENT_LIMIT else None
        ), None
    if groups.get("base"):
        base, exponent = int(groups["base"] or 0), int(groups["exponent"] or 0)
        if abs(exponent) * len(str(base)) > EXPONENT_LIMIT or (base == 0 and exponent <= 0):
            return None, None
        return Fraction(base) ** exponent, None
    if groups.get("top"):
        top, bottom = _literal(groups["top"]), _literal(groups["bottom"])
        if bottom == 0:
            return None, None
        return top / bottom + _literal(groups.get("whole") or "0"), None
    text = groups["value"] or ""
    point = re.search(r"\.(\d*)(?:[eE]([-+]?\d+))?$", text)
    decimals = max(len(point.group(1)) - int(point.group(2) or 0), 0) if point else None
    return _literal(text), decimals or None


def _literal(text: str | None) -> Fraction:
    return Fraction((text or "").replace(",", "").replace(" ", "").rstrip("."))
