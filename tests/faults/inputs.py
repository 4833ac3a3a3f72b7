"""Fuzzed inputs over everything that reads what somebody else wrote.

    .venv/bin/python tests/faults/inputs.py --inputs 100000 --out runs/faults

Each reader gets valid texts that were mutated (cut, repeated, spliced, with bytes flipped), and
texts of up to a million characters; of JSON also values are replaced. It may refuse with a
`UserError`; anything else, and more than 2 GiB of memory, is a traceback. One that takes more than
2 seconds of processor time is killed and counted as a hang. Results go to `inputs.jsonl`, a line
for each batch, as they come; a batch that is there already is not tried again.
"""

import argparse
import contextlib
import copy
import json
import mmap
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from readers import Readers

from redraft.cli.terminal import hush_libraries
from redraft.errors import UserError

HANG_S = 2.0
BATCH = 200
BIG = 20
"""One input in so many is up to a million characters."""
MEMORY = 2**31
"""Bytes that a reader may take; one that takes more has an error, which counts as a traceback."""


def mutated(rng: random.Random, seeds: list[bytes], big: bool) -> bytes:
    """The first of the inputs, changed, with pieces of the others; `big`: up to a million bytes."""
    text = seeds[0]
    if rng.random() < 0.5:
        text = with_another_value(rng, text)
    for _ in range(rng.randrange(0 if text != seeds[0] else 1, 5)):
        at = rng.randrange(len(text) + 1)
        end = min(len(text), at + rng.choice([1, 2, 5, 20]))
        match rng.randrange(7):
            case 0:
                text = text[:at]
            case 1:
                text = text[:at] + text[end:]
            case 2:
                text = text[:at] + text[at:end] * rng.choice([2, 10, 100]) + text[end:]
            case 3:
                text = text[:at] + bytes(rng.randrange(256) for _ in range(3)) + text[end:]
            case 4:
                text = text[:at] + rng.choice(PIECES) + text[end:]
            case 5:
                other = rng.choice(seeds)
                text = text[:at] + other[rng.randrange(len(other)) :]
            case 6:
                text = text[:at] + rng.choice(PIECES) * rng.choice([1, 30, 1000]) + text[end:]
        text = text[: 10**6] or b"x"
    if big:
        at = rng.randrange(len(text))
        piece = rng.choice([text[at : at + rng.randrange(1, 30)], text, rng.choice(PIECES)])
        times = 10 ** rng.randrange(3, 7) // len(piece)
        text = (text[:at] + piece * times + text[at:])[: 10**6]
    return text


def with_another_value(rng: random.Random, text: bytes) -> bytes:
    """JSON with one or two of its values, at any depth, replaced or left out; other texts as they
    are."""
    try:
        content = json.loads(text)
    except ValueError:
        return text
    for _ in range(rng.randrange(1, 3)):
        at, names = content, list[str | int]()
        while isinstance(at, dict | list) and at and (at is content or rng.random() < 0.7):
            names.append(rng.choice(list(at) if isinstance(at, dict) else range(len(at))))
            inside, at = at, at[names[-1]]
        if not names:
            continue
        if rng.random() < 0.2:
            del inside[names[-1]]
        else:
            inside[names[-1]] = copy.deepcopy(rng.choice(VALUES))
    return json.dumps(content).encode()


VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 3, 0.5, -0.0, 1e-300, 1e300, 2**31, 2**63, 10**30, float("nan"),
    float("inf"), "", "x", "../x", "\0", "\ud800", "1", "-1", "None", "auto", "[", "http://a/v1#m",
    [], [None], [1, -1], ["x"], [[]], {}, {"x": 1}, {"type": "x"}, {"": {}}, [1] * 5000,
    "a" * 10_000,
]  # fmt: skip

PIECES = [
    *(one.encode() for one in "[{(\"'$\\#&*!%<>|:;,.-+^_=~?@/ \n\t\r"),
    b"&a [1]", b"*a", b"!!set {x}", b"!!binary aGk=", b"0x1F", b"1:59:59", b".inf", b"? [a]",
    b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b"\x1b[2J", b"\xe2\x80\xa8", b"1e999", b"-0", b"NaN",
    b"9" * 400, b"!!int x", b"!!bool z", b"2026-13-45", b"\\frac{", b"\\left(", b"{{", b"}}", b"{%",
    b"{{ 'x' * 99999999999 }}", b"{{ 1/0 }}", b"{% for a in range(99999) %}", b"{% endfor %}",
    b"```", b"\\boxed{", b"null", b'{"a":', b"]]>", b"\xf0\x9f\x99\x82", b"\\u0000", b"\\ud800",
]  # fmt: skip


def batch(readers: Readers, reader: str, number: int) -> dict[str, object]:
    """Try the inputs of a batch in forks of this process, another one after each hang."""
    under_way = mmap.mmap(-1, 8)
    found_file = readers.folder / "found"
    found_file.write_text("[]")
    hangs: list[int] = []
    first, began = 0, time.monotonic()
    while first < BATCH:
        child = os.fork()
        if not child:
            try:
                _try(readers, reader, number, range(first, BATCH), found_file, under_way)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status == 0:
            break
        at = int.from_bytes(under_way[:], "little")
        if status == -signal.SIGPROF:
            hangs.append(at)
        else:
            _add(found_file, f"{at}: its process ended with {status}")
        first = at + 1
    return {
        "reader": reader,
        "number": number,
        "inputs": BATCH,
        "tracebacks": json.loads(found_file.read_text()),
        "hangs": hangs,
        "seconds": round(time.monotonic() - began, 1),
    }


def _try(
    readers: Readers, reader: str, number: int, inputs: range, found: Path, under_way: mmap.mmap
) -> None:
    every = readers.all()[reader]
    for seed, read in every:
        with contextlib.suppress(UserError):
            read(seed)  # starts what is started late
    most = MEMORY + int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    for index in inputs:
        under_way[:] = index.to_bytes(8, "little")
        rng = random.Random(f"{reader}-{number}-{index}")
        seed, read = rng.choice(every)
        content = mutated(rng, [seed, *(other for other, _ in every)], big=index % BIG == 0)
        signal.setitimer(signal.ITIMER_PROF, HANG_S)
        try:
            read(content)
        except UserError:
            pass
        except Exception:
            signal.setitimer(signal.ITIMER_PROF, 0)
            _add(found, f"{index}: {traceback.format_exc(limit=-4)}")
        signal.setitimer(signal.ITIMER_PROF, 0)


def _add(file: Path, line: str) -> None:
    file.write_text(json.dumps([*json.loads(file.read_text()), line]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=100_000, help="over all readers")
    parser.add_argument("--out", type=Path, default=Path("runs/faults"))
    parser.add_argument("--only", nargs="*", help="names of readers")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    hush_libraries()
    arguments.out.mkdir(parents=True, exist_ok=True)
    results, began = arguments.out / "inputs.jsonl", time.monotonic()
    lines = results.read_text().splitlines() if results.exists() else []
    done = {(line["reader"], line["number"]) for line in map(json.loads, lines)}
    with tempfile.TemporaryDirectory(prefix="redraft-inputs-") as folder:
        readers = Readers(Path(folder))
        names = arguments.only or list(readers.all())
        for number in range(-(-arguments.inputs // (BATCH * len(names)))):
            for name in names:
                if (name, number) in done:
                    continue
                if time.monotonic() - began > arguments.seconds:
                    return
                result = batch(readers, name, number)
                with results.open("a") as file:
                    file.write(json.dumps(result) + "\n")
                print(json.dumps(result)[:400], flush=True)


if __name__ == "__main__":
    main()
