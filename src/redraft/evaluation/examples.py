"""Episodes worth looking at: a second attempt that repaired the first, with the change marked."""

import re
import unicodedata
from collections.abc import Sequence

from rapidfuzz.distance import Indel
from rich.console import Group
from rich.panel import Panel
from rich.text import Text

from redraft.evaluation.metrics import names_none
from redraft.types import Episode, Turn

# Direction overrides and isolates: they can make a terminal show text in another order.
BIDI_CONTROLS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def repaired(episodes: Sequence[Episode], n: int) -> list[Episode]:
    """The first `n` episodes, of different problems, whose second attempt repaired a wrong first.

    They are taken in the order given and not picked for looks.
    """
    chosen: dict[str, Episode] = {}
    for episode in episodes:
        if episode.correct[:2] == [False, True]:
            chosen.setdefault(episode.problem.id, episode)
    return list(chosen.values())[:n]


def example_panel(episode: Episode, max_characters: int = 1200) -> Panel:
    """Question and attempts, with what each adds to the one before, and what the second removes
    from the first, highlighted; critiques in between.

    Texts longer than `max_characters` are cut, and say so. Everything a model or data set wrote is
    shown as plain text: no markup is read in it, and control characters are made visible.
    """
    texts = [printable(t.text.strip()) if t.has_text else None for t in episode.answers]
    shown = iter(_differences(texts))
    parts = [_cut(Text(printable(episode.problem.question), style="bold"), max_characters)]
    attempt = 0
    for turn in episode.responses:
        if turn.grade is None:
            text = Text(printable(turn.text.strip()), style="italic")
            parts += [Text(), Text("critique", style="dim"), _cut(text, max_characters)]
        else:
            attempt += 1
            parts += [Text(), _heading(attempt, turn), _cut(next(shown), max_characters)]
    title = Text(f"{printable(episode.problem.id)} · gold ") + _short(episode.problem.gold)
    return Panel(Group(*parts), title=title, title_align="left", border_style="dim")


def printable(text: str) -> str:
    """`text` with control characters, lone surrogates and direction overrides made harmless.

    Line breaks and tabs stay; other control characters below U+0020 become their control pictures
    (the escape character becomes ␛), all else U+FFFD.
    """
    return "".join(_harmless(character) for character in text)


def _harmless(character: str) -> str:
    if character in "\n\t":
        return character
    if ord(character) < 0x20:
        return chr(0x2400 + ord(character))
    if unicodedata.category(character) in ("Cc", "Cs") or character in BIDI_CONTROLS:
        return "\ufffd"
    return character


def _cut(text: Text, max_characters: int) -> Text:
    left = len(text) - max_characters
    if left <= 0:
        return text
    return text[:max_characters].append(f" … ({left:,} more characters)", style="dim")


def _short(answer: str) -> Text:
    return _cut(Text(printable(answer)), 60)


def _heading(number: int, turn: Turn) -> Text:
    assert turn.grade is not None
    verdict, style = ("right", "green") if turn.grade.correct else ("wrong", "red")
    answer = Text("no answer") if turn.grade.answer is None else _short(turn.grade.answer)
    said = Text.assemble(verdict, " (", answer, ")", style=style)
    if names_none(turn.grade) or not turn.has_text:
        said = Text(verdict, style=style)
    return Text.assemble((f"attempt {number}: ", "dim"), said)


def _differences(texts: Sequence[str | None]) -> list[Text]:
    """The texts, with the words that only the first of each two has in red and those that only the
    second has in green; of a text between two others only what it adds is marked. None: not known.

    Colour is not the only sign: removed words are struck through, added ones underlined.
    """
    styles = {"=": "", "-": "red strike", "+": "bold green underline"}

    def marked(number: int, other: int, signs: str) -> Text:
        own, beside = texts[number], texts[other] if other < len(texts) else None
        if own is None:
            return Text("text not in the file", style="dim")
        if beside is None:
            return Text(own)
        parts = changes(beside, own) if other < number else changes(own, beside)
        return Text.assemble(*((part, styles[sign]) for sign, part in parts if sign in signs))

    later = [marked(number, number - 1, "=+") for number in range(1, len(texts))]
    return [marked(0, 1, "=-"), *later] if texts else []


def changes(before: str, after: str) -> list[tuple[str, str]]:
    """Word by word what `after` makes of `before`: parts of text, each with `=` (in both), `-` (in
    the first only) or `+` (in the second only)."""
    old, new = _words(before), _words(after)
    parts: list[tuple[str, str]] = []
    for step in Indel.opcodes(old, new):
        gone = "".join(old[step.src_start : step.src_end])
        come = "".join(new[step.dest_start : step.dest_end])
        same = step.tag == "equal"
        steps = [("=", come)] if same else [("-", gone), ("+", come)]
        parts += [(sign, text) for sign, text in steps if text]
    return parts


def _words(text: str) -> list[str]:
    """The words of `text` and the white space between them, so that joining gives `text` again."""
    return re.findall(r"\s+|\S+", text)
