"""Wrong programs that try to pass for right ones: each must fail its tests.

`FORGERIES`, against `TESTS`, take hold of something that the code around a program uses, or may
use: builtins, modules, the frames above, the objects in memory, tracing, descriptors, the
interpreter's end. `LIES` are values and names that pass their own tests where these run in the
program's interpreter. `ATTACKS` are on what keeps the two apart: the channel, the other process,
the files they share.
"""

TESTS = "def check(candidate):\n    assert candidate(1) == 2\n    return None\ncheck(f)\n"

WRONG = "def f(x): return None\n"

FRAMES = """
import sys
def frames():
    frame = sys._getframe()
    while frame is not None:
        yield frame
        frame = frame.f_back
"""

_ON_BUILTINS = ("exec", "compile", "eval", "repr", "str", "type", "len", "isinstance", "bytes")
_EXCEPTIONS = ("AssertionError", "BaseException", "Exception", "MemoryError", "SystemExit")

FILL = """
import mmap, os
_end = os._exit
def fill(found):
    if isinstance(found, mmap.mmap):
        found[:2] = b"F\\xff"
        _end(0)
    elif isinstance(found, (list, tuple)):
        for inside in found: fill(inside)
    elif isinstance(found, dict):
        for inside in list(found.values()): fill(inside)
"""

JUMP = """
import sys
def jump(frame, event, argument):
    if event == "line" and frame.f_code.co_name == "check":
        frame.f_lineno = max(line for *_, line in frame.f_code.co_lines() if line)
    return jump
"""

_PATCHED_GLOBALS = """
class Anything(bytes):
    def __call__(self, *a, **k): return self
    def __radd__(self, other): return b"F\\xff"
    def __bytes__(self): return b"F\\xff"
for frame in frames():
    if frame.f_globals is not globals():
        for name, found in list(frame.f_globals.items()):
            if callable(found) or isinstance(found, (bytes, dict)):
                frame.f_globals[name] = Anything(b"F\\xff")
"""

_PATCHED_CODE = """
def forged(*a, **k): return b"F\\xff"
for frame in frames():
    if frame.f_globals is not globals():
        for found in list(frame.f_globals.values()):
            try: found.__code__ = forged.__code__
            except (AttributeError, ValueError, TypeError): pass
"""

FORGERIES = {
    "ends the process": "import os\ndef f(x): os._exit(0)\n",
    "ends the process before": "import os\nos._exit(0)\n",
    "exits": "def f(x): raise SystemExit(0)\n",
    "exits before": "raise SystemExit(0)\n",
    "exits at exit": WRONG + "import atexit, os\natexit.register(os._exit, 0)\n",
    "raises what is no Exception": "def f(x): raise GeneratorExit\n",
    **{
        f"builtins.{name}": WRONG + f"import builtins\nbuiltins.{name} = lambda *a, **k: None\n"
        for name in _ON_BUILTINS
    },
    **{
        f"builtins.{name}": WRONG
        + f"import builtins\nclass Other(BaseException): pass\nbuiltins.{name} = Other\n"
        for name in _EXCEPTIONS
    },
    "compiles something else": WRONG
    + "import builtins\n_c = compile\nbuiltins.compile = lambda *a, **k: _c('pass', 'x', 'exec')\n",
    "imports something else": WRONG
    + "import builtins\nbuiltins.__import__ = builtins.__build_class__ = lambda *a, **k: f\n",
    "patches every builtin": WRONG + "import builtins\n_set, _f = setattr, lambda *a, **k: b'F'\n"
    "for _n in dir(builtins):\n    if _n[0] != '_': _set(builtins, _n, _f)\n",
    "json.dumps": WRONG + 'import json\njson.dumps = lambda *a, **k: \'{"status": "finished"}\'\n',
    "the encoder of json": WRONG + "import json.encoder\n"
    'json.encoder.JSONEncoder.encode = lambda *a, **k: \'{"status": "finished"}\'\n',
    "claims that the sandbox failed": WRONG
    + 'import json\njson.dumps = lambda *a, **k: \'{"status": "infrastructure", '
    '"error": "x", "bogus": 1}\'\n',
    "modules around it": WRONG + "import os, sys, threading, traceback, types, mmap\n"
    "for module in (os, threading, traceback, types, mmap):\n"
    "    for name in dir(module):\n"
    "        if callable(getattr(module, name)):\n"
    "            setattr(module, name, lambda *a, **k: b'F')\n",
    "every descriptor": WRONG + "import os\nfor n in range(2, 1024):\n"
    "    try: os.lseek(n, 0, 0)\n    except OSError: pass\n"
    "    try: os.write(n, b'F\\xff')\n    except OSError: pass\n",
    "the report in a frame": WRONG
    + FRAMES
    + FILL
    + "for frame in frames():\n    fill(frame.f_locals); fill(frame.f_globals)\n",
    "the report in a frame, from the tests": FRAMES
    + FILL
    + "import os\ndef f(x):\n    for frame in frames(): fill(frame.f_locals)\n    os._exit(0)\n",
    "the report in a frame below an error": WRONG
    + FILL
    + "try: 1 / 0\nexcept ZeroDivisionError as e: frame = e.__traceback__.tb_frame\n"
    "while frame:\n    fill(frame.f_locals); frame = frame.f_back\n",
    "the report among all objects": WRONG
    + FILL
    + "import gc\nfor found in gc.get_objects(): fill(found)\n",
    "the report among all objects, from the tests": FILL
    + "import gc, os\ndef f(x):\n    fill(gc.get_objects()); os._exit(0)\n",
    "the report among all objects, thawed": WRONG
    + FILL
    + "import gc\ngc.unfreeze()\nfill(gc.get_referrers(mmap.mmap))\n",
    "the report through a supervisor": WRONG
    + FRAMES
    + FILL
    + "for frame in frames():\n    for found in list(frame.f_locals.values()):\n"
    "        try: fill(vars(found))\n        except TypeError: pass\n",
    "the names around it": WRONG + FRAMES + _PATCHED_GLOBALS,
    "the names around it, from the tests": FRAMES
    + "def f(x):\n"
    + "".join(f"    {line}\n" for line in _PATCHED_GLOBALS.splitlines()),
    "the functions around it": WRONG + FRAMES + _PATCHED_CODE,
    "jumps over the tests": WRONG + JUMP + "sys.settrace(jump)\n",
    "jumps over the tests, from the tests": JUMP
    + "def f(x):\n    frame = sys._getframe()\n    while frame:\n"
    "        frame.f_trace = jump; frame = frame.f_back\n    sys.settrace(jump)\n",
    "jumps over the tests, suppressing": JUMP
    + "def f(x):\n    frame = sys._getframe(1)\n    frame.f_trace = jump\n"
    "    try: sys.settrace(jump)\n    except BaseException: pass\n",
    "jumps over the tests, with sys made anew": WRONG
    + JUMP
    + "import importlib\ntry: importlib.reload(sys)\nexcept ImportError: pass\n"
    "sys.settrace(jump)\n",
    "jumps over the tests, by the function below": WRONG
    + JUMP
    + "sys.settrace.__closure__[0].cell_contents(jump)\n",
    "profiles": WRONG + "import sys, os\nsys.setprofile(lambda *a: os._exit(0))\n",
    "a signal among the tests": "import signal\n"
    "def end(*a): raise SystemExit(0)\nsignal.signal(signal.SIGALRM, end)\n"
    "def f(x):\n    signal.setitimer(signal.ITIMER_REAL, 1e-6)\n    while True: pass\n",
    "prints a verdict": WRONG + 'print(\'{"status": "finished", "value": null}\', flush=True)\n',
    "replaces the module": WRONG
    + "import sys, types\nsys.modules['solution'] = types.ModuleType('solution')\n"
    "sys.modules['__main__'] = types.SimpleNamespace(check=lambda c: None)\n",
    "replaces the class of its module": WRONG + "import sys, types\n"
    "class Names(dict):\n    def __setitem__(self, name, value): pass\n"
    "class Module(types.ModuleType):\n    __dict__ = Names(f=f, check=lambda candidate: None)\n"
    "sys.modules[__name__].__class__ = Module\n",
    "swallows the tests' name": WRONG + "class Name(str):\n    __hash__ = str.__hash__\n"
    "    said = [False, True]\n"
    "    def __eq__(self, other): return bool(self.said) and self.said.pop(0)\n"
    "globals()[Name('check')] = 0\nglobals()['check'] = lambda candidate: None\n",
    "has the tests' name": WRONG + "def check(candidate): pass\n",
    "hooks": WRONG
    + "import sys, threading\nsys.excepthook = sys.unraisablehook = lambda *a: None\n"
    "threading.excepthook = sys.excepthook\n",
    "audits": WRONG + "import sys\ndef hook(*a): raise SystemExit(0)\nsys.addaudithook(hook)\n",
}

_EQUAL = """
    __hash__ = None
    def __eq__(self, other): return True
    def __ne__(self, other): return False
"""
_BARE = "class Lie:" + _EQUAL

LIES = {  # name: (program, tests)
    "an equal int": (f"class Lie(int):{_EQUAL}def f(x): return Lie()", TESTS),
    "an equal float": (
        f"class Lie(float):{_EQUAL}def f(x): return Lie(0.5)",
        "assert f(1) == 2.25 and 2.25 == f(1)",
    ),
    "an equal list": (f"class Lie(list):{_EQUAL}def f(x): return Lie()", "assert f(1) == [1, 2]"),
    "an equal dict": (f"class Lie(dict):{_EQUAL}def f(x): return Lie()", "assert f(1) == {1: 2}"),
    "an equal tuple": (f"class Lie(tuple):{_EQUAL}def f(x): return Lie()", "assert f(1) == (1, 2)"),
    "an equal set": (f"class Lie(set):{_EQUAL}def f(x): return Lie()", "assert f(1) == {1, 2}"),
    "equal bytes": (f"class Lie(bytes):{_EQUAL}def f(x): return Lie()", "assert f(1) == b'ab'"),
    "an equal object": (f"{_BARE}def f(x): return Lie()", TESTS),
    "an object that is never unequal": (
        f"{_BARE}def f(x): return Lie()",
        "if f(1) != 2: raise AssertionError",
    ),
    "an equal class": (
        f"class Meta(type):{_EQUAL}class Lie(metaclass=Meta): pass\ndef f(x): return Lie",
        "assert f(1) == int",
    ),
    "equal items of a list": (f"{_BARE}def f(x): return [Lie(), Lie()]", "assert f(1) == [3, 4]"),
    "equal values of a dict": (
        f"{_BARE}def f(x): return {{'a': Lie()}}",
        "assert f(1) == {'a': 3}",
    ),
    "an equal namedtuple": (
        "from collections import namedtuple\n"
        f"class Lie(namedtuple('P', 'x')):{_EQUAL}def f(x): return Lie(0)",
        "assert f(1) == (5,)",
    ),
    "an equal enum": (
        f"import enum\nclass Lie(enum.IntEnum):\n    A = 7{_EQUAL}def f(x): return Lie.A",
        TESTS,
    ),
    "an equal Fraction": (
        f"from fractions import Fraction\nclass Lie(Fraction):{_EQUAL}def f(x): return Lie(1, 3)",
        "from fractions import Fraction\nassert f(1) == Fraction(1, 2)",
    ),
    "an equal Decimal": (
        f"from decimal import Decimal\nclass Lie(Decimal):{_EQUAL}def f(x): return Lie('0.5')",
        "from decimal import Decimal\nassert f(1) == Decimal('2.5')",
    ),
    "an int of another class by its word": (
        f"class Lie:\n    __class__ = int{_EQUAL}def f(x): return Lie()",
        "r = f(1)\nassert isinstance(r, int) and r == 2",
    ),
    "close to everything": (
        "class Lie(float):\n    def __sub__(self, other): return 0.0\n"
        "    __rsub__ = __sub__\ndef f(x): return Lie()",
        "assert abs(f(1) - 2.5) < 1e-6",
    ),
    "less and more than everything": (
        "class Lie:\n    def __lt__(self, other): return True\n"
        "    __gt__ = __le__ = __ge__ = __lt__\ndef f(x): return Lie()",
        "assert 1.9 < f(1) < 2.1",
    ),
    "contains everything": (
        "class Lie:\n    def __contains__(self, item): return True\ndef f(x): return Lie()",
        "assert 'solution' in f(1)",
    ),
    "a str that contains everything": (
        "class Lie(str):\n    def __contains__(self, item): return True\ndef f(x): return Lie()",
        "assert 'solution' in f(1)",
    ),
    "starts with everything": (
        "class Lie(str):\n    def startswith(self, *a): return True\ndef f(x): return Lie()",
        "assert f(1).startswith('solution')",
    ),
    "a list of any length": (
        "class Lie(list):\n    def __len__(self): return 5\n"
        "    def __getitem__(self, key): return key * key\ndef f(x): return Lie()",
        "r = f(5)\nassert len(r) == 5 and r[3] == 9",
    ),
    "finds what it is asked for": (
        "class Lie(dict):\n    def get(self, key, default=None): return key[::-1]\n"
        "def f(x): return Lie()",
        "assert f(1).get('ab') == 'ba'",
    ),
    "equal once": (
        "class Lie(int):\n    __hash__ = int.__hash__\n    left = [1]\n"
        "    def __eq__(self, other): return bool(self.left and self.left.pop())\n"
        "def f(x): return Lie()",
        "assert f(1) == 4",
    ),
    "takes the hash of what is looked for": (
        "class Lie(int):\n    def __hash__(self): return hash(2)\n"
        "    def __eq__(self, other): return True\ndef f(x): return Lie()",
        "assert f(1) in {2: 'two'}",
    ),
    "its own abs": ("def abs(x): return 0\ndef f(x): return 7", "assert abs(f(1) - 2) < 1e-6"),
    "its own all": (
        "def all(x): return True\ndef f(x): return 7",
        "assert all(f(x) == 2 for x in [1])",
    ),
    "its own set and sorted": (
        "def set(x): return 0\nsorted = set\ndef f(x): return 7",
        "assert set(f(1)) == set([2])\nassert sorted(f(1)) == sorted([2])",
    ),
    "its own isinstance and len": (
        "def isinstance(*a): return True\ndef len(x): return 3\ndef f(x): return 7",
        "assert isinstance(f(1), str)\nassert len(f(1)) == 3",
    ),
    "its own AssertionError": (
        "class AssertionError(Exception): pass\ndef f(x): return 7\n",
        "try:\n    if f(1) != 2: raise AssertionError\nexcept BaseException as error:\n"
        "    if error.__class__.__module__ == 'builtins': raise",
    ),
    "a module that agrees": (
        "import math\nmath.isclose = lambda *a, **k: True\ndef f(x): return 7",
        "import math\nassert math.isclose(f(1), 2.5)",
    ),
    "another module of the name": (
        "import sys, types\nfake = types.ModuleType('math')\nfake.isclose = lambda *a: True\n"
        "sys.modules['math'] = fake\ndef f(x): return 7",
        "import math\nassert math.isclose(f(1), 2.5)",
    ),
    "a class for a module that the tests do not import": (
        "class sys:\n    getsizeof = staticmethod(lambda x: 7)\ndef f(x): return 7",
        "assert f((1, 2)) == sys.getsizeof((1, 2))",
    ),
    "an import that finds something else": (
        "import builtins\nclass fake:\n    isclose = staticmethod(lambda *a: True)\n"
        "builtins.__import__ = lambda *a: fake\ndef f(x): return 7",
        "import math\nassert math.isclose(f(1), 2.5)",
    ),
    "another case": (
        "class S(str):\n    def lower(self): return 'right'\ndef f(x): return S('Wrong')",
        "assert f(1).lower() == 'right'",
    ),
    "items of another dict": (
        "class D(dict):\n    def items(self): return [('a', 1)]\ndef f(x): return D(b=2)",
        "assert sorted(f(1).items()) == [('a', 1)]",
    ),
    "an array that changes": (
        "class A:\n    ndim = 0\n    said = [7, 2]\n    def item(self): return self.said[0]\n"
        "    def __eq__(self, other): return other == self.said.pop()\ndef f(x): return A()",
        TESTS,
    ),
    "a clock that stands still": (
        "import time\ntime.perf_counter = lambda: 0\ndef f(x): return 7",
        "import time\nbegan = time.perf_counter()\nf(1)\nassert time.perf_counter() == began",
    ),
    "ends the loop of the tests": (
        "def f(x): raise StopIteration",
        "assert all(map(lambda pair: f(pair[0]) == pair[1], [(1, 2), (2, 3)]))",
    ),
    "ends the loop of the tests with a class of its own": (
        "class Stop(StopIteration): pass\ndef f(x): raise Stop",
        "for found, right in zip(map(f, [1, 2]), [2, 3]):\n    assert found == right",
    ),
    "reads the answer in the tests' frame": (
        "import sys\ndef f(x): return sys._getframe(1).f_code.co_consts[2]",
        "def check(candidate):\n    assert candidate(1) == 'secret', 'wrong'\ncheck(f)",
    ),
    "reads the answer in the tests' locals": (
        "import sys\ndef f(x): return sys._getframe(1).f_locals['right']",
        "def check(candidate):\n    for x, right in [(1, 'one')]:\n"
        "        assert candidate(x) == right\ncheck(f)",
    ),
    "reads the answer among all objects": (
        "import gc\ndef f(x):\n    for found in gc.get_objects():\n"
        "        if isinstance(found, dict) and 'ANSWERS' in found: return found['ANSWERS'][x]\n",
        "ANSWERS = ['zero', 'one']\nassert f(1) == ANSWERS[1]",
    ),
    "changes the constants of the tests": (
        "import sys\ndef f(x):\n    sys._getframe(1).f_globals['ANSWERS'][1] = 7\n    return 7",
        "ANSWERS = ['zero', 'one']\nassert f(1) == ANSWERS[1]",
    ),
    "changes the function that it is given": (
        "def yes(*a): return True\ndef f(g):\n    g.__code__ = yes.__code__\n    return 0",
        "def right(x): return x == 5\nassert right(f(right))",
    ),
    "reads the globals of the function that it is given": (
        "def f(g): return g.__globals__['ANSWER']",
        "ANSWER = 'secret'\nassert f(lambda: 0) == ANSWER",
    ),
}

_SAY = """
import json, os
def say(*message): os.write(4, json.dumps(message).encode() + b"\\n")
"""


def _saying(*messages: str) -> str:
    """A program whose `f` writes messages of its own to the tests before it returns."""
    return _SAY + "def f(x):\n" + "".join(f"    {message}\n" for message in messages)


_CALLS_BACK = "def twice(x): return 2 * x\nassert f(twice) == 'right'"
_LIBRARY = "import random, string, math\nassert math.isclose(f(1), 2.5)"

# The processes of the sandbox alone: nothing here may signal another one.
_SIBLINGS = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def siblings():
    own = os.getpid()
    try:
        own, parents = int(os.readlink('/proc/self')), {}
        for pid in filter(str.isdigit, os.listdir('/proc')):
            with open(f'/proc/{pid}/stat') as file:
                parents[int(pid)] = file.read().rpartition(')')[2].split()[1]
        found = [pid for pid in parents if parents[pid] == parents[own] and pid != own]
    except OSError:
        found = []
    if os.getppid() == 1:  # in a namespace, where only the sandbox's processes have a number
        found += [pid for pid in range(2, 50) if pid != os.getpid()]
    return found
"""

ATTACKS = {  # name: (program, tests)
    "a verdict for an answer": (_saying("say('finished')"), TESTS),
    "the tests' report for an answer": (_saying("os.write(4, b'F\\xff\\n')"), TESTS),
    "the worker's verdict for an answer": (
        _saying("""os.write(4, b'{"status": "finished"}\\n')"""),
        TESTS,
    ),
    "an object for an answer": (_saying("say('done', ['mine', 99, 'int'], None)"), TESTS),
    "the program's namespace for an answer": (
        _saying("say('done', ['mine', 0, 'int'], None)"),
        TESTS,
    ),
    "an object that nobody gave": (_saying("say('done', ['yours', 0], None)"), TESTS),
    "an object that nobody gave, from the end": (
        _saying("say('done', ['yours', -1], None)"),
        TESTS,
    ),
    "the type of types": (_saying("say('done', ['type', 'type'], None)"), TESTS),
    "no type at all": (_saying("say('done', ['type', 'eval'], None)"), TESTS),
    "an int that is none": (_saying("say('done', ['int', ['zz']], None)"), TESTS),
    "a fraction of nothing": (_saying("say('done', ['Fraction', ['1/0']], None)"), TESTS),
    "an unhashable set": (_saying("say('done', ['set', [['list', []]]], None)"), TESTS),
    "half a dict": (_saying("say('done', ['dict', [1]], None)"), TESTS),
    "a number of numbers": (_saying("say('done', ['complex', [['mine', 0, 'x']]], None)"), TESTS),
    "deeper than JSON": (_saying("os.write(4, b'[' * 60_000 + b'\\n')"), TESTS),
    "deeper than values": (
        _saying("v = []", "for _ in range(900): v = ['list', [v]]", "say('done', v, None)"),
        TESTS,
    ),
    "an answer without end": (
        _saying("while True: os.write(4, b'[' * 60_000)"),
        TESTS,
    ),
    "an answer of no encoding": (_saying("os.write(4, b'\\xff\\xfe\\n')"), TESTS),
    "an end of all loops": (
        _saying("say('raised', ['StopIteration'], [])"),
        "list(map(f, [1]))\n1 / 0",
    ),
    "an exception that is a type": (
        _saying("say('raised', ['type', 'eval', 'object'], [])"),
        TESTS,
    ),
    "an exception without a name": (_saying("say('raised', [[], {}], [])"), TESTS),
    "an exception that ends the tests": (_saying("say('raised', ['SystemExit'], [0])"), TESTS),
    "an exception of the collector": (_saying("say('raised', ['GeneratorExit'], [])"), TESTS),
    "an exception that interrupts": (_saying("say('raised', ['KeyboardInterrupt'], [])"), TESTS),
    "other arguments than lists": (_saying("say('done', None, 'ab')"), "x = [1]\nassert f(x) == 2"),
    "changed arguments of another type": (
        _saying("say('done', None, ['tuple', [['dict', []]]])"),
        "x = [1]\nassert f(x) == 2",
    ),
    "asks the tests for attributes": (
        _saying("say('ask', 'get', 0, ['__globals__'])"),
        _CALLS_BACK,
    ),
    "asks the tests to set attributes": (
        _saying("say('ask', 'set', 0, ['__code__', 0])"),
        _CALLS_BACK,
    ),
    "asks the tests to call what is not theirs": (
        _saying("say('ask', 'call', 5, [['tuple', []], ['tuple', []]])"),
        _CALLS_BACK,
    ),
    "asks the tests for an item": (_saying("say('ask', 'item', 0, ['__builtins__'])"), _CALLS_BACK),
    "asks the tests without end": (
        _saying("while True: say('ask', 'iter', 0, [])"),
        _CALLS_BACK,
    ),
    "calls the tests back, and they it": (
        "def f(g): return g(g)",
        "def again(g): return f(g)\nassert f(again) == 'right'",
    ),
    "answers before it is asked": (
        _SAY + "for _ in range(100): say('done', True, None)\ndef f(x): return None",
        "assert f(1) == 2",
    ),
    "closes the channel and goes on": (
        WRONG + "import os, time\nos.close(3)\nos.close(4)\ntime.sleep(0.1)\n",
        TESTS,
    ),
    "closes the channel in a call": (
        "import os\ndef f(x):\n    os.close(3); os.close(4); os._exit(0)",
        "try: f(1)\nexcept BaseException: pass",
    ),
    "leaves with the status of the tests": ("import os\ndef f(x): os._exit(3)", TESTS),
    "leaves with the status of the tests, before": ("import os\nos._exit(3)", TESTS),
    "leaves with a report of its own": (
        FRAMES + FILL + "def f(x):\n    for frame in frames():\n        fill(frame.f_locals)\n",
        TESTS,
    ),
    "leaves the folder without a floor": (
        WRONG + "import os, shutil\nos.chmod('.', 0)\nshutil.rmtree(os.getcwd(), True)",
        TESTS,
    ),
    "modules in the folder": (
        "import os\nfor name in ('math', 'random', 'string', 'sitecustomize', 'json'):\n"
        "    with open(f'{name}.py', 'w') as file: file.write('isclose = lambda *a: True')\n"
        "def f(x): return 7",
        _LIBRARY,
    ),
    "modules among the user's": (
        "import os, sys\nplace = os.path.expanduser('~/.local/lib/python%d.%d/site-packages'"
        " % sys.version_info[:2])\nos.makedirs(place)\n"
        "with open(f'{place}/string.py', 'w') as file: file.write('import os; os._exit(0)')\n"
        "def f(x): return 7",
        _LIBRARY,
    ),
    "paths in the environment": (
        "import os\nos.environ['PYTHONPATH'] = os.getcwd()\n"
        "os.environ['PYTHONSTARTUP'] = os.environ['PYTHONBREAKPOINT'] = 'x'\n"
        "with open('math.py', 'w') as file: file.write('isclose = lambda *a: True')\n"
        "def f(x): return 7",
        _LIBRARY,
    ),
    "memory of the tests by /proc": (
        _SIBLINGS + "def f(x):\n    for pid in siblings():\n"
        "        try:\n            with open(f'/proc/{pid}/mem', 'r+b'): return 2\n"
        "        except OSError: pass\n",
        TESTS,
    ),
    "memory of the tests by a system call": (
        _SIBLINGS + "import struct\ndef f(x):\n    found = ctypes.create_string_buffer(8)\n"
        "    here = ctypes.create_string_buffer(struct.pack('QQ', ctypes.addressof(found), 8))\n"
        "    for pid in siblings():\n"
        "        if libc.process_vm_readv(pid, here, 1, here, 1, 0) > 0: return 2\n",
        TESTS,
    ),
    "the tests by ptrace": (
        _SIBLINGS + "def f(x):\n    for pid in siblings():\n"
        "        if libc.ptrace(16, pid, 0, 0) == 0: return 2\n",
        TESTS,
    ),
    "descriptors of the tests": (
        _SIBLINGS + "def f(x):\n    for pid in siblings():\n"
        "        for fd in range(9):\n"
        "            try: return 2 + 0 * os.open(f'/proc/{pid}/fd/{fd}', os.O_WRONLY)\n"
        "            except OSError: pass\n",
        TESTS,
    ),
    "kills the tests": (
        _SIBLINGS + "def f(x):\n    for pid in siblings():\n        for number in (2, 15, 9):\n"
        "            try: os.kill(pid, number)\n            except OSError: pass\n",
        TESTS,
    ),
    "kills the tests before they begin": (
        _SIBLINGS + WRONG + "for pid in siblings():\n    try: os.kill(pid, 9)\n"
        "    except OSError: pass\n",
        TESTS,
    ),
    "limits the tests": (
        _SIBLINGS + "import resource\ndef f(x):\n    for pid in siblings():\n"
        "        for limit in (resource.RLIMIT_AS, resource.RLIMIT_NOFILE):\n"
        "            try: resource.prlimit(pid, limit, (0, 0))\n            except OSError: pass\n",
        TESTS,
    ),
    "searches its memory for the tests": (
        "import ctypes, re\ndef f(x):\n    try: lines = open('/proc/self/maps').readlines()\n"
        "    except OSError: return None\n    for line in lines:\n"
        "        ends, rights, *_ = line.split()\n"
        "        if rights.startswith('rw') and 'vvar' not in line:\n"
        "            first, last = (int(end, 16) for end in ends.split('-'))\n"
        "            memory = ctypes.string_at(first, last - first)\n"
        "            for found in re.findall(b'S[E]CRET_([a-z]+)', memory): return found.decode()",
        "ANSWER = 'SECRET_answer'\nassert 'SECRET_' + str(f(1)) == ANSWER",
    ),
    "reads what the tests print": (
        "import os\ndef f(x):\n    try:\n"
        "        pipe = os.open('/proc/self/fd/4', os.O_RDONLY | os.O_NONBLOCK)\n"
        "        return os.read(pipe, 100).decode()\n    except OSError: pass",
        "print('secret', flush=True)\nassert f(1) == 'secret\\n'",
    ),
    "answers from a process of its own": (
        "import os\ntry: os.fork()\nexcept OSError: pass\ndef f(x):\n"
        "    try: os.fork()\n    except OSError: pass\n    return 5",
        TESTS,
    ),
    "output that blocks": (
        "import os\nos.set_blocking(1, False)\ndef f(x):\n"
        "    try:\n        for _ in range(3): os.write(1, b'x' * 60_000)\n"
        "    except BlockingIOError: pass",
        "print('x' * 5000)\nassert f(1) == 2\nprint('y' * 5000)",
    ),
    "a value as large as a message": ("def f(x): return [0] * 3_000_000", TESTS),
    "a dict that is slow to look up": (
        "def f(x): return {i * (2 ** 61 - 1): 0 for i in range(3000)}",
        "assert f(1) == {1: 2}",
    ),
    "a decorator of time": (
        "import threading\ndef f(x): return None\ndef g():\n    global f\n"
        "    while True: f = lambda x: object()\n"
        "threading.Thread(target=g, daemon=True).start()",
        TESTS,
    ),
    "a channel of its own": (
        WRONG + FRAMES + "for frame in frames():\n    for found in list(frame.f_locals.values()):\n"
        "        if hasattr(found, 'operations'):\n"
        "            type(found).operations = {name: lambda *a: object()\n"
        "                for name in found.operations}\n",
        TESTS,
    ),
    "reads what the tests print, at its own pipe's other end": (
        "import os\ndef f(x):\n    for _ in range(100):\n        try:\n"
        "            pipe = os.open('/proc/self/fd/1', os.O_RDONLY | os.O_NONBLOCK)\n"
        "            return os.read(pipe, 100).decode()\n        except OSError: pass",
        "print('secret', flush=True)\nassert f(1) == 'secret\\n'",
    ),
    "reads what the tests print, by splice": (
        "import os\ndef f(x):\n    read, write = os.pipe()\n"
        "    try: os.splice(1, write, 100)\n    except OSError: return None\n"
        "    return os.read(read, 100).decode()",
        "print('secret', flush=True)\nassert f(1) == 'secret\\n'",
    ),
    "a link to the channel for the tests' file": (
        "import os\nos.symlink('/proc/self/fd/4', 'out.txt')\ndef f(x): return 7",
        "with open('out.txt', 'w') as file: file.write('42')\n"
        "assert str(f(1)) == open('out.txt').read()",
    ),
    "a pipe for the tests' file": (
        "import os\ndef f(x): os.mkfifo('expected.txt')",
        "assert f(1) == open('expected.txt').read()",
    ),
    "moves in the input of both": (
        "import os\ndef f(x):\n    try: os.lseek(0, 0, os.SEEK_END)\n    except OSError: pass\n"
        "    return ''",
        "import sys\nassert f(1) == sys.stdin.read() + 'a'",
    ),
    "locks what both have": (
        "import fcntl\ndef f(x):\n    for n in (0, 1):\n"
        "        try: fcntl.flock(n, fcntl.LOCK_EX)\n        except OSError: pass\n",
        TESTS,
    ),
    "a message with infinity": (
        _saying("os.write(4, b'[\"done\", Infinity, null]\\n')"),
        "assert f(1) < 5",
    ),
    "an iterator that is none": (
        _saying("say('done', ['mine', 7, 'x'], None)", "say('done', 1, None)"),
        "assert list(f(1)) == [1]",
    ),
    "a length that is a text": (
        _saying("say('done', ['mine', 7, 'x'], None)", "say('done', 'a', None)"),
        "assert len(f(1)) == 2",
    ),
    "a truth that is a text": (
        _saying("say('done', ['mine', 7, 'x'], None)", "say('done', 'True', None)"),
        "assert bool(f(1)) is True",
    ),
    "a text that is an object": (
        _saying("for _ in range(9): say('done', ['mine', 7, 'x'], None)"),
        "assert str(f(1)) == '2'",
    ),
    "an exception with a null in its name": (
        _saying("say('raised', ['x\\0y', 'Exception'], [])"),
        TESTS,
    ),
    "an exception without what it needs": (
        _saying("say('raised', ['UnicodeDecodeError'], [])"),
        TESTS,
    ),
    "the loader for an exception": (
        _saying("say('raised', ['__loader__', 'Exception'], [])"),
        TESTS,
    ),
    "a group of exits": ("def f(x): raise BaseExceptionGroup('x', [SystemExit(0)])", TESTS),
    "more arguments than were given": (
        _saying("say('done', 2, ['tuple', [['list', []], ['list', []]]])"),
        "x = [1]\nassert f(x) == 2 and x == [1]",
    ),
    "an argument that the tests kept": (
        _saying("say('done', True, ['tuple', [['yours', 0]]])"),
        "def g(): return 1\nassert f([g]) == 2",
    ),
    "calls what the tests kept with names of its own": (
        _saying(
            "say('ask', 'call', 0, [['tuple', [['list', []], None]], ['tuple', ['key', 'file']]])",
            "say('done', 1, None)",
        ),
        "assert f(sorted) == 2",
    ),
    "answers twice": (_saying("say('done', 1, None)", "say('done', 2, None)"), TESTS),
    "answers from a thread while it leaves": (
        _SAY + "import threading\ndef f(x):\n"
        "    threading.Thread(target=say, args=('done', 2, None)).start()\n"
        "    os._exit(0)",
        "assert f(1) == 2\nassert f(1) == 2",
    ),
    "maps what it has as a report": (
        "import mmap\ndef f(x):\n    for n in range(64):\n"
        "        try: mmap.mmap(n, 4096)[:2] = b'F\\xff'\n"
        "        except (OSError, ValueError): pass\n",
        TESTS,
    ),
    "files that interpreters read as they start": (
        "import os\nfor place in ('.', os.path.expanduser('~')):\n"
        "    os.makedirs(f'{place}/unittest', exist_ok=True)\n"
        "    for name in ('unittest/__init__.py', 'string.pth', 'pyvenv.cfg', 'conftest.py'):\n"
        "        with open(f'{place}/{name}', 'w') as file: file.write('import os; os._exit(0)')\n"
        "def f(x): return 7",
        "import unittest\nunittest.TestCase().assertEqual(f(1), 2)",
    ),
    "an array of no dimension that is itself": (
        "class A:\n    ndim = 0\n    def item(self): return self\n"
        "    def __eq__(self, other): return True\ndef f(x): return A()",
        TESTS,
    ),
    "stops itself": ("import os, signal\ndef f(x): os.kill(os.getpid(), signal.SIGSTOP)", TESTS),
    "no namespace": (WRONG + "globals().clear()", TESTS),
    "a coroutine": ("async def f(x): return 2", TESTS),
    "a generator": ("def f(x): yield 2", TESTS),
}

ENDLESS = {
    "an answer without end",
    "asks the tests without end",
    "a pipe for the tests' file",
    "stops itself",
}
"""Those that the clock may end."""
