"""The few system calls that Python does not offer, through the C library."""

import ctypes
import os
import platform

_libc = ctypes.CDLL(None, use_errno=True)

MACHINE = platform.machine()

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER = 1, 4, 36
_PR_SET_NO_NEW_PRIVS = 38
_CAPSET = {"x86_64": 126, "aarch64": 91}
_CAPABILITY_VERSION_3 = 0x20080522


def syscall(number: int, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    """Call the kernel by number.

    Raises:
        OSError: what the kernel said.
    """
    return _checked(_libc.syscall(ctypes.c_long(number), *map(_wide, arguments)))


def prctl(option: int, *arguments: int) -> None:
    """`prctl(2)` with integer arguments.

    Raises:
        OSError: what the kernel said.
    """
    padded = (*arguments, 0, 0, 0, 0)[:4]
    _checked(_libc.prctl(ctypes.c_int(option), *map(ctypes.c_ulong, padded)))


def unshare(flags: int) -> None:
    """`unshare(2)`.

    Raises:
        OSError: what the kernel said.
    """
    _checked(_libc.unshare(ctypes.c_int(flags)))


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """`mount(2)`.

    Raises:
        OSError: what the kernel said.
    """
    texts = [text.encode() for text in (source, target, kind)]
    _checked(_libc.mount(*texts, ctypes.c_ulong(flags), options.encode()))


def unmount(target: str) -> None:
    """Detach what is mounted on `target`, whoever still uses it.

    Raises:
        OSError: what the kernel said.
    """
    detach = 2
    _checked(_libc.umount2(target.encode(), ctypes.c_int(detach)))


def die_with_parent(signal: int) -> None:
    """Have the kernel send `signal` when the parent ends."""
    prctl(_PR_SET_PDEATHSIG, signal)


def set_dumpable(dumpable: bool) -> None:
    """Whether processes of the same user may look into this one."""
    prctl(_PR_SET_DUMPABLE, int(dumpable))


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends."""
    prctl(_PR_SET_CHILD_SUBREAPER, 1)


def gain_nothing_by_exec() -> None:
    """Set no_new_privs, which Landlock and seccomp want of a process without privileges."""
    prctl(_PR_SET_NO_NEW_PRIVS, 1)


def drop_capabilities() -> None:
    """Give up every capability, for good once no_new_privs is set."""
    if MACHINE not in _CAPSET:
        return
    header = ctypes.create_string_buffer(_CAPABILITY_VERSION_3.to_bytes(4, "little") + bytes(4), 8)
    syscall(_CAPSET[MACHINE], header, ctypes.create_string_buffer(24))


def _wide(argument: int | bytes | ctypes.Array[ctypes.c_char] | None) -> object:
    return ctypes.c_long(argument) if isinstance(argument, int) else argument


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
