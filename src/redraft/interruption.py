"""Being asked to end: by Ctrl-C (SIGINT), or by a system that wants the machine back (SIGTERM).

The first signal is an exception, in the middle of whatever is done: `KeyboardInterrupt`, or
`Terminated` for SIGTERM, which waits for the end of what is held together (`hold`). The second one
ends the process at once.
"""

import signal
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)

_held = False
_asked = False


class Terminated(KeyboardInterrupt):
    """SIGTERM came."""


def heed_signals() -> None:
    """Have signals to this process do what this module says; only its main thread may call this."""
    for number in SIGNALS:
        signal.signal(number, _on_signal)


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
