"""Wrong programs that try to pass for right ones: each must fail `TESTS`.

Every one of them takes hold of something that the code around it uses, or may use: builtins,
modules, the frames above, the objects in memory, tracing, descriptors, the interpreter's end.
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
    "has the tests' name": WRONG + "def check(candidate): pass\n",
    "hooks": WRONG
    + "import sys, threading\nsys.excepthook = sys.unraisablehook = lambda *a: None\n"
    "threading.excepthook = sys.excepthook\n",
    "audits": WRONG + "import sys\ndef hook(*a): raise SystemExit(0)\nsys.addaudithook(hook)\n",
}
