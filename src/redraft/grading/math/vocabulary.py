"""The words and signs that the reader knows, as tables."""

from redraft.grading.math.lexer import word_set

FUNCTIONS = word_set(
    "sin cos tan cot sec csc arcsin arccos arctan arccot asin acos atan sinh cosh tanh coth "
    "ln log lg exp gcd lcm min max floor ceil det deg Re Im arg cis sgn sign abs sqrt cbrt "
    "factorial binomial binom lim sup inf Gamma ceiling log2 log10 mod conjugate re im"
)
BIG = frozenset((r"\lim", r"\sum", r"\prod", r"\int", r"\max", r"\min", r"\sup", r"\inf"))
ACCENTS = word_set(
    r"\overline \bar \vec \hat \tilde \dot \ddot \widehat \overrightarrow \overarc \angle"
)
CONSTANTS = {"pi": "pi", "oo": "infty", "inf": "infty", "infty": "infty", "infinity": "infty"}
GREEK = word_set(
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau "
    "upsilon phi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega "
    "ell hbar nabla partial emptyset infty pi triangle perp"
)
FUNCTION_NAMES = frozenset(("f", "g", "F", "G", "phi", "Phi", "psi", "P"))
RELATIONS = frozenset("=<>≤≥≠∈≈≡")
SEPARATORS = frozenset((",", ";", "and", "or", r"\text"))
ADDITIVE = {sign: sign for sign in "+-±∓"} | {"plus": "+", "minus": "-"}
SET_SIGNS = {"∪": "union", "∩": "intersection", "∖": "difference"}
CLOSING = {"(": ")]", "[": "])", r"\{": (r"\}",), r"\langle": (r"\rangle",), "{": "}"}
PERCENT = frozenset(("%", "percent", "pct", "percentage"))
SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9}
SCALES |= {"trillion": 10**12, "lakh": 10**5, "crore": 10**7}
SCALES |= {f"{name}s": scale for name, scale in SCALES.items()}
HEDGES = frozenset(("about", "approximately", "exactly", "roughly", "around", "≈", "only"))
_PARTS = word_set(
    "third fourth fifth sixth seventh eighth ninth tenth twelfth hundredth thousandth millionth"
)
NO_NOUNS = word_set(
    "is are was not no nor isn wrong incorrect never except times plus minus negative "
    "divided over out squared cubed factorial mod choose root to by than from with and or but "
    "if when where if base half halves dozen dozens below above under ppm ppb"
)
NO_NOUNS |= SCALES.keys() | {f"{part}{s}" for part in _PARTS for s in ("", "s")}
WITHIN_UNITS = frozenset(("/", "^", "2", "3", "1", "*", "per", "{", "}", "-"))
POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
POWERS_BEHIND = {"squared": 2, "cubed": 3}
MATRICES = frozenset(
    f"{size}{kind}matrix" for size in ("", "small") for kind in ("", "p", "b", "B", "v", "V")
)
ENVIRONMENTS = MATRICES | {"array", "cases"}
SETS_IN_WORDS = {
    **dict.fromkeys(("all real numbers", "all reals", "the real numbers"), r"\mathbb{R}"),
    **dict.fromkeys(("no solution", "no solutions", "no real solutions"), "emptyset"),
    **dict.fromkeys(("empty set", "the empty set", "emptyset", "set ( )"), "emptyset"),
    "reals": r"\mathbb{R}",
}
