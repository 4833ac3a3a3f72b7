"""What a run of a program says, the pool, and refusals."""

import asyncio
import itertools
import math
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import fields
from pathlib import Path

import pytest

from forgeries import ATTACKS, ENDLESS, FILL, FORGERIES, FRAMES, JUMP, LIES, TESTS, WRONG
from redraft.errors import UserError
from redraft.sandbox import LARGEST_LIMIT, Limits, Pool, Wanted, level, require_strict, run
from redraft.sandbox.worker.report import REPORT_BYTES, read_report

NETWORK, SERVICES = "reach the network", "connect to services of this machine"
WRITE, READ, START = "write outside its folder", "read your files", "start processes"

_CATCHES_THE_SIGNAL = (
    "import signal\nsignal.signal(signal.SIGXCPU, lambda *_: None)\nwhile True: pass"
)


def test_a_finished_program() -> None:
    result = run("name = input()\nprint('hello', name)", stdin="you\n")
    assert result.finished
    assert (result.status, result.stdout, result.value, result.error) == (
        "finished", "hello you\n", None, "",
    )  # fmt: skip
    assert 0 < result.seconds < 60


@pytest.mark.parametrize(
    ("program", "value"),
    [
        ("x = 6\nx * 7", "42"),
        ("x = 1", None),
        ("None", None),
        ("print('shown')", None),
        ("def f():\n    return 'a'\nf()", "a"),
        ("from fractions import Fraction\nFraction(42, 1)", "42"),
        ("from decimal import Decimal\nDecimal('42')", "42"),
        ("[1, 'a']", "[1, 'a']"),
        ("''", ""),
        ("'\\ud800\\0\\xff'", "\\ud800\0\xff"),
        ("", None),
    ],
)
def test_the_value_is_that_of_a_last_expression(program: str, value: str | None) -> None:
    result = run(program)
    assert (result.status, result.value) == ("finished", value)


@pytest.mark.parametrize(
    ("program", "error"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("print(", "SyntaxError: '(' was never closed"),
        ("raise SystemExit(2)", "SystemExit: 2"),
        ("raise ValueError('one\\ntwo')", "ValueError: one"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("e = ValueError('real'); e.add_note('a note'); raise e", "ValueError: real"),
        ("raise ValueError('\\ud800')", "ValueError: \\ud800"),
        (
            "class \ud800: pass",
            "UnicodeEncodeError: 'utf-8' codec can't encode character "
            "'\\ud800' in position 6: surrogates not allowed",
        ),
    ],
)
def test_the_last_line_of_an_error(program: str, error: str) -> None:
    result = run(program)
    assert (result.status, result.error) == ("error", error)


@pytest.mark.parametrize("ending", ["raise SystemExit", "import sys; sys.exit(0)", "exit()"])
def test_an_exit_without_fault_finishes(ending: str) -> None:
    assert run(f"print(1)\n{ending}\nprint(2)").stdout == "1\n"
    assert run(f"print(1)\n{ending}").finished


@pytest.mark.parametrize(
    ("program", "finished"),
    [
        ("def f(x): return x + 1", True),
        ("def f(x): return x", False),
        ("", False),
        ("def f(x): return x\nraise SystemExit(0)", False),
        ("def f(x):\n    import os\n    os._exit(0)", False),
        ("def f(x): raise SystemExit(0)", False),
        ("import os\nos._exit(0)", False),
        ("if __name__ == '__main__':\n    raise KeyError\ndef f(x): return x + 1", True),
    ],
)
def test_tests_must_reach_their_end(program: str, finished: bool) -> None:
    assert run(program, tests="assert f(1) == 2").finished is finished


LEVELS = [Wanted(*layers) for layers in itertools.product((True, False), repeat=3)]


@pytest.mark.parametrize(
    "wanted",
    [LEVELS[0], *(pytest.param(level, marks=pytest.mark.slow) for level in LEVELS[1:])],
    ids=str,
)
def test_a_verdict_cannot_be_forged(wanted: Wanted) -> None:
    forgeries = {name: (program, TESTS) for name, program in FORGERIES.items()} | LIES | ATTACKS
    assert len(forgeries) == len(FORGERIES) + len(LIES) + len(ATTACKS)
    short, long = Limits(wall_s=1.0), Limits(wall_s=60.0)
    with Pool(workers=2, wanted=wanted) as pool:
        runs = {
            name: pool.submit(program, tests=tests, limits=short if name in ENDLESS else long)
            for name, (program, tests) in forgeries.items()
        }
        results = {name: run.result() for name, run in runs.items()}
    for name, result in results.items():
        assert result.status in {"error", "memory", "timeout" if name in ENDLESS else ""}, (
            name, result,
        )  # fmt: skip


def test_lies_pass_where_the_tests_run_in_the_same_interpreter() -> None:
    with Pool(workers=2) as pool:
        together = [
            f"{program}\nexec(compile({tests!r}, '', 'exec'))" for program, tests in LIES.values()
        ]
        results = dict(zip(LIES, pool.run_all(together), strict=True))
    assert {name: result for name, result in results.items() if not result.finished} == {}


DATA = (
    "(Counter('aab'), OrderedDict(a=1), deque([1]), defaultdict(list, {1: [2]}), Decimal('1.5'), "
    "Fraction(3, 4), date(2020, 1, 2), datetime(2020, 1, 2, 3, tzinfo=UTC), timedelta(3, 4), "
    "2 ** 5000, -(2 ** 63), 1j, b'\\xff', bytearray(b'a'), range(1, 9, 2), {1: {2: [{3}]}}, "
    "frozenset({(1,)}), inf, None, True, 'é\\ud800', [], '', int, ValueError)"
)
IMPORTS = (
    "from collections import *\nfrom decimal import Decimal\nfrom fractions import Fraction\n"
    "from datetime import *\nfrom math import inf\n"
)
PRIMES = "def f():\n    n = 2\n    while True:\n        yield n\n        n += 1\n"
NODE = (
    "class Node:\n    def __init__(self, value, left=None):\n"
    "        self.value, self.left, self._kids = value, left, []\n"
    "    def __str__(self): return f'<{self.value}>'\n    def __len__(self): return 3\n"
    "    def __getitem__(self, key): return self.value[key]\n"
    "    def add(self, *, kid): self._kids.append(kid); return self\n"
    "def depth(node): return 0 if node is None else 1 + depth(node.left)\n"
    "def same(a, b): return a is b\n"
)


@pytest.mark.parametrize(
    ("program", "tests"),
    [
        (f"{IMPORTS}def f(): return {DATA}", f"{IMPORTS}assert f() == {DATA}"),
        (f"{IMPORTS}def f(x): return x == {DATA}", f"{IMPORTS}assert f({DATA}) is True"),
        (f"{IMPORTS}def f(x): return x", f"{IMPORTS}assert [*map(type, f({DATA}))] == "
         f"[*map(type, {DATA})]"),
        ("def f(): return float('nan')", "x = f()\nassert x != x"),
        ("import enum\nclass E(enum.IntEnum):\n    A = 3\ndef f(): return E.A", "assert f() == 3"),
        ("def f(s): return tuple(s)", "assert f({12, 13, 14, 15, 16}) == (16, 12, 13, 14, 15)"),
        (PRIMES, "g = f()\nassert [next(g), next(g)] == [2, 3]\n"
         "assert list(zip(f(), range(2))) == [(2, 0), (3, 1)]"),
        ("def f(x): return map(str, x)", "assert list(f([1, 2])) == ['1', '2']"),
        ("def f(x): return {x: 1}.keys()", "assert set(f(2)) == {2}"),
        ("import re\ndef f(s): return re.match('a', s)", "assert f('ab') and not f('b')\n"
         "assert f('ab').group(0) == 'a'"),
        (NODE, "root = Node(1)\nroot.left = Node(2, left=Node(3))\n"
         "assert (depth(root), root.left.value, str(root), len(root)) == (3, 2, '<1>', 3)\n"
         "assert Node('ab')[1] == 'b' and root.add(kid=1) is root and same(root, root)"),
        ("def f(l, d, s): l.sort(); d['a'] = [1]; s.clear()",
         "l, d, s = [3, 1], {}, {2}\nassert f(l, s=s, d=d) is None\n"
         "assert (l, d, s) == ([1, 3], {'a': [1]}, set())"),
        ("def f(g, x): return [g(n) for n in x]", "assert f(lambda n: n + 1, [1]) == [2]\n"
         "assert f(str, [1]) == ['1'] and f(len, ['ab']) == [2]"),
        ("def f(items): return list(items)", "assert f(x for x in [1, 2]) == [1, 2]"),
        ("def f(g): return lambda n: g(n) + 1", "assert f(lambda n: 2 * n)(4) == 9"),
        ("def f(g):\n    try: return g()\n    except KeyError as e: return e.args[0]",
         "def g(): raise KeyError('k')\nassert f(g) == 'k'"),
        ("class E(ValueError): pass\ndef f(x): raise E('no', 3)",
         "try: f(1)\nexcept ValueError as e: assert e.args == ('no', 3)\nelse: 1 / 0"),
        ("COUNT = 0\ndef f():\n    global COUNT\n    COUNT += 1", "f(); f()\nassert COUNT == 2"),
        ("import sys\ndef f(x): return sys.getsizeof(x)", "assert f((1,)) == sys.getsizeof((1,))"),
        ("def select(x): return x", "assert select(1) == 1"),
        ("def f(x): return x", "from concurrent.futures import ThreadPoolExecutor as T\n"
         "with T(8) as t: assert list(t.map(f, range(200))) == list(range(200))"),
        ("def f(x): return x", "x: int = 1\nclass A:\n    y: int = x\nassert f(A().y) == 1"),
    ],
)  # fmt: skip
def test_tests_call_the_program_in_another_process(program: str, tests: str) -> None:
    result = run(program, tests=tests)
    assert result.finished, result


@pytest.mark.parametrize(
    ("program", "tests", "error"),
    [
        ("class E(Exception): pass\ndef f(): raise E('no')", "f()", "solution.E: no"),
        ("import re\ndef f(): re.compile('(')", "f()", "re.error: missing ), unterminated"),
        ("def f(): raise KeyError('a')", "f()", "KeyError: 'a'"),
        ("def f(): return object()", "assert f() == 1", "TypeError: objects of the other process"),
        ("def f(): return 1", "assert g() == 1", "NameError: name 'g' is not defined"),
        ("def f(): return '.' * 2**24", "f()", "the program sent a message of more than 16 MiB"),
        (
            "import os\nos.close(3), os.close(4)\nimport time\ntime.sleep(9)",
            "f()",
            "left its tests",
        ),
        ("import os\ndef f(): os.abort()", "f()", "killed by SIGABRT"),
        ("def f(x): return x.y", "class A: y = 1\nf(A())", "TypeError: 'get' is refused"),
    ],
)
def test_what_is_wrong_with_a_tested_program(program: str, tests: str, error: str) -> None:
    result = run(program, tests=tests)
    assert result.status == "error"
    assert error in result.error


def test_what_a_tested_program_prints_is_kept() -> None:
    program = "print('a')\ndef f(): print('b')"
    assert run(program, tests="f()\nf()\nprint('c')").stdout == "a\nb\nb\nc\n"


def test_the_tools_of_forgeries_work_where_they_are_not_kept_from_it() -> None:
    report = "report = mmap.mmap(-1, 9)\n_end = lambda _: print(report[:3])\n"
    filled = run(f"{FILL}{report}fill([0, {{'a': (report,)}}])", tests="fill")
    assert (filled.status, filled.stdout) == ("finished", "b'F\\xff\\x00'\n"), filled
    around = run(f"{FRAMES}print(any(f.f_globals is globals() for f in frames()))")
    assert around.stdout == "True\n", around
    wrong = f"{WRONG}{JUMP}{TESTS.rpartition('check(f)')[0]}"
    assert run(f"{wrong}check(f)").status == "error"
    jumped = run(f"{wrong}sys.settrace(jump)\ncheck(f)\nprint('jumped')")
    assert jumped.stdout == "jumped\n", jumped


def test_a_right_program_may_use_what_forgeries_use() -> None:
    program = (
        "import builtins, collections, enum, inspect, sys, threading, typing\n"
        "P = collections.namedtuple('P', 'x')\n"
        "class Q(typing.NamedTuple):\n    x: int\n"
        "E = enum.Enum('E', 'a b')\n"
        "def sum(a, b): return a + b\n"
        "def f(x): return sum(P(x).x, Q(E.a.value).x)\n"
    )
    tests = "import math\n" + TESTS + "assert sum(1, 2) == 3"
    assert run(program, tests=tests, entry_point="sum").finished


def test_a_right_program_may_switch_off_what_is_never_on() -> None:
    program = (
        "import doctest, sys\n"
        "def f(x):\n    '''\n    >>> f(1)\n    2\n    '''\n    return x + 1\n"
        "assert doctest.testmod(sys.modules[__name__]) == (0, 1)\n"
        "doctest.run_docstring_examples(f, globals())\n"
        "sys.settrace(None)\nsys.setprofile(None)\n"
    )
    result = run(program, tests=TESTS)
    assert (result.status, result.stdout) == ("finished", ""), result


@pytest.mark.parametrize(
    ("program", "shown"),
    [
        ("sys.stdout = io.TextIOWrapper(sys.stdout.buffer, encoding='utf-8')\nprint('é')", "é\n"),
        ("sys.stdout = io.StringIO()\nprint(1)\nsys.stdout = sys.__stdout__\nprint(2)", "2\n"),
        ("sys.stdout = io.StringIO()\nsys.__stdout__.write('3')", "3"),
        ("sys.stdin = io.StringIO()\nprint(sys.__stdin__.read())", "read\n"),
        ("sys.stderr = io.TextIOWrapper(sys.stderr.buffer)\nprint(4, file=sys.stderr)", ""),
        ("print(5)\nsys.stdout.close()", "5\n"),
        ("print(6)\ndel sys.stdout, sys.__stdout__", "6\n"),
    ],
)
def test_streams_may_be_replaced(program: str, shown: str) -> None:
    result = run(f"import io, sys\n{program}", stdin="read")
    assert (result.status, result.stdout) == ("finished", shown), result


def test_tests_have_the_builtins_of_before() -> None:
    program = "import builtins\nbuiltins.abs = lambda x: 0\ndef f(x): return 5"
    assert run(program, tests="assert abs(f(1) - 2) < 1").status == "error"


def test_the_source_of_a_program_can_be_inspected() -> None:
    program = "import inspect\ndef f(): pass\nprint(inspect.getsource(f))"
    assert run(program).stdout == "def f(): pass\n\n"


@pytest.mark.parametrize("program", ["while True: pass", _CATCHES_THE_SIGNAL], ids=["loop", "deaf"])
def test_processor_time_used_up_is_a_timeout(program: str) -> None:
    result = run(program, limits=Limits(wall_s=300.0, cpu_s=1.0))
    assert result.status == "timeout", result
    assert "of the processor" in result.error


def test_a_program_that_cannot_be_confined_is_not_run() -> None:
    impossible = Limits()
    object.__setattr__(impossible, "cpu_s", 1e30)  # which `Limits` itself refuses
    with Pool(workers=1) as pool:
        result = pool.submit("print(1)", limits=impossible).result()
        assert (result.status, result.stdout) == ("infrastructure", "")
        assert "failed 6 times" in result.error
        assert pool.submit("print(1)").result().stdout == "1\n"


@pytest.mark.parametrize(
    "written",
    [b"", b"F", b"I\xff", b"Finfrastructure", b"\xff", b"{}\xff", b"FF\xff", bytes(9)],
)
def test_an_odd_report_is_none(written: bytes) -> None:
    with mmap.mmap(-1, REPORT_BYTES) as report:
        report.write(written)
        assert read_report(report) is None


def test_dataclasses_pickles_and_threads_work_as_in_a_script() -> None:
    program = (
        "import pickle, threading\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass P:\n    x: int\n"
        "def later(): print(pickle.loads(pickle.dumps(P(3))))\n"
        "threading.Timer(0.05, later).start()\n"
    )
    assert run(program).stdout == "P(x=3)\n"


def test_programs_do_not_see_each_other() -> None:
    with Pool(workers=1) as pool:
        first, second = pool.run_all(
            [
                "import math, builtins, os\nmath.pi = builtins.x = 3\nopen('left', 'w').close()",
                "import math, builtins, os\nprint(math.pi > 3, hasattr(builtins, 'x'), "
                "os.listdir())",
            ]
        )
    assert first.finished
    assert second.stdout == "True False []\n"


def test_output_is_cut_at_the_limit() -> None:
    result = run("print('x' * 5000)", limits=Limits(output_kib=2))
    assert (result.status, len(result.stdout)) == ("output", 2048)
    assert run("print('x' * 2047)", limits=Limits(output_kib=2)).finished


def test_a_timeout_keeps_what_was_printed() -> None:
    limits = Limits(wall_s=0.5)
    result = run("print('so far', flush=True)\nwhile True: pass", limits=limits)
    assert (result.status, result.stdout) == ("timeout", "so far\n")
    assert result.error == "not finished after 0.5 s"


def test_results_come_in_order_and_asyncio_goes_on() -> None:
    async def both() -> list[str]:
        with Pool(workers=2) as pool:
            runs = [pool.run(f"import time; time.sleep({d}); print({d})") for d in (0.2, 0.0)]
            return [result.stdout for result in await asyncio.gather(*runs)]

    assert asyncio.run(both()) == ["0.2\n", "0.0\n"]


def test_a_worker_that_dies_is_replaced_and_its_program_run_again() -> None:
    others = set(_children(os.getpid(), "-m worker"))
    with Pool(workers=1) as pool:
        assert pool.run_all(["print(1)"])[0].finished
        future = pool.submit("import time; time.sleep(1); print('again')")
        time.sleep(0.3)
        (worker,) = set(_children(os.getpid(), "-m worker")) - others
        os.kill(worker, signal.SIGKILL)
        assert future.result().stdout == "again\n"


def test_closing_a_pool_does_not_wait_for_its_programs() -> None:
    limits = Limits(wall_s=600)
    with Pool(workers=1) as pool:
        assert pool.run_all(["1"])[0].finished
        futures = [pool.submit("import time; time.sleep(500)", limits=limits) for _ in range(3)]
        time.sleep(0.2)
        started = time.monotonic()
    assert time.monotonic() - started < 30
    assert futures[-1].cancelled()
    with pytest.raises(RuntimeError, match="closed"):
        pool.submit("1")


def test_nothing_outlives_the_host_process() -> None:
    host = subprocess.Popen(
        [
            *(sys.executable, "-c"),
            "from redraft.sandbox import run, Limits; print('up', flush=True);"
            "run('import time; time.sleep(60)', limits=Limits(wall_s=60))",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert host.stdout is not None
    host.stdout.readline()
    deadline = time.monotonic() + 60
    while not (workers := _children(host.pid, "-m worker")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    host.kill()
    host.wait()
    host.stdout.close()
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert workers
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


@pytest.mark.parametrize(
    "limits",
    [{"wall_s": 0}, {"memory_mib": -1}, {"wall_s": math.inf}, {"cpu_s": math.nan}, {"cpu_s": 1e12}],
)
def test_limits_have_bounds(limits: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected a number above 0, at most 1,000,000"):
        Limits(**limits)  # type: ignore[arg-type]


def test_the_largest_limits_work() -> None:
    largest = Limits(*[LARGEST_LIMIT] * len(fields(Limits)))
    assert run("print(1)", limits=largest).stdout == "1\n"


def test_an_input_may_be_as_large_as_a_file() -> None:
    limits = Limits(files_mib=2)
    assert run("print(len(input()))", stdin="é" * 2**20, limits=limits).stdout == f"{2**20}\n"
    with pytest.raises(ValueError, match=r"larger than Limits\.files_mib, 2 MiB"):
        run("1", stdin="é" * 2**20 + "x", limits=limits)


@pytest.mark.parametrize("tests", [None, "assert x == 3"])
def test_a_byte_order_mark_begins_no_program(tests: str | None) -> None:
    assert run("\ufeffx = 3", tests=tests).finished


@pytest.mark.parametrize("landlock", [True, False])
@pytest.mark.parametrize("seccomp", [True, False])
@pytest.mark.parametrize("namespaces", [True, False])
def test_temporary_files_lie_in_the_folder(namespaces: bool, landlock: bool, seccomp: bool) -> None:
    program = (
        "import os, tempfile\nplace = tempfile.mkdtemp()\n"
        "with tempfile.NamedTemporaryFile() as file:\n    file.write(b'x')\n"
        "print(os.path.dirname(place) == os.path.dirname(file.name) == os.getcwd())\n"
    )
    with Pool(workers=1, wanted=Wanted(namespaces, landlock, seccomp)) as pool:
        assert pool.submit(program).result().stdout == "True\n"


def test_strict_is_refused_where_a_program_could_reach_the_network() -> None:
    with pytest.raises(UserError, match="reach the network and connect to") as refusal:
        require_strict(level(Wanted(namespaces=False, landlock=False, seccomp=False)))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("wanted", "gaps"),
    [
        (Wanted(), []),
        (Wanted(False, False, False), [NETWORK, SERVICES, WRITE, READ, START]),
        (Wanted(False, False, True), [WRITE, READ]),
        (Wanted(False, True, False), [NETWORK, SERVICES, START]),  # TCP is closed, UDP is not
        (Wanted(False, True, True), []),
        (Wanted(True, False, False), [SERVICES, READ, START]),
        (Wanted(True, False, True), [READ]),
        (Wanted(True, True, False), [SERVICES, START]),
    ],
    ids=str,
)
def test_the_level_says_what_was_tried(wanted: Wanted, gaps: list[str]) -> None:
    found = level(wanted)
    assert found.gaps == gaps
    assert (found.namespaces, found.landlock > 0, found.seccomp) == (
        wanted.namespaces, wanted.landlock, wanted.seccomp,
    )  # fmt: skip
    if set(gaps) <= {READ, START}:
        assert require_strict(found) is found
    else:
        with pytest.raises(UserError, match=gaps[0]):
            require_strict(found)
    words = ("namespaces" in found.mechanisms, "landlock (ABI" in found.mechanisms)
    assert words == (wanted.namespaces, wanted.landlock)


def test_trying_the_level_leaves_nothing_behind() -> None:
    places = [Path(tempfile.gettempdir()), Path("/var/tmp")]
    level.__wrapped__(Wanted())
    assert not [found for place in places for found in place.glob("redraft-level-*")]


def _children(parent: int, command: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit():
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                words = (entry / "cmdline").read_text().replace("\0", " ")
                if int(fields[1]) == parent and command in words:
                    found.append(int(entry.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize(
    "tests",
    [
        "def check(candidate):\n    assert candidate(1) == 2",
        "import unittest\nclass T(unittest.TestCase):\n    def test_f(self):\n"
        "        self.assertEqual(f(1), 2)\nif __name__ == '__main__':\n    unittest.main()",
    ],
)
def test_tests_that_call_nothing_pass_nobody(tests: str) -> None:
    result = run("def f(x):\n    return 0", tests=tests)
    assert (result.status, result.error) == (
        "error",
        "RuntimeError: the tests asked the program for nothing",
    )
