"""Reading whole answers: lists, relations, sets, ratios and quantities of expressions."""

from redraft.grading.math.building import UnreadableError, is_left_side, together
from redraft.grading.math.expressions import Expressions
from redraft.grading.math.lexer import Token
from redraft.grading.math.nodes import EXPRESSIONS, Node, negative
from redraft.grading.math.units import CURRENCIES, lookup, unit
from redraft.grading.math.vocabulary import (
    CONSTANTS,
    FUNCTIONS,
    GREEK,
    NO_NOUNS,
    PERCENT,
    POWERS,
    POWERS_BEHIND,
    RELATIONS,
    SEPARATORS,
    SET_SIGNS,
)


class Parser(Expressions):
    """The grammar from the whole answer down to expressions."""

    def answer(self) -> Node:
        """The whole text."""
        node = self.sequence()
        if self.at < len(self.tokens):
            raise UnreadableError(f"{self.text!r} is left over")
        return node

    # ---- lists and relations ----

    def sequence(self) -> Node:
        """Parts between separators: `;` binds least, then "and" and "or", then the comma."""
        parts, separators = [self.nested(self.relation)], list[str]()
        while self.text in SEPARATORS or self.text == r"\text":
            separator = self.text
            self.at += 1
            while self.take("and", "or"):
                separator = "and"
            if not self.text or (self.text in (")", "]", r"\}", "}") and separator == ","):
                break  # Python's (5,)
            separators.append(separator)
            parts.append(self.nested(self.relation))
        return listed(parts, separators)

    def relation(self) -> Node:
        """Sides joined by =, <, ∈ and the like; a rounded value behind ≈ is left away."""
        sides, signs = [self.sets()], list[str]()
        while self.text in RELATIONS:
            sign = self.text
            self.at += 1
            sides.append(self.sets())
            signs.append(sign)
        if "≈" in signs:
            at = signs.index("≈")
            if at:
                sides, signs = sides[: at + 1], signs[:at]
            elif sides[0].kind == "name" or is_left_side(sides[0]):
                signs[0] = "="
            else:
                sides, signs = sides[:1], []
        return Node("relation", tuple(sides), tuple(signs)) if signs else sides[0]

    def sets(self) -> Node:
        """Unions, intersections and differences of sets, from the left."""
        node = self.ratio()
        while self.text in SET_SIGNS:
            kind = SET_SIGNS[self.text]
            self.at += 1
            other = self.ratio()
            parts = (*node.args, other) if node.kind == kind != "difference" else (node, other)
            node = Node(kind, parts)
        return node

    def ratio(self) -> Node:
        """Parts between colons, or numbers between "to"."""
        parts = [self.measured()]
        while not self.braces and (
            self.text == ":" or (self.text == "to" and parts[-1].kind in ("number", "/"))
        ):
            self.at += 1
            parts.append(self.measured())
        return Node("ratio", tuple(parts)) if len(parts) > 1 else parts[0]

    # ---- quantities ----

    def measured(self) -> Node:
        """A sum and what it counts: a unit, a currency, nouns, a percent sign; several quantities
        of one dimension side by side are one (5 ft 6 in)."""
        node = self.one_measured()
        while node.kind == "quantity" and node.value.dimensions and self.token.kind == "number":
            other = self.one_measured()
            is_part = other.kind == "quantity" and other.value.factor < node.value.factor
            if not is_part or other.value.dimensions != node.value.dimensions:
                raise UnreadableError("two quantities of different kinds side by side")
            node = together(node, other)
        return node

    def one_measured(self) -> Node:
        currency = self.currency()
        sign = bool(currency) and self.take("-")
        node = self.sum()
        node = negative(node) if sign else node
        if self.text in PERCENT:
            self.at += 1
            self.take("points", "of")
            return Node("percent", (node,))
        if currency is None and node.kind == "-" and node.args[0].kind == "quantity":
            inner = node.args[0]
            node = Node("quantity", (negative(inner.args[0]),), inner.value)
        parts, words = self.unit_phrase()
        if currency is not None:
            parts, words = (
                [(currency, 1), *(p for p in parts if p[0] not in ("dollar", "dollars"))],
                (f"{currency} {words}".strip()),
            )
        if not parts:
            return node
        if node.kind not in EXPRESSIONS:
            raise UnreadableError("a unit behind what is no value")
        return Node("quantity", (node,), unit(parts, words))

    def currency(self) -> str | None:
        """A currency before its number: $, Rs., R$, US$."""
        start, sign = self.at, self.take("-")
        names = self.text
        if names in ("R", "US", "Rs", "rs", "USD", "EUR", "INR") or names in CURRENCIES:
            self.at += 1
            if names in ("R", "US") and not self.take("$"):
                self.at = start
                return None
            names = {"R": "R$", "US": "$"}.get(names, names)
            self.take(".")
            if self.token.kind == "number" or self.text in ("-", r"\frac", "("):
                if sign:
                    self.tokens.insert(self.at, Token("symbol", "-"))
                return names
        self.at = start
        return None

    def unit_phrase(self) -> tuple[list[tuple[str, int]], str]:
        """Units and nouns behind a value, as names with powers; nothing is read if there are
        none."""
        parts, words, sign, power = list[tuple[str, int]](), list[str](), 1, 1
        if self.take(r"\frac"):
            for sign in (1, -1):
                self.expect("{")
                inner, shown = self.unit_phrase()
                self.expect("}")
                parts += [(name, sign * power) for name, power in inner]
                words += ["/", shown] if sign < 0 else [shown]
            return parts, " ".join(words)
        first = True
        while self.at < len(self.tokens):
            token, start = self.token, self.at
            divided = token.text in ("/", "per", "an", "a") and (
                token.text not in ("a", "an") or bool(parts)
            )
            if divided or (token.text in ("*", "-") and parts):
                self.at += 1
                sign = -1 if divided else sign
                words.append("/" if divided else token.text)
                token = self.token
            name = self.unit_name(token, first)
            if name is None:
                self.at = start
                if divided:
                    words.pop()
                break
            first = False
            if name in POWERS:
                power = POWERS[name]
                words.append(name)
                self.take(".")
                continue
            words.append(name)
            if self.take("^"):
                power *= self.unit_power()
                words.append(f"^{{{power}}}")
            while self.text in POWERS_BEHIND:
                words.append(self.text)
                power *= POWERS_BEHIND[self.text]
                self.at += 1
            parts.append((name, sign * power))
            power = 1
            self.take(".")
        return parts, " ".join(words)

    def unit_power(self) -> int:
        """The small power of a unit."""
        braced = self.take("{")
        sign = -1 if self.take("-") else 1
        power = self.token
        if power.kind != "number" or power.value is None or power.value not in (1, 2, 3, 4):
            raise UnreadableError("a unit to a power that no unit has")
        self.at += 1
        if braced:
            self.expect("}")
        return sign * int(power.value)

    def unit_name(self, token: Token, first: bool) -> str | None:
        """The unit or noun that the next token names; None where it names none."""
        text = token.text
        if text == "°":
            self.at += 1
            if self.text in ("C", "F"):
                self.at += 1
                return "°" + self.tokens[self.at - 1].text
            if self.text in ("Celsius", "celsius", "Fahrenheit", "fahrenheit"):
                self.at += 1
                return self.tokens[self.at - 1].text.lower()
            return "°"
        if text.lower() in ("degree", "degrees") and self.tokens[self.at + 1 :]:
            scale = {"c": "°C", "celsius": "°C", "f": "°F", "fahrenheit": "°F"}
            if named := scale.get(self.tokens[self.at + 1].text.lower()):
                self.at += 2
                return named
        if text in ("'", '"', "''"):
            self.at += 1
            double = text != "'" or self.take("'")
            if not any(t.text == "°" for t in self.tokens):
                return "in" if double else "ft"
            return "″" if double else "′"
        if text in CURRENCIES:
            self.at += 1
            return text
        if text == r"\mu" or (text == r"\Omega" and first):
            self.at += 1
            return "Ω" if text == r"\Omega" else "μ" + self.text
        if token.kind not in ("word", "call") or text.lower() in NO_NOUNS:
            return None
        known = lookup(text) is not None or text in POWERS
        if text.isascii():
            if len(text) == 1 and not (known and (token.worded or token.spaced or not first)):
                return None
            if not known and not token.worded and not (token.spaced and len(text) > 2) and first:
                return None
        if text in CONSTANTS or (self.python and text in GREEK):
            return None
        if text in FUNCTIONS and (not known or token.kind == "call"):
            return None
        self.at += 1
        return text


def listed(parts: list[Node], separators: list[str]) -> Node:
    """Parts as one list, or as a list of lists where weaker separators stand between."""
    if len(parts) == 1:
        return parts[0]
    words = [s for s in separators if s in ("and", "or")]
    for weak in (";", "and", "or"):
        if weak in separators and "," in separators:
            groups, group = [], [parts[0]]
            for part, separator in zip(parts[1:], separators, strict=True):
                if separator == weak:
                    groups.append(group)
                    group = []
                group.append(part)
            groups.append(group)
            if len({len(group) for group in groups}) == 1 and len(groups[0]) > 1:
                return Node("list", tuple(Node("list", tuple(g), ",") for g in groups), ";")
    bounds = {p.value[0] in ">≥": p for p in parts if p.kind == "relation" and p.value[0] in "<>≤≥"}
    if separators == ["and"] and len(bounds) == 2 and all(len(p.value) == 1 for p in parts):
        low, high = bounds[True], bounds[False]
        if low.args[0] == high.args[0]:  # x > 3 and x < 5
            signs = ("<" if low.value == (">",) else "≤", *high.value)
            return Node("relation", (low.args[1], low.args[0], high.args[1]), signs)
    if (
        len(parts) == 2
        and separators[0] in (",", "and")
        and all(p.kind == "quantity" for p in parts)
    ):
        first, second = parts
        same = first.value.dimensions == second.value.dimensions
        if same and first.value.dimensions and first.value.factor > second.value.factor:
            return together(first, second)
    return Node("list", tuple(parts), "or" if "or" in words else "and" if words else ",")
