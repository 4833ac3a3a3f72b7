"""How a fork tells the worker how it ended: in memory that both share and no descriptor leads to.

The report is a letter (`F` finished, `V` finished with a value, `E` error, `M` memory), a text, and
a byte that ends it.
"""

import mmap
import traceback
from typing import Any

REPORT_BYTES = 1 << 16
_END = b"\xff"  # in no UTF-8 text
_MESSAGE_LIMIT = 2000
_VALUE_LIMIT = 10_000


def read_report(report: mmap.mmap) -> dict[str, Any] | None:
    """What the fork reported about its end; None if it did not get there, or wrote what it never
    writes.
    """
    size = report.find(_END)
    letter, text = report[:1], report[1 : max(size, 1)].decode("utf-8", errors="replace")
    if size < 1 or (letter == b"F" and text):
        return None
    known: dict[bytes, dict[str, Any]] = {
        b"F": {"status": "finished"},
        b"V": {"status": "finished", "value": text},
        b"E": {"status": "error", "error": text},
        b"M": {"status": "memory", "error": text},
    }
    return known.get(letter)


def finished(value: object = None) -> bytes:
    """The report of a program that ran to its end, with the value of its last expression."""
    return b"F" + _END if value is None else b"V%b" % _encoded(str(value)[:_VALUE_LIMIT]) + _END


def raised(error: BaseException) -> bytes:
    """The report of one that did not."""
    return (b"M" if isinstance(error, MemoryError) else b"E") + last_line(error) + _END


def last_line(error: BaseException) -> bytes:
    """`Type: message`, as a traceback ends, whatever the exception's own methods do."""
    try:
        told = traceback.TracebackException(type(error), error, None, compact=True)
        told.__notes__ = None  # they come after the message
        said = list(told.format_exception_only())[-1].strip().splitlines()[0]
    except BaseException:
        said = type(error).__name__
    return _encoded(said[:_MESSAGE_LIMIT])


def _encoded(text: str) -> bytes:
    """Text as the report holds it; lone surrogates, which UTF-8 lacks, as escapes."""
    return text.encode("utf-8", errors="backslashreplace")
