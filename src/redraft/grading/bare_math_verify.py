"""math-verify alone, to compare with. Imported by worker processes only (it brings sympy).

Its own time limits use SIGALRM and need the main thread; they are switched off here and the pool
bounds each verdict from outside by ending the process.
"""

import logging

import math_verify

for _name in ("math_verify", "math_verify.parser", "math_verify.grader"):
    logging.getLogger(_name).disabled = True


def ask(gold: str, response: str) -> bool:
    """Its verdict by its defaults: the gold between dollar signs, the response as it stands."""
    golds = math_verify.parse(f"${gold}$", parsing_timeout=None)
    found = math_verify.parse(response, parsing_timeout=None)
    return bool(math_verify.verify(golds, found, timeout_seconds=None))


# The first call builds the grammar's tables and imports more of sympy, at many times the cost of a
# later one; no verdict's time limit should pay for that.
ask(r"(-\sqrt{3}, \frac{\pi}{2})", r"$(-\sqrt{2}, x^2 + 1)$")
