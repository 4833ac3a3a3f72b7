r"""From text to tokens: LaTeX, plain text and Python alike, without what only changes the looks.

One pass, linear in the length of the text. Fonts, boxes, colours, sizes and spacing leave no
token; a thousands separator leaves one number; Unicode signs become the usual ones.
"""

import re
import unicodedata
from fractions import Fraction
from typing import NamedTuple


def word_set(text: str) -> frozenset[str]:
    """The words of a text, as a set."""
    return frozenset(text.split())


_SIGNS = {
    **dict.fromkeys("−–‑‒－﹣⁻", "-"),
    **{"×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "∗": "*", "÷": "/"},
    **{"⁄": "/", "∕": "/", "π": r"\pi ", "∞": r"\infty ", "√": r"\sqrt ", "∛": r"\sqrt[3] "},
    **{"≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "⩽": r"\le ", "⩾": r"\ge ", "≈": r"\approx "},
    **{"∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "ø": r"\emptyset "},
    **{"∖": r"\setminus ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}"},
    **{"ℚ": r"\mathbb{Q}", "ℂ": r"\mathbb{C}", "º": "°", "˚": "°", "±": r"\pm ", "∓": r"\mp "},
    **{"⟨": r"\langle ", "⟩": r"\rangle ", "∠": r"\angle ", "…": r"\ldots ", "⋯": r"\ldots "},
    **{"′": "'", "″": "''", "’": "'", "‘": "'", "“": '"', "”": '"', "，": ",", "、": ",", "Ω": "Ω"},
    **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff✓✔✅☑️", ""),
}
_GREEK = {
    unicodedata.lookup(f"GREEK {size} LETTER {name.upper()}"): rf"\{shown} "
    for name in word_set(
        "alpha beta gamma delta epsilon zeta eta theta iota kappa lamda mu nu xi rho "
        "sigma tau upsilon phi chi psi omega"
    )
    for size, shown in (
        ("SMALL", name.replace("lamda", "lambda")),
        ("CAPITAL", name.replace("lamda", "lambda").title()),
    )
}
_VULGAR = {
    chr(code): "\\frac{{{}}}{{{}}}".format(*unicodedata.normalize("NFKC", chr(code)).split("⁄"))
    for code in (0xBC, 0xBD, 0xBE, *range(0x2150, 0x215F))
}
_RAISED = {c: unicodedata.normalize("NFKC", c) for c in "⁰¹²³⁴⁵⁶⁷⁸⁹⁺ⁿⁱ"} | {"⁻": "-"}
_LOWERED = {c: unicodedata.normalize("NFKC", c) for c in "₀₁₂₃₄₅₆₇₈₉ₙᵢ"}
_CHARACTERS = str.maketrans({**_GREEK, **_SIGNS, **_VULGAR})
_SCRIPTS = re.compile(f"([{''.join(_RAISED)}]+)|([{''.join(_LOWERED)}]+)")

_FONTS = word_set(
    r"\mathbf \boldsymbol \bm \mathit \mathsf \mathtt \mathcal \bf \rm \it \sf \tt "
    r"\displaystyle \textstyle \scriptstyle \boxed \beginboxed \fbox \underline \mathop "
    r"\operatorname \limits \left \right \big \Big \bigg \Bigg \bigl \Bigl \biggl \bigr "
    r"\Bigr \biggr \middle \hfill \text \textbf \textit \textrm \textsf \texttt \textnormal "
    r"\textup \textsc \mbox \hbox \mathrm \emph \large \Large \ensuremath \cancel \nonumber "
    r"\hline \mathstrut \strut \Huge \huge \LARGE \small \normalsize \footnotesize "
    r"\scriptsize \tiny"
)
_WORDED = word_set(
    r"\text \textbf \textit \textrm \textsf \texttt \textnormal \textup \textsc \mbox \hbox "
    r"\mathrm \emph \rm"
)
_WITH_ARGUMENT = word_set(
    r"\color \textcolor \colorbox \hspace \vspace \phantom \hphantom \vphantom \tag \label"
)
_SYNONYMS = {
    **dict.fromkeys((r"\leq", r"\leqslant", r"\leqq", r"\le", "<=", "=<"), "≤"),
    **dict.fromkeys((r"\geq", r"\geqslant", r"\geqq", r"\ge", ">="), "≥"),
    **dict.fromkeys((r"\neq", r"\ne", "!=", r"\not="), "≠"),
    **{r"\lt": "<", r"\gt": ">", "==": "=", r"\equiv": "≡", r"\approx": "≈", r"\sim": "≈"},
    **{r"\lbrace": r"\{", r"\rbrace": r"\}", r"\lbrack": "[", r"\rbrack": "]", r"\colon": ":"},
    **dict.fromkeys((r"\lvert", r"\rvert", r"\vert", r"\mid"), "|"),
    **dict.fromkeys((r"\times", r"\cdot", r"\ast", r"\bullet"), "*"),
    **{r"\div": "/", "**": "^", r"\pm": "±", r"\mp": "∓", r"\in": "∈", r"\cup": "∪", r"\cap": "∩"},
    **{r"\setminus": "∖", r"\backslash": "∖", r"\bigcup": "∪", r"\lor": "or", r"\land": "and"},
    **{r"\vee": "or", r"\wedge": "and", r"\circ": "°", r"\degree": "°", r"\%": "%"},
    **dict.fromkeys((r"\dots", r"\ldots", r"\cdots", r"\dotsc", r"\dotsb", "..."), r"\ldots"),
    **{r"\varnothing": r"\emptyset", r"\prime": "'", r"\dfrac": r"\frac", r"\tfrac": r"\frac"},
    **{r"\cfrac": r"\frac", r"\dbinom": r"\binom", r"\tbinom": r"\binom", r"\lang": r"\langle"},
    **{r"\varphi": r"\phi", r"\varepsilon": r"\epsilon", r"\vartheta": r"\theta", r"\$": "$"},
    **{
        r"\top": "T",
        r"\intercal": "T",
        r"\#": "#",
        r"\&": "&",
        r"\_": "_",
        r"\rang": r"\rangle",
        r"\degrees": "°",
    },
}
_BASES = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9}
_BASES |= {"ten": 10, "twelve": 12, "sixteen": 16}

_THOUSANDS = (
    r"[1-9]\d{0,2}(?:(?:,\\!\s*|\{,\}\s*|\\[,!; ]\s*|[\u00a0\u2009\u202f ]|SEP)\d{3})+(?!\d)"
)
_NUMBER = (
    r"(?P<number>(?:(?P<whole>THOUSANDS|INDIAN\d+)|(?=\.\d))(?:\.(?P<decimals>\d*)"
    r"(?:\\overline\s*\{(?P<repeated>\d+)\}|\\(?:dot|bar|overline)\s*\{?(?P<dotted>\d)\}?|(?<=\.)\((?P<period>\d+)\))?)?"
    r"(?:[eE](?P<exponent>[-+]?\d{1,4})(?![A-Za-z\d]))?)"
)
_OTHERS = (
    r"(?P<space>(?:\s|~|\\[ ,;:!>]|\\q?quad|\\(?:thin|neg)?space(?![A-Za-z]))+)"
    r"|(?P<numeral>(?=[A-F]*\d)[0-9A-F]++)\s*_\s*\{?\s*(?:\\(?:text|mathrm)\s*\{)?\s*"
    rf"(?P<base>{'|'.join(_BASES)}|\d{{1,2}})(?![A-Za-z\d])\s*\}}{{0,2}}"
    r"|(?P<points>\d{1,3}(?:\.\d{3}){2,}(?![\d.]))"
)
_REST = (
    r"|(?P<row>(?:(?:\\\\)+|\\cr(?![A-Za-z]))\s*(?:\[[^\]]{0,12}\])?)|(?P<environment>\\(?:begin|end)\s*\{[A-Za-z]+\*?\})"
    r"|(?P<set>\\math(?:bb|bf)\s*\{?\s*[RZNQC]\s*\}?(?![A-Za-z]))|(?P<command>\\(?:[A-Za-z]+|.))"
    r"|(?P<call>[A-Za-z][A-Za-z.]*[A-Za-z]\d*(?=\())|(?P<word>[^\W\d_]+)"
    r"|(?P<symbol><=|=<|>=|!=|==|\*\*|\.\.\.|[\s\S])"
)
_INDIAN = r"(?:\d{2}(?:,\d{2})+|\d(?:,\d{2}){2,}),\d{3}(?!\d)|"


def _tokens(separator: str, indian: str) -> re.Pattern[str]:
    number = _NUMBER.replace("THOUSANDS", _THOUSANDS.replace("SEP", separator))
    return re.compile(f"{_OTHERS}|{number.replace('INDIAN', indian)}{_REST}")


_OUTSIDE, _WITHIN = _tokens("[,']", _INDIAN), _tokens("(?!)", "")
"""Within brackets a plain comma separates elements; outside of them it may separate thousands."""


EXPONENT_LIMIT = 2000
"""Exponent of 1e5 and the like above which it is not read."""

_DOUBLED = re.compile(r"\\\\(?=[A-Za-z\\{}])")
"""A backslash that some JSON writer has escaped twice."""


_MODULE = re.compile(r"\b(?:math|cmath|np|numpy|sympy|sp)\.(?=[A-Za-z])")
_QUOTED = re.compile(r"""\((['"])([-\d./eE]+)\1\)""")


class Token(NamedTuple):
    """One token; `spaced` says whether white space stands before it, `worded` whether it stands in
    a text command such as `\\text`."""

    kind: str
    text: str
    spaced: bool = False
    worded: bool = False
    value: Fraction | None = None
    decimals: int | None = None


def plain(text: str) -> str:
    """The text with Unicode's mathematical signs in the usual notation."""
    if text.isascii():
        return text
    text = _SCRIPTS.sub(_script, text)
    return unicodedata.normalize("NFKC", text.translate(_CHARACTERS)).replace("⁄", "/")


def _script(match: re.Match[str]) -> str:
    raised, lowered = match.groups()
    if raised:
        return "^{" + "".join(_RAISED[c] for c in raised) + "}"
    return "_{" + "".join(_LOWERED[c] for c in lowered) + "}"


def _unquoted(text: str) -> str:
    r"""The text without the doubling of backslashes that a quotation brings, and without what
    stands around values in Python: math.pi, Decimal('0.5')."""
    if r"\begin{" not in text or r"\\begin{" in text:
        text = _DOUBLED.sub(r"\\", text)
    return _QUOTED.sub(r"(\2)", _MODULE.sub("", text))


def tokens_of(text: str) -> list[Token]:
    """The tokens of an answer."""
    text = _unquoted(plain(text))
    found: list[Token] = []
    braces: list[str] = []  # what each open brace is: kept, dropped (a font's), worded, or skipped
    depth, position, pending = 0, 0, ""
    spaced = worded = skipping = False
    while position < len(text):
        in_list = len(found) > 1 and found[-1].text == "," and found[-2].kind == "number"
        kind, match = _next(text, position, depth or int(in_list and not spaced))
        position = match.end()
        if kind == "space":
            spaced = True
            continue
        token = _SYNONYMS.get(match.group(), match.group())
        if token in ("{", "}"):
            if token == "{":
                braces.append(pending or "kept")
                skipping = skipping or pending == "skipped"
            kind_of_brace = braces[-1] if braces else "kept"
            if token == "}" and braces:
                braces.pop()
                skipping = "skipped" in braces
            pending, worded = "", "worded" in braces
            if kind_of_brace != "kept" or skipping:
                spaced = spaced or (kind_of_brace == "worded" and token == "{")
                continue
        elif token in _WITH_ARGUMENT:
            pending = "skipped"
            if text[position : position + 1] == "[":  # \textcolor[HTML]{FF0000}
                position = max(position, text.find("]", position) + 1)
            continue
        elif token in _FONTS:
            pending = "worded" if token in _WORDED else "dropped"
            if token in (r"\left", r"\right") and text[position : position + 1] == ".":
                position += 1
            continue
        elif skipping:
            continue
        pending = ""
        if token in "([" or token in (r"\{", r"\langle"):
            depth += 1
        elif token in ")]" or token in (r"\}", r"\rangle"):
            depth = max(0, depth - 1)
        found.append(_token(kind, token, match, spaced, worded))
        spaced = False
    return found


def _next(text: str, position: int, depth: int) -> tuple[str, re.Match[str]]:
    """What stands at the position, and its kind."""
    match = (_WITHIN if depth else _OUTSIDE).match(text, position)
    assert match is not None
    if match["number"] or not match["numeral"]:
        return "number" if match["number"] else str(match.lastgroup), match
    try:
        int(match["numeral"], _BASES.get(match["base"]) or int(match["base"]))
    except ValueError:  # 3A_2 is no numeral: 3 times A_2
        return _without_numeral(text, position, depth)
    return "numeral", match


def _without_numeral(text: str, start: int, depth: int) -> tuple[str, re.Match[str]]:
    end = start + 1
    while end < len(text) and text[end].isdigit() and text[start].isdigit():
        end += 1
    match = (_WITHIN if depth else _OUTSIDE).match(text, start, end)
    assert match is not None
    return "number" if match["number"] else str(match.lastgroup), match


def _token(kind: str, token: str, match: re.Match[str], spaced: bool, worded: bool) -> Token:
    if kind == "number" and abs(int(match["exponent"] or 0)) <= EXPONENT_LIMIT:
        value, decimals = _value(match)
        return Token(kind, token, spaced, worded, value, decimals)
    if kind == "points":
        return Token("number", token, spaced, worded, Fraction(token.replace(".", "")))
    if kind == "numeral":
        base = _BASES.get(match["base"]) or int(match["base"])
        return Token(kind, match["numeral"], spaced, worded, Fraction(base))
    if kind == "set":
        return Token("name", rf"\mathbb{{{token.rstrip(' }')[-1]}}}", spaced, worded)
    return Token("symbol" if kind == "number" else kind, token, spaced, worded)


def _value(match: re.Match[str]) -> tuple[Fraction, int | None]:
    """The exact value of a number token and how many decimals it was rounded to, if any."""
    whole = "".join(filter(str.isdigit, match["whole"] or "0"))
    decimals, repeated = (
        match["decimals"] or "",
        match["repeated"] or match["dotted"] or match["period"],
    )
    value = Fraction(int(whole + decimals), 10 ** len(decimals))
    if repeated:
        value += Fraction(int(repeated), 10 ** len(decimals) * (10 ** len(repeated) - 1))
    exponent = int(match["exponent"] or 0)
    exact = not decimals or repeated
    return value * Fraction(10) ** exponent, None if exact else max(len(decimals) - exponent, 0)
