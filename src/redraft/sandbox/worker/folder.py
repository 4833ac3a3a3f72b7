"""Clearing what a program left in its working directory."""

import os
import shutil
from contextlib import suppress


def clear_folder(folder: str) -> None:
    """Empty a folder whose owner may have made that hard; links are not followed."""
    with suppress(OSError):
        os.chmod(folder, 0o700)
    for root, folders, _ in os.walk(folder):
        for name in folders:
            path = os.path.join(root, name)
            with suppress(OSError):
                if not os.path.islink(path):
                    os.chmod(path, 0o700)
    with suppress(OSError):
        for entry in list(os.scandir(folder)):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                os.unlink(entry.path)


def remove_folder(folder: str) -> None:
    """Remove it with all that is in it."""
    clear_folder(folder)
    with suppress(OSError):
        os.rmdir(folder)
