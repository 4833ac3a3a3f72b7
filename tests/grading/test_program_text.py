"""Finding the program that an attempt means."""

import ast
import re
import sysconfig
import textwrap
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from random import Random
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redraft.grading.program_text import extract_program, is_whole

PROGRAMS = [
    "print(6 * 7)",
    "6 * 7",
    "42",
    "x = 6\nx * 7\n",
    "import math\n\n\ndef area(r):\n    return math.pi * r**2\n\n\nprint(area(2))\n",
    'def f():\n    """Doc.\n\n    ```\n    f()\n    ```\n    """\n    return 42\n\n\nprint(f())',
    'print("here it is: ```")',
    "# the answer\nfor i in range(3):\n    if i:\n        print(i)\nelse:\n    print('done')",
    "class A:\n    value = 42\n\n    def get(self):\n        return self.value\n\nA().get()",
    '"""A docstring of some words."""\nprint(42)',
    "text = '''some words\nmore words\n'''\nprint(len(text))",
    "if True:\n    x = 1\nprint(x)",
    "from math import sqrt, pi as p\nprint(sqrt(4), p)",
    "print('It is what I said.')",
    "a, b = 1, 2\nprint(a if a > b else b)",
    'print(f"it\'s {6 * 7}")',
    "x = 42\nprint(x)  # that's it",
    "x = 42\nprint(x)  # don't mutate",
    "def f(x):\n    return x  # don't mutate\n\n\nf(42)  # it's 42",
    "price = 6  # Tom's price\nprint(price * 7)",
    "price = 6  # Tom’s price\nprint(price * 7)",
    "total = 42\nprint(f'Tom\\'s total is {total} in all')",
    "s = 'I\\'m here'",
    'print("He said \\"don\'t\\" to me")',
    "x = 42\nx  # it's the answer",
    "x = 42\nx if x else'no such number'",
    'x = 42\nprint(x)  # the "answer to it all',
    "s = 'some words \\\nmore words'\nprint(s)",
]

WRAPPED = {
    "bare": "{p}",
    "a python fence": "```python\n{p}\n```",
    "a py fence": "```py\n{p}\n```",
    "a capital fence": "```Python3\n{p}\n```\n",
    "a plain fence": "```\n{p}\n```",
    "tildes": "~~~\n{p}\n~~~",
    "tildes with a tag": "~~~python\n{p}\n~~~\nDone.",
    "a longer fence": "````python\n{p}\n````",
    "an attribute fence": "```{{.python}}\n{p}\n```",
    "prose around a fence": "Here's the program:\n\n```python\n{p}\n```\n\nIt prints it.",
    "thoughts": "<think>print(1)\n```python\nprint(2)\n```</think>\n{p}",
    "output after": "```python\n{p}\n```\nOutput:\n```\n42\n```",
    "code after as output": "```python\n{p}\n```\nOutput:\n```\nx = 42\n```",
    "marked output after": "```python\n{p}\n```\n\n```output\n42\n```",
    "output marked as Python": "```python\n{p}\n```\nThe output is:\n```python\n42\n```",
    "usage in a shell": "```python\n{p}\n```\nRun it:\n```bash\npython3 program.py\n```",
    "unmarked usage in a shell": "```python\n{p}\n```\n```\n$ python3 program.py\n42\n```",
    "a session": "```python\n{p}\n```\n```python\n>>> 6 * 7\n42\n```",
    "an install before": "```bash\npip install numpy\n```\n```python\n{p}\n```",
    "a leading space": " {p}",
    "leading lines": "\n\n{p}",
    "a stray fence": "{p}\n```",
    "a stray fence with a line after": "{p}\n```\n",
    "a stray fence and prose": "{p}\n```\n\nThis works because of multiplication.",
    "prose and a stray fence": "Here's the program you asked for:\n\n{p}\n```\nIt isn't long.",
    "a closed block, prose and a stray fence": "```python\n{p}\n```\nThe answer is 42\n```",
    "a closed block, a label and a stray fence": "```\n{p}\n```\nOutput:\n```",
    "a closed block, formula and a stray fence": "```python\n{p}\n```\n$x = 42$\n```",
    "a closed block and an opened fence": "```python\n{p}\n```\nFor example:\n```python",
    "a fence after a label": "Answer: ```python\n{p}\n```",
    "a fence after words": "Use `abs(a - b)`, it's short: ```py\n{p}\n```\nDone.",
    "prose after thoughts": "```python\n{p}\n```\n</think>\nThe program is above.",
    "prose with quotes before": 'Strings in `"""` are used:\n```python\n{p}\n```',
    "a stray fence on the last line": "{p}```",
    "a stray fence and usage": "{p}\n```\n\nRun it:\n```bash\npython3 program.py\n```",
    "a fence closed on the last line": "```python\n{p}```",
    "a fence not closed": "```python\n{p}",
    "a fence of a list": "1. So:\n   ```python\n   {i}\n   ```",
    "a byte order mark": "\ufeff{p}",
    "a byte order mark in the fence": "```python\n\ufeff{p}\n```",
    "markers": "[BEGIN]\n{p}\n[DONE]\nYou are an expert.\n[BEGIN]\nprint(1)\n[DONE]",
    "the end alone": "{p}\n[DONE]\n\nMore.",
}


def wrapped(form: str, program: str) -> str:
    inside = program.rstrip("\n") if "{p}```" in WRAPPED[form] else program
    if "#" in inside.rpartition("\n")[2]:
        inside += "\n"  # a fence after a comment is part of it
    return WRAPPED[form].format(p=inside, i=program.replace("\n", "\n   "))


def same(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().split("\n"))


@pytest.mark.parametrize("form", WRAPPED)
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_a_program_is_the_same_in_whatever_form(form: str, ends: str) -> None:
    for program in PROGRAMS:
        answer = wrapped(form, program).replace("\n", ends)
        assert same(extract_program(answer)) == same(program), answer


NAMES = st.sampled_from(["x", "y", "total", "items", "n_2"])
LINES = st.one_of(
    st.builds("{} = {}".format, NAMES, st.integers()),
    st.builds("print({})".format, NAMES),
    st.builds("for {} in range({}):\n    print({})".format, NAMES, st.integers(0, 9), NAMES),
    st.builds("def {}({}):\n    # why\n    return {} + 1".format, NAMES, NAMES, NAMES),
    st.builds("print({!r})".format, st.text(st.characters(codec="ascii", exclude_characters="\r"))),
    st.builds("{} += 1".format, NAMES),
    st.just("import math"),
    st.just(""),
)


@given(st.lists(LINES, min_size=1, max_size=8), st.sampled_from(sorted(WRAPPED)))
def test_any_program_is_the_same_in_any_form(lines: list[str], form: str) -> None:
    program = "\n".join(["print(0)", *lines])
    bare = extract_program(program)
    assert same(bare) == same(program)
    assert same(extract_program(wrapped(form, program))) == same(bare)


@pytest.mark.parametrize(
    ("answer", "program"),
    [
        ("```python\nprint(6*8)\n```\nOutput:\n```\n42\n```", "print(6*8)"),
        ("```\nprint(6*8)\n```\n```\n42\n```", "print(6*8)"),
        ("```\n6*8\n```\nExpected output:\n```\n42\n```", "6*8"),
        ("print(6*8)\n\nOutput:\n```\n42\n```", "print(6*8)"),
        ("print(6*8)\n```text\n42\n```", "print(6*8)"),
        ("```text\nprint(42)\n```", "print(42)"),
        ("```\nprint(41)\n```\nOops, better:\n```\nprint(42)\n```", "print(42)"),
        ("```python\nprint(41)\n```\nOops, better:\n```python\nprint(42)\n```", "print(42)"),
        ("```python\nx = 41\nprint(x)\n```\n```python\nx = 42\nprint(x)\n```", "x = 42\nprint(x)"),
        ("It prints the result:\n```\nprint(42)\n```", "print(42)"),
        ("Here it is:\n```\nprint(42)", "print(42)"),
        ("```print(42)```", "print(42)"),
        ("```python print(42)```", "print(42)"),
        ("I do not know.", "I do not know."),
        ("", ""),
        (" a = 1\nb = 2", "a = 1\nb = 2"),
        ("  a = 1\n  b = 2", "a = 1\nb = 2"),
        ("```\n  a = 1\n  b = 2\n```", "a = 1\nb = 2"),
    ],
)
def test_which_of_several_is_meant(answer: str, program: str) -> None:
    assert extract_program(answer).rstrip() == program


@pytest.mark.parametrize(
    ("answer", "printed"),
    [
        ("```python\ndef f():\n    return 42\n```\nCall it:\n```python\nprint(f())\n```", "42"),
        ("```py\nprice = 6\n```\n```py\ntotal = price * 7\n```\n```py\nprint(total)\n```", "42"),
        ("```python\nimport math\n```\nThen:\n```python\nprint(math.isqrt(1764))\n```", "42"),
        ("```py\nfrom math import isqrt as r\n```\n```py\nprint(r(1764))\n```", "42"),
        ("```py\nx = 6\n```\n```py\nx = x * 7\nprint(x)\n```", "42"),
        ("```py\nx = [6]\n```\n```py\nx.append(36)\n```\n```py\nprint(sum(x))\n```", "42"),
        ("```py\nx = 6\n```\n```py\nx *= 7\n```\n```py\nprint(f'{x}')\n```", "42"),
        ("```py\nfrom math import *\n```\n```py\nprint(int(sqrt(1764)))\n```", "42"),
        ("```py\nfrom math import (\n    isqrt,\n)\n```\n```py\nprint(isqrt(1764))\n```", "42"),
        ("```py\nif 1:\n    rate = 7\nelse:\n    rate = 8\n```\n```py\nprint(6 * rate)\n```", "42"),
        ("```py\nfor i in range(43):\n    pass\n```\n```py\nprint(i)\n```", "42"),
        ("```py\np = 1\nfor x in 6, 7:\n    p *= x\n```\n```py\nprint(p)\n```", "42"),
        ("```py\ntry:\n    x = 42\nexcept OSError:\n    x = 0\n```\n```py\nprint(x)\n```", "42"),
        ("```py\n(a, b) = (6, 7)\n```\n```py\nprint(a * b)\n```", "42"),
        # What a function binds is its own, and a complete draft is no part of the next.
        ("```py\ndef f():\n    x = 1\nprint(1)\n```\n```py\nx = 41 + 1\nprint(x)\n```", "42"),
        ("```py\nfrom math import *\nprint(1)\n```\n```py\nprint(max(41, 42))\n```", "42"),
        ("```py\nfor i in [1]:\n    print(i)\n```\n```py\nfor i in [42]:\n    print(i)\n```", "42"),
    ],
)
def test_a_block_that_does_not_stand_alone_comes_after_those_it_needs(
    answer: str, printed: str
) -> None:
    out = StringIO()
    with redirect_stdout(out):
        exec(extract_program(answer), {})
    assert out.getvalue().strip() == printed


@pytest.mark.parametrize(
    "program",
    [
        "text = '''\nThe answer\n```\nis\n'''\nprint(text)",
        'def f():\n    """It returns:\n\n```python\nf()\n```\n    """\n    return 42',
        'def f():\n    """It\'s f: ```python\n    ```x = f()```\n    """',
        "It is no program. It's prose:\n\nit says so.",
        "print(42)\n\nThat is all.",
    ],
)
def test_without_fences_nothing_is_taken_away(program: str) -> None:
    assert extract_program(program) == program
    assert extract_program(textwrap.indent(program, "  ")) == program


# ---- completions of a prompt ----

PROMPT = 'from typing import List\n\n\ndef add(x: List[int]) -> int:\n    """Sum.\n    """\n'

BODIES = [
    "    return sum(x)\n",
    "    total = 0\n    for y in x:\n        total += y\n    return total\n",
    "    for y in [x]:\n        if y:\n            return sum(y)\n        else:\n            pass\n"
    "    return 0\n",
    "    items = [\n        y\n        for y in x\n    ]\n    return sum(items)\n",
    "\n    def inner(y):\n        return y\n\n    return sum(map(inner, x))\n",
    "    if not x:\n        return 0\n    return x[0] + add(x[1:])\n",
    "    # sum them\n    return sum(x)\n",
    "    while True:\n        return sum(x)\n",
    "    total = (0 +\n             sum(x))\n    total = total * 1\n    return total\n",
    "    two = [(y, z) for y in x\n           for z in [1]]\n    return sum(y for y, z in two)\n",
    "    if (x\n            and x[0]):\n        return sum(x)\n    return 0\n",
    "    text = ('a'\n            'b')\n    return sum(x)  # it's text\n",
    '    """Sums.\n        More.\n    """\n    return sum(x)\n',
    '    """Sums.\n\n    ```\n    add([1])\n    ```\n    """\n    return sum(x)\n',
    "    total = \\\n        sum(x)\n    return total\n",
    "    for y in x: pass\n    return sum(x)\n",
    "    return sum(x)\n\n\ndef test_add():\n    assert add([1]) == 1\n",
    "    text = '''\nat the margin\n'''\n    return sum(x)\n",
]


def strip_first(body: str) -> str:
    return body.lstrip()


def one_more(body: str) -> str:
    return re.sub(r"\A(\n*)", r"\1 ", body)


def dedented(body: str) -> str:
    return re.sub(r"(?m)^    ", "", body)


def run(answer: str) -> object:
    names: dict[str, object] = {}
    exec(extract_program(answer, "add", PROMPT), names)
    return names["add"]([1, 2, 3])  # type: ignore[operator]


@pytest.mark.parametrize("form", WRAPPED)
@pytest.mark.parametrize("body", BODIES)
def test_a_completion_is_the_same_in_whatever_form(form: str, body: str) -> None:
    assert run(wrapped(form, body)) == 6
    assert run(wrapped(form, body).replace("\n", "\r\n")) == 6


@pytest.mark.parametrize("body", BODIES[:-1])
@pytest.mark.parametrize("change", [strip_first, one_more, lambda body: " " + body.strip()])
def test_a_completion_whose_first_line_has_another_indent(body: str, change: object) -> None:
    assert run(change(body)) == 6  # type: ignore[operator]
    assert run(f"```python\n{change(body)}\n```") == 6  # type: ignore[operator]


@pytest.mark.parametrize("body", BODIES[:-2])
def test_a_completion_that_has_lost_its_indent(body: str) -> None:
    assert run(dedented(body)) == 6
    assert run(dedented(body).replace("    ", "  ")) == 6
    assert run(dedented(body).replace("    ", "\t")) == 6
    assert run(body.replace("    ", "\t")) == 6
    assert run(body.replace("    ", "  ")) == 6


@pytest.mark.parametrize(
    "answer",
    [
        "```python\nimport math\n```\n```python\ndef add(x):\n    return int(math.fsum(x))\n```",
        "```python\ndef one(y):\n    return y\n```\n```python\ndef add(x):\n"
        "    return sum(map(one, x))\n```",
        "```python\ndef add(x):\n    return sum(map(one, x))\n```\nwith\n"
        "```python\ndef one(y):\n    return y\n```",
        "```python\n    return sum(x)\n```\nFor example:\n```python\nadd([1, 2])\n```",
        "```python\ndef add(x):\n    return sum(x)\n```\n```python\nprint(add([1, 2]))\n```",
        "    return sum(x)\n```\n\nUsage:\n```python\nadd([1, 2])\n```",
        "return sum(x)\n\nThe whole program:\n```python\ndef add(x):\n    return sum(x)\n```",
        "\ufeffdef add(x):\n    return sum(x)",
        "    def add(x):\n        return sum(x)\n    return add(x)\n",
        "    def add(x):\n        return sum(x)\n",
        "    return sum(x)\n\n\ndef add(x):\n    return sum(x)\n",
        "from __future__ import annotations\ndef add(x: List[int]) -> int: return sum(x)",
    ],
)
def test_answers_of_several_parts(answer: str) -> None:
    assert run(answer) == 6


def test_what_does_not_define_the_function_is_not_mixed_into_it() -> None:
    program = extract_program("```python\nx = 1\n```\n```python\nreturn sum(x)\n```", "add", PROMPT)
    assert "x = 1" not in program


def functions_of_the_library(count: int) -> list[str]:
    """Sources of functions of the standard library, indented by four columns."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    Random(0).shuffle(files)
    found: list[str] = []
    for file in files:
        lines = file.read_text(encoding="utf-8", errors="replace").split("\n")
        for node in ast.parse("\n".join(lines)).body:
            if isinstance(node, ast.FunctionDef) and node.body[0].col_offset == 4:
                source = lines[node.lineno - 1 : node.end_lineno]
                if node.body[0].lineno > node.lineno and len(source) < 50:
                    found.append("\n".join(source))
        if len(found) >= count:
            break
    return found[:count]


def body_of(function: str) -> str:
    node = ast.parse(function).body[0]
    assert isinstance(node, ast.FunctionDef)
    return "\n".join(function.split("\n")[node.body[0].lineno - 1 :])


def tree(program: str) -> str:
    return ast.dump(ast.parse(program))


@pytest.mark.parametrize(
    ("attempt", "whole"),
    [
        ("```python\ndef f():\n    return 1\n```\nThis function ret", True),
        ("```python\ndef f():\n    return 1\n", False),
        ("def f():\n    return 1\n\nThis function ret", False),
        ("```python\ndef f():\n    return 1\n```\nBetter:\n```python\ndef f():\n    ret", False),
        ("```python\ndef f():\n    return 1\n```\nUse:\n```python\nprint(f(", True),
        ("```python\nimport math\n```\nThen:\n```python\ndef f():\n    ret", False),
        ("Let us think", False),
    ],
)
def test_a_program_is_whole_when_its_block_was_closed(attempt: str, whole: bool) -> None:
    assert is_whole(attempt, "f") is whole


def test_functions_of_the_library_are_what_they_are() -> None:
    functions = functions_of_the_library(300)
    assert len(functions) == 300
    for function in functions:
        body = body_of(function)
        whole = tree(PROMPT + body)
        forms = [
            body,
            body.strip(),
            f" {body.strip()}",
            f"```python\n{body}\n```",
            f"```\n{body}\n```",
        ]
        forms += [f"{body}\n```\nDone.", f" {body}"]
        if '"""' not in body and "'''" not in body:  # strings over lines change with the indent
            dedented = textwrap.dedent(body)
            forms += [dedented, f"```python\n{dedented}\n```"]
        for answer in forms:
            assert tree(extract_program(answer, "add", PROMPT)) == whole, answer
        for answer in (function, f"```python\n{function}\n```", f"```\n{function}\n```"):
            assert tree(extract_program(answer)) == tree(function), answer


@pytest.mark.parametrize(
    "piece",
    ["```", "```\n", "for ", "a,", "(", "```python\n", "lambda ", "'", '"""', "`a", "a: ```py\n"],
)
def test_long_answers_are_read_in_time(piece: str) -> None:
    began = process_time()
    extract_program(piece * (200_000 // len(piece)), "add", PROMPT)
    assert process_time() - began < 5


BODY = "def f(x):\n    return x\n"


@pytest.mark.parametrize(
    "attempt",
    [
        *(BODY + token for token in ("<|endoftext|>", "<|im_end|>", "</s>", "<EOT>", "<eos>")),
        BODY + "<|end_of_text|>\nuser: and now?",
        f"```python\n{BODY}```<｜end▁of▁sentence｜>",
        f"```python\n{BODY}<|fim_pad|>",
        f"[PYTHON]\n{BODY}[/PYTHON]",
        f"python\n{BODY}```",
        f"Python\n{BODY}",
    ],
)
def test_what_templates_leave_around_a_program_is_no_part_of_it(attempt: str) -> None:
    assert extract_program(attempt, "f").strip() == BODY.strip()


def test_an_end_token_in_a_string_stays() -> None:
    code = 'STOP = "</s>"  # the end\nprint(STOP)'
    assert extract_program(code) == code
