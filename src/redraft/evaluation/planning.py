"""How many problems an evaluation needs to see a difference between two answers to each.

The answers are a first and a second one, or those of two systems. With p the share of problems that
are right in the second only and q that of those right in the first only,

    Δ = p - q        discordant pairs ψ = p + q

and McNemar's exact test looks at the discordant pairs alone: of M ~ Binomial(n, ψ) of them
Binomial(M, p/ψ) are gains. Its power is summed over both, with nothing approximated (Duffy,
Biometrics 40, 1984, 1005-1015). One sample a problem; several need no more problems.
"""

import numpy as np

from redraft.errors import UserError

POWER = 0.8
LEVEL = 0.05
SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
"""Shares of discordant pairs to choose from where none is known."""


def mcnemar_power(problems: int, delta: float, discordant: float, level: float = LEVEL) -> float:
    """Chance that McNemar's exact two-sided test finds a Δ, with `discordant` the share ψ."""
    from scipy.stats import binom  # a second to import, which `--help` need not wait for

    rare = 1e-12
    fewest, most = (int(binom.ppf(q, problems, discordant)) for q in (rare, 1 - rare))
    pairs = np.arange(fewest, most + 1)  # [M] numbers of discordant pairs that occur
    smaller = np.asarray(binom.ppf(level / 2, pairs, 0.5))  # at most so many of the rarer kind
    smaller = smaller - (binom.cdf(smaller, pairs, 0.5) > level / 2)  # make the test reject
    gain = (discordant + delta) / (2 * discordant)
    rejects = binom.cdf(smaller, pairs, gain) + binom.sf(pairs - smaller - 1, pairs, gain)
    return float(binom.pmf(pairs, problems, discordant) @ rejects)


def problems_needed(
    delta: float, discordant: float, power: float = POWER, level: float = LEVEL
) -> int:
    """Problems with which McNemar's exact test finds a Δ with the chance `power`.

    The search begins at Connor's approximation (Biometrics 43, 1987, 207-211),
    n = (z_{1-α/2} √ψ + z_{power} √(ψ - Δ²))² / Δ².

    Raises:
        UserError: unless 0 < Δ ≤ ψ ≤ 1.
    """
    from scipy.stats import norm  # a second to import, which `--help` need not wait for

    if not 0 < delta <= discordant <= 1:
        raise UserError(
            f"a Δ of {100 * delta:g} points with {100 * discordant:g} % discordant pairs: expected "
            "a Δ above 0, and from Δ to 100 % (--discordant)"
        )
    quantiles = norm.ppf([1 - level / 2, power])
    spread = np.sqrt([discordant, discordant - delta**2])
    about = float((quantiles @ spread / delta) ** 2)
    low, high = 1, int(1.5 * about) + 30
    while low < high:
        middle = (low + high) // 2
        if mcnemar_power(middle, delta, discordant, level) < power:
            low = middle + 1
        else:
            high = middle
    return low
