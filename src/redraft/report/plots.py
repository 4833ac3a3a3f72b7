"""Plots of a report as SVG that stands in the page itself.

Drawn by matplotlib without its state (no pyplot). The colours are Okabe and Ito's, which readers
with any common colour blindness can tell apart; lines also differ in marker and dashes, so that
they can be told apart on paper. A point or bar with an address is a link to the episodes behind it.
"""

import io
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from itertools import count
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P = ParamSpec("P")

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
MARKERS = "os^DvP*X"
DASHES = ("-", "--", ":", "-.")
RIGHT, WRONG = "#009E73", "#D55E00"

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_number = count(1)


_LOOKS: Any = {
    "svg.fonttype": "none",  # text stays text, in the page's font
    "svg.hashsalt": "redraft",  # the same figure is the same file
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "hatch.linewidth": 0.6,
}


def _styled(draw: Callable[P, str]) -> Callable[P, str]:
    """`draw` with this page's looks, which matplotlib reads while a figure is made."""

    @wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> str:
        import matplotlib

        with matplotlib.rc_context(_LOOKS):
            return draw(*args, **kwargs)

    return styled


@dataclass(frozen=True)
class Line:
    """A line of a plot: points with their intervals and addresses where there are any."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    links: Sequence[str] = ()
    colour: int = 0
    dashes: int = 0


@dataclass(frozen=True)
class Axis:
    """Lines over a common axis."""

    title: str
    x: str
    lines: Sequence[Line]
    percent: bool = False
    whole: bool = False
    """Whether the horizontal axis counts: 1, 2, 3, ..."""
    log: bool = False
    """Whether both axes are logarithmic."""
    zero: bool = False
    """Whether the vertical axis begins at 0."""


@_styled
def lines(axes: Sequence[Axis], columns: int = 3) -> str:
    """Several small plots side by side."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    rows = -(-len(axes) // columns)
    columns = min(columns, len(axes))
    width, height = 3.6 * columns, 2.6 * rows
    figure = Figure(figsize=(width, height))
    figure.subplots_adjust(
        left=0.5 / width,
        right=1 - 0.1 / width,
        bottom=0.5 / height,
        top=1 - 0.3 / height,
        wspace=0.2,
        hspace=0.42,
    )
    for number, axis in enumerate(axes, start=1):
        plot = figure.add_subplot(rows, columns, number)
        for line in axis.lines:
            _draw(plot, line, 100 if axis.percent else 1)
        plot.set_title(axis.title + (" (%)" if axis.percent else ""))
        plot.set_xlabel(axis.x)
        if axis.whole:
            plot.xaxis.set_major_locator(MaxNLocator(integer=True))
        if axis.log:
            plot.set(xscale="log", yscale="log")
            for one in (plot.xaxis, plot.yaxis):
                one.set_major_locator(LogLocator(subs=(1, 2, 5)))
                one.set_major_formatter("{x:g}")
                one.set_minor_locator(NullLocator())
        if axis.zero:
            plot.set_ylim(0, 1.05 * plot.dataLim.y1)
        plot.grid(alpha=0.25)
        if len(axis.lines) > 1:
            plot.legend(fontsize=7, frameon=False)
    return _inline(figure, "; ".join(axis.title for axis in axes))


def _draw(plot: "Axes", line: Line, scale: float) -> None:
    kept = [i for i, value in enumerate(line.y) if value is not None]
    x = np.array([line.x[i] for i in kept], float)
    y = scale * np.array([line.y[i] for i in kept], float)
    colour, marker = COLOURS[line.colour % 8], MARKERS[line.colour % 8]
    style: Any = {"color": colour, "linestyle": DASHES[line.dashes % 4], "linewidth": 1.4}
    few = len(kept) <= 40
    plot.plot(x, y, marker=marker if few else "", markersize=4, label=line.name, **style)
    if line.low:
        known = [(x[n], line.low[i], line.high[i]) for n, i in enumerate(kept)]
        bars = [(at, low, high) for at, low, high in known if low is not None and high is not None]
        if bars:
            at, low, high = (np.array(one, float) for one in zip(*bars, strict=True))
            plot.vlines(at, scale * low, scale * high, color=colour, linewidth=1, alpha=0.6)
    if line.links:
        points = plot.scatter(
            x, y, zorder=3, s=26, c=colour, alpha=0.9 if few else 0.35, marker=marker
        )
        points.set_urls([line.links[i] for i in kept])


@_styled
def flow(
    totals: Sequence[Mapping[tuple[bool, bool], int]], links: Sequence[Mapping[object, str]]
) -> str:
    """Right and wrong answers from attempt to attempt as bands, whose width is their share.

    `totals` are for each two attempts in a row the episodes by (right before, right after), `links`
    the addresses of the same.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    figure = Figure(figsize=(2.1 * len(totals) + 1.6, 2.6))
    plot = figure.add_axes((0, 0, 1, 1))
    everyone = sum(totals[0].values())
    fade = np.linspace(0, 1, 40)
    curve = 3 * fade**2 - 2 * fade**3
    for at, (total, link) in enumerate(zip(totals, links, strict=True)):
        share = {pair: number / everyone for pair, number in total.items()}
        left = {(True, True): 0.0, (True, False): share[True, True]}
        left |= {(False, True): 1.08 - share[False, True] - share[False, False]}
        left[False, False] = left[False, True] + share[False, True]
        right = {(True, True): 0.0, (False, True): share[True, True]}
        right |= {(True, False): 1.08 - share[True, False] - share[False, False]}
        right[False, False] = right[True, False] + share[True, False]
        for pair, width in share.items():
            low = left[pair] + (right[pair] - left[pair]) * curve
            x = at + 0.06 + 0.88 * fade
            colour = RIGHT if pair[1] else WRONG
            drawn = plot.fill_between(x, low, low + width, color=colour, linewidth=0)
            drawn.set(alpha=0.35 if pair[0] == pair[1] else 0.8, urls=[link[pair]])
    verdicts = [(t[True, True] + t[True, False]) / everyone for t in totals]
    verdicts.append((totals[-1][True, True] + totals[-1][False, True]) / everyone)
    for at, right_share in enumerate(verdicts):
        for bottom, height, colour in (
            (0.0, right_share, RIGHT),
            (0.08 + right_share, 1 - right_share, WRONG),
        ):
            plot.add_patch(Rectangle((at - 0.05, bottom), 0.1, height, color=colour))
        plot.text(at, -0.03, f"right {100 * right_share:.1f} %", ha="center", va="top")
        plot.text(at, 1.11, f"wrong {100 * (1 - right_share):.1f} %", ha="center")
        plot.text(at, 1.25, f"attempt {at + 1}", ha="center", weight="bold")
    plot.set(xlim=(-0.35, len(totals) + 0.35), ylim=(-0.15, 1.38))
    plot.axis("off")
    return _inline(figure, "flow of right and wrong answers from attempt to attempt")


@dataclass(frozen=True)
class Bars:
    """Stacked bars: heights by layer, each with the addresses of its bars."""

    edges: Sequence[float]
    layers: Mapping[str, Sequence[int]]
    links: Mapping[str, Sequence[str]] = field(default_factory=dict)


@_styled
def histogram(bars: Bars, title: str, x: str) -> str:
    """Stacked bars between `edges`; a layer's bars are links."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 2.7))
    plot = figure.add_axes((0.12, 0.17, 0.86, 0.73))
    left, width = np.array(bars.edges[:-1]), np.diff(bars.edges)
    bottom = np.zeros(len(left))
    looks = zip(
        ("", "//", "..", "xx"), (COLOURS[0], COLOURS[2], COLOURS[1], COLOURS[7]), strict=True
    )
    for (name, heights), (hatch, colour) in zip(bars.layers.items(), looks, strict=False):
        drawn = plot.bar(
            left, heights, width * 0.92, bottom, align="edge", color=colour, hatch=hatch,
            edgecolor="white", linewidth=0, label=name,
        )  # fmt: skip
        for patch, link in zip(drawn, bars.links.get(name, []), strict=False):
            patch.set_url(link)
        bottom += np.array(heights)
    plot.set(xlabel=x, ylabel="episodes", title=title)
    plot.legend(frameon=False)
    return _inline(figure, title)


def _inline(figure: "Figure", label: str) -> str:
    """A figure as an SVG element without style sheets or style attributes, which the page's
    Content-Security-Policy forbids, and with ids of its own."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    for prefix, space in (("", _SVG), ("xlink", _XLINK)):
        ElementTree.register_namespace(prefix, space)
    root = ElementTree.fromstring(text.getvalue())
    own = f"plot{next(_number)}-"
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
        _as_attributes(parent)
        _renamed(parent, own)
    for name in ("height", "version"):
        root.attrib.pop(name, None)
    points = float(root.attrib["viewBox"].split()[2])
    root.attrib |= {"role": "img", "aria-label": label, "class": "plot"}
    root.set("width", f"{1.35 * points:.0f}")
    root.attrib |= {"stroke-linejoin": "round", "stroke-linecap": "butt"}
    return ElementTree.tostring(root, encoding="unicode")


def _as_attributes(element: ElementTree.Element) -> None:
    """A style attribute's properties as attributes of their own."""
    for part in filter(None, element.attrib.pop("style", "").split(";")):
        name, _, value = (piece.strip() for piece in part.partition(":"))
        if name == "font":  # the shorthand is no attribute: weight and size, then families
            if bold := re.search(r"\b(bold|[6-9]00)\b", value.split("px")[0]):
                element.set("font-weight", bold[1])
            if size := re.search(r"([\d.]+)px", value):
                element.set("font-size", size[1])
        elif name != "font-family":  # the page's own
            element.set(name, value)


def _renamed(element: ElementTree.Element, own: str) -> None:
    """Ids and references to them begin with `own`: a page holds several figures."""
    link = f"{{{_XLINK}}}href"
    if "id" in element.attrib:
        element.attrib["id"] = own + element.attrib["id"]
    element.attrib.pop("target", None)  # matplotlib opens links in a new tab
    target = element.attrib.pop(link, None)
    if target is not None:
        inside = element.tag == f"{{{_SVG}}}use"
        element.attrib["href"] = f"#{own}{target[1:]}" if inside else target
    for name, value in element.attrib.items():
        if value.startswith("url(#"):
            element.attrib[name] = f"url(#{own}{value[5:]}"
