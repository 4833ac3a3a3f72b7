"""Being asked to end: by Ctrl-C (SIGINT), or by a system that wants the machine back (SIGTERM).

The first signal is an exception, in the middle of whatever is done: `KeyboardInterrupt`, or
`Terminated` for SIGTERM, which waits for the end of what is held together (`hold`). The second one
ends the process at once. Where Python can raise nothing, as in a callback of C code, the exception
would be printed and lost; the signal is then sent again a moment later.
"""

import os
import signal
import sys
import threading
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

SIGNALS = (signal.SIGINT, signal.SIGTERM)

_AGAIN = 0.05  # seconds until a lost signal is sent again

_held = False
_asked = False


class Terminated(KeyboardInterrupt):
    """SIGTERM came."""


def heed_signals() -> None:
    """Have signals to this process do what this module says; only its main thread may call this."""
    for number in SIGNALS:
        signal.signal(number, _on_signal)
    sys.unraisablehook = _on_unraisable


def hold() -> None:
    """Keep SIGTERM from being raised until `release`."""
    global _held
    _held = True


def release() -> None:
    """Let SIGTERM be raised again.

    Raises:
        Terminated: it has come in the meantime.
    """
    global _held
    _held = False
    if _asked:
        raise Terminated


def asked() -> bool:
    """Whether SIGTERM has come."""
    return _asked


def _on_signal(number: int, frame: FrameType | None) -> None:
    global _asked
    for each in SIGNALS:
        signal.signal(each, signal.SIG_DFL)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    _asked = True
    if not _held:
        raise Terminated


def _on_unraisable(lost: "UnraisableHookArgs") -> None:
    if not isinstance(lost.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(lost)
        return
    heed_signals()
    number = signal.SIGTERM if isinstance(lost.exc_value, Terminated) else signal.SIGINT
    timer = threading.Timer(_AGAIN, os.kill, (os.getpid(), number))
    timer.daemon = True
    timer.start()
