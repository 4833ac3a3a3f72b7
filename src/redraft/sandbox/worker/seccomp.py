"""A seccomp filter: system calls that no program needs, refused by the kernel.

What is refused fails with EPERM. The list holds what reaches beyond the process (network, other
processes, namespaces, mounts, keys, IPC that outlives it) and parts of the kernel with a history of
holes (bpf, io_uring, userfaultfd), and what would hold memory of the kernel's, which no limit of a
process counts: larger buffers of sockets and pipes, descriptors in messages, queues of file events,
rules. Threads are allowed, processes are not: so the limits of memory
and processor time, which the kernel keeps per process, hold for the whole program.

The filter is written in the kernel's own BPF, because libseccomp is missing from most containers
and a program must be as confined there as anywhere.
"""

import ctypes
import errno
import os
import struct

from .kernel import MACHINE, prctl

_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # linux/audit.h
_WHICH = list(_ARCHITECTURE).index(MACHINE) if MACHINE in _ARCHITECTURE else 0
_STEP_BYTES = 8
_OWN_PID = 0x7FABCDEF
"""Stands for the process's own id in a template; ids of processes are below 2**22."""
_X32 = 0x40000000
_CLONE_THREAD = 0x10000
_SOCK_STREAM, _SOCK_TYPE_MASK = 1, 0xF

_LOAD, _EQUAL, _AT_LEAST, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050000, 0x80000000

_REFUSED = {  # system call: its number on (x86_64, aarch64); None where there is none
    "socket": (41, 198),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    "setsockopt": (54, 208),
    "sendmsg": (46, 211),
    "sendmmsg": (307, 269),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "open_tree": (428, 428),
    "mount_setattr": (442, 442),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "kcmp": (312, 272),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "tkill": (200, 130),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "vmsplice": (278, 75),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "userfaultfd": (323, 282),
    "fanotify_init": (300, 262),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "quotactl": (179, 60),
    "acct": (163, 89),
    "syslog": (103, 116),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    "personality": (135, 92),
    "vhangup": (153, 58),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
}
"""What neither a program nor the worker needs."""

_REFUSED_TO_PROGRAMS = {
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "landlock_create_ruleset": (444, 444),
}

_ON_ITSELF = {  # system call: (numbers, which argument names a process, whether 0 names itself)
    "kill": ((62, 129), 0, True),
    "tgkill": ((234, 131), 0, False),
    "prlimit64": ((302, 261), 0, True),
    "sched_setaffinity": ((203, 122), 0, True),
    "sched_setscheduler": ((144, 119), 0, True),
    "sched_setparam": ((142, 118), 0, True),
    "sched_setattr": ((314, 274), 0, True),
    "setpriority": ((141, 140), 1, True),
    "ioprio_set": ((251, 30), 1, True),
}

_OF_A_PROCESS = {"setpriority": 0, "ioprio_set": 1}
"""The first argument with which these mean a process, and not a group or a user."""

_REFUSED_COMMANDS = {  # system call: (numbers, refused values of its second argument)
    # F_SETOWN, F_SETSIG, F_SETOWN_EX: signals to any process; F_SETPIPE_SZ
    "fcntl": ((72, 25), [8, 10, 15, 1031]),
    "ioctl": ((16, 29), [0x8901, 0x8902]),  # FIOSETOWN, SIOCSPGRP: the same
}

_CLONE, _CLONE3, _SOCKETPAIR = (56, 220), (435, 435), (53, 199)


def available() -> bool:
    """Whether this file knows the machine's system calls; the kernel has its own say later."""
    return MACHINE in _ARCHITECTURE


def restrict_worker() -> None:
    """Install, for good, the part of the filter that is the same for every program.

    Needs no_new_privs.

    Raises:
        OSError: the kernel refused.
    """
    _install(_filter([step for numbers in _REFUSED.values() for step in _always(numbers)]))


def restrict_program(template: bytes) -> None:
    """Install the rest, for good, in the process of a program.

    `template` is `program_filter()`, made beforehand: a fork pays for each page it touches.

    Raises:
        OSError: the kernel refused.
    """
    _install(template.replace(_OWN_PID.to_bytes(4, "little"), os.getpid().to_bytes(4, "little")))


def program_filter() -> bytes:
    """The rest of the filter, with a stand-in for the id of the process it is for."""
    code = [step for numbers in _REFUSED_TO_PROGRAMS.values() for step in _always(numbers)]
    code += [_step(_EQUAL, _CLONE3[_WHICH], 0, 1), _refuse(errno.ENOSYS)]  # its flags are memory
    code += _when(_CLONE, ([_argument(0), _step(_AND, _CLONE_THREAD)], [_CLONE_THREAD]))
    code += _when(_SOCKETPAIR, ([_argument(1), _step(_AND, _SOCK_TYPE_MASK)], [_SOCK_STREAM]))
    for name, (numbers, argument, zero_too) in _ON_ITSELF.items():
        kind = [([_argument(0)], [_OF_A_PROCESS[name]])] if name in _OF_A_PROCESS else []
        own = ([_argument(argument)], [_OWN_PID, *([0] if zero_too else [])])
        code += _when(numbers, *kind, own)
    for numbers, refused in _REFUSED_COMMANDS.values():
        code += _unless(numbers, [_argument(1)], refused)
    return _filter(code)


def _filter(tests: list[bytes]) -> bytes:
    """A filter that falls through a list of tests, each of which gives a verdict or goes on."""
    head = [
        _load(4),  # struct seccomp_data: nr, arch, instruction_pointer, args[6]
        _step(_EQUAL, _ARCHITECTURE[MACHINE], 1, 0),
        _step(_RETURN, _KILL),
        _load(0),
    ]
    if MACHINE == "x86_64":
        head += [_step(_AT_LEAST, _X32, 0, 1), _refuse()]
    return b"".join([*head, *tests, _step(_RETURN, _ALLOW)])


def _install(code: bytes) -> None:
    steps = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxQ", len(code) // _STEP_BYTES, ctypes.addressof(steps))
    holder = ctypes.create_string_buffer(program, len(program))
    prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.addressof(holder))


def _always(numbers: tuple[int | None, int | None]) -> list[bytes]:
    """Refuse a system call whatever its arguments."""
    number = numbers[_WHICH]
    return [] if number is None else [_step(_EQUAL, number, 0, 1), _refuse()]


def _when(numbers: tuple[int, int], *conditions: tuple[list[bytes], list[int]]) -> list[bytes]:
    """Allow a system call if each condition holds, else refuse it.

    A condition is how to look at the arguments, and the values that may be found there.
    """
    body = []
    for look, allowed in conditions:
        body += [*look, *_among(allowed), _refuse()]
    body += [_step(_RETURN, _ALLOW)]
    return [_step(_EQUAL, numbers[_WHICH], 0, len(body)), *body]


def _unless(numbers: tuple[int, int], look: list[bytes], refused: list[int]) -> list[bytes]:
    """Refuse a system call if what `look` finds in its arguments is in `refused`."""
    body = [*look, *_among(refused), _step(_RETURN, _ALLOW), _refuse()]
    return [_step(_EQUAL, numbers[_WHICH], 0, len(body)), *body]


def _among(values: list[int]) -> list[bytes]:
    """Pass over the next step if what was loaded is one of the values."""
    return [_step(_EQUAL, value, len(values) - index, 0) for index, value in enumerate(values)]


def _step(operation: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", operation, if_true, if_false, value)


def _load(offset: int) -> bytes:
    return _step(_LOAD, offset)


def _argument(index: int) -> bytes:
    """Load the low half of an argument (both architectures are little-endian)."""
    return _load(16 + 8 * index)


def _refuse(error: int = errno.EPERM) -> bytes:
    return _step(_RETURN, _REFUSE | error)
