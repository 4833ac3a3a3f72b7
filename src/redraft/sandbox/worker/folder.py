"""Removing what a program left in its working directory."""

import os
import shutil
from contextlib import suppress


def remove_tree(folder: str) -> None:
    """Remove a folder whose owner may have made that hard; links are not followed."""
    for root, folders, _ in os.walk(folder):
        for name in folders:
            with suppress(OSError):
                path = os.path.join(root, name)
                if not os.path.islink(path):
                    os.chmod(path, 0o700)
    shutil.rmtree(folder, ignore_errors=True)
