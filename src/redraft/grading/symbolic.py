"""The last layer of equality: math-verify. Imported by worker processes only (it brings sympy).

math-verify's own time limits use SIGALRM and need the main thread; they are switched off here and
the pool bounds each verdict from outside by ending the process.
"""

import logging
from typing import Any, Literal

import math_verify

from redraft.grading.normalise import clean

logging.getLogger("math_verify").disabled = True
for _name in ("math_verify.parser", "math_verify.grader"):
    logging.getLogger(_name).disabled = True


def ask(question: Literal["same", "readable"], gold: str, answer: str = "") -> bool:
    """`same`: whether gold and answer are equal, as expressions, relations or sets.

    `readable`: whether a gold answer can be read as more than a string. One function for both
    questions, so that one set of worker processes serves both.
    """
    golds = _parse(gold)
    if question == "readable":
        return any(not isinstance(reading, str) for reading in golds)
    return bool(
        math_verify.verify(
            golds, _parse(answer), timeout_seconds=None, allow_set_relation_comp=True
        )
    )


def _parse(answer: str) -> list[Any]:
    has_delimiters = any(mark in answer for mark in ("$", r"\boxed", r"\(", r"\["))
    text = answer if has_delimiters else f"${clean(answer)}$"
    return list(math_verify.parse(text, parsing_timeout=None))


# The first call builds the grammar's tables and imports more of sympy, at many times the cost of a
# later one; no verdict's time limit should pay for that.
ask("same", r"(-\sqrt{3}, \frac{\pi}{2})", r"(-\sqrt{2}, x^2 + 1)")
ask("same", r"\sqrt{8}", r"2\sqrt{3}")
