"""Programs that mean harm, or behave as if they did, and the verdicts they must get."""

from dataclasses import dataclass, field

from redraft.sandbox import Limits, Status

SMALL = Limits(wall_s=1.0, cpu_s=1.0, memory_mib=256, output_kib=64)
ROOMY = Limits(wall_s=10.0, cpu_s=5.0, memory_mib=512)


@dataclass(frozen=True)
class Hostile:
    """A program, the verdicts that are right, and what it may and may not have printed.

    `{outside}` in the program is a folder outside the sandbox that is open to all, with a file
    `secret` and a Unix socket `service`; `{port}` that of a server on this machine, by TCP and UDP;
    `{host}` the id of the host process; `{ioprio_set}` the number of that system call.
    """

    name: str
    program: str
    verdicts: tuple[Status, ...]
    prints: str | None = None
    error: str = ""
    limits: Limits = field(default=ROOMY)


def refused(name: str, attempt: str, limits: Limits = ROOMY) -> Hostile:
    """An attempt that must fail with an OSError, and nothing worse."""
    program = (
        f"import os, sys, signal, socket, subprocess, ctypes\ntry:\n    {attempt}\n"
        "except OSError as e:\n    print('refused')\nelse:\n    print('done')\n"
    )
    return Hostile(name, program, ("finished",), prints="refused\n", limits=limits)


_LIBC = "import ctypes; libc = ctypes.CDLL(None, use_errno=True)\n"

HOSTILE = [
    # time
    Hostile("infinite loop", "while True: pass", ("timeout",), limits=SMALL),
    Hostile("sleep", "import time; time.sleep(100)", ("timeout",), limits=SMALL),
    Hostile(
        "catches everything",
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        ("timeout",),
        limits=SMALL,
    ),
    Hostile(
        "ignores signals",
        "import signal\nfor n in range(1, 65):\n    try: signal.signal(n, "
        "signal.SIG_IGN)\n    except (OSError, ValueError): pass\nwhile True: pass",
        ("timeout",),
        limits=SMALL,
    ),
    Hostile(
        "stops itself",
        "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)",
        ("timeout",),
        limits=SMALL,
    ),
    Hostile("reads an input that has ended", "input()", ("error",), error="EOFError"),
    Hostile(
        "regular expression that explodes",
        "import re; re.match('(a+)+$', 'a' * 40 + 'b')",
        ("timeout",),
        limits=SMALL,
    ),
    Hostile("huge power", "x = 9 ** 9 ** 9", ("timeout", "memory"), limits=SMALL),
    Hostile(
        "repr without end",
        "class A:\n    def __repr__(self):\n        while True: pass\nA()",
        ("timeout",),
        limits=SMALL,
    ),
    Hostile(
        "exit handler without end",
        "import atexit\n@atexit.register\ndef f():\n    while True: pass",
        ("timeout",),
        limits=SMALL,
    ),
    Hostile(
        "thread without end",
        "import threading\ndef f():\n    while True: pass\nthreading.Thread(target=f).start()",
        ("timeout",),
        limits=SMALL,
    ),
    # memory
    Hostile("memory bomb", "x = bytearray(1 << 40)", ("memory",), error="MemoryError"),
    Hostile("growing list", "x = []\nwhile True: x.append(bytes(10_000_000))", ("memory",)),
    Hostile(
        "mapped memory",
        "import mmap; m = [mmap.mmap(-1, 1 << 30) for _ in range(64)]",
        ("error", "memory"),
    ),
    Hostile(
        "files in memory",
        "i = 0\nwhile True:\n    i += 1\n    with open(f'f{{i}}', 'wb') as f:"
        "\n        f.write(bytes(1 << 22))",
        ("error",),
        error="OSError",
    ),
    Hostile(
        "one huge file",
        "with open('f', 'wb') as f:\n    while True: f.write(bytes(1 << 20))",
        ("error",),
        error="OSError",
    ),
    Hostile(
        "million files",
        "i = 0\nwhile i < 10**6:\n    i += 1\n    open(f'f{{i}}', 'w').close()",
        ("error", "timeout"),
        limits=SMALL,
    ),
    refused(
        "large socket buffer",
        "socket.socketpair()[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)",
    ),
    refused(
        "sockets in sockets",
        "a, b = socket.socketpair(); socket.send_fds(a, [b'x'], [a.fileno(), b.fileno()])",
    ),
    refused("large pipe", "import fcntl; fcntl.fcntl(os.pipe()[1], 1031, 1 << 20)"),
    Hostile(
        "buffers of every socket",
        "import socket\npairs, held = [], 0\n"
        "try:\n    while True: pairs.append(socket.socketpair())\nexcept OSError: pass\n"
        "for end in (end for pair in pairs for end in pair):\n    end.setblocking(False)\n"
        "    try:\n        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)\n"
        "    except OSError: pass\n"
        "    try:\n        while True: held += end.send(bytes(1 << 16))\n"
        "    except BlockingIOError: pass\nprint(held < 32 << 20)",
        ("finished",),
        prints="True\n",
    ),
    *(
        Hostile(name, _LIBC + f"print({call})", ("finished",), prints="-1\n")
        for name, call in {
            "file events": "libc.inotify_init1(0)",
            "pages in pipes": "libc.vmsplice(1, None, 0, 0)",
            "rules": "libc.syscall(444, b'\\x04' + bytes(7), 8, 0)",
        }.items()
    ),
    Hostile(
        "an event loop, which needs two sockets",
        "import asyncio\nprint(asyncio.run(asyncio.sleep(0.01, 'done')))",
        ("finished",),
        prints="done\n",
    ),
    # output
    Hostile("infinite output", "while True: print('x' * 1000)", ("output",)),
    Hostile("output of 100 MB at once", "print('x' * 100_000_000)", ("output",)),
    Hostile(
        "output without lines", "import os\nwhile True: os.write(1, b'\\0' * 65536)", ("output",)
    ),
    Hostile(
        "output that is not text",
        "import os; os.write(1, bytes(range(128, 256)))",
        ("finished",),
        prints="�" * 128,
    ),
    Hostile("lone surrogates", "print(chr(0xD800))", ("finished",), prints="\\ud800\n"),
    Hostile(
        "errors without end",
        "import sys\nfor i in range(10**5): print(i, file=sys.stderr)",
        ("finished",),
        prints="",
    ),
    Hostile("huge value", "'x' * 10_000_000", ("finished",), prints=""),
    Hostile("huge message", "raise ValueError('x' * 10_000_000)", ("error",), error="ValueError"),
    Hostile(
        "hostile message",
        "class E(Exception):\n    def __str__(self): raise self\nraise E",
        ("error",),
        error="E",
    ),
    # crashes
    Hostile(
        "deep recursion", "def f(n): return f(n + 1)\nf(0)", ("error",), error="RecursionError"
    ),
    Hostile(
        "deeper recursion",
        "import sys; sys.setrecursionlimit(10**9)\n"
        "class A:\n    def __eq__(self, o): return self == o\nA() == 1",
        ("error", "memory"),
    ),
    Hostile(
        "deep source",
        "x = " + "(" * 150 + "1" + ")" * 150 + "\ny = " + "-" * 100_000 + "1",
        ("error", "memory"),
    ),
    Hostile("null pointer", _LIBC + "ctypes.string_at(0)", ("error",), error="SIGSEGV"),
    Hostile("abort", "import os; os.abort()", ("error",), error="SIGABRT"),
    Hostile("not Python", "this is no Python", ("error",), error="SyntaxError"),
    Hostile("null byte", "print(1)\0", ("error",)),
    Hostile("huge integer", "print(10 ** 10_000)", ("error",), error="ValueError"),
    # ending half-way, and claims to be the verdict
    Hostile("os._exit", "import os; print('fine'); os._exit(0)", ("error",), error="half-way"),
    Hostile("kills itself", "import os; os.kill(os.getpid(), 9)", ("error",), error="SIGKILL"),
    Hostile(
        "fakes the verdict on every descriptor",
        "import os, json\n"
        "line = json.dumps({{'status': 'finished', 'stdout': 'fake', 'value': '1', 'error': '',"
        " 'seconds': 0}}).encode() + b'\\n'\nfor n in range(2, 1024):\n"
        "    try: os.write(n, line)\n    except OSError: pass\nraise KeyError('real')",
        ("error",),
        error="KeyError: 'real'",
    ),
    Hostile(
        "prints the verdict",
        'print(\'{{"status": "finished"}}\'); raise SystemExit(3)',
        ("error",),
        error="SystemExit: 3",
    ),
    Hostile(
        "closes every descriptor",
        "import os\nos.closerange(0, 4096)\n1 / 0",
        ("error",),
        error="ZeroDivisionError",
    ),
    Hostile(
        "patches what reports",
        "import json, os, sys, builtins\n"
        'json.dumps = lambda *a, **k: \'{{"status": "finished"}}\'\n'
        "os._exit = sys.exit = lambda *a: None\nbuiltins.repr = builtins.str = None\nx = 1 / 0",
        ("error",),
    ),
    Hostile(
        "claims that the sandbox failed",
        "import json, os, sys\n"
        'json.dumps = lambda *a, **k: \'{{"status": "infrastructure", "error": "x"}}\'\n'
        "for n in range(2, 1024):\n    try: os.write(n, b'infrastructure')\n"
        "    except OSError: pass\nos._exit(1)",
        ("error",),
        error="half-way (exit status 1)",
    ),
    Hostile("lone surrogate in an error", "raise ValueError('\\ud800')", ("error",), error="ud800"),
    Hostile(
        "lone surrogate in a value",
        "class A:\n    def __str__(self): return '\\ud800'\nA()",
        ("finished",),
    ),
    Hostile(
        "pickle",
        "import pickle, os\nclass A:\n    def __reduce__(self): return (print, ('x',))"
        "\npickle.loads(pickle.dumps(A()))",
        ("finished",),
        prints="x\n",
    ),
    # processes
    refused("fork", "os.fork() or os._exit(0)"),
    refused("fork bomb", "while True: os.fork()", SMALL),
    refused("subprocess", "subprocess.run(['/bin/echo', 'x'])"),
    refused("exec", "os.execv(sys.executable, [sys.executable, '-c', 'print(1)'])"),
    refused("os.system's way", "os.posix_spawn('/bin/sh', ['sh', '-c', 'true'], {{}})"),
    refused("kills its parent", "os.kill(os.getppid() or 1, 9)"),
    refused("kills everyone", "os.kill(-1, 9)"),
    refused("kills the host process", "os.kill({host}, 9)"),
    refused("kills the host's group", "os.killpg(os.getpgid({host}), 9)"),
    refused(
        "limits its parent",
        "import resource; resource.prlimit(os.getppid() or 1, resource.RLIMIT_CPU, (0, 0))",
    ),
    *(
        refused(f"signals by {name}", f"import fcntl; s = socket.socketpair()[0]; {call}")
        for name, call in {
            "F_SETOWN": "fcntl.fcntl(s, 8, {host})",
            "F_SETSIG": "fcntl.fcntl(s, 10, 9)",
            "F_SETOWN_EX": "fcntl.fcntl(s, 15, ({host}).to_bytes(8, 'big')[::-1])",
            "FIOSETOWN": "fcntl.ioctl(s, 0x8901, ({host}).to_bytes(4, 'little'))",
            "SIOCSPGRP": "fcntl.ioctl(s, 0x8902, ({host}).to_bytes(4, 'little'))",
        }.items()
    ),
    refused("priority of a user", "os.setpriority(os.PRIO_USER, 0, 19)"),
    refused("priority of a group", "os.setpriority(os.PRIO_PGRP, 0, 19)"),
    Hostile(
        "disk priority of a user",
        _LIBC + "print(libc.ioprio_set(3, 0, 3 << 13) if hasattr(libc, 'ioprio_set')"
        " else libc.syscall({ioprio_set}, 3, 0, 3 << 13))",
        ("finished",),
        prints="-1\n",
    ),
    Hostile(
        "its own priority",
        "import os\nos.setpriority(os.PRIO_PROCESS, 0, 19); os.nice(0); print('done')",
        ("finished",),
        prints="done\n",
    ),
    Hostile(
        "threads",
        "import threading, time\nts = []\n"
        "threading.stack_size(1 << 16)\nwhile len(ts) < 10**5:\n"
        "    t = threading.Thread(target=time.sleep, args=(50,), daemon=True); t.start(); "
        "ts.append(t)",
        ("error", "timeout", "memory"),
        limits=SMALL,
    ),
    Hostile(
        "few threads",
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(4) as e: print(sum(e.map(abs, range(10))))",
        ("finished",),
        prints="45\n",
    ),
    Hostile(
        "ptrace",
        _LIBC + "import os\nprint(libc.ptrace(16, os.getppid() or 1, 0, 0))",
        ("finished",),
        prints="-1\n",
    ),
    Hostile("namespace", _LIBC + "print(libc.unshare(0x10000000))", ("finished",), prints="-1\n"),
    Hostile(
        "mount",
        _LIBC + "print(libc.mount(b'x', b'/', b'tmpfs', 0, b''))",
        ("finished",),
        prints="-1\n",
    ),
    Hostile(
        "becomes root",
        "import os\ntry: os.setuid(0)\nexcept OSError: print('refused')",
        ("finished",),
        prints="refused\n",
    ),
    # files
    refused("reads home", "os.listdir(os.path.expanduser('~root'))"),
    refused("reads /etc/passwd", "open('/etc/passwd').read()"),
    refused("reads /etc", "os.listdir('/etc')"),
    refused("reads a file outside", "open('{outside}/secret').read()"),
    refused("reads by a link", "os.symlink('{outside}/secret', 'x'); open('x').read()"),
    refused("reads by going up", "open('../' * 20 + '{outside}/secret').read()"),
    refused("writes outside", "open('{outside}/new', 'w').write('x')"),
    refused("writes by a link", "os.symlink('{outside}', 'x'); open('x/new', 'w').write('x')"),
    refused("overwrites outside", "open('{outside}/secret', 'r+').write('x')"),
    refused("removes outside", "os.remove('{outside}/secret')"),
    refused("moves outside", "open('x', 'w').close(); os.rename('x', '{outside}/x')"),
    refused("hard link outside", "os.link('{outside}/secret', 'x')"),
    refused("writes to shared memory", "open('/dev/shm/redraft', 'w').write('x')"),
    refused("reads its parent's memory", "open('/proc/%d/mem' % (os.getppid() or 1), 'rb')"),
    refused("reads the environment of others", "open('/proc/{host}/environ', 'rb').read()"),
    refused("finds descriptors in /proc", "os.listdir('/proc/self/fd')"),
    refused("leaves by chroot", "os.chroot('.')"),
    Hostile(
        "hard to remove",
        "import os\nfor i in range(100):\n    os.mkdir('d'); os.chdir('d')\nos.chmod('.', 0)",
        ("finished",),
    ),
    Hostile(
        "deeper than a path",
        "import os\nfor i in range(1500):\n    os.mkdir('d'); os.chdir('d')\n"
        "    if i % 100 == 0: open('f', 'w').close(); os.symlink('{outside}', 'l')\n"
        "print('deep')",
        ("finished",),
        prints="deep\n",
    ),
    refused("another device", "os.open('/dev/full', os.O_RDWR)"),
    Hostile(
        "the usual devices",
        "open('/dev/null', 'w').write('x'); print(len(open('/dev/urandom', 'rb').read(3)))",
        ("finished",),
        prints="3\n",
    ),
    Hostile(
        "environment",
        "import os\nprint(any(k in os.environ for k in ('USER', 'REDRAFT_CANARY',"
        " 'PYTHONPATH')), os.environ['HOME'] == os.getcwd())",
        ("finished",),
        prints="False True\n",
    ),
    refused("listens", "socket.create_server(('127.0.0.1', 0))"),
    refused("TCP", "socket.create_connection(('127.0.0.1', {port}), 2)"),
    refused("UDP", "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))"),
    refused("Unix socket", "socket.socket(socket.AF_UNIX).connect('{outside}/service')"),
    refused(
        "abstract Unix socket", "socket.socket(socket.AF_UNIX).connect('\\0redraft-test-{host}')"
    ),
    refused(
        "datagram pair", "socket.socketpair(type=socket.SOCK_DGRAM)[0].sendto(b'x', '/dev/log')"
    ),
    refused("netlink", "socket.socket(16, socket.SOCK_RAW, 0)"),
]
