"""Namespaces: a worker with no network, its own processes and a read-only view of the files."""

import os
import signal
import struct
from pathlib import Path

from . import kernel

_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER = 0x00020000, 0x04000000, 0x08000000, 0x10000000
_NEWPID, _NEWNET = 0x20000000, 0x40000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_REMOUNT = 1, 2, 4, 32
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x40000

_MOUNT_SETATTR = 442  # the same on every architecture
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_MOUNT_ATTR_RDONLY, _MOUNT_ATTR_NODEV = 1, 4

DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
"""The only devices that programs may open."""

NOBODY = 65534
_INSIDE = 1000
"""The user id that root takes inside: as 0 it would regain capabilities with every exec."""


def leave_root(paths: list[str]) -> bool:
    """If this is root, become nobody, who must be able to read `paths`.

    Returns whether the process is not root (any more). Where the interpreter is in root's own home,
    nobody could not import from it, so root it stays.
    """
    if os.geteuid() != 0:
        return True
    if not all(_open_to_all(Path(path)) for path in paths):
        return False
    try:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    except OSError:  # root of a container without the capability to change users
        return False
    return True


def enter() -> None:
    """Go on in a child that is process 1 of new namespaces; this process waits and ends with it.

    Raises:
        OSError: the machine does not let this user have them.
    """
    user, group = os.geteuid(), os.getegid()
    kernel.set_dumpable(True)  # else the maps belong to root after a change of user
    kernel.unshare(_NEWUSER | _NEWPID | _NEWNET | _NEWIPC | _NEWUTS | _NEWNS)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user or _INSIDE} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group or _INSIDE} {group} 1")
    kernel.mount("none", "/", "", _MS_REC | _MS_PRIVATE)
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    kernel.die_with_parent(signal.SIGKILL)


def make_read_only() -> bool:
    """Make every mounted file system read-only in this namespace, and its devices no devices.

    Returns False on kernels before 5.12, which cannot.

    Raises:
        OSError: the kernel refused to keep `DEVICES`.
    """
    kept = [device for device in DEVICES if os.path.exists(device)]
    for device in kept:
        kernel.mount(device, device, "", _MS_BIND)
    try:
        _set_mounts("/", _AT_RECURSIVE, _MOUNT_ATTR_RDONLY | _MOUNT_ATTR_NODEV, 0)
    except OSError:
        return False
    for device in kept:
        _set_mounts(device, 0, 0, _MOUNT_ATTR_NODEV)
    return True


def _set_mounts(path: str, flags: int, on: int, off: int) -> None:
    attributes = struct.pack("QQQQ", on, off, 0, 0)
    kernel.syscall(_MOUNT_SETATTR, _AT_FDCWD, path.encode(), flags, attributes, len(attributes))


def mount_point(needed: list[str]) -> str:
    """An existing folder to mount the working directory on, which hides none of `needed`.

    Raises:
        FileNotFoundError: there is none.
    """
    for folder in ("/tmp", "/var/tmp", "/mnt", "/srv"):
        if os.path.isdir(folder) and not any(
            Path(path).resolve().is_relative_to(folder) for path in needed
        ):
            return folder
    raise FileNotFoundError("no folder to mount a working directory on")


def prepare_mounts(path: str) -> str:
    """A mount point in memory beneath `path`, in a folder that is otherwise read-only.

    Landlock looks at every folder above a file, so a rule on `path` holds in whatever is mounted on
    the point later.

    Raises:
        OSError: the kernel refused.
    """
    flags = _MS_NOSUID | _MS_NODEV
    kernel.mount("redraft", path, "tmpfs", flags, "size=64k,mode=755")
    point = os.path.join(path, "program")
    os.mkdir(point)
    kernel.mount("redraft", path, "tmpfs", flags | _MS_REMOUNT | _MS_RDONLY, "")
    return point


def mount_folder(point: str, mib: int) -> None:
    """Mount an empty folder in memory that holds at most `mib` MiB.

    Raises:
        OSError: the kernel refused.
    """
    options = f"size={mib}m,nr_inodes=4096,mode=700"
    kernel.mount("redraft", point, "tmpfs", _MS_NOSUID | _MS_NODEV, options)


def _open_to_all(path: Path) -> bool:
    try:
        folders = [path.resolve(), *path.resolve().parents]
        return all(folder.stat().st_mode & 0o001 for folder in folders if folder.is_dir())
    except OSError:
        return False
