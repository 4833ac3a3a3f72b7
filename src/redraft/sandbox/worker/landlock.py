"""Landlock: which files a program may read and write, as the kernel enforces it.

Numbers and layouts are those of `linux/landlock.h`; https://docs.kernel.org/userspace-api/landlock
says what each version of the interface (ABI) added.
"""

import os
import stat
import struct
from collections.abc import Iterable

from . import kernel

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_VERSION_FLAG = 1
_PATH_BENEATH = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_TRUNCATE = 1 << 14
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | 1 << 15
"""Rights that a rule on something other than a folder may hold."""

_FILE_BITS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""How many of the file system rights each ABI knows."""


def abi() -> int:
    """The kernel's Landlock version; 0 where there is none."""
    try:
        return kernel.syscall(_CREATE_RULESET, None, 0, _VERSION_FLAG)
    except OSError:
        return 0


def ruleset(readable: Iterable[str], writable: Iterable[str], version: int) -> int:
    """A descriptor of the rules: reading beneath some paths, anything beneath others.

    From ABI 4 on TCP is closed too, from ABI 6 on signals to processes outside and their abstract
    sockets. Paths that do not exist are passed over.

    Raises:
        OSError: the kernel refused.
    """
    every = (1 << _FILE_BITS[min(version, 5)]) - 1
    tcp = 0b11 if version >= 4 else 0
    scopes = 0b11 if version >= 6 else 0
    attributes = struct.pack("QQQ", every, tcp, scopes)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    rules = kernel.syscall(_CREATE_RULESET, attributes, size, 0)
    for path in readable:
        _allow(rules, path, _EXECUTE | _READ_FILE | _READ_DIR)
    for path in writable:
        _allow(rules, path, every)
    return rules


def restrict(rules: int) -> None:
    """Confine this process, for good, to the rules. Needs no_new_privs.

    Raises:
        OSError: the kernel refused.
    """
    kernel.syscall(_RESTRICT_SELF, rules, 0)


def _allow(rules: int, path: str, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(place).st_mode):
            rights &= _OF_FILES
        kernel.syscall(_ADD_RULE, rules, _PATH_BENEATH, struct.pack("=Qi", rights, place), 0)
    finally:
        os.close(place)
