"""Reading expressions: the part of the grammar below lists, relations and quantities."""

from abc import ABC, abstractmethod
from fractions import Fraction

from redraft.grading.math.building import (
    CONSTRUCTORS,
    UnreadableError,
    called,
    over,
    product_of,
    times,
    transposed,
)
from redraft.grading.math.cursor import END, Cursor
from redraft.grading.math.lexer import Token
from redraft.grading.math.nodes import EXPRESSIONS, Node, negative, number
from redraft.grading.math.units import lookup
from redraft.grading.math.vocabulary import (
    ACCENTS,
    ADDITIVE,
    BIG,
    CLOSING,
    CONSTANTS,
    ENVIRONMENTS,
    FUNCTION_NAMES,
    FUNCTIONS,
    GREEK,
    NO_NOUNS,
    PERCENT,
    POWERS,
    SCALES,
    SEPARATORS,
    WITHIN_UNITS,
)


class Expressions(Cursor, ABC):
    """The grammar of expressions: each method reads one level of it from where the last ended."""

    @abstractmethod
    def sequence(self) -> Node:
        """A whole answer, or what stands in brackets: see `parser`."""

    def sum(self) -> Node:
        """Terms between + and -, and ± and ∓."""
        node = self.product()
        while self.text in ADDITIVE:
            sign = ADDITIVE[self.text]
            self.at += 1
            term = self.product()
            if sign in "±∓":
                node = Node("±", (node, term if sign == "±" else negative(term)))
            else:
                term = negative(term) if sign == "-" else term
                node = Node("+", (*node.args, term) if node.kind == "+" else (node, term))
        if self.take(r"\over"):
            return over(node, self.sum())
        if self.take(r"\choose"):
            return Node("call", (node, self.sum()), "binom")
        return node

    def product(self) -> Node:
        """Factors, with and without signs between them, from the left."""
        node = self.signed()
        while True:
            if self.take("*", "times") or self.times_by_letter():
                node = times(node, self.signed())
            elif self.text == "out" and [t.text for t in self.tokens[self.at + 1 :][:1]] == ["of"]:
                self.at += 2
                node = over(node, self.signed())
            elif self.text == "/":
                start = self.at
                self.at += 1
                if self.token.kind == "word" and not self.is_factor(self.token, divided=True):
                    self.at = start
                    return node
                node = over(node, self.signed())
            elif self.text in ("mod", r"\mod", r"\bmod", r"\pmod"):
                self.at += 1
                node = Node("call", (node, self.power()), "mod")
            elif self.starts_factor():
                node = times(node, self.power())
            else:
                return node

    def times_by_letter(self) -> bool:
        """Go past an x that stands for multiplication: 7.8 x 10^2."""
        around = self.tokens[self.at - 1 : self.at + 2]
        signs = [token.kind for token in around] == ["number", "word", "number"]
        return signs and self.take("x", "X")

    def starts_factor(self) -> bool:
        """Whether a factor follows without a sign of multiplication."""
        token = self.token
        text = token.text
        if text == r"\frac" and self.tokens[self.at + 2].worded and self.tokens[self.at - 1].value:
            return False  # a fraction of units
        if text in ("(", "{", r"\frac", r"\sqrt", r"\binom") or token.kind in ("call", "name"):
            return not (token.kind == "call" and token.spaced and text not in FUNCTIONS)
        if token.kind == "number":
            return self.tokens[self.at - 1].text == "!"
        if text in ("[", r"\{", r"\langle", "") or token.kind == "numeral":
            return False
        if text == "|":
            return not self.bars and not self.braces
        if text == r"\Omega" and self.tokens[self.at - 1].kind == "number" and self.is_last_unit():
            return False
        if token.kind == "command":
            known = text[1:] in FUNCTIONS or text[1:] in GREEK or text in BIG
            return known or text in ACCENTS
        if token.kind == "environment":
            return text.startswith(r"\begin")
        return token.kind == "word" and self.is_factor(token)

    def is_factor(self, token: Token, divided: bool = False) -> bool:
        """Whether a word is a factor (a name, a product of names, a function), no unit or noun."""
        text = token.text
        if text in FUNCTIONS or text in CONSTANTS:
            after_number = self.at > 0 and self.tokens[self.at - 1].kind == "number"
            return not (after_number and token.spaced and lookup(text) and token.kind == "word")
        if text.lower() in NO_NOUNS or text in PERCENT or text in SCALES or text in SEPARATORS:
            return False
        unit_known = lookup(text) is not None or text in POWERS or text == "per"
        follows_number = self.at > 0 and self.tokens[self.at - 1].kind == "number"
        if token.worded:
            return len(text) == 1 and not unit_known
        if len(text) == 1:
            return text.isascii() and not (
                unit_known
                and not divided
                and follows_number
                and token.spaced
                and self.is_last_unit()
            )
        if unit_known and (follows_number or token.spaced or divided):
            return False
        return len(text) <= 3 and text.isascii() and not (token.spaced and len(text) > 2)

    def is_last_unit(self) -> bool:
        """Whether nothing but units follows to the end of this part of the answer."""
        following = self.tokens[self.at + 1 :]
        for token in following:
            if token.text in SEPARATORS or token.text in (")", "]"):
                return True
            if lookup(token.text) is None and token.text not in WITHIN_UNITS:
                return False
        return True

    def signed(self) -> Node:
        """A factor with its sign."""
        if self.take("-") or self.worded_sign():
            return negative(self.nested(self.signed))
        if self.take("+", "plus"):
            return self.nested(self.signed)
        if self.text in ("±", "∓"):
            self.at += 1
            return Node("±", (self.nested(self.signed),))
        return self.power()

    def worded_sign(self) -> bool:
        """Go past "minus" or "negative"."""
        return self.token.kind == "word" and self.take("minus", "negative", "Minus", "Negative")

    def power(self) -> Node:
        """A base with its power and what stands behind it: !, °."""
        node = self.postfixed(self.atom())
        if self.take("^"):
            if self.text == "°":
                return node
            if self.text == "{" and self.tokens[self.at + 1 : self.at + 2][:1]:
                inner = self.tokens[self.at + 1]
                if inner.text in ("°", "'") and self.tokens[self.at + 2].text == "}":
                    del self.tokens[self.at + 2], self.tokens[self.at]
                    return node
            if self.text == "'":
                return node
            exponent = self.nested(self.exponent)
            if exponent == Node("name", (), "T") and node.kind in ("matrix", "group"):
                return transposed(node)
            if exponent == number(-1) and node.value in FUNCTION_NAMES and self.text == "(":
                return Node("call", self.arguments().args, f"{node.value}^{{-1}}")
            if node.kind == "call" and node.value in FUNCTIONS and not node.args:
                raise UnreadableError("a function without its argument")
            node = self.postfixed(Node("^", (node, exponent)))
        return node

    def exponent(self) -> Node:
        """A power: a group, or one factor with its sign."""
        if self.take("-"):
            return negative(self.exponent())
        if self.take("+"):
            return self.exponent()
        return self.power()

    def postfixed(self, node: Node) -> Node:
        """A node with the factorial signs behind it."""
        while self.text == "!" and not self.token.spaced:
            self.at += 1
            if self.text == "!":
                raise UnreadableError("a double factorial")
            node = Node("!", (node,))
        return node

    def atom(self) -> Node:
        """A number, a name, a group, a function of something."""
        token = self.token
        if token.kind == "number":
            return self.number()
        if token.kind == "numeral":
            self.at += 1
            return Node("numeral", (), (token.text, int(token.value or 0)))
        if token.kind == "name":
            self.at += 1
            return Node("name", (), token.text)
        if token.kind == "environment" and token.text.startswith(r"\begin"):
            return self.matrix()
        if token.text in CLOSING:
            return self.nested(self.group)
        if token.text == "|" or token.text == r"\|":
            return self.absolute(token.text)
        if token.kind == "call" or (token.kind == "word" and token.text in FUNCTIONS):
            return self.call(token.text)
        if token.kind == "command":
            return self.command(token.text[1:])
        if token.kind == "word":
            return self.word(token)
        raise UnreadableError(f"{token.text!r} begins no value")

    def number(self) -> Node:
        """A number; with a fraction behind it a mixed number, with a word of scale its multiple."""
        token = self.token
        self.at += 1
        assert token.value is not None
        if self.token.kind == "word" and self.text.lower() in SCALES:
            value = token.value
            while self.text.lower() in SCALES:
                value *= SCALES[self.text.lower()]
                self.at += 1
            return number(value)
        if self.text == "base":
            self.at += 1
            base = self.argument()
            if base.kind != "number" or base.value not in range(2, 37):
                raise UnreadableError("a base that is no number")
            return Node("numeral", (), (token.text, int(base.value)))
        if self.text == r"\frac" and token.decimals is None:
            fraction = self.attempt(self.proper_fraction)
            if fraction is not None:
                return number(token.value + fraction.value)
        following = self.tokens[self.at : self.at + 3]
        mixed = [t.kind for t in following] == ["number", "symbol", "number"]
        if mixed and following[0].spaced and following[1].text == "/" and token.decimals is None:
            top, bottom = following[0].value, following[2].value
            if top is not None and bottom:
                self.at += 3
                return number(token.value + top / bottom)
        if self.text in ("i", "j") and self.python and not self.token.spaced:
            self.at += 1
            return times(number(token.value, token.decimals), Node("name", (), "i"))
        return number(token.value, token.decimals)

    def proper_fraction(self) -> Node | None:
        r"""A `\frac` of two natural numbers that is less than 1."""
        self.expect(r"\frac")
        top, bottom = self.argument(), self.argument()
        if top.kind == bottom.kind == "number" and 0 < top.value < bottom.value:
            return number(top.value / bottom.value)
        return None

    def argument(self) -> Node:
        """What a LaTeX command is applied to: a group, a digit, one symbol."""
        token = self.token
        if token.text == "{":
            return self.nested(self.group)
        if token.kind == "number" and token.text.isdigit() and len(token.text) > 1:
            rest = Token("number", token.text[1:], value=Fraction(int(token.text[1:])))
            self.tokens[self.at] = rest
            return number(int(token.text[0]))
        if token.kind == "word" and len(token.text) > 1:
            self.tokens[self.at] = token._replace(text=token.text[1:])
            return Node("name", (), token.text[0])
        return self.nested(self.atom)

    def group(self) -> Node:
        """What stands in brackets; one value in them is the value."""
        opening = self.text
        self.at += 1
        if opening == "{" and self.text == "}":
            raise UnreadableError("nothing in braces")
        if self.take(*CLOSING[opening]):
            if opening == r"\{":
                return Node("name", (), "emptyset")
            raise UnreadableError("nothing in brackets")
        bars, braces = self.bars, self.braces
        self.bars, self.braces = 0, int(opening == r"\{" or (opening == "{" and self.depth < 3))
        node = first = self.sequence()
        if self.braces and self.text in ("|", ":"):
            is_colon = self.take(":") or not self.take("|")
            node = self.sequence()  # {x : x > 5} is x > 5
            if is_colon and first.kind == "name" and node.kind in EXPRESSIONS:
                node = Node("relation", (first, node), ("=",))  # as Python prints a solution
            if node.kind not in ("relation", "list"):
                raise UnreadableError("a set without its condition")
            self.expect(*CLOSING[opening])
            self.bars, self.braces = bars, braces
            return node
        self.bars, self.braces = bars, braces
        closing = self.expect(*CLOSING[opening])
        several = node.kind == "list"
        if opening == "(" and closing == ")" and self.text == "_" and not several:
            return self.numeral(node)
        if opening == "{" and not several:
            return node
        if not several and opening in ("(", "[") and (opening, closing) in (("(", ")"), ("[", "]")):
            return node
        brackets = {"{": "{", r"\{": "{", r"\langle": "("}.get(opening, opening)
        ends = {"}": "}", r"\}": "}", r"\rangle": ")"}.get(closing, closing)
        return Node("group", node.args if several else (node,), (brackets, ends))

    def numeral(self, node: Node) -> Node:
        """A number in brackets with its base: (1010)_2."""
        self.expect("_")
        base = self.argument()
        if node.kind == base.kind == "number" and base.value in range(2, 37):
            return Node("numeral", (), (str(node.value), int(base.value)))
        raise UnreadableError("an index behind brackets")

    def absolute(self, bar: str) -> Node:
        """An absolute value or a norm."""
        self.at += 1
        self.bars += 1
        node = self.nested(self.sum)
        self.expect(bar)
        self.bars -= 1
        return Node("call", (node,), "abs" if bar == "|" else "norm")

    def name(self, text: str) -> Node:
        """A name with its index and primes; applied to something where it is a function."""
        if self.take("_"):
            text += "_" + self.index()
        while self.text == "'" and not self.token.spaced and len(text) <= 3:
            self.at += 1
            text += "'"
        if self.text == "(":
            base = text.rstrip("'").split("_")[0]
            arguments = self.attempt(self.arguments) if base in FUNCTION_NAMES else None
            arguments = arguments or self.attempt(self.sure_arguments)
            if arguments is not None:
                return Node("call", arguments.args, text)
        return Node("name", (), text)

    def sure_arguments(self) -> Node | None:
        """Brackets that hold no factor: several arguments, or one name before = as in h(t) = 5t."""
        arguments = self.arguments()
        defines = self.text == "=" and all(arg.kind == "name" for arg in arguments.args)
        return arguments if len(arguments.args) > 1 or defines else None

    def index(self) -> str:
        """What stands below a name, as text."""
        if not self.take("{"):
            self.at += 1
            return self.tokens[self.at - 1].text if self.at <= len(self.tokens) else ""
        start, depth = self.at, 1
        while depth and self.at < len(self.tokens):
            depth += (self.text == "{") - (self.text == "}")
            self.at += 1
        if depth:
            raise UnreadableError("an index without its end")
        return "".join(token.text for token in self.tokens[start : self.at - 1])

    def arguments(self) -> Node:
        """The arguments of a call, in brackets."""
        self.expect("(")
        if self.take(")"):
            return Node("row", ())
        node = self.nested(self.sequence)
        self.expect(")")
        return Node("row", node.args if node.kind == "list" else (node,))

    def call(self, name: str) -> Node:
        """A function by its name: of what stands in brackets, else of the factors behind it."""
        self.at += 1
        below = self.take("_") and self.argument()
        power = self.nested(self.exponent) if self.take("^") else None
        if self.text == "(":
            arguments = self.arguments().args
        elif name in FUNCTIONS:
            arguments = (self.unbracketed(),)
        else:
            raise UnreadableError(f"{name} of nothing")
        if name not in FUNCTIONS and name not in CONSTRUCTORS:
            if len(name) > 3 or power:
                raise UnreadableError(f"a function {name}")
            head = product_of(name)
            rest = arguments[0] if len(arguments) == 1 else None
            if rest is None:
                raise UnreadableError(f"a function {name}")
            return times(head, rest)
        if self.take("°"):
            arguments = (_in_radians(arguments[0]),)
        arguments = tuple(_in_radians(a.args[0]) if _is_degrees(a) else a for a in arguments)
        if below:
            arguments = (*arguments, below)
        node = called(name, arguments)
        if power == number(-1):
            return called("arc" + name, arguments)
        return Node("^", (node, power)) if power else node

    def unbracketed(self) -> Node:
        """The argument of a function without brackets: factors up to a sign or a function."""
        node = self.signed_factor()
        while self.starts_factor() and not self.is_function(self.text):
            node = times(node, self.power())
        while self.text in ("/", "*") and self.at + 1 < len(self.tokens):
            following = self.tokens[self.at + 1]
            if following.kind not in ("number", "word", "name") or self.is_function(following.text):
                break
            divided = self.take("/") or not self.take("*")
            node = over(node, self.power()) if divided else times(node, self.power())
        return node

    def signed_factor(self) -> Node:
        return negative(self.power()) if self.take("-") else self.power()

    def is_function(self, text: str) -> bool:
        """Whether a token is the name of a function."""
        return text.removeprefix("\\") in FUNCTIONS

    def command(self, name: str) -> Node:
        """A LaTeX command that has a value."""
        if "\\" + name in BIG and (self.tokens[self.at + 1 : self.at + 2] or [END])[0].text in (
            "_",
            "^",
            r"\int",
        ):
            return self.big(name)
        if name in FUNCTIONS - {"sqrt", "binom"}:
            return self.call(name)
        self.at += 1
        if name == "frac":
            return over(self.argument(), self.argument())
        if name == "binom":
            return Node("call", (self.argument(), self.argument()), "binom")
        if name == "sqrt":
            return self.root()
        if name in ("lfloor", "lceil"):
            node = self.nested(self.sum)
            self.expect("\\r" + name[1:])
            return Node("call", (node,), name[1:])
        if name == "ldots":
            return Node("dots")
        if "\\" + name in ACCENTS:
            return Node("call", (self.nested(self.argument),), name)
        if name in GREEK:
            return self.name(CONSTANTS.get(name, name))
        raise UnreadableError(f"the command {name}")

    def root(self) -> Node:
        r"""What follows `\sqrt`: a degree, and a group, a digit or brackets."""
        degree = None
        if self.text == "[":
            degree = self.nested(self.group)
        inner = self.nested(self.group) if self.text == "(" else self.argument()
        return Node("^", (inner, over(number(1), degree or number(2))))

    def big(self, name: str) -> Node:
        """A limit, a sum, an integral: kept as it stands."""
        self.at += 1
        limits = []
        while self.text in ("_", "^"):
            self.at += 1
            limits.append(Node("text", (), (self.index(),)))
        return Node("call", (*limits, self.nested(self.product)), name)

    def matrix(self) -> Node:
        """The rows of an environment."""
        kind = self.text[7:-1].strip("*{ ")
        self.at += 1
        if kind not in ENVIRONMENTS:
            raise UnreadableError(f"the environment {kind}")
        if kind == "array" and self.text == "{":
            self.index()  # an array's columns: {cc|c}
        rows, cells = list[Node](), list[Node]()
        while True:
            if self.token.kind == "row":
                rows.append(Node("row", tuple(cells)))
                cells = []
                self.at += 1
            elif self.text == "&":
                raise UnreadableError("an empty cell")
            elif self.token.kind == "environment" and self.text.startswith(r"\end"):
                self.at += 1
                break
            else:
                cells.append(self.nested(self.sequence))
                if self.text == "&":
                    self.at += 1
                elif self.token.kind not in ("row", "environment"):
                    raise UnreadableError(f"{self.text!r} in a matrix")
        if cells:
            rows.append(Node("row", tuple(cells)))
        if not rows or (len({len(row.args) for row in rows}) > 1 and kind != "cases"):
            raise UnreadableError("a matrix with rows of different lengths")
        shown = "cases" if kind == "cases" else "vmatrix" if "v" in kind.lower()[:6] else "pmatrix"
        return Node("matrix", tuple(rows), shown)

    def word(self, token: Token) -> Node:
        """A word that is a constant, a name, or a product of names."""
        text = token.text
        self.at += 1
        if text in CONSTANTS:
            return Node("name", (), CONSTANTS[text])
        if text in GREEK and len(text) > 1:
            return self.name(text)
        if len(text) == 1:
            if text == "I" and self.python and len(self.tokens) > 1:
                return Node("name", (), "i")
            if text == "E" and self.python and self.at > 1 and self.tokens[self.at - 2].text == "*":
                return Node("name", (), "e")
            return self.name(text)
        if not token.worded and len(text) <= 3 and text.isascii() and text not in NO_NOUNS:
            if (
                self.text in ("^", "!") and not text.isupper()
            ):  # xy^2; but AB^2 is a length's square
                letters = [token._replace(text=letter, spaced=False) for letter in text]
                self.tokens[self.at - 1 : self.at] = letters
                return self.name(text[0])
            head = product_of(text[:-1])
            return times(head, self.name(text[-1]))
        if (token.worded or text[0].isupper()) and text not in SEPARATORS:
            words = [text]
            while self.token.kind == "word" and self.text not in SEPARATORS:
                words.append(self.text)
                self.at += 1
            if self.text in ("=", "≈"):
                return Node("name", (), " ".join(words))
        raise UnreadableError(f"the word {text}")


def _is_degrees(node: Node) -> bool:
    return node.kind == "quantity" and node.value.dimensions == (("deg", 1),)


def _in_radians(node: Node) -> Node:
    return over(times(node, Node("name", (), "pi")), number(180))
