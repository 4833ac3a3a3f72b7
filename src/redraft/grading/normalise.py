r"""Writing an answer in one way: the LaTeX that changes how an answer looks but not what it is."""

import re

_REPLACED = {
    "−": "-",
    "–": "-",
    "×": r"\times ",
    "·": r"\cdot ",
    "÷": "/",
    "π": r"\pi ",
    "∞": r"\infty ",
    "√": r"\sqrt",
    "≤": r"\leq ",
    "≥": r"\geq ",
    "≠": r"\neq ",
    "∪": r"\cup ",
    "∈": r"\in ",
    "°": "",
    "º": "",
    " ": " ",
    "，": ",",
    "％": "%",
}
_UNICODE = str.maketrans(_REPLACED)
_DOUBLED_BACKSLASH = re.compile(
    r"\\\\(?=(?:d?frac|left|right|sqrt|text|pi|times|cdot|boxed|infty|theta|circ)\b)"
)
_DELIMITERS = re.compile(r"^(?:\$\$?|\\\[|\\\()\s*(.*?)\s*(?:\$\$?|\\\]|\\\))$", re.DOTALL)
_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?=\{)")
_INVISIBLE = re.compile(
    r"\\(?:left|right|bigl|bigr|Bigl|Bigr|big|Big|displaystyle|limits)(?![A-Za-z])\.?"
)
_THIN_SPACE_IN_NUMBER = re.compile(r"(?<=[\d,])\s*(?:\\[!,;:]|\{,\})\s*(?=,?\d)")
_SPACE = re.compile(r"\\[ ,;:!]|\\(?:quad|qquad|space)(?![A-Za-z])|~")
_DEGREES = re.compile(r"\^\s*\{?\s*\\circ\s*\}?|\\degree(?![A-Za-z])")
_FRACTION_SIZE = re.compile(r"\\[dtc]frac(?![A-Za-z])")
_FRACTION_DIGITS = re.compile(r"\\frac\s*(\d)\s*(\d)")
_FRACTION_FIRST = re.compile(r"\\frac\s*(\d)\s*(?=\{)")
_FRACTION_SECOND = re.compile(r"(\\frac\{[^{}]*\})\s*(\d)")
_ROOT_DIGIT = re.compile(r"\\sqrt\s*(\d)")
_ROOT_PLAIN = re.compile(r"(?<![A-Za-z\\])sqrt\s*\(([^()]*)\)|\\sqrt\s*\(([^()]*)\)")
_POWER_GROUP = re.compile(r"\^\s*\(([^()]*)\)")
_TEXT = re.compile(
    r"\\(?:text|textbf|textit|textnormal|textrm|texttt|mathrm|mathbf|mathit|mbox|hbox)"
    r"\s*\{([^{}]*)\}"
)
_SYNONYMS = {
    r"\le": r"\leq",
    r"\ge": r"\geq",
    r"\ne": r"\neq",
    r"\lt": "<",
    r"\gt": ">",
    r"\lbrace": r"\{",
    r"\rbrace": r"\}",
    r"\colon": ":",
    r"\ast": "*",
    r"\dots": r"\ldots",
}
_SYNONYM = re.compile(r"\\(?:le|ge|ne|lt|gt|lbrace|rbrace|colon|ast|dots)(?![A-Za-z])")


def clean(text: str) -> str:
    r"""An answer without its delimiters, boxes, sizes and fonts; words and single spaces stay.

    ``$\left(1,\,\dfrac12\right)$`` becomes ``(1, \frac{1}{2})``.
    """
    text = " ".join(text.translate(_UNICODE).split())
    text = _unwrap(_DOUBLED_BACKSLASH.sub(r"\\", text))
    text = _POWER_GROUP.sub(r"^{\1}", text.replace("**", "^"))
    text = _BOX.sub("", text)
    text = _INVISIBLE.sub("", text)
    text = _THIN_SPACE_IN_NUMBER.sub(lambda m: "," if "{,}" in m.group() else "", text)
    text = _SPACE.sub(" ", text)
    text = _DEGREES.sub("", text)
    text = _FRACTION_SIZE.sub(r"\\frac", text)
    text = _FRACTION_DIGITS.sub(r"\\frac{\1}{\2}", text)
    text = _FRACTION_FIRST.sub(r"\\frac{\1}", text)
    text = _FRACTION_SECOND.sub(r"\1{\2}", text)
    text = _ROOT_DIGIT.sub(r"\\sqrt{\1}", text)
    text = _ROOT_PLAIN.sub(lambda m: rf"\sqrt{{{m.group(1) or m.group(2) or ''}}}", text)
    text = _TEXT.sub(r" \1 ", text)
    text = _SYNONYM.sub(lambda m: _SYNONYMS[m.group()], text)
    text = text.replace(r"\%", "%").replace(r"\$", "$")
    text = " ".join(text.split())
    return _unwrap(text.rstrip(".,;: ") if not text.endswith(r"\;") else text)


def normalise(text: str) -> str:
    """The form in which two answers that read the same are the same string.

    `clean`, then without spaces and `$`; answers made of words alone are compared without case,
    and a lone choice letter without its parentheses.
    """
    text = clean(text).replace("$", "")
    if text and re.fullmatch(r"[^\W\d_][^\W\d_ '-]+(?:[ '-][^\W\d_]+)*", text):
        return " ".join(text.split()).casefold()
    text = re.sub(r"\s+", "", text)
    letter = re.fullmatch(r"\(([A-Z])\)", text)
    return letter.group(1) if letter else text


def _unwrap(text: str) -> str:
    """Without the pairs that enclose the whole: math delimiters and a plain group in braces."""
    for _ in range(4):  # a fixed number of layers bounds the cost of hostile nesting
        match = _DELIMITERS.match(text)
        inner = match.group(1) if match else text
        if match and ("$" in inner or r"\(" in inner or r"\[" in inner):
            inner = text  # "$1$ and $2$" is not one formula
        if inner.startswith("{") and inner.endswith("}") and _is_one_group(inner):
            inner = inner[1:-1].strip()
        if inner == text:
            break
        text = inner
    return text


def _is_one_group(text: str) -> bool:
    """Whether the first brace closes at the very end, around something without a comma."""
    depth = 0
    for index, character in enumerate(text):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return index == len(text) - 1 and "," not in text
    return False
