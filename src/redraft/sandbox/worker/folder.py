"""Clearing what a program left in its working directory."""

import os
from contextlib import suppress


def clear_folder(folder: str) -> None:
    """Empty a folder whose owner may have made that hard; links are not followed.

    Folders within folders are moved up and emptied there, so that no depth is too deep: neither for
    the length of a path nor for the interpreter's stack.
    """
    with suppress(OSError):
        os.chmod(folder, 0o700)
        top = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            _empty(top)
        finally:
            os.close(top)


def remove_folder(folder: str) -> None:
    """Remove it with all that is in it."""
    clear_folder(folder)
    with suppress(OSError):
        os.rmdir(folder)


def _empty(top: int) -> None:
    pending = os.listdir(top)
    while pending:
        name = pending.pop()
        with suppress(OSError):
            if _unlinked(name, top):
                continue
            os.chmod(name, 0o700, dir_fd=top)
            inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=top)
            try:
                for deeper in os.listdir(inner):
                    if not _unlinked(deeper, inner):
                        os.chmod(deeper, 0o700, dir_fd=inner)  # else it cannot be moved
                        pending.append(os.urandom(16).hex())
                        os.rename(deeper, pending[-1], src_dir_fd=inner, dst_dir_fd=top)
            finally:
                os.close(inner)
            os.rmdir(name, dir_fd=top)


def _unlinked(name: str, folder: int) -> bool:
    """Whether this was no folder, and is gone."""
    try:
        os.unlink(name, dir_fd=folder)
    except (IsADirectoryError, PermissionError):  # the latter on macOS
        return False
    return True
